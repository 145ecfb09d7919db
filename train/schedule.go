package train

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Schedule gives the learning rate of each optimizer step. Names and formulas
// are Transformers' (transformers/optimization.py); the rate of step 0 is 0
// where there is a warm-up.
type Schedule struct {
	rate     float64
	factor   func(step int) float64
	reactive *reactive // nil: the rate follows from the step
}

// LR returns the rate used in optimizer step step (from 0); of a schedule that
// reacts to validations it must be the next one.
func (s *Schedule) LR(step int) float64 {
	if s.reactive != nil {
		return s.reactive.Rate
	}
	return s.rate * s.factor(step)
}

// curve is what a schedule is made from.
type curve struct {
	rate          float64
	warmup, total int
	args          map[string]Scalar
	err           error
}

// ScheduleName is a schedule of the table.
type ScheduleName string

// Enum lists the schedules.
func (ScheduleName) Enum() []string { return names(schedules) }

// schedules lists what lr_scheduler can be: its arguments and its factor.
var schedules = map[ScheduleName]struct {
	args []string
	make func(c *curve) func(step int) float64
}{
	"constant":                  {nil, constant},
	"constant_with_warmup":      {nil, constantWithWarmup},
	"linear":                    {nil, linear},
	"cosine":                    {[]string{"num_cycles"}, cosine},
	"cosine_with_restarts":      {[]string{"num_cycles"}, cosineWithRestarts},
	"polynomial":                {[]string{"lr_end", "power"}, polynomial},
	"inverse_sqrt":              {[]string{"timescale"}, inverseSqrt},
	"cosine_with_min_lr":        {[]string{"num_cycles", "min_lr", "min_lr_rate"}, cosineWithMinLR},
	"cosine_warmup_with_min_lr": {[]string{"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"}, cosineWarmupWithMinLR},
	"reduce_lr_on_plateau":      {plateauArgs, constant},
	"greedy":                    {greedyArgs, constant},
	"warmup_stable_decay":       {[]string{"num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"}, warmupStableDecay},
}

// newSchedule returns the schedule c asks for, over total optimizer steps.
func newSchedule(c Config, total int) (*Schedule, error) {
	kind, ok := schedules[c.LRScheduler]
	if !ok {
		return nil, fail.Usagef("train.lr_scheduler", "", "lr_scheduler is %q, known are %s", c.LRScheduler, known(schedules))
	}
	for _, k := range slices.Sorted(maps.Keys(c.LRArgs)) {
		if !slices.Contains(kind.args, k) {
			return nil, fail.Usagef("train.lr_scheduler_kwargs", "", "lr_scheduler_kwargs: %s has no %q, known are %s", c.LRScheduler, k, strings.Join(kind.args, ", "))
		}
	}
	if optimizers[c.Optimizer].free() { // its own warm-up begins above 0
		w := c.warmup(total)
		return &Schedule{rate: *c.LearningRate, factor: func(step int) float64 { return min(1, float64(step+1)/float64(max(1, w))) }}, nil
	}
	if c.relative() {
		return &Schedule{rate: 1, factor: c.relativeRate}, nil
	}
	cv := &curve{rate: *c.LearningRate, warmup: c.warmup(total), total: total, args: c.LRArgs}
	s := &Schedule{rate: cv.rate, factor: kind.make(cv), reactive: cv.reactiveOf(c.LRScheduler)}
	return s, cv.err
}

// unwarmed reports whether the schedule has no warm-up.
func (c *Config) unwarmed() bool {
	return c.relative() || !optimizers[c.Optimizer].free() && (c.LRScheduler == "constant" || c.LRScheduler.reacts())
}

// Rising says where a training of so many steps ends before its warm-up does, ""
// where it does not or steps is 0.
func (c Config) Rising(steps int) string {
	if w := c.warmup(steps); steps > 0 && w > steps {
		return fmt.Sprintf("warmup_steps %d is more than the %d steps there are: learning_rate %g is never reached", w, steps, *c.LearningRate)
	}
	return ""
}

// warmup is the number of warm-up steps, rounded up as Transformers does.
func (c Config) warmup(total int) int {
	if c.WarmupSteps != nil {
		return *c.WarmupSteps
	}
	if c.WarmupRatio == nil {
		return 0
	}
	return int(math.Ceil(float64(total) * *c.WarmupRatio))
}

func known[K ~string, T any](m map[K]T) string { return strings.Join(names(m), ", ") }

// num reads a number from the arguments.
func (c *curve) num(key string, missing float64) float64 {
	s, ok := c.args[key]
	if !ok {
		return missing
	}
	v, err := strconv.ParseFloat(string(s), 64)
	if (err != nil || math.IsNaN(v) || math.IsInf(v, 0)) && c.err == nil {
		c.err = fail.Usagef("train.lr_scheduler_kwargs", "", "lr_scheduler_kwargs: %s is %q, not a number", key, string(s))
	}
	return v
}

func (c *curve) has(key string) bool { _, ok := c.args[key]; return ok }

// word reads one of a set of words from the arguments.
func (c *curve) word(key, missing string, known ...string) string {
	s, ok := c.args[key]
	if !ok {
		return missing
	}
	if !slices.Contains(known, string(s)) && c.err == nil {
		c.err = fail.Usagef("train.lr_scheduler_kwargs", "", "lr_scheduler_kwargs: %s is %q, known are %s", key, string(s), strings.Join(known, ", "))
	}
	return string(s)
}

// rising is the factor within the warm-up.
func (c *curve) rising(step int) float64 { return float64(step) / float64(max(1, c.warmup)) }

