package gguf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestPackedFolder: the codes and scales of folders in NVFP4 and MXFP4 go into a GGUF as they are, with
// the numbers beside them, also in a copy of that; any other type is made of the values.
// The hashes are of tensors that llama.cpp's converter (conversion/llama.py, qwen.py of b11434, without a
// vocabulary, of the same bytes) writes, or for MXFP4, which it reads of few models, its repack_mxfp4_blocks.
func TestPackedFolder(t *testing.T) {
	for _, c := range []struct {
		folder string
		typ    string
		want   map[string]string
	}{
		{sharedFolder(t, "ct-nvfp4"), "NVFP4", map[string]string{
			"blk.0.attn_q.weight": "4c359151fc17e506", "blk.0.attn_q.scale": "7b8474570f9e492d", "blk.0.attn_q.input_scale": "a81f0698ec4e3db1",
			"blk.0.attn_k.weight": "7d222ad7ea95c8db", "blk.0.attn_v.weight": "5bc2df7db7cba9d0", "blk.0.attn_output.weight": "eae02909514945a3",
			"blk.0.ffn_gate.weight": "7fa484b33efc46e2", "blk.0.ffn_up.weight": "bf8000028b7c4076", "blk.0.ffn_down.weight": "c2b35af3e00f2e05",
			"blk.0.ffn_down.scale": "8d4bd8f4a64e5123", "blk.0.ffn_down.input_scale": "b7154ed25a62db96"}},
		{modelOptExperts(t, 0), "NVFP4", map[string]string{
			"blk.0.attn_q.weight": "f815756d825fa015", "blk.0.attn_output.weight": "1c89980663aac390", "blk.0.attn_output.scale": "7c5c1d9451c2174c", "blk.0.attn_output.input_scale": "",
			"blk.0.ffn_gate_exps.weight": "647a0a8dc591a1ed", "blk.0.ffn_gate_exps.scale": "8485603230877e38", "blk.0.ffn_gate_exps.input_scale": "1abd08b5603984f4",
			"blk.0.ffn_up_exps.weight": "4ac6e16480aa4176", "blk.0.ffn_down_exps.weight": "735b8e72c92b6e7e", "blk.0.ffn_down_exps.scale": "40ac7a08ecd6e7fc"}},
		{sharedFolder(t, "ct-mxfp4"), "MXFP4", map[string]string{
			"blk.0.attn_q.weight": "52c463206a49394a", "blk.0.attn_k.weight": "5f2e8c1293ba4997", "blk.0.attn_v.weight": "09c49ff62f28449f", "blk.0.ffn_down.weight": "2c75daf96b09c862"}},
	} {
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name+".gguf") }
		decoded := map[string]string{} // notes of each file
		write := func(src, name, typ string, requantize bool) (string, error) {
			rep, err := Write(context.Background(), dry.New(dry.Options{}), src, path(name), Options{Type: typ, AllowRequantize: requantize}, nil)
			if err == nil {
				decoded[name] = strings.Join(rep.Notes(), "\n")
			}
			return path(name), err
		}
		one, err := write(c.folder, "one", "COPY", false)
		if err != nil {
			t.Fatal(err)
		}
		got := hashes(t, one)
		for name, want := range c.want {
			if got[name] != want {
				t.Errorf("%s: %s is %s, expected %s", c.typ, name, got[name], want)
			}
		}
		two, err := write(one, "two", "COPY", false)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range hashes(t, two) {
			if got[name] != want {
				t.Errorf("%s: a copy has another %s", c.typ, name)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("%s: a copy lacks %v", c.typ, got)
		}
		if _, err := write(one, "x", "Q8_0", false); err == nil || !strings.Contains(err.Error(), "already quantized ("+c.typ+")") {
			t.Errorf("%s to Q8_0: %v", c.typ, err)
		}
		a, err1 := write(c.folder, "a", "F32", false)
		b, err2 := write(one, "b", "F32", true)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		sameFloats(t, a, b)
		if !strings.Contains(decoded["a"], "matrices are stored as F4_E2M1") || strings.Contains(decoded["b"], "are decoded") || c.typ == "MXFP4" && strings.Contains(decoded["one"], "are decoded") {
			t.Errorf("%s: notes %q", c.typ, decoded)
		}
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), modelOptExperts(t, 0x7f), filepath.Join(t.TempDir(), "x.gguf"), Options{Type: "COPY"}, nil); err == nil || !strings.Contains(err.Error(), "not a number") {
		t.Errorf("a scale that is no number: %v", err)
	}
}

