package main

import "fmt"

// The types of few bits with blocks of 256: those that index points of a
// lattice, and trits. In memory R13 is a type's table: the values of every point
// plus its zero, bytes, eight to a point or four. R12 is room for 64 bytes. What
// signs turn is 64, which is why 128 less a code is the other sign's.
const (
	latticeRoom = 64
	zeroTurned  = 64 // of IQ2 and IQ3
	zeroShifted = 16 // of IQ1, in eighths
	zeroTrit    = 1  // of TQ
	turns       = 31 // bytes of twice zeroTurned
)

var latticeTypes = []kType{{"IQ3S", 110}, {"IQ3XXS", 98}, {"IQ2S", 82}, {"IQ2XS", 74}, {"IQ2XXS", 66}, {"IQ1M", 56}, {"IQ1S", 50}, {"TQ20", 66}, {"TQ10", 54}}

// latticeWords are constants of these types.
func latticeWords() {
	words("everyNibble", func(i int) int { return i % 2 * 4 })
	words("nineBits", func(int) int { return 511 })
	words("oneBit", func(int) int { return 1 })
	words("threeBits", func(int) int { return 7 })
	words("topBits", func(int) int { return 0x80808080 })
	words("bit15", func(int) int { return 1 << 15 })
	words("bit8", func(int) int { return 1 << 8 })
	words("quarter", func(int) int { return 0x3e800000 })
	words("eighth", func(int) int { return 0x3e000000 })
	for i := range 4 {
		words(fmt.Sprintf("seven%d", i), func(int) int { return 0x7f << (8 * i) })
	}
	words("pairs8", func(i int) int { return i % 8 * 2 })
	words("bits89", func(int) int { return 3 << 8 })
	words("nibbles4", func(i int) int { return i % 8 * 4 })
	words("threes", func(i int) int { return i%4*3 + i/4%2*16 })
	words("wordOfFour", func(i int) int { return 0x80800000 | (2*(i/4)+1)<<8 | 2*(i/4) })
	words("threesOfFour", func(i int) int { return i % 4 * 3 })
	words("threeWords", func(int) int { return 0x00030003 })
	for g := range 8 {
		words(tritFactors(g), func(i int) int { return tritFactor(g, 2*i+1)<<16 | tritFactor(g, 2*i) })
	}
}

// tritFactors is the name of the factors of a group of 32 elements of TQ1_0.
func tritFactors(g int) string { return fmt.Sprintf("trits%d", g) }

// tritFactor brings the trit of element i of 32 of a group to the top of a word:
// its byte times a power of three, eight bits up.
func tritFactor(g, i int) int {
	n := g
	switch {
	case g == 7 && i >= 16:
		n = i/4 - 4
	case g >= 5:
		n = (g-5)*2 + i/16
	}
	return []int{1, 3, 9, 27, 81}[n] << 8
}

// lattice reports whether k is one of these types.
func (k kType) lattice() bool {
	for _, l := range latticeTypes {
		if k == l {
			return true
		}
	}
	return false
}

// latticeConstants are what unpack needs; the table's address is in R10.
func (k kType) latticeConstants() {
	e("MOVQ R10, R13")
	bytesIn(2*zeroTurned, turns)
}

// gatherEights looks up the points of unit u by eight indices in a register.
func gatherEights(u, indices int) {
	e("KXNORB K2, K2, K2")
	e("VPGATHERDQ (R13)(Y%d*8), K2, Z%d", indices, kCodes+u)
}

// gatherFours does by sixteen indices.
func gatherFours(u, indices int) {
	e("KXNORW K2, K2, K2")
	e("VPGATHERDD (R13)(Z%d*4), K2, Z%d", indices, kCodes+u)
}

// turnSigns changes the signs of unit u where the 64 bits in memory are set.
func turnSigns(u int, at string, off int) {
	e("KMOVQ %d(%s), K3", off+8*u, at)
	e("VPSUBB Z%d, Z%d, K3, Z%d", kCodes+u, turns, kCodes+u)
}

