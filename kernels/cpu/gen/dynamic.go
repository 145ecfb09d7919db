package main

import "fmt"

// dynamicLines are the straight lines whose lowest is the rank of a magnitude
// among the midpoints of a dynamic type, within half a code: one a decade.
const dynamicLines = 7

// dynamics writes what 8-bit states need of package block, with tables of
// block.Dynamic: lines holds the slopes, the offsets, what is added at the end and
// the largest rank, 8 lanes each. Lengths are multiples of the lanes.
func dynamics() {
	for _, l := range []*loop{{isa: isa{"16", 'Z', 16}}, {isa: isa{"8", 'Y', 8}}} {
		l.dynamicDecode()
		l.dynamicTop()
		l.dynamicEncode()
	}
	dynamicDecodeBytes()
	dynamicEncodeBytes()
	dynamicAdam()
	constant256("dynamicOrder", 0, 0, 4, 8, 12, 1, 5, 9, 13)
	constant256("dynamicOrder", 32, 2, 6, 10, 14, 3, 7, 11, 15)
	fmt.Fprintln(&out.asm, "GLOBL dynamicOrder<>(SB), RODATA|NOPTR, $64")
}

// lookUp puts the floats that 64 bytes of register i count in the table at p
// into four registers from d on; p holds the 256 first bytes of the floats, then the
// second ones, and so on. Dword 4l+q of i has the indices of lane l of register q.
// d+4 to d+8 are spoiled.
func lookUp(p string, i, d int) {
	e("VPMOVB2M Z%d, K3", i)
	for b := range 4 {
		at := 256 * b
		e("VMOVDQU64 %d(%s), Z%d", at, p, d+8)
		e("VMOVDQA64 Z%d, Z%d", i, d+4+b)
		e("VPERMI2B %d(%s), Z%d, Z%d", at+64, p, d+8, d+4+b)
		e("VMOVDQU64 %d(%s), Z%d", at+128, p, d+8)
		e("VMOVDQA64 Z%d, Z%d", i, d)
		e("VPERMI2B %d(%s), Z%d, Z%d", at+192, p, d+8, d)
		e("VMOVDQU8 Z%d, K3, Z%d", d, d+4+b)
	}
	z3("VPUNPCKLBW", d+5, d+4, d)
	z3("VPUNPCKHBW", d+5, d+4, d+2)
	z3("VPUNPCKLBW", d+7, d+6, d+1)
	z3("VPUNPCKHBW", d+7, d+6, d+3)
	z3("VPUNPCKHWD", d+1, d, d+4)
	z3("VPUNPCKLWD", d+1, d, d)
	zMove(d+4, d+1)
	z3("VPUNPCKHWD", d+3, d+2, d+4)
	z3("VPUNPCKLWD", d+3, d+2, d+2)
	zMove(d+4, d+3)
}

func dynamicDecodeBytes() {
	text("DynamicDecode64", "is x = values[codes]·absmax by tables of bytes.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"},
		arg{"codes", "*byte", "CX"}, arg{"values", "*byte", "DX"}, arg{"absmax", "float32", "Z0"})
	e("VMOVDQU64 dynamicOrder<>(SB), Z1")
	label("loop")
	e("VPERMD (CX), Z1, Z2")
	lookUp("DX", 2, 3)
	for q := range 4 {
		zMul(0, 3+q, 3+q)
		e("VMOVUPS Z%d, %d(BX)", 3+q, 64*q)
	}
	e("ADDQ $64, CX")
	e("ADDQ $256, BX")
	e("SUBQ $64, AX")
	e("JGT loop")
	ret()
}

