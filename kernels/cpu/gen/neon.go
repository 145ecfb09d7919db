package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The loops of package vec are written once, in amd64's instructions. For arm64
// each is replaced by what does the same on registers of four lanes. V31 and R14
// are temporaries. Instructions that the Go assembler lacks are written as
// words, which the test of this package decodes again.

// neonOps are instructions of three registers: the word with all registers 0,
// and the arrangement of lanes.
var neonOps = map[string]struct {
	code  uint32
	lanes string
}{
	"fadd": {0x4e20d400, "4s"}, "fsub": {0x4ea0d400, "4s"}, "fmul": {0x6e20dc00, "4s"}, "fdiv": {0x6e20fc00, "4s"},
	"fmax": {0x4e20f400, "4s"}, "fmin": {0x4ea0f400, "4s"}, "fmaxnm": {0x4e20c400, "4s"},
	"fmla": {0x4e20cc00, "4s"}, "fmls": {0x4ea0cc00, "4s"}, "fcmgt": {0x6ea0e400, "4s"},
	"faddp": {0x6e20d400, "4s"}, "fmaxnmp": {0x6e20c400, "4s"},
	"add": {0x4ea08400, "4s"}, "sub": {0x6ea08400, "4s"},
	"and": {0x4e201c00, "16b"}, "eor": {0x6e201c00, "16b"}, "bsl": {0x6e601c00, "16b"},
	"fadd.2d": {0x4e60d400, "2d"}, "fsub.2d": {0x4ee0d400, "2d"}, "fmla.2d": {0x4e60cc00, "2d"}, "faddp.2d": {0x6e60d400, "2d"},
}

// threeOf are the names of neonOps by amd64's, for d = b op a.
var threeOf = map[string]string{
	"VADDPS": "fadd", "VSUBPS": "fsub", "VMULPS": "fmul", "VDIVPS": "fdiv", "VMAXPS": "fmax", "VMINPS": "fmin", "FMAXNM": "fmaxnm",
	"VFMADD231PS": "fmla", "VFNMADD231PS": "fmls", "VPADDD": "add", "VPSUBD": "sub", "VANDPS": "and", "VXORPS": "eor",
	"VADDPD": "fadd.2d", "VSUBPD": "fsub.2d", "VFMADD231PD": "fmla.2d",
}

// twoOf are instructions of one source.
var twoOf = map[string]struct {
	code uint32
	text string
}{
	"VSQRTPS": {0x6ea1f800, "fsqrt v%d.4s, v%d.4s"}, "VROUNDPS": {0x4e218800, "frintn v%d.4s, v%d.4s"},
	"VCVTPS2DQ": {0x4e21a800, "fcvtns v%d.4s, v%d.4s"}, "VPSRAD": {0x4f3f0400, "sshr v%d.4s, v%d.4s, #1"},
	"VPSLLD": {0x4f375400, "shl v%d.4s, v%d.4s, #23"}, "FNEG": {0x6ea0f800, "fneg v%d.4s, v%d.4s"},
}

var control = map[string]string{"JLT": "BLT", "JLE": "BLE", "JGT": "BGT", "JGE": "BGE", "JZ": "BEQ", "JMP": "JMP"}

var armRegs = map[string]string{"AX": "R0", "BX": "R1", "CX": "R2", "DX": "R3", "SI": "R4", "DI": "R5"}

// gpr is the register that stands for one of amd64.
func gpr(r string) string {
	if a, ok := armRegs[r]; ok {
		return a
	}
	return r
}

// word emits an instruction as bits and, as a comment, what they mean.
func word(code uint32, f string, a ...any) { line("WORD $0x%08x // "+f, append([]any{code}, a...)...) }

