package main

import "fmt"

// dots512 writes the tiles of dot products that need no packing: few rows of x
// against rows of a weight (generation), and float64 (the factor).
func dots512() {
	for m := 1; m <= 4; m++ {
		dotTile(m, false)
		dotTile(m, true)
	}
	dotTile64()
}

// dotTile: out[i][j] = Σ x[i]·w[j] for m rows of x and 4 of w.
func dotTile(m int, bf bool) {
	typ, name, what := sourceOf(bf)
	shift := 2
	if bf {
		shift = 1
	}
	text(fmt.Sprintf("dotTile%s%d", name, m), fmt.Sprintf("is out[i][j] = Σ x[i]·w[j] for %d rows of f32 and 4 of %s, k long; leading dimensions in elements.", m, what),
		arg{"k", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"ldx", "int", "CX"}, arg{"w", typ, "SI"}, arg{"ldw", "int", "DI"}, arg{"out", "*float32", "DX"})
	e("SHLQ $2, CX")
	e("SHLQ $%d, DI", shift)
	e("LEAQ (CX)(CX*2), R8")
	e("LEAQ (DI)(DI*2), R9")
	xs := []string{"(BX)", "(BX)(CX*1)", "(BX)(CX*2)", "(BX)(R8*1)"}
	ws := []string{"(SI)", "(SI)(DI*1)", "(SI)(DI*2)", "(SI)(R9*1)"}
	sets := 1
	if m <= 2 { // more sums at a time than one row of x gives
		sets = 2
	}
	acc := func(s, i, j int) int { return (s*m+i)*4 + j }
	for z := range sets * m * 4 {
		e("VPXORD Z%d, Z%d, Z%d", z, z, z)
	}
	loadW := func(j, s int, z int, mask string) {
		if bf {
			e("VPMOVZXWD%s %d%s, %sZ%d", zeroing(mask), 32*s, ws[j], mask, z)
			e("VPSLLD $16, Z%d, Z%d", z, z)
			return
		}
		e("VMOVUPS%s %d%s, %sZ%d", zeroing(mask), 64*s, ws[j], mask, z)
	}
	step := func(s int, mask string) {
		for i := range m {
			e("VMOVUPS%s %d%s, %sZ%d", zeroing(mask), 64*s, xs[i], mask, 24+i)
		}
		for j := range 4 {
			z := 28 + j
			loadW(j, s, z, mask)
			for i := range m {
				e("VFMADD231PS Z%d, Z%d, Z%d", z, 24+i, acc(s%sets, i, j))
			}
		}
	}
	block := 16 * sets
	e("SUBQ $%d, AX", block)
	e("JLT rest")
	e("PCALIGN $64")
	label("loop")
	for s := range sets {
		step(s, "")
	}
	e("ADDQ $%d, BX", 4*block)
	e("ADDQ $%d, SI", block<<shift)
	e("SUBQ $%d, AX", block)
	e("JGE loop")
	label("rest")
	e("ADDQ $%d, AX", block)
	label("tail")
	e("JLE done")
	e("MOVL $-1, R10")
	e("BZHIL AX, R10, R10")
	e("KMOVW R10, K1")
	step(0, "K1, ")
	e("ADDQ $64, BX")
	e("ADDQ $%d, SI", 16<<shift)
	e("SUBQ $16, AX")
	e("JMP tail")
	label("done")
	if sets == 2 {
		for i := range m * 4 {
			e("VADDPS Z%d, Z%d, Z%d", m*4+i, i, i)
		}
	}
	for i := range m {
		for j := range 4 { // 16 lanes to 4
			z := acc(0, i, j)
			e("VEXTRACTF64X4 $1, Z%d, Y24", z)
			e("VADDPS Y24, Y%d, Y%d", z, z)
			e("VEXTRACTF32X4 $1, Y%d, X24", z)
			e("VADDPS X24, X%d, X%d", z, z)
		}
		a := acc(0, i, 0)
		e("VHADDPS X%d, X%d, X%d", a+1, a, a)
		e("VHADDPS X%d, X%d, X%d", a+3, a+2, a+2)
		e("VHADDPS X%d, X%d, X%d", a+2, a, a)
		e("VMOVUPS X%d, %d(DX)", a, 16*i)
	}
	ret()
}

func zeroing(mask string) string {
	if mask == "" {
		return ""
	}
	return ".Z"
}

// dotTile64: c[i][j] = Σ a[i]·b[j] in float64 for 4 rows of each.
func dotTile64() {
	text("dotTile64", "is c[i][j] = Σ a[i]·b[j] for 4 rows of each, k long; leading dimensions in elements.",
		arg{"k", "int", "AX"}, arg{"a", "*float64", "BX"}, arg{"lda", "int", "CX"}, arg{"b", "*float64", "SI"}, arg{"ldb", "int", "DI"},
		arg{"c", "*float64", "DX"}, arg{"ldc", "int", "R11"})
	e("SHLQ $3, CX")
	e("SHLQ $3, DI")
	e("SHLQ $3, R11")
	e("LEAQ (CX)(CX*2), R8")
	e("LEAQ (DI)(DI*2), R9")
	as := []string{"(BX)", "(BX)(CX*1)", "(BX)(CX*2)", "(BX)(R8*1)"}
	bs := []string{"(SI)", "(SI)(DI*1)", "(SI)(DI*2)", "(SI)(R9*1)"}
	for z := range 16 {
		e("VPXORQ Z%d, Z%d, Z%d", z, z, z)
	}
	step := func(mask string) {
		for i := range 4 {
			e("VMOVUPD%s %s, %sZ%d", zeroing(mask), as[i], mask, 16+i)
		}
		for j := range 4 {
			e("VMOVUPD%s %s, %sZ%d", zeroing(mask), bs[j], mask, 20+j)
			for i := range 4 {
				e("VFMADD231PD Z%d, Z%d, Z%d", 20+j, 16+i, 4*i+j)
			}
		}
	}
	e("SUBQ $8, AX")
	e("JLT rest")
	e("PCALIGN $64")
	label("loop")
	step("")
	e("ADDQ $64, BX")
	e("ADDQ $64, SI")
	e("SUBQ $8, AX")
	e("JGE loop")
	label("rest")
	e("ADDQ $8, AX")
	e("JLE done")
	e("MOVL $-1, R10")
	e("BZHIL AX, R10, R10")
	e("KMOVB R10, K1")
	step("K1, ")
	label("done")
	for i := range 4 {
		for j := range 4 { // 8 lanes to 4
			z := 4*i + j
			e("VEXTRACTF64X4 $1, Z%d, Y24", z)
			e("VADDPD Y24, Y%d, Y%d", z, z)
		}
		foldFour(4 * i)
		if i < 3 {
			e("ADDQ R11, DX")
		}
	}
	ret()
}

// foldFour stores the sums of the float64 lanes of registers a … a+3 at DX.
func foldFour(a int) {
	e("VHADDPD Y%d, Y%d, Y%d", a+1, a, a)
	e("VHADDPD Y%d, Y%d, Y%d", a+3, a+2, a+2)
	e("VPERM2F128 $0x20, Y%d, Y%d, Y%d", a+2, a, a+1)
	e("VPERM2F128 $0x31, Y%d, Y%d, Y%d", a+2, a, a+3)
	e("VADDPD Y%d, Y%d, Y%d", a+3, a+1, a)
	e("VMOVUPD Y%d, (DX)", a)
}
