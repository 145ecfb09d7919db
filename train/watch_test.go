package train

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestSpikeRule follows the rule of spikes: numpy's median and MAD of 1.0 … 1.15 are
// 1.075 and 0.04, so that spikes begin at 1.075 + 6·1.4826·0.04 = 1.430824.
func TestSpikeRule(t *testing.T) {
	var values []float64
	for i := range 16 {
		values = append(values, 1+0.01*float64(i))
	}
	if _, _, ok := spikeLimit(values[:15]); ok {
		t.Error("fifteen steps say nothing yet")
	}
	median, limit, ok := spikeLimit(values)
	if !ok || math.Abs(median-1.075) > 1e-12 || math.Abs(limit-1.430824) > 1e-9 {
		t.Errorf("median %v, limit %v", median, limit)
	}
	var flat []float64
	for range 20 {
		flat = append(flat, 2)
	}
	if _, limit, _ := spikeLimit(flat); math.Abs(limit-2.12) > 1e-12 {
		t.Errorf("of a flat curve %v, want 6 %% above it", limit)
	}
	var s spikes
	marked := ""
	for i := range 60 {
		m := Metrics{Step: i, Loss: 2 + 0.1*math.Sin(float64(i)), GradNorm: 1}
		if i == 30 || i == 31 { // the first does not hide the second
			m.Loss = 5
		}
		if i == 40 {
			m.GradNorm = 1.2
		}
		for _, x := range s.see(&m, true) {
			marked += fmt.Sprint(i, x.Name, " ")
		}
	}
	if marked != "30loss 31loss 40grad_norm " {
		t.Errorf("marked %s", marked)
	}
}

// spikyJob has one row in 24 steps that is nothing like the others.
func spikyJob(t *testing.T, dir string) Job {
	j := smallJob(t, dir)
	j.Shuffle, j.Packing, j.Config.MaxSteps, j.Config.GradientAccumulationSteps, j.Config.MicroBatchSize = false, "none", 24, 1, 1
	j.Config.LearningRate, j.Config.MaxGradNorm = ptr(1e-2), ptr(0.1)
	var ex []data.Example
	for i := range 24 {
		e := data.Example{ID: uint64(i), From: data.RowRef{File: "a.jsonl", Row: int64(i + 1)}}
		for k := range 30 {
			e.IDs = append(e.IDs, int32(97+k%2))
		}
		if i == 20 {
			for k := range e.IDs {
				e.IDs[k] = int32(1 + 7*k)
			}
		}
		e.Loss = [][2]int32{{1, 30}}
		ex = append(ex, e)
	}
	j.Train = data.InMemory(ex...)
	return j
}

