package main

import (
	"fmt"
	"math/bits"
)

// Kernels whose units of codes are not those of memory, for processors without
// permutations of bytes, too.
//
// IQ1_S, IQ1_M and, where bits can be picked (BITALG), IQ2_S are paired: of every two points of a group of 16 one register has the
// first, the next register the second, so that two dot products add up their group's
// before they are scaled. The points are gathered, or loaded one by one, which gives the
// same bits: which is faster differs between processors.

// pairedTypes are those of latticeTypes.
var pairedTypes = []pairedType{{kType{"IQ1S", 50}, 2, 34, 0x0700}, {kType{"IQ1M", 56}, 0, 32, 0x0f00}, {kType{"IQ2S", 82}, 2, 66, 0x0300}}

type pairedType struct {
	kType
	low, high int // where the bytes of indices begin, and the bits above them
	bits      int // of an index, those above its byte
}

func pairedConstants() {
	words("twiceLow", func(i int) int { return i / 2 })
	words("twiceHigh", func(i int) int { return 8 + i/2 })
	words("lowByte", func(int) int { return 255 })
	for _, k := range pairedTypes {
		words("bits"+k.name, func(int) int { return k.bits })
	}
	words("threesOfWord", func(i int) int { return i % 2 * 6 })
	words("pairsOfWord", func(i int) int { return i % 2 * 4 })
	for r := range 2 {
		bytes64(fmt.Sprintf("pairedSigns%d", r), func(i int) int { return i%8 + 8*r })
	}
	quads("evensOdds", func(i int) int { return i%4*2 + i/4 })
}

func (k pairedType) kernel(m int, loaded bool) {
	const dot, spread, order = kTemp, kMore, 25
	name := "Paired" + k.name
	if loaded {
		name = "Loaded" + k.name
	}
	matvecText(0, name, k.name+", x paired", m)
	e("MOVQ R10, R13")
	if loaded {
		e("MOVQ $0x00ff00ff00ff00ff, R14")
		e("MOVQ $0x%04[1]x%04[1]x%04[1]x%04[1]x, R15", k.bits)
	}
	e("VMOVDQU64 twiceLow<>(SB), Z%d", order)
	e("VMOVDQU64 twiceHigh<>(SB), Z%d", order+1)
	if k.name == "IQ2S" {
		bytesIn(2*zeroTurned, turns)
	}
	rowLoop{m: m, xBytes: blockBytes, units: 4, parts: 2, apart: minSums, step: func() {
		prefetch(k.size)
		switch k.name {
		case "IQ1S":
			scalesIQ1S()
		case "IQ1M":
			scalesIQ1M()
		default:
			nibbleScales(74)
			odds(0, "eighth")
			kZero(zeroTurned)
		}
		if loaded {
			k.load()
		} else {
			k.gather()
		}
		if k.name == "IQ2S" {
			k.pairedSigns()
		}
		for i := range m {
			x := i * blockBytes
			e("VFNMADD231PS %d(CX), Z%d, Z%d", x+blockSum, kMins, minSums+i)
			e("VMULPS %d(CX), Z%d, Z%d", x+blockScale, kScales, kHigh)
			for h := range 2 {
				e("VPXORD Z%d, Z%d, Z%d", dot, dot, dot)
				for u := range 2 {
					e("VPDPBUSD %d(CX), Z%d, Z%d", x+128*h+64*u, kCodes+2*h+u, dot)
				}
				e("VPERMPS Z%d, Z%d, Z%d", kHigh, order+h, spread)
				e("VCVTDQ2PS Z%d, Z%d", dot, dot)
				e("VFMADD231PS Z%d, Z%d, Z%d", dot, spread, i)
			}
		}
		e("ADDQ $%d, SI", k.size)
	}}.emit()
}

// gather looks up eight points at once.
func (k pairedType) gather() {
	const low, high, index = 27, 28, 29
	for h := range 2 {
		e("VPMOVZXWD %d(SI), Y%d", k.low+16*h, low)
		switch k.name {
		case "IQ1S":
			e("VPMOVZXWQ %d(SI), Y%d", k.high+8*h, high)
			e("VPSHUFD $0xa0, Y%d, Y%d", high, high)
			e("VPSRLVD threesOfWord<>(SB), Y%d, Y%d", high, high)
		case "IQ1M":
			e("VPMOVZXBD %d(SI), Y%d", k.high+8*h, high)
		default:
			e("VPMOVZXBQ %d(SI), Y%d", k.high+4*h, high)
			e("VPSHUFD $0xa0, Y%d, Y%d", high, high)
			e("VPSRLVD pairsOfWord<>(SB), Y%d, Y%d", high, high)
		}
		for r := range 2 {
			if e("VPSLLD $%d, Y%d, Y%d", 8-r*bits.OnesCount(uint(k.bits)), high, index); r == 0 {
				e("VPANDD lowByte<>(SB), Y%d, Y%d", low, kTemp)
			} else {
				e("VPSRLD $8, Y%d, Y%d", low, kTemp)
			}
			e("VPANDD bits%s<>(SB), Y%d, Y%d", k.name, index, index)
			e("VPORD Y%d, Y%d, Y%d", kTemp, index, index)
			gatherEights(2*h+r, index)
		}
	}
}