// word3 emits d = n op m.
func word3(op string, d, n, m int) {
	o := neonOps[op]
	if o.code == 0 {
		panic(op)
	}
	name, _, _ := strings.Cut(op, ".")
	word(o.code|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s, v%d.%s", name, d, o.lanes, n, o.lanes, m, o.lanes)
}

func word2(op string, n, d int) {
	o := twoOf[op]
	word(o.code|uint32(n)<<5|uint32(d), o.text, d, n)
}

func moveNEON(from, to int) { line("VMOV V%d.B16, V%d.B16", from, to) }

var armMemory = regexp.MustCompile(`^(-?\d*)\((\w+)\)(?:\((\w+)\*1\))?$`)

// arm64 emits what does the same as an instruction of amd64.
func arm64(s string) {
	op, rest, _ := strings.Cut(s, " ")
	args := strings.Split(rest, ", ")
	switch v, isReg := vectorsOf(args); {
	case op == "VZEROUPPER" || op == "PCALIGN":
	case op == "RET":
		line("RET")
	case control[op] != "":
		line("%s %s", control[op], rest)
	case op == "MOVQ":
		line("MOVD %s, %s", gpr(args[0]), gpr(args[1]))
	case op == "XORQ":
		line("MOVD ZR, %s", gpr(args[1]))
	case op == "SHLQ":
		line("LSL %s, %s, %s", args[0], gpr(args[1]), gpr(args[1]))
	case op == "ADDQ" || op == "SUBQ":
		line("%sS %s, %s", op[:3], gpr(args[0]), gpr(args[1]))
	case op == "DECQ":
		line("SUBS $1, %s", gpr(args[0]))
	case op == "TESTQ":
		line("CMP $0, %s", gpr(args[0]))
	case op == "VBROADCASTSS":
		broadcastNEON(args[0], v[1])
	case op == "VCVTPS2PD":
		p, d := address(args[0])
		line("FMOVD %d(%s), F%d", d, p, v[1])
		word(0x0e617800|uint32(v[1])<<5|uint32(v[1]), "fcvtl v%d.2d, v%d.2s", v[1], v[1])
	case op == "VMOVUPS" || op == "VMOVAPS":
		copyNEON(args, v, isReg)
	case twoOf[op].code != 0:
		word2(op, v[len(v)-2], v[len(v)-1])
	case threeOf[op] != "":
		word3(threeOf[op], v[2], v[1], v[0])
	default:
		threeInPlace(s, op, v)
	}
}

// threeInPlace: d = ±b·d ± a.
func threeInPlace(s, op string, v []int) {
	mul := "fmla"
	switch op {
	case "VFMADD213PS":
		moveNEON(v[0], 31)
	case "VFNMADD213PS":
		moveNEON(v[0], 31)
		mul = "fmls"
	case "VFMSUB213PS":
		word2("FNEG", v[0], 31)
	default:
		panic("no arm64 for " + s)
	}
	word3(mul, 31, v[1], v[2])
	moveNEON(31, v[2])
}

// vectorsOf are the numbers of the vector registers among args, else -1.
func vectorsOf(args []string) (v []int, isReg []bool) {
	for _, a := range args {
		n, err := strconv.Atoi(strings.TrimPrefix(a, "V"))
		if !strings.HasPrefix(a, "V") || err != nil {
			n = -1
		}
		v, isReg = append(v, n), append(isReg, n >= 0)
	}
	return v, isReg
}

// address is a register and a displacement for what `disp(base)(index*1)` names.
func address(s string) (reg string, disp int) {
	m := armMemory.FindStringSubmatch(s)
	if m == nil {
		panic("no arm64 for " + s)
	}
	disp, _ = strconv.Atoi(m[1])
	if m[3] == "" {
		return gpr(m[2]), disp
	}
	line("ADD %s, %s, R14", gpr(m[3]), gpr(m[2]))
	return "R14", disp
}

// copyNEON moves 16 bytes between registers and memory.
func copyNEON(args []string, v []int, isReg []bool) {
	if isReg[0] && isReg[1] {
		moveNEON(v[0], v[1])
		return
	}
	mem, z, code, name := args[0], v[1], uint32(0x3ce06800), "ldr"
	if isReg[0] {
		mem, z, code, name = args[1], v[0], 0x3ca06800, "str"
	}
	if m := armMemory.FindStringSubmatch(mem); m != nil && m[1] == "" && m[3] != "" {
		b, _ := strconv.Atoi(gpr(m[2])[1:])
		i, _ := strconv.Atoi(gpr(m[3])[1:])
		word(code|uint32(i)<<16|uint32(b)<<5|uint32(z), "%s q%d, [x%d,x%d]", name, z, b, i)
		return
	}
	p, d := address(mem)
	if isReg[0] {
		line("FMOVQ F%d, %d(%s)", z, d, p)
	} else {
		line("FMOVQ %d(%s), F%d", d, p, z)
	}
}

// broadcastNEON fills a register with an argument, a constant or a float in memory.
func broadcastNEON(src string, z int) {
	switch {
	case strings.HasSuffix(src, "(FP)"):
		line("FMOVS %s, F%d", src, z)
		line("VDUP V%d.S[0], V%d.S4", z, z)
	case strings.HasSuffix(src, "(SB)"):
		line("MOVD $%s, R14", src)
		line("VLD1R (R14), [V%d.S4]", z)
	default:
		p, d := address(src)
		if d != 0 {
			line("ADD $%d, %s, R14", d, p)
			p = "R14"
		}
		line("VLD1R (%s), [V%d.S4]", p, z)
	}
}

// foldNEON reduces register d to one number and stores it at (p).
func foldNEON(name string, d int, p string) {
	switch name {
	case "VADDPD":
		word3("faddp.2d", d, d, d)
		line("FMOVD F%d, (%s)", d, p)
		return
	case "VADDPS":
		name = "faddp"
	case "FMAXNM":
		name = "fmaxnmp"
	}
	word3(name, d, d, d)
	word3(name, d, d, d)
	line("FMOVS F%d, (%s)", d, p)
}

// rowsNEON is the body of dotRows.
func rowsNEON() {
	line("LSL $2, R3")
	label("rows")
	line("MOVD R1, R9")
	for i, r := range []string{"R5", "R6", "R7", "R8"} {
		if i == 0 {
			line("MOVD R2, R5")
		} else {
			line("ADD R3, R%d, %s", 4+i, r)
		}
		line("VEOR V%d.B16, V%d.B16, V%d.B16", i, i, i)
	}
	line("SUBS $4, R13, R0")
	line("BLT fold")
	label("cols")
	line("VLD1.P 16(R9), [V4.S4]")
	for i := range 4 {
		line("VLD1.P 16(R%d), [V%d.S4]", 5+i, 5+i)
		line("VFMLA V4.S4, V%d.S4, V%d.S4", 5+i, i)
	}
	line("SUBS $4, R0")
	line("BGE cols")
	label("fold")
	word3("faddp", 0, 0, 1)
	word3("faddp", 2, 2, 3)
	word3("faddp", 0, 0, 2)
	line("VST1.P [V0.S4], 16(R4)")
	line("ADD R3<<2, R2")
	line("SUBS $4, R12")
	line("BGT rows")
	line("RET")
}

// tilesNEON writes the products of small matrices, of 16 columns, and the
// transpose in squares of 4.
func tilesNEON() {
	for _, t := range []bool{false, true} {
		for mr := 1; mr <= 6; mr++ {
			tileNEON(mr, t)
		}
	}
	text("transposeVec", "is dst[j][i] = src[i][j] for 4 rows and cols columns, a multiple of 4.",
		arg{"cols", "int", "AX"}, arg{"src", "*float32", "BX"}, arg{"lds", "int", "CX"}, arg{"dst", "*float32", "DX"}, arg{"ldd", "int", "SI"})
	line("LSL $2, R2")
	line("LSL $2, R4")
	label("loop")
	line("MOVD R1, R8")
	for i := range 4 {
		line("FMOVQ (R8), F%d", i)
		line("ADD R2, R8")
	}
	for _, v := range transposeNEON() {
		line("FMOVQ F%d, (R3)", v)
		line("ADD R4, R3")
	}
	line("ADD $16, R1")
	line("SUBS $4, R0")
	line("BGT loop")
	line("RET")
}

// transposeNEON turns the 4×4 of V0…V3 around, using V4…V7, and returns the
// register of each column.
func transposeNEON() [4]int {
	zip := func(half, n, m, d int) { line("VZIP%d V%d.S4, V%d.S4, V%d.S4", half, m, n, d) }
	zip(1, 0, 2, 4)
	zip(2, 0, 2, 5)
	zip(1, 1, 3, 6)
	zip(2, 1, 3, 7)
	zip(1, 4, 6, 0)
	zip(2, 4, 6, 1)
	zip(1, 5, 7, 2)
	zip(2, 5, 7, 3)
	return [4]int{0, 1, 2, 3}
}

// lanesNEON loads n ≤ 6 floats at disp(base) and no more into registers v and
// v+1, and returns the register and lane of each.
func lanesNEON(n, disp int, base string, v int) (at [][2]int) {
	load := func(mov string, d, reg, lanes int) {
		line("%s %d(%s), F%d", mov, disp+4*d, base, reg)
		for i := range lanes {
			at = append(at, [2]int{reg, i})
		}
	}
	size := map[int]string{1: "FMOVS", 2: "FMOVD", 4: "FMOVQ"}
	first := n
	switch n {
	case 3:
		first = 2
	case 5, 6:
		first = 4
	}
	load(size[first], 0, v, first)
	if n > first {
		load(size[n-first], first, v+1, n-first)
	}
	return at
}

// byElement is d += n·m[lane], or with mul d = n·m[lane].
func byElement(mul bool, d, n, m, lane int) {
	code, name := uint32(0x4f801000), "fmla"
	if mul {
		code, name = 0x4f809000, "fmul"
	}
	word(code|uint32(lane&1)<<21|uint32(lane>>1)<<11|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s v%d.4s, v%d.4s, v%d.s[%d]", name, d, n, m, lane)
}

func tileNEON(mr int, ta bool) {
	kind := "N"
	if ta {
		kind = "T"
	}
	tileText(fmt.Sprintf("tile%sVec%dx16", kind, mr), mr, 16)
	for i := range 4 * mr {
		line("VEOR V%d.B16, V%d.B16, V%d.B16", i, i, i)
	}
	rows := []string{"R1", "R6", "R7", "R8", "R9", "R10"}
	for i := 1; i < mr && !ta; i++ {
		line("ADD R2, %s, %s", rows[i-1], rows[i])
	}
	line("CMP $0, R0")
	line("BLE store")
	label("loop")
	for j := range 4 {
		line("FMOVQ %d(R4), F%d", 16*j, 24+j)
	}
	line("ADD R5, R4")
	if ta {
		for i, at := range lanesNEON(mr, 0, "R1", 28) {
			for j := range 4 {
				byElement(false, 4*i+j, 24+j, at[0], at[1])
			}
		}
		line("ADD R2, R1")
	} else {
		for i := range mr {
			x := 28 + i%4
			line("VLD1R.P 4(%s), [V%d.S4]", rows[i], x)
			for j := range 4 {
				line("VFMLA V%d.S4, V%d.S4, V%d.S4", x, 24+j, 4*i+j)
			}
		}
	}
	line("SUBS $1, R0")
	line("BGT loop")
	label("store")
	line("CMP $0, R12")
	line("BEQ write")
	line("MOVD R3, R13")
	for i := range mr {
		for j := range 4 {
			line("FMOVQ %d(R13), F24", 16*j)
			word3("fadd", 4*i+j, 4*i+j, 24)
		}
		line("ADD R11, R13")
	}
	label("write")
	for i := range mr {
		for j := range 4 {
			line("FMOVQ F%d, %d(R3)", 4*i+j, 16*j)
		}
		line("ADD R11, R3")
	}
	line("RET")
}
