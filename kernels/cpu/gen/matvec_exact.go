package main

import (
	"fmt"
	"slices"
)

// Kernels of quantized weights and of x as it is: 16 codes at a time become
// floats, are scaled, and are multiplied with every row of x in the tile, in
// four sums a row.

// exactRows are the numbers of rows of x that these kernels exist for.
var exactRows = []int{1, 2, 4}

// Registers of these kernels, after the sums.
const (
	weight   = 16 // four
	exScale  = 20 // two
	exMin    = 22 // two
	exValues = 24
	exHigh   = 25
	exParts  = 4
)

func exact() {
	open("cpu", "..", "matvec_exact")
	mvConstants()
	bitFields(2)
	bitFields(3)
	splitRow()
	for _, m := range exactRows {
		for _, b := range legacy {
			b.exact(m)
		}
		for _, k := range slices.Concat(kTypes, latticeTypes) {
			k.exact(m)
		}
		for _, f := range fewTypes {
			f.exact(m)
		}
		exactNibbles("Low", "low", m)
		exactNibbles("High", "high", m)
		exactBytes(m)
		exactBits(2, m)
		exactBits(3, m)
	}
	save()
}

// multiply adds slice s of a unit, in its register, to the sums.
func multiply(m, unit, s int) {
	for i := range m {
		e("VFMADD231PS %d(CX), Z%d, Z%d", unitBytes*(unit*m+i)+64*s, weight+s, exParts*s+i)
	}
}

func exactText(frame int, name, what string, m int) {
	matvecText(frame, "Exact"+name, what+", x not rounded", m)
}

func exactLoop(m int, step func()) rowLoop {
	return rowLoop{m: m, xBytes: unitBytes, units: 1, parts: exParts, apart: exParts, step: step}
}

// exact looks nibbles up in the table of the type's 16 numbers.
func (b blockType) exact(m int) {
	exactText(0, b.name, b.name, m)
	if !b.bytes {
		e("VMOVUPS (R10), Z%d", exValues)
	}
	if b.high {
		e("MOVL $0x41800000, R10")
		e("VPBROADCASTD R10, Z%d", exHigh)
	}
	exactLoop(m, func() {
		prefetch(64)
		for i := range 2 {
			at := i * b.size
			half := func(off, z int) {
				e("VPBROADCASTW %d(SI), Y%d", at+off, z)
				e("VCVTPH2PS Y%d, Z%d", z, z)
			}
			half(0, exScale+i)
			if b.min {
				half(2, exMin+i)
			}
			w := weight + 2*i
			if !b.bytes {
				e("VPMOVZXBD %d(SI), Z%d", at+b.first(), w)
				e("VPSRLD $4, Z%d, Z%d", w, w+1)
			}
			for j := range 2 {
				if b.bytes {
					e("VPMOVSXBD %d(SI), Z%d", at+b.first()+16*j, w+j)
					e("VCVTDQ2PS Z%d, Z%d", w+j, w+j)
				} else {
					e("VPERMPS Z%d, Z%d, Z%d", exValues, w+j, w+j)
				}
				if b.high {
					e("KMOVW %d(SI), K%d", at+b.first()-4+2*j, 2+j)
					e("VADDPS Z%d, Z%d, K%d, Z%d", exHigh, w+j, 2+j, w+j)
				}
				if b.min {
					e("VFMADD213PS Z%d, Z%d, Z%d", exMin+i, exScale+i, w+j)
				} else {
					e("VMULPS Z%d, Z%d, Z%d", exScale+i, w+j, w+j)
				}
			}
		}
		for s := range 4 {
			multiply(m, 0, s)
		}
		e("ADDQ $%d, SI", 2*b.size)
	}).emit()
}

// exact unpacks a block to the stack, from where 16 codes at a time, their scale
// and their minimum are loaded.
func (k kType) exact(m int) {
	const scalesAt, minsAt = 256, 320
	exactText(384+latticeRoom+64, k.name, k.name, m)
	k.constants()
	e("LEAQ 63(SP), R15")
	e("ANDQ $~63, R15")
	if k.lattice() {
		e("LEAQ 384(R15), R12")
	}
	l := exactLoop(m, func() {
		prefetch(k.size)
		k.unpack()
		for u := range 4 {
			e("VMOVDQA64 Z%d, %d(R15)", kCodes+u, 64*u)
		}
		e("VMOVAPS Z%d, %d(R15)", kScales, scalesAt)
		e("VMOVAPS Z%d, %d(R15)", kMins, minsAt)
		for i := range 16 {
			s, z := i%4, exScale+i%4
			e("VPMOVZXBD %d(R15), Z%d", 16*i, weight+s)
			e("VCVTDQ2PS Z%d, Z%d", weight+s, weight+s)
			e("VBROADCASTSS %d(R15), Z%d", scalesAt+4*i, z)
			e("VFMSUB213PS.BCST %d(R15), Z%d, Z%d", minsAt+4*i, z, weight+s)
			multiply(m, i/4, s)
		}
		e("ADDQ $%d, SI", k.size)
	})
	l.xBytes, l.units = 4*unitBytes, 4
	l.emit()
}

