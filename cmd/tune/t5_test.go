package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats"
)

// writeT5 writes a T5 of two layers of encoder and decoder, whose vocabulary is
// letters.
func writeT5(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	vocab := [][2]any{{"<pad>", 0.0}, {"</s>", 0.0}, {"<unk>", 0.0}, {"▁", -2.0}}
	for c := ' ' + 1; c < 127; c++ {
		vocab = append(vocab, [2]any{string(c), -3.0})
	}
	special := func(id int, s string) map[string]any {
		return map[string]any{"id": id, "content": s, "special": true, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false}
	}
	spaces := func(pattern, with string) map[string]any {
		return map[string]any{"type": "Replace", "pattern": map[string]any{"Regex": pattern}, "content": with}
	}
	meta := map[string]any{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}
	tok := map[string]any{
		"added_tokens": []any{special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>")},
		"normalizer":   map[string]any{"type": "Sequence", "normalizers": []any{spaces(`\A +| +\z`, ""), spaces(" {2,}", " ")}}, "pre_tokenizer": meta, "decoder": meta,
		"post_processor": map[string]any{"type": "TemplateProcessing", "single": []any{map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}, map[string]any{"SpecialToken": map[string]any{"id": "</s>", "type_id": 0}}},
			"special_tokens": map[string]any{"</s>": map[string]any{"id": "</s>", "ids": []int{1}, "tokens": []string{"</s>"}}}},
		"model": map[string]any{"type": "Unigram", "unk_id": 2, "vocab": vocab},
	}
	const d, heads, kv, ff, layers, rows = 64, 4, 16, 128, 2, 100
	config := map[string]any{
		"architectures": []string{"T5ForConditionalGeneration"}, "model_type": "t5", "d_model": d, "d_kv": kv, "d_ff": ff, "num_layers": layers, "num_decoder_layers": layers, "num_heads": heads,
		"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "decoder_start_token_id": 0,
		"pad_token_id": 0, "eos_token_id": 1, "vocab_size": rows, "is_encoder_decoder": true, "torch_dtype": "float32",
	}
	for name, v := range map[string]any{"config.json": config, "tokenizer.json": tok, "tokenizer_config.json": map[string]any{"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return err
		}
	}
	rng := rand.New(rand.NewPCG(5, 5))
	var ts []formats.NamedTensor
	add := func(name string, std float64, shape ...int64) {
		w := make([]float32, elements(shape))
		for i := range w {
			if w[i] = 1; std > 0 {
				w[i] = float32(std * rng.NormFloat64())
			}
		}
		ts = append(ts, formats.NamedTensor{Name: name + ".weight", DType: "F32", Shape: shape, Data: floats(w)})
	}
	add("shared", 1, rows, d)
	for _, stack := range []string{"encoder", "decoder"} {
		add(stack+".block.0.layer.0.SelfAttention.relative_attention_bias", 1, 32, heads)
		for i := range layers {
			kinds := []string{"SelfAttention", "EncDecAttention"}
			if stack == "encoder" {
				kinds = kinds[:1]
			}
			for j, kind := range kinds {
				p := fmt.Sprintf("%s.block.%d.layer.%d.", stack, i, j)
				add(p+"layer_norm", 0, d)
				for _, m := range "qkv" {
					add(p+kind+"."+string(m), 0.05, heads*kv, d)
				}
				add(p+kind+".o", 0.1, d, heads*kv)
			}
			p := fmt.Sprintf("%s.block.%d.layer.%d.", stack, i, len(kinds))
			add(p+"layer_norm", 0, d)
			add(p+"DenseReluDense.wi_0", 0.1, ff, d)
			add(p+"DenseReluDense.wi_1", 0.1, ff, d)
			add(p+"DenseReluDense.wo", 0.1, d, ff)
		}
		add(stack+".final_layer_norm", 0, d)
	}
	add("lm_head", 0.1, rows, d)
	return formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, map[string]string{"format": "pt"})
}
