package main

import "fmt"

// Products of a weight, as it lies in memory, with up to 16 rows of x that were
// packed: [k][16]. A register holds what one row of the weight gives with all of x,
// its lanes each added up in order of k, as products of packed panels are.

// thinKind is how kernels read a weight.
type thinKind struct {
	name, typ, what string
	bytes           int  // of an element
	pairs           bool // elements are pairs of bf16, as those of x are
}

var thinKinds = []thinKind{
	{"F32", "float32", "", 4, false},
	{"BF16", "uint16", " of bf16", 2, false},
	{"Pairs", "uint16", ", both pairs of bf16", 4, true},
}

// thinRows are the numbers of rows of a weight that kernels exist for.
var thinRows = []int{24, 16, 8}

const (
	thinX     = 24 // register of 16 values of x; and the next
	thinW     = 26 // register of 16 values of a row of the weight on their way
	thinTemps = 24 // of the transposition, eight
)

func thin() {
	open("cpu", "..", "thin")
	for _, kind := range thinKinds {
		for _, rows := range thinRows {
			kind.kernel(rows)
		}
	}
	save()
}

// kernel multiplies some rows of the weight. 16 columns of them are copied
// near while the 16 before are multiplied: rows that lie a power of two apart would
// drive each other from the cache. What is written is y[i][r], four neighbours of a row
// of y at a time.
func (t thinKind) kernel(rows int) {
	half := 64 * rows
	text(fmt.Sprintf("thin%sx%d", t.name, rows),
		fmt.Sprintf("is y[i][r] = Σ x[k][i]·w[r][k] for 16 i and %d rows of w%s, which are ldw bytes apart as those of y are ldy; near is room for %d floats, whole lines.", rows, t.what, 2*half/4),
		arg{"k", "int", "AX"}, arg{"x", "*float32", "CX"}, arg{"w", "*" + t.typ, "SI"}, arg{"ldw", "int", "DX"}, arg{"y", "*float32", "DI"}, arg{"ldy", "int", "BX"}, arg{"near", "*float32", "R9"})
	e("LEAQ %d(R9), R10", half)
	e("MOVQ DX, R11") // from the last row to the next columns of the first
	e("IMULQ $%d, R11", rows)
	e("LEAQ (SI)(R11*1), R12") // what is asked for
	e("NEGQ R11")
	e("ADDQ $%d, R11", 16*t.bytes)
	for z := range rows {
		e("VPXORD Z%d, Z%d, Z%d", z, z, z)
	}
	mask := func() { // of the columns that come, at most 16
		e("MOVL $-1, R13")
		e("MOVL $16, R14")
		e("CMPQ AX, R14")
		e("CMOVQLT AX, R14")
		e("BZHIL R14, R13, R13")
		e("KMOVW R13, K1")
	}
	take := func(r int, to string) {
		if t.bytes == 2 {
			e("VPMOVZXWD.Z (SI), K1, Z%d", thinW)
			e("VPSLLD $16, Z%d, Z%d", thinW, thinW)
		} else {
			e("VMOVUPS.Z (SI), K1, Z%d", thinW)
		}
		e("ADDQ DX, SI")
		e("VMOVAPS Z%d, %d(%s)", thinW, 64*r, to)
	}
	multiply := func(k, x, r int) {
		if t.pairs {
			vdpbf16psBroadcast("R9", 64*r+4*k, x, r)
		} else {
			e("VFMADD231PS.BCST %d(R9), Z%d, Z%d", 64*r+4*k, x, r)
		}
	}
	mask()
	for r := range rows {
		take(r, "R9")
	}
	e("ADDQ R11, SI")
	e("SUBQ $16, AX")
	e("JLE rest")
	e("PCALIGN $64")
	label("loop")
	mask()
	taken := 0
	for k := range 16 {
		e("VMOVUPS %d(CX), Z%d", 64*k, thinX+k%2)
		for r := range rows {
			multiply(k, thinX+k%2, r)
			if done := k*rows + r; done%16 == 7 {
				take(taken, "R10")
				if taken*t.bytes%4 == 0 { // 64 bytes for as many that were taken
					e("PREFETCHT1 (R12)")
					e("ADDQ $64, R12")
				}
				taken++
			}
		}
	}
	e("ADDQ R11, SI")
	e("ADDQ $%d, CX", 16*64)
	e("XCHGQ R9, R10")
	e("SUBQ $16, AX")
	e("JGT loop")
	label("rest")
	e("ADDQ $16, AX")
	label("one")
	e("VMOVUPS (CX), Z%d", thinX)
	for r := range rows {
		multiply(0, thinX, r)
	}
	e("ADDQ $64, CX")
	e("ADDQ $4, R9")
	e("DECQ AX")
	e("JGT one")
	ys := []string{"DI", "R9", "R10", "R11"}
	e("LEAQ (BX)(BX*2), R8")
	for i := 1; i < len(ys); i++ {
		e("LEAQ (%s)(BX*4), %s", ys[i-1], ys[i])
	}
	for r := 0; r < rows; r += 4 {
		t := thinTemps
		e("VUNPCKLPS Z%d, Z%d, Z%d", r+1, r, t)
		e("VUNPCKHPS Z%d, Z%d, Z%d", r+1, r, t+1)
		e("VUNPCKLPS Z%d, Z%d, Z%d", r+3, r+2, t+2)
		e("VUNPCKHPS Z%d, Z%d, Z%d", r+3, r+2, t+3)
		e("VUNPCKLPD Z%d, Z%d, Z%d", t+2, t, t+4)
		e("VUNPCKHPD Z%d, Z%d, Z%d", t+2, t, t+5)
		e("VUNPCKLPD Z%d, Z%d, Z%d", t+3, t+1, t+6)
		e("VUNPCKHPD Z%d, Z%d, Z%d", t+3, t+1, t+7)
		for i := range 4 {
			at := []string{"", "(BX*1)", "(BX*2)", "(R8*1)"}[i]
			e("VMOVUPS X%d, %d(%s)%s", t+4+i, 4*r, ys[0], at)
			for l := 1; l < 4; l++ {
				e("VEXTRACTF32X4 $%d, Z%d, %d(%s)%s", l, t+4+i, 4*r, ys[l], at)
			}
		}
	}
	ret()
}
