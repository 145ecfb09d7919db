package cpu

import (
	"fmt"
	"math"
	"sync"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Quantize encodes x into the rows of dst, whose memory is the device's own.
func (c *CPU) Quantize(dst kernels.Mat, x, importance kernels.Buffer) error {
	n := dst.Rows * dst.Cols
	want("quantize: x", x, n)
	want("quantize: importance", importance, dst.Cols)
	b := dst.Buffer.(*Buf)
	if len(b.mem) > 0 && b.block.bytes == nil {
		panic("cpu: quantize: the weight lies in borrowed memory")
	}
	b.few.Store(nil) // what was prepared from the old values
	return block.EncodeRows(rawMat(dst), dst.Row0, dst.Rows, f32(x)[:n], part(f32(importance), 0, dst.Cols))
}

// FakeQuant rounds groups as an Int or Micro type would store them.
func (c *CPU) FakeQuant(y kernels.Dst, a *kernels.FakeQuantArgs) {
	want("fakequant: y", y.Buffer, a.Rows*a.Cols)
	want("fakequant: x", a.X, a.Rows*a.Cols)
	want("fakequant: colscale", a.ColScale, a.Cols)
	if y.Skip() {
		return
	}
	size := int(a.Type.Group)
	if size <= 0 {
		size = max(a.Cols, 1)
	}
	groups := (a.Cols + size - 1) / size
	want("fakequant: clip", a.Clip, a.Rows*groups)
	round := fakeOf(a.Type)
	x, out, scale, clip := plainOf(a.X), plainOf(y.Buffer), f32(a.ColScale), f32(a.Clip)
	if a.Grid != (kernels.Grid{}) {
		if scale != nil || clip != nil {
			panic("cpu: fakequant: a grid goes with no scales and limits of its own")
		}
		round = fixedOn(a.Grid)
	}
	if a.Type.Group == dtype.AllRows {
		if scale != nil || clip != nil {
			panic("cpu: fakequant: one scale for all rows goes with no scales and limits of its own")
		}
		if a.Grid == (kernels.Grid{}) {
			round = fixedOn(c.gridOf(a))
		}
	}
	if scale == nil {
		scale = make([]float32, a.Cols)
		for i := range scale {
			scale[i] = 1
		}
	}
	par.For(a.Rows*groups, rowGrain(size), func(lo, hi int) {
		tmp := c.scratch.take(3 * size)
		defer c.scratch.give(tmp)
		for g := lo; g < hi; g++ {
			col := g % groups * size
			n, at := min(size, a.Cols-col), g/groups*a.Cols+col
			limit := float32(math.Inf(1))
			if clip != nil {
				limit = clip[g]
			}
			res := tmp[size:][:n]
			round(res, x.get(tmp[:n], at), scale[col:col+n], limit, a.Type)
			out.store(res, at, y.Add, tmp[2*size:][:n])
		}
	})
}

// gridOf is the grid that all rows share, of their smallest and largest value.
func (c *CPU) gridOf(a *kernels.FakeQuantArgs) kernels.Grid {
	x := plainOf(a.X)
	var mu sync.Mutex
	var least, most float32
	par.For(a.Rows, rowGrain(a.Cols), func(lo, hi int) {
		tmp := c.scratch.take(a.Cols)
		defer c.scratch.give(tmp)
		var low, high float32
		for r := lo; r < hi; r++ {
			for _, v := range x.get(tmp[:a.Cols], r*a.Cols) {
				low, high = min(low, v), max(high, v)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		least, most = min(least, low), max(most, high)
	})
	if a.Type.Kind.Info().Family == dtype.Micro {
		return kernels.Grid{Scale: block.MicroScale(a.Type, max(most, -least))}
	}
	scale, zero := block.IntGrid(a.Type, least, most)
	return kernels.Grid{Scale: scale, Zero: zero - float32(int(1)<<(a.Type.Bits()-1))} // of codes with a sign
}

func fakeOf(t dtype.Type) func(dst, x, s []float32, limit float32, t dtype.Type) {
	if t.Kind == dtype.F32 {
		return keepWithin
	}
	switch t.Kind.Info().Family {
	case dtype.Int:
		return block.FakeInt
	case dtype.Micro:
		return block.FakeMicro
	}
	panic(fmt.Sprintf("cpu: fakequant: %v is neither an integer nor a small float type, nor F32", t))
}

// fixedOn is the rounding of a type on a grid that was chosen beforehand.
func fixedOn(g kernels.Grid) func(dst, x, s []float32, limit float32, t dtype.Type) {
	return func(dst, x, _ []float32, _ float32, t dtype.Type) {
		if t.Kind.Info().Family == dtype.Micro {
			block.FixedMicro(dst, x, g.Scale, t)
		} else {
			block.FixedInt(dst, x, g.Scale, g.Zero, t)
		}
	}
}

// keepWithin keeps x·s within limits.
func keepWithin(dst, x, s []float32, limit float32, _ dtype.Type) {
	for j, v := range x {
		dst[j] = min(max(v*s[j], -limit), limit) / s[j]
	}
}
