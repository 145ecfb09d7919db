package main

import (
	"fmt"
	"math"
)

// isa is one of the three instruction sets of package vec. The AVX-512 functions
// take any length (their tails are masked); those of AVX2 and NEON, called Vec on
// their processor, take multiples of w and leave the rest to Go.
type isa struct {
	name string
	reg  byte // Z, Y or V
	w    int  // f32 lanes
}

var (
	isas = []isa{{"AVX512", 'Z', 16}, {"Vec", 'Y', 8}}
	neon = isa{"Vec", 'V', 4}
)

// loop is the state of the element-wise loop being written.
type loop struct {
	isa
	mask string         // "K1, " in the masked tail
	held map[uint32]int // constants that prepare put into registers
	half bool           // elements are bf16; R8 counts their bytes
}

// r names vector register i.
func (l *loop) r(i int) string { return fmt.Sprintf("%c%d", l.reg, i) }

// load reads lanes from the pointer in register p at the loop's offset.
func (l *loop) load(p string, z int) {
	if l.half {
		e("VPMOVZXWD%s (%s)(R8*1), %s%s", zeroing(l.mask), p, l.mask, l.r(z))
		e("VPSLLD $16, %s, %s", l.r(z), l.r(z))
		return
	}
	if l.mask != "" {
		e("VMOVUPS.Z (%s)(R8*1), %s%s", p, l.mask, l.r(z))
		return
	}
	e("VMOVUPS (%s)(R8*1), %s", p, l.r(z))
}

func (l *loop) store(z int, p string) {
	if l.half {
		l.roundHalf(z, halfSpare)
		e("VPMOVDW %s, %s(%s)(R8*1)", l.r(halfSpare), l.mask, p)
		return
	}
	e("VMOVUPS %s, %s(%s)(R8*1)", l.r(z), l.mask, p)
}

// op is a three-operand instruction in Go order: d = b op a (for subtraction b-a).
func (l *loop) op(name string, a, b, d int) { e("%s %s, %s, %s", name, l.r(a), l.r(b), l.r(d)) }

// masked is op on the live lanes only; d keeps the others.
func (l *loop) masked(name string, a, b, d int) {
	if l.mask == "" {
		l.op(name, a, b, d)
		return
	}
	e("%s %s, %s, %s%s", name, l.r(a), l.r(b), l.mask, l.r(d))
}

func (l *loop) mul(a, b, d int) { l.op("VMULPS", a, b, d) }
func (l *loop) add(a, b, d int) { l.op("VADDPS", a, b, d) }
func (l *loop) sub(a, b, d int) { l.op("VSUBPS", b, a, d) } // d = a - b
func (l *loop) fma(a, b, d int) { l.op("VFMADD231PS", a, b, d) }
func (l *loop) zero(d int) {
	x := "VPXORD"
	if l.reg != 'Z' {
		x = "VXORPS"
	}
	l.op(x, d, d, d)
}
func (l *loop) move(a, d int) { e("VMOVAPS %s, %s", l.r(a), l.r(d)) }

// constants of the data section, by value.
var constants []float32

// constant broadcasts v into register d.
func (l *loop) constant(v float32, d int) {
	at := -1
	for i, c := range constants {
		if math.Float32bits(c) == math.Float32bits(v) {
			at = i
		}
	}
	if at < 0 {
		at = len(constants)
		constants = append(constants, v)
	}
	e("VBROADCASTSS vecConst<>+%d(SB), %s", 4*at, l.r(d))
}

func writeConstants() {
	fmt.Fprintln(&out.asm)
	for i, c := range constants {
		fmt.Fprintf(&out.asm, "DATA vecConst<>+%d(SB)/4, $0x%08x // %g\n", 4*i, math.Float32bits(c), c)
	}
	fmt.Fprintf(&out.asm, "GLOBL vecConst<>(SB), RODATA|NOPTR, $%d\n", 4*len(constants))
	constants = nil
}

// pointers are the registers of pointer arguments, in order; R8 is the loop's
// byte offset and AX the count.
var pointers = []string{"BX", "CX", "DX", "SI", "DI", "R9", "R10"}

// ptrs makes n in AX and pointer arguments of the given names.
func ptrs(names ...string) []arg {
	args := []arg{{"n", "int", "AX"}}
	for i, n := range names {
		args = append(args, arg{n, "*float32", pointers[i]})
	}
	return args
}

// ptrs is ptrs of the loop's elements.
func (l *loop) ptrs(names ...string) []arg {
	args := ptrs(names...)
	for i := range args {
		if l.half && i > 0 {
			args[i].typ = "*uint16"
		}
	}
	return args
}

