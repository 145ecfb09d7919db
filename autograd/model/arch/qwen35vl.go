package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// qwen35VL is a larger model that sees images, too, around a Qwen3.5: the form in
// which it is published. A GGUF holds the part that reads text alone, and is read
// as one.
var qwen35VL = seeing(&qwen35, "qwen3_5", "Qwen3_5ForConditionalGeneration")

// qwen35moeVL is the same around one with experts.
var qwen35moeVL = seeing(&qwen35moe, "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration")

// seeing is a model of which half reads text.
func seeing(half *Arch, name, class string) Arch {
	return Arch{
		Name: name, HF: []string{class}, GGUF: half.GGUF, PartRotates: half.PartRotates,
		IsGGUF: func(*Metadata) bool { return false },
		Spec: func(c *Config) (Spec, error) {
			s, err := half.Spec(c.text())
			s.Arch = name
			return s, cmp.Or(err, c.err)
		},
		GGUFSpec: half.GGUFSpec,
		Rules:    func(s *Spec) []Rule { return qwenHybridRules(s, wrappedNames) },
		KV:       func(s *Spec) []formats.KV { return half.KV(s) },
		NoGGUF:   half.NoGGUF,
		Config:   half.Config,
		Carried:  []string{"model.visual."},
		Drops:    half.Drops,
	}
}
