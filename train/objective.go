package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// Objective is what a training minimizes: a loss that is a mean over units
// (supervised tokens, or pairs of answers) and depends on the log-probabilities
// of a batch's targets alone. It keeps no state.
type Objective interface {
	// Reads says which log-probabilities Weigh and Score look at.
	Reads() Reads
	// Samples is how many samples learn together: 1, or 2 for pairs, the chosen
	// answer first. A batch holds their groups one after another.
	Samples() int
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
type LogProbs struct {
	Policy, Reference []float32

	Entropy []float32 // [N] of the distributions the targets are of; nil unless the objective is entropic
	Answers *Answers  // where the samples are the model's own answers
}

// Answers is what is known of the samples of a batch that the model in training
// wrote itself.
type Answers struct {
	Advantage []float64 // [S] over the other answers to the prompt
	Old       []float32 // [N] log-probabilities when it wrote them; nil: as they are now
	Sampler   []float32 // [N] as they were rounded then; nil: no correction
}

// entropic is an objective that looks at how undecided the model is.
type entropic interface {
	Objective
	// EntropyWeights is how much the entropy of each token's distribution counts in
	// the loss of a step of total units [N]; nil: it is only looked at.
	EntropyWeights(b *data.Batch, total int64) []float32
}

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

// objectives lists what `objective` can be: what makes it, the learning rate
// of adapters where it is not the usual one, and the keys of Config that it has
// and others have not, with their defaults.
var objectives = map[ObjectiveName]struct {
	make    func(c Config) Objective
	rate    float64
	options map[string]float64
	asks    bool // the model learns from its own answers
}{
	"sft":  {make: newSFT},
	"dpo":  {make: newDPO, rate: 1e-5, options: map[string]float64{"beta": 0.1}},
	"grpo": {make: newGRPO, rate: 1e-5, options: map[string]float64{"beta": 0}, asks: true},
}

// ObjectiveName is an objective of the table.
type ObjectiveName string

// Enum lists the objectives.
func (ObjectiveName) Enum() []string { return names(objectives) }

// objectiveOptions are the keys of c that only some objectives have.
func (c *Config) objectiveOptions() map[string]**float64 {
	return map[string]**float64{"beta": &c.Beta}
}

// fillOptions gives the options of c's objective their defaults.
func (c *Config) fillOptions() {
	for key, p := range c.objectiveOptions() {
		if v, ok := objectives[c.Objective].options[key]; ok {
			defp(p, v)
		}
	}
}

// checkObjective refuses what an objective cannot go with.
func (c Config) checkObjective() error {
	kind := objectives[c.Objective]
	options := c.objectiveOptions()
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if _, ok := kind.options[key]; ok || *options[key] == nil {
			continue
		}
		var have []string
		for name, other := range objectives {
			if _, ok := other.options[key]; ok {
				have = append(have, string(name))
			}
		}
		slices.Sort(have)
		return fail.Usagef("train."+key, "leave it out", "%s belongs to objective: %s, not %s", key, strings.Join(have, ", "), c.Objective)
	}
	if key := c.GRPO.given(); key != "" && c.Objective != "grpo" {
		return fail.Usagef("train."+key, "leave it out", "%s belongs to objective: grpo, not %s", key, c.Objective)
	}
	if c.Objective == "grpo" {
		if err := c.GRPO.check(c.MicroBatchSize, c.GradientAccumulationSteps); err != nil {
			return err
		}
	}
	if c.Adapter == "none" && kind.make(c).Reads() >= ReadsReference {
		return fail.Usagef("train.adapter", "use adapter: lora or qlora", "objective: %s compares with the model without its adapter; adapter: none leaves nothing to compare with", c.Objective)
	}
	return nil
}

// Asks tells whether c's objective learns from the model's own answers to rows
// that are prompts alone.
func (c Config) Asks() bool { return objectives[c.Objective].asks }

// Samples is how many samples of a data set c's objective learns from together.
func (c Config) Samples() int { return objectives[c.Objective].make(c).Samples() }

// CheckSamples holds a data set to c's objective: its samples stand alone or in
// groups, as the objective learns from them.
func (c Config) CheckSamples(ex data.Examples) error {
	want, name := c.Samples(), c.Objective
	asks, err := ex.Asks()
	switch {
	case err != nil || ex.Len() == 0:
		return err
	case asks && !c.Asks():
		return fail.Usagef("train.objective", "objective: grpo answers them; type: prompt_completion or instruct reads prompts with answers", "objective: %s learns from answers, and the rows are prompts alone", name)
	case !asks && c.Asks():
		return fail.Usagef("train.data", "datasets: [{path: …, type: prompt}] keeps the columns that rewards look at", "objective: %s answers prompts itself: it needs rows of type prompt", name)
	}
	for lo := 0; lo < ex.Len(); {
		_, group := ex.Size(lo)
		hi := lo + 1
		for ; group != 0 && hi < ex.Len(); hi++ {
			if _, g := ex.Size(hi); g != group {
				break
			}
		}
		if hi-lo == want {
			lo = hi
			continue
		}
		e, err := ex.At(lo)
		if err != nil {
			return err
		}
		if want == 1 {
			return fail.Usagef("train.objective", "an objective of preferences learns from both; type: prompt_completion with columns: {completion: chosen} makes the chosen answers a data set of their own",
				"objective: %s would learn the rejected answers too: %s is one of %d answers to a prompt", name, e.From, hi-lo)
		}
		return fail.Usagef("train.objective", "ingest rows of type preference: columns chosen and rejected, and prompt", "objective: %s learns from %d answers to a prompt, and %s is %d", name, want, e.From, hi-lo)
	}
	return nil
}

// checkReference refuses adapters that change the model beneath them: what
// they were trained from is then not the model without its adapter.
func (r *run) checkReference() error {
	if r.objective.Reads() < ReadsReference {
		return nil
	}
	for _, p := range r.Adapter.Params() {
		if p.Group == "whole" || p.Group == "bias" {
			return fail.Usagef("train.lora", "leave out modules_to_save and bias", "objective: %s compares with the model without its adapter, but %s is trained in its place", r.Config.Objective, p.Name)
		}
	}
	return nil
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
