package arch

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// fake is a folder without weights.
type fake struct {
	formats.Reader
	config string
}

func (f fake) Path() string   { return "fake" }
func (f fake) Format() string { return "hf" }
func (f fake) Config() []byte { return []byte(f.config) }

// TestUnknownArchitecture: the error lists what there is and names the nearest.
func TestUnknownArchitecture(t *testing.T) {
	for config, want := range map[string]string{
		`{"architectures":["LlamaForCausalLN"],"model_type":"lama"}`:  `LlamaForCausalLN.* did you mean LlamaForCausalLM\?; known: llama, qwen2`,
		`{"architectures":["Qwen4ForCausalLM"],"model_type":"qwen4"}`: `the nearest is Qwen3ForCausalLM, a model of another generation`,
		`{"model_type":"qwen4"}`: `the nearest is qwen3_5, a model of another generation`,
		`{"architectures":["MambaForCausalLM"],"model_type":"mamba"}`:                                       `the nearest is Mamba2ForCausalLM, a model of another generation`,
		`{"architectures":["llama"],"model_type":"llama"}`:                                                  `did you mean LlamaForCausalLM\?`,
		`{"architectures":["InternVLChatModel"],"model_type":"internvl_chat","auto_map":{"AutoModel":"x"}}`: `auto_map`,
		`{"architectures":["LlavaForConditionalGeneration"],"text_config":{"model_type":"vicuna"}}`:         `text_config: model_type "vicuna" is not supported; known`,
		`{"architectures":["LlavaForConditionalGeneration"]}`:                                               `text_config: missing`,
		`{"architectures":["LlavaForConditionalGeneration"],"model_type":"qwen2"}`:                          `one of them is wrong`,
		`{}`: `neither architectures nor model_type`,
	} {
		_, err := FromReader(fake{config: config})
		if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
}

// TestDecodedNote: what is lost where a folder of small floats is written as something else.
func TestDecodedNote(t *testing.T) {
	for name, want := range map[string]string{
		"orig": `^$`, "gptq-4b-g128-sym": `^$`,
		"ct-w8a8-int8":  `ct-w8a8-int8: 7 matrices are stored as INT8 row .*, and does not say that the inputs of 7 are rounded$`,
		"ct-fp8-static": `ct-fp8-static: 7 matrices are stored as F8_E4M3 .*, and does not say that the inputs of 7 are rounded$`,
		"ct-nvfp4":      `ct-nvfp4: 7 matrices are stored as F4_E2M1 g16 .*the inputs of 7 are rounded$`,
	} {
		src, err := Open(testdir.Shared(t, "golden/quant/"+name))
		if err != nil {
			t.Fatal(err)
		}
		if got := src.DecodedNote(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %q, want %s", name, got, want)
		}
		src.Close()
	}
}

// rounded is a checkpoint whose experts want their inputs rounded, all but one, of
// which one says why not.
type rounded struct {
	formats.Reader
	but, why string
}

func (r rounded) Tensors() []formats.Tensor {
	list := slices.Clone(r.Reader.Tensors())
	for i := range list {
		switch t := &list[i]; {
		case strings.HasPrefix(t.Name, r.but):
			t.Unrounded = r.why
		case strings.Contains(t.Name, ".experts."):
			t.Act = formats.ActFP8
		}
	}
	return list
}

// TestExpertsUnrounded: experts are one product. Where one of them has no scale for its
// inputs, or is not rounded at all, those of all stay exact, which is said.
func TestExpertsUnrounded(t *testing.T) {
	for _, c := range []struct{ but, why, want string }{
		{"none", "", ""},
		{"model.layers.0.block_sparse_moe.experts.0.w2", "no scale", "no scale"},
		{"model.layers.0.block_sparse_moe.experts.1.w2", "no scale", "no scale"},
		{"model.layers.0.block_sparse_moe.experts.1.w2", "", "F8_E4M3 row and exact, for each part of a matrix its own"},
	} {
		r, err := formats.Open(testdir.Shared(t, "golden/arch/mixtral"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := FromReader(rounded{r, c.but, c.why})
		if err != nil {
			t.Fatal(err)
		}
		if down := s.At(0, ExpertDown); down.Unrounded != c.want || (down.Act == formats.ActFP8) != (c.want == "") {
			t.Errorf("but %s %q: inputs are rounded to %v, %q, want %q", c.but, c.why, down.Act, down.Unrounded, c.want)
		}
		s.Reader.Close()
	}
}
