package main

// floatType is a type whose elements are floats.
type floatType struct {
	name, what string
	size       int // bytes
}

var floatTypes = []floatType{{"F32", "f32", 4}, {"BF16", "bf16", 2}, {"F16", "f16", 2}}

// kernel multiplies in two sums a row of x.
func (t floatType) kernel(m int) {
	matvecText(0, t.name, t.what, m)
	width := 16 * t.size
	rowLoop{m: m, xBytes: unitBytes, units: 1, parts: 2, apart: 8, step: func() {
		prefetch(4 * width)
		for s := range 4 {
			w := 16 + s
			switch t.name {
			case "F32":
				e("VMOVUPS %d(SI), Z%d", width*s, w)
			case "F16":
				e("VCVTPH2PS %d(SI), Z%d", width*s, w)
			default:
				e("VPMOVZXWD %d(SI), Z%d", width*s, w)
				e("VPSLLD $16, Z%d, Z%d", w, w)
			}
			for i := range m {
				e("VFMADD231PS %d(CX), Z%d, Z%d", unitBytes*i+64*s, w, s%2*8+i)
			}
		}
		e("ADDQ $%d, SI", 4*width)
	}}.emit()
}

// Registers of the int8 kernels, after sums for up to 8 rows and as many for
// minima, so that a unit has one addition to wait for.
const (
	minSums = 8
	codes   = 16 + iota - 1
	scale
	minimum
	temp
	dots
	toF32  = 30
	nibble = 29
)

// products adds the products of a unit of a step to the sums of every row of x: (Σ codes·x) ·
// scale of x · scale, and minimum·Σ x. low, when not 0, holds low bytes of codes.
func products(m, unit, low int, min bool) {
	for i := range m {
		x := unitBytes * (unit*m + i)
		e("VMOVDQU64 %d(CX), Z%d", x+unitStart, dots)
		e("VPDPBUSD %d(CX), Z%d, Z%d", x+unitCodes, codes, dots)
		if low > 0 {
			e("VPSLLD $8, Z%d, Z%d", dots, dots)
			e("VPDPBUSD %d(CX), Z%d, Z%d", x+unitCodes, low, dots)
		}
		e("VCVTDQ2PS Z%d, Z%d", dots, dots)
		e("VMULPS %d(CX), Z%d, Z%d", x+unitScale, dots, dots)
		e("VFMADD231PS Z%d, Z%d, Z%d", dots, scale, i)
		if min {
			e("VFMADD231PS %d(CX), Z%d, Z%d", x+unitSum, minimum, minSums+i)
		}
	}
}

// blockType is a type with blocks of 32 that begin with an f16 scale. Two
// blocks make a unit.
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

// halves loads the two scales of a unit, eight lanes each. An f16 moved to
// where an f32 has its exponent is 2^-112 times its value; x's scales have
// 2^100 and the results 2^12 of that.
func (b blockType) halves() {
	e("VPBROADCASTD (SI), Z%d", scale)
	e("VPBROADCASTD %d(SI), K1, Z%d", b.size, scale)
	if b.min {
		e("VPSRAD $3, Z%d, Z%d", scale, minimum)
		e("VPANDD Z%d, Z%d, Z%d", toF32, minimum, minimum)
	}
	e("VPSLLD $16, Z%d, Z%d", scale, scale)
	e("VPSRAD $3, Z%d, Z%d", scale, scale)
	e("VPANDD Z%d, Z%d, Z%d", toF32, scale, scale)
}

// Registers of block types beside those of all.
const (
	shifts = 28
	extra  = 27
	factor = 26
)

// constants are what unpack needs.
func (b blockType) constants() {
	e("MOVL $0xff00, R10")
	e("KMOVW R10, K1")
	if b.bytes {
		bytesIn(0x80, nibble)
	} else {
		e("VMOVDQU64 oddNibbles16<>(SB), Z%d", shifts)
		bytesIn(15, nibble)
	}
	if b.high {
		bytesIn(16, extra)
	}
}

// first is where codes begin in a block.
func (b blockType) first() int {
	n := 2
	if b.min {
		n += 2
	}
	if b.high {
		n += 4
	}
	return n
}