// TestSpikes: a row unlike the others is marked and named, interrupted or not.
func TestSpikes(t *testing.T) {
	marks := func(dir string) string {
		steps, _, err := ReadMetrics(filepath.Join(dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		raw := ""
		for _, m := range steps {
			if len(m.Spikes) > 0 {
				b, _ := json.Marshal(m.Spikes)
				raw += fmt.Sprint(m.Step, string(b))
			}
		}
		return raw
	}
	var said []string
	j := spikyJob(t, t.TempDir())
	j.Log = func(s string) { said = append(said, s) }
	losses(t, j)
	want := marks(j.Dir)
	if !strings.HasPrefix(want, `21[{"name":"loss"`) || !strings.Contains(strings.Join(said, "\n"), "step 21 is a spike: loss") || !strings.Contains(strings.Join(said, "\n"), "a.jsonl row 21") {
		t.Errorf("marked %s, said %q", want, said)
	}
	dir := t.TempDir()
	j = spikyJob(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	j.Progress = func(p Progress) {
		if p.Step == 19 {
			cancel()
		}
	}
	if _, err := Run(ctx, j); fail.Code(err) != int(fail.Interrupted) {
		t.Fatal(err)
	}
	losses(t, spikyJob(t, dir))
	if got := marks(dir); got != want {
		t.Errorf("interrupted: %s, want %s", got, want)
	}
}

// TestRowsNotFinite names the rows whose values are not finite.
func TestRowsNotFinite(t *testing.T) {
	r := &run{}
	b := data.NewBatch([]data.Example{
		{IDs: []int32{1, 2, 3}, From: data.RowRef{File: "a", Row: 1}}, {IDs: []int32{4, 5}, From: data.RowRef{File: "a", Row: 7}}}, []int32{0, 1})
	r.suspect(&b, []float32{0, 0, 0, float32(math.Inf(-1)), 0})
	if got := nameRows(r.suspects); got != "a row 7" {
		t.Errorf("per token: %s", got)
	}
	r.suspects = nil
	r.suspect(&b, []float32{float32(math.NaN()), 1})
	if got := nameRows(r.suspects); got != "a row 1" {
		t.Errorf("per sample: %s", got)
	}
	j := spikyJob(t, t.TempDir())
	j.Config.LearningRate, j.Config.MaxGradNorm = ptr(1e30), ptr(0.0)
	_, err := Run(context.Background(), j)
	if fail.Code(err) != int(fail.Numeric) || !strings.Contains(err.Error(), "rows a.jsonl row ") {
		t.Errorf("%v", err)
	}
}

// sourcedJob has samples of two data sets, packed where the objective takes single ones;
// those that learn together are of one.
func sourcedJob(t *testing.T, objective ObjectiveName) Job {
	t.Helper()
	var j Job
	switch objective {
	case "reward":
		dir := testdir.Shared(t, "golden/train/reward")
		var g rewards
		readJSON(t, filepath.Join(dir, "reward.json"), &g)
		c := Config{MicroBatchSize: 2, GradientAccumulationSteps: 2, LearningRate: ptr(1e-3)}
		j = goldenReward(t, c, g.pairs(nil), arrays(t, filepath.Join(dir, "grads.safetensors"))["score.weight"])
		j.Val = j.Train
	case "dpo", "kto":
		j = pairsJob(t)
		c := Config{Objective: objective, GradientAccumulationSteps: 2, LearningRate: ptr(1e-2), DType: "f32", SaveSteps: Every{Steps: 2}, LoRA: j.Config.LoRA}
		var err error
		if j.Config, err = c.Resolve(7); err != nil {
			t.Fatal(err)
		}
	default:
		j = smallJob(t, t.TempDir())
	}
	j.Config.MaxSteps, j.Config.EvalSteps = 3, Every{Steps: 3}
	name := func(ex data.Examples) data.Examples {
		list, err := ex.Read(ex.Len())
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			e := &list[i]
			e.From = data.RowRef{File: []string{"a", "b"}[i/max(1, j.Config.Samples())%2], Row: int64(i)}
			if objective == "kto" {
				if e.Group = 0; i%3 == 0 {
					e.Mark = data.Unwanted
				} else {
					e.Mark = data.Wanted
				}
			}
		}
		return data.InMemory(list...)
	}
	j.Train, j.Val = name(j.Train), name(j.Val)
	j.Sources, j.Source = []string{"one", "two", "none"}, func(file string) int { return int(file[0] - 'a') }
	return j
}

// TestSources: the losses of data sets are those of the whole, told apart, and change no
// bit of it.
func TestSources(t *testing.T) {
	for _, objective := range []ObjectiveName{"sft", "dpo", "kto", "reward"} {
		t.Run(string(objective), func(t *testing.T) { compareSources(t, objective) })
	}
}

func compareSources(t *testing.T, objective ObjectiveName) {
	j := sourcedJob(t, objective)
	losses(t, j)
	plain := sourcedJob(t, objective)
	plain.Sources = nil
	losses(t, plain)
	if hash(t, j) != hash(t, plain) || curveOf(t, j.Dir) != curveOf(t, plain.Dir) {
		t.Error("telling losses apart changes the result")
	}
	steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, loss float64, count int64, list []SourceLoss) {
		if len(list) != 2 || list[0].Source != "one" || list[1].Source != "two" {
			t.Fatalf("%s: %v", what, list)
		}
		sum, n := 0.0, int64(0)
		for _, s := range list {
			sum, n = sum+s.Loss*float64(s.Count), n+s.Count
		}
		if objective == "sft" && n != count || math.Abs(sum/float64(n)-loss) > 1e-12*loss {
			t.Errorf("%s: %v over %d, want %v over %d", what, sum/float64(n), n, loss, count)
		}
	}
	for _, m := range steps {
		check(fmt.Sprint("step ", m.Step), m.Loss, m.Supervised, m.Sources)
	}
	check("validation", evals[0].Loss, evals[0].Supervised, evals[0].Sources)

	// The validation of one data set alone has the loss that the whole one says of it.
	alone := sourcedJob(t, objective)
	if objective == "kto" { // whose baseline is of all rows
		return
	}
	list, _ := alone.Val.Read(alone.Val.Len())
	alone.Val = data.InMemory(slices.DeleteFunc(list, func(e data.Example) bool { return e.From.File != "a" })...)
	losses(t, alone)
	_, only, err := ReadMetrics(filepath.Join(alone.Dir, MetricsFile))
	if err != nil || math.Abs(only[0].Loss-evals[0].Sources[0].Loss) > 1e-6*only[0].Loss {
		t.Errorf("alone %v, told apart %v (%v)", only[0].Loss, evals[0].Sources[0].Loss, err)
	}
}
