package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// mat is Mat of mat.h.
type mat struct {
	codes, scales, zeros, nested, perm                     driver.Ptr
	row0                                                   int64
	cols, kind, group, groups, bits, scaleType, outer, fp4 int32
}

// storage numbers the types of matrices as mat.h does.
var storage = map[dtype.Kind]int32{
	dtype.F32: 0, dtype.BF16: 1, dtype.F16: 2, dtype.F8E4M3: 3, dtype.F8E5M2: 4, dtype.NF4: 5, dtype.FP4: 5,
	dtype.Int2: 6, dtype.Int3: 6, dtype.Int4: 6, dtype.Int5: 6, dtype.Int6: 6, dtype.Int8: 6,
	dtype.Q4_0: 7, dtype.Q4_1: 8, dtype.Q5_0: 9, dtype.Q5_1: 10, dtype.Q8_0: 11,
	dtype.Q2_K: 12, dtype.Q3_K: 13, dtype.Q4_K: 14, dtype.Q5_K: 15, dtype.Q6_K: 16, dtype.IQ4_NL: 17, dtype.IQ4_XS: 18,
	dtype.Q1_0: 19, dtype.Q2_0: 20, dtype.TQ1_0: 21, dtype.TQ2_0: 22, dtype.MXFP4: 23, dtype.NVFP4: 24,
	dtype.IQ2_XXS: 25, dtype.IQ2_XS: 26, dtype.IQ2_S: 27, dtype.IQ3_XXS: 28, dtype.IQ3_S: 29, dtype.IQ1_S: 30, dtype.IQ1_M: 31,
	dtype.F4E2M1: 32,
}

// scaleTypes numbers the types of the scales of groups.
var scaleTypes = map[dtype.Kind]int32{dtype.F32: 0, dtype.BF16: 1, dtype.F16: 2, dtype.F8E4M3: 3, dtype.F8E8M0: 33}

// Types lists the storage types that products, gathers and Dequantize read, and those
// that Quantize makes of values. It needs no GPU.
func Types() (read, made []dtype.Kind) {
	for _, k := range dtype.Kinds() {
		if _, ok := storage[k]; !ok {
			continue
		}
		read = append(read, k)
		if k.Info().Family != dtype.GGML && k != dtype.F4E2M1 {
			made = append(made, k)
		}
	}
	return read, made
}

// matOf describes m to a kernel.
func (c *CUDA) matOf(what string, m kernels.Mat) mat {
	t := m.Type()
	kind, ok := storage[t.Kind]
	if !ok || t.Kind == dtype.F4E2M1 && !t.Grouped() {
		c.lacks("a matrix of " + t.String())
	}
	of := max(m.Of, m.Row0+m.Rows)
	if b := m.Buffer.(*Buf); b.rows > 0 {
		of = b.rows // planes lie by the rows that were loaded
	} else {
		want(what, b, (m.Row0+m.Rows)*m.Cols)
	}
	if m.Row0+m.Rows > of {
		panic(fmt.Sprintf("cuda: %s: rows %d+%d of %d", what, m.Row0, m.Rows, of))
	}
	base := ptr(m.Buffer)
	k := mat{codes: base, row0: int64(m.Row0), cols: int32(m.Cols), kind: kind, group: int32(t.Group), groups: int32(t.Groups(m.Cols)), bits: int32(t.Bits()), fp4: flag(t.Kind == dtype.FP4)}
	if in := t.Kind.Info(); in.Family == dtype.GGML {
		k.bits, k.outer, k.scales = int32(in.Block), int32(in.Bytes), c.pointsOf(t.Kind)
	}
	if !t.HasPlanes() {
		return k
	}
	p := dtype.Planes(t, of, m.Cols)
	at := func(i int) driver.Ptr {
		if p[i].Len == 0 {
			return 0
		}
		return base + driver.Ptr(p[i].Off)
	}
	k.codes, k.scales, k.zeros, k.nested, k.perm = at(dtype.Codes), at(dtype.Scales), at(dtype.Zeros), at(dtype.NestedScales), at(dtype.PermIndex)
	k.outer = int32((p[dtype.Scales].Len + 255) / 256)
	if t.Grouped() {
		if k.scaleType, ok = scaleTypes[t.Scale]; !ok {
			c.lacks("a matrix of " + t.String())
		}
		k.outer = flag(t.Flags&dtype.Inverse != 0)
	}
	return k
}

// pointsOf is where the points of a type's lattice lie; 0: it has none.
func (c *CUDA) pointsOf(k dtype.Kind) driver.Ptr {
	points := block.Points(k)
	if points == nil {
		return 0
	}
	return c.table(k, kernels.Bytes(points))
}

// table is where the bytes of a table lie, which its first user brings to the device.
// Tables stay until it is closed, and are not counted: 12 KB all together.
func (c *CUDA) table(key any, raw []byte) driver.Ptr {
	c.mu.Lock()
	at, ok := c.tables[key]
	c.mu.Unlock()
	if ok {
		return at
	}
	b, err := c.take(kernels.Scratch, dtype.Of(dtype.U8), len(raw), int64(len(raw)))
	if err != nil {
		panic(kernels.Failed{Err: err})
	}
	c.upload(b, raw)
	c.mu.Lock()
	if at, ok = c.tables[key]; !ok {
		at, c.tables[key] = b.at, b.at
		c.mem.Now[kernels.Scratch] -= b.size
	}
	c.mu.Unlock()
	if at != b.at { // another was first
		c.Free(b)
	}
	return at
}

// rowsOf is a buffer [n, cols] of elements as a matrix.
func (c *CUDA) rowsOf(what string, b kernels.Buffer, n, cols int) mat {
	if b == nil {
		return mat{}
	}
	e := elemsOf(what, b, n*cols)
	return mat{codes: e.p, cols: int32(cols), kind: e.typ}
}
