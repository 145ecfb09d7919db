package train

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestSchedules compares every schedule with Transformers' own rates.
func TestSchedules(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/optim")
	data, err := os.ReadFile(filepath.Join(dir, "schedules.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Schedules []struct {
			Name   string
			LR     float64
			Warmup int            `json:"num_warmup_steps"`
			Total  int            `json:"num_training_steps"`
			Args   map[string]any `json:"scheduler_specific_kwargs"`
			LRs    []float64
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Schedules) < 30 {
		t.Fatalf("only %d schedules", len(file.Schedules))
	}
	seen := map[string]bool{}
	for _, s := range file.Schedules {
		seen[s.Name] = true
		args := map[string]Scalar{}
		for k, v := range s.Args {
			args[k] = Scalar(fmt.Sprint(v))
		}
		got, err := newSchedule(Config{LRScheduler: ScheduleName(s.Name), LearningRate: &s.LR, WarmupSteps: &s.Warmup, LRArgs: args}, s.Total)
		if err != nil {
			t.Errorf("%s %v: %v", s.Name, s.Args, err)
			continue
		}
		for i, want := range s.LRs {
			if d := math.Abs(got.LR(i) - want); d > 1e-15*s.LR+1e-13*want {
				t.Errorf("%s %v step %d: rate %g, want %g", s.Name, s.Args, i, got.LR(i), want)
				break
			}
		}
	}
	for name := range schedules {
		if !seen[string(name)] {
			t.Errorf("no reference for %s", name)
		}
	}
}