// evenSigns sets the top bit of every byte of a register of seven bits each so that
// an even number is set.
func evenSigns(reg string, z, tmp, tmp2 int) {
	from := z
	for _, n := range []int{4, 2, 1} {
		e("VPSRLD $%d, %s%d, %s%d", n, reg, from, reg, tmp2)
		e("VPXORD %s%d, %s%d, %s%d", reg, tmp2, reg, from, reg, tmp)
		from = tmp
	}
	e("VPSLLD $7, %s%d, %s%d", reg, tmp, reg, tmp)
	e("VPTERNLOGD $0xf8, topBits<>(SB), %s%d, %s%d", reg, tmp, reg, z)
}

// sevens spreads four times seven bits of the dwords of Y z to their bytes.
func sevens(z, to, tmp int) {
	e("VPANDD seven0<>(SB), Y%d, Y%d", z, to)
	for i := 1; i < 4; i++ {
		e("VPSLLD $%d, Y%d, Y%d", i, z, tmp)
		e("VPTERNLOGD $0xf8, seven%d<>(SB), Y%d, Y%d", i, tmp, to)
	}
}

// odds makes scales of integers s of a few bits: (2s+1)·d·unit, d an f16.
func odds(off int, unit string) {
	oddsPlain()
	kHalf(off, kScales)
	if unit != "" {
		e("VMULPS %s<>(SB), Z%d, Z%d", unit, kScales, kScales)
	}
}

func oddsPlain() {
	e("VPADDD Z%d, Z%d, Z%d", kScales, kScales, kScales)
	e("VPORD oneBit<>(SB), Z%d, Z%d", kScales, kScales)
}