// unpack puts the codes of a unit into a register, signed bytes plus 128.
func (b blockType) unpack() {
	first := b.first()
	if b.bytes {
		e("VMOVDQU64 %d(SI), Y%d", first, codes)
		e("VINSERTI64X4 $1, %d(SI), Z%d, Z%d", first+b.size, codes, codes)
		e("VPXORD Z%d, Z%d, Z%d", nibble, codes, codes)
		return
	}
	e("VBROADCASTI32X4 %d(SI), Z%d", first, codes)
	e("VBROADCASTI32X4 %d(SI), K1, Z%d", first+b.size, codes)
	e("VPSRLVD Z%d, Z%d, Z%d", shifts, codes, codes)
	e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
	if b.high {
		e("KMOVD %d(SI), K2", first-4)
		e("KMOVD %d(SI), K3", first-4+b.size)
		e("KUNPCKDQ K2, K3, K2")
		e("VPADDB Z%d, Z%d, K2, Z%d", extra, codes, codes)
	}
}

func (b blockType) kernel(m int) {
	matvecText(0, b.name, b.name, m)
	if b.table {
		e("VBROADCASTI32X4 (R10), Z%d", extra)
	}
	e("MOVL $0x8fffe000, R10")
	e("VPBROADCASTD R10, Z%d", toF32)
	e("MOVL $0x45800000, R10") // 2^12
	e("VMOVD R10, X%d", factor)
	b.constants()
	l := rowLoop{m: m, xBytes: unitBytes, units: 1, parts: 1, apart: minSums, factor: factor}
	if b.min {
		l.parts = 2
	}
	l.step = func() {
		prefetch(64)
		b.halves()
		b.unpack()
		if b.table {
			e("VPSHUFB Z%d, Z%d, Z%d", codes, extra, codes)
		}
		products(m, 0, 0, b.min)
		e("ADDQ $%d, SI", 2*b.size)
	}
	l.emit()
}

// apart is the loop of a type whose scales and minima lie apart: R13 counts a
// row's units, R10 is the index of the scale of the present one.
func apart(m, size, scale int, step func()) rowLoop {
	l := rowLoop{m: m, xBytes: unitBytes, units: 1, parts: 1, apart: minSums}
	l.begin = func() { e("MOVQ %s, R13", firstArg) }
	l.end = func() {
		e("LEAQ (R11)(R14*4), R11")
		e("LEAQ (R12)(R14*4), R12")
	}
	l.step = func() {
		prefetchUnit(size)
		e("SHRXQ R15, R13, R10")
		e("INCQ R13")
		e("VBROADCASTSS (R11)(R10*4), Z%d", scale)
		step()
		e("ADDQ $%d, SI", size)
	}
	return l
}

// grouped: integer codes with scales and minima apart.
func grouped(name, what string, m int) {
	matvecText(0, name, "codes of integers, "+what, m)
	size := 64
	if name == "Low" {
		size = 32
		e("VMOVDQU64 highNibbles32<>(SB), Z28")
		bytesIn(15, nibble)
	}
	l := apart(m, size, scale, func() {
		if size == 32 {
			e("VBROADCASTI64X4 (SI), Z%d", codes)
			e("VPSRLVD Z28, Z%d, Z%d", codes, codes)
			e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
		} else {
			e("VMOVDQU64 (SI), Z%d", codes)
		}
		e("VBROADCASTSS (R12)(R10*4), Z%d", minimum)
		products(m, 0, 0, true)
	})
	l.parts = 2
	l.emit()
}

// codebook: a code stands for a number of 16 bits, whose high byte (plus 128)
// and low byte are in two tables of 16; scales are apart.
func codebook(m int) {
	matvecText(0, "Book", "codes of NF4 or FP4, highest nibble first", m)
	const high, low = 28, 27
	e("VBROADCASTI32X4 (R10), Z%d", high)
	e("VBROADCASTI32X4 16(R10), Z%d", low)
	e("VMOVDQU64 lowNibbles32<>(SB), Z26")
	bytesIn(15, nibble)
	apart(m, 32, scale, func() {
		e("VBROADCASTI64X4 (SI), Z%d", codes)
		e("VPSRLVD Z26, Z%d, Z%d", codes, codes)
		e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
		e("VPSHUFB Z%d, Z%d, Z%d", codes, low, temp)
		e("VPSHUFB Z%d, Z%d, Z%d", codes, high, codes)
		products(m, 0, temp, false)
	}).emit()
}
