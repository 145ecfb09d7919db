package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// sinkhornArgs is SinkhornArgs of sinkhorn.cu.
type sinkhornArgs struct {
	y              dest
	x, dy, made, g driver.Ptr
	n              int64
	s, iters, keep int32
	eps            float32
}

// work takes what the kernels work in: n numbers of so many steps, and the gradients of those where there are several.
func (k *sinkhornArgs) work(s *scratches, n, steps int) {
	k.made = s.take(dtype.F64, steps*n)
	if steps > 1 {
		k.g = s.take(dtype.F64, n)
	}
}

// sinkhorn queues a kernel with one thread a matrix, and the memory of so many
// steps of it.
func (c *CUDA) sinkhorn(name string, y kernels.Dst, dy kernels.Buffer, a *kernels.SinkhornArgs, steps int) {
	if a.S < 1 || a.Iters < 1 {
		panic(fmt.Sprintf("cuda: %s: %d times of %d by %d", name, a.Iters, a.S, a.S))
	}
	n := a.N * a.S * a.S
	k := &sinkhornArgs{y: destOf(name+": y", y, n), x: f32(name+": x", a.X, n), dy: f32(name+": dy", dy, n), n: int64(a.N), s: int32(a.S), iters: int32(a.Iters), keep: flag(steps > 1), eps: a.Eps}
	if y.Skip() {
		return
	}
	s := scratches{c: c}
	defer s.free()
	k.work(&s, n, steps)
	each(c, name, a.N, k)
}

// Sinkhorn normalises rows and columns of matrices in turn, a thread each.
func (c *CUDA) Sinkhorn(y kernels.Dst, a *kernels.SinkhornArgs) { c.sinkhorn("sinkhorn", y, nil, a, 1) }

// SinkhornBackward goes back through the divisions, which it makes again.
func (c *CUDA) SinkhornBackward(dx kernels.Dst, dy kernels.Buffer, a *kernels.SinkhornArgs) {
	c.sinkhorn("sinkhorn_grad", dx, dy, a, 2*a.Iters)
}

// divergenceArgs is DivergenceArgs of divergence.cu.
type divergenceArgs struct {
	dlogits                        dest
	logits, teacher, topLogP, coef driver.Ptr
	topIDs, loss, entropy          driver.Ptr
	v, top                         int32
	scale, teacherScale, beta      float32
	_                              int32
}

// mostMarked is the largest vocabulary of which a block can mark tokens.
const mostMarked = 8 * 40 << 10

// Divergence compares rows of logits with a teacher's, a block each.
func (c *CUDA) Divergence(out *kernels.DivergenceOut, dlogits kernels.Dst, a *kernels.DivergenceArgs) {
	n, top := a.N*a.V, a.N*a.Top
	d := &divergenceArgs{dlogits: destOf("divergence: dlogits", dlogits, n), logits: f32("divergence: logits", a.Logits, n), teacher: f32("divergence: teacher", a.Teacher, n),
		topLogP: f32("divergence: log-probabilities", a.TopLogP, top), topIDs: i32("divergence: ids", a.TopIDs, top), coef: f32("divergence: coef", a.Coef, a.N),
		loss: f32("divergence: loss", out.Loss, a.N), entropy: f32("divergence: entropy", out.Entropy, a.N),
		v: int32(a.V), scale: alphaOf(a.Scale), teacherScale: alphaOf(a.TeacherScale), beta: a.Beta}
	shared := 0
	if a.Teacher == nil && a.Top > 0 {
		if a.V > mostMarked {
			c.lacks(fmt.Sprintf("the divergence from a teacher's most likely of %d tokens (%d are the most)", a.V, mostMarked))
		}
		d.top, shared = int32(a.Top), (a.V+31)/32*4
	}
	launch(c, "divergence", driver.Dim{X: uint32(a.N), Y: 1, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, shared, d)
}
