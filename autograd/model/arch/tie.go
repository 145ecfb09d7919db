package arch

import (
	"bytes"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// readTie settles what the config and the file say about a tied head, as
// Transformers does: a head of other values than the embedding's is one of its
// own whatever the config says, and of two tied tables one may be there, under
// either name.
func (s *Source) readTie(files map[string]*formats.Tensor) error {
	if !s.Spec.Tied || s.Reader.Format() != "hf" {
		return nil
	}
	var embed, head *Rule
	for i := range s.rules {
		switch r := &s.rules[i]; {
		case r.Role == Embed && !r.Tied:
			embed = r
		case r.Role == Head && !r.Bias:
			head = r
		}
	}
	name := s.pieces(embed)[0].Name
	e, h := files[name], files[s.pieces(head)[0].Name]
	if e == nil {
		e = files[withoutHead(name)]
	}
	switch {
	case h == nil:
		return nil
	case e == nil:
		files[name] = h
		return nil
	}
	same, err := s.equal(e, h)
	if err != nil || same {
		return err
	}
	s.Spec.Tied, s.untied = false, true
	s.rules = s.arch.rulesOf(&s.Spec)
	return nil
}

// equal reports whether two stored matrices hold the same values. It reads to
// the first difference.
func (s *Source) equal(a, b *formats.Tensor) (bool, error) {
	if a.Rows() != b.Rows() || a.Cols() != b.Cols() || a.Unsupported != "" || b.Unsupported != "" {
		return false, nil
	}
	x, _, err := s.bytes(a)
	if err != nil {
		return false, err
	}
	y, _, err := s.bytes(b)
	if err != nil {
		return false, err
	}
	defer s.Forget(&Tensor{stored: []*formats.Tensor{a, b}})
	if a.Type == b.Type {
		return bytes.Equal(x, y), nil
	}
	for _, t := range []*formats.Tensor{a, b} {
		if !plainFloat(t.Type) && !t.Type.Quantized() {
			return false, nil
		}
	}
	p, q := block.Raw{Type: a.Type, Rows: a.Rows(), Cols: a.Cols(), Data: x}, block.Raw{Type: b.Type, Rows: b.Rows(), Cols: b.Cols(), Data: y}
	v, w := make([]float32, p.Cols), make([]float32, p.Cols)
	for r := range p.Rows {
		block.Decode(v, p, r, 0, p.Cols)
		block.Decode(w, q, r, 0, q.Cols)
		for i := range v {
			if v[i] != w[i] {
				return false, nil
			}
		}
	}
	return true, nil
}

// plainFloat reports whether t is one of the types that models are computed in.
func plainFloat(t dtype.Type) bool {
	return t == dtype.Of(dtype.F32) || t == dtype.Of(dtype.F16) || t == dtype.Of(dtype.BF16)
}

// headless is the error for a model without the head that its config asks for.
func (s *Source) headless(name string) error {
	if s.Reader.Format() == InMemory || s.Reader.Config() == nil {
		return fail.Inputf(s.Reader.Path(), "", "tensor %s is missing", name)
	}
	if s.bare != "" {
		return fail.Inputf(s.Reader.Path(), "save it from AutoModelForCausalLM; if its head is the embedding, set tie_word_embeddings: true in config.json",
			"tensor %s is missing: config.json says %s, a model without its head", name, s.bare)
	}
	return fail.Inputf(s.Reader.Path(), "if the head is the embedding, set tie_word_embeddings: true in config.json; else a part of the weights is missing",
		"tensor %s is missing, and config.json does not say tie_word_embeddings: true", name)
}
