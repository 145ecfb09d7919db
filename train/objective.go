package train

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/tunekit/tunekit/data"
)

// Objective is what a training minimizes: a loss that is a mean over units
// (supervised tokens, or pairs of answers) and depends on the log-probabilities
// of a batch's targets alone. It keeps no state.
type Objective interface {
	// Reads says which log-probabilities Weigh and Score look at.
	Reads() Reads
	// Unit names one of what the loss is a mean over: unitToken, "pair".
	Unit() string
	// Count is the number of units in b.
	Count(b *data.Batch) int64
	// Weigh returns how much each token's -log p counts in the gradient of a
	// step's loss [N]: the loss of a step of total units, derived by -log p of
	// the token; 0 where b has no target.
	Weigh(b *data.Batch, p LogProbs, total int64) []float32
	// Score adds up the loss over b's units, and what else is worth a curve.
	Score(b *data.Batch, p LogProbs) Score
}

// unitToken is the unit of losses whose exponential is a perplexity.
const unitToken = "supervised token"

// Reads is what an objective needs to know before it can weigh tokens. Each
// value includes those before it; less is faster.
type Reads int

const (
	// ReadsTargets: weights follow from the targets; the loss and its gradient
	// are then one pass over the head. Weigh gets no log-probabilities.
	ReadsTargets Reads = iota
	// ReadsPolicy: Weigh needs the log-probabilities of the model in training,
	// so that the head's work is done twice.
	ReadsPolicy
	// ReadsReference: also those of the model without its adapter, from a pass
	// of their own.
	ReadsReference
)

// LogProbs are log-probabilities of a batch's targets [N], 0 where a token has
// none. Reference is nil unless the objective reads it.
type LogProbs struct{ Policy, Reference []float32 }

// Score is a loss and an objective's own values, as sums over units.
type Score struct {
	Loss   float64
	Values Values
}

// Value is a named number.
type Value struct {
	Name string
	V    float64
}

// Values are named numbers in an order: an object in JSON.
type Values []Value

// objectives lists what `objective` can be.
var objectives = map[string]func(c Config) Objective{
	"sft": newSFT,
}

// add adds o, a score of the same objective, to s; the zero Score takes o's
// names.
func (s *Score) add(o Score) {
	s.Loss += o.Loss
	if s.Values == nil {
		s.Values = append(s.Values, o.Values...)
		return
	}
	for i := range o.Values {
		s.Values[i].V += o.Values[i].V
	}
}

// mean is s over total units.
func (s Score) mean(total int64) Score {
	out := Score{Loss: s.Loss / float64(total)}
	for _, v := range s.Values {
		out.Values = append(out.Values, Value{v.Name, v.V / float64(total)})
	}
	return out
}

// MarshalJSON writes an object whose keys keep their order.
func (v Values) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range v {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(x.Name)
		if err != nil {
			return nil, err
		}
		number, err := json.Marshal(x.V)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.Name, err)
		}
		fmt.Fprintf(&b, "%s:%s", name, number)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object of numbers, in the order of its keys.
func (v *Values) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("an object of numbers is needed, found %s", text)
	}
	*v = nil
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		x := Value{Name: name.(string)} // a key is always text
		if err := d.Decode(&x.V); err != nil {
			return fmt.Errorf("%s: %w", x.Name, err)
		}
		*v = append(*v, x)
	}
	return nil
}
