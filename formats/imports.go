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

// importFloats takes codes as they are stored, and for each row the scales of the
// run of rows that it belongs to; a number for the tensor, where there is one, is
// each row's.
func importFloats(run int) func(block.Raw, parts) error {
	return func(m block.Raw, p parts) error {
		copy(m.Plane(dtype.Codes), p["codes"])
		scales := m.Plane(dtype.Scales)
		n := len(scales) / max(m.Rows, 1)
		for r := range m.Rows {
			copy(scales[r*n:(r+1)*n], p["scale"][r/run*n:])
		}
		for all := m.Plane(dtype.NestedScales); len(all) > 0; {
			all = all[copy(all, p["global"][:4]):]
		}
		return nil
	}
}

// nibble is code i of two-a-byte codes, the even one in the low half.
func nibble(b []byte, i int) byte { return b[i/2] >> (4 * (i % 2)) & 15 }

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