// dynamicEncodeBytes finds the rank on the two lines that matter between two
// powers of two.
func dynamicEncodeBytes() {
	text("DynamicEncode64", "is the codes of x·r by tables of bytes. lines are those of 32 powers of two up to 1: slopes and offsets of the first, then of the second.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"codes", "*byte", "CX"}, arg{"lines", "*float32", "DX"}, arg{"mid", "*byte", "SI"},
		arg{"r", "float32", "Z0"}, arg{"shift", "float32", "Z31"})
	broadcast(0x80000000, 30)
	broadcast(96<<23, 29) // the least power
	e("VMOVDQU64 dynamicOrder<>(SB), Z28")
	for i := range 8 {
		e("VMOVUPS %d(DX), Z%d", 64*i, 20+i)
	}
	label("loop")
	for q := range 4 {
		v, t := 1+q, 5+q
		e("VMULPS %d(BX), Z0, Z%d", 64*q, v)
		z3("VPANDND", v, 30, 9)
		z3("VMAXPS", 9, 29, 9) // NaN stays
		e("VPSRLD $23, Z9, Z10")
		for i, z := range []int{t, 11, 12, 13} {
			zMove(10, z)
			z3("VPERMI2PS", 21+2*i, 20+2*i, z)
		}
		z3("VFMADD213PS", 11, 9, t)
		z3("VFMADD213PS", 13, 9, 12)
		z3("VMINPS", 12, t, t)
		e("VPTERNLOGD $0x78, Z%d, Z30, Z%d", v, t) // with the sign of v
		zAdd(31, t, t)
		e("VCVTPS2DQ Z%d, Z%d", t, t)
	}
	z3("VPACKUSDW", 6, 5, 5) // below 0, and NaN, is 0
	z3("VPACKUSDW", 8, 7, 7)
	z3("VPACKUSWB", 7, 5, 5)
	lookUp("SI", 5, 6)
	for q := range 4 {
		e("VCMPPS $0x1e, Z%d, Z%d, K%d", 6+q, 1+q, 4+q)
	}
	e("KUNPCKWD K4, K5, K4")
	e("KUNPCKWD K6, K7, K6")
	e("KUNPCKDQ K4, K6, K4")
	e("VPERMD Z5, Z28, Z5")
	e("VPTERNLOGD $0xff, Z6, Z6, Z6")
	e("VPSUBB Z6, Z5, K4, Z5")
	e("VMOVDQU64 Z5, (CX)")
	e("ADDQ $64, CX")
	e("ADDQ $256, BX")
	e("SUBQ $64, AX")
	e("JGT loop")
	ret()
}

// dynamicAdam decodes both moments, makes AdamW's step as package vec does, to the bit,
// and leaves the new moments as floats with their largest magnitudes. Divisions run
// while tables are looked up.
func dynamicAdam() {
	text("DynamicAdam64", "is one AdamW step of moments in codes: p is updated, nm and nv are the new moments and tops the bits of their largest magnitudes; k are the 8 numbers of a vec.Adam.",
		arg{"n", "int", "AX"}, arg{"p", "*float32", "BX"}, arg{"grad", "*float32", "CX"}, arg{"m", "*byte", "DX"}, arg{"v", "*byte", "SI"}, arg{"nm", "*float32", "DI"}, arg{"nv", "*float32", "R8"},
		arg{"mvalues", "*byte", "R9"}, arg{"vvalues", "*byte", "R10"}, arg{"k", "*float32", "R13"}, arg{"tops", "*uint32", "R12"}, arg{"mabsmax", "float32", "Z22"}, arg{"vabsmax", "float32", "Z23"})
	const clip, keep, lerp, beta2, one, root, eps, step, order, mask, topM, topV = 14, 15, 16, 17, 18, 19, 20, 21, 24, 25, 26, 27
	for i := range 8 {
		e("VBROADCASTSS %d(R13), Z%d", 4*i, clip+i)
	}
	e("VMOVDQU64 dynamicOrder<>(SB), Z%d", order)
	broadcast(0x7fffffff, mask)
	zZero(topM)
	zZero(topV)
	e("PCALIGN $32")
	label("loop")
	e("VPERMD (DX), Z%d, Z0", order)
	lookUp("R9", 0, 1)
	e("VPERMD (SI), Z%d, Z0", order)
	lookUp("R10", 0, 5)
	for q := range 4 {
		m, v, d, t, u := 1+q, 5+q, 9, 10, 11
		zMul(22, m, m)
		zMul(23, v, v)
		e("VMULPS %d(CX), Z%d, Z%d", 64*q, clip, d)
		zSub(d, m, t)
		zMul(lerp, t, t)
		zAdd(t, m, m)
		e("VMOVUPS Z%d, %d(DI)", m, 64*q)
		zMul(d, d, d)
		zMul(one, d, d)
		zMul(beta2, v, v)
		zAdd(d, v, v)
		e("VMOVUPS Z%d, %d(R8)", v, 64*q)
		e("VSQRTPS Z%d, Z%d", v, t)
		zDiv(t, root, t)
		zAdd(eps, t, t)
		zMul(step, m, u)
		zDiv(u, t, u)
		e("VMULPS %d(BX), Z%d, Z%d", 64*q, keep, t)
		zAdd(u, t, t)
		e("VMOVUPS Z%d, %d(BX)", t, 64*q)
		z3("VPANDD", m, mask, m)
		z3("VPMAXUD", m, topM, topM)
		z3("VPANDD", v, mask, v)
		z3("VPMAXUD", v, topV, topV)
	}
	for _, r := range []string{"DX", "SI"} {
		e("ADDQ $64, %s", r)
	}
	for _, r := range []string{"BX", "CX", "DI", "R8"} {
		e("ADDQ $256, %s", r)
	}
	e("SUBQ $64, AX")
	e("JGT loop")
	l := &loop{isa: isa{"16", 'Z', 16}}
	zMove(topM, 0)
	l.fold("VPMAXUD", 0, 1, "R12")
	e("ADDQ $4, R12")
	zMove(topV, 0)
	l.fold("VPMAXUD", 0, 1, "R12")
	ret()
}

