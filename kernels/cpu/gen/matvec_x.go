package main

// The 256 bytes of a unit of a row of x that was rounded to 8 bits: the codes;
// for every four of them -offset times their sum, as int32; their scale, and
// their sum times it, as f32. A lane of the last three belongs to four codes.
const (
	unitCodes = 64 * iota
	unitStart
	unitScale
	unitSum
	unitBytes
)

// quantX rounds a row. A block of 32 has a scale of its own. With split the
// codes of even columns come first, then those of odd ones.
func quantX(name string, split bool) {
	doc := "rounds units of 64 floats to 8 bits, a scale for every 32, to the parts that the int8 kernels read, step bytes apart. offset is the negated zero point of the weight's codes, unit 1/127 times what the result is to be multiplied by."
	if split {
		doc += " Even columns come first."
	}
	text(name, doc, arg{"units", "int", "AX"}, arg{"src", "*float32", "SI"}, arg{"dst", "*byte", "DI"}, arg{"step", "int", "DX"}, arg{"offset", "int", "R8"}, arg{"unit", "float32", "Z28"})
	e("VPBROADCASTD R8, Z30")
	roundConstants()
	mask := 0xff00
	if split {
		mask = 0xf0f0
		e("VMOVDQU64 evenOdd16<>(SB), Z25")
		e("VMOVDQU64 evenOdd64<>(SB), Z24")
	}
	e("MOVL $0x%x, R10", mask)
	e("KMOVW R10, K1")
	label("loop")
	roundUnit(0)
	if split {
		e("VPSHUFB Z25, Z0, Z0")
		e("VPERMQ Z0, Z24, Z0")
	}
	e("VMOVDQU64 Z0, %d(DI)", unitCodes)
	e("VPXORD Z1, Z1, Z1")
	e("VPDPBUSD Z0, Z27, Z1")
	e("VPMULLD Z30, Z1, Z2")
	e("VMOVDQU64 Z2, %d(DI)", unitStart)
	e("VMOVAPS Z7, K1, Z6")
	e("VMULPS Z28, Z6, Z6")
	e("VMOVUPS Z6, %d(DI)", unitScale)
	e("VCVTDQ2PS Z1, Z1")
	e("VMULPS Z6, Z1, Z1")
	e("VMOVUPS Z1, %d(DI)", unitSum)
	e("ADDQ $256, SI")
	e("ADDQ DX, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

func roundConstants() {
	for _, c := range []struct{ bits, z int }{{0x7fffffff, 31}, {0x42fe0000, 29}} { // |x|, 127
		e("MOVL $0x%x, R10", c.bits)
		e("VPBROADCASTD R10, Z%d", c.z)
	}
	bytesIn(1, 27)
	e("VPXORD Z26, Z26, Z26")
}

// roundUnit leaves the codes of the unit at off in Z0, and the largest numbers
// of its blocks in Z6 and Z7.
func roundUnit(off int) {
	for i := range 4 {
		e("VMOVUPS %d(SI), Z%d", off+64*i, i)
	}
	for b := range 2 {
		e("VPANDD Z31, Z%d, Z4", 2*b)
		e("VPANDD Z31, Z%d, Z5", 2*b+1)
		e("VMAXPS Z4, Z5, Z4")
		e("VEXTRACTF64X4 $1, Z4, Y5")
		e("VMAXPS Y4, Y5, Y4")
		e("VEXTRACTF128 $1, Y4, X5")
		e("VMAXPS X4, X5, X4")
		e("VPERMILPS $0x4e, X4, X5")
		e("VMAXPS X4, X5, X4")
		e("VPERMILPS $0xb1, X4, X5")
		e("VMAXPS X4, X5, X4")
		e("VBROADCASTSS X4, Z%d", 6+b)
		e("VCMPPS $4, Z26, Z%d, K2", 6+b) // a block of zeros keeps the factor 0
		e("VDIVPS.Z Z%d, Z29, K2, Z4", 6+b)
		for i := range 2 {
			e("VMULPS Z4, Z%d, Z%d", 2*b+i, 2*b+i)
			e("VCVTPS2DQ Z%d, Z%d", 2*b+i, 2*b+i)
			e("VPMOVSDB Z%d, X%d", 2*b+i, 2*b+i)
		}
	}
	e("VINSERTI128 $1, X1, Y0, Y0")
	e("VINSERTI128 $1, X3, Y2, Y2")
	e("VINSERTI64X4 $1, Y2, Z0, Z0")
}

// The 384 bytes of a block of 256 of a rounded row for the K types: the codes;
// for every 16 of them their scale, and their sum times it.
const (
	blockCodes = 0
	blockScale = 256
	blockSum   = 320
	blockBytes = 384
)

// quantK rounds a row for the K types, or for those whose codes lie otherwise.
func quantK(order, what string) {
	name, doc := "quantRowK", "rounds blocks of 256 floats to 8 bits, a scale for every 32, to the parts that the int8 kernels of K types read, step bytes apart. unit is 1/127."
	if order != "" {
		name, doc = "quantRow"+order, doc+" The codes are "+what+"."
	}
	text(name, doc,
		arg{"blocks", "int", "AX"}, arg{"src", "*float32", "SI"}, arg{"dst", "*byte", "DI"}, arg{"step", "int", "DX"}, arg{"unit", "float32", "Z28"})
	roundConstants()
	e("MOVL $0xff00, R10")
	e("KMOVW R10, K1")
	e("MOVL $0x1111, R10")
	e("KMOVW R10, K3")
	switch order {
	case "Turned":
		e("VMOVDQU64 turning<>(SB), Z25")
	case "Paired":
		e("VMOVDQU64 evensOdds<>(SB), Z25")
	}
	label("loop")
	for u := range 4 {
		roundUnit(256 * u)
		switch order {
		case "Turned":
			e("VPERMB Z0, Z25, Z2")
			for t := range 4 {
				e("VEXTRACTI32X4 $%d, Z2, %d(DI)", t, blockCodes+64*t+16*u)
			}
		case "Paired":
			e("VPERMQ Z0, Z25, Z2")
			for r := range 2 {
				e("VEXTRACTI64X4 $%d, Z2, %d(DI)", r, blockCodes+64*r+u/2*128+u%2*32)
			}
		default:
			e("VMOVDQU64 Z0, %d(DI)", blockCodes+64*u)
		}
		e("VPXORD Z1, Z1, Z1")
		e("VPDPBUSD Z0, Z27, Z1")
		e("VPSHUFD $0x4e, Z1, Z2")
		e("VPADDD Z2, Z1, Z1")
		e("VPSHUFD $0xb1, Z1, Z2")
		e("VPADDD Z2, Z1, Z1")
		e("VCVTDQ2PS Z1, Z1")
		e("VMOVAPS Z7, K1, Z6")
		e("VMULPS Z28, Z6, Z6")
		e("VMULPS Z6, Z1, Z1")
		e("VCOMPRESSPS Z6, K3, Z6")
		e("VCOMPRESSPS Z1, K3, Z1")
		e("VMOVUPS X6, %d(DI)", blockScale+16*u)
		e("VMOVUPS X1, %d(DI)", blockSum+16*u)
	}
	e("ADDQ $1024, SI")
	e("ADDQ DX, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

// groupScales turns planes of scales and zero points into f32.
func groupScales(name, what string, size int, load func(mask string)) {
	text("scales"+name, "widens n scales of "+what+" to s and puts -s·zero into t; zeros nil: zero is middle.",
		arg{"n", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"zeros", "*byte", "DX"}, arg{"middle", "float32", "Z31"}, arg{"s", "*float32", "CX"}, arg{"t", "*float32", "DI"})
	e("VPXORD Z30, Z30, Z30")
	vectors(size, func(mask string) {
		e("PREFETCHT0 1024(BX)")
		load(mask)
		e("VMOVAPS Z31, Z1")
		e("TESTQ DX, DX")
		e("JEQ z%s", mask[:min(2, len(mask))])
		if mask != "" {
			e("VMOVDQU8.Z (DX), K1, X1")
			e("VPMOVZXBD X1, Z1")
		} else {
			e("VPMOVZXBD (DX), Z1")
		}
		e("VCVTDQ2PS Z1, Z1")
		e("ADDQ $16, DX")
		label("z" + mask[:min(2, len(mask))])
		e("VMOVUPS Z0, %s(CX)", mask)
		e("VMULPS Z0, Z1, Z1")
		e("VSUBPS Z1, Z30, Z1")
		e("VMOVUPS Z1, %s(DI)", mask)
		e("ADDQ $64, DI")
	})
}

// allScales writes groupScales for the types of scales there are.
func allScales() {
	groupScales("F32", "f32", 4, func(mask string) { e("VMOVUPS%s (BX), %sZ0", zeroing(mask), mask) })
	groupScales("F16", "f16", 2, func(mask string) {
		e("VMOVDQU16%s (BX), %sY0", zeroing(mask), mask)
		e("VCVTPH2PS Y0, Z0")
	})
	groupScales("BF16", "bf16", 2, func(mask string) {
		e("VMOVDQU16%s (BX), %sY0", zeroing(mask), mask)
		e("VPMOVZXWD Y0, Z0")
		e("VPSLLD $16, Z0, Z0")
	})
	nestedScales()
}

// nestedScales looks the book's 256 numbers up in registers: by the low five
// bits in eight pairs, then by the other three between these.
func nestedScales() {
	text("scalesNested", "is s[i] = book[src[i]]·outer[(first+i)>>8] + offset, rounded twice.",
		arg{"n", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"first", "int", "R8"}, arg{"book", "*float32", "DX"}, arg{"outer", "*float32", "SI"}, arg{"offset", "float32", "Z31"}, arg{"s", "*float32", "CX"})
	const book, position, sixteen = 8, 30, 29
	for i := range 16 {
		e("VMOVUPS %d(DX), Z%d", 64*i, book+i)
	}
	for i := range 3 {
		e("MOVL $%d, R10", 32<<i)
		e("VPBROADCASTD R10, Z%d", 26+i)
	}
	e("VPBROADCASTD R8, Z%d", position)
	e("VPADDD counting<>(SB), Z%d, Z%d", position, position)
	e("MOVL $16, R10")
	e("VPBROADCASTD R10, Z%d", sixteen)
	vectors(1, func(mask string) {
		if mask != "" {
			e("VMOVDQU8.Z (BX), K1, X0")
			e("VPMOVZXBD X0, Z0")
		} else {
			e("VPMOVZXBD (BX), Z0")
		}
		for i := range 3 {
			e("VPTESTMD Z%d, Z0, K%d", 26+i, 2+i)
		}
		for i := 7; i >= 0; i-- {
			if i > 0 {
				e("VMOVDQA64 Z0, Z%d", i)
			}
			e("VPERMI2PS Z%d, Z%d, Z%d", book+2*i+1, book+2*i, i)
		}
		for i := range 3 {
			for j := 0; j < 8; j += 2 << i {
				e("VMOVAPS Z%d, K%d, Z%d", j+(1<<i), 2+i, j)
			}
		}
		e("MOVQ R8, R10")
		e("SHRQ $8, R10")
		e("VPBROADCASTD R10, Z2")
		e("VPSRLD $8, Z%d, Z1", position)
		e("VPCMPUD $4, Z2, Z1, K5") // those of the next outer scale
		e("VBROADCASTSS (SI)(R10*4), Z1")
		e("VBROADCASTSS 4(SI)(R10*4), K5, Z1")
		e("VMULPS Z1, Z0, Z0")
		e("VADDPS Z31, Z0, Z0")
		e("VMOVUPS Z0, %s(CX)", mask)
		e("VPADDD Z%d, Z%d, Z%d", sixteen, position, position)
		e("ADDQ $16, R8")
	})
}
