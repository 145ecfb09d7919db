package main

// decodeFew writes decoders of the types of few bits, a row's steps at a time. They
// unpack as the kernels of products do; a value is an integer times its scale, rounded
// once, as in package block.
func decodeFew() {
	open("cpu", "..", "decode_few")
	mvConstants()
	for _, k := range latticeTypes {
		k.decode()
	}
	for _, f := range fewTypes {
		f.decode()
	}
	save()
}

// decodeText begins a decoder with some bytes of aligned room at R15.
func decodeText(room int, name string, constants func()) {
	textWith(room+64, "decodeFew"+name, "decodes n blocks of "+name+", or as many as fill 64 columns, one after another.",
		arg{"n", "int", "AX"}, arg{"src", "*byte", "SI"}, arg{"table", "*byte", "R10"}, arg{"dst", "*float32", "DI"})
	constants()
	e("LEAQ 63(SP), R15")
	e("ANDQ $~63, R15")
}

// scaled writes 16 values: codes in memory less a number, times another.
func scaled(codesAt, zeroAt, scaleAt, z, to int) {
	e("VPMOVZXBD %d(R15), Z%d", codesAt, z)
	e("VPSUBD.BCST %d(R15), Z%d, Z%d", zeroAt, z, z)
	e("VCVTDQ2PS Z%d, Z%d", z, z)
	e("VMULPS.BCST %d(R15), Z%d, Z%d", scaleAt, z, z)
	e("VMOVUPS Z%d, %d(DI)", z, to)
}

func (k kType) decode() {
	const scalesAt, zerosAt = 256, 320
	decodeText(384+latticeRoom, k.name, k.constants)
	e("LEAQ 384(R15), R12")
	e("MOVL $%d, R10", k.zero())
	e("VPBROADCASTD R10, Z0")
	e("MOVL $2, R10")
	e("VPBROADCASTD R10, Z1")
	label("loop")
	prefetch(k.size)
	k.unpack()
	for u := range 4 {
		e("VMOVDQA64 Z%d, %d(R15)", kCodes+u, 64*u)
	}
	e("VMOVAPS Z%d, %d(R15)", kScales, scalesAt)
	e("VMOVDQA64 Z0, Z2")
	if k.name == "IQ1S" { // as in its minima
		e("VPADDD Z1, Z0, K3, Z2")
	}
	e("VMOVDQA64 Z2, %d(R15)", zerosAt)
	for i := range 16 {
		scaled(16*i, zerosAt+4*i, scalesAt+4*i, 3+i%4, 64*i)
	}
	e("ADDQ $%d, SI", k.size)
	e("ADDQ $1024, DI")
	e("DECQ AX")
	e("JGT loop")
	ret()
}

// zero is the code of 0 of a type of latticeTypes.
func (k kType) zero() int {
	switch k.name {
	case "IQ1S", "IQ1M":
		return zeroShifted
	case "TQ20", "TQ10":
		return zeroTrit
	}
	return zeroTurned
}

func (f fewType) decode() {
	const scalesAt, zeroAt = 64, 128
	decodeText(192, f.name, f.constants)
	e("MOVL $%d, R10", f.zero)
	e("MOVL R10, %d(R15)", zeroAt)
	label("loop")
	prefetch(64)
	f.scales()
	e("VMOVAPS Z%d, %d(R15)", scale, scalesAt)
	for u := range f.units {
		f.unpack(u)
		e("VMOVDQA64 Z%d, (R15)", codes)
		for s := range 4 {
			scaled(16*s, zeroAt, scalesAt+16*s, s, 256*u+64*s)
		}
	}
	e("ADDQ $%d, SI", f.size)
	e("ADDQ $%d, DI", 256*f.units)
	e("DECQ AX")
	e("JGT loop")
	ret()
}
