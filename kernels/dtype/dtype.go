// Package dtype names every storage type a matrix can have and says how its
// bytes are laid out in memory.
//
// A type is a small comparable value, not an enum: "4-bit integers, a bf16
// scale and a zero point for every 64 columns" is Type{Kind: Int4, Group: 64,
// Scale: BF16, Flags: Zero}. A matrix of any type is one allocation; Planes
// says where its codes, scales, zeros, nested scales and permutation lie in it.
// The bytes themselves are described and decoded by package block.
package dtype

import "fmt"

// Kind is the encoding of one value of a storage type. Its order means nothing:
// it is compared with == only, everything else about it stands in Info.
type Kind uint8

// The kinds. F32 is zero, so the zero Type is plain float32.
const (
	F32 Kind = iota
	F16
	BF16
	F64
	F8E4M3
	F8E5M2
	F8E8M0 // the exponent of a power of two: scales only
	F4E2M1 // two to a byte, the first in the low nibble; in groups only
	I8
	I16
	I32
	I64
	U8
	Bool

	// Block types of GGUF; a block of Info.Block elements is one struct.
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K
	IQ4_NL
	IQ4_XS
	IQ3_S
	IQ3_XXS
	IQ2_S
	IQ2_XS
	IQ2_XXS
	IQ1_M
	IQ1_S
	TQ2_0
	TQ1_0
	Q2_0
	Q1_0
	MXFP4
	NVFP4

	// Codebook types of bitsandbytes; blocks run flat over the tensor.
	NF4
	FP4

	// Integer groups of GPTQ, AWQ, compressed-tensors and EXL2.
	Int2
	Int3
	Int4
	Int5
	Int6
	Int8

	numKinds
)

// Family groups the kinds whose bytes are laid out alike.
type Family uint8

// The families.
const (
	Float    Family = iota // plain floating point of 16 bits or more
	Integer                // plain integers and booleans
	GGML                   // blocks of llama.cpp: scales lie among the codes
	Codebook               // codes that index a table; blocks run flat over the tensor, scales apart
	Int                    // integer codes, scales and zeros of column groups apart
	Micro                  // floating point of 8 bits or less: plain, or with a scale for every group of columns apart
)

// Flags are the optional parts of a Type.
type Flags uint8

const (
	Zero    Flags = 1 << iota // a stored zero point for every group (asymmetric); absent: 2^(bits-1)
	Nested                    // scales are themselves quantized: of Codebook kinds in blocks of 256 (bitsandbytes double quantization), of Micro kinds a float32 for each row multiplies them (NVFP4)
	Perm                      // columns carry a group index (GPTQ act-order, g_idx)
	Inverse                   // with Nested, of Micro kinds: the float32 of a row divides its scales
)

// AllRows is the Group of what is rounded where it is used and never stored: one scale for all rows.
const AllRows = -2

// Type is one storage type. It is comparable; the zero value is F32.
type Type struct {
	Kind  Kind
	Group int32 // columns (flat elements of a Codebook) that share a scale; -1 = the whole row; 0 for kinds with fixed blocks and for plain ones; AllRows
	Scale Kind  // type of the stored scales of Codebook, Int and Micro kinds; F32, F16 or BF16, of Micro kinds also F8E8M0 or F8E4M3
	Flags Flags
}

// Info is what the arithmetic of sizes needs about a Kind.
type Info struct {
	Name   string // as in GGUF and in our flags: "Q4_K", "BF16", "NF4"
	Family Family
	Block  int    // elements that share one packed block; 1 for plain types
	Bytes  int    // bytes of one block of codes; of Int3, Int5 and Int6 as many codes as fill words of 32 bits
	Unit   int    // smallest run of elements that can be decoded on its own
	Bits   int    // of one code where codes lie apart from their scales (Codebook, Int, Micro); 0 for others
	GGUF   int    // ggml_type id, -1 when GGUF has none
	ST     string // safetensors dtype name, "" when it has none
}

