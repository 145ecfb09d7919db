package main

// groupRows emits the decoder of integers with a scale and a zero for every
// 2^shift units, in planes of their own. unit decodes the unit at R12 with its
// scale in Z4 and its zero in Z5 to R13.
func groupRows(name, scale string, bytes int, unit func()) {
	text("decodeRows"+name+scale, "decodes units first, first+1, … of some rows of "+name+" codes with scales of type "+scale+", one for 2^shift units; zeros are read at the same index and zmask. Rows are ldb, lds, ldz bytes apart, their values ldd floats.",
		arg{"rows", "int", "AX"}, arg{"first", "int", ""}, arg{"units", "int", ""}, arg{"shift", "int", "CX"},
		arg{"src", "*byte", "BX"}, arg{"ldb", "int", ""}, arg{"scales", "*byte", "SI"}, arg{"lds", "int", ""},
		arg{"zeros", "*byte", "DX"}, arg{"ldz", "int", ""}, arg{"zmask", "int", "R15"}, arg{"base", "*float32", "R8"}, arg{"dst", "*float32", "DI"}, arg{"ldd", "int", "R9"})
	e("SHLQ $2, R9")
	e("VMOVUPS (R8), Z31")
	e("MOVQ R9, R8")
	e("VMOVDQU32 interleave0<>(SB), Z30")
	e("VMOVDQU32 interleave1<>(SB), Z29")
	label("row")
	e("MOVQ BX, R12")
	e("MOVQ DI, R13")
	e("MOVQ first+8(FP), R10")
	e("MOVQ units+16(FP), R9")
	label("unit")
	e("SHRXQ CX, R10, R11")
	switch scale {
	case "F16":
		e("VPBROADCASTW (SI)(R11*2), Y4")
		e("VCVTPH2PS Y4, Z4")
	case "BF16":
		e("VPBROADCASTW (SI)(R11*2), Y4")
		e("VPMOVZXWD Y4, Z4")
		e("VPSLLD $16, Z4, Z4")
	default:
		e("VBROADCASTSS (SI)(R11*4), Z4")
	}
	e("ANDQ R15, R11")
	e("MOVBLZX (DX)(R11*1), R11")
	e("VPBROADCASTD R11, Z5")
	e("VCVTDQ2PS Z5, Z5")
	unit()
	e("ADDQ $%d, R12", bytes)
	e("ADDQ $128, R13")
	e("INCQ R10")
	e("DECQ R9")
	e("JGT unit")
	e("ADDQ ldb+40(FP), BX")
	e("ADDQ lds+56(FP), SI")
	e("ADDQ ldz+72(FP), DX")
	e("ADDQ R8, DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}

// nibblesOfGroup: the 16 values of a scale, looked up; the low nibble comes first.
func nibblesOfGroup() {
	e("VPMOVZXBD (R12), Z0")
	e("VSUBPS Z5, Z31, Z2")
	e("VMULPS Z4, Z2, Z2")
	e("VPSRLD $4, Z0, Z1")
	e("VPERMPS Z2, Z0, Z0")
	e("VPERMPS Z2, Z1, Z1")
	interleave(0, 1, "R13")
}

func bytesOfGroup() {
	for j := range 2 {
		e("VPMOVZXBD %d(R12), Z%d", 16*j, j)
		e("VCVTDQ2PS Z%d, Z%d", j, j)
		e("VSUBPS Z5, Z%d, Z%d", j, j)
		e("VMULPS Z4, Z%d, Z%d", j, j)
		e("VMOVUPS Z%d, %d(R13)", j, 64*j)
	}
}

func rowsF16() {
	text("decodeRowsF16", "widens n halves, a multiple of 16, of some rows. Rows are ldb bytes apart, their values ldd floats.",
		arg{"rows", "int", "AX"}, arg{"n", "int", "R9"}, arg{"src", "*byte", "BX"}, arg{"ldb", "int", "CX"}, arg{"dst", "*float32", "DI"}, arg{"ldd", "int", "R8"})
	e("SHLQ $2, R8")
	label("row")
	e("XORQ R10, R10")
	label("halves")
	e("VCVTPH2PS (BX)(R10*2), Z0")
	e("VMOVUPS Z0, (DI)(R10*4)")
	e("ADDQ $16, R10")
	e("CMPQ R10, R9")
	e("JLT halves")
	e("ADDQ CX, BX")
	e("ADDQ R8, DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}

// codebookRows emits the decoder of NF4 and FP4, whose blocks run flat over the
// matrix: a scale for every 2^shift units, f32 or nested. A nested one is a byte
// that stands for a float of the map behind front, times a float of outer for
// every 256, plus the float at front.
func codebookRows(nested bool) {
	name, doc, scales := "decodeRowsCodes", "", arg{"scales", "*float32", "SI"}
	rest := []arg{{"base", "*float32", "R8"}, {"dst", "*float32", "DI"}, {"ldd", "int", ""}}
	ldd := 80
	if nested {
		name, doc, scales = "decodeRowsNested", ", which is nested: map[scale]·outer[index/256] + front[0], with map behind front", arg{"scales", "*byte", "SI"}
		rest = append([]arg{{"front", "*float32", "DX"}, {"outer", "*float32", "R13"}}, rest...)
		ldd += 16
	}
	text(name, "decodes units of some rows of 4-bit codes, high nibble first, to base times a scale; unit i of all has scale i/2^shift"+doc+". The first unit is first; rows are ldu units and ldb bytes apart, their values ldd floats.",
		append([]arg{{"rows", "int", "AX"}, {"first", "int", "R15"}, {"units", "int", ""}, {"ldu", "int", ""}, {"shift", "int", "CX"},
			{"src", "*byte", "BX"}, {"ldb", "int", ""}, scales}, rest...)...)
	e("VMOVUPS (R8), Z31")
	e("VMOVDQU32 interleave0<>(SB), Z30")
	e("VMOVDQU32 interleave1<>(SB), Z29")
	if nested {
		e("VMOVSS (DX), X28")
	}
	label("row")
	e("MOVQ R15, R10")
	e("MOVQ BX, R12")
	e("MOVQ DI, R8")
	e("MOVQ units+16(FP), R9")
	label("unit")
	e("SHRXQ CX, R10, R11")
	if nested {
		e("MOVBLZX (SI)(R11*1), R14")
		e("SHRQ $8, R11")
		e("VMOVSS 4(DX)(R14*4), X4")
		e("VMULSS (R13)(R11*4), X4, X4")
		e("VADDSS X28, X4, X4")
		e("VBROADCASTSS X4, Z4")
	} else {
		e("VBROADCASTSS (SI)(R11*4), Z4")
	}
	e("VPMOVZXBD (R12), Z0")
	e("VMULPS Z4, Z31, Z2")
	e("VPSRLD $4, Z0, Z1")
	e("VPERMPS Z2, Z0, Z0")
	e("VPERMPS Z2, Z1, Z1")
	interleave(1, 0, "R8")
	e("ADDQ $16, R12")
	e("ADDQ $128, R8")
	e("INCQ R10")
	e("DECQ R9")
	e("JGT unit")
	e("ADDQ ldu+24(FP), R15")
	e("ADDQ ldb+48(FP), BX")
	e("MOVQ ldd+%d(FP), R11", ldd)
	e("LEAQ (DI)(R11*4), DI")
	e("DECQ AX")
	e("JGT row")
	ret()
}
