package main

import (
	"fmt"
	"slices"
)

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
	mvConstants()
	turnedConstants()
	pairedConstants()
	quads("evenOdd64", func(i int) int { return i%4*2 + i/4 })
	words("evenOdd16", func(i int) int { return []int{0x06040200, 0x0e0c0a08, 0x07050301, 0x0f0d0b09}[i%4] })
	for u := range 4 {
		words(fmt.Sprintf("fours%d", u), func(i int) int { return 4*u + i/4 })
	}
	words("counting", func(i int) int { return i })
	allScales()
	askFor()
	quantX("quantRow", false)
	quantX("quantRowSplit", true)
	quantK("", "")
	quantK("Turned", "turned")
	quantK("Paired", "paired")
	quantShifted()
	for _, m := range tileRows {
		for _, t := range floatTypes {
			t.kernel(m)
		}
		for _, b := range legacy {
			b.kernel(m)
		}
		for _, k := range slices.Concat(kTypes, latticeTypes) {
			if k.name != "IQ1S" && k.name != "IQ1M" && k.name != "TQ20" {
				k.kernel(m)
			}
		}
		for _, k := range pairedTypes {
			k.kernel(m, false)
			k.kernel(m, true)
		}
		shiftedKernel(m)
		for _, k := range turnedTypes {
			k.turnedKernel(m)
		}
		for _, f := range fewTypes {
			f.kernel(m)
		}
		grouped("Low", "lowest nibble first", m)
		grouped("Bytes", "bytes", m)
		codebook(m)
	}
	save()
}

