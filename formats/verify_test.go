package formats

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestVerifyShared verifies artifacts of other programs, none of which is
// broken, and inspects them.
func TestVerifyShared(t *testing.T) {
	var paths []string
	for _, c := range [][2]string{{"golden/arch", ".gguf"}, {"golden/blocks/wholefile", ".gguf"}, {"llama.cpp-vocab", ".gguf"}, {"stories260K", ".gguf"}, {"safetensors", ".safetensors"}} {
		paths = append(paths, sharedFiles(t, c[0], c[1])...)
	}
	for _, c := range [][2]string{{"golden/quant", "/config.json"}, {"golden/blocks/bnb_model", "/config.json"}, {"golden/train/lora", "/adapter_config.json"}} {
		for _, p := range sharedFiles(t, c[0], c[1]) {
			if !strings.HasSuffix(p, "/base-nf4/config.json") { // a second, plain copy of the weights lies beside those
				paths = append(paths, filepath.Dir(p))
			}
		}
	}
	for _, path := range append(paths, testdir.Shared(t, "peft-adapter")) {
		if err := Verify(path); err != nil {
			t.Errorf("%v", err)
		}
		r, err := Inspect(path, true)
		if err != nil {
			t.Errorf("%v", err)
		}
		b, err := json.Marshal(r)
		if err != nil || len(b) > 1<<20 {
			t.Errorf("%s: a report of %d bytes: %v", path, len(b), err)
		}
		for _, ten := range r.Tensors {
			if len(ten.SHA256) != 64 || ten.DType == "" || ten.Shape == nil {
				t.Errorf("%s: %+v", path, ten)
			}
		}
	}
}

