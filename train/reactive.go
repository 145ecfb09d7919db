package train

import (
	"math"

	"github.com/tunekit/tunekit/formats/fail"
)

// reactive is a schedule whose rate follows from validation losses: it falls where
// they no longer do, and with greedy rises where they keep falling. Names and rules
// are torch.optim.lr_scheduler.ReduceLROnPlateau's and Transformers' GreedyLR's
// (arXiv:2512.14527).
type reactive struct {
	factor, threshold, least, most, eps float64
	relative, greedy                    bool
	patience, cooldown, warmup          int
	window, reset                       int // greedy: losses that are averaged (0: none), reductions at the least rate until it starts anew
	first                               float64
	reacted
}

// reacted is what a checkpoint holds of it.
type reacted struct {
	Rate    float64   `json:"rate"`
	Best    *float64  `json:"best,omitempty"` // nil: none yet
	Good    int       `json:"good,omitempty"`
	Bad     int       `json:"bad,omitempty"`
	Rest    int       `json:"rest,omitempty"`  // validations to wait after a reduction
	Climb   int       `json:"climb,omitempty"` // after a rise
	Reset   int       `json:"reset,omitempty"` // reductions at the least rate that are left
	Windows []float64 `json:"windows,omitempty"`
}

var plateauArgs = []string{"mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"}

// greedyArgs are those of GreedyLR; its verbose only prints.
var greedyArgs = append([]string{"warmup", "max_lr", "smooth", "window_size", "reset_start"}, plateauArgs...)

// reacts reports whether the schedule needs validations.
func (s ScheduleName) reacts() bool { return s == "reduce_lr_on_plateau" || s == "greedy" }

// reactiveOf reads the settings of reduce_lr_on_plateau and greedy; nil for other
// schedules.
func (c *curve) reactiveOf(name ScheduleName) *reactive {
	var r *reactive
	switch name {
	case "reduce_lr_on_plateau":
		r = &reactive{factor: c.num("factor", 0.1), threshold: c.num("threshold", 1e-4), least: c.num("min_lr", 0), most: math.Inf(1), eps: c.num("eps", 1e-8),
			relative: c.word("threshold_mode", "rel", "rel", "abs") == "rel"}
	case "greedy":
		r = &reactive{factor: c.num("factor", 0.95), threshold: c.num("threshold", 1e-6), least: c.num("min_lr", 1e-3), most: c.num("max_lr", 1), eps: c.num("eps", 1e-8),
			relative: c.word("threshold_mode", "abs", "rel", "abs") == "rel", greedy: true, warmup: c.count("warmup", 0), reset: c.count("reset_start", 500)}
		if c.word("smooth", "false", "true", "false") == "true" {
			r.window = c.count("window_size", 50)
		} else if c.has("window_size") {
			c.fail("smooth: true", "window_size is of smooth, which is false")
		}
	default:
		return nil
	}
	c.word("mode", "min", "min")
	r.patience, r.cooldown = c.count("patience", 10), c.count("cooldown", 0)
	r.first = c.rate
	r.reacted = reacted{Rate: c.rate, Reset: r.reset}
	switch {
	case !(r.factor > 0 && r.factor < 1):
		c.fail("", "factor is %g, it must be between 0 and 1", r.factor)
	case r.least > c.rate || r.most < c.rate:
		c.fail("lr_scheduler_kwargs: {min_lr: 1e-6}", "%s keeps the rate between %g and %g, learning_rate is %g", name, r.least, r.most, c.rate)
	}
	return r
}

// fail keeps the first problem of the arguments.
func (c *curve) fail(hint, format string, args ...any) {
	if c.err == nil {
		c.err = fail.Usagef("train.lr_scheduler_kwargs", hint, "lr_scheduler_kwargs: "+format, args...)
	}
}

// count reads a whole number of at least 0 from the arguments.
func (c *curve) count(key string, missing int) int {
	v := c.num(key, float64(missing))
	if v < 0 || v != math.Trunc(v) || v > 1<<31 {
		c.fail("", "%s is %g, not a whole number of at least 0", key, v)
	}
	return int(v)
}

// see takes the loss of a validation.
func (r *reactive) see(loss float64) {
	if r.window > 0 {
		r.Windows = append(r.Windows, loss)
		r.Windows = r.Windows[max(0, len(r.Windows)-r.window):]
		loss = 0
		for _, v := range r.Windows {
			loss += v / float64(len(r.Windows))
		}
	}
	if !r.greedy { // which learns of the best even while it waits
		r.judge(loss)
		if r.Rest > 0 {
			r.Rest, r.Bad = r.Rest-1, 0
		}
	} else if r.Rest > 0 {
		r.Rest, r.Good, r.Bad = r.Rest-1, 0, 0
		return
	} else if r.Climb > 0 {
		r.Climb, r.Good, r.Bad = r.Climb-1, 0, 0
		return
	} else {
		r.judge(loss)
	}
	switch {
	case r.greedy && r.Good > r.patience:
		if next := min(r.Rate/r.factor, r.most); next-r.Rate > r.eps {
			r.Rate = next
		}
		r.Reset, r.Climb, r.Good = r.reset, r.warmup, 0
	case r.Bad > r.patience:
		if next := max(r.Rate*r.factor, r.least); r.Rate-next > r.eps {
			r.Rate = next
		}
		r.Rest, r.Bad = r.cooldown, 0
		if r.greedy && r.Rate <= r.least {
			if r.Reset--; r.Reset <= 0 {
				r.reacted = reacted{Rate: r.first, Reset: r.reset, Rest: r.cooldown}
			}
		}
	}
}

// judge counts a loss as good or bad.
func (r *reactive) judge(loss float64) {
	better := r.Best == nil
	if !better {
		limit := *r.Best - r.threshold
		if r.relative {
			limit = *r.Best * (1 - math.Copysign(r.threshold, *r.Best)) // minus a reward is below 0
		}
		better = loss < limit
	}
	if better {
		r.Best, r.Bad, r.Good = &loss, 0, r.Good+1
	} else {
		r.Bad, r.Good = r.Bad+1, 0
	}
}
