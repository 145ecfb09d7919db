package formats

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// How the stored arrays of one weight become a matrix in memory.

// importGPTQ reads zeros as the label says. All zero points of a symmetric matrix
// are the middle, so there the stored words say by themselves which version they
// have: tools wrote either under either label.
func importGPTQ(q block.GPTQ) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		q := q // each load has its own: several run side by side
		q.QWeight, q.QZeros, q.Scales, q.GIdx = p["qweight"], p["qzeros"], p["scales"], p["g_idx"]
		err := block.ImportGPTQ(m, q)
		if err != nil && m.Type.Flags&dtype.Zero == 0 {
			if q.V2 = !q.V2; block.ImportGPTQ(m, q) == nil {
				return nil
			}
		}
		return err
	}
}

func importAWQ(m block.Raw, p parts) error {
	return block.ImportAWQ(m, block.AWQ{QWeight: p["qweight"], QZeros: p["qzeros"], Scales: p["scales"]})
}

// ctCodes is how integers of compressed-tensors lie: the width of a packed code, 0 for
// the type's own, whether words are filled up, and which codes share a scale.
type ctCodes struct {
	bits  int
	loose bool
	grid  scaleGrid
}

func (c ctCodes) load(m block.Raw, p parts) error {
	groups := m.Type.Groups(m.Cols)
	spread := func(b []byte, size int) []byte { return c.grid.spread(b, m.Rows, groups*size) }
	return block.ImportCT(m, block.CT{
		Packed: p["packed"], Int8: p["int8"], Bits: c.bits, Loose: c.loose, ZeroPoint: p["zero"], GIdx: p["g_idx"],
		Scale: spread(p["scale"], m.Type.Scale.Info().Bytes), Zero8: spread(p["zero8"], 1),
	})
}

// spread gives each row the numbers, of size bytes together, of the run of rows that
// it belongs to.
func (g scaleGrid) spread(b []byte, rows, size int) []byte {
	if g.run == 1 || b == nil {
		return b
	}
	out := make([]byte, rows*size)
	for r := range rows {
		copy(out[r*size:(r+1)*size], b[r/g.run*size:])
	}
	return out
}

func importBnB(m block.Raw, p parts) error {
	s, err := parseBnBState("quant_state", p["quant_state"])
	if err != nil {
		return err
	}
	book := block.CodeMap4(m.Type.Kind)
	for i, want := range book {
		if got := f32(p["quant_map"], i); got != want {
			return fmt.Errorf("quant_map[%d] is %g, %v has %g: another code book", i, got, m.Type.Kind, want)
		}
	}
	return block.ImportBnB(m, block.BnB{
		Weight: p["weight"], AbsMax: p["absmax"], NestedAbsMax: p["nested_absmax"], NestedMap: p["nested_quant_map"], NestedOffset: s.offset,
	})
}

func f32(b []byte, i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) }

func put32(b []byte, i int, v float32) { binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v)) }

// importInt8Rows decodes LLM.int8() as bitsandbytes does: code · maximum · 1/127.
func importInt8Rows(m block.Raw, p parts) error {
	const inv127 = float32(0.007874015718698502)
	for r := range m.Rows {
		scale := f32(p["scb"], r)
		for c := range m.Cols {
			i := r*m.Cols + c
			v := float32(int8(p["weight"][i])) * scale
			put32(m.Data, i, v*inv127)
		}
	}
	return nil
}

// importFloats takes codes as they are stored, and gives each row its scales; a number
// for the tensor, where there is one, is each row's.
func importFloats(g scaleGrid) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		copy(m.Plane(dtype.Codes), p["codes"])
		scales := m.Plane(dtype.Scales)
		copy(scales, g.spread(p["scale"], m.Rows, len(scales)/max(m.Rows, 1)))
		for all := m.Plane(dtype.NestedScales); len(all) > 0; {
			all = all[copy(all, p["global"][:4]):]
		}
		return nil
	}
}

// gather is the inverse of spread: the scales of the first row of each run. It refuses a
// matrix whose rows of a run have different ones.
func (g scaleGrid) gather(m block.Raw) ([]byte, error) {
	scales := m.Plane(dtype.Scales)
	if g.run == 1 || m.Rows == 0 {
		return scales, nil
	}
	size, out := len(scales)/m.Rows, []byte(nil)
	for r := range m.Rows {
		row, first := scales[r*size:(r+1)*size], scales[r/g.run*g.run*size:][:size]
		if !bytes.Equal(row, first) {
			return nil, fmt.Errorf("rows %d and %d have different scales, but lie in one block of %d rows", r/g.run*g.run, r, g.run)
		}
		if r%g.run == 0 {
			out = append(out, row...)
		}
	}
	return out, nil
}

