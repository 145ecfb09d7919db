package main

import "fmt"

// decodeBlocks writes the decoders that take columns of many rows at a time:
// blocks of 256 elements, eight units of 32, and what is in decode_rows.go. A
// value of a block is float32(base·s) + t, where base comes from the code and s
// and t from the block; t only where the type has minima. As there are at most
// 32 values to a scale, they are made once and looked up, but for Q6_K.
func decodeBlocks() {
	open("cpu", "..", "decode_blocks")
	out.asm.WriteString("\n")
	interleaves()
	for _, t := range []struct {
		name   string
		shifts []int
	}{{"byFour", []int{0, 4, 8, 12, 16, 20, 24, 28}}, {"byTwo", []int{0, 2, 4, 6, 8, 10, 12, 14}}, {"highHalf", []int{0, 0, 4, 4}}} {
		for i, s := range t.shifts {
			fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/4, $%d\n", t.name, 4*i, s)
		}
		fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $%d\n", t.name, 4*len(t.shifts))
	}
	blockRows("Q2_K", 8, scalesQ2, []int{15}, unitQ2)
	blockRows("Q3_K", 8, scalesQ3, []int{3, 32, 0x0f0f0f0f, 0x03030303}, unitQ3)
	blockRows("Q4_K", 4, scalesQ4, k4Masks, unitQ4)
	blockRows("Q5_K", 4, scalesQ4, append(k4Masks, 16), unitQ5)
	blockRows("Q6_K", 8, scalesQ6, []int{15, 63, 32}, unitQ6)
	blockRows("IQ4_XS", 4, scalesXS, []int{15, 3, 32}, unitXS)
	for _, scale := range []string{"F16", "BF16", "F32"} {
		groupRows("Int4", scale, 16, nibblesOfGroup)
		groupRows("Int8", scale, 32, bytesOfGroup)
	}
	codebookRows(false)
	codebookRows(true)
	rowsF16()
	save()
}

