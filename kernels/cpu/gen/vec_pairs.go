package main

import (
	"fmt"
	"math"
)

// pairs writes what attention in bf16 needs of package vec: products of pairs,
// and the softmax and its gradient, whose results are such pairs. A dword that
// holds two bf16 is passed as a float32.
func pairs() {
	open("vec", "../internal/vec", "pairs")
	for _, t := range []bool{false, true} {
		for mr := 1; mr <= 12; mr++ {
			tile(isas[0], mr, 1, t, true)
			tile(isas[0], mr, 2, t, true)
		}
	}
	l := &loop{isa: isas[0]}
	l.soften()
	l.softenGrad()
	joinRows()
	fmt.Fprintln(&out.asm)
	for i := range 16 {
		fmt.Fprintf(&out.asm, "DATA pairOrder<>+%d(SB)/4, $0x%08x\n", 4*i, (16+i)<<16|i)
	}
	fmt.Fprintln(&out.asm, "GLOBL pairOrder<>(SB), RODATA|NOPTR, $64")
	writeConstants()
	save()
}

// exp2Poly is 2ˣ for |x| ≤ 1/2 with a relative error of 2.6e-6, highest power first.
var exp2Poly = [5]float32{0.009570102207362652, 0.05591785907745361, 0.240247443318367, 0.6931217908859253, 0.9999992847442627}

// prepareExp2 loads the polynomial into registers 27 to 31.
func (l *loop) prepareExp2() {
	for i, c := range exp2Poly {
		l.constant(c, 27+i)
	}
}

// exp2 puts 2ˣ of register x into p, 0 where mask is dead; x and n are spoiled.
func (l *loop) exp2(x, p, n int, mask string) {
	e("VRNDSCALEPS $0, Z%d, Z%d", x, n)
	l.sub(x, n, x)
	l.move(27, p)
	for i := range 4 {
		l.op("VFMADD213PS", 28+i, x, p)
	}
	e("VSCALEFPS%s Z%d, Z%d, %sZ%d", zeroing(mask), n, p, mask, p)
}

// soften writes the online softmax of rows of scores (see vec.SoftRow).
func (l *loop) soften() {
	text("softenPairs", "is Soften for n columns, a multiple of 32.",
		arg{"m", "int", "AX"}, arg{"n", "int", "R12"}, arg{"p", "*uint16", "BX"}, arg{"s", "*float32", "CX"}, arg{"ld", "int", "DX"},
		arg{"rows", "*SoftRow", "SI"}, l.scalar("scale", 0))
	e("SHLQ $1, DX")
	l.prepareExp2()
	l.constant(float32(math.Inf(-1)), 26)
	columns := func(name string, body func()) {
		e("MOVQ CX, R9")
		e("MOVQ SI, R10")
		e("MOVQ R12, DI")
		label(name)
		e("KMOVW (R10), K1")
		e("KMOVW 2(R10), K2")
		body()
		e("ADDQ $128, R9")
		e("ADDQ $4, R10")
		e("SUBQ $32, DI")
		e("JGT %s", name)
	}
	label("rows")
	e("VBROADCASTSS 16(SI), Z6")
	l.move(26, 7)
	l.move(26, 8)
	columns("largest", func() {
		e("VMAXPS (R9), Z7, K1, Z7")
		e("VMAXPS 64(R9), Z8, K2, Z8")
	})
	l.op("VMAXPS", 8, 7, 7)
	e("VEXTRACTF64X4 $1, Z7, Y8")
	e("VMAXPS Y8, Y7, Y7")
	e("VEXTRACTF128 $1, Y7, X8")
	e("VMAXPS X8, X7, X7")
	e("VPERMILPS $0x4e, X7, X8")
	e("VMAXPS X8, X7, X7")
	e("VPERMILPS $0xb1, X7, X8")
	e("VMAXPS X8, X7, X7")
	e("VBROADCASTSS X7, Z7")
	l.mul(0, 7, 7)
	l.op("VMAXPS", 6, 7, 7)
	l.sub(6, 7, 8)
	l.exp2(8, 9, 10, "")
	e("VMOVSS X7, 16(SI)")
	e("VMOVSS X9, 24(SI)")
	e("VMULSS 20(SI), X9, X10")
	l.zero(11)
	l.zero(12)
	e("MOVQ BX, R13")
	columns("weights", func() {
		for i := range 2 {
			e("VMOVUPS %d(R9), Z%d", 64*i, 13+i)
			l.op("VFMSUB213PS", 7, 0, 13+i)
			l.exp2(13+i, 15+i, 17+i, fmt.Sprintf("K%d, ", 1+i))
			l.add(15+i, 11+i, 11+i)
		}
		vcvtne2(15, 16, 19)
		e("VMOVDQU64 Z19, (R13)")
		e("ADDQ $64, R13")
	})
	l.add(12, 11, 11)
	e("VEXTRACTF64X4 $1, Z11, Y12")
	e("VADDPS Y12, Y11, Y11")
	e("VEXTRACTF128 $1, Y11, X12")
	e("VADDPS X12, X11, X11")
	e("VPERMILPS $0x4e, X11, X12")
	e("VADDPS X12, X11, X11")
	e("VPERMILPS $0xb1, X11, X12")
	e("VADDPS X12, X11, X11")
	e("VADDSS X10, X11, X11")
	e("VMOVSS X11, 20(SI)")
	e("LEAQ (CX)(DX*2), CX")
	e("ADDQ DX, BX")
	e("ADDQ $32, SI")
	e("DECQ AX")
	e("JGT rows")
	ret()
}

