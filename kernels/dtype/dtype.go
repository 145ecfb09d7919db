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

// Kind is the family of a storage type.
type Kind uint8

// The kinds. F32 is zero, so the zero Type is plain float32.
const (
	F32 Kind = iota
	F16
	BF16
	F64
	F8E4M3
	F8E5M2
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

	// Codebook types of bitsandbytes; blocks run flat over the tensor.
	NF4
	FP4

	// Integer groups of GPTQ, AWQ and compressed-tensors.
	Int2
	Int3
	Int4
	Int8

	numKinds
)

// Flags are the optional parts of a Type.
type Flags uint8

const (
	Zero   Flags = 1 << iota // a stored zero point for every group (asymmetric); absent: 2^(bits-1)
	Nested                   // scales are themselves quantized in blocks of 256 (bitsandbytes double quantization)
	Perm                     // columns carry a group index (GPTQ act-order, g_idx)
)

// Type is one storage type. It is comparable; the zero value is F32.
type Type struct {
	Kind  Kind
	Group int32 // columns (flat elements for NF4, FP4) that share a scale; -1 = the whole row; 0 for kinds with fixed blocks
	Scale Kind  // type of the stored scales of NF4, FP4 and Int kinds; F32, F16 or BF16
	Flags Flags
}

// Info is what the arithmetic of sizes needs about a Kind.
type Info struct {
	Name  string // as in GGUF and in our flags: "Q4_K", "BF16", "NF4"
	Block int    // elements that share one packed block; 1 for plain types
	Bytes int    // bytes of one block of codes; for Int3 the 12 bytes of 32 codes
	Unit  int    // smallest run of elements that can be decoded on its own
	GGUF  int    // ggml_type id, -1 when GGUF has none
	ST    string // safetensors dtype name, "" when it has none
	Float bool   // plain floating point, no blocks
}

var infos = [numKinds]Info{
	F32:    {"F32", 1, 4, 1, 0, "F32", true},
	F16:    {"F16", 1, 2, 1, 1, "F16", true},
	BF16:   {"BF16", 1, 2, 1, 30, "BF16", true},
	F64:    {"F64", 1, 8, 1, 28, "F64", true},
	F8E4M3: {"F8_E4M3", 1, 1, 1, -1, "F8_E4M3", true},
	F8E5M2: {"F8_E5M2", 1, 1, 1, -1, "F8_E5M2", true},
	I8:     {"I8", 1, 1, 1, 24, "I8", false},
	I16:    {"I16", 1, 2, 1, 25, "I16", false},
	I32:    {"I32", 1, 4, 1, 26, "I32", false},
	I64:    {"I64", 1, 8, 1, 27, "I64", false},
	U8:     {"U8", 1, 1, 1, -1, "U8", false},
	Bool:   {"BOOL", 1, 1, 1, -1, "BOOL", false},
	Q4_0:   {"Q4_0", 32, 18, 32, 2, "", false},
	Q4_1:   {"Q4_1", 32, 20, 32, 3, "", false},
	Q5_0:   {"Q5_0", 32, 22, 32, 6, "", false},
	Q5_1:   {"Q5_1", 32, 24, 32, 7, "", false},
	Q8_0:   {"Q8_0", 32, 34, 32, 8, "", false},
	Q2_K:   {"Q2_K", 256, 84, 16, 10, "", false},
	Q3_K:   {"Q3_K", 256, 110, 16, 11, "", false},
	Q4_K:   {"Q4_K", 256, 144, 32, 12, "", false},
	Q5_K:   {"Q5_K", 256, 176, 32, 13, "", false},
	Q6_K:   {"Q6_K", 256, 210, 16, 14, "", false},
	IQ4_NL: {"IQ4_NL", 32, 18, 32, 20, "", false},
	IQ4_XS: {"IQ4_XS", 256, 136, 32, 23, "", false},
	NF4:    {"NF4", 2, 1, 2, -1, "", false},
	FP4:    {"FP4", 2, 1, 2, -1, "", false},
	Int2:   {"INT2", 4, 1, 4, -1, "", false},
	Int3:   {"INT3", 32, 12, 32, -1, "", false},
	Int4:   {"INT4", 2, 1, 2, -1, "", false},
	Int8:   {"INT8", 1, 1, 1, -1, "", false},
}

// Info returns the facts of k. It panics on a Kind that does not exist.
func (k Kind) Info() Info { return infos[k] }

// String returns the name used in flags, plans and GGUF.
func (k Kind) String() string {
	if k < numKinds {
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

// Quantized reports whether values of t must be decoded before use.
func (t Type) Quantized() bool { return t.Kind >= Q4_0 }

// Bits is the width of one code of the Int kinds, NF4 and FP4; 0 for others.
func (t Type) Bits() int {
	switch t.Kind {
	case Int2:
		return 2
	case Int3:
		return 3
	case Int4, NF4, FP4:
		return 4
	case Int8:
		return 8
	}
	return 0
}

// String returns the name with its parameters, e.g. "INT4 g64 asym bf16".
func (t Type) String() string {
	s := t.Kind.String()
	if t.Group > 0 {
		s += fmt.Sprintf(" g%d", t.Group)
	} else if t.Group < 0 {
		s += " row"
	}
	if t.Flags&Zero != 0 {
		s += " asym"
	}
	if t.Flags&Nested != 0 {
		s += " nested"
	}
	if t.Flags&Perm != 0 {
		s += " perm"
	}
	if t.Kind >= Int2 && t.Scale != F32 {
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
//	Scales  NF4, FP4: an f32 (nested: uint8) a block of Group flat elements. Int kinds: [rows, groups] of type Scale.
//	Zeros   Int kinds with Zero: [rows, groups] uint8, the code that means 0.
//	Nested  the f32 scale of each 256 scale codes, then one f32 offset, then the 256 f32 of the code map.
//	Perm    [cols] int32: the group of each column.
const (
	Codes = iota
	Scales
	Zeros
	NestedScales
	PermIndex
	NumPlanes
)

// Groups is the number of scale groups a row of an Int kind has.
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
	switch t.Kind {
	case NF4, FP4:
		n[Codes] = (rows*cols + 1) / 2
		blocks := ceil(rows*cols, int(t.Group))
		n[Scales] = 4 * blocks
		if t.Flags&Nested != 0 {
			n[Scales] = blocks
			n[NestedScales] = 4 * (ceil(blocks, 256) + 1 + 256)
		}
	case Int2, Int3, Int4, Int8:
		n[Codes] = rows * ((cols*t.Bits() + 7) / 8)
		n[Scales] = rows * t.Groups(cols) * t.Scale.Info().Bytes
		if t.Flags&Zero != 0 {
			n[Zeros] = rows * t.Groups(cols)
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
	switch t.Kind {
	case NF4, FP4, Int2, Int3, Int4, Int8:
		return t.Kind != Int3 || cols%32 == 0
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
