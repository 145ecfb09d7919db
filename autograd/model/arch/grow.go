package arch

import (
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Grow gives s a vocabulary of v tokens: rows of embedding and head that a training
// added, with the mean of the others until somebody sets them. A model written from s
// has them. The tables are then in memory, in a plain type: their own, or F32.
func (s *Source) Grow(v int) error {
	old := s.Spec.V
	switch {
	case v == old:
		return nil
	case v < old:
		return fail.Usagef(s.Reader.Path(), "", "a vocabulary of %d cannot shrink to %d", old, v)
	case s.Spec.Part > 0 && s.Spec.PartRows == 0:
		return fail.Inputf(s.Reader.Path(), "resize it with Transformers", "tokens were added, and the table of the layers' own inputs has rows for %d", old)
	case s.Spec.EncoderEmbed:
		return fail.Inputf(s.Reader.Path(), "resize it with Transformers", "tokens were added, and its encoder and its decoder have an embedding of %d each", old)
	}
	if data := s.Reader.Config(); data != nil {
		c, err := parseConfig(data)
		if err != nil {
			return err
		}
		if c.text().raw["vocab_size"] == nil {
			return fail.Inputf(s.Reader.Path(), "resize it with Transformers", "config.json has no vocab_size of its own, and tokens were added")
		}
	}
	s.Spec.V, s.grown = v, true
	rules := s.arch.rulesOf(&s.Spec)
	for i := range rules {
		r := &rules[i]
		if r.Role != Embed && r.Role != Head {
			continue
		}
		t := s.at[place{r.Layer, r.Role, r.Bias}]
		if t == nil || r.Rows*r.Cols == t.Rows*t.Cols {
			continue
		}
		if r.Rows*r.Cols*old != t.Rows*t.Cols*v {
			return fail.Inputf(s.Reader.Path(), "resize it with Transformers", "%s is %d×%d: rows cannot be added", t.Name, t.Rows, t.Cols)
		}
		if s.Reader.Format() == InMemory { // of which there are shapes alone
			stored := *t.stored[0]
			t.Rule, t.pieces = r, s.pieces(r)
			stored.Shape = t.Shape()
			t.stored = []*formats.Tensor{&stored}
			continue
		}
		raw, _, err := s.Read(t)
		if err != nil {
			return err
		}
		cols := t.Rows * t.Cols / old
		values := make([]float32, v*cols)
		block.DecodeAll(values[:old*cols], raw)
		mean := make([]float64, cols)
		for j, x := range values[:old*cols] {
			mean[j%cols] += float64(x)
		}
		for j := old * cols; j < len(values); j++ {
			values[j] = float32(mean[j%cols] / float64(old))
		}
		s.Forget(t)
		r.Values = values
		if !isDense(t.Type) {
			t.Type = dtype.Of(dtype.F32)
		}
		t.Rule, t.pieces, t.stored = r, nil, nil
	}
	return nil
}
