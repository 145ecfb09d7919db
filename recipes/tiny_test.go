package recipes_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

const tinyTemplate = `{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}`

// tinyModel writes a Llama of two layers of 64 columns with a tokenizer and a
// chat template, and rows for it. It returns the folder of both.
func tinyModel(t testing.TB) string {
	t.Helper()
	return tinyModelOf(t, 2)
}

// tinyModelOf is tinyModel with a number of layers.
func tinyModelOf(t testing.TB, layers int) string {
	t.Helper()
	dir := t.TempDir()
	texts := func(yield func(string) bool) {
		for i := range 300 {
			if !yield(corpus.Text(1, i)) {
				return
			}
		}
	}
	special := []string{"<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"}
	tok, err := tokenizer.TrainBPE(texts, 512, special)
	must(t, err)
	m := filepath.Join(dir, "model")
	must(t, os.MkdirAll(m, 0o755))
	write := func(name string, v any) {
		raw, ok := v.([]byte)
		if !ok {
			raw, err = json.Marshal(v)
			must(t, err)
		}
		must(t, os.WriteFile(filepath.Join(m, name), raw, 0o644))
	}
	write("tokenizer.json", tok)
	write("tokenizer_config.json", map[string]any{"bos_token": "<s>", "eos_token": "</s>", "chat_template": tinyTemplate, "tokenizer_class": "PreTrainedTokenizerFast"})
	write("config.json", map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": 64, "vocab_size": 512, "num_hidden_layers": layers,
		"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "max_position_embeddings": 256,
		"rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
		"bos_token_id": 0, "eos_token_id": 1})
	must(t, formats.WriteSafetensors(filepath.Join(m, "model.safetensors"), tinyTensors(layers), nil))
	rows, err := os.Create(filepath.Join(dir, "train.jsonl"))
	must(t, err)
	must(t, corpus.WriteJSONL(rows, corpus.Task(1, 120, corpus.Train)))
	must(t, rows.Close())
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tinyTensors(layers int) []formats.NamedTensor {
	var out []formats.NamedTensor
	state := uint64(7)
	add := func(name string, scale float64, shape ...int64) {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		raw := make([]byte, 2*n)
		for i := range n {
			v := float32(1)
			if len(shape) > 1 {
				state = state*6364136223846793005 + 1442695040888963407
				v = float32(scale * (float64(state>>40)/(1<<23) - 1))
			}
			bits := math.Float32bits(v)
			raw[2*i], raw[2*i+1] = byte(bits>>16), byte(bits>>24)
		}
		out = append(out, formats.NamedTensor{Name: name, Shape: shape, DType: "BF16", Data: raw})
	}
	add("model.embed_tokens.weight", 0.5, 512, 64)
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm.weight", 1, 64)
		add(p+"self_attn.q_proj.weight", 0.2, 64, 64)
		add(p+"self_attn.k_proj.weight", 0.2, 32, 64)
		add(p+"self_attn.v_proj.weight", 0.2, 32, 64)
		add(p+"self_attn.o_proj.weight", 0.2, 64, 64)
		add(p+"post_attention_layernorm.weight", 1, 64)
		add(p+"mlp.gate_proj.weight", 0.2, 128, 64)
		add(p+"mlp.up_proj.weight", 0.2, 128, 64)
		add(p+"mlp.down_proj.weight", 0.2, 64, 128)
	}
	add("model.norm.weight", 1, 64)
	return out
}

// tinyRecipe is a whole job on the tiny model.
func tinyRecipe(t testing.TB, dir string, sets ...string) *recipes.Recipe {
	t.Helper()
	r, err := stages.All.Parse("tiny.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192, val_set_size: 20}
  - train: {adapter: qlora, max_steps: 6, micro_batch_size: 2, gradient_accumulation_steps: 2, dtype: f32, lora: {r: 4}}
  - merge: {}
  - export: {type: [Q8_0, F16]}
  - eval: {tasks: [perplexity, kl, exact_match, speed], max_new_tokens: 8, context: 192, gate: {kl: {max: 5}}}
`, dir), sets)
	must(t, err)
	return r
}

// state reads what a finished stage of a run folder left.
func state(t testing.TB, run, id string, left any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(run, ".state", id+".json"))
	must(t, err)
	var all map[string]json.RawMessage
	must(t, json.Unmarshal(raw, &all))
	var kind string
	must(t, json.Unmarshal(all["kind"], &kind))
	must(t, json.Unmarshal(all[kind], left))
}

// exists reports whether there is something at path.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }
