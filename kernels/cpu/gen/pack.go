package main

import "fmt"

// packers512 writes the AVX-512 packers. Those of rows transpose: up to 16
// lines of a panel are 16 rows in memory, read 64 bytes at a time; a missing
// row repeats the last one and a short last block is read under a mask, so no
// packer has a scalar edge. They write whole blocks of 16 dwords, 16 lanes
// wide; lanes past the stride are overwritten by the next dword, and the
// caller leaves room after the last one. Those of columns copy rows of a panel.
func packers512() {
	out.asm.WriteString("\n// word 2j is word j of the low half, word 2j+1 word j of the high half\n")
	for j := 0; j < 16; j += 2 {
		fmt.Fprintf(&out.asm, "DATA pairOrder<>+%d(SB)/8, $0x%04x%04x%04x%04x\n", 4*j, 16+j+1, j+1, 16+j, j)
	}
	out.asm.WriteString("GLOBL pairOrder<>(SB), RODATA|NOPTR, $64\n")
	packDwords()
	packRound()
	packWiden()
	for _, nv := range []int{1, 2} {
		for _, bf := range []bool{false, true} {
			packColumns(nv, bf)
			packColumnPairs(nv, bf)
		}
	}
	packNF4Pairs()
	packNF4F32()
}

// transpose turns the dwords of Z0…Z15 (16 rows), with Z16…Z31 as temporaries,
// and returns the register of each column.
func transpose() [16]int {
	r := func(i int) int { return i }
	t := func(i int) int { return 16 + i }
	op := func(s string, a, b, d int) { e("%s Z%d, Z%d, Z%d", s, a, b, d) }
	sh := func(imm string, a, b, d int) { e("VSHUFF32X4 $%s, Z%d, Z%d, Z%d", imm, a, b, d) }
	for i := 0; i < 16; i += 2 {
		op("VUNPCKLPS", r(i+1), r(i), t(i))
		op("VUNPCKHPS", r(i+1), r(i), t(i+1))
	}
	for i := 0; i < 16; i += 4 {
		op("VUNPCKLPD", t(i+2), t(i), r(i))
		op("VUNPCKHPD", t(i+2), t(i), r(i+1))
		op("VUNPCKLPD", t(i+3), t(i+1), r(i+2))
		op("VUNPCKHPD", t(i+3), t(i+1), r(i+3))
	}
	// r(4g+q): lanes L = 0…3 hold column 4L+q of rows 4g…4g+3.
	for q := range 4 {
		sh("0x88", r(4+q), r(q), t(q))
		sh("0xdd", r(4+q), r(q), t(4+q))
		sh("0x88", r(12+q), r(8+q), t(8+q))
		sh("0xdd", r(12+q), r(8+q), t(12+q))
	}
	var o [16]int
	for q := range 4 {
		sh("0x88", t(8+q), t(q), r(q))
		sh("0xdd", t(8+q), t(q), r(4+q))
		sh("0x88", t(12+q), t(4+q), r(8+q))
		sh("0xdd", t(12+q), t(4+q), r(12+q))
		o[q], o[8+q], o[4+q], o[12+q] = r(q), r(4+q), r(8+q), r(12+q)
	}
	return o
}

func store16(order [16]int) {
	for _, z := range order {
		e("VMOVUPS Z%d, (SI)", z)
		e("ADDQ DI, SI")
	}
}

// nextRow advances row pointers {pointer, stride, temporary} after row i, but
// not past the last of the DX rows.
func nextRow(i int, ptrs ...[3]string) {
	if i == 15 {
		return
	}
	for _, p := range ptrs {
		e("LEAQ (%s)(%s*1), %s", p[0], p[1], p[2])
	}
	e("CMPQ DX, $%d", i+1)
	for _, p := range ptrs {
		e("CMOVQGT %s, %s", p[2], p[0])
	}
}

var sourceRow = [3]string{"R8", "CX", "R9"}

func rowArgs(n, src string) []arg {
	return []arg{{n, "int", "AX"}, {"src", src, "BX"}, {"ldb", "int", "CX"}, {"rows", "int", "DX"}, {"dst", "*float32", "SI"}, {"stride", "int", "DI"}}
}

// rowBlocks emits the loop over blocks of `step` units that are `bytes` long in
// memory, full for whole blocks and short for the last one.
func rowBlocks(step, bytes int, full, short func()) {
	e("SHLQ $2, DI")
	e("SUBQ $%d, AX", step)
	e("JLT tail")
	e("PCALIGN $64")
	label("loop")
	full()
	e("ADDQ $%d, BX", bytes)
	e("SUBQ $%d, AX", step)
	e("JGE loop")
	label("tail")
	e("ADDQ $%d, AX", step)
	e("JLE done")
	e("MOVL $-1, R9")
	e("BZHIL AX, R9, R9")
	short()
	label("done")
	ret()
}

