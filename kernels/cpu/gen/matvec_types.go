package main

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
	rowLoop{m: m, xBytes: unitBytes, units: 1, second: 8, step: func() {
		prefetch(4 * width)
		for s := range 4 {
			w := 16 + s
			if bf {
				e("VPMOVZXWD %d(SI), Z%d", width*s, w)
				e("VPSLLD $16, Z%d, Z%d", w, w)
			} else {
				e("VMOVUPS %d(SI), Z%d", width*s, w)
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

// products adds the unit's products to the sums of every row of x: (Σ codes·x) ·
// scale of x · scale, and minimum·Σ x. low, when not 0, holds low bytes of codes.
func products(m, low int, min bool) {
	for i := range m {
		x := i * unitBytes
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

func (b blockType) kernel(m int) {
	matvecText(b.name, b.name, m, int8Args)
	first := 2 // of the codes
	if b.min {
		first += 2
	}
	high := first
	if b.high {
		first += 4
	}
	const shifts, extra, factor = 28, 27, 26
	if b.table {
		e("VBROADCASTI32X4 (R10), Z%d", extra)
	}
	e("MOVL $0x8fffe000, R10")
	e("VPBROADCASTD R10, Z%d", toF32)
	e("MOVL $0x45800000, R10") // 2^12
	e("VMOVD R10, X%d", factor)
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
	l := rowLoop{m: m, xBytes: unitBytes, units: 1, factor: factor}
	if b.min {
		l.second = minSums
	}
	l.step = func() {
		prefetch(64)
		b.halves()
		if b.bytes {
			e("VMOVDQU64 %d(SI), Y%d", first, codes)
			e("VINSERTI64X4 $1, %d(SI), Z%d, Z%d", first+b.size, codes, codes)
			e("VPXORD Z%d, Z%d, Z%d", nibble, codes, codes)
		} else {
			e("VBROADCASTI32X4 %d(SI), Z%d", first, codes)
			e("VBROADCASTI32X4 %d(SI), K1, Z%d", first+b.size, codes)
			e("VPSRLVD Z%d, Z%d, Z%d", shifts, codes, codes)
			e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
		}
		if b.high {
			e("KMOVD %d(SI), K2", high)
			e("KMOVD %d(SI), K3", high+b.size)
			e("KUNPCKDQ K2, K3, K2")
			e("VPADDB Z%d, Z%d, K2, Z%d", extra, codes, codes)
		}
		if b.table {
			e("VPSHUFB Z%d, Z%d, Z%d", codes, extra, codes)
		}
		products(m, 0, b.min)
		e("ADDQ $%d, SI", 2*b.size)
	}
	l.emit()
}

// kType is a type with blocks of 256, four units.
type kType struct {
	name string
	size int
}

var kTypes = []kType{{"Q4K", 144}, {"Q5K", 176}, {"Q6K", 210}}

// kernel: four registers of codes; their scales and minima, one for every 16
// codes, are multiplied with those of x and then spread.
func (k kType) kernel(m int) {
	const code, scales, mins, high, dot, spread, order, shifts = 16, 20, 21, 22, 23, 24, 25, 29
	matvecText(k.name, k.name, m, int8Args)
	bytesIn(15, 30)
	e("VMOVDQU64 highNibbles32<>(SB), Z%d", shifts)
	for u := range 4 {
		e("VMOVDQU64 fours%d<>(SB), Z%d", u, order+u)
	}
	rowLoop{m: m, xBytes: blockBytes, units: 4, second: minSums, step: func() {
		prefetch(k.size)
		switch k.name {
		case "Q6K":
			e("VPMOVSXBD 192(SI), Z%d", scales)
			e("VCVTDQ2PS Z%d, Z%d", scales, scales)
			e("VPBROADCASTW 208(SI), Y%d", high)
			e("VCVTPH2PS Y%d, Z%d", high, high)
			e("VMULPS Z%d, Z%d, Z%d", high, scales, scales)
			e("MOVL $0x42000000, R10") // zero is 32
			e("VPBROADCASTD R10, Z%d", mins)
			e("VMULPS Z%d, Z%d, Z%d", scales, mins, mins)
			for u := range 4 {
				e("VBROADCASTI64X4 %d(SI), Z%d", 128+u/2*32, high)
				if u%2 == 1 {
					e("VPSRLD $4, Z%d, Z%d", code+u-1, code+u)
					e("VPANDD Z30, Z%d, Z%d", code+u-1, code+u-1)
					e("VPSRLVD pairsRight<>(SB), Z%d, Z%d", high, high)
				} else {
					e("VMOVDQU64 %d(SI), Z%d", u/2*64, code+u)
					e("VPSLLVD pairsLeft<>(SB), Z%d, Z%d", high, high)
				}
				e("VPANDD pairBits<>(SB), Z%d, Z%d", high, dot)
				if u%2 == 1 {
					e("VPANDD Z30, Z%d, Z%d", code+u, code+u)
					e("VPORD Z%d, Z%d, Z%d", spread, code+u-1, code+u-1)
					e("VPORD Z%d, Z%d, Z%d", dot, code+u, code+u)
				} else {
					e("VMOVDQA64 Z%d, Z%d", dot, spread)
				}
			}
		default:
			first := 16
			sixBits(scales, mins, high)
			if k.name == "Q5K" {
				first = 48
				e("VBROADCASTI64X4 16(SI), Z%d", high)
				e("VPSRLVD oddBits32<>(SB), Z%d, Z%d", high, high)
			}
			for u := range 4 {
				e("VBROADCASTI64X4 %d(SI), Z%d", first+32*u, code+u)
				e("VPSRLVD Z%d, Z%d, Z%d", shifts, code+u, code+u)
				e("VPANDD Z30, Z%d, Z%d", code+u, code+u)
				if k.name == "Q5K" {
					e("VPTESTMB bit%d<>(SB), Z%d, K2", 2*u, high)
					e("VPADDB sixteens<>(SB), Z%d, K2, Z%d", code+u, code+u)
				}
			}
		}
		for i := range m {
			x := i * blockBytes
			e("VFNMADD231PS %d(CX), Z%d, Z%d", x+blockSum, mins, minSums+i)
			e("VMULPS %d(CX), Z%d, Z%d", x+blockScale, scales, high)
			for u := range 4 {
				e("VPXORD Z%d, Z%d, Z%d", dot, dot, dot)
				e("VPDPBUSD %d(CX), Z%d, Z%d", x+64*u, code+u, dot)
				e("VPERMPS Z%d, Z%d, Z%d", high, order+u, spread)
				e("VCVTDQ2PS Z%d, Z%d", dot, dot)
				e("VFMADD231PS Z%d, Z%d, Z%d", dot, spread, i)
			}
		}
		e("ADDQ $%d, SI", k.size)
	}}.emit()
}

// sixBits decodes the eight scales and minima in front of a block of Q4_K or
// Q5_K, each twice.
func sixBits(scales, mins, tmp int) {
	e("MOVL 4(SI), R10")
	e("MOVL 8(SI), R11")
	e("MOVL 12(SI), R12")
	e("MOVL R12, R13")
	e("ANDL $0x0f0f0f0f, R12")
	e("SHRL $4, R13")
	e("ANDL $0x0f0f0f0f, R13")
	for i, lo := range []string{"R10", "R11"} {
		hi, z := []string{"R12", "R13"}[i], []int{scales, mins}[i]
		e("MOVL %s, R14", lo)
		e("ANDL $0x3f3f3f3f, R14")
		e("SHRL $2, %s", lo)
		e("ANDL $0x30303030, %s", lo)
		e("ORL %s, %s", lo, hi)
		e("SHLQ $32, %s", hi)
		e("ORQ R14, %s", hi)
		e("VMOVQ %s, X%d", hi, z)
		e("VPUNPCKLBW X%d, X%d, X%d", z, z, z)
		e("VPMOVZXBD X%d, Z%d", z, z)
		e("VCVTDQ2PS Z%d, Z%d", z, z)
		e("VPBROADCASTW %d(SI), Y%d", 2*i, tmp)
		e("VCVTPH2PS Y%d, Z%d", tmp, tmp)
		e("VMULPS Z%d, Z%d, Z%d", tmp, z, z)
	}
}

// apart is the loop of a type whose scales and minima lie apart: R13 counts a
// row's units, R10 is the index of the scale of the present one.
func apart(m, size int, step func()) rowLoop {
	l := rowLoop{m: m, xBytes: unitBytes, units: 1}
	l.begin = func() { e("XORL R13, R13") }
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
	matvecText(name, "codes of integers, "+what, m, int8Args)
	size := 64
	if name == "Low" {
		size = 32
		e("VMOVDQU64 highNibbles32<>(SB), Z28")
		bytesIn(15, nibble)
	}
	l := apart(m, size, func() {
		if size == 32 {
			e("VBROADCASTI64X4 (SI), Z%d", codes)
			e("VPSRLVD Z28, Z%d, Z%d", codes, codes)
			e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
		} else {
			e("VMOVDQU64 (SI), Z%d", codes)
		}
		e("VBROADCASTSS (R12)(R10*4), Z%d", minimum)
		products(m, 0, true)
	})
	l.second = minSums
	l.emit()
}

// codebook: a code stands for a number of 16 bits, whose high byte (plus 128)
// and low byte are in two tables of 16; scales are apart.
func codebook(m int) {
	matvecText("Book", "codes of NF4 or FP4, highest nibble first", m, int8Args)
	const high, low = 28, 27
	e("VBROADCASTI32X4 (R10), Z%d", high)
	e("VBROADCASTI32X4 16(R10), Z%d", low)
	e("VMOVDQU64 lowNibbles32<>(SB), Z26")
	bytesIn(15, nibble)
	apart(m, 32, func() {
		e("VBROADCASTI64X4 (SI), Z%d", codes)
		e("VPSRLVD Z26, Z%d, Z%d", codes, codes)
		e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
		e("VPSHUFB Z%d, Z%d, Z%d", codes, low, temp)
		e("VPSHUFB Z%d, Z%d, Z%d", codes, high, codes)
		products(m, temp, false)
	}).emit()
}