// scalar is a float32 argument broadcast into vector register z.
func (i isa) scalar(name string, z int) arg {
	return arg{name, "float32", fmt.Sprintf("%c%d", i.reg, z)}
}

// each writes the loop: body once for whole vectors and, for AVX-512, once
// with the tail's mask in K1.
func (l *loop) each(body func()) {
	if l.half {
		l.roundingConstants()
		l.every(2*l.w, body)
		return
	}
	l.every(4*l.w, body)
}

// every is each for a body that moves R8 on by step bytes.
func (l *loop) every(step int, body func()) {
	e("XORQ R8, R8")
	e("SUBQ $%d, AX", l.w)
	e("JLT tail")
	e("PCALIGN $32")
	label("loop")
	body()
	e("ADDQ $%d, R8", step)
	e("SUBQ $%d, AX", l.w)
	e("JGE loop")
	label("tail")
	if l.reg != 'Z' {
		return
	}
	e("ADDQ $%d, AX", l.w)
	e("JLE done")
	e("MOVL $-1, R11")
	e("BZHIL AX, R11, R11")
	e("KMOVW R11, K1")
	l.mask = "K1, "
	body()
	l.mask = ""
	label("done")
}

// fold reduces register d to one number with op and stores it at (p); it uses t.
func (l *loop) fold(name string, d, t int, p string) {
	if l.reg == 'V' {
		foldNEON(name, d, p)
		return
	}
	if l.reg == 'Z' {
		e("VEXTRACTF64X4 $1, Z%d, Y%d", d, t)
		e("%s Y%d, Y%d, Y%d", name, t, d, d)
	}
	e("VEXTRACTF128 $1, Y%d, X%d", d, t)
	e("%s X%d, X%d, X%d", name, t, d, d)
	e("VPERMILPS $0x4e, X%d, X%d", d, t)
	e("%s X%d, X%d, X%d", name, t, d, d)
	e("VPERMILPS $0xb1, X%d, X%d", d, t)
	e("%s X%d, X%d, X%d", name, t, d, d)
	e("VMOVSS X%d, (%s)", d, p)
}

// vecs writes package vec.
func vecs() {
	open("vec", "../internal/vec", "vec")
	for _, i := range isas {
		(&loop{isa: i}).functions()
	}
	tiles()
	transposes()
	writeConstants()
	writeWide()
	save()

	openFor("arm64", "vec", "../internal/vec", "vec")
	(&loop{isa: neon}).functions()
	tilesNEON()
	writeConstants()
	save()
}

// functions writes all but the products and transposes of matrices.
func (l *loop) functions() {
	l.sums()
	l.linear()
	l.exponentials()
	l.curves()
	l.elementwise()
	l.adam()
	l.rows()
}

// reduce writes a reduction: four sums at a time over whole vectors (part),
// combined in a fixed order. body adds one vector into register acc.
func (l *loop) reduce(name, doc, fold string, init func(acc int), args []arg, body func(acc int)) {
	args = append(args, arg{"out", "*float32", "R12"})
	text(name+l.name, doc, args...)
	for i := range 4 {
		init(i)
	}
	e("XORQ R8, R8")
	e("SUBQ $%d, AX", 4*l.w)
	e("JLT rest")
	e("PCALIGN $32")
	label("four")
	for i := range 4 {
		body(i)
		e("ADDQ $%d, R8", 4*l.w)
	}
	e("SUBQ $%d, AX", 4*l.w)
	e("JGE four")
	label("rest")
	e("ADDQ $%d, AX", 4*l.w)
	e("SUBQ $%d, AX", l.w)
	e("JLT tail")
	label("one")
	body(0)
	e("ADDQ $%d, R8", 4*l.w)
	e("SUBQ $%d, AX", l.w)
	e("JGE one")
	label("tail")
	if l.reg == 'Z' {
		e("ADDQ $%d, AX", l.w)
		e("JLE done")
		e("MOVL $-1, R11")
		e("BZHIL AX, R11, R11")
		e("KMOVW R11, K1")
		l.mask = "K1, "
		body(1)
		l.mask = ""
		label("done")
	}
	l.op(fold, 1, 0, 0)
	l.op(fold, 3, 2, 2)
	l.op(fold, 2, 0, 0)
	l.fold(fold, 0, 4, "R12")
	ret()
}

