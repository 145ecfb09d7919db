package cuda

import (
	"encoding/binary"
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// encodeArgs is EncodeArgs of quantize.cu.
type encodeArgs struct {
	m                    mat
	x, absmax, map_, bad driver.Ptr
	n                    int64
	rows, zero           int32
}

// Quantize encodes x as float32, bf16 or f16, as integers or small floats with
// scales for groups, or as NF4 or FP4; importance changes none of these. The
// GGUF types, F4_E2M1 and scales of 8 bits are not there yet.
func (c *CUDA) Quantize(dst kernels.Mat, x, importance kernels.Buffer) error {
	t, n := dst.Type(), dst.Rows*dst.Cols
	_, known := storage[t.Kind]
	family := t.Kind.Info().Family
	plain := family == dtype.Float && t.Kind != dtype.F64
	_, scales := elementTypes[t.Scale]
	if !known || t.Kind == dtype.F4E2M1 || !scales || t.Grouped() && t.Flags&dtype.Nested != 0 || !plain && !t.Grouped() && !(t.Flat() && t.Group%2 == 0) {
		return c.lacking("rounding to " + t.String())
	}
	if t.Flat() && dst.Rows != dst.Of {
		panic("cuda: quantize: blocks of " + t.String() + " cross rows; encode the whole matrix")
	}
	want("quantize: importance", importance, dst.Cols)
	e := &encodeArgs{x: f32("quantize: x", x, n), rows: int32(dst.Rows), zero: flag(t.Flags&dtype.Zero != 0)}
	return kernels.Step(func() error {
		e.m = c.matOf("quantize", dst)
		if err := c.firstBad(e, t, dst); err != nil {
			return err
		}
		switch {
		case plain:
			size := t.Kind.Info().Bytes
			to := dest{p: e.m.codes + driver.Ptr(dst.Row0*dst.Cols*size), typ: elementTypes[t.Kind]}
			each(c, "add", n, &addArgs{y: to, x: elems{p: e.x}, n: int64(n), alpha: 1})
		case t.Flat():
			c.encodeBook(e, n)
		default:
			e.n = int64(dst.Rows * t.Groups(dst.Cols))
			each(c, "group_scales", int(e.n), e)
			name, per := "micro_codes", dst.Cols
			if family == dtype.Int {
				name, per = "int_codes", (dst.Cols*t.Bits()+7)/8
			}
			e.n = int64(dst.Rows * per)
			each(c, name, int(e.n), e)
		}
		return nil
	})
}

// checked says whether there are values that t cannot store.
func checked(t dtype.Type) bool { return t.HasPlanes() || t.Kind == dtype.F16 }

// firstBad is an error that names the first value that cannot be stored.
func (c *CUDA) firstBad(e *encodeArgs, t dtype.Type, dst kernels.Mat) error {
	if !checked(t) || dst.Rows == 0 {
		return nil
	}
	bad := c.scratch(dtype.I32, dst.Rows)
	defer c.Free(bad)
	e.bad = ptr(bad)
	each(c, "first_bad", dst.Rows, e)
	list := make([]byte, 4*dst.Rows)
	if err := c.Download(list, bad); err != nil {
		return err
	}
	for r := range dst.Rows {
		if col := int32(binary.LittleEndian.Uint32(list[4*r:])); col >= 0 {
			return fmt.Errorf("row %d, column %d cannot be stored as %v: %w", dst.Row0+r, col, t, block.ErrNotFinite)
		}
	}
	return nil
}

// encodeBook encodes n flat elements of NF4 or FP4 as bitsandbytes does, with
// nested scales where the type has them.
func (c *CUDA) encodeBook(e *encodeArgs, n int) {
	size := int(e.m.group)
	blocks := (n + size - 1) / size
	absmax := c.scratch(dtype.F32, max(blocks, 1))
	defer c.Free(absmax)
	e.absmax, e.n = ptr(absmax), int64(n)
	each(c, "book_codes", blocks, e)
	if e.m.nested == 0 {
		c.post("copy of scales", func(d driver.Driver) error { return d.Copy(e.m.scales, e.absmax, int64(4*blocks)) })
		return
	}
	at := e.m.nested + driver.Ptr(4*(e.m.outer+1))
	values := kernels.Bytes(block.Signed.Values[:])
	c.post("the map of nested scales", func(d driver.Driver) error { return d.ToDevice(at, values) })
	e.map_, e.n = at, int64(blocks)
	launch(c, "scale_mean", driver.Dim{X: 1, Y: 1, Z: 1}, driver.Dim{X: 32, Y: 1, Z: 1}, 0, e)
	each(c, "nest_scales", (blocks+255)/256, e)
}
