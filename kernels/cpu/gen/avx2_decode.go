package main

// decoders256 writes the decoders of decode.go for AVX2, eight values at a time.
func decoders256() {
	nibbles256("Q4_0", "Split", 2, false)
	nibbles256("Q4_1", "Split", 4, true)
	nibbles256("Low", "Low", 0, false)
	nibbles256("High", "High", 0, false)
	fiveBits256("Q5_0", 2, false)
	fiveBits256("Q5_1", 4, true)
	kNibbles256("K4", false)
	kNibbles256("K5", true)
	k6Unit256()
	k6Block256()
	bytes256("Q8_0", "VPMOVSXBD", 2)
	bytes256("Bytes", "VPMOVZXBD", 0)
	floats8x256()
	floats4x256()
}

// text256 begins the decoder that is like one of AVX-512, or has a description.
func text256(name, doc string, args ...arg) {
	if doc == "" {
		doc = "is decode" + name + " for AVX2."
	}
	text("decode256"+name, doc, args...)
	e("SHLQ $2, R8")
}

// lanes256 fills every lane of a register with v.
func lanes256(v, y int) {
	e("MOVL $%d, R9", v)
	e("VMOVD R9, X%d", y)
	e("VPBROADCASTD X%d, Y%d", y, y)
}

// scales256 loads s, z and t of a unit into Y4, Y5 and Y6, as scales does.
func scales256(front int, minimum bool) {
	if front == 0 {
		for i := range 3 {
			e("VBROADCASTSS %d(DX), Y%d", 4*i, 4+i)
		}
		return
	}
	e("VPBROADCASTW (BX), X4")
	e("VCVTPH2PS X4, Y4")
	if minimum {
		e("VPBROADCASTW 2(BX), X6")
		e("VCVTPH2PS X6, Y6")
	}
}

// fromBase256 turns base into the value, in register y.
func fromBase256(from, y, front int, minimum bool) {
	if front == 0 {
		e("VSUBPS Y5, Y%d, Y%d", from, y)
		from = y
	}
	e("VMULPS Y4, Y%d, Y%d", from, y)
	if front == 0 || minimum {
		e("VADDPS Y6, Y%d, Y%d", y, y)
	}
}

// nibbles256: the 16 values of a unit are in Y2 and Y3; bit 3 of a code says in
// which.
func nibbles256(name, order string, front int, minimum bool) {
	doc := ""
	if order == "Low" {
		doc = "decodes units of 32 4-bit codes, " + orders[order] + ". Units are ldb bytes apart, their values ldd floats. " + frontOf(front)
	}
	text256(name, doc, unitArgs()...)
	e("VMOVUPS (SI), Y14")
	e("VMOVUPS 32(SI), Y15")
	if order != "Split" {
		e("VMOVDQU shifts%s<>(SB), Y13", order)
	}
	label("loop")
	scales256(front, minimum)
	fromBase256(14, 2, front, minimum)
	fromBase256(15, 3, front, minimum)
	look := func(codes, at int) {
		e("VPERMPS Y2, Y%d, Y7", codes)
		e("VPERMPS Y3, Y%d, Y8", codes)
		e("VPSLLD $28, Y%d, Y%d", codes, codes)
		e("VBLENDVPS Y%d, Y8, Y7, Y7", codes)
		e("VMOVUPS Y7, %d(DI)", at)
	}
	for q := range 2 {
		if order == "Split" {
			e("VPMOVZXBD %d(BX), Y0", front+8*q)
			e("VPSRLD $4, Y0, Y1")
			look(0, 32*q)
			look(1, 64+32*q)
			continue
		}
		for h := range 2 { // four bytes are eight codes
			e("VPBROADCASTD %d(BX), Y%d", 8*q+4*h, h)
			e("VPSRLVD Y13, Y%d, Y%d", h, h)
			look(h, 64*q+32*h)
		}
	}
	nextUnit()
}

