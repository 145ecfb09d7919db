package formats

import "github.com/tunekit/tunekit/kernels/dtype"

// ggmlType is what the arithmetic of sizes needs about a ggml_type. The list
// is longer than dtype's, so that files with types we do not decode can still
// be listed and checked.
type ggmlType struct {
	id           uint32
	name         string
	block, bytes int64
}

var ggmlTypes = []ggmlType{
	{0, "F32", 1, 4}, {1, "F16", 1, 2}, {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20}, {6, "Q5_0", 32, 22}, {7, "Q5_1", 32, 24},
	{8, "Q8_0", 32, 34}, {9, "Q8_1", 32, 36}, {10, "Q2_K", 256, 84}, {11, "Q3_K", 256, 110}, {12, "Q4_K", 256, 144},
	{13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292}, {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
	{18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50}, {20, "IQ4_NL", 32, 18}, {21, "IQ3_S", 256, 110}, {22, "IQ2_S", 256, 82},
	{23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1}, {25, "I16", 1, 2}, {26, "I32", 1, 4}, {27, "I64", 1, 8}, {28, "F64", 1, 8},
	{29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2}, {34, "TQ1_0", 256, 54}, {35, "TQ2_0", 256, 66}, {39, "MXFP4", 32, 17},
	{40, "NVFP4", 64, 36}, {41, "Q1_0", 128, 18}, {42, "Q2_0", 64, 18},
}

func ggmlByID(id uint32) (ggmlType, bool) {
	for _, t := range ggmlTypes {
		if t.id == id {
			return t, true
		}
	}
	return ggmlType{}, false
}

// ggmlSize is the stored size of a tensor; false when the row is no whole
// number of blocks or a product exceeds 2^63-1.
func ggmlSize(t ggmlType, shape []int64) (int64, bool) {
	n, ok := product(shape)
	if !ok {
		return 0, false
	}
	if last := len(shape) - 1; last >= 0 && shape[last]%t.block != 0 || last < 0 && t.block != 1 {
		return 0, false
	}
	return product([]int64{n / t.block, t.bytes})
}

// ggufKind is the type tag of a metadata value.
type ggufKind uint32

const (
	ggufU8 ggufKind = iota
	ggufI8
	ggufU16
	ggufI16
	ggufU32
	ggufI32
	ggufF32
	ggufBool
	ggufString
	ggufArray
	ggufU64
	ggufI64
	ggufF64
)

// size is the bytes of a value, 0 for strings and arrays.
func (k ggufKind) size() int64 {
	if int(k) < len(ggufSizes) {
		return ggufSizes[k]
	}
	return 0
}

var ggufSizes = [...]int64{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

var ggufNames = [...]string{"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array", "uint64", "int64", "float64"}

func (k ggufKind) String() string {
	if int(k) < len(ggufNames) {
		return ggufNames[k]
	}
	return "unknown"
}

// ggufTypeOf returns the dtype of a ggml_type id.
func ggufTypeOf(t ggmlType) (dtype.Type, bool) {
	k, ok := dtype.FromGGUF(t.id)
	return dtype.Of(k), ok
}
