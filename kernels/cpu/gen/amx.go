package main

import "fmt"

// The Go assembler has no AMX: its instructions are written as VEX bytes (Intel
// SDM volume 2, section 2.3.5 and chapter 3.2 of the instruction set extensions
// reference), which the tests of this package decode and compare with gas.

// vex encodes VEX.128.pp.0F38.W0 op /r. pp: 0 = none, 2 = F3, 3 = F2, as in
// VEX's own two bits: 0, 1 = 66, 2, 3. vvvv < 0: no second source.
func vex(asm string, pp, op, reg, vvvv int, m operand) {
	inv := func(b int) int { return (b >> 3 & 1) ^ 1 }
	p1 := inv(reg)<<7 | inv(m.index)<<6 | inv(m.base)<<5 | 2
	p2 := (^max(vvvv, 0)&15)<<3 | pp
	raw(append([]byte{0xc4, byte(p1), byte(p2), byte(op)}, m.modrm(reg)...), asm)
}

// operand is the last operand: a register, or disp(base), with an index where
// it is not the number of SP.
type operand struct {
	register          bool
	base, index, disp int
}

const noIndex = 4

// inTile is a tile register.
func inTile(n int) operand { return operand{register: true, base: n} }

// at is disp(base)(index*1).
func at(base, index string, disp int) operand {
	return operand{base: gp[base], index: gp[index], disp: disp}
}

// modrm is the bytes after the opcode.
func (m operand) modrm(reg int) []byte {
	if m.register {
		return []byte{byte(3<<6 | (reg&7)<<3 | m.base&7)}
	}
	mod, tail := 0, []byte(nil)
	switch {
	case m.disp == 0 && m.base&7 != 5:
	case m.disp >= -128 && m.disp < 128:
		mod, tail = 1, []byte{byte(m.disp)}
	default:
		mod, tail = 2, []byte{byte(m.disp), byte(m.disp >> 8), byte(m.disp >> 16), byte(m.disp >> 24)}
	}
	rest := append([]byte{byte((m.index&7)<<3 | m.base&7)}, tail...)
	return append([]byte{byte(mod<<6 | (reg&7)<<3 | 4)}, rest...)
}

func ldtilecfg(base string) {
	m := operand{base: gp[base], index: noIndex}
	b := m.modrm(0)
	if gp[base]&7 != 4 { // no index byte is needed
		b = []byte{byte(gp[base] & 7)}
	}
	inv := (gp[base]>>3 ^ 1) << 5
	raw(append([]byte{0xc4, byte(0xc2 | inv), 0x78, 0x49}, b...), fmt.Sprintf("LDTILECFG 0(%s)", base))
}

func tilerelease() { raw([]byte{0xc4, 0xe2, 0x78, 0x49, 0xc0}, "TILERELEASE") }

func tilezero(t int) { vex(fmt.Sprintf("TILEZERO T%d", t), 3, 0x49, t, -1, inTile(0)) }

// tileload loads 64 bytes from each of the tile's rows, index bytes apart.
func tileload(base, index string, disp, t int) {
	vex(fmt.Sprintf("TILELOADD %d(%s)(%s*1), T%d", disp, base, index, t), 3, 0x4b, t, -1, at(base, index, disp))
}

func tilestore(t int, base, index string, disp int) {
	vex(fmt.Sprintf("TILESTORED T%d, %d(%s)(%s*1)", t, disp, base, index), 2, 0x4b, t, -1, at(base, index, disp))
}

// tdpbf16ps adds the products of the bf16 pairs of a's rows and b's columns to acc.
func tdpbf16ps(b, a, acc int) {
	vex(fmt.Sprintf("TDPBF16PS T%d, T%d, T%d", b, a, acc), 2, 0x5c, acc, b, inTile(a))
}

// Places of a configuration of tiles (palette 1) at the bottom of the stack:
// every tile has rows of 64 bytes, and byte i of the rows' word is how many tile i has.
const (
	configWidths = 16
	configRows   = 48
	configSize   = 64
)