func fiveBits256(name string, front int, minimum bool) {
	text256(name, "", unitArgs()...)
	lanes256(15, 15)
	lanes256(1, 14)
	lanes256(16, 13)
	e("VCVTDQ2PS Y13, Y13")
	e("VMOVDQU iota256<>(SB), Y12")
	label("loop")
	scales256(front, minimum)
	e("VPBROADCASTD %d(BX), Y11", front)
	e("VPSRLVD Y12, Y11, Y11") // lane i begins at bit i
	for q := range 4 {
		e("VPMOVZXBD %d(BX), Y0", front+4+q%2*8)
		if q >= 2 {
			e("VPSRLD $4, Y0, Y0")
		}
		e("VPAND Y15, Y0, Y0")
		e("VPSRLD $%d, Y11, Y1", 8*q)
		e("VPAND Y14, Y1, Y1")
		e("VPSLLD $4, Y1, Y1")
		e("VPOR Y1, Y0, Y0")
		e("VCVTDQ2PS Y0, Y0")
		if !minimum {
			e("VSUBPS Y13, Y0, Y0")
		}
		fromBase256(0, 0, front, minimum)
		e("VMOVUPS Y0, %d(DI)", 32*q)
	}
	nextUnit()
}

func kNibbles256(name string, high bool) {
	args := append(unitArgs(), arg{"shift", "int", "R10"})
	if high {
		args = append(args, arg{"high", "*byte", "R11"}, arg{"ldh", "int", "R12"}, arg{"bit", "int", "R13"}, arg{"bitstep", "int", "SI"})
	}
	doc := "decodes units of 32 codes of " + map[bool]string{false: "Q4_K", true: "Q5_K"}[high] + ": the nibbles at shift of 32 bytes"
	if high {
		doc += ", and of 32 more, ldh bytes apart, one bit, bitstep further for every unit"
	}
	text256(name, doc+". Units are ldb bytes apart, their values ldd floats. {s, z, t} are in params; base is not used.", args...)
	e("VMOVQ R10, X8")
	lanes256(15, 15)
	if high {
		lanes256(1, 14)
		e("VMOVQ R13, X9")
		e("VMOVQ SI, X10")
	}
	label("loop")
	scales256(0, false)
	for q := range 4 {
		e("VPMOVZXBD %d(BX), Y0", 8*q)
		e("VPSRLD X8, Y0, Y0")
		e("VPAND Y15, Y0, Y0")
		if high {
			e("VPMOVZXBD %d(R11), Y7", 8*q)
			e("VPSRLD X9, Y7, Y7")
			e("VPAND Y14, Y7, Y7")
			e("VPSLLD $4, Y7, Y7")
			e("VPOR Y7, Y0, Y0")
		}
		e("VCVTDQ2PS Y0, Y0")
		fromBase256(0, 0, 0, false)
		e("VMOVUPS Y0, %d(DI)", 32*q)
	}
	if high {
		e("ADDQ R12, R11")
		e("VPADDQ X10, X9, X9")
	}
	nextUnit()
}

// k6Step is eight codes of Q6_K: nibbles of Y0, two bits of Y1 at bits 4 and 5.
func k6Step(scale, at int) {
	e("VPAND Y15, Y0, Y0")
	e("VPAND Y14, Y1, Y1")
	e("VPOR Y1, Y0, Y0")
	e("VPSUBD Y13, Y0, Y0")
	e("VCVTDQ2PS Y0, Y0")
	e("VBROADCASTSS %d(DX), Y2", scale)
	e("VMULPS Y2, Y0, Y0")
	e("VMOVUPS Y0, %d(DI)", at)
}

func k6Constants() {
	lanes256(15, 15)
	lanes256(48, 14)
	lanes256(32, 13)
}

func k6Unit256() {
	text("decode256K6", "decodes one unit of 32 codes of Q6_K: the nibbles at shift of 32 bytes and the pairs of bits at hshift of 32 more, less 32, times the first float of params and, from element 16 on, the fifth.",
		arg{"src", "*byte", "BX"}, arg{"high", "*byte", "R11"}, arg{"params", "*float32", "DX"}, arg{"dst", "*float32", "DI"}, arg{"shift", "int", "R10"}, arg{"hshift", "int", "R13"})
	e("VMOVQ R10, X8")
	e("VMOVQ R13, X9")
	k6Constants()
	for q := range 4 {
		e("VPMOVZXBD %d(BX), Y0", 8*q)
		e("VPSRLD X8, Y0, Y0")
		e("VPMOVZXBD %d(R11), Y1", 8*q)
		e("VPSLLD $4, Y1, Y1")
		e("VPSRLD X9, Y1, Y1")
		k6Step(q/2*16, 32*q)
	}
	ret()
}

