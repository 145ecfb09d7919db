package report

import (
	"math"
	"testing"

	"github.com/tunekit/tunekit/train"
)

// TestBestValidation: the best of a training is the one that it kept, and in a log that
// does not say which, the lowest loss; a step without a loss is no part of the mean.
func TestBestValidation(t *testing.T) {
	steps := []train.Metrics{{Step: 1, Loss: 3}, {Step: 2, Loss: math.NaN(), Skipped: true}}
	eval := func(step int, loss float64, best bool) train.EvalMetrics {
		return train.EvalMetrics{Step: step, Loss: loss, Best: best}
	}
	for _, c := range []struct {
		evals []train.EvalMetrics
		want  int
	}{
		{[]train.EvalMetrics{eval(1, 3, true), eval(2, 4, true), eval(3, 1, false)}, 2},
		{[]train.EvalMetrics{eval(1, 3, true), eval(2, 2, false)}, 1},
		{[]train.EvalMetrics{eval(1, 3, false), eval(2, 1, false), eval(3, 2, false)}, 2},
	} {
		got := trainingOf("x", steps, c.evals)
		if got.Best == nil || got.Best.Step != c.want {
			t.Errorf("%v: the best is %v, want that of step %d", c.evals, got.Best, c.want)
		}
		if got.Loss == nil || *got.Loss != 3 {
			t.Errorf("the loss is %v", got.Loss)
		}
	}
	if got := trainingOf("x", steps[1:], nil); got.Loss != nil {
		t.Errorf("a loss of %v where there is none", *got.Loss)
	}
	if y := Smooth([]float64{1, math.NaN(), 3}); y[0] != 1 || !math.IsNaN(y[1]) || y[2] != 3 {
		t.Errorf("smooth %v", y)
	}
}

// TestFlatChart: a curve that stands still has an axis of numbers people know: from 0 to 1
// where it is 0, a tenth around it elsewhere.
func TestFlatChart(t *testing.T) {
	for y, want := range map[float64][2]float64{0: {0, 1}, 5: {4.5, 5.5}, -2: {-2.2, -1.8}} {
		for _, zero := range []bool{false, true} {
			if zero && y != 0 {
				continue
			}
			c := Chart{Zero: zero, Series: []Series{{X: []float64{1, 2, 3}, Y: []float64{y, y, y}}}}
			if _, _, lo, hi, any := c.bounds(); !any || math.Abs(lo-want[0]) > 1e-12 || math.Abs(hi-want[1]) > 1e-12 {
				t.Errorf("at %v: an axis from %v to %v, want %v", y, lo, hi, want)
			}
		}
	}
}