// configure puts a configuration with all rows on the stack, whose first bytes
// are its own, and loads it. It spoils AX and Z0.
func configure() {
	e("VPXORD Z0, Z0, Z0")
	e("VMOVDQU64 Z0, 0(SP)")
	e("MOVB $1, 0(SP)")
	e("MOVQ $0x0040004000400040, AX")
	e("MOVQ AX, %d(SP)", configWidths)
	e("MOVQ AX, %d(SP)", configWidths+8)
	e("MOVQ $0x1010101010101010, AX")
	e("MOVQ AX, %d(SP)", configRows)
	e("LEAQ 0(SP), AX")
	ldtilecfg("AX")
}

// rateTiles is rate for tiles: four sums, as products have.
func rateTiles() {
	textWith(configSize, "rateAMX", "runs n times 4 products of tiles of 16 rows of bf16 pairs.", arg{"n", "int", "CX"})
	configure()
	for i := range 8 {
		tilezero(i)
	}
	e("PCALIGN $64")
	label("loop")
	for i := range 4 {
		tdpbf16ps(6+i%2, 4+i/2, i)
	}
	e("DECQ CX")
	e("JGT loop")
	tilerelease()
	ret()
}

// cpuidOf is for what package cpu of x/sys does not tell.
func cpuidOf() {
	text("cpuid", "writes registers A, B, C and D of a leaf to out.",
		arg{"leaf", "int", "AX"}, arg{"sub", "int", "CX"}, arg{"out", "*uint32", "SI"})
	e("CPUID")
	for i, r := range []string{"AX", "BX", "CX", "DX"} {
		e("MOVL %s, %d(SI)", r, 4*i)
	}
	e("RET")
}

// amx writes products of bf16 on tiles, and the packers that they need.
func amx() {
	open("vec", "../internal/vec", "amx")
	tileProduct("tileProduct", "is the product that t describes.", 1)
	tileProduct("tileProduct3", "is tileProduct where three tiles of A, one after another, go with each of B.", 3)
	tileRowsOf("BF16", "*uint16", "bf16", 64, func(at, z int, masked bool) {
		if masked {
			e("VMOVDQU16.Z %d(R8), K1, Z%d", at, z)
		} else {
			e("VMOVDQU64 %d(R8), Z%d", at, z)
		}
	})
	tileRowsOf("F32", "*float32", "f32, rounded to bf16", 128, func(at, z int, masked bool) {
		if masked {
			e("VMOVUPS.Z %d(R8), K1, Z16", at)
			e("VMOVUPS.Z %d(R8), K2, Z%d", at+64, z)
			vcvtne2(16, z, z)
		} else {
			e("VMOVUPS %d(R8), Z%d", at+64, z)
			vcvtne2mem("R8", at, z, z)
		}
	})
	tilePieces()
	finish()
	save()
}

// tilePieces packs float32 as three numbers of 8 bits, which are its bits from the
// first on and whose sum it is.
func tilePieces() {
	text("tileRowsPieces", "takes k f32 of up to 16 rows, ldb bytes apart, to pieces in tiles: dst[k/32][piece][row][k%32], zeros after the last.",
		arg{"k", "int", "AX"}, arg{"src", "*float32", "BX"}, arg{"ldb", "int", "CX"}, arg{"rows", "int", "DX"}, arg{"dst", "*float32", "SI"})
	const high, middle, low, mask = 0, 2, 4, 16 // two of each but the last
	e("MOVL $0xffff0000, R9")
	e("VPBROADCASTD R9, Z%d", mask)
	label("step")
	e("MOVL $-1, R9")
	e("CMPQ AX, $32")
	e("JGE whole")
	e("BZHIL AX, R9, R9")
	label("whole")
	e("KMOVW R9, K1")
	e("SHRL $16, R9")
	e("KMOVW R9, K2")
	e("MOVQ BX, R8")
	e("MOVQ SI, R9")
	e("MOVQ DX, R10")
	label("row")
	for i := range 2 {
		e("VMOVUPS.Z %d(R8), K%d, Z%d", 64*i, 1+i, low+i)
		for _, piece := range []int{high, middle} {
			e("VPANDD Z%d, Z%d, Z%d", mask, low+i, piece+i)
			e("VSUBPS Z%d, Z%d, Z%d", piece+i, low+i, low+i)
			if piece == high { // what is not finite leaves nothing
				e("VCMPPS $7, Z%d, Z%d, K3", low+i, low+i)
				e("VMOVAPS.Z Z%d, K3, Z%d", low+i, low+i)
			}
		}
	}
	for i, piece := range []int{high, middle, low} {
		vcvtne2(piece, piece+1, piece)
		e("VMOVDQU64 Z%d, %d(R9)", piece, 1024*i)
	}
	e("ADDQ CX, R8")
	e("ADDQ $64, R9")
	e("DECQ R10")
	e("JGT row")
	e("ADDQ $128, BX")
	e("ADDQ $3072, SI")
	e("SUBQ $32, AX")
	e("JGT step")
	ret()
}

