package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
)

// special tokens of the tiny models, by id.
var special = []string{"<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}

const (
	tinyVocab = 384
	template  = `{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}`
)

// writeFixtures makes everything the tests read: tiny Llamas with a tokenizer
// trained here, and rows of the generated task. work is copied to where each
// script runs.
func writeFixtures(dir string) error {
	tok, err := tokenizer.TrainBPE(func(yield func(string) bool) {
		for i := range 300 {
			if !yield(corpus.Text(1, i)) {
				return
			}
		}
	}, tinyVocab, special)
	if err != nil {
		return err
	}
	for name, hidden := range map[string]int{"model": 64, "other": 32} {
		if err := writeModel(filepath.Join(dir, name), hidden, tok, template, nil); err != nil {
			return err
		}
	}
	if err := writeT5(filepath.Join(dir, "t5")); err != nil {
		return err
	}
	if err := writeGPT2(filepath.Join(dir, "gpt2"), tok, template); err != nil {
		return err
	}
	// nan has a token that is not a number, nanweight a weight; huge has weights
	// near the end of float32.
	for name, at := range map[string]struct {
		tensor   string
		index, n int
		value    float64
	}{"nan": {"model.embed_tokens.weight", 300 * 64, 1, math.NaN()}, "nanweight": {"model.layers.1.mlp.down_proj.weight", 77, 1, math.NaN()},
		"huge": {"model.layers.0.mlp.up_proj.weight", 3 * 64, 6 * 64, 3e38}} {
		if err := writeModel(filepath.Join(dir, name), 64, tok, template, func(tensor string, w []float32) {
			for i := range at.n {
				if tensor == at.tensor {
					w[at.index+i] = float32(at.value)
				}
			}
		}); err != nil {
			return err
		}
	}
	if err := writeAdapter(filepath.Join(dir, "adapter-other"), 32); err != nil {
		return err
	}
	for to, of := range map[string][3]string{"pickled": {"model", "model.safetensors", "pytorch_model.bin"}, "adapter-pickled": {"adapter-other", "adapter_model.safetensors", "adapter_model.bin"}} {
		if err := writePickled(filepath.Join(dir, to), filepath.Join(dir, of[0]), of[1], of[2]); err != nil {
			return err
		}
	}
	return writeWork(filepath.Join(dir, "work"))
}

// writeWork writes the rows and recipes that scripts begin with.
func writeWork(dir string) error {
	rows := short(corpus.Task(1, 400, corpus.Train), 48)
	var pq, jl, held bytes.Buffer
	for _, err := range []error{corpus.WriteParquet(&pq, rows), corpus.WriteJSONL(&jl, rows[:20]), corpus.WriteJSONL(&held, short(corpus.Task(2, 200, corpus.HeldOut), 12))} {
		if err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, raw := range map[string][]byte{"train.parquet": pq.Bytes(), "train.jsonl": jl.Bytes(), "held.jsonl": held.Bytes(),
		"overflow.safetensors": header(`{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,16]}}`, 16),
		"twice.safetensors":    header(`{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, 16),
		"ids.safetensors":      header(`{"input_ids":{"dtype":"F32","shape":[1,4],"data_offsets":[0,16]}}`, 16),
		"pickle.bin":           []byte("\x80\x02}q\x00."),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// header is a safetensors file with the given header and n bytes of data.
func header(json string, n int) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(json))), json...), make([]byte, n)...)
}

// short takes the first n rows of few letters.
func short(rows []corpus.Row, n int) []corpus.Row {
	var out []corpus.Row
	for _, r := range rows {
		if size := len(r.Messages[0].Content) + len(r.Messages[1].Content); len(out) < n && size < 220 {
			out = append(out, r)
		}
	}
	return out
}

// writeModel writes a Llama of two layers with normal weights, after edit.
func writeModel(dir string, hidden int, tok []byte, template string, edit func(name string, w []float32)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const heads, kv, layers = 4, 2, 2
	config := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": hidden, "intermediate_size": 2 * hidden,
		"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": hidden / heads,
		"hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"tie_word_embeddings": false, "vocab_size": tinyVocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "float32",
	}
	tc := map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>",
		"model_max_length": 512, "clean_up_tokenization_spaces": false, "chat_template": template,
	}
	for name, v := range map[string]any{"config.json": config, "tokenizer_config.json": tc, "tokenizer.json": json.RawMessage(tok)} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return err
		}
	}
	rng := rand.New(rand.NewPCG(5, uint64(hidden)))
	var ts []formats.NamedTensor
	add := func(name string, std float64, shape ...int64) {
		w := make([]float32, elements(shape))
		for i := range w {
			if w[i] = 1; std > 0 {
				w[i] = float32(std * rng.NormFloat64())
			}
		}
		if edit != nil {
			edit(name, w)
		}
		ts = append(ts, formats.NamedTensor{Name: name, DType: "F32", Shape: shape, Data: floats(w)})
	}
	h, hd := int64(hidden), int64(hidden/heads)
	add("model.embed_tokens.weight", 0.1, tinyVocab, h)
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm.weight", 0, h)
		add(p+"self_attn.q_proj.weight", 0.1, heads*hd, h)
		add(p+"self_attn.k_proj.weight", 0.1, kv*hd, h)
		add(p+"self_attn.v_proj.weight", 0.1, kv*hd, h)
		add(p+"self_attn.o_proj.weight", 0.1, h, heads*hd)
		add(p+"post_attention_layernorm.weight", 0, h)
		add(p+"mlp.gate_proj.weight", 0.1, 2*h, h)
		add(p+"mlp.up_proj.weight", 0.1, 2*h, h)
		add(p+"mlp.down_proj.weight", 0.1, h, 2*h)
	}
	add("model.norm.weight", 0, h)
	add("lm_head.weight", 0.1, tinyVocab, h)
	return formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, map[string]string{"format": "pt"})
}

// writeAdapter writes a PEFT folder for a model of the given width.
func writeAdapter(dir string, hidden int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := `{"base_model_name_or_path": "acme/Tiny-32", "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "init_lora_weights": true, "lora_alpha": 8, "lora_dropout": 0.0,
 "bias": "none", "target_modules": ["q_proj"], "use_rslora": false, "use_dora": false, "fan_in_fan_out": false, "inference_mode": true}`
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(config), 0o644); err != nil {
		return err
	}
	var ts []formats.NamedTensor
	rng := rand.New(rand.NewPCG(7, uint64(hidden)))
	normal := func() []byte {
		w := make([]float32, 4*hidden)
		for i := range w {
			w[i] = float32(0.1 * rng.NormFloat64())
		}
		return floats(w)
	}
	for i := range 2 {
		p := fmt.Sprintf("base_model.model.model.layers.%d.self_attn.q_proj.", i)
		ts = append(ts, formats.NamedTensor{Name: p + "lora_A.weight", DType: "F32", Shape: []int64{4, hidden}, Data: normal()},
			formats.NamedTensor{Name: p + "lora_B.weight", DType: "F32", Shape: []int64{hidden, 4}, Data: normal()})
	}
	return formats.WriteSafetensors(filepath.Join(dir, "adapter_model.safetensors"), ts, nil)
}

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

func floats(w []float32) []byte {
	var raw []byte
	for _, v := range w {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return raw
}
