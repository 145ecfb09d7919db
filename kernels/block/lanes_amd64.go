package block

import (
	"github.com/tunekit/tunekit/kernels/block/internal/lanes"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// laneEncoder is the vector encoder of a kind, nil when there is none.
func laneEncoder(k dtype.Kind) chunkEncoder {
	if level.Current() < level.AVX512 || int(k) >= len(laneEncoders) {
		return nil
	}
	return laneEncoders[k]
}

var laneEncoders = [...]chunkEncoder{
	dtype.Q4_0:   lanesAround(8, 18, 2, encodeQ4_0),
	dtype.Q4_1:   lanesFrom(15, 20, 4, encodeQ4_1),
	dtype.Q5_0:   lanesAround(16, 22, 6, encodeQ5_0),
	dtype.Q5_1:   lanesFrom(31, 24, 8, encodeQ5_1),
	dtype.Q8_0:   lanesQ8_0,
	dtype.Q2_K:   lanesQ2_K,
	dtype.Q3_K:   lanesQ3_K,
	dtype.Q4_K:   lanesAffine32(15, 144, 16, q4Tries, encodeQ4_K),
	dtype.Q5_K:   lanesAffine32(31, 176, 48, q5Tries, encodeQ5_K),
	dtype.Q6_K:   lanesQ6_K,
	dtype.IQ4_NL: lanesIQ4_NL,
	dtype.IQ4_XS: lanesIQ4_XS,
}

// Finite reports whether no value is NaN or infinite.
func Finite(x []float32) bool {
	n := len(x) &^ 15
	if n == 0 || level.Current() < level.AVX512 {
		return plainFinite(x)
	}
	var bad int32
	lanes.NotFinite(n, &x[0], &bad)
	return bad == 0 && plainFinite(x[n:])
}

// inLanes reports whether a group of n elements fills vectors.
func inLanes(n int) bool { return n > 0 && n%16 == 0 && level.Current() >= level.AVX512 }

func scaled(v, x, s []float32, limit float32) (lo, hi float32) {
	if !inLanes(len(v)) {
		return plainScaled(v, x, s, limit)
	}
	var b [2]float32
	lanes.ScaledBounds(len(v), &x[0], &s[0], limit, &v[0], &b[0])
	return b[0], b[1]
}

func unscaled(v, s []float32, scale, zero, top float32) {
	if !inLanes(len(v)) {
		plainUnscaled(v, s, scale, zero, top)
		return
	}
	lanes.RoundScaled(len(v), &v[0], &s[0], &v[0], scale, zero, top)
}

// vector is 16 numbers, one for each sub-block.
type vector = [16]float32

// batch is 16 sub-blocks on their way: element i of all lies at [16i].
type batch struct {
	x, w, tmp  [32 * 16]float32
	importance [16 * 32]float32 // in order, and then in lanes
	sigma2     vector
	sum        vector
	half       [2 * 16]uint16
	a, b       vector
	out        [4]vector
	codes      [512]byte
}

var zeros vector

// load transposes 16 sub-blocks of n elements.
func (t *batch) load(x []float32, n int) {
	x = x[:16*n]
	for i := 0; i < n; i += 16 {
		lanes.Transpose(&t.x[16*i], &x[i], 4*n)
	}
}

// weigh sets weights w·√(sigma2 + x²) for sub-blocks of n elements of rows of
// cols, the first at element at; sigma2 must be set.
func (t *batch) weigh(w []float32, at, n, cols int) {
	t.tile(w, at, n, cols)
	lanes.WeighBy(n, &t.x[0], &t.importance[0], &t.sigma2[0], &t.w[0], &t.sum[0])
}

// tile puts the importance of 16 sub-blocks into lanes.
func (t *batch) tile(w []float32, at, n, cols int) {
	flat := t.tmp[:16*n]
	for c := at % cols; len(flat) > 0; c = 0 {
		flat = flat[copy(flat, w[c:cols]):]
	}
	for i := 0; i < n; i += 16 {
		lanes.Transpose(&t.importance[16*i], &t.tmp[i], 4*n)
	}
}

// codes32 are the codes of sub-block i of 32.
func (t *batch) codes32(i int) *[32]uint8 { return (*[32]uint8)(t.codes[32*i:]) }

// batches calls f with the first of every 16 sub-blocks of n elements; the last
// batch reaches back when they are no multiple of 16. Fewer than 16 go to plain.
func batches(x, w []float32, n, cols int, plain func(), f func(t *batch, b int)) {
	total := len(x) / n
	if total < 16 {
		plain()
		return
	}
	var t batch
	for b := 0; b < total; b += 16 {
		f(&t, min(b, total-16))
	}
}

func lanesQ8_0(dst []byte, x, w []float32, cols int) {
	batches(x, w, 32, cols, func() { eachRow(encodeQ8_0, dst, x, w, cols) }, func(t *batch, b int) {
		t.load(x[32*b:], 32)
		lanes.RangeAbs(32, &t.x[0], &t.half[0], &t.a[0], 127)
		out := dst[34*b:][:16*34]
		lanes.CodesAway(16, &x[32*b], &out[2], 34, &t.a[0])
		for i := range 16 {
			le.PutUint16(out[34*i:], t.half[i])
		}
	})
}

// signedTries are the numerators of searchSigned.
func signedTries(half int32) (num [19]float32) {
	num[0] = float32(-half)
	n := 1
	for i := -9; i <= 9; i++ {
		if i != 0 {
			num[n] = -(float32(half) + float32(0.1*float32(i)))
			n++
		}
	}
	return num
}

// lanesAround makes the encoder of Q4_0 and Q5_0: half the levels, bytes of a
// block, and where its nibbles are.
func lanesAround(half, size, nibbles int, plain rowEncoder) chunkEncoder {
	num := signedTries(int32(half))
	return func(dst []byte, x, w []float32, cols int) {
		rows := rowSquares(x, w, cols)
		batches(x, w, 32, cols, func() { eachRow(plain, dst, x, w, cols) }, func(t *batch, b int) {
			from := x[32*b:]
			t.load(from, 32)
			if w == nil {
				lanes.RangeExtreme(32, &t.x[0], &t.half[0], &t.a[0], float32(-half))
				lanes.CodesAbove(16, &from[0], &t.codes[0], 32, &t.a[0], &zeros[0], float32(half)+0.5, 2*half-1, 24)
			} else {
				t.rowWeights(w, b, cols, rows)
				lanes.Signed(32, &t.x[0], &t.w[0], &t.tmp[0], &num[0], len(num), &t.out[0][0], float32(half))
				lanes.CodesMultiply32(16, &from[0], &t.codes[0], 32, &t.out[1][0], &zeros[0], half, half-1)
				for i, d := range t.out[0] {
					t.half[i] = F16(d)
					if t.out[1][i] == 0 {
						*t.codes32(i) = [32]uint8{}
					}
				}
			}
			for i := range 16 {
				out := dst[(b+i)*size:][:size]
				le.PutUint16(out, t.half[i])
				if nibbles == 6 {
					packHigh(out[2:], t.codes32(i))
				}
				packNibbles(out[nibbles:], t.codes32(i))
			}
		})
	}
}

// rowSquares are the mean squares of the rows; nobody needs them without w.
func rowSquares(x, w []float32, cols int) []float32 {
	if w == nil {
		return nil
	}
	var out []float32
	for ; len(x) > 0; x = x[cols:] {
		out = append(out, meanSquare(x[:cols]))
	}
	return out
}

// rowWeights weighs sub-blocks of 32 by the mean squares of their rows.
func (t *batch) rowWeights(w []float32, b, cols int, rows []float32) {
	for i := range t.sigma2 {
		t.sigma2[i] = rows[(b+i)*32/cols]
	}
	t.weigh(w, 32*b, 32, cols)
}

// numerators are what searchAffine divides by the span.
func (t *tries) numerators(top int32) []float32 {
	var num []float32
	for i := 0; i <= t.n; i++ {
		num = append(num, t.from+float32(t.step*float32(i))+float32(top))
	}
	return num
}

// affine searches sub-blocks of n elements.
func (t *batch) affine(n int, num []float32, top int32, abs bool) {
	f := lanes.AffineSquare
	if abs {
		f = lanes.AffineAbs
	}
	f(n, &t.x[0], &t.w[0], &t.tmp[0], &num[0], len(num), &t.out[0][0], float32(top))
}

// lanesFrom makes the encoder of Q4_1 and Q5_1.
func lanesFrom(top int32, size, nibbles int, plain rowEncoder) chunkEncoder {
	num := importanceTries.numerators(top)
	limit, shift := 15, 24
	if top == 31 {
		limit, shift = 1<<31-1, 0
	}
	return func(dst []byte, x, w []float32, cols int) {
		rows := rowSquares(x, w, cols)
		batches(x, w, 32, cols, func() { eachRow(plain, dst, x, w, cols) }, func(t *batch, b int) {
			from := x[32*b:]
			t.load(from, 32)
			if w == nil {
				lanes.RangeBounds(32, &t.x[0], &t.half[0], &t.a[0], &t.b[0], float32(top))
				lanes.CodesAbove(16, &from[0], &t.codes[0], 32, &t.a[0], &t.b[0], 0.5, limit, shift)
			} else {
				t.rowWeights(w, b, cols, rows)
				t.affine(32, num, top, false)
				lanes.CodesMultiply32(16, &from[0], &t.codes[0], 32, &t.out[2][0], &t.out[3][0], 0, int(top))
				for i := range 16 {
					t.half[i], t.half[16+i] = F16(t.out[0][i]), F16(-t.out[1][i])
				}
			}
			for i := range 16 {
				out := dst[(b+i)*size:][:size]
				le.PutUint16(out, t.half[i])
				le.PutUint16(out[2:], t.half[16+i])
				if top == 31 {
					packHigh(out[4:], t.codes32(i))
				}
				packNibbles(out[nibbles:], t.codes32(i))
			}
		})
	}
}