// Fields of vec.tiles, 8 bytes each.
const (
	tM = 8 * iota
	tN
	tK
	tA
	tARow
	tAStep
	tATile
	tB
	tBRow
	tBStep
	tBCols
	tC
	tCRow
	tAcc
	tNext
	tNextStep
)

// Places on the stack of tileProduct after the configuration.
const (
	sRows = configSize + 8*iota // rows left
	sA                          // A of the 32 rows at work
	sC                          // C of them
	sB                          // B of the 32 columns at work
	sSize
)

// tileProduct writes C [M, N] = A·B, or += it, in blocks of up to 32×32: tiles 0
// to 3 hold C, 4 and 5 A, 6 and 7 B. Four loads go with four products, which take
// twice as long while they come from the first cache.
//
// Of an A in pieces, which are a step's tiles one after another, each is multiplied
// with the same tiles of B.
func tileProduct(name, doc string, pieces int) {
	textWith(sSize, name, doc, arg{"t", "*tiles", "DI"})
	configure()
	e("MOVQ %d(DI), R9", tARow)
	e("MOVQ %d(DI), R10", tBRow)
	e("MOVQ %d(DI), R11", tAStep)
	e("MOVQ %d(DI), R12", tBStep)
	e("MOVQ %d(DI), SI", tCRow)
	e("MOVQ %d(DI), R14", tNext)
	e("MOVQ %d(DI), R15", tNextStep)
	for _, f := range [][2]int{{tM, sRows}, {tA, sA}, {tC, sC}} {
		e("MOVQ %d(DI), AX", f[0])
		e("MOVQ AX, %d(SP)", f[1])
	}
	label("rows")
	e("MOVQ %d(SP), AX", sRows)
	e("CMPQ AX, $32")
	e("JGE whole")
	lastRows()
	label("whole")
	e("MOVQ %d(DI), AX", tB)
	e("MOVQ AX, %d(SP)", sB)
	e("MOVQ %d(SP), DX", sC)
	e("MOVQ %d(DI), R13", tN)
	e("CMPQ %d(SP), $16", sRows)
	e("JLE one")
	tileColumns(2, pieces)
	label("one")
	tileColumns(1, pieces)
	label("next")
	e("MOVQ %d(DI), AX", tATile)
	e("SHLQ $1, AX")
	e("ADDQ AX, %d(SP)", sA)
	e("MOVQ SI, AX")
	e("SHLQ $5, AX")
	e("ADDQ AX, %d(SP)", sC)
	e("SUBQ $32, %d(SP)", sRows)
	e("JGT rows")
	tilerelease()
	ret()
}