// sameFloats compares two files of F32, within a rounding or two.
func sameFloats(t *testing.T, a, b string) {
	t.Helper()
	p, err1 := formats.Open(a)
	q, err2 := formats.Open(b)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer p.Close()
	defer q.Close()
	if len(p.Tensors()) != len(q.Tensors()) {
		t.Fatalf("%d and %d tensors", len(p.Tensors()), len(q.Tensors()))
	}
	for i := range p.Tensors() {
		x, y := &p.Tensors()[i], &q.Tensors()[i]
		if x.Name != y.Name || x.Type != dtype.Of(dtype.F32) || y.Type != x.Type {
			t.Fatal(x.Name, y.Name, x.Type, y.Type)
		}
		u, v := make([]float32, x.Elements()), make([]float32, x.Elements())
		for _, of := range []struct {
			to []float32
			r  formats.Reader
			t  *formats.Tensor
		}{{u, p, x}, {v, q, y}} {
			raw, err := of.r.Read(of.t)
			if err != nil {
				t.Fatal(err)
			}
			block.GetF32(of.to, raw)
		}
		for k := range u {
			if d := u[k] - v[k]; max(d, -d) > 2e-7*max(u[k], -u[k]) {
				t.Fatalf("%s: value %d is %g and %g", x.Name, k, u[k], v[k])
			}
		}
	}
}

// hashes are the first bytes of the hash of each tensor as a GGUF stores it.
func hashes(t *testing.T, path string) map[string]string {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := map[string]string{}
	for _, x := range r.Tensors() {
		all := x.Apart()
		if all == nil {
			all = []formats.Tensor{x}
		}
		for i := range all {
			b, err := r.Read(&all[i])
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.Sum256(b)
			out[all[i].Name] = hex.EncodeToString(h[:8])
		}
	}
	return out
}

