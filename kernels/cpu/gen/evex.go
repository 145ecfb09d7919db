package main

import (
	"fmt"
	"strings"
)

// The Go assembler lacks VDPBF16PS, VCVTNE2PS2BF16 and VCVTNEPS2BF16: they are
// written as EVEX bytes here (Intel SDM volume 2, section 2.7), which the test
// of this package decodes again.

var gp = map[string]int{"AX": 0, "CX": 1, "DX": 2, "BX": 3, "SI": 6, "DI": 7, "R8": 8, "R9": 9, "R10": 10, "R11": 11, "R12": 12, "R13": 13}

// rm is the last operand: zmm z, or what is at disp(base): 64 bytes, or 4 for all lanes.
type rm struct {
	z    int
	base string
	disp int
	all  bool
}

// evex encodes EVEX.512.pp.0F38.W0 op /r. pp: 2 = F3, 3 = F2. vvvv < 0: no
// second source.
func evex(asm string, pp, op, reg, vvvv int, s rm) {
	inv := func(b int) int { return (b & 1) ^ 1 }
	v := max(vvvv, 0)
	var x, b, mod, all int
	var tail []byte
	z, unit := s.z, 64
	if s.all {
		all, unit = 1, 4
	}
	if s.base == "" {
		x, b, mod = z>>4, z>>3, 3
	} else {
		z = gp[s.base]
		b = z >> 3
		switch {
		case s.disp == 0 && z&7 != 5:
			mod = 0
		case s.disp%unit == 0 && s.disp/unit >= -128 && s.disp/unit < 128:
			mod, tail = 1, []byte{byte(s.disp / unit)}
		default:
			mod, tail = 2, []byte{byte(s.disp), byte(s.disp >> 8), byte(s.disp >> 16), byte(s.disp >> 24)}
		}
		if z&7 == 4 { // R12 needs a SIB byte
			tail = append([]byte{0x24}, tail...)
		}
	}
	p0 := inv(reg>>3)<<7 | inv(x)<<6 | inv(b)<<5 | inv(reg>>4)<<4 | 2
	p1 := (^v&15)<<3 | 4 | pp
	p2 := 2<<5 | all<<4 | inv(v>>4)<<3
	raw(append([]byte{0x62, byte(p0), byte(p1), byte(p2), byte(op), byte(mod<<6 | (reg&7)<<3 | z&7)}, tail...), asm)
}

// raw emits bytes and, as a comment, what they mean.
func raw(bs []byte, asm string) {
	var w []string
	for ; len(bs) >= 4; bs = bs[4:] {
		w = append(w, fmt.Sprintf("LONG $0x%02x%02x%02x%02x", bs[3], bs[2], bs[1], bs[0]))
	}
	for _, b := range bs {
		w = append(w, fmt.Sprintf("BYTE $0x%02x", b))
	}
	e("%s // %s", strings.Join(w, "; "), asm)
}

// Operands are in Go's order: sources, then destination.

// vdpbf16ps adds the products of the bf16 pairs of a and b to the f32 of acc.
func vdpbf16ps(a, b, acc int) {
	evex(fmt.Sprintf("VDPBF16PS Z%d, Z%d, Z%d", a, b, acc), 2, 0x52, acc, b, rm{z: a})
}

// vdpbf16psBroadcast is vdpbf16ps with one pair in memory for all of b.
func vdpbf16psBroadcast(base string, disp, b, acc int) {
	evex(fmt.Sprintf("VDPBF16PS %d(%s){1to16}, Z%d, Z%d", disp, base, b, acc), 2, 0x52, acc, b, rm{base: base, disp: disp, all: true})
}

// vcvtne2 rounds lo into words 0..15 of dst and hi into words 16..31.
func vcvtne2(lo, hi, dst int) {
	evex(fmt.Sprintf("VCVTNE2PS2BF16 Z%d, Z%d, Z%d", lo, hi, dst), 3, 0x72, dst, hi, rm{z: lo})
}

// vcvtne2mem is vcvtne2 with lo in memory.
func vcvtne2mem(base string, disp, hi, dst int) {
	evex(fmt.Sprintf("VCVTNE2PS2BF16 %d(%s), Z%d, Z%d", disp, base, hi, dst), 3, 0x72, dst, hi, rm{base: base, disp: disp})
}
