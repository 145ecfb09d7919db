package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Add is y = Alpha·A + Beta·B, B nil y = Alpha·A. Each of the three is F32, BF16
// or F16; the arithmetic is float32. y may be A or B.
func (c *CPU) Add(y kernels.Dst, args *kernels.AddArgs) {
	n, a, b := args.N, args.A, args.B
	want("add: y", y.Buffer, n)
	want("add: a", a, n)
	want("add: b", b, n)
	if y.Skip() {
		return
	}
	par.For(n, elemGrain, func(lo, hi int) {
		w := hi - lo
		tmp := c.scratch.take(3 * w)
		defer c.scratch.give(tmp)
		x := widen(tmp[:w], a, lo)
		var z []float32
		if b != nil {
			z = widen(tmp[w:2*w], b, lo)
		}
		out := tmp[2*w:]
		plain := y.Type().Kind == dtype.F32
		if plain && !y.Add {
			out = f32(y.Buffer)[lo:hi]
		}
		if args.Alpha == 1 && z == nil {
			copy(out, x)
		} else {
			vec.Lin2(out, args.Alpha, x, args.Beta, z)
		}
		switch {
		case plain && y.Add:
			vec.Axpy(f32(y.Buffer)[lo:hi], 1, out)
		case y.Add:
			vec.Axpy(out, 1, widen(tmp[:w], y.Buffer, lo))
			narrow(y.Buffer, lo, out)
		case !plain:
			narrow(y.Buffer, lo, out)
		}
	})
}

// widen returns the elements of b from lo on as float32, in tmp where they are not.
func widen(tmp []float32, b kernels.Buffer, lo int) []float32 {
	switch b.Type().Kind {
	case dtype.F32:
		return f32(b)[lo : lo+len(tmp)]
	case dtype.BF16:
		block.GetBF16(tmp, raw(b)[2*lo:])
	case dtype.F16:
		block.GetF16(tmp, raw(b)[2*lo:])
	default:
		panic(fmt.Sprintf("cpu: add: operand of %v", b.Type()))
	}
	return tmp
}

// narrow rounds src into the elements of b from lo on.
func narrow(b kernels.Buffer, lo int, src []float32) {
	switch b.Type().Kind {
	case dtype.BF16:
		block.PutBF16(raw(b)[2*lo:], src)
	case dtype.F16:
		block.PutF16(raw(b)[2*lo:], src)
	default:
		panic(fmt.Sprintf("cpu: add: result of %v", b.Type()))
	}
}
