package main

import "fmt"

// along emits a loop over sub-blocks of size elements: body turns vector v of
// elements into codes (as dwords); code bytes go to DI, step bytes apart.
func along(size int, start, body func(), params ...string) {
	label("loop")
	start()
	for i := range size / 16 {
		e("VMOVUPS %d(BX), Z0", 64*i)
		body()
		e("VPMOVDB Z0, %d(DI)", 16*i)
	}
	e("ADDQ $%d, BX", 4*size)
	e("ADDQ SI, DI")
	for _, p := range params {
		e("ADDQ $4, %s", p)
	}
	e("DECQ AX")
	e("JNE loop")
	ret()
}

func alongArgs(extra ...arg) []arg {
	return append([]arg{{"blocks", "int", "AX"}, {"x", "*float32", "BX"}, {"codes", "*byte", "DI"}, {"step", "int", "SI"}}, extra...)
}

// integer turns nearest's argument in Z0 into a clamped code of 32 bits.
func integer() {
	zAdd(0, zMagic, 0)
	z3("VPANDD", zMask, 0, 0)
	z3("VPMAXSD", zLow, 0, 0)
	z3("VPMINSD", zHigh, 0, 0)
	z3("VPSUBD", zBase, 0, 0)
}

// integerConstants: codes lie between -half (R9) and top (R10); half is added.
func integerConstants() {
	broadcastF(12582912, zMagic)
	broadcast(0x007fffff, zMask)
	e("VPBROADCASTD R9, Z%d", zLow) // half
	e("VPBROADCASTD R10, Z%d", zHigh)
	broadcast(0x00400000, zBase)
	z3("VPSUBD", zLow, zBase, zLow)   // 2^22 - half
	z3("VPADDD", zHigh, zBase, zHigh) // 2^22 + top
	e("VPBROADCASTD R9, Z0")
	z3("VPSUBD", 0, zBase, zBase) // taken from the bits: 2^22 - half
}

func codesNearest() {
	for _, size := range []int{16, 32} {
		text(fmt.Sprintf("CodesDivide%d", size), "codes = half + nearest((x+m)/d) between -half and top.",
			alongArgs(arg{"d", "*float32", "CX"}, arg{"m", "*float32", "DX"}, arg{"half", "int", "R9"}, arg{"top", "int", "R10"})...)
		integerConstants()
		along(size, func() {
			e("VBROADCASTSS (CX), Z1")
			e("VBROADCASTSS (DX), Z2")
		}, func() {
			zAdd(0, 2, 0)
			zDiv(0, 1, 0)
			integer()
		}, "CX", "DX")
	}
	text("CodesMultiply32", "codes = half + nearest(iscale·(x-base)) between -half and top.",
		alongArgs(arg{"iscale", "*float32", "CX"}, arg{"base", "*float32", "DX"}, arg{"half", "int", "R9"}, arg{"top", "int", "R10"})...)
	integerConstants()
	along(32, func() {
		e("VBROADCASTSS (CX), Z1")
		e("VBROADCASTSS (DX), Z2")
	}, func() {
		zSub(0, 2, 0)
		zMul(1, 0, 0)
		integer()
	}, "CX", "DX")
}

func codesLegacy() {
	text("CodesAway", "codes = id·x rounded, halves away from zero.", alongArgs(arg{"id", "*float32", "CX"})...)
	broadcastF(0.5, 31)
	broadcastF(-0.5, 30)
	broadcast(1, 29)
	along(32, func() { e("VBROADCASTSS (CX), Z1") }, func() {
		zMul(0, 1, 0)
		e("VCVTTPS2DQ Z0, Z2")
		e("VCVTDQ2PS Z2, Z3")
		zSub(0, 3, 3)
		zCompare(">=", 3, 31, "", "K1")
		zCompare("<=", 3, 30, "", "K2")
		e("VPADDD Z29, Z2, K1, Z2")
		e("VPSUBD Z29, Z2, K2, Z2")
		e("VMOVDQA32 Z2, Z0")
	}, "CX")

	text("CodesAbove", "codes = id·(x-base) + add, cut to an integer and bounded by top when it is below 16 or signed.",
		alongArgs(arg{"id", "*float32", "CX"}, arg{"base", "*float32", "DX"}, arg{"add", "float32", "Z31"}, arg{"top", "int", "R9"}, arg{"shift", "int", "R10"})...)
	e("VPBROADCASTD R9, Z30")
	e("VMOVQ R10, X29")
	along(32, func() {
		e("VBROADCASTSS (CX), Z1")
		e("VBROADCASTSS (DX), Z2")
	}, func() {
		zSub(0, 2, 0)
		zMul(0, 1, 0)
		zAdd(0, 31, 0)
		e("VCVTTPS2DQ Z0, Z0")
		e("VPSLLD X29, Z0, Z0")
		e("VPSRAD X29, Z0, Z0")
		z3("VPMINSD", 30, 0, 0)
	}, "CX", "DX")
}

func codesIQ4() {
	text("CodesIQ4", "codes = nearestIQ4(id·x).", alongArgs(arg{"id", "*float32", "CX"})...)
	iq4Constants()
	broadcastF(130, 22)
	broadcastF(-130, 21)
	along(32, func() { e("VBROADCASTSS (CX), Z1") }, func() {
		zMul(0, 1, 3)
		z3("VMINPS", 22, 3, 3) // NaN becomes the largest code
		z3("VMAXPS", 21, 3, 3)
		iq4(3, 0, 2)
	}, "CX")
}

func finite() {
	text("NotFinite", "sets bad to a nonzero number if one of n values, n a multiple of 16, is NaN or infinite.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"bad", "*int32", "CX"})
	broadcast(0x7f800000, 31)
	e("XORL R9, R9")
	label("loop")
	e("VPANDD (BX), Z31, Z0")
	e("VPCMPEQD Z31, Z0, K1")
	e("KMOVW K1, R10")
	e("ORL R10, R9")
	e("ADDQ $64, BX")
	e("SUBQ $16, AX")
	e("JGT loop")
	e("MOVL R9, (CX)")
	ret()
}