// load looks up points four at a time by indices in a register.
func (k pairedType) load() {
	const first, second = 27, 29 // two each; R10, R11 and R12 are taken apart
	for p := range 8 {
		h, lane := p/4, p%4
		even, odd := kCodes+2*h, kCodes+2*h+1
		switch lane {
		case 1, 3:
			even, odd = second, second+1
		case 2:
			even, odd = first, first+1
		}
		e("MOVL %d(SI), R10", k.low+4*p)
		if k.name == "IQ2S" {
			e("MOVBLZX %d(SI), R11", k.high+p)
		} else {
			e("MOVWLZX %d(SI), R11", k.high+2*p)
		}
		e("PDEPQ R14, R10, R10")
		e("PDEPQ R15, R11, R11")
		e("ORQ R11, R10")
		e("MOVWLZX R10, R11")
		e("SHRQ $16, R10")
		e("MOVWLZX R10, R12")
		e("VMOVQ (R13)(R11*8), X%d", even)
		e("SHRQ $16, R10")
		e("VMOVQ (R13)(R12*8), X%d", odd)
		e("MOVWLZX R10, R11")
		e("SHRQ $16, R10")
		e("VMOVHPS (R13)(R11*8), X%d, X%d", even, even)
		e("VMOVHPS (R13)(R10*8), X%d, X%d", odd, odd)
		for r := range 2 {
			c := kCodes + 2*h + r
			switch lane {
			case 1:
				e("VINSERTI32X4 $1, X%d, Y%d, Y%d", second+r, c, c)
			case 3:
				e("VINSERTI32X4 $1, X%d, Y%d, Y%d", second+r, first+r, first+r)
				e("VINSERTI64X4 $1, Y%d, Z%d, Z%d", first+r, c, c)
			}
		}
	}
}

// pairedSigns changes the signs of IQ2_S's codes.
func (k pairedType) pairedSigns() {
	for h := range 2 {
		e("VPMOVZXWQ %d(SI), Z%d", 34+16*h, kHigh)
		for r := range 2 {
			c, mask := kCodes+2*h+r, 3+2*h+r
			e("VPSHUFBITQMB pairedSigns%d<>(SB), Z%d, K%d", r, kHigh, mask)
			e("VPSUBB Z%d, Z%d, K%d, Z%d", c, turns, mask, c)
		}
	}
}

// The 576 bytes of a block of 256 of a rounded row for TQ2_0, whose weights have one scale:
// codes in the order of shifts, for every four of them their scale, and what the products of codes
// begin with, less the sums of x.
const (
	shiftedScale = 256
	shiftedStart = 512
	shiftedBytes = 576
)

// shiftedKernel is the kernel of TQ2_0: a register has the same trit of every byte.
func shiftedKernel(m int) {
	const dot, sum, low = kTemp, kHigh, 29
	matvecText(0, "TQ20", "TQ20, x shifted", m)
	e("VMOVDQU64 lowPairs<>(SB), Z%d", low)
	rowLoop{m: m, xBytes: shiftedBytes, units: 4, parts: 1, apart: minSums, step: func() {
		prefetch(66)
		e("VMOVDQU64 (SI), Z%d", kCodes)
		for s := 3; s >= 0; s-- {
			if s > 0 {
				e("VPSRLD $%d, Z%d, Z%d", 2*s, kCodes, kCodes+s)
			}
			e("VPANDD Z%d, Z%d, Z%d", low, kCodes+s, kCodes+s)
		}
		e("VPBROADCASTW 64(SI), Y%d", kScales)
		e("VCVTPH2PS Y%d, Z%d", kScales, kScales)
		for i := range m {
			x := i * shiftedBytes
			e("VMOVUPS %d(CX), Z%d", x+shiftedStart, sum)
			for s := range 4 {
				e("VPXORD Z%d, Z%d, Z%d", dot, dot, dot)
				e("VPDPBUSD %d(CX), Z%d, Z%d", x+64*s, kCodes+s, dot)
				e("VCVTDQ2PS Z%d, Z%d", dot, dot)
				e("VFMADD231PS %d(CX), Z%d, Z%d", x+shiftedScale+64*s, dot, sum)
			}
			e("VFMADD231PS Z%d, Z%d, Z%d", sum, kScales, i)
		}
		e("ADDQ $66, SI")
	}}.emit()
}

// quantShifted rounds a row for TQ2_0.
func quantShifted() {
	const sums = 24
	text("quantRowShifted", "rounds blocks of 256 floats to 8 bits, a scale for every 32, to the parts that the kernel of TQ2_0 reads, step bytes apart. unit is 1/127.",
		arg{"blocks", "int", "AX"}, arg{"src", "*float32", "SI"}, arg{"dst", "*byte", "DI"}, arg{"step", "int", "DX"}, arg{"unit", "float32", "Z28"})
	roundConstants()
	e("MOVL $0xff00, R10")
	e("KMOVW R10, K1")
	label("loop")
	e("VPXORD Z%d, Z%d, Z%d", sums, sums, sums)
	for u := range 4 {
		roundUnit(256 * u)
		e("VPXORD Z1, Z1, Z1")
		e("VPDPBUSD Z0, Z27, Z1")
		e("VCVTDQ2PS Z1, Z1")
		for b := range 2 { // bytes i…i+31 hold elements i+32s, s their shift
			at := (2*u+b)%4*64 + u/2*32
			e("VMULPS Z28, Z%d, Z%d", 6+b, 6+b)
			e("VMOVUPS Y%d, %d(DI)", 6+b, shiftedScale+at)
			e("VEXTRACTI64X4 $%d, Z0, %d(DI)", b, at)
		}
		e("VMOVAPS Z7, K1, Z6")
		e("VFNMADD231PS Z6, Z1, Z%d", sums)
	}
	e("VMOVUPS Z%d, %d(DI)", sums, shiftedStart)
	e("ADDQ $1024, SI")
	e("ADDQ DX, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}
