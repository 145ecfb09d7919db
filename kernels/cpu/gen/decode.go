package main

import "fmt"

// decoders512 writes the decoders of 32-element units. A value is
// float32((base - z)·s) + t: base comes from the code, {s, z, t, 0} from the
// unit. Products are rounded before they are added, as in package block.
func decoders512() {
	out.asm.WriteString("\n")
	interleaves()
	nibbles("Q4_0", "Split", 2, false)
	nibbles("Q4_1", "Split", 4, true)
	nibbles("High", "High", 0, false)
	fiveBits("Q5_0", 2, false)
	fiveBits("Q5_1", 4, true)
	bytes8()
	floats8()
	floats4()
	halves16()
	round16()
	dropRow()
}

// interleaves writes the indices that join two vectors lane by lane.
func interleaves() {
	for half := range 2 { // lane 2j is lane j of the first, lane 2j+1 of the second
		for j := range 8 {
			fmt.Fprintf(&out.asm, "DATA interleave%d<>+%d(SB)/8, $0x%08x%08x\n", half, 8*j, 16+8*half+j, 8*half+j)
		}
		fmt.Fprintf(&out.asm, "GLOBL interleave%d<>(SB), RODATA|NOPTR, $64\n", half)
	}
}

func unitArgs() []arg {
	return []arg{{"units", "int", "AX"}, {"src", "*byte", "BX"}, {"ldb", "int", "CX"}, {"params", "*float32", "DX"}, {"base", "*float32", "SI"}, {"dst", "*float32", "DI"}, {"ldd", "int", "R8"}}
}

var orders = map[string]string{
	"Split": "16 low nibbles, then 16 high ones",
	"Low":   "bytes in order, low nibble first",
	"High":  "bytes in order, high nibble first",
}

// scales loads s, z and t of a unit into Z4, Z5 and Z6: from params, or from
// the front of a block of GGUF, which has an f16 scale and perhaps a minimum.
func scales(front int, minimum bool) {
	if front == 0 {
		for i := range 3 {
			e("VBROADCASTSS %d(DX), Z%d", 4*i, 4+i)
		}
		return
	}
	e("VPBROADCASTW (BX), Y4")
	e("VCVTPH2PS Y4, Z4")
	if minimum {
		e("VPBROADCASTW 2(BX), Y6")
		e("VCVTPH2PS Y6, Z6")
	}
}

// fromBase turns base into the value, in register z.
func fromBase(from, z, front int, minimum bool) {
	if front == 0 {
		e("VSUBPS Z5, Z%d, Z%d", from, z)
		from = z
	}
	e("VMULPS Z4, Z%d, Z%d", from, z)
	if front == 0 || minimum {
		e("VADDPS Z6, Z%d, Z%d", z, z)
	}
}

func frontOf(front int) string {
	if front == 0 {
		return "{s, z, t} are in params."
	}
	return "Scales are in front of the codes; params are not used."
}

// nibbles: the 16 values of a unit make a table that a permutation looks up.
func nibbles(name, order string, front int, minimum bool) {
	text("decode"+name, "decodes units of 32 4-bit codes, "+orders[order]+". Units are ldb bytes apart, their values ldd floats. "+frontOf(front), unitArgs()...)
	e("SHLQ $2, R8")
	e("VMOVUPS (SI), Z31")
	e("VMOVDQU32 interleave0<>(SB), Z30")
	e("VMOVDQU32 interleave1<>(SB), Z29")
	label("loop")
	e("VPMOVZXBD %d(BX), Z0", front)
	scales(front, minimum)
	fromBase(31, 2, front, minimum)
	e("VPSRLD $4, Z0, Z1")
	e("VPERMPS Z2, Z0, Z0") // the low 4 bits of a lane are its index
	e("VPERMPS Z2, Z1, Z1")
	if order == "Split" {
		e("VMOVUPS Z0, (DI)")
		e("VMOVUPS Z1, 64(DI)")
		nextUnit()
		return
	}
	interleave(1, 0, "DI")
	nextUnit()
}

// interleave stores the lanes of first and second in turn.
func interleave(first, second int, to string) {
	e("VMOVAPS Z%d, Z3", first)
	e("VPERMT2PS Z%d, Z30, Z3", second)
	e("VPERMT2PS Z%d, Z29, Z%d", second, first)
	e("VMOVUPS Z3, (%s)", to)
	e("VMOVUPS Z%d, 64(%s)", first, to)
}

