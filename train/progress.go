package train

import (
	"fmt"
	"math"
)

func (r *run) log(format string, args ...any) {
	if r.Log != nil {
		r.Log(fmt.Sprintf(format, args...))
	}
}

// report tells the caller where the run is.
func (r *run) report(micro int, evaluating bool) {
	r.tell(Progress{Micro: micro, Evaluating: evaluating})
}

// tell completes p with where the run is, and tells the caller.
func (r *run) tell(p Progress) {
	if r.Progress == nil {
		return
	}
	per := r.speed.perStep()
	p.Step, p.Total, p.Loss, p.Val, p.Tokens, p.SavedStep = r.step, r.total, r.lastLoss(), r.valLoss(), r.tokens, r.saved
	p.Objective = r.values
	p.PerSecond, p.Memory, p.ETA = r.speed.tokens(), r.dev.Info().InUse(), per*float64(r.total-r.step)
	if r.rollout != nil {
		p.Reward = &r.rollout.Reward
	}
	r.Progress(p)
}

// lastLoss is the loss of the last step, NaN before the first.
func (r *run) lastLoss() float64 {
	if r.step == 0 {
		return math.NaN()
	}
	return r.loss
}

// evaluated is the step of the last validation, 0 before the first.
func (r *run) evaluated() int {
	if r.eval == nil {
		return 0
	}
	return r.eval.Step
}

// valLoss is the loss of the last validation, NaN before the first.
func (r *run) valLoss() float64 {
	if r.eval == nil {
		return math.NaN()
	}
	return r.eval.Loss
}

func (r *run) result() *Result {
	res := &Result{Steps: r.step, Resumed: r.resumed, Loss: r.lastLoss(), ValLoss: r.valLoss(), BestStep: r.step, Stopped: r.stopped(), Trainable: int64(r.opt.n),
		Tokens: r.tokens, BF16: r.bf16, Recompute: r.recomputed(), Memory: r.dev.Info().Mem}
	res.Skipped = r.step - r.updates(r.step)
	if r.Config.LoadsBest() && r.best != nil {
		res.BestStep = r.best.Step
	}
	return res
}

// speed averages over the last steps.
type speed struct {
	count   [10]int64
	seconds [10]float64
	n       int
}

func (s *speed) add(tokens int64, seconds float64) {
	s.count[s.n%len(s.count)], s.seconds[s.n%len(s.count)] = tokens, seconds
	s.n++
}

func (s *speed) sums() (tokens int64, seconds float64, n int) {
	n = min(s.n, len(s.count))
	for i := range n {
		tokens, seconds = tokens+s.count[i], seconds+s.seconds[i]
	}
	return tokens, seconds, n
}

// tokens is the number of tokens a second, NaN before the first step.
func (s *speed) tokens() float64 {
	t, sec, n := s.sums()
	if n == 0 {
		return math.NaN()
	}
	return float64(t) / sec
}

// perStep is the seconds of a step, NaN before the first.
func (s *speed) perStep() float64 {
	_, sec, n := s.sums()
	return sec / float64(n)
}
