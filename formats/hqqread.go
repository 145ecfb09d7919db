package formats

import (
	"encoding/binary"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Weights of HQQ as a folder of Transformers holds them: codes, a scale and a zero point
// for each group, and how they lie in small arrays beside them.

const hqqCodes = ".W_q"

// hqqPacks are HQQ's names of packings: the bits of a code, and of a word.
var hqqPacks = map[string][2]int{"8bit_u8": {8, 8}, "4bit_u8": {4, 8}, "3bit_32": {3, 32}, "2bit_u8": {2, 8}, "1bit_u8": {1, 8}}

// hqqState are the small arrays beside a weight.
var hqqState = []string{
	".shape", ".axis", ".packing", ".view_as_float", ".nbits", ".group_size", ".unpack_view_dtype", ".compute_dtype", ".channel_wise", ".optimize", ".round_zero",
	".quant_scale", ".quant_zero", ".offload_meta", ".encoded_state_dict", ".stores_quant_config",
}

// hqq reads a weight of HQQ, in the floats that its scales are.
func (g *grouper) hqq(prefix string, q *array) error {
	if m := g.method(); m != "hqq" {
		return unsupported(g.where, "", "tensor %s is a weight of HQQ, but quantization_config.quant_method is %s", quote(q.name), quote(m))
	}
	shape, err := g.need(prefix+".shape", "I64", "I32")
	if err != nil {
		return err
	}
	rows, cols, err := shapePair(shape)
	if err != nil {
		return err
	}
	axis, err := g.small(prefix+".axis", "I32")
	if err != nil {
		return err
	}
	packing, err := g.small(prefix+".packing", "U8")
	if err != nil {
		return err
	}
	pack, known := hqqPacks[string(packing)]
	if !known || len(axis) != 4 || axis[0] > 1 || axis[1]|axis[2]|axis[3] != 0 {
		return unsupported(q.src.path, "", "tensor %s: packing %s along axis % x; 8bit_u8, 4bit_u8, 3bit_32, 2bit_u8 and 1bit_u8 along 0 or 1 are read", quote(q.name), quote(string(packing)), axis)
	}
	l := hqqLayout{bits: pack[0], word: pack[1] / 8, byColumn: axis[0] == 0}
	words, err := g.hqqWords(prefix, q, int64(l.word))
	if err != nil {
		return err
	}
	scale, zero, err := g.hqqScales(prefix, words, &l, rows, cols)
	if err != nil {
		return err
	}
	err = g.add(prefix+".weight", dtype.Of(scaleKind(scale)), []int64{rows, cols}, []string{"codes", "scale", "zero"}, []*array{q, scale, zero}, l.load)
	if err != nil {
		return err
	}
	for _, name := range hqqState {
		g.extra(prefix + name)
	}
	return nil
}

// small reads an array of up to 64 bytes.
func (g *grouper) small(name, dtype string) ([]byte, error) {
	a, err := g.need(name, dtype)
	if err != nil {
		return nil, err
	}
	if a.size > 64 {
		return nil, corrupt(a.src.path, "tensor %s has %d bytes, expected a few", quote(name), a.size)
	}
	return a.read()
}

// hqqWords is an array of codes as words of so many bytes, which HQQ may store as if they
// were floats (view_as_float).
func (g *grouper) hqqWords(prefix string, q *array, size int64) (*array, error) {
	view := []byte{0}
	if a := g.by[prefix+".view_as_float"]; a != nil {
		var err error
		if view, err = g.small(a.name, "U8"); err != nil {
			return nil, err
		}
	}
	words := *q
	if len(view) != 1 || view[0] == 0 {
		_, err := g.need(q.name, map[int64]string{1: "U8", 4: "I32"}[size])
		return &words, err
	}
	if _, err := g.need(q.name, "F16", "BF16", "F32"); err != nil {
		return nil, err
	}
	bytes := stBits[q.dtype] / 8
	if len(q.shape) != 2 || q.shape[1]*bytes%size != 0 {
		return nil, g.errShape(q)
	}
	words.shape = []int64{q.shape[0], q.shape[1] * bytes / size}
	return &words, nil
}

// hqqScales finds scales and zero points, and checks that the codes q are as many as
// they and the shape say.
func (g *grouper) hqqScales(prefix string, q *array, l *hqqLayout, rows, cols int64) (scale, zero *array, err error) {
	if scale, err = g.need(prefix+".scale", "F16", "BF16", "F32"); err != nil {
		return nil, nil, err
	}
	if zero, err = g.need(prefix+".zero", scale.dtype); err != nil {
		return nil, nil, err
	}
	n, ok := product([]int64{rows, cols})
	if !ok || n == 0 || len(q.shape) != 2 || q.shape[0] == 0 || q.shape[1] == 0 || n%q.shape[1] != 0 {
		return nil, nil, corrupt(q.src.path, "tensor %s %v holds no codes of a matrix %d×%d", quote(q.name), q.shape, rows, cols)
	}
	lines, per := n/q.shape[1], int64(8*l.word/l.bits)
	if want := (lines + per - 1) / per; want != q.shape[0] || l.bits != 3 && lines%per != 0 {
		return nil, nil, corrupt(q.src.path, "tensor %s %v holds no codes of %d bits of a matrix %d×%d", quote(q.name), q.shape, l.bits, rows, cols)
	}
	l.lines, l.width = int(q.shape[0]), int(q.shape[1])
	want := []int64{lines, 1}
	if l.byColumn {
		want = []int64{1, q.shape[1]}
	}
	for _, a := range []*array{scale, zero} {
		if err := shaped(a, want...); err != nil {
			return nil, nil, err
		}
	}
	return scale, zero, nil
}

// hqqLayout is how codes lie: a matrix of the weight's values in their order, in lines of
// width, whose groups are lines or (byColumn) columns. A word holds codes of as many lines
// as fit, of the first lines in its highest bits.
type hqqLayout struct {
	bits, word   int // of a code; bytes
	lines, width int // of words
	byColumn     bool
}

// load decodes (code - zero point) · scale, each step rounded to the scale's type.
func (l hqqLayout) load(m block.Raw, p parts) error {
	kind := m.Type.Kind
	scale, zero := floatsOf(kind, p["scale"]), floatsOf(kind, p["zero"])
	per := 8 * l.word / l.bits
	fillRows(m, func(row []float32, r int) {
		for c := range row {
			i := r*m.Cols + c
			line, col := i/l.width, i%l.width
			group := line
			if l.byColumn {
				group = col
			}
			code := l.code(p["codes"], line%l.lines*l.width+col, per-1-line/l.lines)
			row[c] = roundTo(kind, float32(code)-zero[group]) * scale[group]
		}
	})
	return nil
}

// code is that number n, from the lowest bits on, of a word.
func (l hqqLayout) code(b []byte, word, n int) uint32 {
	v := uint32(b[word*l.word])
	if l.word == 4 {
		v = binary.LittleEndian.Uint32(b[4*word:])
	}
	return v >> (n * l.bits) & (1<<l.bits - 1)
}

// roundTo rounds to F32, BF16 or F16.
func roundTo(kind dtype.Kind, v float32) float32 {
	switch kind {
	case dtype.BF16:
		return block.FromBF16(block.BF16(v))
	case dtype.F16:
		return block.FromF16(block.F16(v))
	}
	return v
}
