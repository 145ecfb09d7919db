package lora

import (
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// calibration are the samples that the reference looked at.
func calibration(t *testing.T, root, variant string) []Sample {
	t.Helper()
	var c struct {
		Range [2]int `json:"calibration_micro_batches"`
	}
	must(t, json.Unmarshal(testdir.ReadFile(t, filepath.Join(root, "lora2", variant, "curve.json")), &c))
	return batches(t, root, c.Range)
}

// batches are the samples of some of the reference's micro batches.
func batches(t *testing.T, root string, part [2]int) []Sample {
	t.Helper()
	var b struct {
		Micro []struct {
			IDs    [][]int32 `json:"input_ids"`
			Labels [][]int32 `json:"labels"`
			Mask   [][]int32 `json:"attention_mask"`
		} `json:"micro_batches"`
	}
	must(t, json.Unmarshal(testdir.ReadFile(t, filepath.Join(root, "lora", "batches.json")), &b))
	var out []Sample
	for _, m := range b.Micro[part[0]:part[1]] {
		for i, ids := range m.IDs {
			var s Sample
			for j, id := range ids {
				if m.Mask[i][j] == 1 {
					s.IDs, s.Learn = append(s.IDs, id), append(s.Learn, m.Labels[i][j] != -100)
				}
			}
			out = append(out, s)
		}
	}
	return out
}

// TestCorDA: the product that is taken from the weight is PEFT's.
func TestCorDA(t *testing.T) {
	for _, method := range []string{"ipm", "kpm"} {
		t.Run(method, func(t *testing.T) { testCorDA(t, method) })
	}
}

func testCorDA(t *testing.T, method string) {
	root := testdir.Shared(t, "golden/train")
	_, m := loadModel(t, filepath.Join(root, "lora", "base-llama"))
	dir := filepath.Join(root, "lora2", "corda_"+method)
	f, err := ReadFolder(filepath.Join(dir, "adapter-converted")) // of the same layers
	must(t, err)
	c := Config{R: 8, Alpha: 16, TargetModules: f.Config.TargetModules, InitWeights: InitCorDA, CorDA: &CorDA{Method: method}}
	ad, err := ApplyOn(m, c, 1, calibration(t, root, "corda_"+method))
	must(t, err)
	defer ad.Close()
	want := arrays(t, filepath.Join(dir, "adapter-init", "adapter_model.safetensors"))
	for _, l := range ad.Layers {
		a, err := values(m.Dev, l.LoRA.A.Buffer)
		must(t, err)
		b, err := values(m.Dev, l.LoRA.B.Buffer)
		must(t, err)
		wa, wb := want[l.LoRA.A.Name], want[l.LoRA.B.Name]
		in, diff, size := l.Linear.In(), 0.0, 0.0
		for i := range l.Linear.Out() * in {
			got, ref := 0.0, 0.0
			for k := range l.R {
				got += float64(b[i/in*l.R+k]) * float64(a[k*in+i%in])
				ref += float64(wb[i/in*l.R+k]) * float64(wa[k*in+i%in])
			}
			diff, size = diff+(got-ref)*(got-ref), size+ref*ref
		}
		allowed := 2e-3
		if method == "kpm" { // the last vectors feel torch's float32: in float64 they are as far
			allowed = 1e-2
		}
		if off := math.Sqrt(diff / size); !(off < allowed) {
			t.Errorf("%s: the product is off by %g of its norm", l.Path, off)
		}
	}
	if _, err := ApplyOn(m, c, 1, nil); fail.Code(err) != int(fail.Input) {
		t.Errorf("without samples: %v", err)
	}
}

// TestEVA: components span what PEFT's incremental PCA found of the same samples, and
// ranks are dealt likewise.
func TestEVA(t *testing.T) {
	root := testdir.Shared(t, "golden/train")
	_, m := loadModel(t, filepath.Join(root, "lora", "base-llama"))
	one := 1.0
	for variant, e := range map[string]*EVA{"eva": nil, "eva_rho1": {Rho: &one, Whiten: true}} {
		f, err := ReadFolder(filepath.Join(root, "lora2", variant, "adapter-init"))
		must(t, err)
		ad, err := ApplyOn(m, Config{R: 8, Alpha: 16, TargetModules: f.Config.TargetModules, InitWeights: InitEVA, EVA: e}, 1, calibration(t, root, variant))
		must(t, err)
		if len(ad.Layers) != len(f.Config.TargetModules.Names) {
			t.Errorf("%s: %d layers, PEFT has %d", variant, len(ad.Layers), len(f.Config.TargetModules.Names))
		}
		total := 0
		for _, l := range ad.Layers {
			total += l.R
			r, alpha, err := f.Config.rankAlpha(l.Path)
			must(t, err)
			if variant == "eva_rho1" && l.R != 8 || l.R-r > 1 || r-l.R > 1 || math.Abs(l.Alpha/float64(l.R)-alpha/float64(r)) > 1e-9 {
				t.Errorf("%s %s: rank %d and alpha %g, PEFT %d and %g", variant, l.Path, l.R, l.Alpha, r, alpha)
			}
			a, err := values(m.Dev, l.LoRA.A.Buffer)
			must(t, err)
			in, ref := l.Linear.In(), f.tensors[l.Path+".lora_A.weight"].data
			span := func(v []float32, n int) [][]float64 {
				out := make([][]float64, n)
				for k := range out {
					for _, x := range v[k*in : (k+1)*in] {
						out[k] = append(out[k], float64(x))
					}
				}
				orthonormal(out)
				return out
			}
			if n := 4; away(span(ref, min(r, 8)), span(a, n)) > 0.15 { // the largest directions lie in PEFT's
				t.Errorf("%s %s: the first %d components leave PEFT's by %g", variant, l.Path, n, away(span(ref, min(r, 8)), span(a, n)))
			}
			b, err := values(m.Dev, l.LoRA.B.Buffer)
			must(t, err)
			if slices.ContainsFunc(b, func(x float32) bool { return x != 0 }) {
				t.Errorf("%s: B is not zero", l.Path)
			}
			if variant == "eva_rho1" { // whitened: rows have 1/√s, which falls with s
				t.Logf("%s: row lengths %.4g %.4g, PEFT %.4g %.4g", l.Path, length(a[:in]), length(a[in:2*in]), length(ref[:in]), length(ref[in:2*in]))
			}
		}
		if total != 8*len(ad.Layers) {
			t.Errorf("%s: ranks together are %d", variant, total)
		}
		ad.Close()
	}
}

func length(v []float32) float64 { return math.Sqrt(sumSquares(v)) }
