package cpu

import (
	"encoding/binary"
	"math"

	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// nf4Block is the block length of the packers that decode NF4 and FP4 on the way.
const nf4Block = 64

// codebookTables are the constants of those packers for one codebook.
type codebookTables struct {
	pairs [192]byte // byte shuffle, word shifts, codebook
	f32   [128]byte // dword shifts, codebook
}

var nf4Tables, fp4Tables = newTables(dtype.NF4), newTables(dtype.FP4)

func newTables(k dtype.Kind) *codebookTables {
	t := &codebookTables{}
	for lane := range 4 { // word 2j of a lane takes byte j's high nibble, word 2j+1 the low one
		for j := range 4 {
			o, b := 16*lane+4*j, byte(4*lane+j)
			copy(t.pairs[o:], []byte{b, 0x80, b, 0x80})
			t.pairs[64+o] = 4
		}
	}
	for i := range 8 {
		shift := uint32(8*(i/2) + 4*(1-i%2))
		binary.LittleEndian.PutUint32(t.f32[8*i:], shift)
		binary.LittleEndian.PutUint32(t.f32[8*i+4:], shift)
	}
	for i, v := range blocks.CodeMap4(k) {
		binary.LittleEndian.PutUint32(t.pairs[128+4*i:], math.Float32bits(v))
		binary.LittleEndian.PutUint32(t.f32[64+4*i:], math.Float32bits(v))
	}
	return t
}

// packNF4 packs rows of NF4 or FP4 with blocks of 64 along k, decoded on the way.
func (o *operand) packNF4(dst []float32, stride, line, lines, p0, kc int, m mode, w *area) bool {
	u := o.units
	if u == nil || u.loop != loopHigh || o.across || m == rounded ||
		u.shift != 6 || u.raw.Cols%nf4Block != 0 || p0%nf4Block != 0 || kc%nf4Block != 0 || lines*(kc/nf4Block) > len(w.fetch) {
		return false
	}
	n := kc / nf4Block
	scales := w.fetch[:lines*n]
	for i := range lines {
		u.blockScales(scales[i*n:][:n], ((o.row0+line+i)*u.raw.Cols+p0)/nf4Block)
	}
	t := nf4Tables
	if u.raw.Type.Kind == dtype.FP4 {
		t = fp4Tables
	}
	ld := u.raw.Cols / 2
	src := u.raw.Data[(o.row0+line)*ld+p0/2:]
	checkRows(dst, stride, ceilDiv(kc, m.ku()), src, lines, ld, kc/2)
	for r := 0; r < lines; r += 16 {
		rows := min(16, lines-r)
		if m == pairs {
			packRowsNF4Pairs(kc, &src[r*ld], ld, rows, &dst[r], stride, &scales[r*n], n, &t.pairs[0], &w.bytes[0])
		} else {
			packRowsNF4F32(kc, &src[r*ld], ld, rows, &dst[r], stride, &scales[r*n], n, &t.f32[0], &w.bytes[0])
		}
	}
	return true
}

// blockScales decodes the scales of blocks b, b+1, …
func (u *unitType) blockScales(dst []float32, b int) {
	if u.outer == nil {
		for i := range dst {
			dst[i] = f32At(u.scales[4*(b+i):])
		}
		return
	}
	front := len(u.outer) - 4*257
	offset, codes := f32At(u.outer[front:]), u.outer[front+4:]
	for i := range dst {
		dst[i] = float32(f32At(codes[4*int(u.scales[b+i]):])*f32At(u.outer[(b+i)>>8*4:])) + offset
	}
}
