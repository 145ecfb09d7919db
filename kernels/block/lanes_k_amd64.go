package block

import "github.com/tunekit/tunekit/kernels/block/internal/lanes"

// superWeights weighs the super-blocks of a batch whose sub-blocks have n
// elements, as weighted does.
func (t *batch) superWeights(x, w []float32, b, n, cols int, factor float32) {
	per := 256 / n
	for i := 0; i < 16; i += per {
		s := superSquare(x[i*n:][:256], factor)
		for j := range per {
			t.sigma2[i+j] = s
		}
	}
	t.weigh(w, b*n, n, cols)
}

// whole encodes super-block i of a chunk by the plain code.
func whole(plain rowEncoder, out []byte, x, w []float32, i, cols int) {
	if w != nil {
		w = w[i*256%cols:][:256]
	}
	plain(out, x[256*i:][:256], w)
}

// none reports whether a scale is zero: such a sub-block keeps the codes of the
// search, which lanes do not make.
func none(ds []float32) bool {
	for _, d := range ds {
		if d == 0 {
			return true
		}
	}
	return false
}

// lanesAffine32 makes the encoder of Q4_K and Q5_K.
func lanesAffine32(top int32, size, nibbles int, own tries, plain rowEncoder) chunkEncoder {
	num, numBy := own.numerators(top), importanceTries.numerators(top)
	return func(dst []byte, x, w []float32, cols int) {
		batches(x, w, 32, cols, func() { eachRow(plain, dst, x, w, cols) }, func(t *batch, b int) {
			from := x[32*b:]
			t.load(from, 32)
			if w == nil {
				lanes.WeighSpread(32, &t.x[0], &t.w[0], 32)
				t.affine(32, num, top, false)
			} else {
				t.superWeights(from, w, b, 32, cols, 2)
				t.affine(32, numBy, top, false)
			}
			for s := 0; s < 16; s += 8 {
				i := (b + s) / 8
				out := dst[size*i:][:size]
				ds, ms := head32(out, t.out[0][s:s+8], t.out[1][s:s+8], t.sum[s:s+8], w != nil, top)
				if none(ds[:]) {
					whole(plain, out, x, w, i, cols)
					continue
				}
				l := (*[256]uint8)(t.codes[:])
				lanes.CodesDivide32(8, &from[32*s], &l[0], 32, &ds[0], &ms[0], 0, int(top))
				if top == 31 {
					packHighs(out[16:48], l, 4)
				}
				packPairs(out[nibbles:], l)
			}
		})
	}
}

var numQ2, numQ2By = q2Tries.numerators(3), importanceTries.numerators(3)

func lanesQ2_K(dst []byte, x, w []float32, cols int) {
	batches(x, w, 16, cols, nil, func(t *batch, b int) {
		from, i := x[16*b:], b/16
		t.load(from, 16)
		if w == nil {
			lanes.WeighAbs(16, &t.x[0], &t.w[0])
			t.affine(16, numQ2, 3, true)
		} else {
			t.superWeights(from, w, b, 16, cols, 1)
			t.affine(16, numQ2By, 3, false)
		}
		out := dst[84*i:][:84]
		ds, ms := head16(out, t.out[0][:], t.out[1][:], t.sum[:], w != nil)
		if none(ds[:]) {
			whole(encodeQ2_K, out, x, w, i, cols)
			return
		}
		l := (*[256]uint8)(t.codes[:])
		lanes.CodesDivide16(16, &from[0], &l[0], 16, &ds[0], &ms[0], 0, 3)
		packQuads(out[16:80], l)
	})
}

var (
	numQ3 = signedTries(4)
	numQ6 = signedTries(32)
)

