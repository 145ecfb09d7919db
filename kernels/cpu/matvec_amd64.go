package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// mvFunc is a kernel: some rows of w, or of a part of its columns, with a tile of x.
type mvFunc = func(rows, units int, w, x *byte, y *float32, ldy int, scales, mins *float32, perRow, shift int, table *byte,
	first, skip int, acc *float32, mode int)

// mvKernel is a type's kernels by the rows of x in a tile.
type mvKernel [9]mvFunc

var (
	mvF32  = &mvKernel{1: mvF321, 2: mvF322, 4: mvF324, 8: mvF328}
	mvF16  = &mvKernel{1: mvF161, 2: mvF162, 4: mvF164, 8: mvF168}
	mvBF16 = &mvKernel{1: mvBF161, 2: mvBF162, 4: mvBF164, 8: mvBF168}
	mvQ40  = &mvKernel{1: mvQ401, 2: mvQ402, 4: mvQ404, 8: mvQ408}
	mvQ41  = &mvKernel{1: mvQ411, 2: mvQ412, 4: mvQ414, 8: mvQ418}
	mvQ50  = &mvKernel{1: mvQ501, 2: mvQ502, 4: mvQ504, 8: mvQ508}
	mvQ51  = &mvKernel{1: mvQ511, 2: mvQ512, 4: mvQ514, 8: mvQ518}
	mvQ80  = &mvKernel{1: mvQ801, 2: mvQ802, 4: mvQ804, 8: mvQ808}
	mvIQ4K = &mvKernel{1: mvIQ41, 2: mvIQ42, 4: mvIQ44, 8: mvIQ48}
	mvQ4K  = &mvKernel{1: mvQ4K1, 2: mvQ4K2, 4: mvQ4K4, 8: mvQ4K8}
	mvQ5K  = &mvKernel{1: mvQ5K1, 2: mvQ5K2, 4: mvQ5K4, 8: mvQ5K8}
	mvQ6K  = &mvKernel{1: mvQ6K1, 2: mvQ6K2, 4: mvQ6K4, 8: mvQ6K8}
	mvQ2K  = &mvKernel{1: mvQ2K1, 2: mvQ2K2, 4: mvQ2K4, 8: mvQ2K8}
	mvQ3K  = &mvKernel{1: mvQ3K1, 2: mvQ3K2, 4: mvQ3K4, 8: mvQ3K8}
	mvIQ4S = &mvKernel{1: mvIQ4XS1, 2: mvIQ4XS2, 4: mvIQ4XS4, 8: mvIQ4XS8}
	mvLow  = &mvKernel{1: mvLow1, 2: mvLow2, 4: mvLow4, 8: mvLow8}
	mvByte = &mvKernel{1: mvBytes1, 2: mvBytes2, 4: mvBytes4, 8: mvBytes8}
	mvCode = &mvKernel{1: mvBook1, 2: mvBook2, 4: mvBook4, 8: mvBook8}
)

// newMVWeight returns the weight of a as a kernel reads it; nil: none does.
func newMVWeight(a *kernels.LinearArgs) *mvWeight {
	if level.Current() < level.AVX512 || a.W.Cols%mvUnit != 0 || a.W.Cols == 0 {
		return nil
	}
	o := weight(a.W, false)
	w := &mvWeight{rows: a.W.Rows, units: a.W.Cols / mvUnit, most: mvTileRows[0], x: mvRounding{factor: 1}}
	switch {
	case o.f != nil && !a.BF16:
		w.x.floats, w.kernel, w.rowBytes, w.data = true, mvF32, 4*a.W.Cols, bytesOf(o.f)
	case o.h != nil:
		w.x.floats, w.kernel, w.rowBytes, w.data = true, mvBF16, 2*a.W.Cols, bytesOf(o.h)
	case o.raw == nil || a.BF16 && !a.Fast:
		return nil
	case o.raw.Type.Kind == dtype.F16:
		w.x.floats, w.kernel, w.rowBytes = true, mvF16, 2*a.W.Cols
		w.data = o.raw.Data[o.row0*w.rowBytes:]
	default:
		u := o.units
		if u == nil {
			u = &unitType{raw: o.raw, row: dtype.Planes(o.raw.Type, 1, a.W.Cols)[dtype.Codes].Len}
		}
		if !(a.Fast && level.HasVNNI() && w.integers(u, o.row0)) && !w.exact(u, o.row0) {
			return nil
		}
	}
	return w
}