// mvConstants are those that kernels of rounded and of exact x share.
func mvConstants() {
	out.asm.WriteString("\n")
	quads("twice64", func(i int) int { return i / 2 })
	quads("oddNibbles64", func(i int) int { return i % 2 * 4 })
	latticeWords()
	words("oddNibbles16", func(i int) int { return i / 4 % 2 * 4 })
	words("highNibbles32", func(i int) int { return i / 8 * 4 })
	words("lowNibbles32", func(i int) int { return 4 - i/8*4 })
	words("oddBits32", func(i int) int { return i / 8 })
	words("pairsLeft", func(i int) int { return 4 - i/8*2 })
	words("pairsRight", func(i int) int { return i / 8 * 2 })
	words("pairsHigh", func(i int) int { return 4 + i/8*2 })
	words("eightNibbles", func(i int) int { return i / 2 * 4 })
	words("eightPairs", func(i int) int { return 12 + i/2*2 })
	words("nibbles8", func(i int) int { return i / 8 * 4 })
	words("pairs4", func(i int) int { return i / 4 * 2 })
	for u := range 4 {
		words(fmt.Sprintf("bit%d", 2*u), func(int) int { return 0x01010101 << (2 * u) })
	}
	for _, c := range []struct {
		name string
		v    int
	}{{"fifteen", 15}, {"highPair", 0x30}, {"thirtyTwo", 32}, {"pairBits", 0x30303030}, {"lowPairs", 0x03030303}, {"fourBytes", 0x04040404}, {"sixteens", 0x10101010}} {
		words(c.name, func(int) int { return c.v })
	}
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

// mvArgs are the same for all kernels. Those from scales to table are for types
// with scales apart or a codebook: unit u of a row has scale u>>shift, a row
// perRow of them. The last are for a part of the columns: first is its first
// unit, skip the bytes from its end to its beginning in the next row, and mode
// says whether sums continue those in acc (1) and are left there (2).
var mvArgs = []arg{
	{"rows", "int", "AX"}, {"units", "int", "DX"}, {"w", "*byte", "SI"}, {"x", "*byte", "BX"}, {"y", "*float32", "DI"}, {"ldy", "int", "R8"},
	{"scales", "*float32", "R11"}, {"mins", "*float32", "R12"}, {"perRow", "int", "R14"}, {"shift", "int", "R15"}, {"table", "*byte", "R10"},
	{"first", "int", ""}, {"skip", "int", ""}, {"acc", "*float32", ""}, {"mode", "int", ""},
}

// Where these are.
const (
	firstArg = "first+88(FP)"
	skipArg  = "skip+96(FP)"
	accArg   = "acc+104(FP)"
	modeArg  = "mode+112(FP)"
)

// matvecText begins a kernel: rows of w one after another, y[i][r] = x[i]·w[r].
func matvecText(frame int, name, doc string, m int) {
	textWith(frame, fmt.Sprintf("mv%s%d", name, m), fmt.Sprintf("is y[i][r] = x[i]·w[r] for a tile of %d rows of x and some rows of %s; units are of 64 columns, ldy is in floats.", m, doc), mvArgs...)
	e("SHLQ $2, R8")
}

// rowLoop is the loop over rows of w and, inside, over units.
type rowLoop struct {
	m          int    // rows of x
	xBytes     int    // of one of them, for a step
	units      int    // of a step
	parts      int    // sums of a row of x
	apart      int    // registers from one to the next
	factor     int    // register of what results are multiplied by; 0: by nothing
	begin, end func() // around a row, may be nil
	step       func()
}

func (l rowLoop) emit() {
	var sums []int
	for p := range l.parts {
		for i := range l.m {
			sums = append(sums, p*l.apart+i)
		}
	}
	e("PCALIGN $64")
	label("row")
	for _, z := range sums {
		e("VPXORD Z%d, Z%d, Z%d", z, z, z)
	}
	e("TESTQ $1, %s", modeArg)
	e("JEQ begun")
	e("MOVQ %s, R10", accArg)
	for i, z := range sums {
		e("VMOVUPS %d(R10), Z%d", 64*i, z)
	}
	label("begun")
	e("MOVQ BX, CX")
	e("MOVQ DX, R9")
	if l.begin != nil {
		l.begin()
	}
	label("unit")
	l.step()
	e("ADDQ $%d, CX", l.m*l.xBytes)
	if l.units == 1 {
		e("DECQ R9")
	} else {
		e("SUBQ $%d, R9", l.units)
	}
	e("JGT unit")
	if l.end != nil {
		l.end()
	}
	e("TESTQ $2, %s", modeArg)
	e("JEQ fold")
	e("MOVQ %s, R10", accArg)
	for i, z := range sums {
		e("VMOVUPS Z%d, %d(R10)", z, 64*i)
	}
	e("JMP next")
	label("fold")
	e("MOVQ DI, R10")
	for z := range l.m {
		for p := l.parts - 1; p > 0; p-- {
			e("VADDPS Z%d, Z%d, Z%d", p*l.apart+z, (p-1)*l.apart+z, (p-1)*l.apart+z)
		}
		e("VEXTRACTF64X4 $1, Z%d, Y16", z)
		e("VADDPS Y16, Y%d, Y%d", z, z)
		e("VEXTRACTF32X4 $1, Y%d, X16", z)
		e("VADDPS X16, X%d, X%d", z, z)
		e("VPERMILPS $0x4e, X%d, X16", z)
		e("VADDPS X16, X%d, X%d", z, z)
		e("VPERMILPS $0xb1, X%d, X16", z)
		e("VADDPS X16, X%d, X%d", z, z)
		if l.factor > 0 {
			e("VMULSS X%d, X%d, X%d", l.factor, z, z)
		}
		e("VMOVSS X%d, (R10)", z)
		if z < l.m-1 {
			e("ADDQ R8, R10")
		}
	}
	label("next")
	e("ADDQ $%d, %s", 64*len(sums), accArg)
	e("ADDQ %s, SI", skipArg)
	e("ADDQ $4, DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}

// askFor asks for bytes that are read soon.
func askFor() {
	text("askFor", "brings n bytes nearer.", arg{"n", "int", "AX"}, arg{"p", "*byte", "BX"})
	label("loop")
	e("PREFETCHT0 (BX)")
	e("ADDQ $64, BX")
	e("SUBQ $64, AX")
	e("JGT loop")
	ret()
}

// prefetch asks for n bytes, ahead of time.
func prefetch(n int) {
	for p := 0; p < n; p += 64 {
		e("PREFETCHT0 %d(SI)", ahead+p)
	}
}

// prefetchUnit asks for the 64 bytes that begin with a unit, of 32 bytes with
// every second unit.
func prefetchUnit(size int) {
	if size == 32 {
		e("TESTL $32, SI")
		e("JNE even")
	}
	prefetch(64)
	if size == 32 {
		label("even")
	}
}
