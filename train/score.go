package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Score is a loss and an objective's own values, as sums: what of a step's
// loss and its curves one batch gives.
type Score struct {
	Loss   float64 // over units
	Tokens float64 // of the part of the loss that is a mean over LogProbs.Tokens
	// Values are worth a curve, in an order that is the same for every batch. Those
	// called min_… and max_… are the least and the greatest, all others sums.
	Values Values
	// Of is how many each of Values adds up; nil: the units. A value of none is left out.
	Of []float64

	entropy running      // of the tokens that rewards teach
	parts   []sourcePart // of Loss and Tokens, by source; nil where there is one
}

// Value is a named number.
type Value struct {
	Name string
	V    float64
}

// Values are named numbers in an order: an object in JSON.
type Values []Value

// Get returns the value of that name.
func (v Values) Get(name string) (float64, bool) {
	i := slices.IndexFunc(v, func(x Value) bool { return x.Name == name })
	if i < 0 {
		return 0, false
	}
	return v[i].V, true
}

// fold puts v and w of a value of that name together.
func fold(name string, v, w float64) float64 {
	switch {
	case strings.HasPrefix(name, "min_"):
		return min(v, w)
	case strings.HasPrefix(name, "max_"):
		return max(v, w)
	}
	return v + w
}

// extreme reports whether a value of that name is no sum.
func extreme(name string) bool {
	return strings.HasPrefix(name, "min_") || strings.HasPrefix(name, "max_")
}

// add adds o, a score of the same objective, to s; the zero Score takes o's
// names.
func (s *Score) add(o Score) {
	s.Loss += o.Loss
	s.Tokens += o.Tokens
	s.entropy.Sum, s.entropy.N = s.entropy.Sum+o.entropy.Sum, s.entropy.N+o.entropy.N
	s.parts = addParts(s.parts, o.parts)
	if s.Values == nil {
		s.Values, s.Of = slices.Clone(o.Values), slices.Clone(o.Of)
		return
	}
	for i := range o.Values {
		s.Values[i].V = fold(o.Values[i].Name, s.Values[i].V, o.Values[i].V)
	}
	for i := range o.Of {
		s.Of[i] += o.Of[i]
	}
}

// margins is a value that Score leaves at 0 where its answers stand alone: the
// mean of wanted ones less that of unwanted ones.
const margins = "rewards/margins"

// mean is s over total units, and a part of its loss over so many tokens.
func (s Score) mean(total, tokens int64) Score {
	out := Score{Loss: s.Loss / float64(total)}
	if s.Tokens != 0 {
		out.Loss += s.Tokens / float64(tokens)
	}
	for i, v := range s.Values {
		of := float64(total)
		if s.Of != nil {
			of = s.Of[i]
		}
		switch {
		case of == 0 || math.IsInf(v.V, 0) && extreme(v.Name):
			continue
		case !extreme(v.Name):
			v.V /= of
		}
		out.Values = append(out.Values, v)
	}
	if s.Of == nil {
		return out
	}
	chosen, some := out.Values.Get("rewards/chosen")
	rejected, both := out.Values.Get("rewards/rejected")
	if i := slices.IndexFunc(out.Values, func(v Value) bool { return v.Name == margins }); i >= 0 {
		out.Values[i].V = chosen - rejected
		if !some || !both {
			out.Values = slices.Delete(out.Values, i, i+1)
		}
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
