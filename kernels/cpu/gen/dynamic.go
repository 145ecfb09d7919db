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
	dynamicConstants()
	dynamicDecode64("DynamicDecodeSigned64", lookUpSigned)
	dynamicDecode64("DynamicDecodeUnsigned64", lookUp)
	dynamicEncode64("DynamicEncodeSigned64", true)
	dynamicEncode64("DynamicEncodeUnsigned64", false)
	dynamicAdam()
}

// lookUp puts the floats that 64 bytes of register i count in the table at p
// into four registers from d on; it holds the 256 first bytes of the floats, then the
// second ones, and so on. Dword 4l+q of i has the indices of lane l of register q.
// d+4 to d+8 are spoiled.
func lookUp(p string, at, i, d int) {
	e("VPMOVB2M Z%d, K3", i)
	for b := range 4 {
		e("VMOVDQU64 %d(%s), Z%d", at+256*b, p, d+8)
		e("VMOVDQA64 Z%d, Z%d", i, d+4+b)
		e("VPERMI2B %d(%s), Z%d, Z%d", at+256*b+64, p, d+8, d+4+b)
		e("VMOVDQU64 %d(%s), Z%d", at+256*b+128, p, d+8)
		e("VMOVDQA64 Z%d, Z%d", i, d)
		e("VPERMI2B %d(%s), Z%d, Z%d", at+256*b+192, p, d+8, d)
		e("VMOVDQU8 Z%d, K3, Z%d", d, d+4+b)
	}
	joinBytes(d)
}

// lookUpSigned is lookUp where the table holds magnitudes alone, by ranks from zero: 128
// bytes of each place, of which the first are those of rank 128.
func lookUpSigned(p string, at, i, d int) {
	e("VPBROADCASTD %s, Z%d", dynamicAt("127s"), d+8)
	e("VPCMPUB $1, Z%d, Z%d, K2", d+8, i) // below zero
	e("VPCMPUB $4, Z%d, Z%d, K3", d+8, i) // not zero
	z3("VPSUBB", d+8, i, i)
	e("VPABSB Z%d, Z%d", i, i)
	for b := range 4 {
		e("VMOVDQU64 %d(%s), Z%d", at+128*b, p, d+8)
		e("VMOVDQA64 Z%d, Z%d", i, d+4+b)
		e("VPERMI2B.Z %d(%s), Z%d, K3, Z%d", at+128*b+64, p, d+8, d+4+b)
	}
	e("VPBROADCASTD %s, Z%d", dynamicAt("128s"), d+8)
	e("VPADDB Z%d, Z%d, K2, Z%d", d+8, d+7, d+7)
	joinBytes(d)
}