// sharedFolder is a folder of the reference data with the tokenizer of the model it was made of.
func sharedFolder(t *testing.T, name string) string {
	dir := t.TempDir()
	for _, f := range []string{name + "/config.json", name + "/model.safetensors", "orig/tokenizer.json", "orig/tokenizer_config.json"} {
		copyFile(t, filepath.Join(testdir.Shared(t, "golden/quant"), f), filepath.Join(dir, filepath.Base(f)))
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// modelOptExperts is a layer of Qwen3 MoE as ModelOpt writes NVFP4, of bytes by a formula; a byte other than 0 is
// the first scale of a query.
func modelOptExperts(t *testing.T, scale byte) string {
	dir := t.TempDir()
	var list []formats.NamedTensor
	plain := func(name string, shape ...int64) {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		x := formats.NamedTensor{Name: name, DType: "BF16", Shape: shape, Data: make([]byte, 2*n)}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(i%17-8) / 64
		}
		block.PutBF16(x.Data, v)
		list = append(list, x)
	}
	seed := 0
	number := func(name string, v float32) {
		x := formats.NamedTensor{Name: name, DType: "F32", Data: make([]byte, 4)}
		block.PutF32(x.Data, []float32{v})
		list = append(list, x)
	}
	packed := func(name string, rows, cols int64, input bool) {
		seed++
		w := formats.NamedTensor{Name: name + ".weight", DType: "U8", Shape: []int64{rows, cols / 2}, Data: make([]byte, rows*cols/2)}
		for i := range w.Data {
			w.Data[i] = byte((i*7 + seed) % 251)
		}
		s := formats.NamedTensor{Name: name + ".weight_scale", DType: "F8_E4M3", Shape: []int64{rows, cols / 16}, Data: make([]byte, rows*cols/16)}
		for i := range s.Data {
			s.Data[i] = byte(0x30 + (i*5+seed)%16)
		}
		if seed == 1 && scale != 0 {
			s.Data[0] = scale
		}
		list = append(list, w, s)
		number(name+".weight_scale_2", float32(seed)/1024)
		if input {
			number(name+".input_scale", float32(seed)/4096)
		}
	}
	plain("model.embed_tokens.weight", 512, 64)
	plain("model.norm.weight", 64)
	plain("lm_head.weight", 512, 64)
	const layer = "model.layers.0."
	plain(layer+"input_layernorm.weight", 64)
	plain(layer+"post_attention_layernorm.weight", 64)
	plain(layer+"self_attn.q_norm.weight", 32)
	plain(layer+"self_attn.k_norm.weight", 32)
	plain(layer+"mlp.gate.weight", 2, 64)
	packed(layer+"self_attn.q_proj", 64, 64, true)
	packed(layer+"self_attn.k_proj", 32, 64, true)
	packed(layer+"self_attn.v_proj", 32, 64, true)
	packed(layer+"self_attn.o_proj", 64, 64, false)
	for _, e := range []string{"0", "1"} {
		packed(layer+"mlp.experts."+e+".gate_proj", 128, 64, true)
		packed(layer+"mlp.experts."+e+".up_proj", 128, 64, true)
		packed(layer+"mlp.experts."+e+".down_proj", 64, 128, true)
	}
	if err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	config := `{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 128, "num_hidden_layers": 1,
		"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "num_experts": 2, "num_experts_per_tok": 1, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
		"vocab_size": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": false,
		"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "model.layers.0.mlp.gate"], "config_groups": {"group_0": {"targets": ["Linear"],
			"weights": {"dynamic": false, "num_bits": 4, "type": "float", "group_size": 16}, "input_activations": {"dynamic": false, "num_bits": 4, "type": "float", "group_size": 16}}}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"tokenizer.json", "tokenizer_config.json"} {
		copyFile(t, filepath.Join(testdir.Shared(t, "golden/quant/orig"), f), filepath.Join(dir, f))
	}
	return dir
}

// TestFileTypeOfCopy: what llama_model_quantize of ggml 0.25.3 writes for a copy of a file without
// general.file_type: the type of most tensors, with a flag.
func TestFileTypeOfCopy(t *testing.T) {
	for kind, want := range map[dtype.Kind]uint32{dtype.F32: 0, dtype.F16: 1, dtype.BF16: 32, dtype.Q4_0: 2, dtype.Q8_0: 7, dtype.Q3_K: 12, dtype.Q4_K: 15, dtype.Q5_K: 17,
		dtype.IQ2_XS: 20, dtype.IQ2_S: 28, dtype.IQ3_S: 26, dtype.IQ1_M: 31, dtype.TQ1_0: 36, dtype.NVFP4: 39, dtype.MXFP4: 0, dtype.Q1_0: 40} {
		in := input{tensors: []MixTensor{{Name: "output_norm.weight"}, {Name: "blk.0.a.weight", Type: dtype.Of(kind)}, {Name: "blk.0.b.weight", Type: dtype.Of(kind)}}}
		if got := in.fileType(); got != want|1024 {
			t.Errorf("%v: %d, expected %d", kind, got, want|1024)
		}
	}
	tie := input{tensors: []MixTensor{{Name: "blk.1.a.weight", Type: dtype.Of(dtype.Q8_0)}, {Name: "blk.0.a.weight", Type: dtype.Of(dtype.Q4_K)}}}
	if got := tie.fileType(); got != 15|1024 {
		t.Errorf("of two types with one tensor each: %d, expected that of the first block", got)
	}
	tie.kv = []formats.KV{{Key: "general.file_type", Value: uint32(17)}}
	if got := tie.fileType(); got != 17 {
		t.Errorf("with a key: %d", got)
	}
}
