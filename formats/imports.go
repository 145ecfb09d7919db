package formats

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// How the stored arrays of one weight become a matrix in memory.

// importGPTQ reads zeros as the label says. All zero points of a symmetric matrix
// are the middle, so there the stored words say by themselves which version they
// have: tools wrote either under either label.
func importGPTQ(v2 bool) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		q := block.GPTQ{QWeight: p["qweight"], QZeros: p["qzeros"], Scales: p["scales"], GIdx: p["g_idx"], V2: v2}
		err := block.ImportGPTQ(m, q)
		if err != nil && m.Type.Flags&dtype.Zero == 0 {
			if q.V2 = !v2; block.ImportGPTQ(m, q) == nil {
				return nil
			}
		}
		return err
	}
}

func importAWQ(m block.Raw, p parts) error {
	return block.ImportAWQ(m, block.AWQ{QWeight: p["qweight"], QZeros: p["qzeros"], Scales: p["scales"]})
}

func importCTPacked(m block.Raw, p parts) error {
	return block.ImportCT(m, block.CT{Packed: p["packed"], Scale: p["scale"], ZeroPoint: p["zero"]})
}

func importCTInt8(m block.Raw, p parts) error {
	return block.ImportCT(m, block.CT{Int8: p["int8"], Scale: p["scale"], ZeroPoint: p["zero"]})
}

func importBnB(m block.Raw, p parts) error {
	s, err := parseBnBState("quant_state", p["quant_state"])
	if err != nil {
		return err
	}
	book := block.CodeMap4(m.Type.Kind)
	for i, want := range book {
		if got := f32(p["quant_map"], i); got != want {
			return fmt.Errorf("quant_map[%d] is %g, %v has %g: another code book", i, got, m.Type.Kind, want)
		}
	}
	return block.ImportBnB(m, block.BnB{
		Weight: p["weight"], AbsMax: p["absmax"], NestedAbsMax: p["nested_absmax"], NestedMap: p["nested_quant_map"], NestedOffset: s.offset,
	})
}

func f32(b []byte, i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) }

func put32(b []byte, i int, v float32) { binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v)) }

// importInt8Rows decodes LLM.int8() as bitsandbytes does: code · maximum · 1/127.
func importInt8Rows(m block.Raw, p parts) error {
	const inv127 = float32(0.007874015718698502)
	for r := range m.Rows {
		scale := f32(p["scb"], r)
		for c := range m.Cols {
			i := r*m.Cols + c
			v := float32(int8(p["weight"][i])) * scale
			put32(m.Data, i, v*inv127)
		}
	}
	return nil
}

// importFP8 decodes float8 codes times the scale of their br×bc block.
func importFP8(scale string, br, bc int) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		if m.Rows*m.Cols == 0 {
			return nil
		}
		wide := (m.Cols + bc - 1) / bc
		for r := range m.Rows {
			for c := range m.Cols {
				i := r*m.Cols + c
				s := scalarAt(scale, p["scale"], r/br*wide+c/bc)
				put32(m.Data, i, block.FromE4M3(p["weight"][i])*s)
			}
		}
		return nil
	}
}

// scalarAt widens element i of an F32, F16, BF16 or F8_E8M0 array.
func scalarAt(k string, b []byte, i int) float32 {
	switch k {
	case "F8_E8M0":
		return e8m0(b[i])
	case "F16":
		return block.FromF16(binary.LittleEndian.Uint16(b[2*i:]))
	case "BF16":
		return block.FromBF16(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return f32(b, i)
}

// e8m0 is the power of two of an E8M0 code; 255 is NaN.
func e8m0(b byte) float32 {
	switch b {
	case 0:
		return 0x1p-127
	case 255:
		return float32(math.NaN())
	}
	return math.Float32frombits(uint32(b) << 23)
}

func importMXFP8(m block.Raw, p parts) error {
	for i := range m.Rows * m.Cols {
		put32(m.Data, i, block.FromE4M3(p["weight"][i])*e8m0(p["scale"][i/32]))
	}
	return nil
}

// fp4Values are the values of E2M1 by code.
var fp4Values = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, float32(math.Copysign(0, -1)), -0.5, -1, -1.5, -2, -3, -4, -6}

// nibble is code i of two-a-byte codes, the even one in the low half.
func nibble(b []byte, i int) byte { return b[i/2] >> (4 * (i % 2)) & 15 }

func importMXFP4(m block.Raw, p parts) error {
	for i := range m.Rows * m.Cols {
		put32(m.Data, i, fp4Values[nibble(p["packed"], i)]*e8m0(p["scale"][i/32]))
	}
	return nil
}

// importMXBlocks puts codes and scales into blocks of the type MXFP4: a scale, and
// 16 bytes of codes j and j+16 where the file has 2j and 2j+1.
func importMXBlocks(m block.Raw, p parts) error {
	for b, scale := range p["scale"] {
		if scale == 255 {
			return fmt.Errorf("the scale of block %d is not a number", b)
		}
		out, codes := m.Data[17*b:17*b+17], p["codes"][16*b:]
		out[0] = scale
		for j := range 16 {
			out[1+j] = nibble(codes, j) | nibble(codes, j+16)<<4
		}
	}
	return nil
}

// importNVFP4 decodes 4-bit floats times the scale that both makes of a float8 for
// 16 columns and the number for the tensor.
func importNVFP4(both func(scale, global float32) float32) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		global := f32(p["global"], 0)
		for i := range m.Rows * m.Cols {
			s := both(block.FromE4M3(p["scale"][i/16]), global)
			put32(m.Data, i, fp4Values[nibble(p["packed"], i)]*s)
		}
		return nil
	}
}
