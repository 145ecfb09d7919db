package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// mode says what a panel holds.
type mode uint8

const (
	exact   mode = iota // f32
	rounded             // f32 with values rounded to bf16 (nearest even)
	pairs               // pairs of bf16
	halved              // f32 with values rounded to half precision
)

// operand is one side of a product as it lies in memory: element (line, k) is
// at row line, column k, or with across at row k, column line.
type operand struct {
	across bool
	ld     int         // columns of a memory row
	f      []float32   // float32 elements, or
	h      []uint16    // bf16 elements, or
	raw    *blocks.Raw // any other type, from row0 on
	units  *unitType   // how raw is read by units; nil: only by package block
	row0   int
	ones   bool // every element is 1
	drop   *dropping
}

// rowsF32 is a matrix with k contiguous: [lines, k].
func rowsF32(x []float32, ld int) operand { return operand{f: x, ld: ld} }

// colsF32 is a matrix with lines contiguous: [k, lines].
func colsF32(x []float32, ld int) operand { return operand{f: x, ld: ld, across: true} }

// weight is m [Rows, Cols]; across makes its columns the lines.
func weight(m kernels.Mat, across bool) operand {
	b := m.Buffer.(*Buf)
	if of := max(m.Of, m.Row0+m.Rows); b.n < of*m.Cols {
		panic(shapeError("weight", b.n, of, m.Cols))
	}
	o := operand{ld: m.Cols, across: across}
	switch b.t.Kind {
	case dtype.F32:
		o.f = f32(b)[m.Row0*m.Cols:]
	case dtype.BF16:
		o.h = view[uint16](b.live())[m.Row0*m.Cols:]
	default:
		o.raw = &blocks.Raw{Type: b.t, Rows: b.n / max(m.Cols, 1), Cols: m.Cols, Data: b.live()}
		o.row0 = m.Row0
		o.units = unitsOf(o.raw)
	}
	return o
}

// row fetches n elements of memory row r from column c on as float32.
func (o *operand) row(dst []float32, r, c, n int) {
	dst = dst[:n]
	switch {
	case o.ones:
		for i := range dst {
			dst[i] = 1
		}
	case o.f != nil:
		copy(dst, o.f[r*o.ld+c:][:n])
	case o.h != nil:
		widenBF16(dst, o.h[r*o.ld+c:][:n])
	case o.units != nil && c%unitSize == 0 && n%unitSize == 0:
		o.units.rowOf(dst, o.row0+r, c, n)
	case o.raw.Type.Kind == dtype.F16 && halvesTo(dst, o.raw.Data[2*((o.row0+r)*o.ld+c):]):
	case fewRow(dst, o.raw, o.row0+r, c):
	default:
		blocks.Decode(dst, *o.raw, o.row0+r, c, n)
	}
	if o.drop != nil {
		o.drop.apply(dst, r, c)
	}
}

// pack writes lines [line, line+lines) and k [p0, p0+kc) to dst[dword][stride].
// Lanes from lines on hold something finite when the operand does. dst has room
// for 16 floats after the last dword.
func (o *operand) pack(dst []float32, stride, line, lines, p0, kc int, m mode, w *area) {
	if m != halved && o.packFast(dst, stride, line, lines, p0, kc, m, w) {
		return
	}
	if o.across {
		o.packAcross(dst, stride, line, lines, p0, kc, m, w)
		return
	}
	n := 0
	for k := 0; k < kc; k += n {
		n = min(fetchStep-(p0+k)%fetchStep, kc-k) // whole blocks of the K types
		o.lines(w.fetch, line, lines, p0+k, n)
		for i := range lines {
			m.round(w.fetch[i*fetchStep:][:n])
		}
		packRows(dst[k/m.ku()*stride:], stride, lines, n, w.fetch, fetchStep, m)
	}
}

// lines fetches n elements of some memory rows from column c on, fetchStep apart.
func (o *operand) lines(dst []float32, r, rows, c, n int) {
	if o.columns(dst, fetchStep, r, rows, c, n) {
		return
	}
	for i := range rows {
		o.row(dst[i*fetchStep:], r+i, c, n)
	}
}

// columns decodes n elements of some memory rows from column c on, ldd apart,
// where there is a decoder of many rows.
func (o *operand) columns(dst []float32, ldd, r, rows, c, n int) bool {
	switch {
	case o.raw == nil:
		return false
	case o.raw.Type.Kind == dtype.F16:
		return halfColumns(dst, ldd, o.raw.Data[2*((o.row0+r)*o.ld+c):], o.ld, rows, n)
	case o.units == nil || !o.units.columnar || c%unitSize != 0 || n%unitSize != 0:
		return false
	}
	o.units.columns(dst, ldd, o.row0+r, rows, c, n)
	return true
}

func (o *operand) packAcross(dst []float32, stride, line, lines, p0, kc int, m mode, w *area) {
	const step = fetchSize / panelWidth / 2 * 2
	for k := 0; k < kc; k += step {
		n := min(step, kc-k)
		o.rows(w.fetch, p0+k, n, line, lines)
		m.round(w.fetch[:n*panelWidth])
		packCols(dst[k/m.ku()*stride:], stride, lines, n, w.fetch, panelWidth, m)
	}
}

// rows fetches lines columns of n memory rows, panelWidth apart.
func (o *operand) rows(dst []float32, r, n, line, lines int) {
	if o.units != nil && lines == unitSize && line%unitSize == 0 {
		o.units.strip(dst, panelWidth, o.row0+r, n, line)
		return
	}
	if o.columns(dst, panelWidth, r, n, line, lines) {
		return
	}
	for i := range n {
		o.row(dst[i*panelWidth:], r+i, line, lines)
	}
}

// round rounds fetched values as m asks; a packer of pairs rounds by itself.
func (m mode) round(x []float32) {
	switch m {
	case rounded:
		roundBF16(x)
	case halved:
		roundF16(x)
	}
}

func (m mode) ku() int {
	if m == pairs {
		return 2
	}
	return 1
}

// packRowsGeneric: dst[k][line] = src[line·ld + k]; lanes up to stride repeat the last line.
func packRowsGeneric(dst []float32, stride, lines, kc int, src []float32, ld int) {
	for i := range stride {
		row := src[min(i, lines-1)*ld:][:kc]
		for k, v := range row {
			dst[k*stride+i] = v
		}
	}
}

// packColsGeneric: dst[k][line] = src[k·ld + line]; lanes up to stride are 0.
func packColsGeneric(dst []float32, stride, lines, kc int, src []float32, ld int) {
	for k := range kc {
		to := dst[k*stride:][:stride]
		clear(to[copy(to, src[k*ld:][:lines]):])
	}
}

// roundBF16Generic rounds every element to the nearest bf16, ties to even.
func roundBF16Generic(x []float32) {
	for i, v := range x {
		x[i] = blocks.FromBF16(blocks.BF16(v))
	}
}

// roundF16Generic rounds every element to the nearest half, ties to even.
func roundF16Generic(x []float32) {
	for i, v := range x {
		x[i] = blocks.FromF16(blocks.F16(v))
	}
}

// widenBF16Generic is dst = src as f32.
func widenBF16Generic(dst []float32, src []uint16) {
	for i, v := range src {
		dst[i] = math.Float32frombits(uint32(v) << 16)
	}
}
