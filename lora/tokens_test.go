package lora

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestTokens: an adapter with rows of tokens, of which eight are new to the base, gives
// PEFT's logits, attached and merged; the merged folder says how many tokens it has.
func TestTokens(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, width := evalBatch(t, root)
	dir := filepath.Join(root, "vocab_resize")
	want := arrays(t, filepath.Join(dir, "logits.safetensors"))
	src, err := arch.Open(filepath.Join(root, "base-llama"))
	must(t, err)
	defer src.Close()
	f, err := ReadFolder(filepath.Join(dir, "adapter"))
	must(t, err)
	must(t, Grow(src, f))
	if src.Spec.V != 328 {
		t.Fatalf("%d tokens, want 328", src.Spec.V)
	}
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
	must(t, err)
	defer m.Close()
	for folder, logits := range map[string]string{"adapter-init": "init", "adapter": "final"} {
		ad, err := Load(m, filepath.Join(dir, folder))
		must(t, err)
		if off := logitsOff(t, m, rows, width, want[logits]); !(off <= 5e-4) {
			t.Errorf("%s: logits within %g, allowed 5e-4", folder, off)
		}
		ad.Close()
	}
	plain, err := arch.Open(filepath.Join(root, "base-llama")) // Merge adds the tokens itself
	must(t, err)
	defer plain.Close()
	f32 := dtype.Of(dtype.F32)
	for _, name := range []string{"merged", "merged.gguf"} {
		out := filepath.Join(t.TempDir(), name)
		_, err = Merge(context.Background(), m.Dev, plain, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out, Type: &f32, Name: "test"}})
		must(t, err)
		made, merged := loadModel(t, out)
		if made.Spec.V != 328 {
			t.Errorf("%s has %d tokens", name, made.Spec.V)
		}
		if off := logitsOff(t, merged, rows, width, want["merged"]); !(off <= 5e-4) {
			t.Errorf("%s: logits within %g, allowed 5e-4", name, off)
		}
	}
}

// TestTiedTokens: on a tied base the head reads the trained rows, too; other rows stay.
func TestTiedTokens(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, _ := evalBatch(t, root)
	src, m := loadModel(t, filepath.Join(root, "base-qwen2"))
	ad, err := Apply(m, Config{R: 2, TargetModules: Targets{Names: []string{"q_proj"}}, TrainableTokenIndices: TokenIndices{"": {300, 7}}}, 1)
	must(t, err)
	before := logitsOf(t, m, rows)
	p := ad.Params()[len(ad.Params())-1]
	if p.Name != prefix+"model.embed_tokens"+tokenDelta || p.Shape[0] != 2 {
		t.Fatalf("%s %v", p.Name, p.Shape)
	}
	must(t, m.Dev.Run(func() error { m.Dev.Fill(m.Dev.Slice(p.Buffer, 0, p.Cols), 0); return nil })) // of token 300
	must(t, ad.Refresh())
	after := logitsOf(t, m, rows)
	for i, v := range after {
		if token := i % m.Spec.V; token == 300 && v != 0 || token == 8 && math.Abs(float64(v-before[i])) > 1e-3 && rows[0][0] != 300 {
			t.Fatalf("logit of token %d is %v, was %v", token, v, before[i])
		}
	}
	saved := filepath.Join(t.TempDir(), "saved")
	must(t, ad.Save(saved, SaveOptions{Base: "base"}))
	ad.Close()
	if d := farthest(withAdapter(t, m, saved, rows), after); d != 0 {
		t.Errorf("loaded again the logits are off by %g", d)
	}
	f, err := ReadFolder(saved)
	must(t, err)
	out := filepath.Join(t.TempDir(), "merged")
	_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: out}})
	must(t, err)
	if _, merged := loadModel(t, out); farthest(logitsOf(t, merged, rows), after) > 1e-4 || !merged.Spec.Tied {
		t.Errorf("merged: logits off by %g, tied %v", farthest(logitsOf(t, merged, rows), after), merged.Spec.Tied)
	}
	for _, c := range []TokenIndices{{"": {320}}, {"": {1, 1}}, {"nothing": {1}}, {"": {}}} {
		if _, err := Apply(m, Config{R: 2, TargetModules: Targets{Names: []string{"q_proj"}}, TrainableTokenIndices: c}, 1); fail.Code(err) != int(fail.Usage) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