// importFP8Divided decodes what GPTQModel stores: 8-bit floats that are divided by their
// scales. F32 holds the quotient, which no product with another scale equals.
func importFP8Divided(g scaleGrid) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		groups := dtype.Type{Group: g.group}.Groups(m.Cols)
		scales := g.spread(p["scale"], m.Rows, 4*groups)
		per := m.Cols
		if g.group > 0 {
			per = int(g.group)
		}
		par.For(m.Rows, 1+4096/max(m.Cols, 1), func(lo, hi int) {
			row := make([]float32, m.Cols)
			for r := lo; r < hi; r++ {
				block.GetE4M3(row, p["codes"][r*m.Cols:(r+1)*m.Cols])
				for c, v := range row {
					put32(m.Data, r*m.Cols+c, v/f32(scales, r*groups+c/per))
				}
			}
		})
		return nil
	}
}

// importScaled decodes codes of a few bits, each times the scale, a byte wide, of its run of
// columns; BF16 holds the products.
func importScaled(k scaled) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		for i, b := range p["scale"] {
			if v := k.scale(b); v != v {
				return fmt.Errorf("the scale of block %d is not a number", i)
			}
		}
		fillRows(m, func(row []float32, r int) {
			for c := range row {
				i := r*m.Cols + c
				row[c] = float32(k.code(p["codes"], i) * k.scale(p["scale"][i/int(k.run)]))
			}
		})
		return nil
	}
}

// e2m3 is code i of four in three bytes: a sign, two bits of exponent, three of mantissa.
func e2m3(codes []byte, i int) float64 {
	b := codes[i/4*3:]
	code := (uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16) >> (i % 4 * 6)
	v := float64(code & 7)
	if e := code >> 3 & 3; e > 0 {
		v = math.Ldexp(v+8, int(e)-1)
	}
	return signed(v/8, code&32 != 0)
}

// e2m1 is code i of two a byte: a sign, two bits of exponent, one of mantissa.
func e2m1(codes []byte, i int) float64 {
	code := nibble(codes, i)
	v := float64(code & 1)
	if e := code >> 1 & 3; e > 0 {
		v = math.Ldexp(v+2, int(e)-1)
	}
	return signed(v/2, code&8 != 0)
}

// quarters is code i of two a byte: a sign and a number of quarters.
func quarters(codes []byte, i int) float64 {
	code := nibble(codes, i)
	return signed(float64(code&7)/4, code&8 != 0)
}

func signed(v float64, minus bool) float64 {
	if minus {
		return -v
	}
	return v
}

// e8m0 is a power of two, 255 no number.
func e8m0(b byte) float64 {
	if b == 255 {
		return math.NaN()
	}
	return math.Ldexp(1, int(b)-127)
}

// e5m3 is a float of 5 bits of exponent and 3 of mantissa without a sign, 255 no number.
func e5m3(b byte) float64 {
	switch {
	case b == 255:
		return math.NaN()
	case b < 8:
		return math.Ldexp(float64(b), -17)
	}
	return math.Ldexp(float64(8+b&7), int(b>>3)-18)
}

// nibble is code i of two-a-byte codes, the even one in the low half.
func nibble(b []byte, i int) byte { return b[i/2] >> (4 * (i % 2)) & 15 }

// importMXBlocks puts codes and scales into blocks of the type MXFP4: a scale, and
// 16 bytes of codes j and j+16 where the file has 2j and 2j+1.
func importMXBlocks(m block.Raw, p parts) error {
	for b, scale := range p["scale"] {
		if !block.JoinMXFP4(m.Data[17*b:17*b+17], p["codes"][16*b:], scale) {
			return fmt.Errorf("the scale of block %d is not a number", b)
		}
	}
	return nil
}

// importOrdered is importFloats for scales that order puts into that of rows.
func importOrdered(order func([]byte) []byte) func(block.Raw, parts) error {
	load := importFloats(scaleGrid{run: 1})
	return func(m block.Raw, p parts) error {
		return load(m, parts{"codes": p["codes"], "scale": order(p["scale"]), "global": p["global"]})
	}
}

