package train

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/lora"
)

// preferences are the reference's pairs and what it computed for them.
type preferences struct {
	Prompts, Chosen, Rejected [][]int32
	KL                        [][]int32 `json:"kl_completions"`
	Cases                     []preferenceCase
}

// preferenceCase is one loss of the reference.
type preferenceCase struct {
	Name           string
	Loss           float64
	GradNorm       float64 `json:"grad_norm"`
	Beta           float64
	LabelSmoothing *float64 `json:"label_smoothing"`
	SimPOGamma     *float64 `json:"simpo_gamma"`
	CPOAlpha       *float64 `json:"cpo_alpha"`
	Desirable      *float64 `json:"desirable_weight"`
	Undesirable    *float64 `json:"undesirable_weight"`
	Metrics        map[string]float64
}

// config is what a recipe says for a case: its name is objective, loss and numbers.
func (c *preferenceCase) config() Config {
	out := Config{Preferences: Preferences{Beta: &c.Beta, LabelSmoothing: c.LabelSmoothing, CPOAlpha: c.CPOAlpha, DesirableWeight: c.Desirable, UndesirableWeight: c.Undesirable}}
	objective, rest, _ := strings.Cut(c.Name, "_")
	loss := rest
	if i := strings.LastIndex(rest, "_b"); i >= 0 {
		loss = rest[:i]
	}
	switch out.Objective = ObjectiveName(objective); objective {
	case "dpo", "cpo":
		out.LossType = []string{loss}
		if loss == "simpo" {
			out.SimPOGamma = c.SimPOGamma
		}
	case "apo":
		out.Objective, out.LossType = "kto", []string{"apo_zero_unpaired"}
	}
	return out
}

// pairs are the samples: chosen, then rejected, in groups.
func (p *preferences) pairs() []data.Example {
	var out []data.Example
	for i, prompt := range p.Prompts {
		for k, answer := range [][]int32{p.Chosen[i], p.Rejected[i]} {
			e := data.Example{ID: uint64(2*i + k), IDs: append(prompt[:len(prompt):len(prompt)], answer...), Group: uint32(i + 1)}
			e.Loss = [][2]int32{{int32(len(prompt)), int32(len(e.IDs))}}
			out = append(out, e)
		}
	}
	return out
}

// answers are the samples one by one with marks: all chosen, then all rejected.
func (p *preferences) answers() []data.Example {
	var out []data.Example
	for k, mark := range []float32{data.Wanted, data.Unwanted} {
		for i, e := range p.pairs() {
			if i%2 == k {
				e.Group, e.Mark = 0, mark
				out = append(out, e)
			}
		}
	}
	return out
}

