package train

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// TestTurns: as many layers as were asked for, for as long, all as often in the long run,
// and counted as one who looks at every step counts.
func TestTurns(t *testing.T) {
	for _, c := range []LISA{{1, 1}, {2, 3}, {5, 7}, {3, 100}} {
		draws := 2000
		steps := draws * c.Interval
		w := &turns{LISA: c, seed: 7, layers: []int{0, 2, 3, 4, 9}}
		seen, counts := map[int]int{}, map[int]int{}
		for step := 1; step <= steps; step++ {
			got := w.learn(step)
			if len(got) != c.Layers {
				t.Fatalf("%v: step %d has layers %v", c, step, got)
			}
			if (step-1)%c.Interval != 0 && fmt.Sprint(got) != fmt.Sprint(w.learn(step-1)) {
				t.Fatalf("%v: other layers in step %d than in the one before", c, step)
			}
			for k := range got {
				seen[k]++
				counts[k]++
			}
			for _, k := range w.layers {
				want := counts[k]
				if !got[k] {
					want = 0
				}
				if n := w.updates(&param{layer: k}, step); n != want {
					t.Fatalf("%v: layer %d has %d updates after step %d, expected %d", c, k, n, step, want)
				}
			}
		}
		for _, k := range w.layers {
			want := float64(c.Layers) / 5 // of the draws, give or take four deviations
			if share := float64(seen[k]) / float64(steps); math.Abs(share-want) > 4*math.Sqrt(want*(1-want)/float64(draws)) {
				t.Errorf("%v: layer %d learns in %.2f of the steps", c, k, share)
			}
		}
		if n := w.updates(&param{layer: 2}, 1); n > 1 { // after going back
			t.Errorf("%v: %d updates after one step", c, n)
		}
	}
	if n := (*turns)(nil).updates(&param{layer: 3}, 17); n != 17 {
		t.Errorf("without turns: %d", n)
	}
}

