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
	save()
}

// roundingConstants puts 1, 0x7fff and the quiet bit into registers 13, 14, 15.
func (l *loop) roundingConstants() {
	for i, c := range []int{1, 0x7fff, 0x400000} {
		e("MOVL $%d, R11", c)
		if l.reg == 'Z' {
			e("VPBROADCASTD R11, Z%d", 13+i)
			continue
		}
		e("VMOVD R11, X%d", 13+i)
		e("VPBROADCASTD X%d, Y%d", 13+i, 13+i)
	}
}

// roundHalf puts the bf16 of register x into the low words of the lanes of d;
// d+1 and d+2 are spoiled.
func (l *loop) roundHalf(x, d int) {
	e("VPSRLD $16, %s, %s", l.r(x), l.r(d))
	if l.reg == 'Z' {
		e("VCMPPS $3, %s, %s, K2", l.r(x), l.r(x))
		e("VPANDD %s, %s, %s", l.r(13), l.r(d), l.r(d))
	} else {
		e("VCMPPS $3, %s, %s, %s", l.r(x), l.r(x), l.r(d+1))
		e("VPAND %s, %s, %s", l.r(13), l.r(d), l.r(d))
	}
	l.op("VPADDD", 14, d, d)
	l.op("VPADDD", x, d, d)
	if l.reg == 'Z' {
		e("VPORD %s, %s, K2, %s", l.r(15), l.r(x), l.r(d))
	} else {
		e("VPOR %s, %s, %s", l.r(15), l.r(x), l.r(d+2))
		e("VBLENDVPS %s, %s, %s, %s", l.r(d+1), l.r(d+2), l.r(d), l.r(d))
	}
	e("VPSRLD $16, %s, %s", l.r(d), l.r(d))
}
