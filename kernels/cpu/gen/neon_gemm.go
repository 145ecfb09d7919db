package main

import "fmt"

// gemmNEON writes the micro-kernels and packers of kernels/cpu for arm64, and
// the register peak.
func gemmNEON() {
	openFor("arm64", "level", "../../internal/level", "probe")
	text("rateFMA", "runs n times 24 independent f32 multiply-adds of 4 lanes.", arg{"n", "int", "AX"})
	for i := range 32 {
		line("VEOR V%d.B16, V%d.B16, V%d.B16", i, i, i)
	}
	label("loop")
	for i := range 24 {
		line("VFMLA V30.S4, V31.S4, V%d.S4", i)
	}
	line("SUBS $1, R0")
	line("BGT loop")
	line("RET")
	save()

	openFor("arm64", "cpu", "..", "gemm")
	for mr := 1; mr <= 6; mr++ {
		microNEON(mr, 16)
		microNEON(mr, 32)
	}
	packRowsNEON()
	widenNEON()
	roundNEON()
	save()
}

// microNEON is an mr×16 tile of a panel of B that is `stride` wide.
func microNEON(mr, stride int) {
	text(fmt.Sprintf("microNEON%dx%d", mr, stride),
		fmt.Sprintf("is a %d×16 tile of f32 of a panel %d wide: c = alpha·a·b, plus c where acc is not 0.", mr, stride), microArgs...)
	line("LSL $2, R4")
	line("MOVD R3, R9")
	for i := range mr {
		line("PRFM (R9), PLDL1KEEP")
		line("ADD R4, R9")
		for j := range 4 {
			line("VEOR V%d.B16, V%d.B16, V%d.B16", 4*i+j, 4*i+j, 4*i+j)
		}
	}
	microLoop(func(u int) {
		rows := lanesNEON(mr, u*mr*4, "R1", 28)
		for j := 0; j < 4; j += 2 {
			line("FLDPQ %d(R2), (F%d, F%d)", u*stride*4+16*j, 24+j, 25+j)
		}
		for i, at := range rows {
			for j := range 4 {
				byElement(false, 4*i+j, 24+j, at[0], at[1])
			}
		}
	}, mr*4, stride*4)
	line("FMOVS alpha+48(FP), F31")
	line("CMP $0, R8")
	line("BEQ plain")
	for i := range mr {
		for j := range 4 {
			line("FMOVQ %d(R3), F%d", 16*j, 24+j)
			byElement(false, 24+j, 4*i+j, 31, 0)
			line("FMOVQ F%d, %d(R3)", 24+j, 16*j)
		}
		line("ADD R4, R3")
	}
	line("RET")
	label("plain")
	for i := range mr {
		for j := range 4 {
			byElement(true, 4*i+j, 4*i+j, 31, 0)
			line("FMOVQ F%d, %d(R3)", 4*i+j, 16*j)
		}
		line("ADD R4, R3")
	}
	line("RET")
}

// packRowsNEON transposes up to 4 rows in squares of 4; a missing row repeats
// the last one.
func packRowsNEON() {
	text("packRows128", "transposes up to 4 rows of k f32, k a multiple of 4. Rows are ldb bytes apart.", rowArgs("k", "*float32")...)
	line("LSL $2, R5")
	for i := range 3 {
		line("ADD R2, R%d, R14", []int{1, 6, 7}[i])
		line("CMP $%d, R3", i+1)
		line("CSEL GT, R14, R%d, R%d", []int{1, 6, 7}[i], 6+i)
	}
	label("loop")
	for i, r := range []int{1, 6, 7, 8} {
		line("VLD1.P 16(R%d), [V%d.S4]", r, i)
	}
	for _, v := range transposeNEON() {
		line("FMOVQ F%d, (R4)", v)
		line("ADD R5, R4")
	}
	line("SUBS $4, R0")
	line("BGT loop")
	line("RET")
}

func widenNEON() {
	text("widenBF16x8", "widens n bf16 to f32, n a multiple of 8.", arg{"n", "int", "AX"}, arg{"src", "*uint16", "BX"}, arg{"dst", "*float32", "CX"})
	label("loop")
	line("VLD1.P 16(R1), [V0.H8]")
	word(0x2e613801, "shll v1.4s, v0.4h, #16")
	word(0x6e613802, "shll2 v2.4s, v0.8h, #16")
	line("VST1.P [V1.S4, V2.S4], 32(R2)")
	line("SUBS $8, R0")
	line("BGT loop")
	line("RET")
}

// roundNEON: bits + 0x7fff + the last kept bit, cut off; NaN stays NaN.
func roundNEON() {
	text("roundBF16x4", "rounds n f32 to the nearest bf16, ties to even; n is a multiple of 4. dst may be src.", arg{"n", "int", "AX"}, arg{"src", "*float32", "BX"}, arg{"dst", "*float32", "CX"})
	for i, c := range []int{1, 0x7fff, 0xffff0000, 0x00400000} {
		line("MOVD $0x%x, R14", c)
		line("VDUP R14, V%d.S4", 16+i)
	}
	label("loop")
	line("VLD1.P 16(R1), [V0.S4]")
	word(0x4e20e401, "fcmeq v1.4s, v0.4s, v0.4s") // ordered: no NaN
	line("VUSHR $16, V0.S4, V2.S4")
	line("VAND V16.B16, V2.B16, V2.B16")
	line("VADD V17.S4, V2.S4, V2.S4")
	line("VADD V0.S4, V2.S4, V2.S4")
	line("VORR V19.B16, V0.B16, V3.B16")
	word3("bsl", 1, 2, 3)
	line("VAND V18.B16, V1.B16, V1.B16")
	line("VST1.P [V1.S4], 16(R2)")
	line("SUBS $4, R0")
	line("BGT loop")
	line("RET")
}