var infos = [numKinds]Info{
	F32:     {"F32", Float, 1, 4, 1, 0, 0, "F32"},
	F16:     {"F16", Float, 1, 2, 1, 0, 1, "F16"},
	BF16:    {"BF16", Float, 1, 2, 1, 0, 30, "BF16"},
	F64:     {"F64", Float, 1, 8, 1, 0, 28, "F64"},
	F8E4M3:  {"F8_E4M3", Micro, 1, 1, 1, 8, -1, "F8_E4M3"},
	F8E5M2:  {"F8_E5M2", Micro, 1, 1, 1, 8, -1, "F8_E5M2"},
	F8E8M0:  {"F8_E8M0", Integer, 1, 1, 1, 0, -1, ""},
	F4E2M1:  {"F4_E2M1", Micro, 2, 1, 2, 4, -1, ""},
	I8:      {"I8", Integer, 1, 1, 1, 0, 24, "I8"},
	I16:     {"I16", Integer, 1, 2, 1, 0, 25, "I16"},
	I32:     {"I32", Integer, 1, 4, 1, 0, 26, "I32"},
	I64:     {"I64", Integer, 1, 8, 1, 0, 27, "I64"},
	U8:      {"U8", Integer, 1, 1, 1, 0, -1, "U8"},
	Bool:    {"BOOL", Integer, 1, 1, 1, 0, -1, "BOOL"},
	Q4_0:    {"Q4_0", GGML, 32, 18, 32, 0, 2, ""},
	Q4_1:    {"Q4_1", GGML, 32, 20, 32, 0, 3, ""},
	Q5_0:    {"Q5_0", GGML, 32, 22, 32, 0, 6, ""},
	Q5_1:    {"Q5_1", GGML, 32, 24, 32, 0, 7, ""},
	Q8_0:    {"Q8_0", GGML, 32, 34, 32, 0, 8, ""},
	Q2_K:    {"Q2_K", GGML, 256, 84, 16, 0, 10, ""},
	Q3_K:    {"Q3_K", GGML, 256, 110, 16, 0, 11, ""},
	Q4_K:    {"Q4_K", GGML, 256, 144, 32, 0, 12, ""},
	Q5_K:    {"Q5_K", GGML, 256, 176, 32, 0, 13, ""},
	Q6_K:    {"Q6_K", GGML, 256, 210, 16, 0, 14, ""},
	IQ4_NL:  {"IQ4_NL", GGML, 32, 18, 32, 0, 20, ""},
	IQ4_XS:  {"IQ4_XS", GGML, 256, 136, 32, 0, 23, ""},
	IQ3_S:   {"IQ3_S", GGML, 256, 110, 32, 0, 21, ""},
	IQ3_XXS: {"IQ3_XXS", GGML, 256, 98, 32, 0, 18, ""},
	IQ2_S:   {"IQ2_S", GGML, 256, 82, 32, 0, 22, ""},
	IQ2_XS:  {"IQ2_XS", GGML, 256, 74, 32, 0, 17, ""},
	IQ2_XXS: {"IQ2_XXS", GGML, 256, 66, 32, 0, 16, ""},
	IQ1_M:   {"IQ1_M", GGML, 256, 56, 32, 0, 29, ""},
	IQ1_S:   {"IQ1_S", GGML, 256, 50, 32, 0, 19, ""},
	TQ2_0:   {"TQ2_0", GGML, 256, 66, 32, 0, 35, ""},
	TQ1_0:   {"TQ1_0", GGML, 256, 54, 16, 0, 34, ""},
	Q2_0:    {"Q2_0", GGML, 64, 18, 32, 0, 42, ""},
	Q1_0:    {"Q1_0", GGML, 128, 18, 32, 0, 41, ""},
	MXFP4:   {"MXFP4", GGML, 32, 17, 32, 0, 39, ""},
	NVFP4:   {"NVFP4", GGML, 64, 36, 16, 0, 40, ""},
	NF4:     {"NF4", Codebook, 2, 1, 2, 4, -1, ""},
	FP4:     {"FP4", Codebook, 2, 1, 2, 4, -1, ""},
	Int2:    {"INT2", Int, 4, 1, 4, 2, -1, ""},
	Int3:    {"INT3", Int, 32, 12, 32, 3, -1, ""},
	Int4:    {"INT4", Int, 2, 1, 2, 4, -1, ""},
	Int5:    {"INT5", Int, 32, 20, 32, 5, -1, ""},
	Int6:    {"INT6", Int, 16, 12, 16, 6, -1, ""},
	Int8:    {"INT8", Int, 1, 1, 1, 8, -1, ""},
}

