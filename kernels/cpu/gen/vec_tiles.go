package main

import "fmt"

// rows writes y[j] = Σ q·k[j], four rows of k at a time.
func (l *loop) rows() {
	text("dotRows"+l.name, "is y[j] = Σ q·k[j] for n rows of k, n a multiple of 4, ldk elements apart, each d long.",
		arg{"d", "int", "R13"}, arg{"q", "*float32", "BX"}, arg{"k", "*float32", "CX"}, arg{"ldk", "int", "DX"}, arg{"n", "int", "R12"}, arg{"y", "*float32", "SI"})
	if l.reg == 'V' {
		rowsNEON()
		return
	}
	e("SHLQ $2, DX")
	e("LEAQ (DX)(DX*2), DI")
	label("rows")
	e("MOVQ BX, R9")
	e("MOVQ CX, R10")
	e("MOVQ R13, AX")
	for i := range 4 {
		l.zero(i)
	}
	ks := []string{"(R10)", "(R10)(DX*1)", "(R10)(DX*2)", "(R10)(DI*1)"}
	body := func(zeroing, mask string) {
		e("VMOVUPS%s (R9), %s%s", zeroing, mask, l.r(4))
		for i, k := range ks {
			if mask == "" {
				e("VFMADD231PS %s, %s, %s", k, l.r(4), l.r(i))
				continue
			}
			e("VMOVUPS.Z %s, %s%s", k, mask, l.r(5))
			l.fma(4, 5, i)
		}
	}
	e("SUBQ $%d, AX", l.w)
	e("JLT tail")
	label("cols")
	body("", "")
	e("ADDQ $%d, R9", 4*l.w)
	e("ADDQ $%d, R10", 4*l.w)
	e("SUBQ $%d, AX", l.w)
	e("JGE cols")
	label("tail")
	if l.reg == 'Z' {
		e("ADDQ $%d, AX", l.w)
		e("JLE fold")
		e("MOVL $-1, R11")
		e("BZHIL AX, R11, R11")
		e("KMOVW R11, K1")
		body(".Z", "K1, ")
		label("fold")
		for i := range 4 {
			e("VEXTRACTF64X4 $1, Z%d, Y5", i)
			e("VADDPS Y5, Y%d, Y%d", i, i)
		}
	}
	e("VHADDPS Y1, Y0, Y0")
	e("VHADDPS Y3, Y2, Y2")
	e("VHADDPS Y2, Y0, Y0")
	e("VEXTRACTF128 $1, Y0, X1")
	e("VADDPS X1, X0, X0")
	e("VMOVUPS X0, (SI)")
	e("ADDQ $16, SI")
	e("LEAQ (CX)(DX*4), CX")
	e("SUBQ $4, R12")
	e("JGT rows")
	ret()
}

// tiles writes the products of small matrices: C [mr, nv vectors] = A·B or
// C += A·B. B has rows of nv vectors ldb apart; A has rows lda apart (N) or is
// transposed (T). Nothing is packed.
func tiles() {
	for _, t := range []bool{false, true} {
		for mr := 1; mr <= 12; mr++ {
			tile(isas[0], mr, 1, t, false)
			tile(isas[0], mr, 2, t, false)
		}
		for mr := 1; mr <= 6; mr++ {
			tile(isas[1], mr, 2, t, false)
		}
	}
}

// tileText begins a tile; leading dimensions are then in bytes.
func tileText(name string, mr, nr int) {
	text(name, fmt.Sprintf("is C [%d, %d] = A·B (acc 0) or C += A·B.", mr, nr),
		arg{"k", "int", "AX"}, arg{"a", "*float32", "BX"}, arg{"lda", "int", "CX"}, arg{"b", "*float32", "SI"}, arg{"ldb", "int", "DI"},
		arg{"c", "*float32", "DX"}, arg{"ldc", "int", "R11"}, arg{"acc", "int", "R12"})
	for _, r := range []string{"CX", "DI", "R11"} {
		e("SHLQ $2, %s", r)
	}
}

