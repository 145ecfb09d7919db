package main

import (
	"fmt"
	"math"
)

// The exponential: n = round(x·log₂e), r = x - n·ln2 in two parts, a polynomial
// of degree 6 in r (Cephes expf), times 2ⁿ. x is kept in [-104, 89], beyond
// which a float32 result is 0 or infinite anyway. NaN stays NaN.
var (
	expLo, expHi float32 = -104, 89
	expLog2e     float32 = 1.44269504088896341
	expLn2       float32 = 0.693359375
	expLn2Rest   float32 = -2.12194440e-4
	expPoly              = [6]float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}
	one          float32 = 1
	bias                 = math.Float32frombits(127)
)

// operand returns how an instruction names the constant v: a register that
// prepare has filled, or with only 16 registers eight copies in memory.
func (l *loop) operand(v float32) string {
	if i, ok := l.held[math.Float32bits(v)]; ok {
		return l.r(i)
	}
	if l.reg != 'Y' {
		panic(fmt.Sprintf("constant %g was not prepared", v))
	}
	for i, c := range wide {
		if math.Float32bits(c) == math.Float32bits(v) {
			return fmt.Sprintf("vecWide<>+%d(SB)", 32*i)
		}
	}
	wide = append(wide, v)
	return fmt.Sprintf("vecWide<>+%d(SB)", 32*(len(wide)-1))
}

// wide are the constants in memory, eight copies each.
var wide []float32

func writeWide() {
	for i, c := range wide {
		for j := range 8 {
			fmt.Fprintf(&out.asm, "DATA vecWide<>+%d(SB)/4, $0x%08x\n", 32*i+4*j, math.Float32bits(c))
		}
	}
	fmt.Fprintf(&out.asm, "GLOBL vecWide<>(SB), RODATA|NOPTR, $%d\n", 32*len(wide))
}

// prepare loads what exp needs; registers from 14 on are taken.
func (l *loop) prepare() {
	l.held = map[uint32]int{}
	hold := []float32{expLo, expHi}
	if l.reg != 'Y' {
		hold = append(append(hold, expLog2e, expLn2, expLn2Rest, one, bias), expPoly[:]...)
	}
	for i, v := range hold {
		l.constant(v, 14+i)
		l.held[math.Float32bits(v)] = 14 + i
	}
}

func (l *loop) with(name string, v float32, b, d int) {
	e("%s %s, %s, %s", name, l.operand(v), l.r(b), l.r(d))
}

// exp puts exp of register x into p; x, n and t are spoiled.
func (l *loop) exp(x, p, n, t int) {
	e("VMAXPS %s, %s, %s", l.r(x), l.operand(expLo), l.r(x))
	e("VMINPS %s, %s, %s", l.r(x), l.operand(expHi), l.r(x))
	l.with("VMULPS", expLog2e, x, n)
	round := "VROUNDPS"
	if l.reg == 'Z' {
		round = "VRNDSCALEPS"
	}
	e("%s $0, %s, %s", round, l.r(n), l.r(n))
	l.with("VFNMADD231PS", expLn2, n, x)
	l.with("VFNMADD231PS", expLn2Rest, n, x)
	e("VMOVUPS %s, %s", l.operand(expPoly[0]), l.r(p))
	for _, c := range expPoly[1:] {
		l.with("VFMADD213PS", c, x, p)
	}
	l.mul(p, x, p)
	l.op("VFMADD213PS", x, x, p)
	l.with("VADDPS", one, p, p)
	if l.reg == 'Z' {
		l.op("VSCALEFPS", n, p, p)
		return
	}
	// n may be 128, for which 2ⁿ is no float32: two factors.
	e("VCVTPS2DQ %s, %s", l.r(n), l.r(n))
	e("VPSRAD $1, %s, %s", l.r(n), l.r(t))
	l.op("VPSUBD", t, n, n)
	for _, i := range []int{t, n} {
		l.with("VPADDD", bias, i, i)
		e("VPSLLD $23, %s, %s", l.r(i), l.r(i))
		l.mul(i, p, p)
	}
}

// onePlusExp puts 1 + exp(-g) into d; x, n and t are spoiled.
func (l *loop) onePlusExp(g, d, x, n, t int) {
	l.zero(x)
	l.sub(x, g, x)
	l.exp(x, d, n, t)
	l.with("VADDPS", one, d, d)
}

func (l *loop) exponentials() {
	args := append(ptrs("y", "x"), l.scalar("scale", 0), l.scalar("shift", 1))
	text("expSum"+l.name, "is y = exp(scale·x - shift), and Σ y.", append(args, arg{"out", "*float32", "R12"})...)
	l.prepare()
	l.zero(2)
	l.each(func() {
		l.load("CX", 3)
		l.op("VFMSUB213PS", 1, 0, 3)
		l.exp(3, 4, 5, 6)
		l.store(4, "BX")
		l.masked("VADDPS", 4, 2, 2)
	})
	l.fold("VADDPS", 2, 3, "R12")
	ret()
	for _, gated := range []bool{true, false} {
		l.silu(gated)
	}
	l.siluGrad()
}

func (l *loop) siluGrad() {
	text("siluGrad"+l.name, "is dg = dy·u·σ·(1+gate·(1-σ)), du = dy·gate·σ.", l.ptrs("dg", "du", "dy", "gate", "u")...)
	l.prepare()
	l.each(func() {
		l.load("SI", 0)
		l.onePlusExp(0, 1, 2, 3, 4)
		e("VMOVUPS %s, %s", l.operand(one), l.r(2))
		l.op("VDIVPS", 1, 2, 1) // σ
		l.mul(0, 1, 5)          // g·σ
		l.sub(2, 1, 2)
		l.move(1, 6)
		l.fma(5, 2, 6) // slope
		l.load("DX", 3)
		l.load("DI", 4)
		l.mul(3, 4, 4)
		l.mul(4, 6, 6)
		l.mul(3, 5, 5)
		l.store(6, "BX")
		l.store(5, "CX")
	})
	ret()
}

func (l *loop) silu(gated bool) {
	name, doc, args := "silu", "is y = gate·σ(gate).", l.ptrs("y", "gate")
	if gated {
		name, doc, args = "siluMul", "is y = gate·σ(gate)·u.", l.ptrs("y", "gate", "u")
	}
	text(name+l.name, doc, args...)
	l.prepare()
	l.each(func() {
		l.load("CX", 0)
		l.onePlusExp(0, 1, 2, 3, 4)
		l.op("VDIVPS", 1, 0, 0)
		if gated {
			l.load("DX", 1)
			l.mul(0, 1, 0)
		}
		l.store(0, "BX")
	})
	ret()
}