func (l *loop) sums() {
	zero := func(acc int) { l.zero(acc) }
	l.reduce("dot", "is Σ a·b.", "VADDPS", zero, ptrs("a", "b"), func(acc int) {
		l.load("BX", 4+acc)
		l.load("CX", 8+acc)
		l.fma(4+acc, 8+acc, acc)
	})
	l.reduce("dot3", "is Σ a·b·c.", "VADDPS", zero, ptrs("a", "b", "c"), func(acc int) {
		l.load("BX", 4+acc)
		l.load("CX", 8+acc)
		l.mul(4+acc, 8+acc, 4+acc)
		l.load("DX", 8+acc)
		l.fma(4+acc, 8+acc, acc)
	})
	l.reduce("sum", "is Σ x.", "VADDPS", zero, ptrs("x"), func(acc int) {
		l.load("BX", 4+acc)
		l.add(4+acc, acc, acc)
	})
	largest := "VMAXPS"
	if l.reg == 'V' {
		largest = "FMAXNM" // passes over NaN, as the order of operands does below
	}
	l.reduce("max", "is the largest x.", largest, func(acc int) { l.constant(float32(math.Inf(-1)), acc) }, ptrs("x"), func(acc int) {
		l.load("BX", 4+acc)
		l.masked(largest, acc, 4+acc, acc)
	})
	l.sum64("sumSq64", "is Σ a².", ptrs("a"), func(i int, load func(p string, z int)) {
		load("BX", 4+i)
		l.op("VFMADD231PD", 4+i, 4+i, i)
	})
	l.sum64("sumDiff64", "is Σ (a-b)².", ptrs("a", "b"), func(i int, load func(p string, z int)) {
		load("BX", 4+i)
		load("CX", 8+i)
		l.op("VSUBPD", 8+i, 4+i, 4+i)
		l.op("VFMADD231PD", 4+i, 4+i, i)
	})
	l.sum64("sum64", "is Σ a.", ptrs("a"), func(i int, load func(p string, z int)) {
		load("BX", 4+i)
		l.op("VADDPD", 4+i, i, i)
	})
	l.sum64("dotDiff64", "is Σ p·(a-b).", ptrs("a", "b", "p"), func(i int, load func(p string, z int)) {
		load("BX", 4+i)
		load("CX", 8+i)
		l.op("VSUBPD", 8+i, 4+i, 4+i)
		load("DX", 8+i)
		l.op("VFMADD231PD", 4+i, 8+i, i)
	})
}

// sum64 writes a sum in float64: body adds half a register's worth of f32,
// widened by load, into register i. The length is a multiple of 2·w.
func (l *loop) sum64(name, doc string, args []arg, body func(i int, load func(p string, z int))) {
	text(name+l.name, doc[:len(doc)-1]+", in float64.", append(args, arg{"out", "*float64", "R12"})...)
	for i := range 4 {
		l.zero(i)
	}
	half := l.w / 2 // f64 lanes of a register, loaded from half a register of f32
	e("XORQ R8, R8")
	e("SUBQ $%d, AX", 4*half)
	e("JLT tail")
	e("PCALIGN $32")
	label("loop")
	for i := range 4 {
		body(i, func(p string, z int) { e("VCVTPS2PD %d(%s)(R8*1), %s", 4*half*i, p, l.r(z)) })
	}
	e("ADDQ $%d, R8", 16*half)
	e("SUBQ $%d, AX", 4*half)
	e("JGE loop")
	label("tail")
	l.op("VADDPD", 1, 0, 0)
	l.op("VADDPD", 3, 2, 2)
	l.op("VADDPD", 2, 0, 0)
	if l.reg == 'V' {
		foldNEON("VADDPD", 0, "R12")
		ret()
		return
	}
	if l.reg == 'Z' {
		e("VEXTRACTF64X4 $1, Z0, Y4")
		e("VADDPD Y4, Y0, Y0")
	}
	e("VEXTRACTF128 $1, Y0, X4")
	e("VADDPD X4, X0, X0")
	e("VPERMILPD $1, X0, X4")
	e("VADDPD X4, X0, X0")
	e("VMOVSD X0, (R12)")
	ret()
}

