package cpu

import "github.com/tunekit/tunekit/kernels/dtype"

// blockUnits is the number of units of a block of 256.
const blockUnits = 8

// blockPlace says where a unit's codes and high bits begin in its block, and by
// how many bits they are shifted.
type blockPlace struct{ codes, shift, high, bit int }

// blockLayout is how a type with blocks of 256 is read: its units, and the value
// of each code before it is scaled.
type blockLayout struct {
	places [blockUnits]blockPlace
	base   [32]float32
}

// blockLoops are the inner loops of those types and their layouts.
var blockLoops = map[dtype.Kind]struct {
	loop   unitLoop
	layout *blockLayout
}{
	dtype.Q2_K: {loopK2, newLayout(func(c int) float32 { return float32(c & 3) }, func(u int) blockPlace {
		return blockPlace{codes: 16 + u/4*32, shift: u % 4 * 2}
	})},
	dtype.Q3_K: {loopK3, newLayout(func(c int) float32 { return float32(c&7 - 4) }, func(u int) blockPlace {
		return blockPlace{codes: 32 + u/4*32, shift: u % 4 * 2, bit: u}
	})},
	dtype.Q4_K: {loopK4, newLayout(func(c int) float32 { return float32(c) }, func(u int) blockPlace {
		return blockPlace{codes: 16 + u/2*32, shift: u % 2 * 4}
	})},
	dtype.Q5_K: {loopK5, newLayout(func(c int) float32 { return float32(c) }, func(u int) blockPlace {
		return blockPlace{codes: 48 + u/2*32, shift: u % 2 * 4, high: 16, bit: u}
	})},
	dtype.Q6_K: {loopK6, newLayout(func(int) float32 { return 0 }, func(u int) blockPlace {
		return blockPlace{codes: u/4*64 + u%2*32, shift: u % 4 / 2 * 4, high: 128 + u/4*32, bit: u % 4 * 2}
	})},
	dtype.IQ4_XS: {loopXS, newLayout(func(c int) float32 { return baseIQ4[c&15] }, func(u int) blockPlace {
		return blockPlace{codes: 8 + 16*u}
	})},
}

func newLayout(base func(code int) float32, place func(unit int) blockPlace) *blockLayout {
	l := &blockLayout{}
	for i := range l.base {
		l.base[i] = base(i)
	}
	for i := range l.places {
		l.places[i] = place(i)
	}
	return l
}

// columns decodes columns [col, col+n) of some rows to rows of dst ldd apart;
// col and n are multiples of unitSize.
func (u *unitType) columns(dst []float32, ldd, row, rows, col, n int) {
	switch {
	case u.loop == loopHigh:
		u.decodeFlat(row, rows, col/unitSize, n/unitSize, dst, ldd)
		return
	case u.layout == nil:
		u.decodeGroups(row, rows, col/unitSize, n/unitSize, dst, ldd)
		return
	}
	for n > 0 {
		first := col % (blockUnits * unitSize) / unitSize
		units := min(blockUnits-first, n/unitSize)
		u.decodeBlocks(row*u.row+col/(blockUnits*unitSize)*u.unit, rows, first, units, dst, ldd)
		dst, col, n = dst[units*unitSize:], col+units*unitSize, n-units*unitSize
	}
}