// Info returns the facts of k. It panics on a Kind that does not exist.
func (k Kind) Info() Info { return infos[k] }

// String returns the name used in flags, plans and GGUF.
func (k Kind) String() string {
	if int(k) < len(infos) {
		return infos[k].Name
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Kinds returns every kind, in order of declaration.
func Kinds() []Kind {
	out := make([]Kind, numKinds)
	for i := range out {
		out[i] = Kind(i)
	}
	return out
}

// FromGGUF returns the kind of a ggml_type id.
func FromGGUF(id uint32) (Kind, bool) {
	for k, in := range infos {
		if in.GGUF >= 0 && uint32(in.GGUF) == id {
			return Kind(k), true
		}
	}
	return 0, false
}

// FromSafetensors returns the kind of a safetensors dtype name.
func FromSafetensors(name string) (Kind, bool) {
	for k, in := range infos {
		if in.ST != "" && in.ST == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// Parse returns the kind with the given name, ignoring case.
func Parse(name string) (Kind, bool) {
	for k, in := range infos {
		if equalFold(in.Name, name) {
			return Kind(k), true
		}
	}
	return 0, false
}

func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if 'a' <= x && x <= 'z' {
			x -= 32
		}
		if 'a' <= y && y <= 'z' {
			y -= 32
		}
		if x != y {
			return false
		}
	}
	return true
}

// Of is the Type of a kind that needs no parameters.
func Of(k Kind) Type { return Type{Kind: k} }

// NF4Double is QLoRA's type: NF4, 64 elements a block, scales quantized again.
var NF4Double = Type{Kind: NF4, Group: 64, Flags: Nested}

// Plain reports whether k stores every value by itself, as memory of any
// purpose may: floats and integers of whole bytes. A Micro kind with a Group is not plain.
func (k Kind) Plain() bool {
	switch in := k.Info(); in.Family {
	case Float, Integer, Micro:
		return in.Block == 1
	}
	return false
}

// IsFloat reports whether k is plain floating point, of 8 bits too.
func (k Kind) IsFloat() bool {
	f := k.Info().Family
	return f == Float || f == Micro && k.Plain()
}

// Wider is the kind that holds the values of both floats a and b: the wider of
// the two, and F32 for BF16 beside F16. It panics unless both are of family Float.
func Wider(a, b Kind) Kind {
	x, y := a.Info(), b.Info()
	switch {
	case x.Family != Float || y.Family != Float:
		panic(fmt.Sprintf("dtype: the wider of %v and %v", a, b))
	case a == b || x.Bytes > y.Bytes:
		return a
	case x.Bytes < y.Bytes:
		return b
	}
	return F32
}

// Quantized reports whether values of t share scales or tables and must be
// decoded before use.
func (t Type) Quantized() bool { return !t.Kind.Plain() || t.Group != 0 }

// ScaledFloat reports floats of 8 bits or less with scales for groups: what models
// are released in, so that they may be quantized as other floats are.
func (t Type) ScaledFloat() bool { return t.Kind.Info().Family == Micro && t.Group != 0 }

// ScaledFloat8 reports a ScaledFloat of 8 bits, close enough to the weights it was made
// of that QLoRA makes NF4 of it; one of 4 bits is trained over as it is.
func (t Type) ScaledFloat8() bool { return t.ScaledFloat() && t.Bits() == 8 }

// Grouped reports whether groups of columns have a scale each, apart from the
// codes: the Int kinds, and Micro kinds with a Group.
func (t Type) Grouped() bool {
	f := t.Kind.Info().Family
	return f == Int || f == Micro && t.Group != 0
}

// Flat reports whether blocks run on from row to row, so that the matrix can
// only be written as a whole.
func (t Type) Flat() bool { return t.Kind.Info().Family == Codebook }

// HasPlanes reports whether a matrix of t has other planes beside its codes.
func (t Type) HasPlanes() bool { return t.Grouped() || t.Flat() }

// Bits is the width of one code of a type whose codes lie apart from their
// scales; 0 for others.
func (t Type) Bits() int {
	if t.HasPlanes() {
		return t.Kind.Info().Bits
	}
	return 0
}

// String returns the name with its parameters, e.g. "INT4 g64 asym bf16".
func (t Type) String() string {
	s := t.Kind.String()
	if t.Group > 0 {
		s += fmt.Sprintf(" g%d", t.Group)
	} else if t.Group == AllRows {
		s += " tensor"
	} else if t.Group < 0 {
		s += " row"
	}
	if t.Flags&Zero != 0 {
		s += " asym"
	}
	if t.Flags&Nested != 0 {
		s += " nested"
	}
	if t.Flags&Inverse != 0 {
		s += " inverse"
	}
	if t.Flags&Perm != 0 {
		s += " perm"
	}
	if t.Grouped() && t.Scale != F32 {
		s += " " + t.Scale.String()
	}
	return s
}

// Plane is one part of a matrix's single allocation, in bytes.
type Plane struct{ Off, Len int }

// The planes of a matrix, as indices into the result of Planes.
//
//	Codes   plain and GGUF types: the rows one after another.
//	        NF4, FP4: ⌈rows·cols/2⌉ bytes over the flat tensor, first element in the high nibble.
//	        Int kinds: rows one after another, ⌈cols·bits/8⌉ bytes each, codes 0..2^bits-1, least significant bits first.
//	        Micro kinds: rows one after another, ⌈cols·bits/8⌉ bytes each.
//	Scales  NF4, FP4: an f32 (nested: uint8) a block of Group flat elements. Int and grouped Micro kinds: [rows, groups] of type Scale.
//	Zeros   Int kinds with Zero: [rows, groups] uint8, the code that means 0.
//	Nested  NF4, FP4: the f32 scale of each 256 scale codes, then one f32 offset, then the 256 f32 of the code map.
//	        Micro kinds: [rows] f32.
//	Perm    [cols] int32: the group of each column.
const (
	Codes = iota
	Scales
	Zeros
	NestedScales
	PermIndex
	NumPlanes
)

// Groups is the number of scale groups a row of a grouped type has.
func (t Type) Groups(cols int) int {
	if t.Group <= 0 {
		return 1
	}
	return (cols + int(t.Group) - 1) / int(t.Group)
}

// Planes lays out a rows×cols matrix of type t in one allocation. Every plane
// starts at a multiple of 64; absent planes have Len 0. It panics when a row is
// no whole number of blocks: callers check with Fits first.
func Planes(t Type, rows, cols int) [NumPlanes]Plane {
	if !Fits(t, cols) {
		panic(fmt.Sprintf("dtype: rows of %d are no whole number of %v blocks", cols, t))
	}
	var n [NumPlanes]int
	in := t.Kind.Info()
	switch {
	case t.Flat():
		n[Codes] = (rows*cols + 1) / 2
		blocks := ceil(rows*cols, int(t.Group))
		n[Scales] = 4 * blocks
		if t.Flags&Nested != 0 {
			n[Scales] = blocks
			n[NestedScales] = 4 * (ceil(blocks, 256) + 1 + 256)
		}
	case t.Grouped():
		n[Codes] = rows * ((cols*t.Bits() + 7) / 8)
		n[Scales] = rows * t.Groups(cols) * t.Scale.Info().Bytes
		if t.Flags&Zero != 0 {
			n[Zeros] = rows * t.Groups(cols)
		}
		if t.Flags&Nested != 0 {
			n[NestedScales] = 4 * rows
		}
		if t.Flags&Perm != 0 {
			n[PermIndex] = 4 * cols
		}
	default:
		n[Codes] = rows * (cols / in.Block) * in.Bytes
	}
	var p [NumPlanes]Plane
	off := 0
	for i, l := range n {
		if l > 0 {
			p[i] = Plane{off, l}
			off = (off + l + 63) &^ 63
		}
	}
	return p
}

// Fits reports whether rows of cols elements can be stored as t.
func Fits(t Type, cols int) bool {
	if t.HasPlanes() {
		in := t.Kind.Info()
		return in.Block <= 4 || cols%in.Block == 0 // codes that straddle bytes fill words
	}
	return cols%t.Kind.Info().Block == 0
}

// Size is the number of bytes of a rows×cols matrix of type t, all planes
// included. A single-plane matrix has no padding at its end.
func Size(t Type, rows, cols int) int {
	size := 0
	for _, p := range Planes(t, rows, cols) {
		size = max(size, p.Off+p.Len)
	}
	return size
}

func ceil(a, b int) int {
	if b <= 0 {
		return 1
	}
	return (a + b - 1) / b
}
