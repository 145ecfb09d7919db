package main

import "fmt"

// Kernels of types of few bits for processors that permute bytes (AVX512-VBMI) and pick
// bits (BITALG). A table of points is looked up in registers: two planes of bytes, a byte
// for each index, of four coordinates of two bits or two of four. A register of codes has
// four of each group of 16 in its lane, so that four dot products add up those of a group
// before they are scaled: x lies the same way, turned.
//
// In memory R13 is a type's table: what the six bits of a coordinate and those after it
// stand for, plus zeroTurned, then the planes.

// Registers of these kernels, beside those of K types.
const (
	tIndex  = 25
	tPlane  = 26 // two
	tSigns  = 28
	tValues = 29
	tFields = 30
)

// turnedTypes are those of latticeTypes.
var turnedTypes = []kType{{"IQ3S", 110}, {"IQ3XXS", 98}, {"IQ2XS", 74}, {"IQ2XXS", 66}, {"TQ10", 54}}

// turnedAt is the place in its group of byte b of a lane of register t of codes. The
// first plane has the coordinates of even registers, the second those of odd ones.
func turnedAt(t, b int) int { return t/2*8 + b/2*4 + t%2*2 + b%2 }

// bytes64 defines 64 bytes.
func bytes64(name string, f func(i int) int) {
	words(name, func(i int) int { return f(4*i) | f(4*i+1)<<8 | f(4*i+2)<<16 | f(4*i+3)<<24 })
}

// dims is the coordinates of a point of k.
func (k kType) dims() int {
	if k.name == "IQ3S" || k.name == "IQ3XXS" {
		return 4
	}
	return 8
}

// indexAt is the byte of index p of a block in the register of indices.
func (k kType) indexAt(p int) int {
	switch k.name {
	case "IQ2XXS":
		return p/4*8 + p%4
	case "IQ2XS":
		return 2 * p
	}
	return p
}

// points is how many k has.
func (k kType) points() int {
	return map[string]int{"IQ3S": 512, "IQ3XXS": 256, "IQ2XS": 512, "IQ2XXS": 256}[k.name]
}

// tritAt is the byte of TQ1_0 that holds element i, and which of its trits it is.
func tritAt(i int) (at, n int) {
	switch {
	case i < 160:
		return i % 32, i / 32
	case i < 240:
		return 32 + i%16, (i - 160) / 16
	}
	return 48 + i%4, (i - 240) / 4
}

func turnedConstants() {
	bytes64("turning", func(i int) int { return i/4%4*16 + turnedAt(i/16, i%4) })
	bytes64("fieldsOf4", func(i int) int { return i%8*8 + i%2*4 })
	bytes64("fieldsOf8", func(i int) int { return i%8*8 + i%4*2 })
	bytes64("sevens0", func(i int) int { return i % 4 * 7 })
	bytes64("sevens32", func(i int) int { return 32 + i%4*7 })
	bytes64("sevens9", func(i int) int { return i%4*16 + 9 })
	words("lowSevens", func(int) int { return 0x7f7f7f7f })
	words("word8", func(int) int { return 1<<8 | 1<<24 })
	for t := range 4 {
		bytes64(fmt.Sprintf("signs%d", t), func(i int) int { return i%8/4*16 + turnedAt(t, i%4) })
		for _, k := range turnedTypes {
			bytes64(k.picked(t), func(i int) int {
				element := i/4*16 + turnedAt(t, i%4)
				if k.name != "TQ10" {
					return k.indexAt(element / k.dims())
				}
				at, n := tritAt(element)
				return at + n/4*64
			})
		}
		bytes64(fmt.Sprintf("tritBits%d", t), func(i int) int {
			_, n := tritAt(i/4*16 + turnedAt(t, i%4))
			return i%8*8 + n%4*2
		})
	}
}

// picked is the name of the bytes that register t of codes is made of.
func (k kType) picked(t int) string { return fmt.Sprintf("picked%s%d", k.name, t) }

// turnedKernel is kernel for turned x.
func (k kType) turnedKernel(m int) {
	const dot = kTemp
	matvecText(0, "Turned"+k.name, k.name+", x turned", m)
	e("MOVQ R10, R13")
	if k.name == "TQ10" {
		e("MOVQ $0x%x, R10", 1<<52-1)
		e("KMOVQ R10, K1")
	} else {
		bytesIn(2*zeroTurned, turns)
		e("VMOVDQU64 (R13), Z%d", tValues)
		e("VMOVDQU64 fieldsOf%d<>(SB), Z%d", k.dims(), tFields)
	}
	rowLoop{m: m, xBytes: blockBytes, units: 4, parts: 2, apart: minSums, step: func() {
		prefetch(k.size)
		k.unpackTurned()
		for i := range m {
			x := i * blockBytes
			e("VFNMADD231PS %d(CX), Z%d, Z%d", x+blockSum, kMins, minSums+i)
			e("VMULPS %d(CX), Z%d, Z%d", x+blockScale, kScales, kHigh)
			e("VPXORD Z%d, Z%d, Z%d", dot, dot, dot)
			for u := range 4 {
				e("VPDPBUSD %d(CX), Z%d, Z%d", x+64*u, kCodes+u, dot)
			}
			e("VCVTDQ2PS Z%d, Z%d", dot, dot)
			e("VFMADD231PS Z%d, Z%d, Z%d", dot, kHigh, i)
		}
		e("ADDQ $%d, SI", k.size)
	}}.emit()
}

