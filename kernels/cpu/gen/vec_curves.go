package main

import "math"

// erfcPoly gives erfc(z) = t·exp(P(t) - z²), t = 1/(1+z/2), with a relative
// error below 1.2e-7 for z ≥ 0 (Numerical Recipes, erfcc); highest power first.
var erfcPoly = [10]float32{
	0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
}

// tanhPoly gives tanh(x) = x + x³·P(x²) for |x| < tanhSmall (Cephes tanhf).
var (
	tanhPoly          = [5]float32{-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1}
	tanhSmall float32 = 0.625
)

// curves writes activations: v the value at x, s the slope.
func (l *loop) curves() {
	text("geluTanh"+l.name, "is v = x·σ(2k(x+cx³)) and its slope s.", ptrs("v", "s", "x")...)
	l.prepare()
	l.each(l.geluTanh)
	ret()
	text("gelu"+l.name, "is v = x·Φ(x) and its slope s.", ptrs("v", "s", "x")...)
	l.prepare()
	l.each(l.gelu)
	ret()
	text("tanh"+l.name, "is v = tanh(x) and its slope s.", ptrs("v", "s", "x")...)
	l.prepare()
	l.each(l.tanh)
	ret()
	text("shift"+l.name, "is y = x + a.", append(ptrs("y", "x"), l.scalar("a", 0))...)
	l.each(func() {
		l.load("CX", 1)
		l.add(0, 1, 1)
		l.store(1, "BX")
	})
	ret()
}

// horner puts the polynomial of register x into p; t is spoiled.
func (l *loop) horner(coefs []float32, x, p, t int) {
	l.constant(coefs[0], p)
	for _, c := range coefs[1:] {
		l.constant(c, t)
		l.op("VFMADD213PS", t, x, p)
	}
}

// below puts yes where x < limit and no elsewhere into d; t is spoiled.
func (l *loop) below(x, limit, yes, no, d, t int) {
	if l.reg == 'Z' {
		e("VCMPPS $1, Z%d, Z%d, K2", limit, x)
		e("VBLENDMPS Z%d, Z%d, K2, Z%d", yes, no, d)
		return
	}
	if l.reg == 'V' {
		word3("fcmgt", t, limit, x)
		word3("bsl", t, yes, no)
		l.move(t, d)
		return
	}
	e("VCMPPS $1, Y%d, Y%d, Y%d", limit, x, t)
	e("VBLENDVPS Y%d, Y%d, Y%d, Y%d", t, yes, no, d)
}

// sigmoid puts σ(g) into d; x, n and t are spoiled.
func (l *loop) sigmoid(g, d, x, n, t int) {
	l.onePlusExp(g, d, x, n, t)
	e("VMOVUPS %s, %s", l.operand(one), l.r(x))
	l.op("VDIVPS", d, x, d)
}

func (l *loop) geluTanh() {
	const k, c = 0.7978845608028654, 0.044715
	l.load("DX", 0)
	l.mul(0, 0, 1)
	l.constant(2*k*c, 2)
	l.constant(2*k, 3)
	l.constant(6*k*c, 4)
	l.op("VFMADD213PS", 3, 1, 2)
	l.mul(0, 2, 2)               // 2k(x+cx³)
	l.op("VFMADD213PS", 3, 1, 4) // its slope
	l.sigmoid(2, 5, 6, 7, 8)
	l.mul(0, 5, 7)
	l.store(7, "BX")
	e("VMOVUPS %s, %s", l.operand(one), l.r(6))
	l.sub(6, 5, 6)
	l.mul(7, 6, 6)
	l.fma(6, 4, 5) // σ + x·σ·(1-σ)·slope
	l.store(5, "CX")
}

func (l *loop) gelu() {
	l.load("DX", 0)
	l.constant(math.Float32frombits(0x7fffffff), 1)
	l.op("VANDPS", 1, 0, 1)
	l.constant(1/math.Sqrt2, 2)
	l.mul(1, 2, 1) // z = |x|/√2
	l.constant(0.5, 2)
	e("VMOVUPS %s, %s", l.operand(one), l.r(3))
	l.op("VFMADD213PS", 3, 1, 2)
	l.op("VDIVPS", 2, 3, 2) // t
	l.horner(erfcPoly[:], 2, 4, 5)
	l.mul(1, 1, 1)
	l.sub(4, 1, 4)
	l.exp(4, 5, 6, 7)
	l.mul(2, 5, 5)
	l.constant(0.5, 2)
	l.mul(2, 5, 5) // Φ(-|x|)
	l.zero(2)
	l.sub(3, 5, 6)
	l.below(0, 2, 5, 6, 5, 7) // Φ(x)
	l.sub(2, 1, 1)
	l.exp(1, 3, 6, 7)
	l.constant(float32(1/math.Sqrt(2*math.Pi)), 2)
	l.mul(2, 3, 3)
	l.mul(0, 5, 4)
	l.store(4, "BX")
	l.fma(0, 3, 5) // Φ + x·pdf
	l.store(5, "CX")
}

func (l *loop) tanh() {
	l.load("DX", 0)
	l.add(0, 0, 1)
	l.sigmoid(1, 2, 3, 4, 5)
	e("VMOVUPS %s, %s", l.operand(one), l.r(1))
	l.add(2, 2, 2)
	l.sub(2, 1, 2) // 2σ(2x) - 1
	l.mul(0, 0, 3)
	l.horner(tanhPoly[:], 3, 4, 5)
	l.mul(3, 4, 4)
	l.move(0, 5)
	l.fma(0, 4, 5) // x + x³P(x²)
	l.constant(math.Float32frombits(0x7fffffff), 6)
	l.op("VANDPS", 6, 0, 6)
	l.constant(tanhSmall, 7)
	l.below(6, 7, 5, 2, 2, 8)
	l.store(2, "BX")
	l.op("VFNMADD213PS", 1, 2, 2) // 1 - v²
	l.store(2, "CX")
}
