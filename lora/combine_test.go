package lora

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// combined is one entry of ops.json, which PEFT 0.21.2 made.
type combined struct {
	Name string
	Args struct {
		Adapters []string
		Weights  []float64
		Method   string `json:"combination_type"`
		Rank     int    `json:"svd_rank"`
		Density  float64
		Majority string `json:"majority_sign_method"`
	}
	R      int
	Random bool
}

// TestCombine: every method gives the matrices of PEFT's add_weighted_adapter, those
// that end in svd their product.
func TestCombine(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/adapter_ops")
	raw, err := os.ReadFile(filepath.Join(dir, "ops.json"))
	must(t, err)
	var f struct{ Ops []combined }
	must(t, json.Unmarshal(raw, &f))
	deltas, _, err := formats.ReadSafetensors(filepath.Join(dir, "deltas.safetensors"))
	must(t, err)
	for _, op := range f.Ops {
		t.Run(op.Name, func(t *testing.T) {
			var ads []Weighted
			for i, name := range op.Args.Adapters {
				a, err := ReadFolder(filepath.Join(dir, "in", name))
				must(t, err)
				ads = append(ads, Weighted{a, op.Args.Weights[i]})
			}
			c := Combination{Method: op.Args.Method, Rank: op.Args.Rank, Density: op.Args.Density, Majority: op.Args.Majority}
			made, err := Combine(cpu.New(cpu.Options{}), ads, c, 42)
			must(t, err)
			to := filepath.Join(t.TempDir(), "a")
			must(t, made.Write(to, "test", nil))
			got, err := ReadFolder(to)
			must(t, err)
			want, err := ReadFolder(filepath.Join(dir, "out", op.Name))
			must(t, err)
			if got.Config.R != op.R || got.Config.Alpha != float64(op.R) || !got.Config.TargetModules.same(want.Config.TargetModules) || got.Config.UseRSLoRA {
				t.Errorf("config %+v", got.Config)
			}
			if len(got.tensors) != len(want.tensors) {
				t.Errorf("%d tensors, want %d", len(got.tensors), len(want.tensors))
			}
			worst := 0.0
			for name, w := range want.tensors {
				g := got.tensors[name]
				if g == nil || len(g.data) != len(w.data) {
					t.Fatalf("%s is missing or of another shape", name)
				}
				for i := range w.data {
					worst = max(worst, math.Abs(float64(g.data[i]-w.data[i])))
				}
			}
			_, _, svd := c.parts()
			switch {
			case op.Random:
				statistics(t, got, want)
			case svd:
				worst = 0
				for _, d := range deltas {
					if path, ok := strings.CutPrefix(d.Name, op.Name+"."); ok {
						worst = max(worst, apart(t, got, path, &d))
					}
				}
				fallthrough
			default:
				if worst > 1e-6 {
					t.Errorf("values differ by %v", worst)
				}
			}
			t.Logf("largest difference %.2g", worst)
		})
	}
}

// apart is how far the product of an adapter is from a golden one.
func apart(t *testing.T, f *Folder, path string, d *formats.NamedTensor) float64 {
	t.Helper()
	path = "model." + path
	a, b := f.tensors[path+".lora_A.weight"], f.tensors[path+".lora_B.weight"]
	if a == nil {
		t.Fatalf("no %s", path)
	}
	want := make([]float32, d.Shape[0]*d.Shape[1])
	block.GetF32(want, d.Data)
	worst, r, cols := 0.0, int(a.shape[0]), int(a.shape[1])
	for i := range want {
		sum := 0.0
		for j := range r {
			sum += float64(b.data[i/cols*r+j]) * float64(a.data[j*cols+i%cols])
		}
		worst = max(worst, math.Abs(sum-float64(want[i])))
	}
	return worst
}

// statistics compares masks that nobody can repeat: how many values are left, and how
// large they are.
func statistics(t *testing.T, got, want *Folder) {
	t.Helper()
	zeros, n, sums := [2]float64{}, 0.0, [2]float64{}
	for name, w := range want.tensors {
		n += float64(len(w.data))
		for i, v := range [][]float32{got.tensors[name].data, w.data} {
			for _, x := range v {
				if sums[i] += math.Abs(float64(x)); x == 0 {
					zeros[i]++
				}
			}
		}
	}
	if math.Abs(zeros[0]-zeros[1])/n > 0.03 || math.Abs(sums[0]/sums[1]-1) > 0.03 {
		t.Errorf("a share of %v is 0, in PEFT's example %v; magnitudes add up to %v and %v", zeros[0]/n, zeros[1]/n, sums[0], sums[1])
	}
}

// TestMaskedValues: whatever dare's masks are, each value of a result is what PEFT's formula
// makes of one of the four cases, kept or not of either adapter, and the cases are as
// frequent as the density says.
func TestMaskedValues(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/adapter_ops/in")
	var ads []Weighted
	for i, name := range []string{"a", "b"} {
		f, err := ReadFolder(filepath.Join(dir, name))
		must(t, err)
		ads = append(ads, Weighted{f, []float64{0.7, -0.4}[i]})
	}
	const density = 0.4
	for _, method := range []string{"dare_linear", "dare_ties"} {
		made, err := Combine(cpu.New(cpu.Options{}), ads, Combination{Method: method, Density: density}, 7)
		must(t, err)
		for name, got := range made.tensors {
			var w [2]float64
			for i, a := range ads {
				c := a.Folder.Config
				w[i] = math.Sqrt(math.Abs(a.Weight) * c.Alpha / float64(c.R))
			}
			if strings.Contains(name, ".lora_A.") {
				w[1] = -w[1]
			}
			var seen [4]float64
			for i, v := range got.data {
				found := false
				for kept := 3; kept >= 0 && !found; kept-- {
					var x [2]float64
					for k := range x {
						if kept>>k&1 == 1 {
							x[k] = float64(ads[k].Folder.tensors[name].data[i]) / density
						}
					}
					sum, n := 0.0, 0.0
					for k := range x {
						if method == "dare_linear" || x[k] != 0 && (x[k] > 0) == (x[0]+x[1] >= 0) {
							sum, n = sum+w[k]*x[k], n+1
						}
					}
					if method == "dare_ties" {
						sum /= max(n, 1)
					}
					if found = math.Abs(sum-float64(v)) <= 1e-6*max(1, math.Abs(sum)); found {
						seen[kept] += 1 / float64(len(got.data))
					}
				}
				if !found {
					t.Fatalf("%s: value %d of %s is %v", method, i, name, v)
				}
			}
			if both := seen[3]; method == "dare_linear" && (math.Abs(both-density*density) > 0.06 || math.Abs(seen[1]-density*(1-density)) > 0.06) {
				t.Errorf("%s: kept of both, of one: %v", name, seen)
			}
		}
	}
}
