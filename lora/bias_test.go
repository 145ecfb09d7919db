package lora

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// changed attaches a new adapter of which every value is changed, saves it, and returns the
// folder and the logits with it.
func changed(t *testing.T, m *model.Model, c Config, rows [][]int32) (string, []float32) {
	t.Helper()
	ad, err := Apply(m, c, 1)
	must(t, err)
	defer ad.Close()
	for _, p := range ad.Params() {
		v, err := values(m.Dev, p.Buffer)
		must(t, err)
		for i := range v {
			v[i] += float32(math.Sin(0.37*float64(i)) / 16)
		}
		must(t, m.Dev.Run(func() error { m.Dev.Upload(p.Buffer, kernels.Bytes(v)); return nil }))
	}
	must(t, ad.Refresh())
	folder := filepath.Join(t.TempDir(), "saved")
	must(t, ad.Save(folder, SaveOptions{Base: "base"}))
	return folder, logitsOf(t, m, rows)
}

// TestBesideLowRank: biases of B, biases of DoRA's layers and rows of heads are the same
// loaded again and merged. Curves of PEFT are in train/peft_test.go.
func TestBesideLowRank(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, _ := evalBatch(t, root)
	only := Targets{Names: []string{"q_proj", "v_proj"}}
	for _, c := range []struct {
		base string
		conf Config
		tied bool
	}{
		{"base-qwen2", Config{R: 2, TargetModules: only, LoRABias: true, InitWeights: InitNonZero}, true},
		{"base-qwen2", Config{R: 2, TargetModules: only, LoRABias: true, Bias: "all"}, true},
		{"base-qwen2", Config{R: 2, TargetModules: only, UseDoRA: true, Bias: "lora_only"}, true},
		{"base-qwen2", Config{R: 2, TargetModules: only, TrainableTokenIndices: TokenIndices{"embed_tokens": {7}, "lm_head": {7, 8}}}, false},
		{"base-qwen2", Config{R: 2, TargetModules: only, TrainableTokenIndices: TokenIndices{"embed_tokens": {7, 8}, "lm_head": {7, 8}}}, true},
		{"base-llama", Config{R: 2, TargetModules: only, TrainableTokenIndices: TokenIndices{"lm_head": {319, 7}}}, false},
	} {
		base := filepath.Join(root, c.base)
		_, m := loadModel(t, base)
		plain := logitsOf(t, m, rows)
		folder, want := changed(t, m, c.conf, rows)
		if d := farthest(plain, want); d < 0.01 {
			t.Errorf("%+v: changes logits by %g", c.conf, d)
		}
		if d := farthest(logitsOf(t, m, rows), plain); d != 0 {
			t.Errorf("%+v: taken off it leaves %g", c.conf, d)
		}
		if d := farthest(withAdapter(t, m, folder, rows), want); d != 0 {
			t.Errorf("%+v: loaded again the logits are off by %g", c.conf, d)
		}
		_, merged := mergedModel(t, base, folder, "merged")
		if d := farthest(logitsOf(t, merged, rows), want); d > 1e-4 || merged.Spec.Tied != c.tied {
			t.Errorf("%+v: merged the logits are off by %g, tied %v", c.conf, d, merged.Spec.Tied)
		}
	}
}

// TestBiasRefused: what has no place for a bias of B says so.
func TestBiasRefused(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, _ := evalBatch(t, root)
	src, m := loadModel(t, filepath.Join(root, "base-llama")) // without biases
	c := Config{R: 2, TargetModules: Targets{Names: []string{"q_proj"}}, LoRABias: true}
	folder, want := changed(t, m, c, rows)
	f, err := ReadFolder(folder)
	must(t, err)
	if d := farthest(withAdapter(t, m, folder, rows), want); d != 0 {
		t.Errorf("loaded again the logits are off by %g", d)
	}
	_, err = Merge(context.Background(), m.Dev, src, []Weighted{{f, 1}}, MergeOptions{Dense: arch.Dense{Path: filepath.Join(t.TempDir(), "merged")}})
	if fail.Code(err) != int(fail.Input) {
		t.Errorf("merged into a base without biases: %v", err)
	}
	ad, err := Apply(m, c, 1)
	must(t, err)
	defer ad.Close()
	if l := ad.Layers[0].Linear; l.BiasOf(&autograd.Tape{Base: true}) != nil || l.BiasOf(&autograd.Tape{}) != l.Shift {
		t.Error("a pass without adapters adds their biases")
	}
	if err := ad.CheckGGUF(); fail.Code(err) != int(fail.Usage) {
		t.Errorf("as a GGUF: %v", err)
	}
	tokens, err := Apply(m, Config{R: 2, TargetModules: Targets{Names: []string{"v_proj"}}, TrainableTokenIndices: TokenIndices{"": {1}}}, 1)
	must(t, err)
	defer tokens.Close()
	if err := tokens.CheckGGUF(); fail.Code(err) != int(fail.Usage) {
		t.Errorf("rows of tokens as a GGUF: %v", err)
	}
	if _, err := Load(m, folder); fail.Code(err) == 0 {
		t.Error("two adapters with lora_bias on one layer")
	}
	for _, bad := range []Config{
		{R: 2, LoRABias: true, UseDoRA: true}, {R: 2, LoRABias: true, InitWeights: InitGaussian},
		{R: 2, LoRABias: true, TargetModules: Targets{Names: []string{"embed_tokens"}}}, {R: 3, InitWeights: InitOrthogonal},
	} {
		if _, err := Apply(m, bad, 1); fail.Code(err) != int(fail.Usage) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestMiCA: an adapter whose B PEFT did not train is used as it is and not gone on with.
func TestMiCA(t *testing.T) {
	root := testdir.Shared(t, "golden/train/lora")
	rows, _ := evalBatch(t, root)
	_, m := loadModel(t, filepath.Join(root, "base-llama"))
	folder := filepath.Join(root, "lora", "adapter")
	mica := edited(t, folder, setConfig("init_lora_weights", "mica"))
	if d := farthest(withAdapter(t, m, mica, rows), withAdapter(t, m, folder, rows)); d != 0 {
		t.Errorf("logits are off by %g", d)
	}
	if _, err := Start(m, Config{InitFrom: mica}, 1); fail.Code(err) != int(fail.Usage) {
		t.Errorf("gone on with: %v", err)
	}
}

// TestOrthogonal: B·A is zero and neither of them is, as PEFT draws them: with deviation
// √½/10, for half of a basis holds half of a vector.
func TestOrthogonal(t *testing.T) {
	a, b := initial(InitOrthogonal, 1, "q_proj", 4, 0, 300, 200)
	for i := range 200 {
		for j := range 300 {
			sum := 0.0
			for k := range 4 {
				sum += float64(b[i*4+k]) * float64(a[k*300+j])
			}
			if math.Abs(sum) > 1e-7 {
				t.Fatalf("B·A is %g at %d, %d", sum, i, j)
			}
		}
	}
	for _, v := range [][]float32{a, b} {
		if dev := math.Sqrt(sumSquares(v) / float64(len(v))); math.Abs(dev/(0.1*math.Sqrt(0.5))-1) > 0.1 {
			t.Errorf("deviation %g", dev)
		}
	}
}
