package main

import "math"

// kType is a type with blocks of 256, four units.
type kType struct {
	name string
	size int
}

var kTypes = []kType{{"Q2K", 84}, {"Q3K", 110}, {"Q4K", 144}, {"Q5K", 176}, {"Q6K", 210}, {"IQ4XS", 136}}

// Registers of K types: four of codes, the scales and minima of every 16 codes,
// and four that the kernels use, too.
const (
	kCodes   = 16
	kScales  = 20
	kMins    = 21
	kHigh    = 22
	kTemp    = 23
	kMore    = 24
	kShifts  = 29
	kFifteen = 30
	kTable   = 31
)

// constants are what unpack needs.
func (k kType) constants() {
	if k.lattice() {
		k.latticeConstants()
		return
	}
	if k.name == "IQ4XS" {
		e("VBROADCASTI32X4 (R10), Z%d", kTable)
	}
	bytesIn(15, kFifteen)
	shifts := "highNibbles32"
	if k.name == "IQ4XS" {
		shifts = "oddNibbles16"
	}
	e("VMOVDQU64 %s<>(SB), Z%d", shifts, kShifts)
}

// unpack puts a block's codes, one a byte, into four registers and its scales
// and minima, one for every 16 codes, into two.
func (k kType) unpack() {
	if k.lattice() {
		k.unpackLattice()
		return
	}
	switch k.name {
	case "Q2K":
		k.unpackQ2()
	case "Q3K":
		k.unpackQ3()
	case "Q6K":
		k.unpackQ6()
	case "IQ4XS":
		k.unpackIQ4()
	default:
		first := 16
		sixBits(kScales, kMins, kHigh)
		if k.name == "Q5K" {
			first = 48
			e("VBROADCASTI64X4 16(SI), Z%d", kHigh)
			e("VPSRLVD oddBits32<>(SB), Z%d, Z%d", kHigh, kHigh)
		}
		for u := range 4 {
			e("VBROADCASTI64X4 %d(SI), Z%d", first+32*u, kCodes+u)
			e("VPSRLVD Z%d, Z%d, Z%d", kShifts, kCodes+u, kCodes+u)
			e("VPANDD Z%d, Z%d, Z%d", kFifteen, kCodes+u, kCodes+u)
			if k.name == "Q5K" {
				e("VPTESTMB bit%d<>(SB), Z%d, K2", 2*u, kHigh)
				e("VPADDB sixteens<>(SB), Z%d, K2, Z%d", kCodes+u, kCodes+u)
			}
		}
	}
}

// kHalf multiplies the integers of a register by the f16 at an offset.
func kHalf(off, z int) {
	e("VCVTDQ2PS Z%d, Z%d", z, z)
	e("VPBROADCASTW %d(SI), Y%d", off, kHigh)
	e("VCVTPH2PS Y%d, Z%d", kHigh, kHigh)
	e("VMULPS Z%d, Z%d, Z%d", kHigh, z, z)
}

// kZero makes minima of a zero point that all scales share.
func kZero(zero float32) {
	e("MOVL $0x%x, R10", math.Float32bits(zero))
	e("VPBROADCASTD R10, Z%d", kMins)
	e("VMULPS Z%d, Z%d, Z%d", kScales, kMins, kMins)
}

// quads puts the codes' lowest two bits into the registers, from four in a byte.
func (k kType) quads(first int) {
	for u := range 4 {
		e("VBROADCASTI64X4 %d(SI), Z%d", first+u/2*32, kCodes+u)
		e("VPSRLVD %s<>(SB), Z%d, Z%d", []string{"pairsRight", "pairsHigh"}[u%2], kCodes+u, kCodes+u)
		e("VPANDD lowPairs<>(SB), Z%d, Z%d", kCodes+u, kCodes+u)
	}
}

func (k kType) unpackQ2() {
	e("VPMOVZXBD (SI), Z%d", kScales)
	e("VPSRLD $4, Z%d, Z%d", kScales, kMins)
	e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
	kHalf(80, kScales)
	kHalf(82, kMins)
	k.quads(16)
}