// TestLISAUpdates compares with torch's optimizers, to which a parameter that rests shows
// no gradient, as Transformers' Trainer has it with axolotl's LISA:
//
//	python lisa.py, which is in testdata/lisa.json
func TestLISAUpdates(t *testing.T) {
	raw, err := os.ReadFile("testdata/lisa.json")
	if err != nil {
		t.Fatal(err)
	}
	var ref struct {
		Turns [][]int
		Runs  map[string]map[string]struct {
			Sum   float64
			First []float32
		}
	}
	if err := json.Unmarshal(raw, &ref); err != nil {
		t.Fatal(err)
	}
	inputs := testdir.Shared(t, "golden/train/optim/inputs.safetensors")
	in, shapes := arrays(t, inputs), shapesOf(t, inputs)
	for name, run := range ref.Runs {
		c := Config{Adapter: "none", Optimizer: OptimizerName(name), LRScheduler: "constant", LearningRate: ptr(0.01), MaxGradNorm: ptr(0.0), LISA: LISA{1, 3}}
		if name == "adamw" {
			c.WeightDecay = 0.05
		}
		if c, err = c.Resolve(1); err != nil {
			t.Fatal(err)
		}
		sched, err := newSchedule(c, 10)
		if err != nil {
			t.Fatal(err)
		}
		dev := device(t)
		var ps []param
		for i, k := range []string{"big", "mat", "tall", "vec"} {
			p := goldenParam(t, dev, k, in["p."+k], shapes["p."+k], c.WeightDecay)
			if p.layer = i - 1; i > 0 {
				p.off = ps[i-1].off + ps[i-1].Len()
			}
			ps = append(ps, p)
		}
		o, err := newOptimizer(dev, c, sched, ps, "")
		if err != nil {
			t.Fatal(err)
		}
		defer o.release()
		for s, want := range ref.Turns {
			if got := o.turns.learn(s + 1); len(got) != 1 || !got[want[0]] {
				t.Fatalf("step %d: layers %v learn, the reference has %v", s+1, got, want)
			}
			o.focus(s + 1)
			if err := o.clear(); err != nil {
				t.Fatal(err)
			}
			for _, p := range ps {
				if p.Grad != nil {
					dev.Run(func() error { dev.Upload(p.Grad, kernels.Bytes(in["g"+strconv.Itoa(s)+"."+p.Name])); return nil })
				} else if p.layer < 0 || p.layer == want[0] {
					t.Fatalf("step %d: %s has no gradient", s+1, p.Name)
				}
			}
			if _, err := o.norm(); err != nil {
				t.Fatal(err)
			}
			if err := o.step(s+1, sched.LR(s)); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range ps {
			got, sum := values(t, dev, p.Buffer), 0.0
			for _, v := range got {
				sum += float64(v)
			}
			if want := run[p.Name]; math.Abs(sum-want.Sum) > 2e-6*float64(len(got)) || slices.ContainsFunc([]int{0, 1, 2, 3}, func(i int) bool { return math.Abs(float64(got[i]-want.First[i])) > 2e-6 }) {
				t.Errorf("%s: %s has sum %g and begins %v, expected %g and %v", name, p.Name, sum, got[:4], want.Sum, want.First)
			}
		}
	}
}

// TestLISA: layers that rest do not move, and a run that was stopped goes on to the same
// weights.
func TestLISA(t *testing.T) {
	job := func(steps int) Job {
		j, _, _ := goldenJob(t, variant{name: "full", full: true})
		j.Config.LISA, j.Config.MaxSteps, j.Config.LRScheduler = LISA{1, 2}, steps, "constant"
		j.Config.EMADecay = ptr(0.5)
		return j
	}
	all := func(j Job) map[string][]float32 {
		out := map[string][]float32{}
		for _, p := range j.Model.Params() {
			out[p.Name] = values(t, device(t), p.Buffer)
		}
		return out
	}
	j := job(2)
	j.Config.EMADecay = nil
	before := all(j)
	if _, err := Run(context.Background(), j); err != nil {
		t.Fatal(err)
	}
	moved := map[string]bool{}
	for name, v := range all(j) {
		layer := ""
		if part := strings.Split(name, "."); len(part) > 2 && part[1] == "layers" {
			layer = part[2]
		}
		if !slices.Equal(v, before[name]) {
			moved[layer] = true
		} else if layer == "" {
			t.Errorf("%s did not move", name)
		}
	}
	if len(moved) != 2 || !moved[""] {
		t.Errorf("layers that moved: %v", moved)
	}

	whole, first := job(6), job(6)
	if _, err := Run(context.Background(), whole); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	first.Progress = func(p Progress) {
		if p.Step == 3 {
			cancel()
		}
	}
	if _, err := Run(ctx, first); fail.Code(err) != int(fail.Interrupted) {
		t.Fatal(err)
	}
	again := job(6)
	again.Dir, again.Identity = first.Dir, first.Identity
	if _, err := Run(context.Background(), again); err != nil {
		t.Fatal(err)
	}
	want, got := all(whole), all(again)
	for name := range want {
		if !slices.Equal(want[name], got[name]) {
			t.Errorf("%s differs after going on", name)
		}
	}
	a, b := metricsOf(t, filepath.Join(whole.Dir, MetricsFile)), metricsOf(t, filepath.Join(again.Dir, MetricsFile))
	if len(a) != 6 || len(b) != 6 {
		t.Fatalf("%d and %d steps", len(a), len(b))
	}
	for i := range a {
		if a[i].Loss != b[i].Loss || a[i].GradNorm != b[i].GradNorm {
			t.Errorf("step %d: loss %g and %g, norm %g and %g", i+1, a[i].Loss, b[i].Loss, a[i].GradNorm, b[i].GradNorm)
		}
	}
}

func metricsOf(t *testing.T, path string) []Metrics {
	t.Helper()
	steps, _, err := ReadMetrics(path)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// TestLISARefusals are settings that would do nothing, or something else.
func TestLISARefusals(t *testing.T) {
	for want, c := range map[string]Config{
		"lisa_n_layers, which says how many, is missing": {Adapter: "none", LISA: LISA{Interval: 3}},
		"lisa_step_interval, which says":                 {Adapter: "none", LISA: LISA{Layers: 3}},
		"belongs to adapter: none, not lora":             {LISA: LISA{1, 3}},
		"optimizer muon remembers":                       {Adapter: "none", Optimizer: "muon", LISA: LISA{1, 3}},
		"optimizer prodigy remembers":                    {Adapter: "none", Optimizer: "prodigy", LISA: LISA{1, 3}},
		"optimizer schedule_free_adamw":                  {Adapter: "none", Optimizer: "schedule_free_adamw", LISA: LISA{1, 3}},
		"dtype: fp16":                                    {Adapter: "none", DType: fp16, LISA: LISA{1, 3}},
	} {
		if _, err := c.Resolve(1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	j, _, _ := goldenJob(t, variant{name: "full", full: true})
	j.Config.LISA = LISA{1000, 2}
	if _, err := Run(context.Background(), j); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "layers have weights") {
		t.Errorf("more layers than there are: %v", err)
	}
}
