package arch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// variants are configs of a reference checkpoint with other values of keys that the
// family's models use, and what the refusal to write a GGUF says; "": there is none.
var variants = []struct{ base, change, refused string }{
	{"starcoder2", `{"use_bias": false, "sliding_window": null, "tie_word_embeddings": false, "head_dim": 16}`, ""},
	{"starcoder2", `{"sliding_window": 3, "num_key_value_heads": 4, "hidden_act": "relu"}`, "Act gelu_pytorch_tanh instead of relu"},
	{"phi", `{"num_key_value_heads": 1, "qk_layernorm": true, "tie_word_embeddings": true, "rope_parameters": null, "rope_theta": 500, "partial_rotary_factor": 1.0}`, ""},
	{"stablelm", `{"use_parallel_residual": true, "qk_layernorm": true, "use_qkv_bias": false, "num_key_value_heads": 1, "tie_word_embeddings": true}`, ""},
	{"nemotron", `{"attention_bias": true, "mlp_bias": true, "head_dim": 20, "tie_word_embeddings": true, "rope_parameters": {"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.4, "rope_theta": 10000.0}}`, ""},
	{"arcee", `{"attention_bias": true, "mlp_bias": true, "rope_parameters": null, "rope_theta": 777.0, "tie_word_embeddings": true}`, ""},
	{"apertus", `{"attention_bias": true, "tie_word_embeddings": true, "num_key_value_heads": 4, "rope_parameters": null}`, ""},
	{"gpt-neox", `{"attention_bias": false, "use_parallel_residual": false, "tie_word_embeddings": true, "rope_parameters": null, "rotary_pct": 0.5, "rotary_emb_base": 300}`, ""},
	{"falcon", `{"new_decoder_architecture": true, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 64}`, ""},
	{"falcon", `{"multi_query": false, "bias": true, "tie_word_embeddings": false}`, "Bias false instead of true"},
	{"falcon", `{"parallel_attn": false}`, "Sublayers[1].Pre"},
	{"falcon-alibi", `{"multi_query": true, "num_attention_heads": 6, "bias": false, "parallel_attn": true}`, "Rope 0 instead of -1"},
	{"gptj", `{"rotary_dim": 16, "tie_word_embeddings": true, "n_inner": 64, "activation_function": "relu"}`, "does not know it"},
	{"mpt", `{"n_heads": 6, "attn_config": {"alibi": true, "alibi_bias_max": 4, "softmax_scale": 0.2}, "tie_word_embeddings": true}`, "Scale 0 instead of 0.2"},
	{"mpt", `{"n_heads": 3, "attn_config": {"alibi": true, "alibi_bias_max": 16, "clip_qkv": 0.7}}`, ""},
	{"bloom", `{"n_head": 3, "seq_length": 100, "tie_word_embeddings": false}`, ""},
	{"gpt-bigcode", `{"multi_query": false, "scale_attn_weights": false, "n_inner": 64, "tie_word_embeddings": false}`, "K 1 instead of 4"},
	{"gpt2", `{"scale_attn_by_inverse_layer_idx": true, "n_inner": 64, "tie_word_embeddings": false}`, "Scale 0 instead of"},
	{"gpt2", `{"n_head": 6, "n_layer": 3}`, ""},
	{"opt", `{"do_layer_norm_before": false, "word_embed_proj_dim": 32, "enable_bias": false}`, "does not know it"},
	{"opt", `{"_remove_final_layer_norm": true, "layer_norm_elementwise_affine": false, "tie_word_embeddings": false, "activation_function": "gelu"}`, "does not know it"},
}

// made writes a checkpoint of a variant with random weights.
func made(t *testing.T, base, change string) string {
	t.Helper()
	var config, other map[string]any
	for data, to := range map[string]*map[string]any{string(testdir.ReadFile(t, testdir.Shared(t, "golden/arch/"+base)+"/config.json")): &config, change: &other} {
		if err := json.Unmarshal([]byte(data), to); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range other {
		config[k] = v
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := arch.RulesOf(raw)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []formats.NamedTensor
	for i := range list {
		r := &list[i]
		for j := range r.HF {
			if r.Tied {
				continue
			}
			p := &r.HF[j]
			n, seed := int64(1), fnv.New64a()
			for _, d := range p.FileShape(r) {
				n *= d
			}
			seed.Write([]byte(p.Name))
			rng := rand.New(rand.NewPCG(1, seed.Sum64()))
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(0.3 * rng.NormFloat64())
				if r.Role.IsNorm() && !r.Bias {
					v[i]++
				}
			}
			tensors = append(tensors, formats.NamedTensor{Name: p.Name, DType: "F32", Shape: p.FileShape(r), Data: kernels.Bytes(v)})
		}
	}
	dir := t.TempDir()
	if err = os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o666); err == nil {
		err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// logitsOf are the logits of ids in one pass, and token by token with a cache.
func logitsOf(t *testing.T, path string, ids []int32) (whole, cached []float32) {
	t.Helper()
	m, err := model.Load(cpu.New(cpu.Options{}), open(t, path), model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	if whole, err = tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids)))); err != nil {
		t.Fatal(err)
	}
	c, err := m.NewCache(1, len(ids))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, id := range ids {
		z, err := m.Step(c, []model.Piece{{Slot: 0, Tokens: []int32{id}}})
		if err != nil {
			t.Fatal(err)
		}
		cached = append(cached, z[0]...)
	}
	return whole, cached
}

func near(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tol) {
			t.Errorf("%s: [%d] is %g, want %g", what, i, got[i], want[i])
			return
		}
	}
}

// Variants of the families' models compute with a cache what they compute without,
// and the same after a way through a GGUF and back into a folder, where a GGUF can
// state them; where not, it is refused.
func TestVariants(t *testing.T) {
	ids := []int32{1, 40, 3, 3, 200, 17, 99, 5, 60, 61, 62}
	for i, v := range variants {
		t.Run(fmt.Sprint(v.base, i), func(t *testing.T) {
			dir := made(t, v.base, v.change)
			want, cached := logitsOf(t, dir, ids)
			near(t, "with a cache", cached, want, 1e-4)
			src := open(t, dir)
			for _, name := range []string{"a.gguf", "b"} {
				out := filepath.Join(t.TempDir(), name)
				d := arch.Dense{Path: out, Name: "m"}
				err := d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil)
				if v.refused != "" && err != nil && strings.Contains(err.Error(), v.refused) {
					return
				}
				if err != nil || v.refused != "" {
					t.Fatalf("%v, want refusal %q", err, v.refused)
				}
				got, _ := logitsOf(t, out, ids)
				near(t, name, got, want, 1e-5)
				src = open(t, out)
			}
		})
	}
}
