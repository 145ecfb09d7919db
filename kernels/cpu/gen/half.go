package main

// halves writes the conversions between f32 and bf16 of package vec. R8 counts
// the bytes of bf16.
func halves() {
	open("vec", "../internal/vec", "half")
	for _, i := range isas {
		l := &loop{isa: i}
		text("widen"+i.name, "is dst = src, n bf16 as f32.", arg{"n", "int", "AX"}, arg{"dst", "*float32", "BX"}, arg{"src", "*uint16", "CX"})
		l.every(2*l.w, func() {
			e("VPMOVZXWD%s (CX)(R8*1), %s%s", zeroing(l.mask), l.mask, l.r(0))
			e("VPSLLD $16, %s, %s", l.r(0), l.r(0))
			e("VMOVUPS %s, %s(BX)(R8*2)", l.r(0), l.mask)
		})
		ret()
		text("narrow"+i.name, "is dst = src, n f32 rounded to bf16.", arg{"n", "int", "AX"}, arg{"dst", "*uint16", "BX"}, arg{"src", "*float32", "CX"})
		l.roundingConstants()
		l.every(2*l.w, func() {
			e("VMOVUPS%s (CX)(R8*2), %s%s", zeroing(l.mask), l.mask, l.r(0))
			l.roundHalf(0, 1)
			if i.reg == 'Z' {
				e("VPMOVDW Z1, %s(BX)(R8*1)", l.mask)
				return
			}
			e("VEXTRACTI128 $1, Y1, X2")
			e("VPACKUSDW X2, X1, X1")
			e("VMOVDQU X1, (BX)(R8*1)")
		})
		ret()
	}
	for _, nv := range []int{1, 2} {
		l := &loop{isa: isas[0]}
		name := map[int]string{1: "narrowTile16", 2: "narrowTile32"}[nv]
		text(name, "is dst = src rounded to bf16, n rows; leading dimensions in elements.", arg{"n", "int", "AX"},
			arg{"dst", "*uint16", "BX"}, arg{"ldd", "int", "DX"}, arg{"src", "*float32", "CX"}, arg{"lds", "int", "SI"})
		e("SHLQ $1, DX")
		e("SHLQ $2, SI")
		l.roundingConstants()
		label("loop")
		for j := range nv {
			e("VMOVUPS %d(CX), Z%d", 64*j, 4*j)
			l.roundHalf(4*j, 4*j+1)
			e("VPMOVDW Z%d, %d(BX)", 4*j+1, 32*j)
		}
		e("ADDQ DX, BX")
		e("ADDQ SI, CX")
		e("DECQ AX")
		e("JGT loop")
		ret()
	}
	l := &loop{isa: isas[0], half: true}
	l.name = "Half"
	l.silu(true)
	l.siluGrad()
	l.rotateHeads()
	writeConstants()
	save()
}

// halfSpare is the register that store rounds in.
const halfSpare = 12

// rotateHeads writes Rotate of all heads of a token.
func (l *loop) rotateHeads() {
	text("rotateHeadsHalf", "is y0 = x0·c - x1·s, y1 = x1·c + x0·s of n heads, their halves k elements long, a multiple of 16; heads are ldy and ldx elements apart.",
		arg{"n", "int", "AX"}, arg{"y", "*uint16", "BX"}, arg{"ldy", "int", "SI"}, arg{"x", "*uint16", "CX"}, arg{"ldx", "int", "DI"}, arg{"k", "int", "DX"},
		arg{"c", "*float32", "R9"}, arg{"s", "*float32", "R10"})
	for _, r := range []string{"SI", "DI", "DX"} {
		e("SHLQ $1, %s", r)
	}
	l.roundingConstants()
	label("heads")
	e("LEAQ (BX)(DX*1), R12")
	e("LEAQ (CX)(DX*1), R13")
	e("XORQ R8, R8")
	label("loop")
	l.load("CX", 0)
	l.load("R13", 1)
	e("VMOVUPS (R9)(R8*2), Z2")
	e("VMOVUPS (R10)(R8*2), Z3")
	l.turnPair()
	l.store(4, "BX")
	l.store(5, "R12")
	e("ADDQ $32, R8")
	e("CMPQ R8, DX")
	e("JLT loop")
	e("ADDQ SI, BX")
	e("ADDQ DI, CX")
	e("DECQ AX")
	e("JGT heads")
	ret()
}

// turnPair rotates registers 0, 1 by the cosine 2 and the sine 3 into 4, 5.
func (l *loop) turnPair() {
	l.mul(0, 2, 4)
	l.mul(1, 3, 5)
	l.sub(4, 5, 4)
	l.mul(1, 2, 5)
	l.mul(0, 3, 6)
	l.add(5, 6, 5)
}

// rounding is the first of the registers that hold what rounding needs.
func (l *loop) rounding() int {
	if l.half {
		return 29
	}
	return 13
}

// roundingConstants puts 1, 0x7fff and the quiet bit into those registers.
func (l *loop) roundingConstants() {
	for i, c := range []int{1, 0x7fff, 0x400000} {
		z := l.rounding() + i
		e("MOVL $%d, R11", c)
		if l.reg == 'Z' {
			e("VPBROADCASTD R11, Z%d", z)
			continue
		}
		e("VMOVD R11, X%d", z)
		e("VPBROADCASTD X%d, Y%d", z, z)
	}
}

// roundHalf puts the bf16 of register x into the low words of the lanes of d;
// d+1 and d+2 are spoiled.
func (l *loop) roundHalf(x, d int) {
	one := l.rounding()
	e("VPSRLD $16, %s, %s", l.r(x), l.r(d))
	if l.reg == 'Z' {
		e("VCMPPS $3, %s, %s, K2", l.r(x), l.r(x))
		e("VPANDD %s, %s, %s", l.r(one), l.r(d), l.r(d))
	} else {
		e("VCMPPS $3, %s, %s, %s", l.r(x), l.r(x), l.r(d+1))
		e("VPAND %s, %s, %s", l.r(one), l.r(d), l.r(d))
	}
	l.op("VPADDD", one+1, d, d)
	l.op("VPADDD", x, d, d)
	if l.reg == 'Z' {
		e("VPORD %s, %s, K2, %s", l.r(one+2), l.r(x), l.r(d))
	} else {
		e("VPOR %s, %s, %s", l.r(one+2), l.r(x), l.r(d+2))
		e("VBLENDVPS %s, %s, %s, %s", l.r(d+1), l.r(d+2), l.r(d), l.r(d))
	}
	e("VPSRLD $16, %s, %s", l.r(d), l.r(d))
}
