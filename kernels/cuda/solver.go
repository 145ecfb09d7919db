package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// SolverVariable is the environment variable that decides whether GPTQ's factor is that of
// NVIDIA's cuSOLVER: 0 never, 1 always (it is an error when it cannot be used), auto or ""
// where it is there and clearly faster.
const SolverVariable = "TUNE_CUSOLVER"

// solver is what makes factors beside our own kernels. Of the device's thread, but for
// what Open sets before anybody else has the device.
type solver struct {
	driver.Factors        // nil: there is none
	on             bool   // factors are its
	why            string // or why not; on: how it was chosen
}

// A factor is the library's from so many rows on; probeSolver are the rows by which it is
// compared with our own kernels.
var leastSolver, probeSolver = 256, 1024

// chooseSolver decides about the library.
func (c *CUDA) chooseSolver(earlier string) (err error) {
	c.solver.on, c.solver.why, err = c.choose(&alternative{
		variable: SolverVariable, prefix: "cusolver-", what: "factors", install: "install cuSOLVER (nvidia-cusolver of pip, or CUDA's toolkit)",
		open: func() (versioned, error) { err := c.openSolver(); return c.solver.Factors, err }, prove: c.proveSolver, compare: c.compareSolver, close: c.closeSolver,
	}, earlier)
	return err
}

func (c *CUDA) openSolver() error {
	return c.wait(func(d driver.Driver) error {
		f, ok := d.(driver.Factorer)
		if !ok {
			return fmt.Errorf("%s has no library of decompositions", c.info.Name)
		}
		lib, err := f.Factors()
		if err == nil {
			c.solver.Factors = lib
		}
		return err
	})
}

// closeSolver gives the library back, if there is one.
func (c *CUDA) closeSolver() error {
	if c.solver.Factors == nil {
		return nil
	}
	err := c.wait(func(d driver.Driver) error { return errors.Join(d.Sync(), c.solver.Close()) })
	c.solver.Factors = nil
	if err != nil {
		return c.explain("the library of decompositions cannot be given back", err)
	}
	return nil
}

// describeSolver says what makes GPTQ's factor.
func (c *CUDA) describeSolver() string {
	if c.solver.on {
		return fmt.Sprintf("GPTQ's factor by %s of %s (%s)", c.solver.Version(), c.solver.Path(), c.solver.why)
	}
	return "GPTQ's factor by our own kernels (" + c.solver.why + ")"
}

type solveArgs struct {
	h, a, bad driver.Ptr
	n         int32
	damp      float32
}

// errRoom is a factor for which the library takes more room than our own kernels, with
// which plans count.
var errRoom = errors.New("the library works in more memory than our own kernels do")

// solverError is what the library says when it fails.
type solverError struct{ error }

// factorBySolver is Factor by the library where it is for this, and says whether it was.
func (c *CUDA) factorBySolver(u, h kernels.Buffer, n int, damp float32) (done bool, err error) {
	if !c.solver.on || n < leastSolver {
		return false, nil
	}
	err = c.solve(u, h, n, damp, int(working{}.Factor(n)/4))
	if own := (solverError{}); errors.As(err, &own) {
		c.failed(c.explain("a factor of "+c.solver.Version()+" ("+SolverVariable+"=0 computes without it)", own.error))
		return true, c.lost()
	}
	return err != errRoom, err
}