// unswizzle takes scales, a byte each, out of the order that NVIDIA's products of scaled
// 4-bit and 8-bit floats read: tiles of 128 rows and 4 columns, each as 32 times 4 rows
// that are 32 apart.
func unswizzle(b []byte, rows, cols int) []byte {
	out, across := make([]byte, 0, rows*cols), (cols+3)/4
	for r := range rows {
		for c := range cols {
			out = append(out, b[(r/128*across+c/4)*512+r%32*16+r%128/32*4+c%4])
		}
	}
	return out
}

// importInt4 decodes signed codes, two a byte, with a float scale and a float zero point
// [groups, rows] for each group of columns.
func importInt4(group int) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		scale, zero := floatsOf(m.Type.Kind, p["scale"]), floatsOf(m.Type.Kind, p["zero"])
		affine4(m, group, func(dst []byte, r int) {
			for c := range dst {
				dst[c] = nibble(p["codes"], r*m.Cols+c) ^ 8
			}
		}, func(r, g int) (float32, float32) { return scale[g*m.Rows+r], zero[g*m.Rows+r] })
		return nil
	}
}

// tiles is how 4-bit codes lie for the tensor cores that PyTorch's product of them uses
// (m16n8k16): [rows/8][across][32 lanes][deep words], a word with 8 codes of one row.
type tiles struct{ rows, across, deep, group int }

// row takes the codes of a row, code + 8. Lane 4i+j of a tile has row i; of 16 columns it
// has 2j, 2j+1, 2j+8 and 2j+9, and a word has two times 16 columns: the even ones first.
func (t tiles) row(dst, b []byte, r int) {
	for c := range dst {
		word := ((r/8*t.across+c/(32*t.deep))*32+r%8*4+c%8/2)*t.deep + c/32%t.deep
		dst[c] = nibble(b[4*word:], c/8%4+c%2*4)
	}
}

// importInt4Tiles decodes codes in tiles; pairs are [groups, rows, scale and zero point].
func importInt4Tiles(t tiles) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		pairs := floatsOf(m.Type.Kind, p["pairs"])
		affine4(m, t.group, func(dst []byte, r int) { t.row(dst, p["codes"], r) }, func(r, g int) (float32, float32) {
			at := 2 * (g*t.rows + r)
			return pairs[at], pairs[at+1]
		})
		return nil
	}
}

// affine4 fills a matrix of floats with (code - 8) · scale + zero point, rounded once, as a
// fused product and sum is. codes gives those of a row, at the numbers of one of its groups.
func affine4(m block.Raw, group int, codes func(dst []byte, r int), at func(r, g int) (scale, zero float32)) {
	fillRows(m, func(row []float32, r int) {
		own := make([]byte, m.Cols)
		codes(own, r)
		var of [16]float32
		for c, v := range own {
			if c%group == 0 {
				scale, zero := at(r, c/group)
				for q := range of {
					of[q] = toOdd(float64(q-8)*float64(scale)+float64(zero), m.Type.Kind)
				}
			}
			row[c] = of[v]
		}
	})
}

// fillRows makes a matrix of floats a row at a time.
func fillRows(m block.Raw, fill func(row []float32, r int)) {
	size := m.Cols * m.Type.Kind.Info().Bytes
	par.For(m.Rows, 1+4096/max(m.Cols, 1), func(lo, hi int) {
		row := make([]float32, m.Cols)
		for r := lo; r < hi; r++ {
			fill(row, r)
			putFloats(m.Type.Kind, m.Data[r*size:(r+1)*size], row)
		}
	})
}

// toOdd rounds to float32 so that rounding again, to a narrower kind, gives what rounding
// once does: what is no float32 becomes the one of its neighbours whose last bit is 1.
func toOdd(x float64, kind dtype.Kind) float32 {
	f := float32(x)
	if kind == dtype.F32 || float64(f) == x || math.IsInf(float64(f), 0) {
		return f
	}
	if math.Abs(float64(f)) > math.Abs(x) {
		f = math.Nextafter32(f, 0)
	}
	return math.Float32frombits(math.Float32bits(f) | 1)
}

// floatsOf are the values of an array of F32, BF16 or F16.
func floatsOf(kind dtype.Kind, b []byte) []float32 {
	out := make([]float32, len(b)/kind.Info().Bytes)
	block.DecodeAll(out, block.Raw{Type: dtype.Of(kind), Rows: 1, Cols: len(out), Data: b})
	return out
}

func putFloats(kind dtype.Kind, b []byte, row []float32) {
	switch kind {
	case dtype.F32:
		block.PutF32(b, row)
	case dtype.BF16:
		block.PutBF16(b, row)
	case dtype.F16:
		block.PutF16(b, row)
	}
}