// lastRows configures tiles for AX < 32 rows: up to 16 in tiles 0, 1 and 4, the
// rest in 2, 3 and 5.
func lastRows() {
	e("MOVQ $0x1010000000000000, R13")
	e("MOVQ $16, CX")
	e("MOVQ AX, BX")
	e("SUBQ $16, BX") // rows of the second
	e("CMPQ AX, $16")
	e("CMOVQLT AX, CX") // rows of the first
	e("CMPQ BX, $1")
	e("JGE both")
	e("MOVQ $16, BX") // any number: they are not used
	label("both")
	e("MOVQ $0x0000000100000101, R8")
	e("IMULQ R8, CX")
	e("MOVQ $0x0000010001010000, R8")
	e("IMULQ R8, BX")
	e("ORQ CX, R13")
	e("ORQ BX, R13")
	e("MOVQ R13, %d(SP)", configRows)
	e("LEAQ 0(SP), AX")
	ldtilecfg("AX")
}

// tileColumns goes through the columns with one or two tiles of rows.
func tileColumns(rows, pieces int) {
	l := func(s string, cols int) string { return fmt.Sprintf("%s%d%d", s, rows, cols) }
	e("SUBQ $32, R13")
	e("JLT %s", l("odd", 0))
	for cols := 2; cols >= 1; cols-- {
		label(l("block", cols))
		tileBlock(rows, cols, pieces, l)
		if cols == 2 {
			e("MOVQ %d(DI), AX", tBCols)
			e("ADDQ AX, %d(SP)", sB)
			e("ADDQ $128, DX")
			e("SUBQ $32, R13")
			e("JGE %s", l("block", 2))
			label(l("odd", 0))
			e("ADDQ $32, R13")
			e("JLE next")
		}
	}
	e("JMP next")
}

// tileBlock is C of up to 32 rows and columns at DX.
func tileBlock(rows, cols, pieces int, l func(string, int) string) {
	each := func(f func(t, disp int, base string)) {
		for i := range rows {
			base := "DX"
			if i == 1 {
				base = "CX"
				e("MOVQ SI, CX")
				e("SHLQ $4, CX")
				e("ADDQ DX, CX")
			}
			for j := range cols {
				f(2*i+j, 64*j, base)
			}
		}
	}
	e("MOVQ %d(SP), BX", sA)
	if rows == 2 {
		e("MOVQ %d(DI), R8", tATile)
		e("ADDQ BX, R8")
	}
	e("CMPQ %d(DI), $0", tAcc)
	e("JEQ %s", l("zero", cols))
	each(func(t, disp int, base string) { tileload(base, "SI", disp, t) })
	e("JMP %s", l("start", cols))
	label(l("zero", cols))
	for i := range rows {
		for j := range cols {
			tilezero(2*i + j)
		}
	}
	label(l("start", cols))
	e("MOVQ %d(SP), CX", sB)
	e("MOVQ %d(DI), AX", tK)
	e("PCALIGN $32")
	label(l("loop", cols))
	if rows == 2 && cols == 2 {
		for i := range 4 * pieces {
			e("PREFETCHT1 %d(R14)", 64*i)
		}
		e("ADDQ R15, R14")
	}
	tileload("CX", "R10", 0, 6)
	for p := range pieces {
		tileload("BX", "R9", 1024*p, 4)
		tdpbf16ps(6, 4, 0)
		if cols == 2 {
			if p == 0 {
				tileload("CX", "R10", 64, 7)
			}
			tdpbf16ps(7, 4, 1)
		}
		if rows == 2 {
			tileload("R8", "R9", 1024*p, 5)
			tdpbf16ps(6, 5, 2)
			if cols == 2 {
				tdpbf16ps(7, 5, 3)
			}
		}
	}
	e("ADDQ R11, BX")
	e("ADDQ R12, CX")
	if rows == 2 {
		e("ADDQ R11, R8")
	}
	e("DECQ AX")
	e("JGT %s", l("loop", cols))
	each(func(t, disp int, base string) { tilestore(t, base, "SI", disp) })
}

