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