func nextUnit() {
	e("ADDQ CX, BX")
	e("ADDQ $16, DX")
	e("ADDQ R8, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

// fiveBits: 32 high bits follow the scales and go before the nibbles.
func fiveBits(name string, front int, minimum bool) {
	text("decode"+name, "decodes units of 32 5-bit codes: high bits, 16 low nibbles, 16 high ones. Units are ldb bytes apart, their values ldd floats. params and base are not used.", unitArgs()...)
	e("SHLQ $2, R8")
	e("MOVL $15, R9")
	e("VPBROADCASTD R9, Z31")
	e("MOVL $16, R9")
	e("VPBROADCASTD R9, Z30")
	e("VCVTDQ2PS Z30, Z29")
	label("loop")
	e("MOVL %d(BX), R9", front)
	e("VPMOVZXBD %d(BX), Z0", front+4)
	scales(front, minimum)
	e("VPSRLD $4, Z0, Z1")
	e("VPANDD Z31, Z0, Z0")
	e("KMOVW R9, K1")
	e("SHRL $16, R9")
	e("KMOVW R9, K2")
	for j := range 2 {
		e("VPORD Z30, Z%d, K%d, Z%d", j, j+1, j)
		e("VCVTDQ2PS Z%d, Z%d", j, j)
		if !minimum {
			e("VSUBPS Z29, Z%d, Z%d", j, j)
		}
		fromBase(j, j, front, minimum)
		e("VMOVUPS Z%d, %d(DI)", j, 64*j)
	}
	nextUnit()
}

func bytes8() {
	text("decodeQ8_0", "decodes units of 32 signed bytes. Units are ldb bytes apart, their values ldd floats. base is not used. "+frontOf(2), unitArgs()...)
	e("SHLQ $2, R8")
	label("loop")
	scales(2, false)
	for j := range 2 {
		e("VPMOVSXBD %d(BX), Z%d", 2+16*j, j)
		e("VCVTDQ2PS Z%d, Z%d", j, j)
		fromBase(j, j, 2, false)
		e("VMOVUPS Z%d, %d(DI)", j, 64*j)
	}
	nextUnit()
}

// floats8: a float8 e4m3 is a half whose exponent is 8 too small, but for its one
// NaN, which would be a number.
func floats8() {
	text("decodeE4M3", "decodes units of 32 float8 e4m3 to their values times s. Units are ldb bytes apart, their values ldd floats. base is not used. {s, …} is in params.", unitArgs()...)
	e("SHLQ $2, R8")
	for i, v := range []int{0xbf80bf80, 0x3f803f80, 0x43800000, 0x7fc00000} { // sign and magnitude, magnitude, 256, NaN
		e("MOVL $0x%x, R9", v)
		e("VPBROADCASTD R9, Z%d", 31-i)
	}
	label("loop")
	e("VBROADCASTSS (DX), Z4")
	for j := range 2 {
		e("VPMOVSXBW %d(BX), Y%d", 16*j, j)
		e("VPSLLW $7, Y%d, Y%d", j, j)
		e("VPANDD Y31, Y%d, Y%d", j, j)
		e("VPANDD Y30, Y%d, Y2", j)
		e("VPCMPEQW Y30, Y2, K%d", j+1)
		e("VCVTPH2PS Y%d, Z%d", j, j)
		e("VMULPS Z29, Z%d, Z%d", j, j)
		e("VPORD Z28, Z%d, K%d, Z%d", j, j+1, j)
		e("VMULPS Z4, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(DI)", j, 64*j)
	}
	nextUnit()
}

// floats4: 16 codes with a scale, 16 with another.
func floats4() {
	text("decodeE2M1", "decodes units of 32 4-bit codes, "+orders["Low"]+", to base times s, of the second half times s of its own. Units are ldb bytes apart, their values ldd floats. {s, s of the second half, …} is in params.", unitArgs()...)
	e("SHLQ $2, R8")
	e("VMOVUPS (SI), Z31")
	e("VMOVDQU32 interleave0<>(SB), Z30")
	e("VMOVDQU32 interleave1<>(SB), Z29")
	label("loop")
	e("VPMOVZXBD (BX), Z0")
	e("VPSRLD $4, Z0, Z1")
	e("VPERMPS Z31, Z0, Z0")
	e("VPERMPS Z31, Z1, Z1")
	e("VMOVAPS Z0, Z3")
	e("VPERMT2PS Z1, Z30, Z3")
	e("VPERMT2PS Z1, Z29, Z0")
	e("VBROADCASTSS (DX), Z4")
	e("VBROADCASTSS 4(DX), Z5")
	e("VMULPS Z4, Z3, Z3")
	e("VMULPS Z5, Z0, Z0")
	e("VMOVUPS Z3, (DI)")
	e("VMOVUPS Z0, 64(DI)")
	nextUnit()
}

// vectors emits a loop over n elements, 16 at a time, the last under mask K1.
func vectors(srcBytes int, step func(mask string)) {
	e("SUBQ $16, AX")
	e("JLT tail")
	label("loop")
	step("")
	e("ADDQ $%d, BX", 16*srcBytes)
	e("ADDQ $64, CX")
	e("SUBQ $16, AX")
	e("JGE loop")
	label("tail")
	e("ADDQ $16, AX")
	e("JLE done")
	e("MOVL $-1, R9")
	e("BZHIL AX, R9, R9")
	e("KMOVW R9, K1")
	step("K1, ")
	label("done")
	ret()
}

func halves16() {
	text("decodeF16", "widens n halves to f32.", arg{"n", "int", "AX"}, arg{"src", "*uint16", "BX"}, arg{"dst", "*float32", "CX"})
	vectors(2, func(mask string) {
		if mask == "" {
			e("VCVTPH2PS (BX), Z0")
			e("VMOVUPS Z0, (CX)")
			return
		}
		e("VMOVDQU16.Z (BX), K1, Y0")
		e("VCVTPH2PS Y0, Z0")
		e("VMOVUPS Z0, K1, (CX)")
	})
}

// round16: bits + 0x7fff + the last kept bit, cut off; NaN stays NaN.
func round16() {
	text("roundBF16x16", "rounds n f32 to the nearest bf16, ties to even. dst may be src.", arg{"n", "int", "AX"}, arg{"src", "*float32", "BX"}, arg{"dst", "*float32", "CX"})
	e("MOVL $1, R9")
	e("VPBROADCASTD R9, Z31")
	e("MOVL $0x7fff, R9")
	e("VPBROADCASTD R9, Z30")
	e("MOVL $0xffff0000, R9")
	e("VPBROADCASTD R9, Z29")
	e("MOVL $0x00400000, R9")
	e("VPBROADCASTD R9, Z28")
	vectors(4, func(mask string) {
		e("VMOVUPS%s (BX), %sZ0", zeroing(mask), mask)
		e("VCMPPS $3, Z0, Z0, K2") // unordered: NaN
		e("VPSRLD $16, Z0, Z1")
		e("VPANDD Z31, Z1, Z1")
		e("VPADDD Z30, Z1, Z1")
		e("VPADDD Z0, Z1, Z1")
		e("VPORD Z28, Z0, K2, Z1")
		e("VPANDD Z29, Z1, Z1")
		e("VMOVUPS Z1, %s(CX)", mask)
	})
}

// dropRow: SplitMix64 of eight counters at a time, two elements to a word, as
// kernels.Drop.
func dropRow() {
	out.asm.WriteString("\n")
	for i := range 8 {
		fmt.Fprintf(&out.asm, "DATA counters<>+%d(SB)/8, $%d\n", 8*i, i)
	}
	out.asm.WriteString("GLOBL counters<>(SB), RODATA|NOPTR, $64\n")
	text("dropRow16", "sets x[i] to x[i]·scale where word i of SplitMix64 from counter on is at least threshold, else to 0.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"counter", "uint64", "R8"}, arg{"threshold", "uint64", "R9"}, arg{"scale", "float32", "Z31"})
	e("MOVQ BX, CX")
	e("VPBROADCASTD R9, Z30")
	for i, c := range []uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb} {
		e("MOVQ $0x%x, R10", c)
		e("VPBROADCASTQ R10, Z%d", 29-i)
	}
	e("VPBROADCASTQ R8, Z0")
	e("VPMULLQ counters<>(SB), Z29, Z1")
	e("VPADDQ Z1, Z0, Z0")
	e("VPSLLQ $3, Z29, Z29")
	vectors(4, func(mask string) {
		e("VMOVDQA64 Z0, Z1")
		for _, s := range []struct{ shift, mul int }{{30, 28}, {27, 27}} {
			e("VPSRLQ $%d, Z1, Z2", s.shift)
			e("VPXORQ Z2, Z1, Z1")
			e("VPMULLQ Z%d, Z1, Z1", s.mul)
		}
		e("VPSRLQ $31, Z1, Z2")
		e("VPXORQ Z2, Z1, Z1")
		e("VPADDQ Z29, Z0, Z0")
		e("VPCMPUD $5, Z30, Z1, K2") // not below
		e("VMOVUPS%s (BX), %sZ3", zeroing(mask), mask)
		e("VMULPS.Z Z31, Z3, K2, Z3")
		e("VMOVUPS Z3, %s(CX)", mask)
	})
}