// softenGrad writes the weights once more and the gradient of the scores, two
// rows at a time (see vec.GradRow).
func (l *loop) softenGrad() {
	text("softenGradPairs", "is SoftenGrad for n columns, a multiple of 16, and m rows, a multiple of 2.",
		arg{"m", "int", "AX"}, arg{"n", "int", "R12"}, arg{"pp", "*float32", "BX"}, arg{"dsp", "*float32", "CX"}, arg{"ds", "*uint16", "DX"},
		arg{"s", "*float32", "SI"}, arg{"d", "*float32", "DI"}, arg{"ld", "int", "R10"}, arg{"rows", "*GradRow", "R9"},
		l.scalar("scale", 0), l.scalar("slope", 1))
	e("SHLQ $1, R10")
	e("MOVQ R10, R11")
	e("SHLQ $1, R10")
	e("MOVQ R12, R13")
	e("SHLQ $2, R13")
	l.prepareExp2()
	e("VMOVDQU64 pairOrder<>+0(SB), Z26")
	label("rows")
	for i := range 2 {
		e("VBROADCASTSS %d(R9), Z%d", 24*i+16, 2+i) // log-sum-exp
		e("VBROADCASTSS %d(R9), Z%d", 24*i+20, 4+i) // delta
	}
	e("MOVQ R12, R8")
	label("columns")
	for i, row := range []string{"", "(R10*1)"} {
		k := fmt.Sprintf("K%d, ", 1+i)
		e("KMOVW %d(R9), K%d", 24*i, 1+i)
		e("VMOVUPS (SI)%s, Z%d", row, 6+i)
		l.op("VFMSUB213PS", 2+i, 0, 6+i)
		l.exp2(6+i, 8+i, 10+i, k)
		e("VMOVUPS (DI)%s, Z%d", row, 12+i)
		l.sub(12+i, 4+i, 12+i)
		l.mul(8+i, 12+i, 12+i)
		e("VMULPS.Z Z1, Z%d, %sZ%d", 12+i, k, 12+i)
	}
	vcvtne2(8, 9, 14)
	e("VPERMW Z14, Z26, Z14")
	e("VMOVDQU64 Z14, (BX)")
	vcvtne2(12, 13, 15)
	e("VMOVDQU Y15, (DX)")
	e("VEXTRACTI64X4 $1, Z15, (DX)(R11*1)")
	e("VPERMW Z15, Z26, Z15")
	e("VMOVDQU64 Z15, (CX)")
	for _, r := range []string{"BX", "CX", "SI", "DI"} {
		e("ADDQ $64, %s", r)
	}
	e("ADDQ $32, DX")
	e("ADDQ $2, R9")
	e("SUBQ $16, R8")
	e("JGT columns")
	for _, r := range []string{"BX", "CX"} {
		e("ADDQ R10, %s", r)
		e("SUBQ R13, %s", r)
	}
	for _, r := range []string{"SI", "DI"} {
		e("LEAQ (%s)(R10*2), %s", r, r)
		e("SUBQ R13, %s", r)
	}
	e("MOVQ R13, R8")
	e("SHRQ $1, R8")
	e("ADDQ R10, DX")
	e("SUBQ R8, DX")
	e("SHRQ $4, R8") // the masks of n columns
	e("SUBQ R8, R9")
	e("ADDQ $48, R9")
	e("SUBQ $2, AX")
	e("JGT rows")
	ret()
}

// joinRows writes the interleaving of two rows of bf16.
func joinRows() {
	text("joinRowsPairs", "is dst[j][c] = src[2j][c], src[2j+1][c] for n pairs of rows of cols columns, a multiple of 16; leading dimensions in elements.",
		arg{"n", "int", "AX"}, arg{"cols", "int", "R12"}, arg{"src", "*uint16", "BX"}, arg{"lds", "int", "CX"}, arg{"dst", "*float32", "DX"}, arg{"ldd", "int", "SI"})
	e("SHLQ $1, CX")
	e("SHLQ $2, SI")
	label("rows")
	e("LEAQ (BX)(CX*1), R10")
	e("XORQ R8, R8")
	e("MOVQ R12, R9")
	label("columns")
	e("VPMOVZXWD (BX)(R8*1), Z0")
	e("VPMOVZXWD (R10)(R8*1), Z1")
	e("VPSLLD $16, Z1, Z1")
	e("VPORD Z0, Z1, Z0")
	e("VMOVDQU32 Z0, (DX)(R8*2)")
	e("ADDQ $32, R8")
	e("SUBQ $16, R9")
	e("JGT columns")
	e("LEAQ (BX)(CX*2), BX")
	e("ADDQ SI, DX")
	e("DECQ AX")
	e("JGT rows")
	ret()
}
