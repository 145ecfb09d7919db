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
		if s, err := newSchedule(Config{LRScheduler: name, LearningRate: ptr(0.1), LRArgs: map[string]Scalar{}}, 10); err == nil && s.reactive != nil {
			continue // see TestReactive
		}
		if !seen[string(name)] {
			t.Errorf("no reference for %s", name)
		}
	}
}

// TestReactive follows torch's ReduceLROnPlateau and Transformers' GreedyLR by hand:
// their rules on a few losses.
func TestReactive(t *testing.T) {
	for _, c := range []struct {
		name   ScheduleName
		args   map[string]Scalar
		losses []float64
		rates  []float64 // after each loss
	}{
		{"reduce_lr_on_plateau", map[string]Scalar{"patience": "1", "factor": "0.5", "cooldown": "2", "min_lr": "0.2"},
			[]float64{3, 2, 2, 2, 2, 2, 2, 2, 2, 2},
			// bad   0  0  1  2  -  -  1  2 and so on: two validations of rest after each reduction
			[]float64{1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25}},
		{"reduce_lr_on_plateau", map[string]Scalar{"patience": "0", "threshold": "0.1"},
			[]float64{1, 0.95, 0.85, 0.8}, []float64{1, 0.1, 0.1, 0.01}}, // by less than a tenth is no better
		{"reduce_lr_on_plateau", map[string]Scalar{"patience": "0", "threshold": "0.1", "threshold_mode": "abs"},
			[]float64{1, 0.85, 0.8}, []float64{1, 1, 0.1}},
		{"greedy", map[string]Scalar{"patience": "1", "factor": "0.5", "max_lr": "4", "min_lr": "0.5", "warmup": "1"},
			[]float64{5, 4, 3, 2, 1, 0.5, 0.5, 0.5, 0.6},
			// good   1  2  -  1  2  -  1, bad 1  2: a validation of rest after each rise
			[]float64{1, 2, 2, 2, 4, 4, 4, 4, 2}},
		{"greedy", map[string]Scalar{"patience": "0", "factor": "0.5", "min_lr": "0.25", "reset_start": "2"},
			[]float64{1, 2, 2, 2, 2, 0.9}, []float64{1, 0.5, 0.25, 1, 1, 1}}, // twice at the least rate: it starts anew, and knows no best
		{"greedy", map[string]Scalar{"patience": "0", "factor": "0.5", "smooth": "true", "window_size": "2", "min_lr": "0.1", "max_lr": "8"},
			[]float64{4, 2, 4}, []float64{2, 4, 2}}, // means 4, 3, 3
	} {
		s, err := newSchedule(Config{LRScheduler: c.name, LearningRate: ptr(1.0), LRArgs: c.args}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range c.losses {
			s.reactive.see(l)
			if got := s.LR(i + 1); math.Abs(got-c.rates[i]) > 1e-12 {
				t.Errorf("%s %v: rate %g after loss %d, want %g", c.name, c.args, got, i+1, c.rates[i])
			}
		}
	}
}