// gather reads lane by lane what register i counts in floats of the table at p.
func (l *loop) gather(p string, i, d int) {
	if l.reg == 'Z' {
		e("KXNORW K1, K1, K1")
		e("VGATHERDPS (%s)(Z%d*4), K1, Z%d", p, i, d)
		return
	}
	e("VPCMPEQD Y15, Y15, Y15")
	e("VGATHERDPS Y15, (%s)(Y%d*4), Y%d", p, i, d)
}

// steps emits a loop over AX elements that R8 counts.
func (l *loop) steps(body func()) {
	e("XORQ R8, R8")
	e("PCALIGN $32")
	label("loop")
	body()
	e("ADDQ $%d, R8", l.w)
	e("CMPQ R8, AX")
	e("JLT loop")
}

func (l *loop) dynamicDecode() {
	text("DynamicDecode"+l.name, "is x = values[codes]·absmax.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"},
		arg{"codes", "*byte", "CX"}, arg{"values", "*float32", "DX"}, l.scalar("absmax", 0))
	l.steps(func() {
		e("VPMOVZXBD (CX)(R8*1), %s", l.r(1))
		l.gather("DX", 1, 2)
		l.mul(0, 2, 2)
		e("VMOVUPS %s, (BX)(R8*4)", l.r(2))
	})
	ret()
}

func (l *loop) dynamicTop() {
	text("DynamicTop"+l.name, "is the bits of the largest |x|, NaN above all.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"out", "*uint32", "CX"})
	e("MOVL $0x7fffffff, R11")
	e("VMOVD R11, X1")
	e("VPBROADCASTD X1, %s", l.r(1))
	l.zero(0)
	l.steps(func() {
		e("VMOVUPS (BX)(R8*4), %s", l.r(2))
		l.op("VANDPS", 1, 2, 2)
		l.op("VPMAXUD", 2, 0, 0)
	})
	l.fold("VPMAXUD", 0, 2, "CX")
	ret()
}

// dynamicEncode: the rank of |v| on the lines, with the sign of v and moved to
// the middle of the codes, is the code or the one before it; the midpoint after
// it decides.
func (l *loop) dynamicEncode() {
	text("DynamicEncode"+l.name, "is the codes of x·r.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"},
		arg{"codes", "*byte", "CX"}, arg{"lines", "*float32", "DX"}, arg{"mid", "*float32", "SI"}, l.scalar("r", 0), l.scalar("shift", 12))
	for i, bits := range []uint32{0x80000000, 254} {
		e("MOVL $%d, R11", bits)
		e("VMOVD R11, X%d", 9+i)
		e("VPBROADCASTD X%d, %s", 9+i, l.r(9+i))
	}
	l.zero(11)
	if l.reg == 'Z' {
		for i := range 2 * dynamicLines {
			e("VBROADCASTSS %d(DX), Z%d", 32*i, 16+i)
		}
	}
	line := func(i, m, d int) {
		if l.reg == 'Z' {
			l.move(16+dynamicLines+i, d)
			l.fma(16+i, m, d)
			return
		}
		e("VMOVUPS %d(DX), Y%d", 32*(dynamicLines+i), d)
		e("VFMADD231PS %d(DX), Y%d, Y%d", 32*i, m, d)
	}
	l.steps(func() {
		e("VMULPS (BX)(R8*4), %s, %s", l.r(0), l.r(1)) // v
		l.op("VANDNPS", 1, 9, 2)
		l.op("VANDPS", 1, 9, 3)
		line(0, 2, 4)
		for i := 1; i < dynamicLines; i++ {
			line(i, 2, 5)
			l.op("VMINPS", 5, 4, 4)
		}
		l.op("VXORPS", 3, 4, 4)
		l.add(12, 4, 4)
		e("VCVTPS2DQ %s, %s", l.r(4), l.r(4)) // NaN: the least integer
		l.op("VPMAXSD", 11, 4, 4)
		l.op("VPMINSD", 10, 4, 4)
		l.gather("SI", 4, 6)
		if l.reg == 'Z' {
			e("VCMPPS $0x1e, Z6, Z1, K2")
			e("VPTERNLOGD $0xff, Z7, Z7, Z7")
			e("VPSUBD Z7, Z4, K2, Z4")
			e("VPMOVDB Z4, (CX)(R8*1)")
			return
		}
		e("VCMPPS $0x1e, Y6, Y1, Y6")
		e("VPSUBD Y6, Y4, Y4")
		e("VEXTRACTI128 $1, Y4, X5")
		e("VPACKUSDW X5, X4, X4")
		e("VPACKUSWB X4, X4, X4")
		e("VMOVQ X4, (CX)(R8*1)")
	})
	ret()
}
