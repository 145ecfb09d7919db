package block

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// ErrNotFinite is wrapped by Encode's error for a NaN or infinite value, and
// for values so large that a block's scale overflows.
var ErrNotFinite = errors.New("not finite")

// rowEncoder writes one row of blocks. w is the importance of the columns or nil.
type rowEncoder func(dst []byte, x, w []float32)

// chunkEncoder writes whole rows of cols elements, the same bytes as a
// rowEncoder row by row.
type chunkEncoder func(dst []byte, x, w []float32, cols int)

var rowEncoders = [...]rowEncoder{
	dtype.F32:     func(dst []byte, x, _ []float32) { PutF32(dst, x) },
	dtype.F16:     func(dst []byte, x, _ []float32) { PutF16(dst, x) },
	dtype.BF16:    func(dst []byte, x, _ []float32) { PutBF16(dst, x) },
	dtype.F8E4M3:  func(dst []byte, x, _ []float32) { PutE4M3(dst, x) },
	dtype.F8E5M2:  func(dst []byte, x, _ []float32) { PutE5M2(dst, x) },
	dtype.Q4_0:    encodeQ4_0,
	dtype.Q4_1:    encodeQ4_1,
	dtype.Q5_0:    encodeQ5_0,
	dtype.Q5_1:    encodeQ5_1,
	dtype.Q8_0:    encodeQ8_0,
	dtype.Q2_K:    encodeQ2_K,
	dtype.Q3_K:    encodeQ3_K,
	dtype.Q4_K:    encodeQ4_K,
	dtype.Q5_K:    encodeQ5_K,
	dtype.Q6_K:    encodeQ6_K,
	dtype.IQ4_NL:  encodeIQ4_NL,
	dtype.IQ4_XS:  encodeIQ4_XS,
	dtype.IQ3_S:   encodeIQ3_S,
	dtype.IQ3_XXS: encodeIQ3_XXS,
	dtype.IQ2_S:   encodeIQ2_S,
	dtype.IQ2_XS:  encodeIQ2_XS,
	dtype.IQ2_XXS: encodeIQ2_XXS,
	dtype.IQ1_M:   encodeIQ1_M,
	dtype.IQ1_S:   encodeIQ1_S,
	dtype.TQ2_0:   encodeTQ2_0,
	dtype.TQ1_0:   encodeTQ1_0,
	dtype.Q2_0:    encodeQ2_0,
	dtype.Q1_0:    encodeQ1_0,
	dtype.MXFP4:   encodeMXFP4,
	dtype.NVFP4:   encodeNVFP4,
}

// CanEncode reports whether Encode knows the kind.
func CanEncode(k dtype.Kind) bool {
	t := dtype.Of(k)
	return t.HasPlanes() || k.Info().Family == dtype.Micro || int(k) < len(rowEncoders) && rowEncoders[k] != nil
}

// Weighs reports whether the encoder of a kind makes use of importance.
func Weighs(k dtype.Kind) bool {
	switch k {
	case dtype.Q8_0, dtype.TQ2_0, dtype.TQ1_0, dtype.Q2_0, dtype.Q1_0, dtype.MXFP4, dtype.NVFP4:
		return false
	}
	return k.Info().Family == dtype.GGML
}

// NeedsImportance reports whether a kind is encoded with importance only.
func NeedsImportance(k dtype.Kind) bool {
	return k == dtype.IQ2_XS || k == dtype.IQ2_XXS || k == dtype.IQ1_S
}

// EncodeRows quantizes x [rows*Cols] into the rows row0 … row0+rows of m, for
// types whose rows are independent: all but NF4 and FP4, whose blocks run on
// from row to row and which need the whole matrix at once. See Encode.
func EncodeRows(m Raw, row0, rows int, x, importance []float32) error {
	if row0 < 0 || rows < 0 || row0+rows > m.Rows || len(x) != rows*m.Cols || importance != nil && len(importance) != m.Cols {
		panic(fmt.Sprintf("block: EncodeRows: rows %d+%d of %d×%d from %d values, importance %d", row0, rows, m.Rows, m.Cols, len(x), len(importance)))
	}
	if !CanEncode(m.Type.Kind) {
		return fmt.Errorf("values cannot be encoded as %v", m.Type)
	}
	if importance == nil && NeedsImportance(m.Type.Kind) {
		return fmt.Errorf("values are encoded as %v with the importance of their columns only", m.Type)
	}
	if err := checkImportance(importance); err != nil {
		return err
	}
	if m.Type.HasPlanes() {
		if err := checkFinite(x, row0, m.Cols); err != nil {
			return err
		}
	}
	switch {
	case m.Type.Flat():
		if rows != m.Rows {
			panic("block: EncodeRows: blocks of " + m.Type.String() + " cross rows; encode the whole matrix")
		}
		return encodeBook(m, x)
	case m.Type.Grouped():
		return encodeGroups(m, row0, rows, x)
	}
	f, stride := rowEncoders[m.Type.Kind], 0
	if m.Rows > 0 {
		stride = len(m.Data) / m.Rows
	}
	chunk := laneEncoder(m.Type.Kind)
	if chunk == nil {
		chunk = func(dst []byte, x, w []float32, cols int) { eachRow(f, dst, x, w, cols) }
	}
	var bad atomic.Bool
	par.For(rows, rowGrain(m.Cols), func(lo, hi int) {
		part := x[lo*m.Cols : hi*m.Cols]
		if m.Type.Quantized() && !Finite(part) {
			bad.Store(true)
			return
		}
		chunk(m.Data[(row0+lo)*stride:(row0+hi)*stride], part, importance, m.Cols)
	})
	if bad.Load() {
		return checkFinite(x, row0, m.Cols)
	}
	return checkScales(m, row0, rows)
}