// nibbleScales loads eight bytes of two.
func nibbleScales(off int) {
	e("VPMOVZXBQ %d(SI), Z%d", off, kScales)
	e("VPSHUFD $0xa0, Z%d, Z%d", kScales, kScales)
	e("VPSRLVD everyNibble<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
}

// unpackLattice is unpack of these types.
func (k kType) unpackLattice() {
	switch k.name {
	case "IQ2XXS":
		k.unpackIQ2XXS()
	case "IQ2XS":
		k.unpackIQ2XS()
	case "IQ2S":
		k.unpackIQ2S()
	case "IQ3XXS":
		k.unpackIQ3XXS()
	case "IQ3S":
		k.unpackIQ3S()
	case "IQ1S":
		k.unpackIQ1S()
	case "IQ1M":
		k.unpackIQ1M()
	case "TQ20":
		k.quads(0)
		tritScale(64)
	case "TQ10":
		k.unpackTQ1()
	}
}

// unpackIQ2XXS: in each of eight qwords four indices, and a dword of signs and scale.
func (k kType) unpackIQ2XXS() {
	e("VMOVDQU64 2(SI), Z%d", kHigh)
	e("VPSHUFD $0xf5, Z%d, Z%d", kHigh, kScales)
	e("VPSRLD $28, Z%d, Z%d", kScales, kScales)
	e("VPMOVQD Z%d, Y%d", kHigh, kTemp)
	e("VMOVDQU64 Y%d, (R12)", kTemp)
	e("VPSRLQ $32, Z%d, Z%d", kHigh, kHigh)
	e("VPMOVQD Z%d, Y%d", kHigh, kHigh)
	k.spreadSigns(kHigh)
	odds(0, "eighth")
	kZero(zeroTurned)
	for u := range 4 {
		e("VPMOVZXBD %d(R12), Y%d", 8*u, kHigh)
		gatherEights(u, kHigh)
		turnSigns(u, "R12", 32)
	}
}

// spreadSigns puts the signs of a block into the second half of the room, by dwords of
// four times seven.
func (k kType) spreadSigns(z int) {
	sevens(z, kTemp, kMore)
	evenSigns("Y", kTemp, kMore, z)
	e("VMOVDQU64 Y%d, 32(R12)", kTemp)
}

// unpackIQ2XS: words of an index of nine bits and seven signs.
func (k kType) unpackIQ2XS() {
	e("VMOVDQU64 2(SI), Z%d", kHigh)
	e("VPSRLW $9, Z%d, Z%d", kHigh, kHigh)
	evenSigns("Z", kHigh, kTemp, kMore)
	e("VPMOVWB Z%d, Y%d", kHigh, kHigh)
	e("VMOVDQU64 Y%d, 32(R12)", kHigh)
	nibbleScales(66)
	odds(0, "eighth")
	kZero(zeroTurned)
	for u := range 4 {
		e("VPMOVZXWD %d(SI), Y%d", 2+16*u, kHigh)
		e("VPANDD nineBits<>(SB), Y%d, Y%d", kHigh, kHigh)
		gatherEights(u, kHigh)
		turnSigns(u, "R12", 32)
	}
}

func (k kType) unpackIQ2S() {
	nibbleScales(74)
	odds(0, "eighth")
	kZero(zeroTurned)
	for u := range 4 {
		e("VPBROADCASTD %d(SI), Y%d", 66+2*u, kTemp)
		e("VPSLLD $8, Y%d, Y%d", kTemp, kTemp)
		e("VPSRLVD pairs8<>(SB), Y%d, Y%d", kTemp, kTemp)
		e("VPMOVZXBD %d(SI), Y%d", 2+8*u, kHigh)
		e("VPTERNLOGD $0xf8, bits89<>(SB), Y%d, Y%d", kTemp, kHigh)
		gatherEights(u, kHigh)
		turnSigns(u, "SI", 34)
	}
}

func (k kType) unpackIQ3XXS() {
	e("VMOVDQU64 66(SI), Y%d", kHigh)
	e("VPMOVZXDQ Y%d, Z%d", kHigh, kScales)
	e("VPSHUFD $0xa0, Z%d, Z%d", kScales, kScales)
	e("VPSRLD $28, Z%d, Z%d", kScales, kScales)
	k.spreadSigns(kHigh)
	odds(0, "quarter")
	kZero(zeroTurned)
	for u := range 4 {
		e("VPMOVZXBD %d(SI), Z%d", 2+16*u, kHigh)
		gatherFours(u, kHigh)
		turnSigns(u, "R12", 32)
	}
}

func (k kType) unpackIQ3S() {
	e("VPBROADCASTD 106(SI), Z%d", kScales)
	e("VPSRLVD eightNibbles<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
	odds(0, "")
	kZero(zeroTurned)
	for u := range 4 {
		e("VPMOVZXBD %d(SI), Z%d", 2+16*u, kHigh)
		e("KMOVW %d(SI), K2", 66+2*u)
		e("VPORD bit8<>(SB), Z%d, K2, Z%d", kHigh, kHigh)
		gatherFours(u, kHigh)
		turnSigns(u, "SI", 74)
	}
}

// unpackIQ1S: points that lie below are those above less a quarter, which is in the minima.
func (k kType) unpackIQ1S() {
	scalesIQ1S()
	for u := range 4 {
		e("VPBROADCASTD %d(SI), Y%d", 34+4*u, kTemp)
		e("VPSRLVD threes<>(SB), Y%d, Y%d", kTemp, kTemp)
		e("VPANDD threeBits<>(SB), Y%d, Y%d", kTemp, kTemp)
		withHigh(u, 2)
	}
}

func scalesIQ1S() {
	e("VPMOVZXWQ 34(SI), Z%d", kScales)
	e("VPSHUFD $0xa0, Z%d, Z%d", kScales, kScales)
	e("VPTESTMD bit15<>(SB), Z%d, K3", kScales)
	e("VPSRLD $12, Z%d, Z%d", kScales, kScales)
	e("VPANDD threeBits<>(SB), Z%d, Z%d", kScales, kScales)
	odds(0, "eighth")
	kZero(zeroShifted)
	e("VADDPS Z%d, Z%d, Z%d", kScales, kScales, kHigh)
	e("VADDPS Z%d, Z%d, K3, Z%d", kHigh, kMins, kMins)
}

// withHigh looks up unit u, whose indices' low bytes lie at first, by these and the
// bits above them.
func withHigh(u, first int) {
	e("VPSLLD $8, Y%d, Y%d", kTemp, kTemp)
	e("VPMOVZXBD %d(SI), Y%d", first+8*u, kHigh)
	e("VPORD Y%d, Y%d, Y%d", kTemp, kHigh, kHigh)
	gatherEights(u, kHigh)
}

// unpackIQ1M: the side is the index's highest bit, as in the table.
func (k kType) unpackIQ1M() {
	scalesIQ1M()
	for u := range 4 {
		e("VPBROADCASTD %d(SI), Y%d", 32+4*u, kTemp)
		e("VPSRLVD nibbles4<>(SB), Y%d, Y%d", kTemp, kTemp)
		e("VPANDD fifteen<>(SB), Y%d, Y%d", kTemp, kTemp)
		withHigh(u, 0)
	}
}

func scalesIQ1M() {
	e("MOVQ 48(SI), R10")
	e("MOVQ $0xf000f000f000f000, R11")
	e("PEXTQ R11, R10, R10")
	e("VPBROADCASTW R10, Y%d", kMins)
	e("VCVTPH2PS Y%d, Z%d", kMins, kMins)
	e("VPBROADCASTQ 48(SI), Z%d", kScales)
	e("VPSHUFB wordOfFour<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPSRLVD threesOfFour<>(SB), Z%d, Z%d", kScales, kScales)
	e("VPANDD threeBits<>(SB), Z%d, Z%d", kScales, kScales)
	oddsPlain()
	e("VCVTDQ2PS Z%d, Z%d", kScales, kScales)
	e("VMULPS Z%d, Z%d, Z%d", kMins, kScales, kScales)
	e("VMULPS eighth<>(SB), Z%d, Z%d", kScales, kScales)
	kZero(zeroShifted)
}

// tritScale is the scale of a block of trits, each one more than its value.
func tritScale(off int) {
	e("VPBROADCASTW %d(SI), Y%d", off, kScales)
	e("VCVTPH2PS Y%d, Z%d", kScales, kScales)
	kZero(zeroTrit)
}

// unpackTQ1: a trit is three times its byte's fraction, which a power of three
// has brought to the top.
func (k kType) unpackTQ1() {
	e("VPMOVZXBW (SI), Z%d", kHigh)
	e("VBROADCASTI32X4 32(SI), Y%d", kTemp)
	e("VPBROADCASTD 48(SI), X%d", kMore)
	e("VINSERTI32X4 $1, X%d, Y%d, Y%d", kMore, kTemp, kMore)
	e("VPMOVZXBW Y%d, Z%d", kTemp, kTemp)
	e("VPMOVZXBW Y%d, Z%d", kMore, kMore)
	for g := range 8 {
		from := []int{kHigh, kHigh, kHigh, kHigh, kHigh, kTemp, kTemp, kMore}[g]
		e("VPMULLW %s<>(SB), Z%d, Z%d", tritFactors(g), from, kMins)
		e("VPMULHUW threeWords<>(SB), Z%d, Z%d", kMins, kMins)
		if c := kCodes + g/2; g%2 == 0 {
			e("VPMOVWB Z%d, Y%d", kMins, c)
		} else {
			e("VPMOVWB Z%d, Y%d", kMins, kScales)
			e("VINSERTI64X4 $1, Y%d, Z%d, Z%d", kScales, c, c)
		}
	}
	tritScale(52)
}
