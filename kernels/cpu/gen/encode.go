package main

import (
	"fmt"
	"math"
)

// Kernels of the block encoders. "Lanes" means 16 sub-blocks at once: element i
// of all of them lies at x[16i], and every lane performs the operations of the
// plain Go code in its order, products rounded before they are added. "Codes"
// kernels go along memory again, with the numbers found for each sub-block.

// Constants that stay in registers.
const (
	zMagic = 31 // 1.5·2^23: adding it rounds to the nearest integer
	zMask  = 30 // the mantissa
	zBase  = 29 // 2^23
	zLow   = 28 // zMagic + least code
	zHigh  = 27 // zMagic + largest code
	zSign  = 26
	zAbs   = 25
)

func encoders() {
	open("lanes", "../../block/internal/lanes", "lanes")
	iq4Tables()
	laneTranspose()
	laneWeights()
	laneRanges()
	laneAffine(false)
	laneAffine(true)
	laneSigned()
	laneIQ4()
	codesNearest()
	codesLegacy()
	codesIQ4()
	lattices()
	finite()
	fakeInts()
	dynamics()
	save()
}

func z3(op string, a, b, d int) { e("%s Z%d, Z%d, Z%d", op, a, b, d) }
func zMul(a, b, d int)          { z3("VMULPS", a, b, d) }
func zAdd(a, b, d int)          { z3("VADDPS", a, b, d) }
func zSub(a, b, d int)          { z3("VSUBPS", b, a, d) } // d = a - b
func zDiv(a, b, d int)          { z3("VDIVPS", b, a, d) } // d = a / b
func zZero(d int)               { z3("VPXORD", d, d, d) }
func zMove(a, d int)            { e("VMOVAPS Z%d, Z%d", a, d) }

// zCompare sets k (under mask m, "" for none) where a pred b.
func zCompare(pred string, a, b int, m, k string) {
	if m != "" {
		m += ", "
	}
	e("VCMPPS $%s, Z%d, Z%d, %s%s", map[string]string{"<": "0x11", "<=": "0x12", ">": "0x1e", ">=": "0x1d", "!=": "0x04", "==": "0x00"}[pred], b, a, m, k)
}

// broadcast puts 32 bits into all lanes of d.
func broadcast(bits uint32, d int) {
	e("MOVL $0x%08x, R11", bits)
	e("VPBROADCASTD R11, Z%d", d)
}

func broadcastF(v float32, d int) { broadcast(math.Float32bits(v), d) }

func roundingConstants() {
	broadcastF(12582912, zMagic)
	broadcast(0x007fffff, zMask)
	broadcastF(8388608, zBase)
}

// nearest turns v into its code as f32, clamped, by the reference's trick: any
// v gives the same code as there.
func nearest(v int) {
	zAdd(v, zMagic, v)
	e("VPTERNLOGD $0xea, Z%d, Z%d, Z%d", zBase, zMask, v)
	z3("VMAXPS", zLow, v, v)
	z3("VMINPS", zHigh, v, v)
	zSub(v, zMagic, v)
}

// elements emits a loop over the n (in AX) vectors of a sub-block; R8 is the
// byte offset.
func elements(name string, body func()) {
	e("XORQ R8, R8")
	e("MOVQ AX, R10")
	label(name)
	body()
	e("ADDQ $64, R8")
	e("DECQ R10")
	e("JNE %s", name)
}

func lane(p string, z int)      { e("VMOVUPS (%s)(R8*1), Z%d", p, z) }
func storeLane(z int, p string) { e("VMOVUPS Z%d, (%s)(R8*1)", z, p) }

func laneTranspose() {
	text("Transpose", "turns 16 rows of 16, stride bytes apart, into dst.", arg{"dst", "*float32", "SI"}, arg{"src", "*float32", "BX"}, arg{"stride", "int", "CX"})
	for i := range 16 {
		e("VMOVUPS (BX), Z%d", i)
		if i < 15 {
			e("ADDQ CX, BX")
		}
	}
	for i, z := range transpose() {
		e("VMOVUPS Z%d, %d(SI)", z, 64*i)
	}
	ret()
}