func packDwords() {
	text("packRowsDwords", "transposes up to 16 rows of n 16-bit units: bf16 to pairs (n = k) or f32 to f32 (n = 2k). Rows are ldb bytes apart.",
		rowArgs("n", "*uint16")...)
	rowBlocks(32, 64, func() {
		e("MOVQ BX, R8")
		for i := range 16 {
			e("VMOVUPS (R8), Z%d", i)
			nextRow(i, sourceRow)
		}
		store16(transpose())
	}, func() {
		e("KMOVD R9, K1")
		e("MOVQ BX, R8")
		for i := range 16 {
			e("VMOVDQU16.Z (R8), K1, Z%d", i)
			nextRow(i, sourceRow)
		}
		store16(transpose())
	})
}

func packRound() {
	text("packRowsRound", "transposes up to 16 rows of k f32, rounded to bf16, to pairs. Rows are ldb bytes apart.", rowArgs("k", "*float32")...)
	rowBlocks(32, 128, func() {
		e("MOVQ BX, R8")
		for i := range 16 {
			e("VMOVUPS 64(R8), Z%d", i)
			vcvtne2mem("R8", 0, i, i)
			nextRow(i, sourceRow)
		}
		store16(transpose())
	}, func() {
		e("KMOVW R9, K1")
		e("SHRL $16, R9")
		e("KMOVW R9, K2")
		e("MOVQ BX, R8")
		for i := range 16 {
			e("VMOVUPS.Z (R8), K1, Z31")
			e("VMOVUPS.Z 64(R8), K2, Z%d", i)
			vcvtne2(31, i, i)
			nextRow(i, sourceRow)
		}
		store16(transpose())
	})
}

func packWiden() {
	text("packRowsWiden", "transposes up to 16 rows of k bf16, widened to f32. Rows are ldb bytes apart.", rowArgs("k", "*uint16")...)
	load := func(mask string) {
		e("MOVQ BX, R8")
		for i := range 16 {
			if mask == "" {
				e("VPMOVZXWD (R8), Z%d", i)
			} else {
				e("VPMOVZXWD.Z (R8), %s, Z%d", mask, i)
			}
			e("VPSLLD $16, Z%d, Z%d", i, i)
			nextRow(i, sourceRow)
		}
		store16(transpose())
	}
	rowBlocks(16, 32, func() { load("") }, func() {
		e("KMOVW R9, K1")
		load("K1")
	})
}

func columnArgs(src string) []arg {
	return []arg{{"k", "int", "AX"}, {"src", src, "BX"}, {"ldb", "int", "CX"}, {"lanes", "int", "DX"}, {"dst", "*float32", "SI"}, {"stride", "int", "DI"}}
}

// columnMasks sets K1 and K2 to the lanes of the two vectors.
func columnMasks(nv int) {
	e("SHLQ $2, DI")
	e("MOVL $-1, R9")
	e("BZHIL DX, R9, R9")
	e("KMOVW R9, K1")
	if nv == 2 {
		e("SHRL $16, R9")
		e("KMOVW R9, K2")
	}
}

// widenTo loads vector j of the row at base, as f32.
func widenTo(base string, j, z int, bf bool) {
	if bf {
		e("VPMOVZXWD.Z %d(%s), K%d, Z%d", 32*j, base, j+1, z)
		e("VPSLLD $16, Z%d, Z%d", z, z)
		return
	}
	e("VMOVUPS.Z %d(%s), K%d, Z%d", 64*j, base, j+1, z)
}

func sourceOf(bf bool) (typ, name, what string) {
	if bf {
		return "*uint16", "B", "bf16"
	}
	return "*float32", "F", "f32"
}