func lanesQ3_K(dst []byte, x, w []float32, cols int) {
	if w == nil {
		eachRow(encodeQ3_K, dst, x, w, cols)
		return
	}
	batches(x, w, 16, cols, nil, func(t *batch, b int) {
		from, i := x[16*b:], b/16
		t.load(from, 16)
		t.superWeights(from, w, b, 16, cols, 2)
		lanes.Signed(16, &t.x[0], &t.w[0], &t.tmp[0], &numQ3[0], len(numQ3), &t.out[0][0], 4)
		var ls [16]uint8
		out := dst[110*i:][:110]
		ds := headQ3(out, searchSigned(ls[:], t.out[0][:], t.sum[:], 32), &ls)
		if none(ds[:]) {
			whole(encodeQ3_K, out, x, w, i, cols)
			return
		}
		l := (*[256]uint8)(t.codes[:])
		lanes.CodesDivide16(16, &from[0], &l[0], 16, &ds[0], &zeros[0], 4, 3)
		packHighs(out[:32], l, 2)
		packQuads(out[32:96], l)
	})
}

func lanesQ6_K(dst []byte, x, w []float32, cols int) {
	batches(x, w, 16, cols, nil, func(t *batch, b int) {
		from, i := x[16*b:], b/16
		t.load(from, 16)
		if w == nil {
			lanes.WeighSquare(16, &t.x[0], &t.w[0])
		} else {
			t.tile(w, 16*b, 16, cols)
			copy(t.w[:256], t.importance[:256])
		}
		lanes.Signed(16, &t.x[0], &t.w[0], &t.tmp[0], &numQ6[0], len(numQ6), &t.out[0][0], 32)
		out := dst[210*i:][:210]
		ds, ok := headQ6(out, &t.out[0])
		switch {
		case !ok:
		case none(ds[:]):
			whole(encodeQ6_K, out, x, w, i, cols)
		default:
			l := (*[256]uint8)(t.codes[:])
			lanes.CodesDivide16(16, &from[0], &l[0], 16, &ds[0], &zeros[0], 32, 31)
			packQ6(out, l)
		}
	})
}

// numIQ4 are the numerators of scaleIQ4.
var numIQ4 = func() (num [15]float32) {
	for i := range num {
		num[i] = float32(i-7) + iq4Values[0]
	}
	return num
}()

// scalesIQ4 leaves the scales of 16 sub-blocks of 32 in out[0]; without w
// sigma2 is not needed.
func (t *batch) scalesIQ4(w []float32, b, cols int) {
	if w == nil {
		lanes.WeighSquare(32, &t.x[0], &t.w[0])
	} else {
		t.weigh(w, 32*b, 32, cols)
	}
	lanes.IQ4(32, &t.x[0], &t.w[0], &numIQ4[0], len(numIQ4), &t.out[0][0])
}

func lanesIQ4_NL(dst []byte, x, w []float32, cols int) {
	batches(x, w, 32, cols, func() { eachRow(encodeIQ4_NL, dst, x, w, cols) }, func(t *batch, b int) {
		t.load(x[32*b:], 32)
		if w != nil {
			lanes.SumSquares(32, &t.x[0], &t.sigma2[0])
			for i, s := range t.sigma2 {
				t.sigma2[i] = float32(s * (2.0 / 32))
			}
		}
		t.scalesIQ4(w, b, cols)
		for i, d := range t.out[0] {
			t.a[i] = inverse(d)
		}
		lanes.CodesIQ4(16, &x[32*b], &t.codes[0], 32, &t.a[0])
		for i, d := range t.out[0] {
			out := dst[18*(b+i):][:18]
			putF16(out, d)
			packNibbles(out[2:], t.codes32(i))
		}
	})
}

func lanesIQ4_XS(dst []byte, x, w []float32, cols int) {
	batches(x, w, 32, cols, func() { eachRow(encodeIQ4_XS, dst, x, w, cols) }, func(t *batch, b int) {
		from := x[32*b:]
		t.load(from, 32)
		if w != nil {
			for i := range t.sigma2 {
				if i%8 == 0 {
					t.sigma2[i] = float32(sumSquares(from[32*i:][:256]) * (2.0 / 256))
				} else {
					t.sigma2[i] = t.sigma2[i-1]
				}
			}
		}
		t.scalesIQ4(w, b, cols)
		for s := 0; s < 16; s += 8 {
			out := dst[136*((b+s)/8):][:136]
			ids := headIQ4(out, (*[8]float32)(t.out[0][s:]))
			lanes.CodesIQ4(8, &from[32*s], &t.codes[0], 32, &ids[0])
			for j := range 8 {
				packNibbles(out[8+16*j:], t.codes32(j))
			}
		}
	})
}
