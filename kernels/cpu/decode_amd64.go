package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// haveUnits reports whether the level decodes by units.
func haveUnits() bool { return level.Current() >= level.AVX2 }

// decode runs the inner loop for units whose bytes begin at src, ldb bytes
// apart, to values ldd floats apart.
func (u *unitType) decode(units, src, ldb int, p *paramRoom, dst []float32, ldd int) {
	if units == 0 {
		return
	}
	d := u.raw.Data[src:]
	_, _ = d[(units-1)*ldb+u.unit-1], dst[(units-1)*ldd+unitSize-1]
	if level.Current() == level.AVX2 {
		u.decodeAVX2(units, d, ldb, p, dst, ldd)
		return
	}
	switch u.loop {
	case loopQ40:
		decodeQ4_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ41:
		decodeQ4_1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ80:
		decodeQ8_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ50:
		decodeQ5_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ51:
		decodeQ5_1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopHigh:
		decodeHigh(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopE4M3:
		decodeE4M3(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopE2M1:
		decodeE2M1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	}
}

// haveColumns reports whether the level decodes columns of many rows at a time.
func haveColumns() bool { return level.Current() >= level.AVX512 }

// decodeBlocks decodes units first, first+1, … of a block of each of some rows,
// the first block at src, to values ldd floats apart.
func (u *unitType) decodeBlocks(src, rows, first, units int, dst []float32, ldd int) {
	d := u.raw.Data[src:]
	_, _ = d[(rows-1)*u.row+u.unit-1], dst[(rows-1)*ldd+units*unitSize-1]
	var room [32]float32
	switch u.loop {
	case loopK2:
		decodeRowsQ2_K(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	case loopK3:
		decodeRowsQ3_K(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	case loopK4:
		decodeRowsQ4_K(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	case loopK5:
		decodeRowsQ5_K(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	case loopK6:
		decodeRowsQ6_K(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	case loopXS:
		decodeRowsIQ4_XS(rows, &d[0], u.row, first, units, u.layout, &room[0], &dst[0], ldd)
	}
}

// middleCodes are the zeros of integers of 4 and 8 bits without stored ones.
var middleCodes = [2]byte{8, 128}

// decodeGroups decodes units first, first+1, … of some rows of integers to rows
// of dst ldd apart.
func (u *unitType) decodeGroups(row, rows, first, units int, dst []float32, ldd int) {
	d := u.raw.Data[row*u.row+first*u.unit:]
	_, _ = d[(rows-1)*u.row+units*u.unit-1], dst[(rows-1)*ldd+units*unitSize-1]
	size := u.raw.Type.Scale.Info().Bytes
	last := (rows-1)*u.perRow + ((first+units)*unitSize-1)>>u.shift
	scales := u.scales[row*u.perRow*size:]
	_ = scales[(last+1)*size-1]
	eight := u.loop == loopBytes
	zeros, ldz, zmask := middleCodes[b2i(eight):], 0, 0
	if u.zeros != nil {
		zeros, ldz, zmask = u.zeros[row*u.perRow:][:last+1], u.perRow, -1
	}
	f4, f8 := decodeRowsInt4F32, decodeRowsInt8F32
	switch u.raw.Type.Scale {
	case dtype.F16:
		f4, f8 = decodeRowsInt4F16, decodeRowsInt8F16
	case dtype.BF16:
		f4, f8 = decodeRowsInt4BF16, decodeRowsInt8BF16
	}
	if eight {
		f4 = f8
	}
	f4(rows, first, units, int(u.shift)-5, &d[0], u.row, &scales[0], u.perRow*size, &zeros[0], ldz, zmask, &u.base[0], &dst[0], ldd)
}

// decodeFlat does the same for NF4 and FP4, whose blocks run flat over the matrix.
func (u *unitType) decodeFlat(row, rows, first, units int, dst []float32, ldd int) {
	d := u.raw.Data[row*u.row+first*u.unit:]
	_, _ = d[(rows-1)*u.row+units*u.unit-1], dst[(rows-1)*ldd+units*unitSize-1]
	perRow, shift := u.flat/unitSize, int(u.shift)-5
	at := row*perRow + first
	last := (at + (rows-1)*perRow + units - 1) >> shift
	if u.outer == nil {
		s := view[float32](u.scales)
		_ = s[last]
		decodeRowsCodes(rows, at, units, perRow, shift, &d[0], u.row, &s[0], &u.base[0], &dst[0], ldd)
		return
	}
	outer := view[float32](u.outer)
	front := outer[len(outer)-257:]
	_, _ = u.scales[last], outer[last>>8]
	decodeRowsNested(rows, at, units, perRow, shift, &d[0], u.row, &u.scales[0], &front[0], &outer[0], &u.base[0], &dst[0], ldd)
}

// halvesTo widens halves, where the level does.
func halvesTo(dst []float32, src []byte) bool {
	l := level.Current()
	if l < level.AVX2 || len(dst) == 0 || l == level.AVX2 && len(dst)%8 != 0 {
		return false
	}
	_ = src[2*len(dst)-1]
	if l == level.AVX2 {
		widenF16x8(len(dst), (*uint16)(unsafe.Pointer(&src[0])), &dst[0])
		return true
	}
	decodeF16(len(dst), (*uint16)(unsafe.Pointer(&src[0])), &dst[0])
	return true
}

// roundBF16 rounds every element to the nearest bf16, ties to even.
func roundBF16(x []float32) {
	switch l := level.Current(); {
	case l >= level.AVX512 && len(x) > 0:
		roundBF16x16(len(x), &x[0], &x[0])
	case l == level.AVX2:
		roundBF16Generic(x[roundAVX2(x):])
	default:
		roundBF16Generic(x)
	}
}

// dropRow is d.Apply.
func dropRow(x []float32, d *kernels.Drop, key int64, col int) {
	if col%2 != 0 && len(x) > 0 { // to the first column of a word
		d.Apply(x[:1], key, col)
		x, col = x[1:], col+1
	}
	if level.Current() < level.AVX512 || len(x) == 0 {
		d.Apply(x, key, col)
		return
	}
	threshold, scale := d.DropThreshold()
	dropRow16(len(x), &x[0], kernels.DropCounter(d.DropRow(key), col), uint64(threshold), scale)
}

// halfColumns widens n halves of some rows ld apart, where the level does.
func halfColumns(dst []float32, ldd int, src []byte, ld, rows, n int) bool {
	if !haveColumns() || n%16 != 0 || n == 0 || rows == 0 {
		return false
	}
	_, _ = src[2*((rows-1)*ld+n)-1], dst[(rows-1)*ldd+n-1]
	decodeRowsF16(rows, n, &src[0], 2*ld, &dst[0], ldd)
	return true
}
