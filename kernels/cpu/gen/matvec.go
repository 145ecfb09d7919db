package main

import "fmt"

// Products of few rows of x with a weight that is read once and in order, as it
// lies in memory. A unit is 64 columns. Rows of x come as tiles of 1, 2, 4 or 8
// rows that are interleaved by units, so that one register walks through them.

// ahead is how far before its use a weight is asked for. The hardware's own
// prefetching starts anew on every page and loses half of the bandwidth.
const ahead = 3072

// tileRows are the numbers of rows of x that kernels exist for.
var tileRows = []int{1, 2, 4, 8}

func matvec() {
	open("cpu", "..", "matvec")
	out.asm.WriteString("\n")
	words("oddNibbles16", func(i int) int { return i / 4 % 2 * 4 })
	words("highNibbles32", func(i int) int { return i / 8 * 4 })
	words("lowNibbles32", func(i int) int { return 4 - i/8*4 })
	words("oddBits32", func(i int) int { return i / 8 })
	words("pairsLeft", func(i int) int { return 4 - i/8*2 })
	words("pairsRight", func(i int) int { return i / 8 * 2 })
	for u := range 4 {
		words(fmt.Sprintf("eights%d", u), func(i int) int { return 2*u + i/8 })
		words(fmt.Sprintf("fours%d", u), func(i int) int { return 4*u + i/4 })
		words(fmt.Sprintf("bit%d", 2*u), func(int) int { return 0x01010101 << (2 * u) })
	}
	words("evenOdd16", func(i int) int { return []int{0x06040200, 0x0e0c0a08, 0x07050301, 0x0f0d0b09}[i%4] })
	quads("evenOdd64", func(i int) int { return i%4*2 + i/4 })
	words("counting", func(i int) int { return i })
	allScales()
	quantX("quantRow", false)
	quantX("quantRowSplit", true)
	for _, m := range tileRows {
		floats(m, false)
		floats(m, true)
		for _, b := range legacy {
			b.kernel(m)
		}
		for _, k := range kTypes {
			k.kernel(m)
		}
		grouped("Low", "lowest nibble first", m)
		grouped("Bytes", "bytes", m)
		codebook(m)
	}
	save()
}

// words defines 16 dwords, quads 8 qwords.
func words(name string, f func(i int) int) {
	for i := range 8 {
		fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/8, $0x%08x%08x\n", name, 8*i, f(2*i+1), f(2*i))
	}
	fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name)
}

func quads(name string, f func(i int) int) {
	for i := range 8 {
		fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/8, $%d\n", name, 8*i, f(i))
	}
	fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name)
}

// bytesIn fills register z with a byte.
func bytesIn(v, z int) {
	e("MOVL $%d, R10", v)
	e("VPBROADCASTB R10, Z%d", z)
}

// The 256 bytes of a unit of a row of x that was rounded to 8 bits: the codes;
// for every four of them -offset times their sum, as int32; their scale, and
// their sum times it, as f32. A lane of the last three belongs to four codes.
const (
	unitCodes = 64 * iota
	unitStart
	unitScale
	unitSum
	unitBytes
)

