package main

// stream writes what products that are larger than the caches need.
func stream() {
	open("cpu", "..", "stream")
	text("storeFence", "orders stores that went past the caches before the stores that follow.")
	e("SFENCE")
	e("RET")
	text("prefetchRows", "asks for n bytes of each of some rows ldb bytes apart, for the second-level cache.",
		arg{"rows", "int", "AX"}, arg{"src", "*byte", "BX"}, arg{"n", "int", "CX"}, arg{"ldb", "int", "DX"})
	label("row")
	e("MOVQ BX, SI")
	e("LEAQ (BX)(CX*1), DI")
	label("line")
	e("PREFETCHT1 (SI)")
	e("ADDQ $64, SI")
	e("CMPQ SI, DI")
	e("JLT line")
	e("ADDQ DX, BX")
	e("DECQ AX")
	e("JGT row")
	e("RET")
	save()
}