// tile writes one tile; with pairs an element of A and B is a pair of bf16.
func tile(i isa, mr, nv int, ta, pairs bool) {
	l := &loop{isa: i}
	kind := "N"
	if ta {
		kind = "T"
	}
	name := i.name
	mulAdd := l.fma
	if pairs {
		name, mulAdd = "Pairs", vdpbf16ps
	}
	tileText(fmt.Sprintf("tile%s%s%dx%d", kind, name, mr, nv*i.w), mr, nv*i.w)
	acc := func(r, j int) int { return r*nv + j }
	b := func(j int) int { return mr*nv + j }
	bcast := func(r int) int { return mr*nv + nv + r%2 }
	for z := range mr * nv {
		l.zero(z)
	}
	bases := []string{"BX", "R8", "R9", "R10"}
	if !ta {
		for g := 1; 3*g < mr; g++ {
			e("LEAQ (%s)(CX*2), %s", bases[g-1], bases[g])
			e("ADDQ CX, %s", bases[g])
		}
	}
	step := func() {
		for j := range nv {
			e("VMOVUPS %d(SI), %s", 4*i.w*j, l.r(b(j)))
		}
		for r := range mr {
			at := fmt.Sprintf("%d(BX)", 4*r)
			if !ta {
				at = []string{"(%s)", "(%s)(CX*1)", "(%s)(CX*2)"}[r%3]
				at = fmt.Sprintf(at, bases[r/3])
			}
			e("VBROADCASTSS %s, %s", at, l.r(bcast(r)))
			for j := range nv {
				mulAdd(bcast(r), b(j), acc(r, j))
			}
		}
		e("ADDQ DI, SI")
		if ta {
			e("ADDQ CX, BX")
			return
		}
		for g := 0; 3*g < mr; g++ {
			e("ADDQ $4, %s", bases[g])
		}
	}
	e("TESTQ AX, AX")
	e("JLE store")
	e("PCALIGN $32")
	label("loop")
	step()
	e("DECQ AX")
	e("JGT loop")
	label("store")
	e("TESTQ R12, R12")
	e("JZ write")
	e("MOVQ DX, R13")
	for r := range mr {
		for j := range nv {
			e("VADDPS %d(R13), %s, %s", 4*i.w*j, l.r(acc(r, j)), l.r(acc(r, j)))
		}
		e("ADDQ R11, R13")
	}
	label("write")
	for r := range mr {
		for j := range nv {
			e("VMOVUPS %s, %d(DX)", l.r(acc(r, j)), 4*i.w*j)
		}
		e("ADDQ R11, DX")
	}
	ret()
}

// transposes writes 16 rows of a multiple of 16 columns turned around, and the
// same of 8 for AVX2.
func transposes() {
	args := []arg{{"cols", "int", "AX"}, {"src", "*float32", "BX"}, {"lds", "int", "CX"}, {"dst", "*float32", "DX"}, {"ldd", "int", "SI"}}
	text("transpose16", "is dst[j][i] = src[i][j] for 16 rows and cols columns, a multiple of 16.", args...)
	turn(16, func() [16]int { return transpose() })
	text("transposeVec", "is dst[j][i] = src[i][j] for 8 rows and cols columns, a multiple of 8.", args...)
	turn(8, transposeY)
}

func turn(n int, f func() [16]int) {
	reg := "Z"
	if n == 8 {
		reg = "Y"
	}
	e("SHLQ $2, CX")
	e("SHLQ $2, SI")
	label("loop")
	e("MOVQ BX, R8")
	for i := range n {
		e("VMOVUPS (R8), %s%d", reg, i)
		e("ADDQ CX, R8")
	}
	cols := f()
	for _, z := range cols[:n] {
		e("VMOVUPS %s%d, (DX)", reg, z)
		e("ADDQ SI, DX")
	}
	e("ADDQ $%d, BX", 4*n)
	e("SUBQ $%d, AX", n)
	e("JGT loop")
	ret()
}

// transposeY turns the 8×8 of Y0 … Y7 around, using Y8 … Y15, and returns the
// register of each column.
func transposeY() (o [16]int) {
	op := func(s string, a, b, d int) { e("%s Y%d, Y%d, Y%d", s, a, b, d) }
	for i := 0; i < 8; i += 2 {
		op("VUNPCKLPS", i+1, i, 8+i)
		op("VUNPCKHPS", i+1, i, 9+i)
	}
	for i := 0; i < 8; i += 4 {
		op("VUNPCKLPD", 10+i, 8+i, i)
		op("VUNPCKHPD", 10+i, 8+i, i+1)
		op("VUNPCKLPD", 11+i, 9+i, i+2)
		op("VUNPCKHPD", 11+i, 9+i, i+3)
	}
	for q := range 4 {
		e("VPERM2F128 $0x20, Y%d, Y%d, Y%d", 4+q, q, 8+q)
		e("VPERM2F128 $0x31, Y%d, Y%d, Y%d", 4+q, q, 12+q)
		o[q], o[4+q] = 8+q, 12+q
	}
	return o
}