// joinBytes makes dwords in d to d+3 of their bytes in d+4 to d+7.
func joinBytes(d int) {
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

func dynamicDecode64(name string, lookUp func(p string, at, i, d int)) {
	text(name, "is x = the values of codes in book, times absmax.", arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"},
		arg{"codes", "*byte", "CX"}, arg{"book", "*float32", "DX"}, arg{"absmax", "float32", "Z13"})
	e("VMOVDQU64 dynamicOrder<>(SB), Z14")
	label("loop")
	e("VPERMD (CX), Z14, Z0")
	lookUp("DX", bookValues, 0, 1)
	for q := range 4 {
		zMul(13, 1+q, 1+q)
		e("VMOVUPS Z%d, %d(BX)", 1+q, 64*q)
	}
	e("ADDQ $64, CX")
	e("ADDQ $256, BX")
	e("SUBQ $64, AX")
	e("JGT loop")
	ret()
}

// A book of package block as vectors of 64 codes read it: what is on the lines of 32
// powers of two, then values by bytes.
const (
	bookLines  = 0
	bookValues = 4 * 128
	bookSize   = bookValues + 4*256
)

// dynamicConst places dwords that all lanes read, by name.
var dynamicConst = map[string]int{}

func dynamicConstants() {
	constant256("dynamicOrder", 0, 0, 4, 8, 12, 1, 5, 9, 13)
	constant256("dynamicOrder", 32, 2, 6, 10, 14, 3, 7, 11, 15)
	for q := range 4 { // byte 4l+q is lane l of register q
		for l := range 4 {
			at := uint32(16*l + q)
			constant256("dynamicBytes", 16*q+4*l, at|(at+4)<<8|(at+8)<<16|(at+12)<<24)
		}
	}
	for i, c := range []struct {
		name string
		bits uint32
	}{
		{"abs", 0x7fffffff}, {"ones", 0xffffffff},
		{"least", 96 << 23},
		{"near signed", 0xfff8}, {"near unsigned", 0x7ff8},
		{"byte 1", 0xff00}, {"byte 2", 0xff0000}, {"byte 3", 0xff000000},
		{"infinity stays", 1 << 20}, {"127s", 0x7f7f7f7f}, {"128s", 0x80808080},
	} {
		dynamicConst[c.name] = 4 * i
		constant256("dynamicConst", 4*i, c.bits)
	}
	fmt.Fprintln(&out.asm, "GLOBL dynamicOrder<>(SB), RODATA|NOPTR, $64")
	fmt.Fprintln(&out.asm, "GLOBL dynamicBytes<>(SB), RODATA|NOPTR, $64")
	fmt.Fprintf(&out.asm, "GLOBL dynamicConst<>(SB), RODATA|NOPTR, $%d\n", 4*len(dynamicConst))
}

func dynamicAt(name string) string {
	at, ok := dynamicConst[name]
	if !ok {
		panic("gen: no constant " + name)
	}
	return fmt.Sprintf("dynamicConst<>+%d(SB)", at)
}

// loadLines puts the first halves of the lines of the book at p into four registers
// from t on.
func loadLines(p string, at, t int) {
	for i := range 4 {
		e("VMOVUPS %d(%s), Z%d", at+bookLines+128*i, p, t+i)
	}
}

// ranks puts the codes of the 64 floats at x (an address with a verb for bytes), times r in all lanes of memory, into
// register d and into K4 which of them lie too near to a midpoint to be sure of. book is
// the pointer to the lines, whose first halves are in registers from t on. d to d+4 and
// K0, K1 and K4 to K7 are spoiled.
//
// A power of two is crossed by one border between groups of evenly spaced values at
// most, and behind it lies what the next power begins with: so one comparison says
// which line a value is on. Where the line is at its limit the value is nearest to the
// last of its group. The rank stands as fixed point in the fraction of 128 or 256 and more.
func ranks(signed bool, x, r, book string, at, t, d int) {
	near, shift := dynamicAt("near unsigned"), 15
	if signed {
		near, shift = dynamicAt("near signed"), 16
	}
	v, i, y, z := d+1, d+2, d+3, d+4
	on := func(line, z int) { e("VPERMI2PS %d(%s), Z%d, Z%d", at+bookLines+128*line+64, book, t+line, z) }
	for q := range 4 {
		e("VMOVUPS %s, Z%d", fmt.Sprintf(x, 64*q), v)
		e("VMULPS.BCST %s, Z%d, Z%d", r, v, v)
		if signed {
			k := []int{7, 1, 6, 1}[q]
			e("VPMOVD2M Z%d, K%d", v, k)
			e("VRANGEPS.BCST $0xb, %s, Z%d, Z%d", dynamicAt("least"), v, v) // the larger magnitude
			e("VPSUBD.BCST %s, Z%d, K%d, Z%d", dynamicAt("ones"), v, k, v)  // a midpoint below zero has the code of the larger one
			switch q {
			case 1:
				e("KUNPCKWD K7, K1, K7")
			case 3:
				e("KUNPCKWD K6, K1, K0")
			}
		} else {
			e("VMAXPS.BCST %s, Z%d, Z%d", dynamicAt("least"), v, v)
		}
		e("VPSRLD $23, Z%d, Z%d", v, i)
		zMove(i, y)
		on(0, y)
		e("VCMPPS $0x1e, Z%d, Z%d, K1", y, v)
		e("VPSUBD.BCST %s, Z%d, K1, Z%d", dynamicAt("ones"), i, i)
		zMove(i, y)
		zMove(i, z)
		on(1, y)
		on(2, z)
		on(3, i)
		z3("VFMADD213PS", z, v, y)
		z3("VMINPS", i, y, y)
		e("VPTESTNMD.BCST %s, Z%d, K%d", near, y, []int{4, 5, 5, 6}[q])
		switch by := shift - 8*q; {
		case q == 0:
			e("VPSRLD $%d, Z%d, Z%d", by, y, d)
		case by > 0:
			e("VPSRLD $%d, Z%d, Z%d", by, y, y)
		case by < 0:
			e("VPSLLD $%d, Z%d, Z%d", -by, y, y)
		}
		if q > 0 {
			e("VPTERNLOGD.BCST $0xd8, %s, Z%d, Z%d", dynamicAt(fmt.Sprint("byte ", q)), y, d)
		}
		switch q {
		case 1:
			e("KUNPCKWD K4, K5, K4")
		case 3:
			e("KUNPCKWD K5, K6, K5")
		}
	}
	e("VMOVDQU64 dynamicBytes<>(SB), Z%d", v)
	z3("VPERMB", d, v, d)
	e("KUNPCKDQ K4, K5, K4")
	if signed {
		e("KUNPCKDQ K7, K0, K7")
		e("VPBROADCASTD %s, Z%d", dynamicAt("127s"), v)
		z3("VPADDB", d, v, i)
		e("VPSUBUSB Z%d, Z%d, K7, Z%d", d, v, i)
		e("VMOVDQA64 Z%d, Z%d", i, d)
	}
}

func dynamicEncode64(name string, signed bool) {
	text(name, "is the codes of x·r on the lines of book; near has a bit for each of those that may be beside it.", arg{"n", "int", "AX"},
		arg{"x", "*float32", "BX"}, arg{"codes", "*byte", "CX"}, arg{"book", "*float32", "DX"}, arg{"near", "*uint64", "SI"}, arg{"r", "*float32", "DI"})
	loadLines("DX", 0, 16)
	e("PCALIGN $32")
	label("loop")
	ranks(signed, "%d(BX)", "(DI)", "DX", 0, 16, 0)
	e("VMOVDQU64 Z0, (CX)")
	e("KMOVQ K4, (SI)")
	e("ADDQ $64, CX")
	e("ADDQ $256, BX")
	e("ADDQ $8, SI")
	e("SUBQ $64, AX")
	e("JGT loop")
	ret()
}

// dynamicAdam decodes both moments, makes AdamW's step as package vec does, to the bit,
// and leaves the new moments as floats with their largest magnitudes; the codes of the
// block before are found while divisions and roots of this one run.
func dynamicAdam() {
	text("DynamicAdam64", "is one AdamW step of 256 values with moments in codes: p is updated, next the new moments as floats, and tops the bits of their largest magnitudes. "+
		"Meanwhile last, the moments of another block, are made codes: lastm, lastv, and near as DynamicEncodeSigned64 has it. books are Signed's and Unsigned's; "+
		"k are the 8 numbers of a vec.Adam, the largest magnitudes of m and v, and what to multiply last by; out is near, then tops.",
		arg{"p", "*float32", "BX"}, arg{"grad", "*float32", "CX"}, arg{"m", "*byte", "DX"}, arg{"v", "*byte", "SI"}, arg{"next", "*float32", "DI"}, arg{"last", "*float32", "R8"},
		arg{"lastm", "*byte", "R9"}, arg{"lastv", "*byte", "R10"}, arg{"books", "*float32", "R11"}, arg{"k", "*float32", "R12"}, arg{"out", "*uint64", "R13"})
	const clip, keep, lerp, beta2, one, root, eps, step, inv, invLo, topM, topV = 0, 4, 8, 12, 16, 20, 24, 28, 48, 52, 14, 15
	by := func(op string, k, a, d int) { e("%s.BCST %d(R12), Z%d, Z%d", op, k, a, d) }
	loadLines("R11", 0, 24)
	loadLines("R11", bookSize, 28)
	zZero(topM)
	zZero(topV)
	e("XORQ AX, AX")
	e("PCALIGN $32")
	label("loop")
	codes := capture(func() {
		for q := range 4 {
			e("PREFETCHT0 %d(BX)(AX*4)", 2048+64*q)
			e("PREFETCHT0 %d(CX)(AX*4)", 2048+64*q)
		}
		e("PREFETCHT0 512(DX)(AX*1)")
		e("PREFETCHT0 512(SI)(AX*1)")
		ranks(true, "%d(R8)(AX*4)", "40(R12)", "R11", 0, 24, 16)
		e("VMOVDQU64 Z16, (R9)(AX*1)")
		e("KMOVQ K4, (R13)")
		ranks(false, "1024+%d(R8)(AX*4)", "44(R12)", "R11", bookSize, 28, 16)
		e("VMOVDQU64 Z16, (R10)(AX*1)")
		e("KMOVQ K4, 32(R13)")
	})
	update := capture(func() {
		e("VMOVDQU64 dynamicOrder<>(SB), Z0")
		e("VPERMD (DX)(AX*1), Z0, Z0")
		lookUpSigned("R11", bookValues, 0, 1)
		e("VMOVDQU64 dynamicOrder<>(SB), Z0")
		e("VPERMD (SI)(AX*1), Z0, Z0")
		lookUp("R11", bookSize+bookValues, 0, 5)
		for q := range 4 {
			m, v, d, t, u := 1+q, 5+q, 9, 10, 11
			by("VMULPS", 32, m, m)
			by("VMULPS", 36, v, v)
			e("VMOVUPS %d(CX)(AX*4), Z%d", 64*q, d)
			by("VMULPS", clip, d, d)
			zSub(d, m, t)
			by("VMULPS", lerp, t, t)
			zAdd(t, m, m)
			e("VMOVUPS Z%d, %d(DI)(AX*4)", m, 64*q)
			zMul(d, d, d)
			by("VMULPS", one, d, d)
			by("VMULPS", beta2, v, v)
			zAdd(d, v, v)
			e("VMOVUPS Z%d, %d(DI)(AX*4)", v, 1024+64*q)
			e("VSQRTPS Z%d, Z%d", v, t)
			by("VMULPS", invLo, t, u)
			by("VFMADD231PS", inv, t, u)
			zMove(t, 12)
			by("VFNMADD231PS", root, u, 12)
			by("VFMADD231PS", inv, 12, u)
			e("VFIXUPIMMPS.BCST $0, %s, Z%d, Z%d", dynamicAt("infinity stays"), t, u)
			by("VADDPS", eps, u, t)
			by("VMULPS", step, m, u)
			zDiv(u, t, u)
			e("VMOVUPS %d(BX)(AX*4), Z%d", 64*q, t)
			by("VMULPS", keep, t, t)
			zAdd(u, t, t)
			e("VMOVUPS Z%d, %d(BX)(AX*4)", t, 64*q)
			e("VPANDD.BCST %s, Z%d, Z%d", dynamicAt("abs"), m, m)
			z3("VPMAXUD", m, topM, topM)
			z3("VPMAXUD", v, topV, topV) // of no sign, or NaN
		}
	})
	weave(update, codes)
	e("ADDQ $64, AX")
	e("ADDQ $8, R13")
	e("CMPQ AX, $256")
	e("JLT loop")
	e("VPANDD.BCST %s, Z%d, Z%d", dynamicAt("abs"), topV, topV)
	l := &loop{isa: isa{"16", 'Z', 16}}
	for i, top := range []int{topM, topV} {
		zMove(top, 0)
		e("ADDQ $%d, R13", []int{32, 4}[i])
		l.fold("VPMAXUD", 0, 1, "R13")
	}
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
