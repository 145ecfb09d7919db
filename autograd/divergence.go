package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
)

// DivergenceSpec says what logits are compared with, and how: see
// kernels.DivergenceArgs. The zero value of a scale is 1.
type DivergenceSpec struct {
	Scale, TeacherScale float32
	Teacher             *Tensor // [N, V] logits; nil: none
	TopIDs, TopLogP     *Tensor // [N, Top] int32 and f32, in place of logits; nil: none
	Beta                float32
}

// Divergence compares logits [N, V] with a teacher's: the loss of each row and the
// entropy of what the logits say, [N] each. With coef [N] f32 the loss is
// Σ coef·loss, and a recording tape adds its gradient at once to that of logits, where
// Backward begins; coef nil: no gradient.
func (t *Tape) Divergence(logits *Tensor, s DivergenceSpec, coef *Tensor) (loss, entropy *Tensor) {
	n := logits.Rows()
	a := &kernels.DivergenceArgs{N: n, V: logits.Cols(), Logits: t.value(logits), Scale: s.Scale, TeacherScale: s.TeacherScale, Beta: s.Beta}
	if s.Teacher != nil {
		if s.Teacher.Rows() != n || s.Teacher.Cols() != a.V {
			panic(fmt.Sprintf("autograd: divergence: logits %v, teacher's %v", logits.Shape, s.Teacher.Shape))
		}
		a.Teacher = t.value(s.Teacher)
	}
	if s.TopIDs != nil {
		a.Top, a.TopIDs, a.TopLogP = s.TopIDs.Cols(), t.value(s.TopIDs), t.value(s.TopLogP)
	}
	loss, entropy = t.New(n), t.New(n)
	var dlogits kernels.Dst
	if coef != nil && t.Record {
		a.Coef, dlogits = coef.Data, t.grad(logits)
	}
	if t.err == nil {
		t.Dev.Divergence(&kernels.DivergenceOut{Loss: loss.Data, Entropy: entropy.Data}, dlogits, a)
	}
	return loss, entropy
}

// Parts runs f on rows of h [N, C], so many at a time: each part is a tape of its
// own, which records where t does, and runs backward when f returns. Gradients
// of x, rows from … of h, are added to h's. What f makes must begin with x and end in
// a loss: with a head this keeps its results of few rows in memory at a time.
func (t *Tape) Parts(h *Tensor, rows int, f func(part *Tape, x *Tensor, from int)) {
	n, c := h.Rows(), h.Cols()
	dh := kernels.Dst{}
	if t.Record {
		dh = t.grad(h)
	}
	for from := 0; from < n && t.err == nil; from += rows {
		m := min(rows, n-from)
		part := &Tape{Dev: t.Dev, Record: t.Record, Base: t.Base, BF16: t.BF16, F16: t.F16, Fast: t.Fast, Still: t.Still, Seed: t.Seed, Step: t.Step}
		if t.Key != nil {
			part.Key = t.View(t.Key, from, m)
		}
		x := part.Borrow(t.Dev.Slice(t.value(h), from*c, m*c), m, c)
		x.needs = !dh.Skip()
		f(part, x, from)
		t.Fail(part.Backward())
		if !dh.Skip() && t.err == nil {
			dx := kernels.Dst{Buffer: t.Dev.Slice(dh.Buffer, from*c, m*c), Add: dh.Add}
			switch {
			case x.grad != nil:
				t.Dev.Add(dx, &kernels.AddArgs{N: m * c, A: x.grad.buf, Alpha: 1})
			case !dx.Add:
				t.Dev.Fill(dx.Buffer, 0)
			}
		}
		t.Fail(part.Err())
		part.freeGrad(x)
		part.Free()
	}
}
