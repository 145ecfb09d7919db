package merge

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// golden is one entry of merges.json, which mergekit 0.1.5 made.
type golden struct {
	Name    string
	Random  bool
	Layers  int `json:"num_hidden_layers"`
	DType   string
	Tensors map[string]struct {
		Shape   []int64
		Sum, L2 float64
		Stride  int
		Samples []float64
	}
	Statistics map[string]struct {
		Kept    float64
		L1Delta float64 `json:"l1_delta"`
		Factor  float64 `json:"factor_mean"`
	}
	Seeds struct {
		Zero float64 `json:"fraction_zero"`
		L1   float64 `json:"mean_l1"`
		Std  float64 `json:"std_l1"`
	} `json:"over_30_seeds"`
}

const probe = "model.layers.1.self_attn.q_proj.weight"

// goldens reads them; dir is the folder.
func goldens(t *testing.T) (dir string, list []golden) {
	t.Helper()
	dir = testdir.Shared(t, "golden/train/merge_models")
	raw, err := os.ReadFile(filepath.Join(dir, "merges.json"))
	must(t, err)
	var f struct{ Merges []golden }
	must(t, json.Unmarshal(raw, &f))
	return dir, f.Merges
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// merged runs a configuration on the models in dir/in and returns the result's folder.
func merged(t *testing.T, dir, config string, seed uint64) string {
	t.Helper()
	c, err := Read("config.yaml", []byte(config))
	must(t, err)
	models := map[Model]*arch.Source{}
	for _, m := range c.References() {
		if models[m], err = arch.Open(filepath.Join(dir, "in", string(m))); err != nil {
			t.Fatal(err)
		}
		defer models[m].Close()
	}
	out := filepath.Join(t.TempDir(), "m")
	_, err = Write(context.Background(), cpu.New(cpu.Options{}), c, models, Options{Path: out, Seed: seed})
	must(t, err)
	return out
}

// values reads a model's tensors.
func values(t *testing.T, path string) (map[string][]float32, map[string][]int64) {
	t.Helper()
	r, err := formats.Open(path)
	must(t, err)
	defer r.Close()
	v, shapes := map[string][]float32{}, map[string][]int64{}
	list := r.Tensors()
	for i := range list {
		x := &list[i]
		raw, err := r.Read(x)
		must(t, err)
		v[x.Name] = make([]float32, x.Elements())
		block.DecodeAll(v[x.Name], block.Raw{Type: x.Type, Rows: x.Rows(), Cols: x.Cols(), Data: raw})
		shapes[x.Name] = x.Shape
	}
	return v, shapes
}

// TestGolden: every method gives mergekit's tensors.
func TestGolden(t *testing.T) {
	dir, list := goldens(t)
	whole, _, err := formats.ReadSafetensors(filepath.Join(dir, "tensors.safetensors"))
	must(t, err)
	for _, g := range list {
		if g.Random {
			continue
		}
		t.Run(g.Name, func(t *testing.T) {
			config, err := os.ReadFile(filepath.Join(dir, "configs", g.Name+".yaml"))
			must(t, err)
			out := merged(t, dir, string(config), 0)
			src, err := arch.Open(out)
			must(t, err)
			defer src.Close()
			if len(src.Spec.Layers) != g.Layers {
				t.Errorf("%d layers, want %d", len(src.Spec.Layers), g.Layers)
			}
			ulp := 0.0
			if g.DType == "bfloat16" {
				ulp = 1. / 128
			}
			v, shapes := values(t, out)
			if len(v) != len(g.Tensors) {
				t.Errorf("%d tensors, want %d", len(v), len(g.Tensors))
			}
			worst := 0.0
			near := func(name string, i int, got, want float64) {
				t.Helper()
				d := math.Abs(got - want)
				worst = max(worst, d)
				if d > 1e-6+ulp*math.Abs(want) {
					t.Errorf("%s[%d] is %v, want %v", name, i, got, want)
				}
			}
			for name, w := range g.Tensors {
				got := v[name]
				if len(got) == 0 || len(shapes[name]) != len(w.Shape) || shapes[name][0] != w.Shape[0] {
					t.Fatalf("%s: shape %v, want %v", name, shapes[name], w.Shape)
				}
				for i, s := range w.Samples {
					near(name, i*w.Stride, float64(got[i*w.Stride]), s)
				}
				l2 := norm(got)
				if math.Abs(l2-w.L2) > 1e-6*w.L2+ulp*w.L2/16 {
					t.Errorf("%s: norm %v, want %v", name, l2, w.L2)
				}
			}
			found := false
			for _, x := range whole {
				if x.Name != g.Name+"."+probe {
					continue
				}
				found = true
				want := make([]float32, len(v[probe]))
				if x.DType == "BF16" {
					block.GetBF16(want, x.Data)
				} else {
					block.GetF32(want, x.Data)
				}
				for i := range want {
					near(probe, i, float64(v[probe][i]), float64(want[i]))
				}
			}
			if !found {
				t.Errorf("no whole tensor %s.%s", g.Name, probe)
			}
			t.Logf("largest difference %.2g", worst)
		})
	}
}

// TestRandom: over a few seeds the masks have the density and the norms of mergekit's,
// and a seed gives the same bits again.
func TestRandom(t *testing.T) {
	const seeds = 6
	dir, list := goldens(t)
	base, _ := values(t, filepath.Join(dir, "in", "base"))
	for _, g := range list {
		if !g.Random {
			continue
		}
		t.Run(g.Name, func(t *testing.T) {
			config, err := os.ReadFile(filepath.Join(dir, "configs", g.Name+".yaml"))
			must(t, err)
			zero, l1 := 0.0, 0.0
			var first map[string][]float32
			for seed := range uint64(seeds) {
				v, _ := values(t, merged(t, dir, string(config), seed))
				if seed == 0 {
					first = v
				}
				for i, x := range v[probe] {
					d := math.Abs(float64(x) - float64(base[probe][i]))
					l1 += d / seeds
					if d == 0 {
						zero += 1 / float64(seeds*len(v[probe]))
					}
				}
			}
			if math.Abs(zero-g.Seeds.Zero) > 0.02 {
				t.Errorf("share of zeros %v, want %v", zero, g.Seeds.Zero)
			}
			if math.Abs(l1-g.Seeds.L1) > 1e-5*g.Seeds.L1+1.5*g.Seeds.Std {
				t.Errorf("sum of magnitudes %v, want %v ± %v", l1, g.Seeds.L1, g.Seeds.Std)
			}
			again, _ := values(t, merged(t, dir, string(config), 0))
			for name, w := range g.Statistics {
				kept, sum := 0, 0.0
				for i, x := range first[name] {
					if math.Float32bits(x) != math.Float32bits(again[name][i]) {
						t.Fatalf("%s: another value for the same seed", name)
					}
					d := math.Abs(float64(x) - float64(base[name][i]))
					if sum += d; d != 0 {
						kept++
					}
				}
				if share := float64(kept) / float64(len(first[name])); math.Abs(share-w.Kept) > 0.06 {
					t.Errorf("%s: keeps %v, mergekit's example %v", name, share, w.Kept)
				}
				if math.Abs(sum-w.L1Delta) > 1e-5*w.L1Delta {
					t.Errorf("%s: magnitudes add up to %v, want %v: those before the mask", name, sum, w.L1Delta)
				}
			}
		})
	}
}

// TestZeroDensity: of a model with density 0 nothing is taken, and of one with a density
// above 0 one value at least, in numbers of mergekit 0.1.5's run_merge on the same models.
func TestZeroDensity(t *testing.T) {
	dir, _ := goldens(t)
	for _, want := range []struct {
		method, more, density string
		first                 [3]float64
		norm                  float64
	}{
		{"ties", "", "1e-9", [3]float64{-0.0005045682191848755, -0.009698784910142422, -0.027720166370272636}, 1.613000643741848},
		{"breadcrumbs", ", gamma: 0.01", "0", [3]float64{-0.00875653326511383, -0.006847925018519163, -0.022631008177995682}, 1.2235252468356204},
		{"dare_linear", "", "0", [3]float64{-0.00875653326511383, -0.006847925018519163, -0.022631008177995682}, 1.2235252468356204},
		{"della", ", epsilon: 0.1", "0", [3]float64{-0.0005045682191848755, -0.009698784910142422, -0.027720166370272636}, 1.605434195659893},
	} {
		model := func(name, weight, density string) string {
			return "- {model: " + name + ", parameters: {weight: " + weight + ", density: " + density + want.more + "}}\n"
		}
		v, _ := values(t, merged(t, dir, "merge_method: "+want.method+"\ndtype: float32\nbase_model: base\nmodels:\n"+
			model("a", "0.5", "0")+model("b", "0.7", "1")+model("c", "0.4", want.density), 0))
		for i, w := range want.first {
			if got := float64(v[probe][i]); math.Abs(got-w) > 1e-6 {
				t.Errorf("%s: value %d is %v, want %v", want.method, i, got, w)
			}
		}
		if got := norm(v[probe]); math.Abs(got-want.norm) > 1e-6 {
			t.Errorf("%s: norm %v, want %v", want.method, got, want.norm)
		}
	}
}

// TestKarcherWeights: a weight that all models have changes nothing, as in mergekit; others,
// which mergekit reads and does not use, are refused.
func TestKarcherWeights(t *testing.T) {
	dir, _ := goldens(t)
	config := func(a, b string) string {
		return "merge_method: karcher\ndtype: float32\nmodels:\n- {model: a" + a + "}\n- {model: b" + b + "}\n"
	}
	plain, _ := values(t, merged(t, dir, config("", ""), 0))
	same, _ := values(t, merged(t, dir, config(", parameters: {weight: 0.3}", ", parameters: {weight: 0.3}"), 0))
	if !slices.Equal(plain[probe], same[probe]) {
		t.Error("a weight that all have changes the mean")
	}
	c, err := Read("config.yaml", []byte(config(", parameters: {weight: 0.3}", ", parameters: {weight: 0.4}")))
	must(t, err)
	models := map[Model]*arch.Source{}
	for _, m := range c.References() {
		models[m], err = arch.Open(filepath.Join(dir, "in", string(m)))
		must(t, err)
		defer models[m].Close()
	}
	_, err = Write(context.Background(), cpu.New(cpu.Options{}), c, models, Options{Path: filepath.Join(t.TempDir(), "m")})
	if err == nil || !strings.Contains(err.Error(), "karcher counts all models alike") {
		t.Errorf("error %v", err)
	}
}
