// Package block knows how bits lie in a matrix of every storage type: decoding,
// reference encoding, and moving weights between the memory layout of
// dtype.Planes and the layouts of the files that hold them.
//
// Encoders are byte-exact with the programs that defined the formats
// (ggml-quants.c built for plain x86-64, bitsandbytes' PyTorch kernels). Every
// product is rounded before an addition, so no build fuses the two.
package block

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// Raw is a matrix of any storage type in host memory. Data is laid out by
// dtype.Planes(Type, Rows, Cols) and belongs to whoever made the Raw.
type Raw struct {
	Type       dtype.Type
	Rows, Cols int
	Data       []byte
}

// New allocates a zeroed rows×cols matrix of type t. It panics when a row is no
// whole number of blocks (see dtype.Fits).
func New(t dtype.Type, rows, cols int) Raw {
	return Raw{Type: t, Rows: rows, Cols: cols, Data: make([]byte, dtype.Size(t, rows, cols))}
}

// Plane returns the bytes of one plane (dtype.Codes, dtype.Scales, …), empty
// when the type has none.
func (m Raw) Plane(i int) []byte {
	p := dtype.Planes(m.Type, m.Rows, m.Cols)[i]
	return m.Data[p.Off : p.Off+p.Len : p.Off+p.Len]
}

// Check reports why m cannot be decoded: a type whose rows do not fit, Data of
// the wrong length, a book type without block size, a group index out of range.
func (m Raw) Check() error {
	if m.Rows < 0 || m.Cols < 0 || !dtype.Fits(m.Type, m.Cols) {
		return fmt.Errorf("a row of %d columns is no whole number of %v blocks", m.Cols, m.Type)
	}
	if m.Type.Flat() && m.Type.Group < 1 {
		return fmt.Errorf("%v needs a block size, not %d", m.Type.Kind, m.Type.Group)
	}
	if want := dtype.Size(m.Type, m.Rows, m.Cols); len(m.Data) != want {
		return fmt.Errorf("%d×%d of %v needs %d bytes, got %d", m.Rows, m.Cols, m.Type, want, len(m.Data))
	}
	if m.Type.Flags&dtype.Perm != 0 {
		return checkIndex(m.Plane(dtype.PermIndex), m.Type.Groups(m.Cols))
	}
	return nil
}

func checkIndex(idx []byte, groups int) error {
	for c := 0; c+4 <= len(idx); c += 4 {
		if g := int(int32(binary.LittleEndian.Uint32(idx[c:]))); g < 0 || g >= groups {
			return fmt.Errorf("g_idx: column %d names group %d of %d", c/4, g, groups)
		}
	}
	return nil
}

// Encode quantizes x [Rows*Cols] into m. importance [Cols] weighs the columns
// (nil: none); types that have no use for it ignore it. Rows are encoded in
// parallel. Int kinds round to nearest between the minimum and maximum of each
// group (symmetric without dtype.Zero). It returns an error when a value is not
// finite, and panics on wrong lengths.
func Encode(m Raw, x, importance []float32) error {
	return EncodeRows(m, 0, m.Rows, x, importance)
}

// DecodeAll decodes the whole matrix into dst [Rows*Cols], rows in parallel.
func DecodeAll(dst []float32, m Raw) {
	if len(dst) != m.Rows*m.Cols {
		panic(fmt.Sprintf("block: DecodeAll: %d values for %d×%d", len(dst), m.Rows, m.Cols))
	}
	DecodeRows(dst, m, 0)
}

// DecodeRows decodes rows from row0 on, as many as fill dst, in parallel.
func DecodeRows(dst []float32, m Raw, row0 int) {
	par.For(len(dst)/max(m.Cols, 1), rowGrain(m.Cols), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			Decode(dst[r*m.Cols:(r+1)*m.Cols], m, row0+r, 0, m.Cols)
		}
	})
}

// rowGrain is how many rows make a chunk of about 16384 elements.
func rowGrain(cols int) int { return max(1, 16384/max(cols, 1)) }

func f32at(b []byte) float32     { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
func putF32(b []byte, v float32) { binary.LittleEndian.PutUint32(b, math.Float32bits(v)) }
func f16at(b []byte) float32     { return FromF16(binary.LittleEndian.Uint16(b)) }
func putF16(b []byte, v float32) { binary.LittleEndian.PutUint16(b, F16(v)) }
