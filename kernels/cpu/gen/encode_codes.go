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

// fakeInts: a group of integers and back, in place.
func fakeInts() {
	text("ScaledBounds", "sets v = x·s, at most limit in magnitude, and bounds to its least and largest value and 0; n is a multiple of 16.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"s", "*float32", "CX"}, arg{"limit", "float32", "Z31"}, arg{"v", "*float32", "DX"}, arg{"bounds", "*float32", "SI"})
	broadcast(0x80000000, 30)
	z3("VPXORD", 30, 31, 30)
	zZero(0)
	zZero(1)
	e("SHRQ $4, AX")
	elements("loop", func() {
		lane("BX", 2)
		lane("CX", 3)
		zMul(2, 3, 2)
		z3("VMAXPS", 30, 2, 2)
		z3("VMINPS", 31, 2, 2)
		storeLane(2, "DX")
		z3("VMINPS", 0, 2, 0)
		z3("VMAXPS", 1, 2, 1)
	})
	for i, op := range []string{"VMINPS", "VMAXPS"} {
		e("VEXTRACTF64X4 $1, Z%d, Y2", i)
		e("%s Y2, Y%d, Y%d", op, i, i)
		e("VEXTRACTF128 $1, Y%d, X2", i)
		e("%s X2, X%d, X%d", op, i, i)
		e("VPERMILPS $0x4e, X%d, X2", i)
		e("%s X2, X%d, X%d", op, i, i)
		e("VPERMILPS $0xb1, X%d, X2", i)
		e("%s X2, X%d, X%d", op, i, i)
		e("VMOVSS X%d, %d(SI)", i, 4*i)
	}
	ret()

	text("RoundScaled", "sets dst = (code-zero)·scale/s where code = nearest(v/scale)+zero, between 0 and top; n is a multiple of 16.",
		arg{"n", "int", "AX"}, arg{"v", "*float32", "BX"}, arg{"s", "*float32", "CX"}, arg{"dst", "*float32", "DX"},
		arg{"scale", "float32", "Z31"}, arg{"zero", "float32", "Z30"}, arg{"top", "float32", "Z29"})
	zZero(28)
	e("SHRQ $4, AX")
	elements("loop", func() {
		lane("BX", 0)
		lane("CX", 1)
		zDiv(0, 31, 0)
		e("VRNDSCALEPS $8, Z0, Z0")
		zAdd(0, 30, 0)
		z3("VMAXPS", 28, 0, 0)
		z3("VMINPS", 29, 0, 0)
		zSub(0, 30, 0)
		zMul(0, 31, 0)
		zDiv(0, 1, 0)
		storeLane(0, "DX")
	})
	ret()
}
