package block

import "github.com/tunekit/tunekit/kernels/dtype"

// FakeInt writes what a group x becomes when its columns are multiplied by s,
// bounded by limit in magnitude, rounded to nearest on the grid of an Int type
// (see IntGrid), and divided by s again. All slices have the group's length.
func FakeInt(dst, x, s []float32, limit float32, t dtype.Type) {
	dst, s = dst[:len(x)], s[:len(x)]
	lo, hi := scaled(dst, x, s, limit)
	scale, zero := IntGrid(t, lo, hi)
	unscaled(dst, s, scale, zero, float32(int(1)<<t.Bits()-1))
}

// plainScaled sets v = x·s within the limit and returns its bounds, 0 included.
func plainScaled(v, x, s []float32, limit float32) (lo, hi float32) {
	for j, y := range x {
		y = min(max(y*s[j], -limit), limit)
		v[j], lo, hi = y, min(lo, y), max(hi, y)
	}
	return lo, hi
}

// plainUnscaled rounds v on the grid and divides by s.
func plainUnscaled(v, s []float32, scale, zero, top float32) {
	for j, y := range v {
		q := min(max(roundEven(y/scale)+zero, 0), top)
		v[j] = float32((q-zero)*scale) / s[j]
	}
}

// FixedInt writes what x becomes on a grid of an Int type that was chosen beforehand: signed codes round(x/scale + zero)
// of t's bits.
func FixedInt(dst, x []float32, scale, zero float32, t dtype.Type) {
	top := float32(int(1)<<(t.Bits()-1) - 1)
	for j, y := range x {
		q := roundEven(min(max(y/scale+zero, -top-1), top))
		dst[j] = float32((q - zero) * scale)
	}
}

// FixedMicro is FixedInt for a Micro type.
func FixedMicro(dst, x []float32, scale float32, t dtype.Type) {
	c := microOf(t.Kind)
	for j, y := range x {
		dst[j] = c.widen(c.roundMicro(y, scale)) * scale
	}
}

// FakeMicro is FakeInt for a Micro type: each value is rounded to nearest on the
// group's scale (see MicroScale).
func FakeMicro(dst, x, s []float32, limit float32, t dtype.Type) {
	dst, s = dst[:len(x)], s[:len(x)]
	lo, hi := scaled(dst, x, s, limit)
	c, scale := microOf(t.Kind), MicroScale(t, max(hi, -lo))
	for j, y := range dst {
		dst[j] = c.widen(c.roundMicro(y, scale)) * scale / s[j]
	}
}