func laneWeights() {
	broadcastAbs := func() { broadcast(0x7fffffff, zAbs) }
	text("WeighSpread", "sets w = √(mean square of the lane) + |x|; count is n as a float.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"}, arg{"count", "float32", "Z24"})
	broadcastAbs()
	zZero(0)
	elements("squares", func() {
		lane("BX", 1)
		zMul(1, 1, 1)
		zAdd(0, 1, 0)
	})
	zDiv(0, 24, 0)
	e("VSQRTPS Z0, Z0")
	elements("weights", func() {
		lane("BX", 1)
		z3("VPANDD", zAbs, 1, 1)
		zAdd(0, 1, 1)
		storeLane(1, "CX")
	})
	ret()

	text("SumSquares", "sets out to each lane's Σx².", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"out", "*float32", "CX"})
	zZero(0)
	elements("loop", func() {
		lane("BX", 1)
		zMul(1, 1, 1)
		zAdd(0, 1, 0)
	})
	e("VMOVUPS Z0, (CX)")
	ret()

	text("WeighAbs", "sets w = |x|.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"})
	broadcastAbs()
	elements("loop", func() {
		lane("BX", 1)
		z3("VPANDD", zAbs, 1, 1)
		storeLane(1, "CX")
	})
	ret()

	text("WeighSquare", "sets w = x².", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"})
	elements("loop", func() {
		lane("BX", 1)
		zMul(1, 1, 1)
		storeLane(1, "CX")
	})
	ret()

	text("WeighBy", "sets w = importance·√(sigma2 + x²) and sum to each lane's total.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"importance", "*float32", "DX"}, arg{"sigma2", "*float32", "SI"}, arg{"w", "*float32", "CX"}, arg{"sum", "*float32", "DI"})
	e("VMOVUPS (SI), Z0")
	zZero(3)
	elements("loop", func() {
		lane("BX", 1)
		lane("DX", 2)
		zMul(1, 1, 1)
		zAdd(0, 1, 1)
		e("VSQRTPS Z1, Z1")
		zMul(2, 1, 1)
		storeLane(1, "CX")
		zAdd(3, 1, 3)
	})
	e("VMOVUPS Z3, (DI)")
	ret()
}

// extremes leaves max |x| in Z0 and that x in Z1.
func extremes() {
	broadcast(0x7fffffff, zAbs)
	zZero(0)
	zZero(1)
	elements("extremes", func() {
		lane("BX", 2)
		z3("VPANDD", zAbs, 2, 3)
		zCompare(">", 3, 0, "", "K1")
		e("VMOVAPS Z3, K1, Z0")
		e("VMOVAPS Z2, K1, Z1")
	})
}

// storeInverse writes the half of scale d to (half) and 1/d, or 0, to (id).
func storeInverse(d, t int, half, id string) {
	e("VCVTPS2PH $0, Z%d, (%s)", d, half)
	broadcastF(1, t)
	zZero(t + 1)
	zCompare("!=", d, t+1, "", "K1")
	e("VDIVPS.Z Z%d, Z%d, K1, Z%d", d, t, t)
	e("VMOVUPS Z%d, (%s)", t, id)
}

func laneRanges() {
	out := func(extra ...arg) []arg {
		return append([]arg{{"n", "int", "AX"}, {"x", "*float32", "BX"}, {"half", "*uint16", "CX"}, {"id", "*float32", "DX"}}, extra...)
	}
	text("RangeAbs", "finds d = max|x|/top: as a half, and its inverse or 0.", out(arg{"top", "float32", "Z24"})...)
	extremes()
	zDiv(0, 24, 0)
	storeInverse(0, 4, "CX", "DX")
	ret()

	text("RangeExtreme", "finds d = x/top of the x of largest magnitude.", out(arg{"top", "float32", "Z24"})...)
	extremes()
	zDiv(1, 24, 0)
	storeInverse(0, 4, "CX", "DX")
	ret()

	text("RangeBounds", "finds d = (max-min)/top and the minimum, as halves in half and half[16:], and the minimum.",
		out(arg{"least", "*float32", "SI"}, arg{"top", "float32", "Z24"})...)
	broadcastF(math.MaxFloat32, 0)
	broadcastF(-math.MaxFloat32, 1)
	elements("loop", func() {
		lane("BX", 2)
		z3("VMINPS", 0, 2, 0)
		z3("VMAXPS", 1, 2, 1)
	})
	e("VCVTPS2PH $0, Z0, 32(CX)")
	e("VMOVUPS Z0, (SI)")
	zSub(1, 0, 1)
	zDiv(1, 24, 0)
	storeInverse(0, 4, "CX", "DX")
	ret()
}

// laneAffine is searchAffine.
func laneAffine(abs bool) {
	name, loss := "AffineSquare", "square"
	if abs {
		name, loss = "AffineAbs", "magnitude"
	}
	const (
		lo, hi, sumW, sumX             = 0, 1, 2, 3
		base, iscale, span, best       = 4, 5, 6, 7
		scale, least, useScale, useLow = 8, 9, 10, 11
		sumL, sumL2, sumXL             = 12, 13, 14
		s, m, t, u, q, v, w, err       = 15, 16, 17, 18, 19, 20, 21, 22
		top                            = 24
	)
	text(name, "is searchAffine with the "+loss+" as loss. q is scratch of 16n. num are the tries' numerators. out is scale, minimum, and the inverse scale and the least value that the codes come from.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"}, arg{"q", "*float32", "DX"},
		arg{"num", "*float32", "SI"}, arg{"tries", "int", "DI"}, arg{"out", "*float32", "R9"}, arg{"top", "float32", fmt.Sprintf("Z%d", top)})
	roundingConstants()
	zMove(zMagic, zLow)
	zAdd(zMagic, top, zHigh)
	broadcast(0x7fffffff, zAbs)
	broadcast(0x80000000, zSign)
	e("VMOVUPS (BX), Z%d", lo)
	zMove(lo, hi)
	e("VMOVUPS (CX), Z%d", sumW)
	zMul(sumW, lo, sumX)
	e("MOVQ $64, R8")
	e("LEAQ -1(AX), R10")
	label("bounds")
	lane("BX", v)
	lane("CX", w)
	z3("VMINPS", lo, v, lo)
	z3("VMAXPS", hi, v, hi)
	zAdd(sumW, w, sumW)
	zMul(w, v, w)
	zAdd(sumX, w, sumX)
	e("ADDQ $64, R8")
	e("DECQ R10")
	e("JNE bounds")
	zZero(t)
	z3("VMINPS", lo, t, lo)
	zCompare(">", hi, lo, "", "K4")
	zMove(lo, base)
	zMove(lo, least)
	zSub(hi, lo, span)
	zDiv(top, span, iscale)
	broadcastF(1, t)
	zDiv(t, iscale, scale)
	zMove(iscale, useScale)
	zMove(lo, useLow)
	zZero(best)
	loseTo := func(sum int) { // sum += w·loss(d), d in t
		if abs {
			z3("VPANDD", zAbs, t, t)
		} else {
			zMul(t, t, t)
		}
		zMul(w, t, t)
		zAdd(sum, t, sum)
	}
	elements("start", func() {
		lane("BX", v)
		lane("CX", w)
		zSub(v, base, q)
		zMul(iscale, q, q)
		nearest(q)
		zMul(scale, q, t)
		zAdd(t, lo, t)
		zSub(t, v, t)
		loseTo(best)
	})
	label("try")
	e("VBROADCASTSS (SI), Z%d", iscale)
	e("ADDQ $4, SI")
	zDiv(iscale, span, iscale)
	zZero(sumL)
	zZero(sumL2)
	zZero(sumXL)
	elements("fit", func() {
		lane("BX", v)
		lane("CX", w)
		zSub(v, base, q)
		zMul(iscale, q, q)
		nearest(q)
		storeLane(q, "DX")
		zMul(w, q, w)
		zAdd(sumL, w, sumL)
		zMul(w, q, t)
		zAdd(sumL2, t, sumL2)
		zMul(w, v, t)
		zAdd(sumXL, t, sumXL)
	})
	zMul(sumW, sumL2, t)
	zMul(sumL, sumL, u)
	zSub(t, u, t) // the determinant
	zZero(v)
	zCompare(">", t, v, "K4", "K1")
	e("KTESTW K1, K1")
	e("JEQ next")
	zMul(sumW, sumXL, s)
	zMul(sumX, sumL, u)
	zSub(s, u, s)
	zDiv(s, t, s)
	zMul(sumL2, sumX, m)
	zMul(sumL, sumXL, u)
	zSub(m, u, m)
	zDiv(m, t, m)
	zCompare(">", m, v, "", "K2")
	e("VMOVAPS Z%d, K2, Z%d", v, m)
	e("VDIVPS Z%d, Z%d, K2, Z%d", sumL2, sumXL, s)
	zZero(err)
	elements("error", func() {
		lane("DX", q)
		lane("CX", w)
		zMul(s, q, t)
		zAdd(t, m, t)
		lane("BX", v)
		zSub(t, v, t)
		loseTo(err)
	})
	zCompare("<", err, best, "K1", "K3")
	set := func(from, to int) { e("VMOVAPS Z%d, K3, Z%d", from, to) }
	set(err, best)
	set(s, scale)
	set(m, least)
	set(iscale, useScale)
	set(base, useLow)
	set(m, base)
	e("VSUBPS Z%d, Z%d, K3, Z%d", m, hi, span)
	label("next")
	e("DECQ DI")
	e("JNE try")
	e("VMOVAPS.Z Z%d, K4, Z%d", scale, scale)
	e("VMOVAPS.Z Z%d, K4, Z%d", useScale, useScale)
	z3("VPXORD", zSign, least, least)
	for i, z := range []int{scale, least, useScale, useLow} {
		e("VMOVUPS Z%d, %d(R9)", z, 64*i)
	}
	ret()
}