// solve is Factor by the library, which inverts in place what is turned in place, in room
// for at most so many float32.
func (c *CUDA) solve(u, h kernels.Buffer, n int, damp float32, most int) error {
	s := &solveArgs{h: f32("factor: h", h, n*n), a: f32("factor: u", u, n*n), n: int32(n), damp: damp}
	var bytes int64
	err := c.wait(func(driver.Driver) (err error) { bytes, err = c.solver.Room(s.a, n); return err })
	if err != nil {
		return solverError{err}
	}
	words := max(1, int((bytes+3)/4))
	if words+3 > most {
		return errRoom
	}
	says := make([]byte, 12) // of its two steps, and of what they left
	err = kernels.Step(func() error {
		room, flags := c.scratch(dtype.F32, words), c.scratch(dtype.I32, 3)
		defer c.Free(room)
		defer c.Free(flags)
		s.bad = ptr(flags) + 8
		each(c, "solve_turn", n*n, s)
		if err := c.wait(func(driver.Driver) error { return c.solver.Invert(s.a, n, ptr(room), bytes, ptr(flags)) }); err != nil {
			return solverError{err}
		}
		each(c, "solve_back", n*n, s)
		return c.Download(says, flags)
	})
	if err != nil {
		return err
	}
	first, second := int32(binary.LittleEndian.Uint32(says)), int32(binary.LittleEndian.Uint32(says[4:]))
	switch {
	case first > 0:
		return kernels.ErrNotPositive
	case first < 0 || second != 0:
		return solverError{fmt.Errorf("it says %d and %d of its two steps", first, second)}
	case says[8] != 0:
		return kernels.ErrNotPositive
	}
	return nil
}

// proveSolver makes the factor of a small matrix, and one that there is none of.
func (c *CUDA) proveSolver() error {
	const n, damp = 37, 0.5
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s of %s computes wrong: %s", c.solver.Version(), c.solver.Path(), fmt.Sprintf(format, args...))
	}
	b, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*n)
	if err != nil {
		return err
	}
	defer c.Free(b)
	h, u := make([]float32, n*n), make([]float32, n*n)
	for i := range n {
		for j := range n {
			h[i*n+j] = float32((i*j+i+j)%7-3) / 16
		}
		h[i*n+i] = 4 + float32(i%3)
	}
	c.Upload(b, kernels.Bytes(h))
	if err := c.solve(b, b, n, damp, math.MaxInt); err == kernels.ErrNotPositive {
		return wrong("it finds a matrix not positive definite that is")
	} else if err != nil {
		return err
	}
	if err := c.Download(kernels.Bytes(u), b); err != nil {
		return err
	}
	for i := range n { // u·(H + damp·I)·uᵀ is I
		for j := range i + 1 {
			if j < i && u[i*n+j] != 0 {
				return wrong("element %d,%d below the diagonal is %v", i, j, u[i*n+j])
			}
			sum, want := 0.0, 0.0
			if i == j {
				want = 1
			}
			for x := range n {
				for y := range n {
					at := float64(h[x*n+y])
					if x == y {
						at += damp
					}
					sum += float64(u[i*n+x]) * at * float64(u[j*n+y])
				}
			}
			if !(math.Abs(sum-want) < 1e-4) {
				return wrong("the factor times its matrix has %v at %d,%d, not %v", sum, i, j, want)
			}
		}
	}
	c.Upload(c.Slice(b, 0, 4), kernels.Bytes([]float32{1, 2, 2, 1}))
	switch err := c.solve(b, b, 2, 0, math.MaxInt); err {
	case nil:
		return wrong("it makes the factor of a matrix that is not positive definite")
	case kernels.ErrNotPositive:
		return nil
	default:
		return err
	}
}

// compareSolver is how many times as fast as our own kernels the library is.
func (c *CUDA) compareSolver() (float64, error) {
	defer func(on bool) { c.solver.on = on }(c.solver.on)
	n := probeSolver
	return c.measure(c.architecture()+"\n"+c.solver.Version(), func() (best [2]float64, err error) {
		h, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*n)
		if err != nil {
			return best, err
		}
		defer c.Free(h)
		u, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*n)
		if err != nil {
			return best, err
		}
		defer c.Free(u)
		c.Fill(h, 0)
		var failed error
		best, err = c.turns(func(i int) { c.solver.on = i == 1 }, func() { failed = errors.Join(failed, c.Factor(u, h, n, 1)) })
		return best, errors.Join(err, failed)
	})
}