// tileRowsOf writes a packer of rows of A: steps of 32 values of up to 16 rows
// are a tile of 1 KB. Four steps of a row are taken together, so that memory is
// read by longer pieces.
func tileRowsOf(name, typ, what string, bytes int, load func(at, z int, masked bool)) {
	text("tileRows"+name, fmt.Sprintf("copies k %s of up to 16 rows, ldb bytes apart, to tiles: dst[k/32][row][k%%32], zeros after the last.", what),
		arg{"k", "int", "AX"}, arg{"src", typ, "BX"}, arg{"ldb", "int", "CX"}, arg{"rows", "int", "DX"}, arg{"dst", "*float32", "SI"})
	body := func(l string, steps int, masked bool) {
		e("MOVQ BX, R8")
		e("MOVQ SI, R9")
		e("MOVQ DX, R10")
		label(l)
		for i := range steps {
			load(bytes*i, i, masked)
			e("VMOVDQU64 Z%d, %d(R9)", i, 1024*i)
		}
		e("ADDQ CX, R8")
		e("ADDQ $64, R9")
		e("DECQ R10")
		e("JGT %s", l)
	}
	for _, steps := range []int{4, 1} {
		end, begin := fmt.Sprintf("after%d", steps), fmt.Sprintf("steps%d", steps)
		e("SUBQ $%d, AX", 32*steps)
		e("JLT %s", end)
		label(begin)
		body(fmt.Sprintf("row%d", steps), steps, false)
		e("ADDQ $%d, BX", bytes*steps)
		e("ADDQ $%d, SI", 1024*steps)
		e("SUBQ $%d, AX", 32*steps)
		e("JGE %s", begin)
		label(end)
		e("ADDQ $%d, AX", 32*steps)
	}
	e("JLE done")
	e("MOVL $-1, R9")
	e("BZHIL AX, R9, R9")
	if bytes == 64 {
		e("KMOVD R9, K1")
	} else {
		e("KMOVW R9, K1")
		e("SHRL $16, R9")
		e("KMOVW R9, K2")
	}
	body("last", 1, true)
	label("done")
	ret()
}

// finish writes sums to where they belong.
func finish() {
	text("finishRows", "is c = alpha·x, plus c where acc is 1, for rows of n floats, ldx and ldc apart. Where acc is 2 whole vectors of c are written past the caches.",
		arg{"rows", "int", "AX"}, arg{"n", "int", "R12"}, arg{"x", "*float32", "BX"}, arg{"ldx", "int", "CX"}, arg{"c", "*float32", "DX"}, arg{"ldc", "int", "SI"},
		arg{"acc", "int", "DI"}, arg{"alpha", "float32", "Z31"})
	e("SHLQ $2, CX")
	e("SHLQ $2, SI")
	e("MOVQ R12, R8")
	e("ANDQ $15, R8")
	e("MOVL $-1, R9")
	e("BZHIL R8, R9, R9")
	e("KMOVW R9, K1")
	label("row")
	e("MOVQ BX, R9")
	e("MOVQ DX, R10")
	e("MOVQ R12, R11")
	whole := func(l, store string, add bool) {
		label(l)
		e("SUBQ $16, R11")
		e("JLT part")
		e("VMOVUPS (R9), Z0")
		if add {
			e("VFMADD213PS (R10), Z31, Z0")
		} else {
			e("VMULPS Z31, Z0, Z0")
		}
		e("%s Z0, (R10)", store)
		e("ADDQ $64, R9")
		e("ADDQ $64, R10")
		e("JMP %s", l)
	}
	e("CMPQ DI, $1")
	e("JEQ add")
	e("JGT past")
	whole("set", "VMOVUPS", false)
	whole("past", "VMOVNTPS", false)
	whole("add", "VMOVUPS", true)
	label("part")
	e("TESTQ R8, R8")
	e("JZ next")
	e("VMOVUPS.Z (R9), K1, Z0")
	e("VMULPS Z31, Z0, Z1")
	e("CMPQ DI, $1")
	e("JNE store")
	e("VMOVUPS.Z (R10), K1, Z1")
	e("VFMADD231PS Z31, Z0, Z1")
	label("store")
	e("VMOVUPS Z1, K1, (R10)")
	label("next")
	e("ADDQ CX, BX")
	e("ADDQ SI, DX")
	e("DECQ AX")
	e("JGT row")
	ret()
}