// blockRows emits the decoder of a type. Constants are in Z31 and down, the table's
// base in Z16 and Z17. scales writes s and t of the block at BX to the room at
// DX; unit decodes the unit whose codes are at R10, shifted by X8, and whose high
// bits are at R11, shifted by X9, with scales at R12, to R13.
func blockRows(name string, scaleStep int, scales func(), constants []int, unit func()) {
	text("decodeRows"+name, "decodes units first, first+1, … of one block of "+name+" of each of some rows. Blocks are ldb bytes apart, their values ldd floats.",
		arg{"rows", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"ldb", "int", "CX"}, arg{"first", "int", ""}, arg{"units", "int", ""},
		arg{"layout", "*blockLayout", "SI"}, arg{"room", "*float32", "DX"}, arg{"dst", "*float32", "DI"}, arg{"ldd", "int", "R8"})
	e("SHLQ $2, R8")
	for i, c := range constants {
		e("MOVL $%d, R9", c)
		e("VPBROADCASTD R9, Z%d", 31-i)
	}
	e("VMOVUPS 256(SI), Z16")
	e("VMOVUPS 320(SI), Z17")
	e("MOVQ first+24(FP), R9")
	e("SHLQ $5, R9")
	e("ADDQ R9, SI")
	label("row")
	scales()
	e("MOVQ first+24(FP), R12")
	e("LEAQ (DX)(R12*%d), R12", scaleStep)
	e("MOVQ units+32(FP), R9")
	e("MOVQ SI, R15")
	e("MOVQ DI, R13")
	label("unit")
	e("MOVQ (R15), R10")
	e("ADDQ BX, R10")
	e("VMOVQ 8(R15), X8")
	e("MOVQ 16(R15), R11")
	e("ADDQ BX, R11")
	e("VMOVQ 24(R15), X9")
	unit()
	e("ADDQ $32, R15")
	e("ADDQ $%d, R12", scaleStep)
	e("ADDQ $128, R13")
	e("DECQ R9")
	e("JGT unit")
	e("ADDQ CX, BX")
	e("ADDQ R8, DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}

// loadHalf broadcasts the f16 at an offset of the block.
func loadHalf(off, z int) {
	e("VPBROADCASTW %d(BX), Y%d", off, z)
	e("VCVTPH2PS Y%d, Z%d", z, z)
}

// loadCodes loads 16 codes, j of two, shifted.
func loadCodes(j, z int) {
	e("VPMOVZXBD %d(R10), Z%d", 16*j, z)
	e("VPSRLD X8, Z%d, Z%d", z, z)
}

// loadHighs loads 16 high bits, j of two, shifted to the left and then back.
func loadHighs(j, left, z int) {
	e("VPMOVZXBD %d(R11), Z%d", 16*j, z)
	e("VPSLLD $%d, Z%d, Z%d", left, z, z)
	e("VPSRLD X9, Z%d, Z%d", z, z)
}

// choose takes the bits of `from` where mask has ones, into z.
func choose(mask, from, z int) { e("VPTERNLOGD $0xd8, Z%d, Z%d, Z%d", mask, from, z) }

// tableOf makes a table of base times the scale at R12 plus the minimum, if there is one.
func tableOf(base, scale, minimum, z int) {
	e("VMULPS.BCST %d(R12), Z%d, Z%d", scale, base, z)
	if minimum > 0 {
		e("VADDPS.BCST %d(R12), Z%d, Z%d", minimum, z, z)
	}
}

func scalesQ2() {
	e("VPMOVZXBD (BX), Z0")
	e("VPANDD Z31, Z0, Z1")
	e("VPSRLD $4, Z0, Z0")
	loadHalf(80, 2)
	loadHalf(82, 3)
	e("VCVTDQ2PS Z0, Z0")
	e("VCVTDQ2PS Z1, Z1")
	e("VMULPS Z2, Z1, Z1")
	e("VMULPS Z3, Z0, Z0")
	e("VPXORD Z2, Z2, Z2")
	e("VSUBPS Z0, Z2, Z0")
	e("VMOVUPS Z1, (DX)")
	e("VMOVUPS Z0, 64(DX)")
}

func unitQ2() {
	for j := range 2 {
		loadCodes(j, j)
		tableOf(16, 4*j, 64+4*j, 2)
		e("VPERMPS Z2, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

func scalesQ3() {
	e("VPBROADCASTQ 96(BX), X0")
	e("VPSRLVD highHalf<>(SB), X0, X0")
	e("VPANDD X29, X0, X0")
	e("VPBROADCASTD 104(BX), X1")
	e("VPSRLVD byTwo<>(SB), X1, X1")
	e("VPANDD X28, X1, X1")
	e("VPSLLD $4, X1, X1")
	e("VPORD X1, X0, X0")
	e("VPMOVZXBD X0, Z0")
	e("VPSUBD Z30, Z0, Z0")
	loadHalf(108, 1)
	e("VCVTDQ2PS Z0, Z0")
	e("VMULPS Z1, Z0, Z0")
	e("VMOVUPS Z0, (DX)")
}

func unitQ3() {
	for j := range 2 {
		loadCodes(j, 2)
		loadHighs(j, 2, j)
		choose(31, 2, j)
		tableOf(16, 4*j, 0, 2)
		e("VPERMPS Z2, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

var k4Masks = []int{0x3f3f3f3f, 0x30303030, 0x0f0f0f0f, -1 << 31}

// scalesQ4: eight scales, then eight minima with their sign turned.
func scalesQ4() {
	e("VPBROADCASTQ 4(BX), X0")
	e("VPBROADCASTD 12(BX), X1")
	e("VPSRLD $2, X0, X2")
	e("VPANDD X30, X2, X2")
	e("VPANDD X31, X0, X0")
	e("VPSRLVD byFour<>(SB), X1, X1")
	e("VPANDD X29, X1, X1")
	e("VPORD X2, X1, X1")
	e("VPUNPCKLDQ X1, X0, X0")
	e("VPMOVZXBD X0, Z0")
	loadHalf(0, 1)
	loadHalf(2, 2)
	e("VPXORD Z28, Z2, Z2")
	e("VSHUFF32X4 $0x44, Z2, Z1, Z1")
	e("VCVTDQ2PS Z0, Z0")
	e("VMULPS Z1, Z0, Z0")
	e("VMOVUPS Z0, (DX)")
}

func unitQ4() {
	tableOf(16, 0, 32, 2)
	for j := range 2 {
		loadCodes(j, j)
		e("VPERMPS Z2, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

func unitQ5() {
	tableOf(16, 0, 32, 2)
	tableOf(17, 0, 32, 3)
	for j := range 2 {
		loadCodes(j, j)
		loadHighs(j, 4, 4)
		choose(27, 4, j)
		e("VPERMI2PS Z3, Z2, Z%d", j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

func scalesQ6() {
	e("VPMOVSXBD 192(BX), Z0")
	loadHalf(208, 1)
	e("VCVTDQ2PS Z0, Z0")
	e("VMULPS Z1, Z0, Z0")
	e("VMOVUPS Z0, (DX)")
}

func unitQ6() {
	for j := range 2 {
		loadCodes(j, 2)
		loadHighs(j, 4, j)
		choose(31, 2, j)
		e("VPANDD Z30, Z%d, Z%d", j, j)
		e("VPSUBD Z29, Z%d, Z%d", j, j)
		e("VCVTDQ2PS Z%d, Z%d", j, j)
		e("VMULPS.BCST %d(R12), Z%d, Z%d", 4*j, j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

func scalesXS() {
	e("VPBROADCASTD 4(BX), Y0")
	e("VPSRLVD byFour<>(SB), Y0, Y0")
	e("VPANDD Y31, Y0, Y0")
	e("VPBROADCASTD 2(BX), Y1")
	e("VPSRLVD byTwo<>(SB), Y1, Y1")
	e("VPANDD Y30, Y1, Y1")
	e("VPSLLD $4, Y1, Y1")
	e("VPORD Y1, Y0, Y0")
	e("VPSUBD Y29, Y0, Y0")
	e("VPBROADCASTW (BX), X1")
	e("VCVTPH2PS X1, Y1")
	e("VCVTDQ2PS Y0, Y0")
	e("VMULPS Y1, Y0, Y0")
	e("VMOVUPS Y0, (DX)")
}

func unitXS() {
	e("VPMOVZXBD (R10), Z0")
	e("VPSRLD $4, Z0, Z1")
	tableOf(16, 0, 0, 2)
	for j := range 2 {
		e("VPERMPS Z2, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}