func packColumns(nv int, bf bool) {
	typ, name, what := sourceOf(bf)
	text(fmt.Sprintf("copyCols%s%d", name, 16*nv), fmt.Sprintf("copies k rows of up to %d %s to f32. Rows are ldb bytes apart.", 16*nv, what), columnArgs(typ)...)
	columnMasks(nv)
	e("MOVQ CX, R10")
	e("SHLQ $3, R10")
	e("ADDQ BX, R10")
	label("loop")
	for j := range nv {
		e("PREFETCHT0 %d(R10)", 64*j)
		widenTo("BX", j, j, bf)
		e("VMOVUPS Z%d, %d(SI)", j, 64*j)
	}
	e("ADDQ CX, BX")
	e("ADDQ CX, R10")
	e("ADDQ DI, SI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

func packColumnPairs(nv int, bf bool) {
	typ, name, what := sourceOf(bf)
	text(fmt.Sprintf("joinPairs%s%d", name, 16*nv), fmt.Sprintf("joins k rows of up to %d %s to pairs of bf16. Rows are ldb bytes apart.", 16*nv, what), columnArgs(typ)...)
	columnMasks(nv)
	e("VMOVDQU64 pairOrder<>(SB), Z31")
	e("LEAQ (BX)(CX*8), R11")
	join := func(second bool) {
		for j := range nv {
			switch {
			case bf:
				e("VPMOVZXWD.Z %d(BX), K%d, Z0", 32*j, j+1)
				if second {
					e("VPMOVZXWD.Z %d(R10), K%d, Z1", 32*j, j+1)
					e("VPSLLD $16, Z1, Z1")
					e("VPORD Z1, Z0, Z0")
				}
			default:
				e("VMOVUPS.Z %d(BX), K%d, Z0", 64*j, j+1)
				if second {
					e("VMOVUPS.Z %d(R10), K%d, Z1", 64*j, j+1)
				} else {
					e("VPXORD Z1, Z1, Z1")
				}
				vcvtne2(0, 1, 0)
				e("VPERMW Z0, Z31, Z0")
			}
			e("VMOVUPS Z0, %d(SI)", 64*j)
		}
	}
	e("SUBQ $2, AX")
	e("JLT tail")
	label("loop")
	e("LEAQ (BX)(CX*1), R10")
	for j := range nv {
		e("PREFETCHT0 %d(R11)", 64*j)
		e("PREFETCHT0 %d(R11)(CX*1)", 64*j)
	}
	join(true)
	e("LEAQ (BX)(CX*2), BX")
	e("LEAQ (R11)(CX*2), R11")
	e("ADDQ DI, SI")
	e("SUBQ $2, AX")
	e("JGE loop")
	label("tail")
	e("ADDQ $2, AX")
	e("JLE done")
	join(false)
	label("done")
	ret()
}

func nf4Args() []arg {
	return append(rowArgs("k", "*byte"), arg{"absmax", "*float32", "R10"}, arg{"lda", "int", "R11"}, arg{"table", "*byte", "R12"}, arg{"room", "*byte", "R13"})
}

var scaleRow = [3]string{"AX", "R11", "R15"}

// packNF4Pairs: per row and block of 64 the 16 values codebook·absmax are
// rounded to bf16 and held twice in a vector (so the fifth bit of VPERMW's
// index does not matter); one VPERMW then gives 32 values in pair order.
func packNF4Pairs() {
	text("packRowsNF4Pairs", "transposes up to 16 rows of k NF4 codes (k a multiple of 64; one absmax a 64, lda floats apart by row) to pairs of bf16. table: 64 bytes each of byte shuffle, word shifts, codebook; room: 1 KB.", nf4Args()...)
	e("SHLQ $2, DI")
	e("SHLQ $2, R11")
	e("PCALIGN $64")
	label("loop")
	for half := range 2 {
		e("MOVQ BX, R8")
		if half == 0 {
			e("MOVQ R10, AX")
			e("VMOVUPS 128(R12), Z29")
		}
		e("VMOVDQU32 (R12), Z31")
		e("VMOVDQU32 64(R12), Z30")
		for i := range 16 {
			e("VBROADCASTI32X4 %d(R8), Z%d", 16*half, i)
			e("VPSHUFB Z31, Z%d, Z%d", i, i)
			e("VPSRLVW Z30, Z%d, Z%d", i, i)
			if half == 0 {
				e("VMULPS.BCST (AX), Z29, Z28")
				vcvtne2(28, 28, 28)
				e("VMOVDQU32 Z28, %d(R13)", 64*i)
				e("VPERMW Z28, Z%d, Z%d", i, i)
				nextRow(i, sourceRow, scaleRow)
			} else {
				e("VPERMW %d(R13), Z%d, Z%d", 64*i, i, i)
				nextRow(i, sourceRow)
			}
		}
		store16(transpose())
	}
	e("ADDQ $32, BX")
	e("ADDQ $4, R10")
	e("SUBQ $64, k+0(FP)")
	e("JGT loop")
	ret()
}

// packNF4F32: 8 bytes to every pair of lanes, shifted a nibble apart; the
// permutation uses the low 4 bits only, and the order of the stores undoes that
// of the lanes.
func packNF4F32() {
	text("packRowsNF4F32", "transposes up to 16 rows of k NF4 codes (k a multiple of 64; one absmax a 64, lda floats apart by row) to f32. table: 64 bytes each of dword shifts, codebook; room is not used.", nf4Args()...)
	e("SHLQ $2, DI")
	e("SHLQ $2, R11")
	e("PCALIGN $64")
	label("loop")
	for quarter := range 4 {
		e("MOVQ BX, R8")
		e("MOVQ R10, AX")
		e("VMOVDQU32 (R12), Z31")
		e("VMOVUPS 64(R12), Z30")
		for i := range 16 {
			e("VBROADCASTI32X2 %d(R8), Z29", 8*quarter)
			e("VPSRLVD Z31, Z29, Z29")
			e("VPERMPS Z30, Z29, Z%d", i)
			e("VMULPS.BCST (AX), Z%d, Z%d", i, i)
			nextRow(i, sourceRow, scaleRow)
		}
		lanes := transpose()
		var order [16]int
		for k := range 16 { // lane 2t is nibble t of the first dword, lane 2t+1 of the second
			order[k] = lanes[k%8*2+k/8]
		}
		store16(order)
	}
	e("ADDQ $32, BX")
	e("ADDQ $4, R10")
	e("SUBQ $64, k+0(FP)")
	e("JGT loop")
	ret()
}
