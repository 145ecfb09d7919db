package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestNEFTune: the noise has the sizes that Transformers' has; a token's does not
// depend on what else is in its batch.
func TestNEFTune(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train"), "neftune.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Alpha, Formula, Min, Max, Std float64
			Len                           int `json:"seq_len"`
			Hidden, Draws                 int
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) < 4 {
		t.Fatalf("only %d cases", len(file.Cases))
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.01*math.Abs(want) {
			t.Errorf("%s is %g, want %g", what, got, want)
		}
	}
	for _, c := range file.Cases {
		b := &data.Batch{IDs: make([]int32, c.Len), Seq: []int32{0, int32(c.Len)}, Key: make([]int64, c.Len)}
		for i := range b.Key {
			b.Key[i] = 3<<32 | int64(i)
		}
		lo, hi, sum, n := 0.0, 0.0, 0.0, 0
		for step := range c.Draws {
			for _, v := range neftune(b, c.Hidden, c.Alpha, 7, step) {
				x := float64(v)
				lo, hi, sum, n = min(lo, x), max(hi, x), sum+x*x, n+1
			}
		}
		near("least", lo, c.Min)
		near("largest", hi, c.Max)
		near("deviation", math.Sqrt(sum/float64(n)), c.Std)
		two := &data.Batch{IDs: make([]int32, 5+c.Len), Seq: []int32{0, 5, int32(5 + c.Len)}, Key: append(make([]int64, 5), b.Key...)}
		alone, packed := neftune(b, c.Hidden, c.Alpha, 7, 1), neftune(two, c.Hidden, c.Alpha, 7, 1)[5*c.Hidden:]
		for i := range alone {
			if alone[i] != packed[i] {
				t.Fatal("packing changes the noise")
			}
		}
	}
}

// TestNEFTuneRun: noise changes what is learned and not what is validated.
func TestNEFTuneRun(t *testing.T) {
	run := func(alpha *float64) (loss, val float64) {
		j := smallJob(t, t.TempDir())
		j.Config.MaxSteps, j.Config.EvalSteps, j.Config.NEFTuneNoiseAlpha = 1, Every{Steps: 1}, alpha
		j.Config.LearningRate, j.Config.LRScheduler = ptr(1e-9), "constant"
		losses(t, j)
		steps, evals, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		return steps[0].Loss, evals[0].Loss
	}
	loss, val := run(nil)
	noisy, same := run(ptr(5.0))
	if math.Abs(noisy-loss) < 1e-6 {
		t.Errorf("loss %v with noise, %v without", noisy, loss)
	}
	if math.Abs(same-val) > 1e-6 {
		t.Errorf("validation %v with noise, %v without", same, val)
	}
}
