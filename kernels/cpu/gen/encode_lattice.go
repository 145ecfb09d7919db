package main

import (
	"fmt"
	"math"
)

// Kernels of the types that store points of a lattice. Coordinates are packed in
// 16 bits, eight of two bits or four of three. A permutation of 16 floats looks at
// four bits of an index, which are a coordinate and a part of the next, so its
// tables repeat: they need no mask.

func lattices() {
	fmt.Fprintln(&out.asm)
	data := func(name string, f func(i int) int) {
		for i := range 16 {
			fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/4, $%d\n", name, 4*i, f(i))
		}
		fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name)
	}
	data("places", func(i int) int { return i })
	data("shifts8", func(i int) int { return i % 8 * 2 })
	data("shifts4", func(i int) int { return i % 4 * 3 })
	data("halves", func(i int) int { return i / 8 })
	expandEights()
	for _, dims := range []int{8, 4} {
		latticeCodes(dims)
		latticeClosest(dims)
	}
}

func latticeCodes(dims int) {
	name := fmt.Sprint(dims)
	text("LatticeCodes"+name, "sets codes[i] to the packed coordinates of the "+name+" elements that i is among: nearest(½(inverse·x - 1)) within 0 and top; n is a multiple of 16.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"inverse", "float32", "Z24"}, arg{"top", "float32", "Z27"}, arg{"codes", "*uint32", "CX"})
	roundingConstants()
	broadcastF(1, 23)
	broadcastF(0.5, 22)
	e("VMOVUPS shifts%s<>(SB), Z21", name)
	zMove(zMagic, zLow)
	zAdd(zMagic, zHigh, zHigh)
	label("loop")
	e("VMULPS (BX), Z24, Z0")
	zSub(0, 23, 0)
	zMul(0, 22, 0)
	zAdd(0, zMagic, 0)
	e("VPTERNLOGD $0xea, Z%d, Z%d, Z0", zBase, zMask)
	z3("VMAXPS", zLow, 0, 0)
	z3("VMINPS", zHigh, 0, 0)
	e("VPSUBD Z%d, Z0, Z0", zMagic)
	e("VPSLLVD Z21, Z0, Z0")
	for _, swap := range []string{"VPSHUFD $0xb1, Z0, Z1", "VPSHUFD $0x4e, Z0, Z1", "VSHUFI32X4 $0xb1, Z0, Z0, Z1"}[:map[int]int{4: 2, 8: 3}[dims]] {
		e("%s", swap)
		e("VPORD Z1, Z0, Z0")
	}
	e("VMOVDQU32 Z0, (CX)")
	e("ADDQ $64, BX")
	e("ADDQ $64, CX")
	e("SUBQ $16, AX")
	e("JGT loop")
	ret()
}

func latticeClosest(dims int) {
	name := fmt.Sprint(dims)
	text("LatticeClosest"+name, "sets pos to the first of n points whose Σ w·(scale·level - x)², in order, is least; points are read in sixteens, levels repeat.",
		arg{"n", "int", "AX"}, arg{"points", "*uint16", "SI"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"}, arg{"levels", "*float32", "DX"},
		arg{"scale", "float32", "Z24"}, arg{"pos", "*int32", "DI"})
	e("VMULPS (DX), Z24, Z24")
	for i := range dims {
		e("VSUBPS.BCST %d(BX), Z24, Z%d", 4*i, i)
		e("VMULPS.BCST %d(CX), Z%d, Z17", 4*i, i)
		zMul(17, i, i)
	}
	broadcastF(math.MaxFloat32, 20)
	zZero(21)
	e("VMOVUPS places<>(SB), Z22")
	e("VPBROADCASTD AX, Z23")
	broadcast(16, 25)
	label("loop")
	e("VPMOVZXWD (SI), Z18")
	e("VPERMPS Z0, Z18, Z19")
	for i := 1; i < dims; i++ {
		e("VPSRLD $%d, Z18, Z18", map[int]int{8: 2, 4: 3}[dims])
		e("VPERMPS Z%d, Z18, Z17", i)
		zAdd(19, 17, 19)
	}
	e("VPCMPUD $1, Z23, Z22, K2") // places that are there
	zCompare("<", 19, 20, "K2", "K1")
	e("VMOVAPS Z19, K1, Z20")
	e("VMOVDQA32 Z22, K1, Z21")
	e("VPADDD Z25, Z22, Z22")
	e("ADDQ $32, SI")
	e("SUBQ $16, AX")
	e("JGT loop")
	swaps := []string{"VSHUFF32X4 $0x4e, Z%d, Z%d, Z%d", "VSHUFF32X4 $0xb1, Z%d, Z%d, Z%d"}
	least := func(op string, z, tmp int) {
		for _, s := range swaps {
			e(s, z, z, tmp)
			z3(op, tmp, z, z)
		}
		for _, s := range []int{0x4e, 0xb1} {
			e("VPSHUFD $%#x, Z%d, Z%d", s, z, tmp)
			z3(op, tmp, z, z)
		}
	}
	zMove(20, 0)
	least("VMINPS", 0, 1)
	zCompare("==", 20, 0, "", "K1")
	broadcast(0x7fffffff, 2)
	e("VMOVDQA32 Z21, K1, Z2")
	least("VPMINSD", 2, 1)
	e("VMOVD X2, (DI)")
	ret()
}

func expandEights() {
	text("ExpandEights", "writes n values, a multiple of 16, times the scale of their eight, with their sign turned where a bit of signs is set.",
		arg{"n", "int", "AX"}, arg{"values", "*uint8", "BX"}, arg{"signs", "*uint8", "CX"}, arg{"scales", "*float32", "DX"}, arg{"dst", "*float32", "DI"})
	broadcast(1<<31, 31)
	e("VMOVUPS halves<>(SB), Z30")
	label("loop")
	e("VPMOVSXBD (BX), Z0")
	e("VCVTDQ2PS Z0, Z0")
	e("VMOVSD (DX), X1")
	e("VPERMPS Z1, Z30, Z1")
	zMul(1, 0, 0)
	e("KMOVW (CX), K1")
	e("VPXORD Z31, Z0, K1, Z0")
	e("VMOVUPS Z0, (DI)")
	e("ADDQ $16, BX")
	e("ADDQ $2, CX")
	e("ADDQ $8, DX")
	e("ADDQ $64, DI")
	e("SUBQ $16, AX")
	e("JGT loop")
	ret()
}