// ggufWith writes a small valid model and returns its path; the arguments
// change metadata and the one Q8_0 tensor.
func ggufWith(t *testing.T, change map[string]any, scale float32) string {
	t.Helper()
	kv := []KV{
		{"general.architecture", "llama"}, {"llama.context_length", uint32(8)}, {"llama.embedding_length", uint32(32)}, {"llama.block_count", uint32(1)},
		{"llama.attention.head_count", uint32(2)}, {"llama.expert_count", uint32(2)}, {"llama.expert_used_count", uint32(1)},
		{"tokenizer.ggml.tokens", []string{"a", "b"}}, {"tokenizer.ggml.scores", []float32{0, 1}}, {"tokenizer.ggml.token_type", []int32{1, 1}},
		{"tokenizer.ggml.merges", []string{"a b"}}, {"tokenizer.ggml.bos_token_id", uint32(1)},
	}
	for i := range kv {
		if v, ok := change[kv[i].Key]; ok {
			kv[i].Value = v
		}
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	plan := []TensorPlan{{Name: "blk.0.attn_q.weight", Shape: []int64{2, 32}, Type: dtype.Of(dtype.Q8_0)}}
	w := must(CreateGGUF(path, kv, plan))
	m := block.New(plan[0].Type, 2, 32)
	for r := range 2 {
		block.PutF16(m.Data[34*r:], []float32{scale})
		m.Data[34*r+2] = 1
	}
	if err := errors.Join(w.Write(plan[0].Name, m.Data), w.Commit()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestVerifyGGUF breaks one thing at a time.
func TestVerifyGGUF(t *testing.T) {
	if err := Verify(ggufWith(t, nil, 1)); err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{
		"value NaN at row 0":                ggufWith(t, nil, float32(math.NaN())),
		"value +Inf at row 0":               ggufWith(t, nil, float32(math.Inf(1))),
		"block_count is 3":                  ggufWith(t, map[string]any{"llama.block_count": uint32(3)}, 1),
		"llama.block_count is 0":            ggufWith(t, map[string]any{"llama.block_count": uint32(0)}, 1),
		"general.architecture is missing":   ggufWith(t, map[string]any{"general.architecture": uint8(1)}, 1),
		"head_count is 0":                   ggufWith(t, map[string]any{"llama.attention.head_count": uint32(0)}, 1),
		"expert_used_count is 3 of 2":       ggufWith(t, map[string]any{"llama.expert_used_count": uint32(3)}, 1),
		"scores is []uint8":                 ggufWith(t, map[string]any{"tokenizer.ggml.scores": []uint8{1, 2}}, 1),
		"scores is []float32 of 1":          ggufWith(t, map[string]any{"tokenizer.ggml.scores": []float32{1}}, 1),
		"token_type is []uint8":             ggufWith(t, map[string]any{"tokenizer.ggml.token_type": []uint8{1, 2}}, 1),
		"merges is uint32":                  ggufWith(t, map[string]any{"tokenizer.ggml.merges": uint32(1)}, 1),
		"bos_token_id is 2":                 ggufWith(t, map[string]any{"tokenizer.ggml.bos_token_id": uint32(2)}, 1),
		"tokenizer.ggml.tokens is []uint32": ggufWith(t, map[string]any{"tokenizer.ggml.tokens": []uint32{1}}, 1),
		"tokens[1] has 1048577 bytes":       ggufWith(t, map[string]any{"tokenizer.ggml.tokens": []string{"a", strings.Repeat("x", 1<<20+1)}}, 1),
	} {
		rejects(t, Verify(path), want)
	}
}

// TestVerifyBlocks counts the blocks of files with an encoder, which are named apart
// (golden/arch/flan-t5/gguf.json: t5.block_count, t5.decoder_block_count).
func TestVerifyBlocks(t *testing.T) {
	blocks := func(names ...string) (v verifier) {
		a := &artifact{}
		for _, n := range names {
			a.tensors = append(a.tensors, Tensor{Name: n})
		}
		v.layers(a, "t5", keys{"t5.block_count": uint32(2), "t5.decoder_block_count": uint32(1)})
		return v
	}
	if v := blocks("enc.blk.0.attn_q.weight", "enc.blk.1.attn_q.weight", "dec.blk.0.attn_q.weight", "dec.output_norm.weight"); len(v.problems) > 0 {
		t.Error(v.problems)
	}
	v := blocks("enc.blk.0.attn_q.weight", "dec.blk.0.attn_q.weight", "dec.blk.1.attn_q.weight")
	if got := strings.Join(v.problems, "\n"); got != "t5.decoder_block_count is 1, the file has tensors of 2 blocks dec.blk.…\nt5.block_count is 2, the file has tensors of 1 blocks enc.blk.…" {
		t.Error(got)
	}
	v = blocks("enc.blk.0.attn_q.weight", "enc.blk.1.attn_q.weight", "dec.output_norm.weight")
	if got := strings.Join(v.problems, "\n"); got != "t5.decoder_block_count is 1, the file has tensors of 0 blocks dec.blk.…" {
		t.Error(got)
	}
}

// rejects checks that err is about a corrupt file, exits with 3 or 4, and says want.
func rejects(t *testing.T, err error, want string) {
	t.Helper()
	switch code := fail.Code(err); {
	case err == nil:
		t.Errorf("accepted, expected an error with %q", want)
	case code != int(fail.Input) && code != int(fail.Limit):
		t.Errorf("exit code %d: %v", code, err)
	case !strings.Contains(err.Error(), want):
		t.Errorf("error %q does not say %q", err, want)
	case strings.ContainsAny(err.Error(), "\x00\x1b\x07"):
		t.Errorf("error %q carries control characters", err)
	}
}

// TestVerifyFolder breaks folders.
func TestVerifyFolder(t *testing.T) {
	nan := make([]byte, 16)
	put32(nan, 2, float32(math.NaN()))
	lora := func(a, b []int64) []NamedTensor {
		return []NamedTensor{{"q.lora_A.weight", "F32", a, make([]byte, 4*a[0]*a[1])}, {"q.lora_B.weight", "F32", b, make([]byte, 4*b[0]*b[1])}}
	}
	for want, c := range map[string]struct {
		files   map[string]string
		weights string
		tensors []NamedTensor
	}{
		"":                           {map[string]string{"config.json": "{}"}, "model", []NamedTensor{{"a", "F32", []int64{4}, make([]byte, 16)}}},
		"value NaN at row 0, column": {map[string]string{"config.json": "{}"}, "model", []NamedTensor{{"a", "F32", []int64{4}, nan}}},
		"config.json is missing":     {nil, "model", []NamedTensor{{"a", "F32", []int64{4}, make([]byte, 16)}}},
		"occurs twice":               {map[string]string{"config.json": "{}", "tokenizer.json": `{"a":1,"a":2}`}, "model", nil},
		"different ranks":            {map[string]string{"adapter_config.json": "{}"}, "adapter_model", lora([]int64{2, 3}, []int64{3, 1})},
		`has no "q.lora_B.weight"`:   {map[string]string{"adapter_config.json": "{}"}, "adapter_model", lora([]int64{2, 3}, []int64{3, 2})[:1]},
	} {
		dir := t.TempDir()
		for name, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := WriteSafetensors(filepath.Join(dir, c.weights+".safetensors"), c.tensors, nil); err != nil {
			t.Fatal(err)
		}
		err := Verify(dir)
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		rejects(t, err, want)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v does not wrap ErrCorrupt", err)
		}
	}
}

// TestVerifyEmptyTensor reads a tensor of no values at once, however many rows
// its shape counts.
func TestVerifyEmptyTensor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	for _, shape := range []string{"[4611686018427387904,0]", "[0,4611686018427387904]", "[0]", "[3,0]"} {
		if err := os.WriteFile(path, st(`{"a":{"dtype":"F32","shape":`+shape+`,"data_offsets":[0,0]}}`, 0), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := Verify(path); err != nil {
			t.Errorf("%s: %v", shape, err)
		}
	}
}
