package main

import "math"

// fewType is a type of signs, trits or 4-bit floats whose blocks are no larger
// than two units. Its codes become bytes zero above their value.
type fewType struct {
	name  string
	size  int // bytes of a step
	units int // of a step
	zero  int // code of 0
}

var fewTypes = []fewType{{"MXFP4", 34, 1, 12}, {"NVFP4", 36, 1, 12}, {"Q20", 18, 1, 1}, {"Q10", 18, 2, 1}}

// The table of MXFP4 and NVFP4 in memory: the 16 values of a code plus 12, as
// bytes, then the value of every scale, as f32.
const fewScales = 16

// constants are what scales and codes need; R14 is the table.
func (f fewType) constants() {
	switch f.name {
	case "MXFP4":
		e("MOVQ R10, R14")
		e("VBROADCASTI32X4 (R14), Z%d", extra)
		e("VMOVDQU64 oddNibbles16<>(SB), Z%d", shifts)
		e("MOVL $0xff00, R10")
		e("KMOVW R10, K1")
		bytesIn(15, nibble)
	case "NVFP4":
		e("MOVQ R10, R14")
		e("VBROADCASTI32X4 (R14), Z%d", extra)
		e("VMOVDQU64 oddNibbles64<>(SB), Z%d", shifts)
		e("VMOVDQU64 twice64<>(SB), Z%d", factor)
		for i := 1; i < 4; i++ {
			e("MOVL $0x%x, R10", 15<<(4*i))
			e("KMOVW R10, K%d", i)
		}
		bytesIn(15, nibble)
	case "Q20":
		e("VMOVDQU64 lowPairs<>(SB), Z%d", nibble)
	case "Q10":
		bytesIn(2, extra)
	}
}

// scales puts the scale of every four codes into a register.
func (f fewType) scales() {
	lookUp := func(at int, mask string) {
		e("MOVBLZX %d(SI), R11", at)
		e("VBROADCASTSS %d(R14)(R11*4), %sZ%d", fewScales, mask, scale)
	}
	switch f.name {
	case "MXFP4":
		lookUp(0, "")
		lookUp(17, "K1, ")
	case "NVFP4":
		lookUp(0, "")
		lookUp(1, "K1, ")
		lookUp(2, "K2, ")
		lookUp(3, "K3, ")
	default:
		e("VPBROADCASTW (SI), Y%d", scale)
		e("VCVTPH2PS Y%d, Z%d", scale, scale)
	}
}

// unpack puts the codes of a unit of a step into a register.
func (f fewType) unpack(unit int) {
	switch f.name {
	case "MXFP4":
		e("VBROADCASTI32X4 1(SI), Z%d", codes)
		e("VBROADCASTI32X4 18(SI), K1, Z%d", codes)
		e("VPSRLVD Z%d, Z%d, Z%d", shifts, codes, codes)
	case "NVFP4":
		e("VMOVDQU64 4(SI), Y%d", codes)
		e("VPERMQ Z%d, Z%d, Z%d", codes, factor, codes)
		e("VPSRLVQ Z%d, Z%d, Z%d", shifts, codes, codes)
	case "Q20": // what is not of a byte's four codes is cut off
		e("VPMOVZXBD 2(SI), Z%d", codes)
		e("VPSLLD $12, Z%d, Z%d", codes, temp)
		e("VPORD Z%d, Z%d, Z%d", temp, codes, codes)
		e("VPSLLD $6, Z%d, Z%d", codes, temp)
		e("VPTERNLOGD $0xa8, Z%d, Z%d, Z%d", nibble, temp, codes)
		return
	case "Q10":
		e("KMOVQ %d(SI), K2", 2+8*unit)
		e("VMOVDQU8.Z Z%d, K2, Z%d", extra, codes)
		return
	}
	e("VPANDD Z%d, Z%d, Z%d", nibble, codes, codes)
	e("VPSHUFB Z%d, Z%d, Z%d", codes, extra, codes)
}

func (f fewType) kernel(m int) {
	matvecText(0, f.name, f.name, m)
	f.constants()
	rowLoop{m: m, xBytes: f.units * unitBytes, units: f.units, parts: 1, apart: minSums, step: func() {
		prefetch(64)
		f.scales()
		for u := range f.units {
			f.unpack(u)
			products(m, u, 0, false)
		}
		e("ADDQ $%d, SI", f.size)
	}}.emit()
}

// exact leaves codes and scales on the stack, from where 16 at a time are loaded.
func (f fewType) exact(m int) {
	const scalesAt = 64
	exactText(128+64, f.name, f.name, m)
	f.constants()
	e("MOVL $0x%x, R10", math.Float32bits(float32(f.zero)))
	e("VPBROADCASTD R10, Z%d", exHigh)
	e("LEAQ 63(SP), R15")
	e("ANDQ $~63, R15")
	l := exactLoop(m, func() {
		prefetch(64)
		f.scales()
		e("VMOVAPS Z%d, %d(R15)", scale, scalesAt)
		for u := range f.units {
			f.unpack(u)
			e("VMOVDQA64 Z%d, (R15)", codes)
			for s := range 4 {
				e("VPMOVZXBD %d(R15), Z%d", 16*s, weight+s)
				e("VCVTDQ2PS Z%d, Z%d", weight+s, weight+s)
				e("VSUBPS Z%d, Z%d, Z%d", exHigh, weight+s, weight+s)
				e("VMULPS.BCST %d(R15), Z%d, Z%d", scalesAt+16*s, weight+s, weight+s)
				multiply(m, u, s)
			}
		}
		e("ADDQ $%d, SI", f.size)
	})
	l.xBytes, l.units = f.units*unitBytes, f.units
	l.emit()
}