// quantX rounds a row. A block of 32 has a scale of its own. With split the
// codes of even columns come first, then those of odd ones.
func quantX(name string, split bool) {
	doc := "rounds units of 64 floats to 8 bits, a scale for every 32, to the parts that the int8 kernels read, step bytes apart. offset is the negated zero point of the weight's codes, unit 1/127 times what the result is to be multiplied by."
	if split {
		doc += " Even columns come first."
	}
	text(name, doc, arg{"units", "int", "AX"}, arg{"src", "*float32", "SI"}, arg{"dst", "*byte", "DI"}, arg{"step", "int", "DX"}, arg{"offset", "int", "R8"}, arg{"unit", "float32", "Z28"})
	e("VPBROADCASTD R8, Z30")
	for _, c := range []struct{ bits, z int }{{0x7fffffff, 31}, {0x42fe0000, 29}} { // |x|, 127
		e("MOVL $0x%x, R10", c.bits)
		e("VPBROADCASTD R10, Z%d", c.z)
	}
	bytesIn(1, 27)
	e("VPXORD Z26, Z26, Z26")
	mask := 0xff00
	if split {
		mask = 0xf0f0
		e("VMOVDQU64 evenOdd16<>(SB), Z25")
		e("VMOVDQU64 evenOdd64<>(SB), Z24")
	}
	e("MOVL $0x%x, R10", mask)
	e("KMOVW R10, K1")
	label("loop")
	for i := range 4 {
		e("VMOVUPS %d(SI), Z%d", 64*i, i)
	}
	for b := range 2 {
		e("VPANDD Z31, Z%d, Z4", 2*b)
		e("VPANDD Z31, Z%d, Z5", 2*b+1)
		e("VMAXPS Z4, Z5, Z4")
		e("VEXTRACTF64X4 $1, Z4, Y5")
		e("VMAXPS Y4, Y5, Y4")
		e("VEXTRACTF128 $1, Y4, X5")
		e("VMAXPS X4, X5, X4")
		e("VPERMILPS $0x4e, X4, X5")
		e("VMAXPS X4, X5, X4")
		e("VPERMILPS $0xb1, X4, X5")
		e("VMAXPS X4, X5, X4")
		e("VBROADCASTSS X4, Z%d", 6+b)
		e("VCMPPS $4, Z26, Z%d, K2", 6+b) // a block of zeros keeps the factor 0
		e("VDIVPS.Z Z%d, Z29, K2, Z4", 6+b)
		for i := range 2 {
			e("VMULPS Z4, Z%d, Z%d", 2*b+i, 2*b+i)
			e("VCVTPS2DQ Z%d, Z%d", 2*b+i, 2*b+i)
			e("VPMOVSDB Z%d, X%d", 2*b+i, 2*b+i)
		}
	}
	e("VINSERTI128 $1, X1, Y0, Y0")
	e("VINSERTI128 $1, X3, Y2, Y2")
	e("VINSERTI64X4 $1, Y2, Z0, Z0")
	if split {
		e("VPSHUFB Z25, Z0, Z0")
		e("VPERMQ Z0, Z24, Z0")
	}
	e("VMOVDQU64 Z0, %d(DI)", unitCodes)
	e("VPXORD Z1, Z1, Z1")
	e("VPDPBUSD Z0, Z27, Z1")
	e("VPMULLD Z30, Z1, Z2")
	e("VMOVDQU64 Z2, %d(DI)", unitStart)
	e("VMOVAPS Z7, K1, Z6")
	e("VMULPS Z28, Z6, Z6")
	e("VMOVUPS Z6, %d(DI)", unitScale)
	e("VCVTDQ2PS Z1, Z1")
	e("VMULPS Z6, Z1, Z1")
	e("VMOVUPS Z1, %d(DI)", unitSum)
	e("ADDQ $256, SI")
	e("ADDQ DX, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

// int8Args are the same for all types: the last five are for those with scales
// apart or a codebook. Unit u of a row has scale u>>shift, a row perRow of them.
var int8Args = []arg{
	{"rows", "int", "AX"}, {"units", "int", "DX"}, {"w", "*byte", "SI"}, {"x", "*byte", "BX"}, {"y", "*float32", "DI"}, {"ldy", "int", "R8"},
	{"scales", "*float32", "R11"}, {"mins", "*float32", "R12"}, {"perRow", "int", "R14"}, {"shift", "int", "R15"}, {"table", "*byte", "R10"},
}

// matvecText begins a kernel: rows of w one after another, y[i][r] = x[i]·w[r].
func matvecText(name, doc string, m int, args []arg) {
	text(fmt.Sprintf("mv%s%d", name, m), fmt.Sprintf("is y[i][r] = x[i]·w[r] for a tile of %d rows of x and some rows of %s; units are of 64 columns, ldy is in floats.", m, doc), args...)
	e("SHLQ $2, R8")
}

// withMin instead of a number of sums a row of x: one, and one of minima.
const withMin = 0

// loopRows emits the loops over rows of w and units; step handles `units` units.
// begin and end, when given, stand around the units of a row.
func loopRows(m, sums, units int, step func(), around ...func()) {
	second := func(i int) int { return sums*i + 1 }
	if sums == withMin {
		second = func(i int) int { return minSum + i }
	}
	first := func(i int) int { return i * max(sums, 1) }
	e("PCALIGN $64")
	label("row")
	for i := range m {
		e("VPXORD Z%d, Z%d, Z%d", first(i), first(i), first(i))
		if sums != 1 {
			e("VPXORD Z%d, Z%d, Z%d", second(i), second(i), second(i))
		}
	}
	e("MOVQ BX, CX")
	e("MOVQ DX, R9")
	if len(around) > 0 {
		around[0]()
	}
	label("unit")
	step()
	e("ADDQ $%d, CX", units*m*unitBytes)
	if units == 1 {
		e("DECQ R9")
	} else {
		e("SUBQ $%d, R9", units)
	}
	e("JGT unit")
	if len(around) > 0 {
		around[1]()
	}
	e("MOVQ DI, R10")
	for i := range m {
		z := first(i)
		if sums != 1 {
			e("VADDPS Z%d, Z%d, Z%d", second(i), z, z)
		}
		e("VEXTRACTF64X4 $1, Z%d, Y31", z)
		e("VADDPS Y31, Y%d, Y%d", z, z)
		e("VEXTRACTF32X4 $1, Y%d, X31", z)
		e("VADDPS X31, X%d, X%d", z, z)
		e("VPERMILPS $0x4e, X%d, X31", z)
		e("VADDPS X31, X%d, X%d", z, z)
		e("VPERMILPS $0xb1, X%d, X31", z)
		e("VADDPS X31, X%d, X%d", z, z)
		e("VMOVSS X%d, (R10)", z)
		if i < m-1 {
			e("ADDQ R8, R10")
		}
	}
	e("ADDQ $4, DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}

// prefetch asks for n bytes from off on, ahead of time.
func prefetch(off, n int) {
	for p := 0; p < n; p += 64 {
		e("PREFETCHT0 %d(SI)", ahead+off+p)
	}
}

// prefetchUnit asks for the 64 bytes that begin with a unit of 64, or with every
// second one of 32.
func prefetchUnit(size int) {
	if size == 32 {
		e("TESTL $32, SI")
		e("JNE asked")
	}
	prefetch(0, 64)
	if size == 32 {
		label("asked")
	}
}

// floats: f32 or bf16 weights, in two sums a row of x.
func floats(m int, bf bool) {
	typ, _, what := sourceOf(bf)
	name, width := "F32", 64
	if bf {
		name, width = "BF16", 32
	}
	args := append([]arg{}, int8Args[:6]...)
	args[2].typ, args[3].typ = typ, "*float32"
	matvecText(name, what, m, args)
	loopRows(m, 2, 1, func() {
		prefetch(0, 4*width)
		for s := range 4 {
			w := 16 + s
			if bf {
				e("VPMOVZXWD %d(SI), Z%d", width*s, w)
				e("VPSLLD $16, Z%d, Z%d", w, w)
			} else {
				e("VMOVUPS %d(SI), Z%d", width*s, w)
			}
			for i := range m {
				e("VFMADD231PS %d(CX), Z%d, Z%d", unitBytes*i+64*s, w, 2*i+s%2)
			}
		}
		e("ADDQ $%d, SI", 4*width)
	})
}

// Registers of the int8 kernels, after sums for up to 8 rows of x and as many
// for minima, so that a unit has one addition to wait for.
const (
	minSum = 8
	codes  = 16 + iota - 1
	scale
	minimum
	temp
	dots // four
)

// rowsOfX adds the unit's products to every row's sum: (Σ codes·x)·scale of x ·
// scale and, with min, minimum·Σ x. off counts units.
func rowsOfX(m, off int, min bool) {
	for i := range m {
		at, d := (off*m+i)*unitBytes, dots+i%4
		e("VMOVDQU64 %d(CX), Z%d", at+unitStart, d)
		e("VPDPBUSD %d(CX), Z%d, Z%d", at+unitCodes, codes, d)
		e("VCVTDQ2PS Z%d, Z%d", d, d)
		e("VMULPS %d(CX), Z%d, Z%d", at+unitScale, d, d)
		e("VFMADD231PS Z%d, Z%d, Z%d", d, scale, i)
		if min {
			e("VFMADD231PS %d(CX), Z%d, Z%d", at+unitSum, minimum, minSum+i)
		}
	}
}

// halfPair puts the f16 at off and off+size, each eight times, into z as f32.
func halfPair(off, size, z int) {
	e("VPBROADCASTW %d(SI), X%d", off, z)
	e("VPBROADCASTW %d(SI), X%d", off+size, temp)
	e("VINSERTI32X4 $1, X%d, Y%d, Y%d", temp, z, z)
	e("VCVTPH2PS Y%d, Z%d", z, z)
}

// blockType is a type with blocks of 32 that begin with an f16 scale.
type blockType struct {
	name             string
	size             int
	min, high, bytes bool
	table            bool
}

var legacy = []blockType{
	{name: "Q40", size: 18}, {name: "Q41", size: 20, min: true},
	{name: "Q50", size: 22, high: true}, {name: "Q51", size: 24, min: true, high: true},
	{name: "Q80", size: 34, bytes: true}, {name: "IQ4", size: 18, table: true},
}

// kernel: two blocks make a unit.
func (b blockType) kernel(m int) {
	matvecText(b.name, b.name, m, int8Args)
	if b.table {
		e("VBROADCASTI32X4 (R10), Z27")
	}
	first := 2 // of the codes
	if b.min {
		first += 2
	}
	high := first
	if b.high {
		first += 4
	}
	if b.bytes {
		bytesIn(0x80, 30)
	} else {
		e("VMOVDQU64 oddNibbles16<>(SB), Z30")
		bytesIn(15, 29)
		bytesIn(16, 28)
		e("MOVL $0xff00, R10")
		e("KMOVW R10, K1")
	}
	sums := 1
	if b.min {
		sums = withMin
	}
	loopRows(m, sums, 1, func() {
		prefetch(0, 64)
		halfPair(0, b.size, scale)
		if b.min {
			halfPair(2, b.size, minimum)
		}
		if b.bytes {
			e("VMOVDQU64 %d(SI), Y%d", first, codes)
			e("VINSERTI64X4 $1, %d(SI), Z%d, Z%d", first+b.size, codes, codes)
			e("VPXORD Z30, Z%d, Z%d", codes, codes)
		} else {
			e("VBROADCASTI32X4 %d(SI), Z%d", first, codes)
			e("VBROADCASTI32X4 %d(SI), K1, Z%d", first+b.size, codes)
			e("VPSRLVD Z30, Z%d, Z%d", codes, codes)
			e("VPANDD Z29, Z%d, Z%d", codes, codes)
		}
		if b.high {
			e("KMOVD %d(SI), K2", high)
			e("KMOVD %d(SI), K3", high+b.size)
			e("KUNPCKDQ K2, K3, K2")
			e("VPADDB Z28, Z%d, K2, Z%d", codes, codes)
		}
		if b.table {
			e("VPSHUFB Z%d, Z27, Z%d", codes, codes)
		}
		rowsOfX(m, 0, b.min)
		e("ADDQ $%d, SI", 2*b.size)
	})
}

// kType is a type with blocks of 256, four units.
type kType struct {
	name string
	size int
}

var kTypes = []kType{{"Q4K", 144}, {"Q5K", 176}, {"Q6K", 210}}

func (k kType) kernel(m int) {
	matvecText(k.name, k.name, m, int8Args)
	bytesIn(15, 29)
	if k.name == "Q6K" {
		k.six(m)
		return
	}
	e("VMOVDQU64 highNibbles32<>(SB), Z30")
	five := k.name == "Q5K"
	first := 16
	if five {
		first = 48
		e("VMOVDQU64 oddBits32<>(SB), Z28")
		bytesIn(16, 27)
	}
	const scales, mins, high = 24, 25, 26
	loopRows(m, withMin, 4, func() {
		prefetch(0, k.size)
		sixBits(scales, mins)
		if five {
			e("VBROADCASTI64X4 16(SI), Z%d", high)
			e("VPSRLVD Z28, Z%d, Z%d", high, high)
		}
		for u := range 4 {
			e("VBROADCASTI64X4 %d(SI), Z%d", first+32*u, codes)
			e("VPSRLVD Z30, Z%d, Z%d", codes, codes)
			e("VPANDD Z29, Z%d, Z%d", codes, codes)
			if five {
				e("VPTESTMB bit%d<>(SB), Z%d, K2", 2*u, high)
				e("VPADDB Z27, Z%d, K2, Z%d", codes, codes)
			}
			e("VMOVDQU64 eights%d<>(SB), Z%d", u, temp)
			e("VPERMPS Z%d, Z%d, Z%d", scales, temp, scale)
			e("VPERMPS Z%d, Z%d, Z%d", mins, temp, minimum)
			rowsOfX(m, u, true)
		}
		e("ADDQ $%d, SI", k.size)
	})
}

// sixBits decodes the eight scales and minima in front of a block of Q4_K or
// Q5_K; the minima are negated.
func sixBits(scales, mins int) {
	e("MOVL 4(SI), R10")
	e("MOVL 8(SI), R11")
	e("MOVL 12(SI), R12")
	e("MOVL R12, R13")
	e("ANDL $0x0f0f0f0f, R12")
	e("SHRL $4, R13")
	e("ANDL $0x0f0f0f0f, R13")
	for i, lo := range []string{"R10", "R11"} {
		hi, z := []string{"R12", "R13"}[i], []int{scales, mins}[i]
		e("VMOVD %s, X%d", lo, z)
		e("SHRL $2, %s", lo)
		e("ANDL $0x30303030, %s", lo)
		e("ORL %s, %s", lo, hi)
		e("VPINSRD $1, %s, X%d, X%d", hi, z, z)
	}
	// the low four have two bits of the others above their six
	e("MOVQ $0xffffffff3f3f3f3f, R10")
	e("VMOVQ R10, X%d", temp)
	for i, z := range []int{scales, mins} {
		e("VPANDQ X%d, X%d, X%d", temp, z, z)
		e("VPMOVZXBD X%d, Y%d", z, z)
		e("VCVTDQ2PS Y%d, Y%d", z, z)
		e("VPBROADCASTW %d(SI), X%d", 2*i, dots)
		e("VCVTPH2PS X%d, Y%d", dots, dots)
		e("VMULPS Y%d, Y%d, Y%d", dots, z, z)
	}
	e("VPXORD Z%d, Z%d, Z%d", dots, dots, dots)
	e("VSUBPS Y%d, Y%d, Y%d", mins, dots, mins)
}

// six: sixteen signed scales; two bits of every code lie apart.
func (k kType) six(m int) {
	bytesIn(0x30, 28)
	e("VMOVDQU64 pairsLeft<>(SB), Z27")
	e("VMOVDQU64 pairsRight<>(SB), Z26")
	const scales, high = 24, 25
	loopRows(m, 1, 4, func() {
		prefetch(0, k.size)
		e("VPMOVSXBD 192(SI), Z%d", scales)
		e("VCVTDQ2PS Z%d, Z%d", scales, scales)
		e("VPBROADCASTW 208(SI), Y%d", temp)
		e("VCVTPH2PS Y%d, Z%d", temp, temp)
		e("VMULPS Z%d, Z%d, Z%d", temp, scales, scales)
		for u := range 4 {
			e("VMOVDQU64 %d(SI), Z%d", u/2*64, codes)
			e("VBROADCASTI64X4 %d(SI), Z%d", 128+u/2*32, high)
			if u%2 == 1 {
				e("VPSRLD $4, Z%d, Z%d", codes, codes)
				e("VPSRLVD Z26, Z%d, Z%d", high, high)
			} else {
				e("VPSLLVD Z27, Z%d, Z%d", high, high)
			}
			e("VPANDD Z29, Z%d, Z%d", codes, codes)
			e("VPANDD Z28, Z%d, Z%d", high, high)
			e("VPORD Z%d, Z%d, Z%d", high, codes, codes)
			e("VMOVDQU64 fours%d<>(SB), Z%d", u, temp)
			e("VPERMPS Z%d, Z%d, Z%d", scales, temp, scale)
			rowsOfX(m, u, false)
		}
		e("ADDQ $%d, SI", k.size)
	})
}

// planes are the hooks of a row whose scales lie apart; R13 counts its units.
var planes = []func(){
	func() { e("XORL R13, R13") },
	func() {
		e("LEAQ (R11)(R14*4), R11")
		e("LEAQ (R12)(R14*4), R12")
	},
}

// grouped: integer codes with scales and minima apart.
func grouped(name, what string, m int) {
	matvecText(name, "codes of integers, "+what, m, int8Args)
	size := 64
	if name == "Low" {
		size = 32
		e("VMOVDQU64 highNibbles32<>(SB), Z30")
		bytesIn(15, 29)
	}
	loopRows(m, withMin, 1, func() {
		prefetchUnit(size)
		if name == "Low" {
			e("VBROADCASTI64X4 (SI), Z%d", codes)
			e("VPSRLVD Z30, Z%d, Z%d", codes, codes)
			e("VPANDD Z29, Z%d, Z%d", codes, codes)
		} else {
			e("VMOVDQU64 (SI), Z%d", codes)
		}
		e("SHRXQ R15, R13, R10")
		e("INCQ R13")
		e("VBROADCASTSS (R11)(R10*4), Z%d", scale)
		e("VBROADCASTSS (R12)(R10*4), Z%d", minimum)
		rowsOfX(m, 0, true)
		e("ADDQ $%d, SI", size)
	}, planes...)
}

// codebook: a code stands for a number of 16 bits, whose high byte (plus 128)
// and low byte are in two tables of 16; scales are apart.
func codebook(m int) {
	matvecText("Book", "codes of NF4 or FP4, highest nibble first", m, int8Args)
	e("VBROADCASTI32X4 (R10), Z28")
	e("VBROADCASTI32X4 16(R10), Z27")
	e("VMOVDQU64 lowNibbles32<>(SB), Z30")
	bytesIn(15, 29)
	const low = minimum
	loopRows(m, 1, 1, func() {
		prefetchUnit(32)
		e("VBROADCASTI64X4 (SI), Z%d", codes)
		e("VPSRLVD Z30, Z%d, Z%d", codes, codes)
		e("VPANDD Z29, Z%d, Z%d", codes, codes)
		e("VPSHUFB Z%d, Z27, Z%d", codes, low)
		e("VPSHUFB Z%d, Z28, Z%d", codes, codes)
		e("SHRXQ R15, R13, R10")
		e("INCQ R13")
		e("VBROADCASTSS (R11)(R10*4), Z%d", scale)
		for i := range m {
			at, d := i*unitBytes, dots+i%4
			e("VMOVDQU64 %d(CX), Z%d", at+unitStart, d)
			e("VPDPBUSD %d(CX), Z%d, Z%d", at+unitCodes, codes, d)
			e("VPSLLD $8, Z%d, Z%d", d, d)
			e("VPDPBUSD %d(CX), Z%d, Z%d", at+unitCodes, low, d)
			e("VCVTDQ2PS Z%d, Z%d", d, d)
			e("VMULPS %d(CX), Z%d, Z%d", at+unitScale, d, d)
			e("VFMADD231PS Z%d, Z%d, Z%d", d, scale, i)
		}
		e("ADDQ $32, SI")
	}, planes...)
}

// groupScales turns planes of scales and zero points into f32.
func groupScales(name, what string, size int, load func(mask string)) {
	text("scales"+name, "widens n scales of "+what+" to s and puts -s·zero into t; zeros nil: zero is middle.",
		arg{"n", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"zeros", "*byte", "DX"}, arg{"middle", "float32", "Z31"}, arg{"s", "*float32", "CX"}, arg{"t", "*float32", "DI"})
	e("VPXORD Z30, Z30, Z30")
	vectors(size, func(mask string) {
		load(mask)
		e("VMOVAPS Z31, Z1")
		e("TESTQ DX, DX")
		e("JEQ z%s", mask[:min(2, len(mask))])
		if mask != "" {
			e("VMOVDQU8.Z (DX), K1, X1")
			e("VPMOVZXBD X1, Z1")
		} else {
			e("VPMOVZXBD (DX), Z1")
		}
		e("VCVTDQ2PS Z1, Z1")
		e("ADDQ $16, DX")
		label("z" + mask[:min(2, len(mask))])
		e("VMOVUPS Z0, %s(CX)", mask)
		e("VMULPS Z0, Z1, Z1")
		e("VSUBPS Z1, Z30, Z1")
		e("VMOVUPS Z1, %s(DI)", mask)
		e("ADDQ $64, DI")
	})
}

// allScales writes groupScales for the types of scales there are.
func allScales() {
	groupScales("F32", "f32", 4, func(mask string) { e("VMOVUPS%s (BX), %sZ0", zeroing(mask), mask) })
	groupScales("F16", "f16", 2, func(mask string) {
		e("VMOVDQU16%s (BX), %sY0", zeroing(mask), mask)
		e("VCVTPH2PS Y0, Z0")
	})
	groupScales("BF16", "bf16", 2, func(mask string) {
		e("VMOVDQU16%s (BX), %sY0", zeroing(mask), mask)
		e("VPMOVZXWD Y0, Z0")
		e("VPSLLD $16, Z0, Z0")
	})
	text("scalesNested", "is s[i] = book[src[i]]·outer[(first+i)>>8] + offset, rounded twice.",
		arg{"n", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"first", "int", "R8"}, arg{"book", "*float32", "DX"}, arg{"outer", "*float32", "SI"}, arg{"offset", "float32", "Z31"}, arg{"s", "*float32", "CX"})
	e("VPBROADCASTD R8, Z30")
	e("VPADDD counting<>(SB), Z30, Z30")
	e("MOVL $16, R8")
	e("VPBROADCASTD R8, Z29")
	vectors(1, func(mask string) {
		e("KXNORW K2, K2, K2")
		e("KXNORW K3, K3, K3")
		if mask != "" {
			e("KMOVW K1, K2")
			e("KMOVW K1, K3")
			e("VMOVDQU8.Z (BX), K1, X0")
			e("VPMOVZXBD X0, Z0")
		} else {
			e("VPMOVZXBD (BX), Z0")
		}
		e("VPSRLD $8, Z30, Z1")
		e("VPXORD Z2, Z2, Z2")
		e("VPXORD Z3, Z3, Z3")
		e("VGATHERDPS (DX)(Z0*4), K2, Z2")
		e("VGATHERDPS (SI)(Z1*4), K3, Z3")
		e("VMULPS Z2, Z3, Z2")
		e("VADDPS Z31, Z2, Z2")
		e("VMOVUPS Z2, %s(CX)", mask)
		e("VPADDD Z29, Z30, Z30")
	})
}