// laneSigned is searchSigned.
func laneSigned() {
	const (
		amax, at, scale, best, use = 0, 1, 4, 5, 6
		iscale, sumLX, sumL2       = 7, 8, 9
		q, v, w, t, u, zero, half  = 10, 11, 12, 13, 14, 15, 24
	)
	text("Signed", "is searchSigned. wx is scratch of 16n. num are the tries' numerators, the first the plain one. out is the scale and the inverse scale that the codes come from, both 0 for all zeros.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"}, arg{"wx", "*float32", "DX"},
		arg{"num", "*float32", "SI"}, arg{"tries", "int", "DI"}, arg{"out", "*float32", "R9"}, arg{"half", "float32", fmt.Sprintf("Z%d", half)})
	roundingConstants()
	zSub(zMagic, half, zLow)
	broadcastF(1, t)
	zAdd(zMagic, half, zHigh)
	zSub(zHigh, t, zHigh)
	extremes()
	elements("products", func() {
		lane("BX", v)
		lane("CX", w)
		zMul(w, v, v)
		storeLane(v, "DX")
	})
	broadcastF(1e-15, t)
	zCompare(">=", amax, t, "", "K4")
	zZero(zero)
	fit := func(name string) {
		e("VBROADCASTSS (SI), Z%d", iscale)
		e("ADDQ $4, SI")
		zDiv(iscale, at, iscale)
		zZero(sumLX)
		zZero(sumL2)
		elements(name, func() {
			lane("BX", q)
			lane("CX", w)
			lane("DX", v)
			zMul(iscale, q, q)
			nearest(q)
			zMul(v, q, v)
			zAdd(sumLX, v, sumLX)
			zMul(w, q, w)
			zMul(w, q, w)
			zAdd(sumL2, w, sumL2)
		})
	}
	fit("first")
	zCompare("!=", sumL2, zero, "", "K1")
	e("VDIVPS.Z Z%d, Z%d, K1, Z%d", sumL2, sumLX, scale)
	zMul(scale, sumLX, best)
	zMove(iscale, use)
	e("DECQ DI")
	label("try")
	fit("fit")
	zCompare(">", sumL2, zero, "", "K1")
	zMul(sumLX, sumLX, t)
	zMul(best, sumL2, u)
	zCompare(">", t, u, "K1", "K3")
	e("VDIVPS Z%d, Z%d, K3, Z%d", sumL2, sumLX, scale)
	e("VMULPS Z%d, Z%d, K3, Z%d", sumLX, scale, best)
	e("VMOVAPS Z%d, K3, Z%d", iscale, use)
	e("DECQ DI")
	e("JNE try")
	e("VMOVAPS.Z Z%d, K4, Z%d", scale, scale)
	e("VMOVAPS.Z Z%d, K4, Z%d", use, use)
	e("VMOVUPS Z%d, (R9)", scale)
	e("VMOVUPS Z%d, 64(R9)", use)
	ret()
}