// unpackTurned is unpack with turned codes.
func (k kType) unpackTurned() {
	switch k.name {
	case "IQ3XXS":
		e("VPMOVZXDQ 66(SI), Z%d", kHigh)
		e("VPSHUFD $0xa0, Z%d, Z%d", kHigh, kScales)
		e("VPSRLD $28, Z%d, Z%d", kScales, kScales)
		evenTurned("sevens0", kHigh)
		odds(0, "quarter")
		e("VMOVDQU64 2(SI), Z%d", tIndex)
	case "IQ3S":
		e("VPBROADCASTD 106(SI), Z%d", kScales)
		e("VPSRLVD eightNibbles<>(SB), Z%d, Z%d", kScales, kScales)
		e("VPANDD fifteen<>(SB), Z%d, Z%d", kScales, kScales)
		odds(0, "")
		e("VPMOVZXDQ 74(SI), Z%d", tSigns)
		e("VMOVDQU64 2(SI), Z%d", tIndex)
		e("KMOVQ 66(SI), K3")
	case "IQ2XXS":
		e("VMOVDQU64 2(SI), Z%d", tIndex)
		e("VPSHUFD $0xf5, Z%d, Z%d", tIndex, kScales)
		e("VPSRLD $28, Z%d, Z%d", kScales, kScales)
		evenTurned("sevens32", tIndex)
		odds(0, "eighth")
	case "IQ2XS":
		e("VMOVDQU64 2(SI), Z%d", tIndex)
		e("VPTESTMW word8<>(SB), Z%d, K3", tIndex)
		evenTurned("sevens9", tIndex)
		nibbleScales(66)
		odds(0, "eighth")
	case "TQ10":
		k.unpackTurnedTQ1()
		return
	}
	kZero(zeroTurned)
	e("VPMOVB2M Z%d, K2", tIndex)
	for p := range 2 {
		k.lookUp(tPlane+p, []int{kHigh, kTemp}, 64+p*k.points(), k.points())
	}
	for t := range 4 {
		e("VMOVDQU64 %s<>(SB), Z%d", k.picked(t), kCodes+t)
		e("VPERMB Z%d, Z%d, Z%d", tPlane+t%2, kCodes+t, kCodes+t)
		e("VPMULTISHIFTQB Z%d, Z%d, Z%d", kCodes+t, tFields, kCodes+t)
		e("VPERMB Z%d, Z%d, Z%d", tValues, kCodes+t, kCodes+t)
		e("VPSHUFBITQMB signs%d<>(SB), Z%d, K%d", t, tSigns, 3+t)
		e("VPSUBB Z%d, Z%d, K%d, Z%d", kCodes+t, turns, 3+t, kCodes+t)
	}
}

// evenTurned puts signs of seven bits each, fields of a register's qwords, into the low
// dwords of these, with an eighth that makes their number even.
func evenTurned(fields string, from int) {
	e("VMOVDQU64 %s<>(SB), Z%d", fields, tSigns)
	e("VPMULTISHIFTQB Z%d, Z%d, Z%d", from, tSigns, tSigns)
	e("VPANDD lowSevens<>(SB), Z%d, Z%d", tSigns, tSigns)
	e("VPOPCNTB Z%d, Z%d", tSigns, kTemp)
	e("VPSLLW $7, Z%d, Z%d", kTemp, kTemp)
	e("VPTERNLOGD $0xf8, topBits<>(SB), Z%d, Z%d", kTemp, tSigns)
}

// lookUp looks the indices up in n bytes of the table from an offset on. Masks of their
// bits above the seventh are K2 and K3.
func (k kType) lookUp(to int, temps []int, at, n int) {
	if n == 128 {
		e("VMOVDQU64 %d(R13), Z%d", at, to)
		e("VPERMT2B %d(R13), Z%d, Z%d", at+64, tIndex, to)
		return
	}
	k.lookUp(to, temps, at, n/2)
	k.lookUp(temps[0], temps[1:], at+n/2, n/2)
	mask, move := map[int]int{256: 2, 512: 3}[n], "VMOVDQU8"
	if k.name == "IQ2XS" && n == 512 { // a bit of words
		move = "VMOVDQU16"
	}
	e("%s Z%d, K%d, Z%d", move, temps[0], mask, to)
}

// unpackTurnedTQ1 looks four trits of every byte up, and the fifth.
func (k kType) unpackTurnedTQ1() {
	e("VMOVDQU8.Z (SI), K1, Z%d", tIndex)
	e("VPMOVB2M Z%d, K2", tIndex)
	for p := range 2 {
		k.lookUp(tPlane+p, []int{kHigh}, 256*p, 256)
	}
	for t := range 4 {
		e("VMOVDQU64 %s<>(SB), Z%d", k.picked(t), kCodes+t)
		e("VPERMI2B Z%d, Z%d, Z%d", tPlane+1, tPlane, kCodes+t)
		e("VMOVDQU64 tritBits%d<>(SB), Z%d", t, kTemp)
		e("VPMULTISHIFTQB Z%d, Z%d, Z%d", kCodes+t, kTemp, kCodes+t)
		e("VPANDD lowPairs<>(SB), Z%d, Z%d", kCodes+t, kCodes+t)
	}
	tritScale(52)
}
