package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats"
)

// writeGPT2 writes a GPT-2 of two layers, whose table holds 80 positions, fewer than
// what commands take where nothing is said.
func writeGPT2(dir string, tok []byte, template string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const d, positions = 64, 80
	config := map[string]any{"architectures": []string{"GPT2LMHeadModel"}, "model_type": "gpt2", "n_embd": d, "n_head": 4, "n_layer": 2, "n_positions": positions,
		"vocab_size": tinyVocab, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	chat, err := json.Marshal(map[string]any{"chat_template": template, "eos_token": "<|end|>"})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"config.json": raw, "tokenizer.json": tok, "tokenizer_config.json": chat} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	rng := rand.New(rand.NewPCG(2, 2))
	var ts []formats.NamedTensor
	add := func(name string, shape ...int64) {
		w := make([]float32, elements(shape))
		for i := range w {
			switch {
			case len(shape) == 2:
				w[i] = float32(0.1 * rng.NormFloat64())
			case strings.Contains(name, "ln_") && strings.HasSuffix(name, "weight"):
				w[i] = 1
			}
		}
		ts = append(ts, formats.NamedTensor{Name: "transformer." + name, DType: "F32", Shape: shape, Data: floats(w)})
	}
	add("wte.weight", tinyVocab, d)
	add("wpe.weight", positions, d)
	for i := range 2 {
		for _, m := range []struct {
			name  string
			shape []int64
		}{{"ln_1", []int64{d}}, {"attn.c_attn", []int64{d, 3 * d}}, {"attn.c_proj", []int64{d, d}}, {"ln_2", []int64{d}}, {"mlp.c_fc", []int64{d, 4 * d}}, {"mlp.c_proj", []int64{4 * d, d}}} {
			p := fmt.Sprintf("h.%d.%s", i, m.name)
			add(p+".weight", m.shape...)
			add(p+".bias", m.shape[len(m.shape)-1])
		}
	}
	add("ln_f.weight", d)
	add("ln_f.bias", d)
	return formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, map[string]string{"format": "pt"})
}
