package model

import (
	"github.com/tunekit/tunekit/autograd"
)

// divergeElems bounds the logits of one model that Diverge holds at a time:
// 32 MB of them. It is a constant, as results must not depend on the machine.
const divergeElems = 8 << 20

// Teacher is what a model's next-token distributions are compared with: those of
// another model, or what was kept of them; the zero Teacher is the uniform
// distribution.
type Teacher struct {
	Model  *Model           // of the same vocabulary
	Hidden *autograd.Tensor // [N, C] its final hidden states

	Top  int       // most likely tokens of each row, in place of a model
	IDs  []int32   // [N·Top]
	LogP []float32 // [N·Top] their log-probabilities at the temperature of the comparison
}

// Diverge compares the distributions of final hidden states h [N, C] with a
// teacher's, both at temperature: the divergence of each row that beta names (see
// kernels.DivergenceArgs) and the entropy of the model's own, in nats, [N] each. With
// coef [N] the loss is Σ coef·divergence, and its gradients are added, as LogProb
// does. No more than a few rows of logits are ever held.
func (m *Model) Diverge(t *autograd.Tape, h *autograd.Tensor, teacher Teacher, beta, temperature float32, coef []float32) (loss, entropy []float32, err error) {
	t.Parts(h, max(1, divergeElems/m.Spec.V), func(part *autograd.Tape, x *autograd.Tensor, from int) {
		n := x.Rows()
		spec := autograd.DivergenceSpec{Scale: 1 / temperature, TeacherScale: 1 / temperature, Beta: beta}
		if teacher.Model != nil {
			its := &autograd.Tape{Dev: t.Dev, Record: t.Record, Base: true, BF16: t.BF16, F16: t.F16}
			defer its.Free()
			spec.Teacher = teacher.Model.Logits(its, its.View(teacher.Hidden, from, n))
			part.Fail(its.Err())
		}
		if k := teacher.Top; k > 0 {
			spec.TopIDs = part.Upload(teacher.IDs[from*k:(from+n)*k], n, k)
			spec.TopLogP = part.Upload(teacher.LogP[from*k:(from+n)*k], n, k)
		}
		var c *autograd.Tensor
		if coef != nil {
			c = part.Upload(coef[from:from+n], n)
		}
		logits := m.Logits(part, x)
		l, e := part.Divergence(logits, spec, c)
		part.Done(logits)
		for _, r := range []struct {
			to  *[]float32
			row *autograd.Tensor
		}{{&loss, l}, {&entropy, e}} {
			v, err := part.Values(r.row)
			part.Fail(err)
			*r.to = append(*r.to, v...)
		}
	})
	return loss, entropy, t.Err()
}

// RankedTeacher is what says a text in tokens of its own.
type RankedTeacher struct {
	Model       *Model
	Hidden      *autograd.Tensor // [M, C] its final hidden states
	Groups      [][2]int32       // rows of Hidden, one for each group of the model's
	Tokens      []int32          // [M] what each row is followed by
	Temperature float32
}

// RankedRows is how many rows DivergeRanked looks at at a time.
func (m *Model) RankedRows(teacher *Model) int {
	return max(1, divergeElems/max(m.Spec.V, teacher.Spec.V))
}

// DivergeRanked compares groups of final hidden states h [N, C] with a teacher's by the
// ranks of probabilities: the loss of each group. A group lies within RankedRows rows
// from a multiple of that on. tokens [N] is what each row is followed by. With coef, one
// of each group, the loss is Σ coef·sum, and its gradients are added, as LogProb does.
func (m *Model) DivergeRanked(t *autograd.Tape, h *autograd.Tensor, teacher RankedTeacher, groups [][2]int32, tokens []int32, temperature float32, coef []float32) (loss []float32, err error) {
	limit := m.RankedRows(teacher.Model)
	at := 0
	t.Parts(h, limit, func(part *autograd.Tape, x *autograd.Tensor, from int) {
		n := x.Rows()
		first := at
		spec := autograd.RankedSpec{Tokens: tokens[from : from+n], Scale: 1 / temperature}
		for at < len(groups) && int(groups[at][1]) <= from+n {
			g := groups[at]
			spec.Groups = append(spec.Groups, [2]int32{g[0] - int32(from), g[1] - int32(from)})
			at++
		}
		spec.Teacher = teacher.ranks(t, limit, first, at, part)
		var c []float32
		if coef != nil {
			c = coef[first:at]
		}
		logits := m.Logits(part, x)
		loss = append(loss, part.Ranked(logits, spec, c)...)
		part.Done(logits)
	})
	return loss, t.Err()
}

// ranks are the probabilities of groups first … last of the teacher, by rank.
func (r *RankedTeacher) ranks(t *autograd.Tape, limit, first, last int, part *autograd.Tape) (out [][]float32) {
	for first < last && part.Err() == nil {
		from, end := r.Groups[first][0], first
		var groups [][2]int32
		for end < last && int(r.Groups[end][1]-from) <= limit {
			groups = append(groups, [2]int32{r.Groups[end][0] - from, r.Groups[end][1] - from})
			end++
		}
		n := int(r.Groups[end-1][1] - from)
		its := &autograd.Tape{Dev: t.Dev, Record: t.Record, Base: true, BF16: t.BF16, F16: t.F16}
		z, err := its.Values(r.Model.Logits(its, its.View(r.Hidden, int(from), n)))
		its.Free()
		if part.Fail(err); err == nil {
			out = append(out, autograd.Ranks(z, r.Model.Spec.V, groups, r.Tokens[from:int(from)+n], 1/r.Temperature)...)
		}
		first = end
	}
	return out
}