func k6Block256() {
	text("decode256K6Block", "decodes a block of 256 of Q6_K, each 16 elements times a float of params.",
		arg{"src", "*byte", "BX"}, arg{"params", "*float32", "DX"}, arg{"dst", "*float32", "DI"})
	k6Constants()
	for u := range 8 {
		for q := range 4 {
			e("VPMOVZXBD %d(BX), Y0", u/4*64+u%2*32+8*q)
			if u%4 >= 2 {
				e("VPSRLD $4, Y0, Y0")
			}
			e("VPMOVZXBD %d(BX), Y1", 128+u/4*32+8*q)
			if s := 4 - u%4*2; s >= 0 {
				e("VPSLLD $%d, Y1, Y1", s)
			} else {
				e("VPSRLD $%d, Y1, Y1", -s)
			}
			k6Step(4*(2*u+q/2), 4*(32*u+8*q))
		}
	}
	ret()
}

func bytes256(name, widen string, front int) {
	doc := ""
	if front == 0 {
		doc = "decodes units of 32 bytes. Units are ldb bytes apart, their values ldd floats. base is not used. " + frontOf(front)
	}
	text256(name, doc, unitArgs()...)
	label("loop")
	scales256(front, false)
	for q := range 4 {
		e("%s %d(BX), Y0", widen, front+8*q)
		e("VCVTDQ2PS Y0, Y0")
		fromBase256(0, 0, front, false)
		e("VMOVUPS Y0, %d(DI)", 32*q)
	}
	nextUnit()
}

func floats8x256() {
	text256("E4M3", "", unitArgs()...)
	for i, v := range []int{0xbf80bf80, 0x3f803f80, 0x43800000, 0x7fc00000} {
		e("MOVL $0x%x, R9", v)
		e("VMOVD R9, X%d", 15-i)
		e("VPBROADCASTD X%d, Y%d", 15-i, 15-i)
	}
	label("loop")
	e("VBROADCASTSS (DX), Y4")
	for q := range 4 {
		e("VPMOVSXBW %d(BX), X0", 8*q)
		e("VPSLLW $7, X0, X0")
		e("VPAND X15, X0, X0")
		e("VPAND X14, X0, X2")
		e("VPCMPEQW X14, X2, X2")
		e("VPMOVSXWD X2, Y2")
		e("VPAND Y12, Y2, Y2")
		e("VCVTPH2PS X0, Y0")
		e("VMULPS Y13, Y0, Y0")
		e("VPOR Y2, Y0, Y0")
		e("VMULPS Y4, Y0, Y0")
		e("VMOVUPS Y0, %d(DI)", 32*q)
	}
	nextUnit()
}

func floats4x256() {
	text256("E2M1", "", unitArgs()...)
	e("VMOVUPS (SI), Y14")
	e("VMOVUPS 32(SI), Y15")
	e("VMOVDQU shiftsLow<>(SB), Y13")
	label("loop")
	for q := range 2 {
		e("VBROADCASTSS %d(DX), Y4", 4*q)
		for h := range 2 { // four bytes are eight codes
			e("VPBROADCASTD %d(BX), Y0", 8*q+4*h)
			e("VPSRLVD Y13, Y0, Y0")
			e("VPERMPS Y14, Y0, Y7")
			e("VPERMPS Y15, Y0, Y8")
			e("VPSLLD $28, Y0, Y0")
			e("VBLENDVPS Y0, Y8, Y7, Y7")
			e("VMULPS Y4, Y7, Y7")
			e("VMOVUPS Y7, %d(DI)", 64*q+32*h)
		}
	}
	nextUnit()
}