// goldenPairs is a job on the reference's pairs, or answers, with its trained adapter.
func goldenPairs(t *testing.T, c Config) (Job, *preferences) {
	t.Helper()
	var p preferences
	readJSON(t, filepath.Join(testdir.Shared(t, "golden/train/prefs"), "prefs.json"), &p)
	dir := testdir.Shared(t, "golden/train/lora")
	src, err := arch.Open(filepath.Join(dir, "base-llama"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	m, err := model.Load(device(t), src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c.LoRA.InitFrom, c.DType, c.SaveSteps = filepath.Join(dir, "lora/adapter"), "f32", Every{Steps: 1000}
	if c, err = c.Resolve(1); err != nil {
		t.Fatal(err)
	}
	ad, err := lora.Start(m, c.LoRA, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	ex := data.InMemory(p.pairs()...)
	if c.Samples() == 0 {
		ex = data.InMemory(p.answers()...)
	}
	return Job{Config: c, Model: m, Adapter: ad, Train: ex, MaxLength: 256, Packing: "none", Dir: t.TempDir()}, &p
}

// TestGoldenPreferences compares loss, metrics and gradients of every case of the
// reference, at once and sample by sample.
func TestGoldenPreferences(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/prefs")
	grads := arrays(t, filepath.Join(dir, "grads.safetensors"))
	var p preferences
	readJSON(t, filepath.Join(dir, "prefs.json"), &p)
	if len(p.Cases) < 20 {
		t.Fatalf("%d cases", len(p.Cases))
	}
	for _, want := range p.Cases {
		for _, at := range []string{"at once", "one by one"} {
			t.Run(want.Name+"/"+at, func(t *testing.T) {
				c := want.config()
				c.MicroBatchSize, c.GradientAccumulationSteps = 6, 1
				if at != "at once" {
					c.MicroBatchSize, c.GradientAccumulationSteps = 1, 6
				}
				j, _ := goldenPairs(t, c)
				compareCase(t, j, want, grads)
			})
		}
	}
}

// notMeasured are metrics of the reference that are none of ours: they are read from all
// logits of the vocabulary.
var notMeasured = []string{"entropy", "num_tokens", "logits/chosen", "logits/rejected", "mean_token_accuracy"}

// TestTRLLosses compares losses and gradient norms of options together: those of
// python3 cmd/tune/interop/trl_losses.py ../shared/data/golden/train (TRL 1.16.0).
func TestTRLLosses(t *testing.T) {
	var cases []struct {
		Config   json.RawMessage
		Loss     float64
		GradNorm float64 `json:"grad_norm"`
	}
	readJSON(t, "testdata/trl_losses.json", &cases)
	if len(cases) != 33 {
		t.Errorf("%d cases", len(cases))
	}
	for _, want := range cases {
		t.Run(string(want.Config), func(t *testing.T) {
			c := parse(t, string(want.Config))
			c.MicroBatchSize, c.GradientAccumulationSteps = 2, 3
			j, p := goldenPairs(t, c)
			if j.Config.Samples() == 1 {
				var chosen []data.Example
				for _, e := range p.pairs() {
					if e.ID%2 == 0 {
						e.Group = 0
						chosen = append(chosen, e)
					}
				}
				j.Train = data.InMemory(chosen...)
			}
			_, m := firstStep(t, j)
			if d := math.Abs(m.Loss - want.Loss); !(d <= 1e-5*max(1, want.Loss)) {
				t.Errorf("loss %v, want %v", m.Loss, want.Loss)
			}
			if d := math.Abs(m.GradNorm/want.GradNorm - 1); !(d <= 1e-4) {
				t.Errorf("gradient norm %v, want %v", m.GradNorm, want.GradNorm)
			}
		})
	}
}

// firstStep begins a run and returns it with the gradients of its first step.
func firstStep(t *testing.T, j Job) (*run, Metrics) {
	t.Helper()
	r, err := begin(j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	s, err := r.loader.Step(0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.gradients(context.Background(), s, r.count(s.Micro))
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

func compareCase(t *testing.T, j Job, want preferenceCase, grads map[string][]float32) {
	t.Helper()
	r, m := firstStep(t, j)
	if d := math.Abs(m.Loss - want.Loss); !(d <= 1e-5*max(1, want.Loss)) {
		t.Errorf("loss %v, want %v", m.Loss, want.Loss)
	}
	if d := math.Abs(m.GradNorm/want.GradNorm - 1); !(d <= 1e-4) {
		t.Errorf("gradient norm %v, want %v", m.GradNorm, want.GradNorm)
	}
	for name, v := range want.Metrics {
		if slices.Contains(notMeasured, name) {
			continue
		}
		got, ok := m.Objective.Get(name)
		if d := math.Abs(got - v); !ok || !(d <= 1e-5*max(1, math.Abs(v))) {
			t.Errorf("%s is %v, want %v", name, got, v)
		}
	}
	for _, v := range m.Objective {
		if _, ok := want.Metrics[v.Name]; !ok {
			t.Errorf("%s is no metric of the reference", v.Name)
		}
	}
	compareGradients(t, r, want.Name, grads, 2)
}

// compareGradients compares those gradients of r that the reference has as case.NAME,
// of which there are n.
func compareGradients(t *testing.T, r *run, name string, grads map[string][]float32, n int) {
	t.Helper()
	compared := 0
	for _, q := range r.opt.params {
		want, ok := grads[name+"."+q.Name]
		if !ok {
			continue
		}
		compared++
		diff, size := 0.0, 0.0
		for i, v := range values(t, r.dev, q.Grad) {
			diff += (float64(v) - float64(want[i])) * (float64(v) - float64(want[i]))
			size += float64(want[i]) * float64(want[i])
		}
		if d := math.Sqrt(diff / size); !(d <= 1e-4) {
			t.Errorf("gradient of %s differs by %.2g", q.Name, d)
		}
	}
	if compared != n {
		t.Errorf("%d gradients were compared", compared)
	}
}

// TestDPO: training on pairs raises the margin from zero, validates on pairs,
// and has the same bits with gradient checkpointing and after an interruption.
func TestDPO(t *testing.T) {
	j := pairsJob(t)
	losses(t, j)
	steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil || len(steps) != 12 || len(evals) == 0 {
		t.Fatalf("%d steps, %d validations, %v", len(steps), len(evals), err)
	}
	value := func(v Values, name string) float64 {
		for _, x := range v {
			if x.Name == name {
				return x.V
			}
		}
		t.Fatalf("no %s in %v", name, v)
		return 0
	}
	first, last := steps[0], steps[11]
	if !(math.Abs(first.Loss-math.Ln2) < 1e-6) || !(math.Abs(value(first.Objective, "rewards/margins")) < 1e-5) {
		t.Errorf("a new adapter begins with loss %v and %v", first.Loss, first.Objective)
	}
	if !(last.Loss < 0.5) || value(last.Objective, "rewards/accuracies") != 1 || !(value(last.Objective, "rewards/margins") > 0.5) {
		t.Errorf("ends with loss %v and %v", last.Loss, last.Objective)
	}
	if e := evals[len(evals)-1]; e.Perplexity != 0 || len(e.Objective) != 6 {
		t.Errorf("validation %+v", e)
	}
	slim := pairsJob(t)
	slim.Config.GradientCheckpointing = "true"
	losses(t, slim)
	if hash(t, slim) != hash(t, j) {
		t.Error("gradient checkpointing changes the result")
	}
	again := pairsJob(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	again.Progress = func(p Progress) {
		if p.Step == 5 {
			cancel()
		}
	}
	if _, err := Run(ctx, again); fail.Code(err) != int(fail.Interrupted) {
		t.Fatalf("error %v", err)
	}
	third := pairsJob(t)
	third.Dir = again.Dir
	losses(t, third)
	if hash(t, third) != hash(t, j) || curveOf(t, third.Dir) != curveOf(t, j.Dir) {
		t.Error("an interruption changes the result")
	}
}

// TestReferenceRounds: with bf16, too, a new adapter begins with no reward at
// all, in training and when measuring.
func TestReferenceRounds(t *testing.T) {
	j := pairsJob(t)
	j.Config.DType, j.Config.MaxSteps = "bf16", 1
	r, err := begin(j)
	if err != nil {
		t.Fatal(err)
	}
	defer r.end()
	s, err := r.loader.Step(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range []int64{1, 0} {
		score, err := r.pass(&s.Micro[0], whole{units: total})
		if err != nil {
			t.Fatal(err)
		}
		if n := float64(r.count(s.Micro[:1])); score.Loss != n*math.Ln2 || score.Values[0].V != 0 || score.Values[1].V != 0 {
			t.Errorf("of %d units: %+v", total, score)
		}
	}
}

// TestReferenceMemory: the pass of the reference keeps nothing for a gradient.
func TestReferenceMemory(t *testing.T) {
	var peaks []int64
	for _, training := range []bool{false, true} {
		j := pairsJob(t)
		r, err := begin(j)
		if err != nil {
			t.Fatal(err)
		}
		defer r.end()
		s, err := r.loader.Step(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.reference(&s.Micro[0], training, part{}); err != nil {
			t.Fatal(err)
		}
		peaks = append(peaks, r.dev.Info().Mem.Peak[kernels.Activations])
	}
	if peaks[0] == 0 || peaks[1] > peaks[0]*5/4 { // a norm's input lives until its result is read
		t.Errorf("%d bytes when measuring, %d in training", peaks[0], peaks[1])
	}
}

// pairsJob is smallJob on pairs whose chosen answers are of other letters than
// the rejected ones.
func pairsJob(t *testing.T) Job {
	t.Helper()
	j := smallJob(t, t.TempDir())
	c := Config{Objective: "dpo", MaxSteps: 12, GradientAccumulationSteps: 2, LearningRate: ptr(1e-2), DType: "f32",
		SaveSteps: Every{Steps: 2}, EvalSteps: Every{Steps: 5}, LoRA: lora.Config{R: 4}}
	var err error
	if j.Config, err = c.Resolve(7); err != nil {
		t.Fatal(err)
	}
	j.Adapter.Close()
	if j.Adapter, err = lora.Apply(j.Model, j.Config.LoRA, 7); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Adapter.Close)
	var ex []data.Example
	for i := range 20 {
		chosen, rejected := sample(uint64(i)), sample(uint64(i))
		half := len(chosen.IDs) / 2
		for k := half; k < len(chosen.IDs); k++ {
			chosen.IDs[k], rejected.IDs[k] = 97+chosen.IDs[k]%8, 110+rejected.IDs[k]%8
		}
		rejected.ID += 100
		chosen.Group, rejected.Group = uint32(i+1), uint32(i+1)
		ex = append(ex, chosen, rejected)
	}
	j.MaxLength = 128
	j.Train, j.Val = data.InMemory(ex[:32]...), data.InMemory(ex[32:]...)
	return j
}

// TestPairsOnly: single samples, groups for an objective of single samples, full
// training and weights trained in place are refused.
func TestPairsOnly(t *testing.T) {
	refused := func(what string, err error, words string) {
		t.Helper()
		if fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", what, err, words)
		}
	}
	run := func(change func(*Job)) error {
		j := pairsJob(t)
		change(&j)
		_, err := Run(context.Background(), j)
		return err
	}
	single := smallJob(t, "")
	refused("single samples", run(func(j *Job) { j.Train = single.Train }), "learns from 2 answers to a prompt")
	refused("single validation", run(func(j *Job) { j.Val = single.Val }), "learns from 2 answers to a prompt")
	refused("sft on pairs", run(func(j *Job) { j.Config.Objective = "sft" }), "would learn the rejected answers too")
	refused("bias", run(func(j *Job) {
		j.Adapter.Close()
		ad, err := lora.Apply(j.Model, lora.Config{R: 4, Bias: "all"}, 7)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ad.Close)
		j.Adapter = ad
	}), "is trained in its place")
	_, err := Config{Preferences: Preferences{Beta: ptr(0.2)}}.Resolve(1)
	refused("beta of sft", err, "beta belongs to objective: bco, cpo, distill, dpo, grpo, kto, orpo, rloo, simpo, not sft")
}
