package block

import "fmt"

// GPTQ holds the tensors of one linear layer [out, in] as GPTQ folders store
// them, little endian.
type GPTQ struct {
	QWeight []byte // int32 [in*bits/32, out], codes along in, least significant bits first, 3-bit codes straddle words
	QZeros  []byte // int32 [groups, out*bits/32]
	Scales  []byte // [groups, out] of the Raw's Scale kind
	GIdx    []byte // int32 [in], the group of each column; nil: column/group
	V2      bool   // zeros stored as they are; v1 stores them minus one
}

// AWQ holds the tensors of one linear layer [out, in] in AWQ's gemm layout.
type AWQ struct {
	QWeight []byte // int32 [in, out/8], nibble j of a word is channel [0,2,4,6,1,3,5,7][j]
	QZeros  []byte // int32 [groups, out/8], same order
	Scales  []byte // [groups, out] of the Raw's Scale kind
}

// CT holds the tensors of one linear layer [out, in] in compressed-tensors'
// pack-quantized layout (Packed) or int-quantized layout (Int8).
type CT struct {
	Packed    []byte // int32 [out, ceil(in*bits/32)], code + 2^(bits-1), least significant bits first
	Int8      []byte // int8 [out, in]: instead of Packed
	Scale     []byte // [out, groups] of the Raw's Scale kind
	ZeroPoint []byte // packed: int32 [ceil(out*bits/32), groups], plus 2^(bits-1); with Int8: int8 [out, groups]; nil when symmetric
}

// BnB holds one weight in bitsandbytes' 4-bit layout.
type BnB struct {
	Weight       []byte  // uint8 [n/2, 1], first element in the high nibble
	AbsMax       []byte  // f32 [blocks], uint8 when nested
	NestedAbsMax []byte  // f32 [ceil(blocks/256)]
	NestedMap    []byte  // f32 [256]
	NestedOffset float32 // from the quant_state JSON
}

// ImportGPTQ fills m, whose Type (an Int kind with Group, Scale and flags) the
// caller took from the folder's config. Without dtype.Zero every zero point
// must be 2^(bits-1); without dtype.Perm GIdx must be column/group.
func ImportGPTQ(m Raw, p GPTQ) error { return fmt.Errorf("block: ImportGPTQ") }

// ExportGPTQ is the inverse of ImportGPTQ; GIdx is always written.
func ExportGPTQ(m Raw, v2 bool) (GPTQ, error) { return GPTQ{}, fmt.Errorf("block: ExportGPTQ") }

// ImportAWQ fills m (Int4).
func ImportAWQ(m Raw, p AWQ) error { return fmt.Errorf("block: ImportAWQ") }

// ExportAWQ is the inverse of ImportAWQ. A symmetric m gets zeros of 8.
func ExportAWQ(m Raw) (AWQ, error) { return AWQ{}, fmt.Errorf("block: ExportAWQ") }

// ImportCT fills m (Int4 or Int8).
func ImportCT(m Raw, p CT) error { return fmt.Errorf("block: ImportCT") }

// ExportCT is the inverse of ImportCT; int8 chooses the int-quantized layout.
func ExportCT(m Raw, int8 bool) (CT, error) { return CT{}, fmt.Errorf("block: ExportCT") }

// ImportBnB fills m (NF4 or FP4, nested or not).
func ImportBnB(m Raw, p BnB) error { return fmt.Errorf("block: ImportBnB") }

// ExportBnB is the inverse of ImportBnB. The slices share m's memory.
func ExportBnB(m Raw) (BnB, error) { return BnB{}, fmt.Errorf("block: ExportBnB") }
