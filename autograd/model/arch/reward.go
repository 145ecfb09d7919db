package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// A reward model has a head of one row, called score, whose product with the last
// token's hidden state is what a text is worth. Transformers has it as
// sequence classification with one label.
const (
	rewardClass = "ForSequenceClassification"
	rewardHead  = "score.weight"
)

// wordClasses are the ends of names of classes that predict words.
var wordClasses = []string{"ForCausalLM", "LMHeadModel"}

// wordClass is the class that predicts words beside one of sequence classification, and
// whether name is one.
func wordClass(name string) (string, bool) {
	base, ok := strings.CutSuffix(name, rewardClass)
	if !ok {
		return name, false
	}
	return cmp.Or(withHead(base), name), true
}

// withHead is the class that predicts words of a family whose classes begin with base; ""
// where there is none.
func withHead(base string) string {
	for _, end := range wordClasses {
		if byHF(base+end, "") != nil {
			return base + end
		}
	}
	return ""
}

// bareClass is the class that predicts words beside one of an architecture without a
// head, as AutoModel saves it, of the same model_type; "" where name is none.
func bareClass(name, modelType string) string {
	base, ok := strings.CutSuffix(name, "Model")
	class := withHead(strings.TrimSuffix(base, "Text"))
	if a := byHF(class, ""); !ok || a == nil || a.Name != modelType {
		return ""
	}
	return class
}

// checkLabels refuses classification into more than one class.
func checkLabels(c *Config) error {
	n := 2 // Transformers' default
	if labels, ok := get[map[string]json.RawMessage](c, "id2label"); ok {
		n = len(labels)
	} else if v, ok := get[int](c, "num_labels"); ok {
		n = v
	}
	if n != 1 {
		return fmt.Errorf("config.json: a classifier with %d labels %w; a reward model has one", n, ErrUnknown)
	}
	return nil
}

// rulesOf lists the tensors of a model of this shape.
func (a *Arch) rulesOf(s *Spec) []Rule {
	list := a.Rules(s)
	if s.Whole != (Whole{}) {
		s.Whole.in(list)
	}
	if !s.Reward {
		return list
	}
	cols := s.C
	list = slices.DeleteFunc(list, func(r Rule) bool {
		if r.Role == Head && !r.Bias {
			cols = r.Cols
		}
		return r.Role == Head
	})
	return append(list, Rule{Role: Head, Layer: -1, Name: rewardHead, Rows: 1, Cols: cols, HF: []Piece{{Name: rewardHead}}})
}

// Reward makes s a reward model with the values of draw(n), n being the width of
// its head; on one it does nothing. The words' head is left out.
func (s *Source) Reward(draw func(n int) []float32) error {
	if s.Spec.Reward {
		return nil
	}
	if _, err := s.rewardName(); err != nil {
		return err
	}
	s.Spec.Reward, s.Spec.Tied, s.Spec.HeadBias = true, false, false
	s.tensors = slices.DeleteFunc(s.tensors, func(t *Tensor) bool {
		if t.Role == Head {
			delete(s.at, place{t.Layer, t.Role, t.Bias})
			delete(s.named, t.Name)
		}
		return t.Role == Head
	})
	s.rules = s.arch.rulesOf(&s.Spec)
	r := &s.rules[len(s.rules)-1]
	r.Values = draw(r.Cols)
	s.add(&Tensor{Rule: r, Type: dtype.Of(dtype.F32)})
	return nil
}

// rewardName is the class of Transformers of a reward model of s's architecture.
func (s *Source) rewardName() (string, error) {
	for _, end := range wordClasses {
		if base, ok := strings.CutSuffix(strings.Join(s.arch.HF[:min(1, len(s.arch.HF))], ""), end); ok && !s.Spec.Half && s.Spec.Whole == (Whole{}) {
			return base + rewardClass, nil
		}
	}
	return "", fail.Usagef(s.Reader.Path(), "train the reward model on another one", "a reward model of architecture %s is not supported: Transformers has no class for it", s.arch.Name)
}

// SetPad says which token a reward model's texts are padded with, which is none that
// they end with; -1: there is no such token.
func (s *Source) SetPad(id int32) { s.pad = &id }

// rewardConfig is what config.json says of a reward model. Transformers finds the last
// token of a text as the last that does not pad, and without a padding token takes
// texts one at a time.
func (s *Source) rewardConfig() (map[string]any, error) {
	name, err := s.rewardName()
	if err != nil {
		return nil, err
	}
	set := map[string]any{"architectures": []string{name}, "id2label": map[string]string{"0": "LABEL_0"}, "label2id": map[string]int{"LABEL_0": 0}, "num_labels": nil}
	switch {
	case s.pad == nil: // as it was
	case *s.pad < 0:
		set["pad_token_id"] = nil
	default:
		set["pad_token_id"] = *s.pad
	}
	return set, nil
}
