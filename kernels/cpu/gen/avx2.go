package main

import "fmt"

// avx2 writes what AVX2 has besides the micro-kernels: packers, conversions and
// decoders. Their counts are multiples of 8; the rest is done in Go.
func avx2() {
	open("cpu", "..", "avx2")
	out.asm.WriteString("\n")
	for i, v := range []uint32{1, 0x7fff, 0xffff0000, 0x00400000} {
		constant256("rounding256", 32*i, v, v, v, v, v, v, v, v)
	}
	out.asm.WriteString("GLOBL rounding256<>(SB), RODATA|NOPTR, $128\n")
	constant256("shiftsLow", 0, 0, 4, 8, 12, 16, 20, 24, 28)
	constant256("shiftsHigh", 0, 4, 0, 12, 8, 20, 16, 28, 24)
	constant256("iota256", 0, 0, 1, 2, 3, 4, 5, 6, 7)
	for _, name := range []string{"shiftsLow", "shiftsHigh", "iota256"} {
		fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $32\n", name)
	}
	packRows256("packRows256", "f32", "*float32", 4, func(y int) { e("VMOVUPS (R8), Y%d", y) })
	packRows256("packRowsRound256", "f32, rounded to bf16,", "*float32", 4, func(y int) {
		e("VMOVUPS (R8), Y%d", y)
		round256(y, 8, 9)
	})
	packRows256("packRowsWiden256", "bf16", "*uint16", 2, func(y int) { widen256("(R8)", y) })
	convert256("roundBF16x8", "rounds n f32 to the nearest bf16, ties to even; n is a multiple of 8. dst may be src.", "*float32", 4, func() {
		e("VMOVUPS (BX), Y0")
		round256(0, 1, 2)
	})
	convert256("roundF16x8", "rounds n f32 to the nearest half, ties to even; n is a multiple of 8. dst may be src.", "*float32", 4, func() {
		e("VMOVUPS (BX), Y0")
		e("VCVTPS2PH $0, Y0, X0")
		e("VCVTPH2PS X0, Y0")
	})
	convert256("widenBF16x8", "widens n bf16 to f32; n is a multiple of 8.", "*uint16", 2, func() { widen256("(BX)", 0) })
	convert256("widenF16x8", "widens n halves to f32; n is a multiple of 8.", "*uint16", 2, func() { e("VCVTPH2PS (BX), Y0") })
	dotTile256()
	decoders256()
	save()
}

// constant256 writes dwords of a symbol from offset at on.
func constant256(name string, at int, v ...uint32) {
	for i, x := range v {
		fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/4, $0x%08x\n", name, at+4*i, x)
	}
}

// convert256 is a loop that puts 8 values into Y0.
func convert256(name, doc, src string, size int, load func()) {
	text(name, doc, arg{"n", "int", "AX"}, arg{"src", src, "BX"}, arg{"dst", "*float32", "CX"})
	label("loop")
	load()
	e("VMOVUPS Y0, (CX)")
	e("ADDQ $%d, BX", 8*size)
	e("ADDQ $32, CX")
	e("SUBQ $8, AX")
	e("JGT loop")
	ret()
}

func widen256(at string, y int) {
	e("VPMOVZXWD %s, Y%d", at, y)
	e("VPSLLD $16, Y%d, Y%d", y, y)
}

// round256: bits + 0x7fff + the last kept bit, cut off; NaN stays NaN.
func round256(y, t, nan int) {
	e("VCMPPS $3, Y%d, Y%d, Y%d", y, y, nan) // unordered
	e("VPSRLD $16, Y%d, Y%d", y, t)
	e("VPAND rounding256<>+0(SB), Y%d, Y%d", t, t)
	e("VPADDD rounding256<>+32(SB), Y%d, Y%d", t, t)
	e("VPADDD Y%d, Y%d, Y%d", y, t, t)
	e("VPOR rounding256<>+96(SB), Y%d, Y%d", y, y)
	e("VBLENDVPS Y%d, Y%d, Y%d, Y%d", nan, y, t, y)
	e("VPAND rounding256<>+64(SB), Y%d, Y%d", y, y)
}

// packRows256 transposes up to 8 rows, whole blocks of 8 only; a missing row
// repeats the last one. load fills a register from (R8).
func packRows256(name, what, src string, size int, load func(y int)) {
	text(name, "transposes up to 8 rows of k "+what+" to f32, k a multiple of 8. Rows are ldb bytes apart.", rowArgs("k", src)...)
	e("SHLQ $2, DI")
	label("loop")
	e("MOVQ BX, R8")
	for i := range 8 {
		load(i)
		if i < 7 {
			e("LEAQ (R8)(CX*1), R9")
			e("CMPQ DX, $%d", i+1)
			e("CMOVQGT R9, R8")
		}
	}
	columns := transposeY()
	for _, y := range columns[:8] {
		e("VMOVUPS Y%d, (SI)", y)
		e("ADDQ DI, SI")
	}
	e("ADDQ $%d, BX", 8*size)
	e("SUBQ $8, AX")
	e("JGT loop")
	ret()
}

// dotTile256: c[i][j] = Σ a[i]·b[j] in float64 for 2 rows of a and 4 of b.
func dotTile256() {
	text("dotTile256", "is c[i][j] = Σ a[i]·b[j] for 2 rows of a and 4 of b, k a multiple of 4; leading dimensions in elements.",
		arg{"k", "int", "AX"}, arg{"a", "*float64", "BX"}, arg{"lda", "int", "CX"}, arg{"b", "*float64", "SI"}, arg{"ldb", "int", "DI"},
		arg{"c", "*float64", "DX"}, arg{"ldc", "int", "R11"})
	for _, r := range []string{"CX", "DI", "R11"} {
		e("SHLQ $3, %s", r)
	}
	e("LEAQ (DI)(DI*2), R9")
	for y := range 8 {
		e("VXORPD Y%d, Y%d, Y%d", y, y, y)
	}
	label("loop")
	e("VMOVUPD (BX), Y8")
	e("VMOVUPD (BX)(CX*1), Y9")
	for j, at := range []string{"(SI)", "(SI)(DI*1)", "(SI)(DI*2)", "(SI)(R9*1)"} {
		e("VMOVUPD %s, Y%d", at, 10+j)
		e("VFMADD231PD Y%d, Y8, Y%d", 10+j, j)
		e("VFMADD231PD Y%d, Y9, Y%d", 10+j, 4+j)
	}
	e("ADDQ $32, BX")
	e("ADDQ $32, SI")
	e("SUBQ $4, AX")
	e("JGT loop")
	for i := range 2 {
		foldFour(4 * i)
		e("ADDQ R11, DX")
	}
	ret()
}
