package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
)

// qwen2VL is a larger model that sees images, too, around a Qwen2. Its rotary
// angles come from three positions, which are the same one in text. A GGUF holds
// the part that reads text alone; a folder written from one is a Qwen2.
var qwen2VL = Arch{
	Name: "qwen2_vl", HF: []string{"Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"}, GGUF: "qwen2vl",
	Spec: func(c *Config) (Spec, error) {
		t := c.text()
		t.assume(map[string]string{"max_position_embeddings": "32768", "num_key_value_heads": "8", "rms_norm_eps": "1e-5", "default_theta": "1e6"})
		t.assume(map[string]string{"max_window_layers": "80"})
		s, err := rotatedSpec(t, "qwen2_vl", t.sectionRope, func(a *Attention, _ *MLP) { a.Bias = true })
		s.qwenWindows(t, fromNth)
		return s, cmp.Or(err, t.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "qwen2_vl"
		if list, ok := m.kv["qwen2vl.rope.dimension_sections"].([]int32); ok && len(list) >= 3 && len(s.Ropes) > 0 {
			s.Ropes[0].Sections = []int{int(list[0]), int(list[1]), int(list[2])}
		}
		return s, err
	},
	Rules: func(s *Spec) []Rule {
		list := namedRules(s, false, wrappedNames(usualNames))
		rename(list, "model.language_model.", "model.")
		return list
	},
	KV: func(s *Spec) []formats.KV {
		sections := make([]int32, 4) // of time, height, width, and none
		for i, n := range s.rope().Sections {
			sections[i] = int32(n)
		}
		return append(decoderKV(s, "qwen2vl"), formats.KV{Key: "qwen2vl.rope.dimension_sections", Value: sections})
	},
	Config:  qwen2.Config,
	Carried: []string{"visual."},
}

// sectionRope reads the table of angles; mrope is what it is called for images,
// and plain rotation for text.
func (c *Config) sectionRope(d, maxPos int) []RopeSpec {
	r := c.Rope(d, maxPos)
	if rule := c.ropeRule(); rule != nil {
		r.Sections, _ = get[[]int](rule, "mrope_section")
		c.err = cmp.Or(c.err, rule.err)
	}
	if r.Type == "mrope" {
		r.Type = ""
	}
	sum := 0
	for _, n := range r.Sections {
		sum += n
	}
	if len(r.Sections) != 3 || sum != r.Dim/2 {
		c.fail("rope_scaling", "mrope_section is %v, want three numbers that make %d", r.Sections, r.Dim/2)
	}
	return []RopeSpec{r}
}
