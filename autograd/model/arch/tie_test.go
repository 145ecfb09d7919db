package arch_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

const (
	embedName = "model.embed_tokens.weight"
	headName  = "lm_head.weight"
)

// headFolder writes a small model with these tables, factors of one, and with
// what config says about them ("" leaves it out); bf16 names those stored so.
func headFolder(t *testing.T, tied string, tables map[string]float32, bf16 ...string) string {
	t.Helper()
	i := 0
	src, err := archtest.Llama(archtest.Dims{C: 32, V: 48, Layers: 1, H: 2, K: 1, D: 16, F: 32, Tied: true}, func(n int) []float32 {
		v := make([]float32, n)
		for j := range v {
			i++
			v[j] = float32(i%31-15) / 16 // exact in bf16
		}
		return v
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []formats.NamedTensor
	for _, x := range src.Tensors() {
		raw, _, err := src.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		if x.Name != embedName {
			list = append(list, formats.NamedTensor{Name: x.Name, DType: "F32", Shape: x.Shape(), Data: raw.Data})
			continue
		}
		for name, k := range tables {
			v := make([]float32, x.Len())
			block.DecodeAll(v, raw)
			for j := range v {
				v[j] *= k
			}
			typ, label := dtype.Of(dtype.F32), "F32"
			if slices.Contains(bf16, name) {
				typ, label = dtype.Of(dtype.BF16), "BF16"
			}
			out := block.New(typ, x.Rows, x.Cols)
			if err := block.Encode(out, v, nil); err != nil {
				t.Fatal(err)
			}
			list = append(list, formats.NamedTensor{Name: name, DType: label, Shape: x.Shape(), Data: out.Data})
		}
	}
	set := map[string]any{"tie_word_embeddings": nil}
	if tied != "" {
		set["tie_word_embeddings"] = tied == "true"
	}
	config, err := src.ConfigJSON(set)
	dir := t.TempDir()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
	}
	if err == nil {
		err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTie: what config and file say about the head, as Transformers takes it.
func TestTie(t *testing.T) {
	for _, c := range []struct {
		name   string
		config string
		tables map[string]float32
		bf16   []string
		tied   bool
	}{
		{"tied, no head", "true", map[string]float32{embedName: 1}, nil, true},
		{"tied, a copy", "true", map[string]float32{embedName: 1, headName: 1}, nil, true},
		{"tied, a copy of another type", "true", map[string]float32{embedName: 1, headName: 1}, []string{headName}, true},
		{"tied, the head only", "true", map[string]float32{headName: 1}, nil, true},
		{"tied, another head", "true", map[string]float32{embedName: 1, headName: -1}, nil, false},
		{"tied, another head of another type", "true", map[string]float32{embedName: 1, headName: -1}, []string{embedName}, false},
		{"untied", "false", map[string]float32{embedName: 1, headName: 1}, nil, false},
		{"silent", "", map[string]float32{embedName: 1, headName: -1}, nil, false},
	} {
		src, err := arch.Open(headFolder(t, c.config, c.tables, c.bf16...))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if head := src.At(-1, arch.Head); src.Spec.Tied != c.tied || (head == nil) != c.tied {
			t.Errorf("%s: tied %v, head %v", c.name, src.Spec.Tied, head)
		}
		config, err := src.ConfigJSON(nil)
		if err != nil || c.config == "true" && strings.Contains(string(config), `"tie_word_embeddings": true`) != c.tied {
			t.Errorf("%s: %v, written on as %s", c.name, err, config)
		}
		src.Close()
	}
	for _, config := range []string{"false", ""} {
		_, err := arch.Open(headFolder(t, config, map[string]float32{embedName: 1}))
		if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), headName) || !strings.Contains(fail.Hint(err), "tie_word_embeddings") || strings.Contains(err.Error(), "corrupt") {
			t.Errorf("no head: %v (%s)", err, fail.Hint(err))
		}
	}
}

// TestUntie: the head becomes the embedding's values under its own name.
func TestUntie(t *testing.T) {
	src, err := arch.Open(headFolder(t, "true", map[string]float32{embedName: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	n := src.Spec.Params()
	src.At(-1, arch.Embed).Unrounded = "for a reason"
	src.Untie()
	src.Untie()
	embed, head := src.At(-1, arch.Embed), src.At(-1, arch.Head)
	if src.Spec.Tied || head == nil || head != src.Named(headName) || src.Spec.Params() != n+int64(embed.Len()) || src.Tensors()[len(src.Tensors())-1] != head || head.Unrounded != embed.Unrounded {
		t.Fatalf("head %+v, %d weights of %d", head, src.Spec.Params(), n)
	}
	a, _, err := src.Read(embed)
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := src.Read(head); err != nil || string(a.Data) != string(b.Data) {
		t.Errorf("the head has other values than the embedding: %v", err)
	}
}