func (k kType) unpackQ3() {
	e("VPBROADCASTQ 96(SI), X%d", kScales)
	e("VPMOVZXBD X%d, Z%d", kScales, kScales)
	e("VPSRLVD nibbles8<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPBROADCASTD 104(SI), X%d", kHigh)
	e("VPMOVZXBD X%d, Z%d", kHigh, kHigh)
	e("VPSLLD $4, Z%d, Z%d", kHigh, kHigh)
	e("VPSRLVD pairs4<>(SB), Z%d, Z%d", kHigh, kHigh)
	e("VPANDD highPair<>(SB), Z%d, Z%d", kHigh, kHigh)
	e("VPORD Z%d, Z%d, Z%d", kHigh, kScales, kScales)
	e("VPSUBD thirtyTwo<>(SB), Z%d, Z%d", kScales, kScales)
	kHalf(108, kScales)
	kZero(4)
	k.quads(32)
	e("VBROADCASTI64X4 (SI), Z%d", kHigh)
	e("VPSRLVD oddBits32<>(SB), Z%d, Z%d", kHigh, kHigh)
	for u := range 4 {
		e("VPTESTMB bit%d<>(SB), Z%d, K2", 2*u, kHigh)
		e("VPADDB fourBytes<>(SB), Z%d, K2, Z%d", kCodes+u, kCodes+u)
	}
}

func (k kType) unpackQ6() {
	e("VPMOVSXBD 192(SI), Z%d", kScales)
	kHalf(208, kScales)
	kZero(32)
	for u := range 4 {
		e("VBROADCASTI64X4 %d(SI), Z%d", 128+u/2*32, kHigh)
		if u%2 == 1 {
			e("VPSRLD $4, Z%d, Z%d", kCodes+u-1, kCodes+u)
			e("VPANDD Z%d, Z%d, Z%d", kFifteen, kCodes+u-1, kCodes+u-1)
			e("VPSRLVD pairsRight<>(SB), Z%d, Z%d", kHigh, kHigh)
		} else {
			e("VMOVDQU64 %d(SI), Z%d", u/2*64, kCodes+u)
			e("VPSLLVD pairsLeft<>(SB), Z%d, Z%d", kHigh, kHigh)
		}
		e("VPANDD pairBits<>(SB), Z%d, Z%d", kHigh, kTemp)
		if u%2 == 1 {
			e("VPANDD Z%d, Z%d, Z%d", kFifteen, kCodes+u, kCodes+u)
			e("VPORD Z%d, Z%d, Z%d", kMore, kCodes+u-1, kCodes+u-1)
			e("VPORD Z%d, Z%d, Z%d", kTemp, kCodes+u, kCodes+u)
		} else {
			e("VMOVDQA64 Z%d, Z%d", kTemp, kMore)
		}
	}
}

// unpackIQ4 leaves the codebook's numbers plus 128.
func (k kType) unpackIQ4() {
	e("VPBROADCASTD 4(SI), Z%d", kScales)
	e("VPSRLVD eightNibbles<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPBROADCASTD (SI), Z%d", kHigh)
	e("VPSRLVD eightPairs<>(SB), Z%d, Z%d", kHigh, kHigh)
	e("VPANDD highPair<>(SB), Z%d, Z%d", kHigh, kHigh)
	e("VPORD Z%d, Z%d, Z%d", kHigh, kScales, kScales)
	e("VPSUBD thirtyTwo<>(SB), Z%d, Z%d", kScales, kScales)
	kHalf(0, kScales)
	kZero(128)
	for u := range 4 {
		e("VMOVDQU64 %d(SI), Y%d", 8+32*u, kCodes+u)
		e("VSHUFI64X2 $0x50, Z%d, Z%d, Z%d", kCodes+u, kCodes+u, kCodes+u)
		e("VPSRLVD Z%d, Z%d, Z%d", kShifts, kCodes+u, kCodes+u)
		e("VPANDD Z%d, Z%d, Z%d", kFifteen, kCodes+u, kCodes+u)
		e("VPSHUFB Z%d, Z%d, Z%d", kCodes+u, kTable, kCodes+u)
	}
}

// kernel: scales and minima are multiplied with those of x and then spread.
func (k kType) kernel(m int) {
	const dot, spread, order = kTemp, kMore, 25
	frame := 0
	if k.lattice() {
		frame = latticeRoom
	}
	matvecText(frame, k.name, k.name, m)
	k.constants()
	if k.lattice() {
		e("MOVQ SP, R12")
	}
	for u := range 4 {
		e("VMOVDQU64 fours%d<>(SB), Z%d", u, order+u)
	}
	rowLoop{m: m, xBytes: blockBytes, units: 4, parts: 2, apart: minSums, step: func() {
		prefetch(k.size)
		k.unpack()
		for i := range m {
			x := i * blockBytes
			e("VFNMADD231PS %d(CX), Z%d, Z%d", x+blockSum, kMins, minSums+i)
			e("VMULPS %d(CX), Z%d, Z%d", x+blockScale, kScales, kHigh)
			for u := range 4 {
				e("VPXORD Z%d, Z%d, Z%d", dot, dot, dot)
				e("VPDPBUSD %d(CX), Z%d, Z%d", x+64*u, kCodes+u, dot)
				e("VPERMPS Z%d, Z%d, Z%d", kHigh, order+u, spread)
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