func encodeGroups(m Raw, row0, rows int, x []float32) error {
	if m.Type.Flags&dtype.Perm != 0 {
		if err := m.Check(); err != nil {
			return err
		}
	}
	p, encode := dtype.Planes(m.Type, m.Rows, m.Cols), encodeIntRow
	if m.Type.Kind.Info().Family == dtype.Micro {
		encode = encodeMicroRow
	}
	par.For(rows, rowGrain(m.Cols), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			encode(m, &p, row0+r, x[r*m.Cols:(r+1)*m.Cols])
		}
	})
	return nil
}

func checkImportance(w []float32) error {
	for c, v := range w {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("importance of column %d is %v: %w", c, v, ErrNotFinite)
		}
	}
	return nil
}

func checkFinite(x []float32, row0, cols int) error {
	for i, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return fmt.Errorf("row %d, column %d is %v: %w", row0+i/cols, i%cols, v, ErrNotFinite)
		}
	}
	return nil
}

// eachRow encodes a chunk row by row.
func eachRow(f rowEncoder, dst []byte, x, w []float32, cols int) {
	for rows := len(x) / max(cols, 1); rows > 0; rows-- {
		n := len(dst) / rows
		f(dst[:n], x[:cols], w)
		dst, x = dst[n:], x[cols:]
	}
}

func plainFinite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

// scaleOffsets are the places of the f16 scales in a block.
var scaleOffsets = [...][]int{
	dtype.F16:     {0},
	dtype.Q4_0:    {0},
	dtype.Q4_1:    {0, 2},
	dtype.Q5_0:    {0},
	dtype.Q5_1:    {0, 2},
	dtype.Q8_0:    {0},
	dtype.Q2_K:    {80, 82},
	dtype.Q3_K:    {108},
	dtype.Q4_K:    {0, 2},
	dtype.Q5_K:    {0, 2},
	dtype.Q6_K:    {208},
	dtype.IQ4_NL:  {0},
	dtype.IQ4_XS:  {0},
	dtype.IQ3_S:   {0},
	dtype.IQ3_XXS: {0},
	dtype.IQ2_S:   {0},
	dtype.IQ2_XS:  {0},
	dtype.IQ2_XXS: {0},
	dtype.IQ1_S:   {0},
	dtype.TQ2_0:   {64},
	dtype.TQ1_0:   {52},
	dtype.Q2_0:    {0},
	dtype.Q1_0:    {0},
}

// checkScales refuses blocks whose scale overflowed: they would decode to NaN
// or infinity.
func checkScales(m Raw, row0, rows int) error {
	k := m.Type.Kind
	if int(k) >= len(scaleOffsets) || m.Rows == 0 {
		return nil
	}
	in, stride := k.Info(), len(m.Data)/m.Rows
	part := m.Data[row0*stride : (row0+rows)*stride]
	overflow := func(i int) error {
		return fmt.Errorf("row %d, column %d: the values are too large for a scale of %v: %w",
			row0+i/stride, i%stride/in.Bytes*in.Block, m.Type, ErrNotFinite)
	}
	for _, off := range scaleOffsets[k] {
		for i := off; i < len(part); i += in.Bytes {
			if part[i+1]&0x7c == 0x7c {
				return overflow(i)
			}
		}
	}
	for i := 0; k == dtype.IQ1_M && i < len(part); i += in.Bytes {
		if scaleIQ1_M(part[i:])&0x7c00 == 0x7c00 {
			return overflow(i)
		}
	}
	return nil
}