// integers sets the kernel of a quantized type for x rounded to 8 bits.
func (w *mvWeight) integers(u *unitType, row0 int) bool {
	switch u.raw.Type.Kind {
	case dtype.Q4_0:
		w.blocks(mvQ40, 8)
	case dtype.Q4_1:
		w.blocks(mvQ41, 0)
	case dtype.Q5_0:
		w.blocks(mvQ50, 16)
	case dtype.Q5_1:
		w.blocks(mvQ51, 0)
	case dtype.Q8_0:
		w.blocks(mvQ80, 128)
	case dtype.IQ4_NL:
		w.blocks(mvIQ4K, 128)
		w.table = mvIQ4
	case dtype.Q2_K:
		w.kernel, w.x.k = mvQ2K, true
	case dtype.Q3_K:
		w.kernel, w.x.k = mvQ3K, true
	case dtype.Q4_K:
		w.kernel, w.x.k = mvQ4K, true
	case dtype.Q5_K:
		w.kernel, w.x.k = mvQ5K, true
	case dtype.Q6_K:
		w.kernel, w.x.k = mvQ6K, true
	case dtype.IQ4_XS:
		w.kernel, w.x.k, w.table = mvIQ4S, true, mvIQ4
	case dtype.Int4:
		w.kernel, w.x.split = mvLow, true
	case dtype.Int8:
		w.kernel = mvByte
	case dtype.NF4, dtype.FP4:
		w.kernel, w.x.split, w.x.offset, w.x.factor, w.table = mvCode, true, 128, 1.0/mvBookOne, mvNF4
		if u.raw.Type.Kind == dtype.FP4 {
			w.table = mvFP4
		}
	default:
		return w.few(u.raw.Type.Kind) && w.codes(u, row0)
	}
	return w.codes(u, row0)
}

// codes sets where codes are, and their scales.
func (w *mvWeight) codes(u *unitType, row0 int) bool {
	w.rowBytes = u.row
	w.data = u.raw.Data[row0*u.row:]
	return !u.raw.Type.HasPlanes() || w.apart(u, row0)
}

// blocks sets the kernel of a type with blocks of 32, which want x's scales
// multiplied by 2^100.
func (w *mvWeight) blocks(k *mvKernel, zero int) {
	w.kernel, w.x.offset, w.x.factor = k, zero, 0x1p100
}

// apart sets where scales are that do not lie in the blocks. A unit must have one.
func (w *mvWeight) apart(u *unitType, row0 int) bool {
	if u.scales == nil && !u.groups() {
		return false
	}
	w.scales = &mvScales{u: u, row0: row0, perRow: u.perRow, shift: u.shift - 6}
	if u.flat != 0 {
		w.scales.perRow = u.flat >> u.shift
	}
	return u.shift >= 6 && (u.flat == 0 || u.flat&(1<<u.shift-1) == 0)
}

// mvQuantize rounds a row to 8 bits, into blocks step floats apart.
func mvQuantize(dst []float32, step int, x []float32, r mvRounding) {
	units := len(x) / mvUnit
	p := (*byte)(unsafe.Pointer(&dst[0]))
	if r.k {
		_ = dst[(units/4-1)*step+r.block()-1]
		f := [...]func(blocks int, src *float32, dst *byte, step int, unit float32){mvColumns: quantRowK, mvTurn: quantRowTurned, mvPairs: quantRowPaired, mvShifts: quantRowShifted}[r.order]
		f(units/4, &x[0], p, 4*step, r.factor/127)
		return
	}
	_ = dst[(units-1)*step+mvUnitFloats-1]
	f := quantRow
	if r.split {
		f = quantRowSplit
	}
	f(units, &x[0], p, 4*step, -r.offset, r.factor/127)
}

// tile multiplies rows r…r+n of w with a tile of m rows of x, from unit first on
// for some units. scales begin at at rows before r.
func (w *mvWeight) tile(y []float32, ldy int, x []float32, m, r, n int, scales []float32, at int, part mvPart) {
	_, _ = y[(m-1)*ldy+n-1], x[m*w.xFloats()-1]
	d := w.data[r*w.rowBytes : (r+n)*w.rowBytes]
	var s, t *float32
	perRow, shift := 0, 0
	if p := w.scales; p != nil {
		perRow, shift = p.perRow, int(p.shift)
		from, to := at*perRow, len(scales)/2+at*perRow
		_ = scales[to+n*perRow-1]
		s, t = &scales[from], &scales[to]
	}
	from := w.at(part.first)
	w.kernel[m](n, part.units, &d[from], (*byte)(unsafe.Pointer(&x[m*w.xAt(part.first)])), &y[0], ldy, s, t, perRow, shift,
		unsafe.SliceData(w.table), part.first, w.rowBytes-(w.at(part.first+part.units)-from), unsafe.SliceData(part.acc), part.mode)
}

// ask brings n bytes of the weight from offset at on nearer.
func (w *mvWeight) ask(at, n int) {
	if n = min(n, len(w.data)-at); n > 0 {
		askFor(n, &w.data[at])
	}
}

// planeScales decodes the scales from index at on to s, and -scale·zero to t.
func (u *unitType) planeScales(s, t []float32, at int) {
	n := len(s)
	if n == 0 {
		return
	}
	_ = t[n-1]
	if u.outer != nil {
		_ = u.scales[at+n-1]
		front := len(u.outer) - 4*257
		book := view[float32](u.outer[front+4:])
		scalesNested(n, &u.scales[at], at, &book[0], &view[float32](u.outer)[0], f32At(u.outer[front:]), &s[0])
		return
	}
	var zeros *byte
	if u.zeros != nil {
		zeros = &u.zeros[at : at+n][0]
	}
	switch u.raw.Type.Scale {
	case dtype.F16:
		scalesF16(n, &u.scales[2*at : 2*(at+n)][0], zeros, u.middle, &s[0], &t[0])
	case dtype.BF16:
		scalesBF16(n, &u.scales[2*at : 2*(at+n)][0], zeros, u.middle, &s[0], &t[0])
	default:
		scalesF32(n, &u.scales[4*at : 4*(at+n)][0], zeros, u.middle, &s[0], &t[0])
	}
}
