package main

// packRows256 transposes up to 8 rows of f32 for AVX2, whole blocks of 8 only.
func packRows256() {
	text("packRows256", "transposes up to 8 rows of k f32, k a multiple of 8. Rows are ldb bytes apart.", rowArgs("k", "*float32")...)
	e("SHLQ $2, DI")
	label("loop")
	e("MOVQ BX, R8")
	for i := range 8 {
		e("VMOVUPS (R8), Y%d", i)
		if i < 7 {
			e("LEAQ (R8)(CX*1), R9")
			e("CMPQ DX, $%d", i+1)
			e("CMOVQGT R9, R8")
		}
	}
	for i := 0; i < 8; i += 2 {
		e("VUNPCKLPS Y%d, Y%d, Y%d", i+1, i, 8+i)
		e("VUNPCKHPS Y%d, Y%d, Y%d", i+1, i, 9+i)
	}
	for i := 0; i < 8; i += 4 { // rows i…i+3, columns q and 4+q
		e("VUNPCKLPD Y%d, Y%d, Y%d", 10+i, 8+i, i)
		e("VUNPCKHPD Y%d, Y%d, Y%d", 10+i, 8+i, i+1)
		e("VUNPCKLPD Y%d, Y%d, Y%d", 11+i, 9+i, i+2)
		e("VUNPCKHPD Y%d, Y%d, Y%d", 11+i, 9+i, i+3)
	}
	for half := range 2 {
		imm := []string{"0x20", "0x31"}[half]
		for q := range 4 {
			e("VPERM2F128 $%s, Y%d, Y%d, Y%d", imm, 4+q, q, 8+q)
			e("VMOVUPS Y%d, (SI)", 8+q)
			e("ADDQ DI, SI")
		}
	}
	e("ADDQ $32, BX")
	e("SUBQ $8, AX")
	e("JGT loop")
	ret()
}
