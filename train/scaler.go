package train

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// fp16 is the word for products whose operands are rounded to half precision.
const fp16 = "fp16"

// GradScaler says how the loss is scaled with dtype: fp16, by the names and defaults
// of torch.amp.GradScaler.
type GradScaler struct {
	InitScale      *float64 `yaml:"init_scale,omitempty" doc:"first factor of the loss" unset:"65536" range:"(0,1e30]"`
	GrowthFactor   *float64 `yaml:"growth_factor,omitempty" doc:"of the scale after growth_interval steps whose gradients were finite" unset:"2" range:"[1,1e6]"`
	BackoffFactor  *float64 `yaml:"backoff_factor,omitempty" doc:"of the scale after a step whose gradients were not" unset:"0.5" range:"(0,1)"`
	GrowthInterval *int     `yaml:"growth_interval,omitempty" doc:"steps in a row without overflow" unset:"2000" range:"[1,1000000000]"`
}

// scaler is the scale of the loss as it goes (Micikevicius et al. 2018,
// arXiv:1710.03740), with the arithmetic of torch.amp.GradScaler: float32.
type scaler struct {
	Scale   float32 `json:"scale"`
	Good    int     `json:"good"`              // steps in a row with finite gradients
	Skipped int     `json:"skipped"`           // steps without an update
	NoLoss  int     `json:"no_loss,omitempty"` // steps in a row whose loss was not finite
	c       GradScaler
}

func newScaler(c GradScaler) *scaler { return &scaler{Scale: float32(value(c.InitScale, 65536)), c: c} }

// update takes a step whose gradients were finite, or not.
func (s *scaler) update(finite bool) {
	if !finite {
		s.Scale = float32(float64(s.Scale) * value(s.c.BackoffFactor, 0.5))
		s.Good = 0
		s.Skipped++
		return
	}
	if s.Good++; s.Good == value(s.c.GrowthInterval, 2000) {
		if grown := float32(float64(s.Scale) * value(s.c.GrowthFactor, 2)); finite32(grown) {
			s.Scale = grown
		}
		s.Good = 0
	}
}

func finite32(v float32) bool { return finite(float64(v)) }

// leastScale is where a scale is no remedy any more: gradients of half a millionth
// of what they were overflow.
const leastScale = 1.0 / (1 << 24)

// mostNoLoss is how many steps in a row may have a loss that is not finite. No scale
// changes the loss itself: rows may be at fault once, the weights are after that.
const mostNoLoss = 3

// scaled multiplies what the loss is a sum over, in place.
func (r *run) scaled(weights []float32) []float32 {
	if r.scaler != nil {
		for i := range weights {
			weights[i] *= r.scaler.Scale
		}
	}
	return weights
}

// lossScale is the factor of gradients until they are complete.
func (r *run) lossScale() float32 {
	if r.scaler == nil {
		return 1
	}
	return r.scaler.Scale
}

// unscale takes the scale out of the gradients.
func (r *run) unscale() error {
	if r.scaler == nil {
		return nil
	}
	o := r.opt
	return r.dev.Run(func() error {
		o.dev.Add(kernels.To(o.g), &kernels.AddArgs{N: o.n, A: o.g, Alpha: 1 / r.scaler.Scale})
		return nil
	})
}

// overflowed takes a step with the gradient norm of m and reports whether it is to
// be skipped. A loss that stays no number, or gradients that overflow at any scale, are
// errors of the run and no overflow.
func (r *run) overflowed(m *Metrics) bool {
	s := r.scaler
	if s == nil {
		return false
	}
	over := !finite(m.GradNorm)
	if s.NoLoss++; finite(m.Loss) {
		s.NoLoss = 0
	}
	if over && (s.Scale < leastScale || s.NoLoss >= min(mostNoLoss, r.total)) {
		return false
	}
	m.LossScale = s.Scale
	s.update(!over)
	m.Skipped = over
	if over {
		m.GradNorm = 0
		m.Objective = slices.DeleteFunc(m.Objective, func(v Value) bool { return !finite(v.V) })
		m.Sources = slices.DeleteFunc(m.Sources, func(v SourceLoss) bool { return !finite(v.Loss) })
		what := "gradients overflow half precision and are left out"
		if !finite(m.Loss) {
			what = fmt.Sprintf("loss %v, the gradients are left out", m.Loss)
			if len(r.suspects) > 0 {
				what += " (not finite in rows " + nameRows(r.suspects) + ")"
			}
		}
		r.log("step %d: %s, the loss is scaled by %g from now on (%d left out so far)", r.step+1, what, s.Scale, s.Skipped)
	}
	return over
}

// updates is the number of updates of the first n steps.
func (r *run) updates(n int) int {
	if r.scaler == nil {
		return n
	}
	return n - r.scaler.Skipped
}

// checkScaler refuses what does not go with half precision.
func (c *Config) checkScaler(given Config) error {
	if c.DType != fp16 {
		if given.GradScaler != (GradScaler{}) {
			return fail.Usagef("train.grad_scaler", "set dtype: fp16", "grad_scaler scales the loss for dtype: fp16, not %s", c.DType)
		}
		return nil
	}
	if optimizers[c.Optimizer].free() {
		return fail.Usagef("train.optimizer", "dtype: bf16 or f32", "dtype: fp16 leaves steps out, which %s's average of all steps does not know of", c.Optimizer)
	}
	return nil
}
