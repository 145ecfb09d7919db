package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data"
)

const curvesFile = "testdata/curves.json"

// TestObjectiveCurves: the losses of 30 steps of each objective on the reference's tiny
// Llama. Of the first step TRL's own numbers are held elsewhere (golden tests of each
// objective), of sft and the adapters all 30 (TestGoldenCurves); these are the
// program's, so that a change of the way between is seen.
// `TUNEKIT_UPDATE=1 go test ./train -run ObjectiveCurves` writes them anew.
func TestObjectiveCurves(t *testing.T) {
	rate := 1e-3
	steps := func(c Config) Config {
		c.MaxSteps, c.MicroBatchSize, c.GradientAccumulationSteps, c.LearningRate, c.LRScheduler = 30, 2, 1, &rate, "constant"
		return c
	}
	jobs := map[string]Job{}
	for _, name := range []ObjectiveName{"dpo", "cpo", "simpo", "orpo", "kto", "bco"} {
		jobs[string(name)], _ = goldenPairs(t, steps(Config{Objective: name}))
	}
	var pairs []data.Example
	for i := range jobs["dpo"].Train.Len() {
		e, err := jobs["dpo"].Train.At(i)
		if err != nil {
			t.Fatal(err)
		}
		e.Loss = [][2]int32{{int32(len(e.IDs)) - 1, int32(len(e.IDs))}}
		pairs = append(pairs, e)
	}
	head := make([]float32, 64)
	for i := range head {
		head[i] = float32(math.Sin(float64(i))) / 8
	}
	jobs["reward"] = goldenReward(t, steps(Config{}), pairs, head)
	for name, u := range map[string]ULD{"distill": {}, "distill by ranks": {UseULD: true}} {
		j := goldenTeacher(t, Config{ULD: u}, 3)
		j.Config = steps(j.Config)
		jobs[name] = j
	}
	got := map[string][]float64{}
	for name, j := range jobs {
		if _, err := Run(t.Context(), j); err != nil {
			t.Fatal(name, err)
		}
		lines, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range lines {
			got[name] = append(got[name], math.Round(m.Loss*1e6)/1e6)
		}
	}
	if os.Getenv("TUNEKIT_UPDATE") == "1" {
		raw, err := json.Marshal(got)
		if err == nil {
			err = os.WriteFile(curvesFile, append(raw, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var want map[string][]float64
	readJSON(t, curvesFile, &want)
	if len(want) != len(got) {
		t.Errorf("%d curves in the file, %d are computed", len(want), len(got))
	}
	for name, losses := range got {
		first, last := 0.0, 0.0
		for i, l := range losses {
			if len(want[name]) != len(losses) || !(math.Abs(l-want[name][i]) <= 5e-4*max(1, math.Abs(l))) {
				t.Errorf("%s: losses %v, want %v", name, losses, want[name])
				break
			}
			if i < 5 {
				first += l
			}
			if i >= len(losses)-5 {
				last += l
			}
		}
		if len(losses) != 30 || !(last < first) {
			t.Errorf("%s learns nothing in %d steps: %v", name, len(losses), losses)
		}
	}
}