// progress goes from 0 at the end of the warm-up to 1 at the last step.
func (c *curve) progress(step int) float64 {
	return float64(step-c.warmup) / float64(max(1, c.total-c.warmup))
}

// after returns the warm-up followed by f.
func (c *curve) after(f func(step int) float64) func(int) float64 {
	return func(step int) float64 {
		if step < c.warmup {
			return c.rising(step)
		}
		return f(step)
	}
}

func constant(*curve) func(int) float64 { return func(int) float64 { return 1 } }

func constantWithWarmup(c *curve) func(int) float64 {
	return func(step int) float64 {
		if step < c.warmup {
			return float64(step) / float64(max(1, c.warmup))
		}
		return 1
	}
}

func linear(c *curve) func(int) float64 {
	return c.after(func(step int) float64 {
		return max(0, float64(c.total-step)/float64(max(1, c.total-c.warmup)))
	})
}

// half is the cosine over cycles full turns.
func half(cycles, progress float64) float64 {
	return 0.5 * (1 + math.Cos(math.Pi*cycles*2*progress))
}

func cosine(c *curve) func(int) float64 {
	n := c.num("num_cycles", 0.5)
	return c.after(func(step int) float64 { return max(0, half(n, c.progress(step))) })
}

func cosineWithRestarts(c *curve) func(int) float64 {
	n := c.num("num_cycles", 1)
	return c.after(func(step int) float64 {
		p := c.progress(step)
		if p >= 1 {
			return 0
		}
		return max(0, 0.5*(1+math.Cos(math.Pi*math.Mod(n*p, 1))))
	})
}

func polynomial(c *curve) func(int) float64 {
	end, power := c.num("lr_end", 1e-7), c.num("power", 1)
	return c.after(func(step int) float64 {
		if step > c.total {
			return end / c.rate
		}
		left := 1 - float64(step-c.warmup)/float64(max(1, c.total-c.warmup))
		return ((c.rate-end)*math.Pow(left, power) + end) / c.rate
	})
}

func inverseSqrt(c *curve) func(int) float64 {
	scale := c.num("timescale", float64(c.warmup))
	if scale == 0 {
		scale = 10000
	}
	shift := scale - float64(c.warmup)
	return c.after(func(step int) float64 { return 1 / math.Sqrt((float64(step)+shift)/scale) })
}

// floor is min_lr_rate, or min_lr as a share of the rate.
func (c *curve) floor() float64 {
	switch {
	case c.has("min_lr") && c.has("min_lr_rate"):
		c.err = fail.Usagef("train.lr_scheduler_kwargs", "give one of them", "lr_scheduler_kwargs: min_lr and min_lr_rate are both given")
	case c.has("min_lr"):
		return c.num("min_lr", 0) / c.rate
	case c.has("min_lr_rate"):
		return c.num("min_lr_rate", 0)
	default:
		c.err = fail.Usagef("train.lr_scheduler_kwargs", "lr_scheduler_kwargs: {min_lr_rate: 0.1}", "this lr_scheduler needs min_lr or min_lr_rate")
	}
	return 0
}

func cosineWithMinLR(c *curve) func(int) float64 {
	n, low := c.num("num_cycles", 0.5), c.floor()
	return c.after(func(step int) float64 { return max(0, half(n, c.progress(step))*(1-low)+low) })
}

func cosineWarmupWithMinLR(c *curve) func(int) float64 {
	n, low, start := c.num("num_cycles", 0.5), c.floor(), c.num("warmup_lr_rate", 0)
	return func(step int) float64 {
		s := float64(step)
		if step >= c.warmup {
			p := (s - float64(c.warmup) + 1) / math.Max(1, float64(c.total-c.warmup))
			return max(0, half(n, p)*(1-low)+low)
		}
		if !c.has("warmup_lr_rate") {
			return (s + 1) / math.Max(1, float64(c.warmup))
		}
		return start + (1-start)*s/math.Max(1, float64(c.warmup-1))
	}
}

// warmupStableDecay is a warm-up, a plateau and a decay, then the floor (Hu et
// al. 2024, arXiv:2404.06395).
func warmupStableDecay(c *curve) func(int) float64 {
	decay := c.count("num_decay_steps", 0)
	stable := int(c.num("num_stable_steps", float64(c.total-c.warmup-decay)))
	low, n := c.num("min_lr_ratio", 0), c.num("num_cycles", 0.5)
	up := shape(c.word("warmup_type", "linear", "linear", "cosine", "1-sqrt"))
	down := shape(c.word("decay_type", "cosine", "linear", "cosine", "1-sqrt"))
	if !c.has("num_decay_steps") && c.err == nil {
		c.err = fail.Usagef("train.lr_scheduler_kwargs", "lr_scheduler_kwargs: {num_decay_steps: 100}", "warmup_stable_decay needs num_decay_steps")
	}
	return func(step int) float64 {
		switch {
		case step < c.warmup:
			return max(0, up.up(float64(step)/float64(max(1, c.warmup)))*(1-low)+low)
		case step < c.warmup+stable:
			return 1
		case step < c.warmup+stable+decay:
			return max(0, down.down(float64(step-c.warmup-stable)/float64(max(1, decay)), n)*(1-low)+low)
		}
		return low
	}
}

// shape is how a factor rises or falls.
type shape string

func (s shape) up(p float64) float64 {
	switch s {
	case "cosine":
		return 0.5 * (1 - math.Cos(math.Pi*p))
	case "1-sqrt":
		return 1 - math.Sqrt(1-p)
	}
	return p
}

func (s shape) down(p, cycles float64) float64 {
	switch s {
	case "cosine":
		return half(cycles, p)
	case "1-sqrt":
		return 1 - math.Sqrt(p)
	}
	return 1 - p
}
