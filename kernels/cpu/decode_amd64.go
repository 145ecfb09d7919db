package cpu

import (
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
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
	case loopLow:
		decodeLow(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopHigh:
		decodeHigh(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopBytes:
		decodeBytes(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	}
}

// decodeK runs the inner loop of a K type for some units.
func (u *unitType) decodeK(k kUnits, p *paramRoom, dst []float32, ldd int) {
	_ = dst[(k.n-1)*ldd+unitSize-1]
	codes, high := u.raw.Data[k.codes:], u.raw.Data[k.high:]
	_, _ = codes[(k.n-1)*k.ldb+unitSize-1], high[(k.n-1)*k.ldh+unitSize-1]
	if level.Current() == level.AVX2 {
		u.decodeKAVX2(k, codes, high, p, dst, ldd)
		return
	}
	switch u.loop {
	case loopK4:
		decodeK4(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift)
	case loopK5:
		decodeK5(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift, &high[0], k.ldh, k.bit, k.bitStep)
	case loopK6:
		decodeK6(&codes[0], &high[0], &p[0], &dst[0], k.shift, k.bit)
	}
}

// decodeK6Block decodes the block of Q6_K at offset at, with sixteen scales in p.
func (u *unitType) decodeK6Block(at int, p *paramRoom, dst []float32) {
	_, _ = u.raw.Data[at+u.unit-1], dst[255]
	if level.Current() == level.AVX2 {
		decode256K6Block(&u.raw.Data[at], &p[0], &dst[0])
		return
	}
	decodeK6Block(&u.raw.Data[at], &p[0], &dst[0])
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