// linear writes what is memory bound.
func (l *loop) linear() {
	text("axpy"+l.name, "is y += a·x.", append(ptrs("y", "x"), l.scalar("a", 0))...)
	l.each(func() {
		l.load("BX", 1)
		l.load("CX", 2)
		l.fma(0, 2, 1)
		l.store(1, "BX")
	})
	ret()
	text("lin"+l.name, "is y = a·x.", append(ptrs("y", "x"), l.scalar("a", 0))...)
	l.each(func() {
		l.load("CX", 1)
		l.mul(0, 1, 1)
		l.store(1, "BX")
	})
	ret()
	text("lin2"+l.name, "is y = a·x + b·z.", append(ptrs("y", "x", "z"), l.scalar("a", 0), l.scalar("b", 1))...)
	l.each(func() {
		l.load("CX", 2)
		l.load("DX", 3)
		l.mul(1, 3, 3)
		l.fma(0, 2, 3)
		l.store(3, "BX")
	})
	ret()
	text("mulScale"+l.name, "is y = a·x·w.", append(ptrs("y", "x", "w"), l.scalar("a", 0))...)
	l.each(func() {
		l.load("CX", 1)
		l.load("DX", 2)
		l.mul(0, 1, 1)
		l.mul(1, 2, 1)
		l.store(1, "BX")
	})
	ret()
	text("mulAcc"+l.name, "is y += s·a·b.", append(ptrs("y", "a", "b"), l.scalar("s", 0))...)
	l.each(func() {
		l.load("CX", 1)
		l.load("DX", 2)
		l.load("BX", 3)
		l.mul(0, 1, 1)
		l.fma(1, 2, 3)
		l.store(3, "BX")
	})
	ret()
	text("normGrad"+l.name, "is dx = r·dy·w + c·x.", append(ptrs("dx", "dy", "w", "x"), l.scalar("r", 0), l.scalar("c", 1))...)
	l.each(func() {
		l.load("CX", 2)
		l.load("DX", 3)
		l.load("SI", 4)
		l.mul(0, 2, 2)
		l.mul(1, 4, 4)
		l.fma(2, 3, 4)
		l.store(4, "BX")
	})
	ret()
}

func (l *loop) elementwise() {
	text("softGrad"+l.name, "is ds = p·(ds-delta)·scale.", append(ptrs("ds", "p"), l.scalar("delta", 0), l.scalar("scale", 1))...)
	l.each(func() {
		l.load("BX", 2)
		l.load("CX", 3)
		l.sub(2, 0, 2)
		l.mul(2, 3, 2)
		l.mul(1, 2, 2)
		l.store(2, "BX")
	})
	ret()
	text("rotate"+l.name, "is y0 = x0·c - x1·s, y1 = x1·c + x0·s.", ptrs("y0", "y1", "x0", "x1", "c", "s")...)
	l.each(func() {
		l.load("DX", 0)
		l.load("SI", 1)
		l.load("DI", 2)
		l.load("R9", 3)
		l.turnPair()
		l.store(4, "BX")
		l.store(5, "CX")
	})
	ret()
	text("addSq"+l.name, "is y += x².", ptrs("y", "x")...)
	l.each(func() {
		l.load("BX", 0)
		l.load("CX", 1)
		l.fma(1, 1, 0)
		l.store(0, "BX")
	})
	ret()
	for _, s := range []struct{ name, doc, op string }{{"addAbs", "is y += |x|.", "VADDPS"}, {"maxAbs", "is y = max(y, |x|).", "VMAXPS"}} {
		text(s.name+l.name, s.doc, ptrs("y", "x")...)
		l.constant(math.Float32frombits(0x7fffffff), 2)
		l.each(func() {
			l.load("BX", 0)
			l.load("CX", 1)
			l.op("VANDPS", 2, 1, 1)
			l.op(s.op, 0, 1, 0)
			l.store(0, "BX")
		})
		ret()
	}
}

// adam: products are rounded before they are added, so that every level gives
// the same bits as Go. k points to an Adam.
func (l *loop) adam() {
	text("adam"+l.name, "is one AdamW step; k are the 8 numbers of an Adam.", ptrs("p", "grad", "m", "v", "k")...)
	for i := range 8 {
		e("VBROADCASTSS %d(DI), %s", 4*i, l.r(8+i))
	}
	const clip, keep, lerp, beta2, one, root, eps, step = 8, 9, 10, 11, 12, 13, 14, 15
	l.each(func() {
		l.load("BX", 0)
		l.load("CX", 1)
		l.load("DX", 2)
		l.load("SI", 3)
		l.mul(clip, 1, 1)
		l.sub(1, 2, 4) // d - m
		l.mul(lerp, 4, 4)
		l.add(4, 2, 2)
		l.store(2, "DX")
		l.mul(1, 1, 1)
		l.mul(one, 1, 1)
		l.mul(beta2, 3, 3)
		l.add(1, 3, 3)
		l.store(3, "SI")
		e("VSQRTPS %s, %s", l.r(3), l.r(3))
		l.op("VDIVPS", root, 3, 3)
		l.add(eps, 3, 3)
		l.mul(step, 2, 2)
		l.op("VDIVPS", 3, 2, 2)
		l.mul(keep, 0, 0)
		l.add(2, 0, 0)
		l.store(0, "BX")
	})
	ret()
}