// exactApart is exactLoop for scales and minima that lie apart.
func exactApart(m, size int, step func()) rowLoop {
	l := apart(m, size, exScale, step)
	l.parts, l.apart = exParts, exParts
	return l
}

// exactNibbles: columns of a unit are sorted, even ones first. first says which
// nibble they have.
func exactNibbles(name, first string, m int) {
	exactText(0, name, "nibbles, "+first+" first", m)
	e("VMOVUPS (R10), Z%d", exValues)
	exactApart(m, 32, func() {
		plain, shifted := weight, weight+2
		if first == "high" {
			plain, shifted = shifted, plain
		}
		if first == "low" {
			e("VBROADCASTSS (R12)(R10*4), Z%d", exMin)
		}
		for j := range 2 {
			e("VPMOVZXBD %d(SI), Z%d", 16*j, plain+j)
			e("VPSRLD $4, Z%d, Z%d", plain+j, shifted+j)
		}
		for s := range 4 {
			e("VPERMPS Z%d, Z%d, Z%d", exValues, weight+s, weight+s)
			if first == "low" {
				e("VFMADD213PS Z%d, Z%d, Z%d", exMin, exScale, weight+s)
			} else { // a codebook has no zero point
				e("VMULPS Z%d, Z%d, Z%d", exScale, weight+s, weight+s)
			}
			multiply(m, 0, s)
		}
	}).emit()
}

func exactBytes(m int) {
	exactText(0, "Bytes", "bytes", m)
	exactApart(m, 64, func() {
		e("VBROADCASTSS (R12)(R10*4), Z%d", exMin)
		for s := range 4 {
			e("VPMOVZXBD %d(SI), Z%d", 16*s, weight+s)
			e("VCVTDQ2PS Z%d, Z%d", weight+s, weight+s)
			e("VFMADD213PS Z%d, Z%d, Z%d", exMin, exScale, weight+s)
			multiply(m, 0, s)
		}
	}).emit()
}

// fieldAt is where, in the 16 bytes that are loaded for it, code i of a unit of
// codes of some bits begins: byte and bit.
func fieldAt(bits, i int) (byte, bit int) {
	at := i * bits
	if bits == 3 && i >= 32 {
		at -= 64 // the second load begins at byte 8
	}
	return at / 8, at % 8
}

// bitFields are the bytes that go to each dword, and the shifts there.
func bitFields(bits int) {
	for s := range 4 {
		words(fmt.Sprintf("field%dBytes%d", bits, s), func(i int) int {
			at, bit := fieldAt(bits, 16*s+i)
			if bit+bits <= 8 {
				return 0x80808000 | at
			}
			return 0x80800000 | (at+1)<<8 | at
		})
		words(fmt.Sprintf("field%dShifts%d", bits, s), func(i int) int {
			_, bit := fieldAt(bits, 16*s+i)
			return bit
		})
	}
}

// exactBits: codes of 2 or 3 bits one after another. The table repeats their
// numbers, so that higher bits do not matter.
func exactBits(bits, m int) {
	exactText(0, fmt.Sprintf("Bits%d", bits), fmt.Sprintf("codes of %d bits", bits), m)
	e("VMOVUPS (R10), Z%d", exValues)
	const raw = 28
	exactApart(m, 8*bits, func() {
		e("VBROADCASTSS (R12)(R10*4), Z%d", exMin)
		e("VBROADCASTI32X4 (SI), Z%d", raw)
		if bits == 3 {
			e("VBROADCASTI32X4 8(SI), Z%d", raw+1)
		}
		for s := range 4 {
			from := raw
			if bits == 3 {
				from += s / 2
			}
			e("VPSHUFB field%dBytes%d<>(SB), Z%d, Z%d", bits, s, from, weight+s)
			e("VPSRLVD field%dShifts%d<>(SB), Z%d, Z%d", bits, s, weight+s, weight+s)
			e("VPERMPS Z%d, Z%d, Z%d", exValues, weight+s, weight+s)
			e("VFMADD213PS Z%d, Z%d, Z%d", exMin, exScale, weight+s)
			multiply(m, 0, s)
		}
	}).emit()
}

// splitRow sorts the columns of units: even ones, then odd ones.
func splitRow() {
	words("evens16", func(i int) int { return 2 * i })
	words("odds16", func(i int) int { return 2*i + 1 })
	text("splitRow", "copies units of 64 floats, in each those of even columns first, to places step bytes apart.",
		arg{"units", "int", "AX"}, arg{"src", "*float32", "SI"}, arg{"dst", "*float32", "DI"}, arg{"step", "int", "DX"})
	e("VMOVDQU64 evens16<>(SB), Z30")
	e("VMOVDQU64 odds16<>(SB), Z31")
	label("loop")
	for half := range 2 {
		e("VMOVUPS %d(SI), Z0", 128*half)
		e("VMOVUPS %d(SI), Z1", 128*half+64)
		for odd := range 2 {
			e("VMOVDQA64 Z%d, Z%d", 30+odd, 2+odd)
			e("VPERMI2PS Z1, Z0, Z%d", 2+odd)
			e("VMOVUPS Z%d, %d(DI)", 2+odd, 128*odd+64*half)
		}
	}
	e("ADDQ $256, SI")
	e("ADDQ DX, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}
