package cuda

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// factorBlock is BLOCK of factor.cu.
const factorBlock = 128

// factorArgs is FactorArgs of factor.cu.
type factorArgs struct {
	h, a, inverse, u, bad driver.Ptr
	cols, n, i            int32
	damp                  float32
}

// work takes the matrix in whole blocks, the inverse of one, and a flag.
func (f *factorArgs) work(s *scratches, cols int) {
	n := roundUp(cols, factorBlock)
	f.cols, f.n = int32(cols), int32(n)
	f.a, f.inverse, f.bad = s.floats(n*n), s.floats(factorBlock*factorBlock), s.take(dtype.I32, 1)
}

// Factor makes U of H + damp·I = U·Uᵀ and its inverse, a block column after the other, or
// has the library make both.
func (c *CUDA) Factor(u, h kernels.Buffer, n int, damp float32) error {
	if done, err := c.factorBySolver(u, h, n, damp); done {
		return err
	}
	f := &factorArgs{h: f32("factor: h", h, n*n), u: f32("factor: u", u, n*n), damp: damp}
	bad := make([]byte, 4)
	err := kernels.Step(func() error {
		s := scratches{c: c}
		defer s.free()
		f.work(&s, n)
		run := func(name string, x, y uint32) {
			launch(c, name, driver.Dim{X: x, Y: y, Z: 1}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, f)
		}
		run("factor_copy", uint32(f.n), blocksOf(int(f.n), 256))
		blocks := uint32(f.n / factorBlock)
		for i := range blocks {
			f.i = int32(i)
			run("factor_diagonal", 1, 1)
			run("factor_panel", blocks-1, 1)
			run("factor_update", blocks-1-i, blocks)
		}
		if err := c.Download(bad, s.bufs[len(s.bufs)-1]); err != nil || bad[0] != 0 {
			return err
		}
		run("factor_store", blocksOf(n, 32), blocksOf(n, 32))
		return nil
	})
	if err == nil && bad[0] != 0 {
		err = kernels.ErrNotPositive
	}
	return err
}
