package block

import (
	"encoding/binary"
	"fmt"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// GPTQ holds the tensors of one linear layer [out, in] as GPTQ folders store
// them, little endian.
type GPTQ struct {
	QWeight []byte // int32 [in*bits/32, out], codes along in, least significant bits first, 3-bit codes straddle words
	QZeros  []byte // int32 [groups, out*bits/32]
	Scales  []byte // [groups, out] of the Raw's Scale kind
	GIdx    []byte // int32 [in], the group of each column; nil: column/group
	V2      bool   // zeros stored as they are; v1 stores them minus one
	Word    int    // bits of a word instead of 32: 8, 16 or 64; 0: 32
	Bits    int    // of a stored code, at most those of the type; 0: those of the type
}

// AWQ holds the tensors of one linear layer [out, in] in AWQ's gemm layout.
type AWQ struct {
	QWeight []byte // int32 [in, out/8], nibble j of a word is channel [0,2,4,6,1,3,5,7][j]
	QZeros  []byte // int32 [groups, out/8], same order
	Scales  []byte // [groups, out] of the Raw's Scale kind
}

// CT holds the tensors of one linear layer [out, in] in compressed-tensors'
// pack-quantized layout (Packed) or int-quantized layout (Int8), whose codes may also be
// those of a narrower type.
type CT struct {
	Packed    []byte // int32 [out, ceil(in*bits/32)], code + 2^(bits-1), least significant bits first
	Int8      []byte // int8 [out, in]: instead of Packed
	Bits      int    // of a packed code, at most those of the type; 0: those of the type
	Loose     bool   // a word holds 32/bits packed codes and the rest of it nothing, instead of codes that straddle words
	Scale     []byte // [out, groups] of the Raw's Scale kind
	ZeroPoint []byte // int32 [ceil(out*bits/32), groups], packed as the codes are; nil when symmetric
	Zero8     []byte // int8 [out, groups]: instead of ZeroPoint
	GIdx      []byte // int32 [in], the group of each column, for a type with dtype.Perm; all -1: column/group
}

// BnB holds one weight in bitsandbytes' 4-bit layout.
type BnB struct {
	Weight       []byte  // uint8 [n/2, 1], first element in the high nibble
	AbsMax       []byte  // f32 [blocks], uint8 when nested
	NestedAbsMax []byte  // f32 [ceil(blocks/256)]
	NestedMap    []byte  // f32 [256]
	NestedOffset float32 // from the quant_state JSON
}

// intMatrix is what every import and export of an Int kind works with.
type intMatrix struct {
	m                   Raw
	bits, groups        int
	stride              int // bytes of a row of codes
	codes, scales       []byte
	zeros, index        []byte
	rows, cols, scaleSz int
}

func newIntMatrix(m Raw, bits ...int) (*intMatrix, error) {
	t := m.Type
	ok := false
	for _, b := range bits {
		ok = ok || t.Bits() == b && t.Kind.Info().Family == dtype.Int
	}
	if !ok {
		return nil, fmt.Errorf("%v is not a type of this layout (%v bits)", t, bits)
	}
	if want := dtype.Size(t, m.Rows, m.Cols); len(m.Data) != want {
		return nil, fmt.Errorf("%d×%d of %v needs %d bytes, got %d", m.Rows, m.Cols, t, want, len(m.Data))
	}
	return &intMatrix{
		m: m, bits: t.Bits(), groups: t.Groups(m.Cols), stride: (m.Cols*t.Bits() + 7) / 8,
		codes: m.Plane(dtype.Codes), scales: m.Plane(dtype.Scales), zeros: m.Plane(dtype.Zeros), index: m.Plane(dtype.PermIndex),
		rows: m.Rows, cols: m.Cols, scaleSz: t.Scale.Info().Bytes,
	}, nil
}

// mid is the zero point of a symmetric type.
func (x *intMatrix) mid() uint8 { return 1 << (x.bits - 1) }

// setZero stores a zero point, or checks that it is the symmetric one.
func (x *intMatrix) setZero(row, group int, z uint8) error {
	if len(x.zeros) > 0 {
		x.zeros[row*x.groups+group] = z
		return nil
	}
	if z != x.mid() {
		return fmt.Errorf("zero point %d of row %d, group %d in a symmetric matrix (expected %d)", z, row, group, x.mid())
	}
	return nil
}

func (x *intMatrix) zero(row, group int) uint8 {
	if len(x.zeros) > 0 {
		return x.zeros[row*x.groups+group]
	}
	return x.mid()
}

// transpose copies n×w elements of size bytes into w×n.
func transpose(dst, src []byte, n, w, size int) {
	const tile = 16
	par.For((w+tile-1)/tile, 1+4096/max(n, 1), func(lo, hi int) {
		for c0 := lo * tile; c0 < min(hi*tile, w); c0 += tile {
			for r0 := 0; r0 < n; r0 += tile {
				for c := c0; c < min(c0+tile, w); c++ {
					for r := r0; r < min(r0+tile, n); r++ {
						copy(dst[(c*n+r)*size:][:size], src[(r*w+c)*size:][:size])
					}
				}
			}
		}
	})
}

func expect(name string, b []byte, want int) error {
	if len(b) != want {
		return fmt.Errorf("%s has %d bytes, expected %d", name, len(b), want)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// ImportGPTQ fills m, whose Type (an Int kind with Group, Scale and flags) the
// caller took from the folder's config. Without dtype.Zero every zero point
// must be 2^(bits-1); without dtype.Perm GIdx must be column/group. Codes that are narrower
// than the type's keep their distance from the zero point.
func ImportGPTQ(m Raw, p GPTQ) error {
	x, err := newIntMatrix(m, 2, 3, 4, 8)
	if err != nil {
		return err
	}
	word, bits := p.Word, p.Bits
	if word == 0 {
		word = 32
	}
	if bits == 0 {
		bits = x.bits
	}
	if bits < 2 || bits > x.bits {
		return fmt.Errorf("codes of %d bits cannot be held as %v", bits, m.Type)
	}
	if x.cols*bits%word != 0 || x.rows*bits%word != 0 {
		return fmt.Errorf("GPTQ packs %d-bit codes of %d×%d into whole %d-bit words only", bits, x.rows, x.cols, word)
	}
	err = firstError(
		expect("qweight", p.QWeight, x.rows*x.cols*bits/8),
		expect("qzeros", p.QZeros, x.groups*x.rows*bits/8),
		expect("scales", p.Scales, x.groups*x.rows*x.scaleSz))
	if err != nil {
		return err
	}
	transpose(x.scales, p.Scales, x.groups, x.rows, x.scaleSz)
	if err := x.importIndex(p.GIdx); err != nil {
		return err
	}
	if bits == x.bits {
		transpose(x.codes, p.QWeight, x.cols*bits/word, x.rows, word/8)
	} else {
		packed := make([]byte, len(p.QWeight))
		transpose(packed, p.QWeight, x.cols*bits/word, x.rows, word/8)
		if err := x.importPacked(CT{Packed: packed}, bits); err != nil {
			return err
		}
	}
	off := x.mid() - 1<<(bits-1)
	row := make([]byte, x.rows*bits/8)
	for g := range x.groups {
		copy(row, p.QZeros[g*len(row):])
		whole := 8%bits == 0 // fields that words are made of
		if !p.V2 && whole {
			shiftWords(row, word/8, ones(bits), 0)
		}
		for r := range x.rows {
			z := BitsAt(row, r*bits, bits)
			if !p.V2 && !whole {
				z = (z + 1) & (1<<bits - 1)
			}
			if err := x.setZero(r, g, z+off); err != nil {
				return err
			}
		}
	}
	return nil
}

// ones is a byte with a one in every field of 2, 4 or 8 bits. Version 1 of the format
// stores zeros as whole words less words of these, borrows and all.
func ones(bits int) byte {
	return map[int]byte{2: 0x55, 4: 0x11, 8: 0x01}[bits]
}

// shiftWords adds a byte's pattern and a carry to words of so many bytes, carries and all.
// The complement of a pattern and a carry of 1 take the pattern away.
func shiftWords(b []byte, word int, add byte, first int) {
	for i := 0; i < len(b); i += word {
		carry := first
		for k := range word {
			v := int(b[i+k]) + int(add) + carry
			b[i+k], carry = byte(v), v>>8
		}
	}
}

func (x *intMatrix) importIndex(gidx []byte) error {
	if len(x.index) > 0 {
		if err := firstError(expect("g_idx", gidx, 4*x.cols), checkIndex(gidx, x.groups)); err != nil {
			return err
		}
		copy(x.index, gidx)
		return nil
	}
	if gidx == nil {
		return nil
	}
	if err := expect("g_idx", gidx, 4*x.cols); err != nil {
		return err
	}
	if !plainIndex(gidx, int(x.m.Type.Group)) {
		return fmt.Errorf("g_idx permutes the columns of a matrix read as %v", x.m.Type)
	}
	return nil
}

// plainIndex reports whether a g_idx tensor (int32) is just column/group, so
// that no dtype.Perm is needed. group -1 is the whole row.
func plainIndex(gidx []byte, group int) bool {
	if group <= 0 {
		group = len(gidx)/4 + 1
	}
	for c := 0; 4*c+4 <= len(gidx); c++ {
		if int(int32(binary.LittleEndian.Uint32(gidx[4*c:]))) != c/group {
			return false
		}
	}
	return true
}

// ExportGPTQ is the inverse of ImportGPTQ; GIdx is always written.
func ExportGPTQ(m Raw, v2 bool) (GPTQ, error) {
	x, err := newIntMatrix(m, 2, 3, 4, 8)
	if err != nil {
		return GPTQ{}, err
	}
	if x.cols*x.bits%32 != 0 || x.rows*x.bits%32 != 0 {
		return GPTQ{}, fmt.Errorf("GPTQ packs %d-bit codes of %d×%d into whole 32-bit words only", x.bits, x.rows, x.cols)
	}
	p := GPTQ{V2: v2,
		QWeight: make([]byte, len(x.codes)),
		QZeros:  make([]byte, x.groups*x.rows*x.bits/8),
		Scales:  make([]byte, len(x.scales)),
		GIdx:    make([]byte, 4*x.cols),
	}
	transpose(p.QWeight, x.codes, x.rows, x.cols*x.bits/32, 4)
	transpose(p.Scales, x.scales, x.rows, x.groups, x.scaleSz)
	words := x.rows * x.bits / 32
	for g := range x.groups {
		row := p.QZeros[g*words*4:][:words*4]
		for r := range x.rows {
			z := x.zero(r, g)
			if !v2 && x.bits == 3 {
				z = (z - 1) & 7
			}
			putCode(row, x.bits, r, z)
		}
		if !v2 && x.bits != 3 {
			shiftWords(row, 4, ^ones(x.bits), 1)
		}
	}
	group := groupOf(m, ptr(dtype.Planes(m.Type, m.Rows, m.Cols)))
	for c := range x.cols {
		binary.LittleEndian.PutUint32(p.GIdx[4*c:], uint32(group(c)))
	}
	return p, nil
}

func ptr[T any](v T) *T { return &v }

// awqPlace[j] is the nibble of an AWQ word that holds channel j of eight.
var awqPlace = [8]uint{0, 4, 1, 5, 2, 6, 3, 7}

// ImportAWQ fills m (Int4). Without dtype.Zero every zero point must be 8.
func ImportAWQ(m Raw, p AWQ) error {
	x, err := newIntMatrix(m, 4)
	if err != nil {
		return err
	}
	if x.rows%8 != 0 || len(x.index) > 0 {
		return fmt.Errorf("AWQ's gemm layout needs a multiple of 8 rows and no permutation, not %d×%d of %v", x.rows, x.cols, m.Type)
	}
	err = firstError(
		expect("qweight", p.QWeight, x.rows*x.cols/2),
		expect("qzeros", p.QZeros, x.groups*x.rows/2),
		expect("scales", p.Scales, x.groups*x.rows*x.scaleSz))
	if err != nil {
		return err
	}
	transpose(x.scales, p.Scales, x.groups, x.rows, x.scaleSz)
	words := x.rows / 8
	par.For(words, 1+4096/max(x.cols, 1), func(lo, hi int) {
		for o := lo; o < hi; o++ {
			clear(x.codes[8*o*x.stride : 8*(o+1)*x.stride])
			for c := range x.cols {
				w := binary.LittleEndian.Uint32(p.QWeight[4*(c*words+o):])
				at, shift := 8*o*x.stride+c>>1, c&1*4
				for j, place := range awqPlace {
					x.codes[at+j*x.stride] |= byte(w>>(4*place)&15) << shift
				}
			}
		}
	})
	for g := range x.groups {
		for r := range x.rows {
			w := binary.LittleEndian.Uint32(p.QZeros[4*(g*words+r/8):])
			if err := x.setZero(r, g, byte(w>>(4*awqPlace[r%8])&15)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ExportAWQ is the inverse of ImportAWQ. A symmetric m gets zeros of 8.
func ExportAWQ(m Raw) (AWQ, error) {
	x, err := newIntMatrix(m, 4)
	if err != nil {
		return AWQ{}, err
	}
	if x.rows%8 != 0 || len(x.index) > 0 {
		return AWQ{}, fmt.Errorf("AWQ's gemm layout needs a multiple of 8 rows and no permutation, not %d×%d of %v", x.rows, x.cols, m.Type)
	}
	words := x.rows / 8
	p := AWQ{
		QWeight: make([]byte, x.rows*x.cols/2),
		QZeros:  make([]byte, x.groups*x.rows/2),
		Scales:  make([]byte, len(x.scales)),
	}
	transpose(p.Scales, x.scales, x.rows, x.groups, x.scaleSz)
	par.For(x.cols, 1+4096/max(x.rows, 1), func(lo, hi int) {
		for c := lo; c < hi; c++ {
			for o := range words {
				var w uint32
				at, shift := 8*o*x.stride+c>>1, c&1*4
				for j, place := range awqPlace {
					w |= uint32(x.codes[at+j*x.stride]>>shift&15) << (4 * place)
				}
				binary.LittleEndian.PutUint32(p.QWeight[4*(c*words+o):], w)
			}
		}
	})
	for g := range x.groups {
		for o := range words {
			var w uint32
			for j, place := range awqPlace {
				w |= uint32(x.zero(8*o+j, g)) << (4 * place)
			}
			binary.LittleEndian.PutUint32(p.QZeros[4*(g*words+o):], w)
		}
	}
	return p, nil
}

// ImportCT fills m (an Int kind) from Packed, or from Int8 when that is set. Codes that
// are narrower than the type's keep their distance from the zero point.
func ImportCT(m Raw, p CT) error {
	x, err := newIntMatrix(m, 2, 3, 4, 8)
	if err != nil {
		return err
	}
	if err := firstError(expect("weight_scale", p.Scale, len(x.scales)), x.importOrder(p.GIdx)); err != nil {
		return err
	}
	copy(x.scales, p.Scale)
	switch bits := p.packedBits(x.bits); {
	case bits < 1 || bits > x.bits:
		return fmt.Errorf("packed codes of %d bits cannot be held as %v", bits, m.Type)
	case p.Int8 != nil:
		err = x.importInt8(p.Int8)
	default:
		err = x.importPacked(p, bits)
	}
	if err != nil {
		return err
	}
	return x.importZeros(p)
}

func (p CT) packedBits(own int) int {
	if p.Bits == 0 {
		return own
	}
	return p.Bits
}

// bitOf is the first bit of packed code i.
func (p CT) bitOf(i, bits int) int {
	if per := 32 / bits; p.Loose {
		return i/per*32 + i%per*bits
	}
	return i * bits
}

// CodeWords is how many 32-bit words n packed codes of compressed-tensors take; loose as CT
// has it.
func CodeWords(n, bits int, loose bool) int {
	if per := 32 / bits; loose {
		return (n + per - 1) / per
	}
	return (n*bits + 31) / 32
}

func (x *intMatrix) importPacked(p CT, bits int) error {
	words := CodeWords(x.cols, bits, p.Loose)
	if err := expect("weight_packed", p.Packed, 4*words*x.rows); err != nil {
		return err
	}
	if bits == x.bits && !p.Loose {
		for r := range x.rows {
			copy(x.codes[r*x.stride:(r+1)*x.stride], p.Packed[4*words*r:])
		}
		return nil
	}
	off := x.mid() - 1<<(bits-1)
	par.For(x.rows, 1+4096/max(x.cols, 1), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row, to := p.Packed[4*words*r:4*words*(r+1)], x.codes[r*x.stride:(r+1)*x.stride]
			clear(to)
			for c := range x.cols {
				putCode(to, x.bits, c, BitsAt(row, p.bitOf(c, bits), bits)+off)
			}
		}
	})
	return nil
}

// BitsAt reads up to 8 bits from a place in a stream, least significant bits first.
func BitsAt(b []byte, at, bits int) uint8 {
	v := uint(b[at>>3])
	if at&7+bits > 8 {
		v |= uint(b[at>>3+1]) << 8
	}
	return uint8(v >> (at & 7) & (1<<bits - 1))
}

func (x *intMatrix) importZeros(p CT) error {
	switch {
	case p.Zero8 != nil:
		if err := expect("weight_zero_point", p.Zero8, x.rows*x.groups); err != nil {
			return err
		}
		for i, v := range p.Zero8 {
			if x.bits < 8 && v+x.mid() >= 2*x.mid() {
				return fmt.Errorf("zero point %d of row %d, group %d is none of %d bits", int8(v), i/x.groups, i%x.groups, x.bits)
			}
			if err := x.setZero(i/x.groups, i%x.groups, v+x.mid()); err != nil {
				return err
			}
		}
		return nil
	case p.ZeroPoint == nil:
		return x.symmetric()
	}
	bits := p.packedBits(x.bits)
	words := CodeWords(x.rows, bits, p.Loose)
	if err := expect("weight_zero_point", p.ZeroPoint, 4*words*x.groups); err != nil {
		return err
	}
	column, off := make([]byte, 4*words), x.mid()-1<<(bits-1)
	for g := range x.groups {
		for w := range words {
			copy(column[4*w:4*w+4], p.ZeroPoint[4*(w*x.groups+g):])
		}
		for r := range x.rows {
			if err := x.setZero(r, g, BitsAt(column, p.bitOf(r, bits), bits)+off); err != nil {
				return err
			}
		}
	}
	return nil
}

// importOrder takes the group of each column; one that was never set is all -1.
func (x *intMatrix) importOrder(gidx []byte) error {
	if len(x.index) == 0 || len(gidx) != 4*x.cols || binary.LittleEndian.Uint32(gidx) != 1<<32-1 {
		return x.importIndex(gidx)
	}
	group := max(int(x.m.Type.Group), 0)
	if group == 0 {
		group = x.cols
	}
	for c := range x.cols {
		if binary.LittleEndian.Uint32(gidx[4*c:]) != 1<<32-1 {
			return fmt.Errorf("weight_g_idx has no group for some columns")
		}
		binary.LittleEndian.PutUint32(x.index[4*c:], uint32(c/group))
	}
	return nil
}

// symmetric writes the zero point of a file that has none.
func (x *intMatrix) symmetric() error {
	for i := range x.zeros {
		x.zeros[i] = x.mid()
	}
	return nil
}

func (x *intMatrix) importInt8(codes []byte) error {
	if err := expect("weight", codes, x.rows*x.cols); err != nil {
		return err
	}
	if x.bits != 8 {
		return x.importNarrow(codes)
	}
	for i, v := range codes {
		x.codes[i] = v + 128
	}
	return nil
}

// importNarrow takes codes a byte each that a narrower type holds.
func (x *intMatrix) importNarrow(codes []byte) error {
	clear(x.codes)
	for r := range x.rows {
		to := x.codes[r*x.stride : (r+1)*x.stride]
		for c, v := range codes[r*x.cols : (r+1)*x.cols] {
			if v += x.mid(); v >= 2*x.mid() {
				return fmt.Errorf("code %d of row %d, column %d is none of %d bits", int8(v-x.mid()), r, c, x.bits)
			}
			putCode(to, x.bits, c, v)
		}
	}
	return nil
}

// ExportCT is the inverse of ImportCT for 4 and 8 bits, which consumers of the layout have;
// asInt8 chooses the int-quantized layout.
// Zero points are nil for a symmetric m.
func ExportCT(m Raw, asInt8 bool) (CT, error) {
	x, err := newIntMatrix(m, 4, 8)
	if err != nil {
		return CT{}, err
	}
	if len(x.index) > 0 {
		return CT{}, fmt.Errorf("compressed-tensors has no column permutation (%v)", m.Type)
	}
	if asInt8 {
		return x.exportInt8()
	}
	words := (x.cols*x.bits + 31) / 32
	p := CT{Packed: make([]byte, 4*words*x.rows), Scale: x.scales}
	for r := range x.rows {
		copy(p.Packed[4*words*r:], x.codes[r*x.stride:(r+1)*x.stride])
	}
	if len(x.zeros) == 0 {
		return p, nil
	}
	words = (x.rows*x.bits + 31) / 32
	p.ZeroPoint = make([]byte, 4*words*x.groups)
	for g := range x.groups {
		column := make([]byte, 4*words)
		for r := range x.rows {
			putCode(column, x.bits, r, x.zero(r, g))
		}
		for w := range words {
			copy(p.ZeroPoint[4*(w*x.groups+g):], column[4*w:4*w+4])
		}
	}
	return p, nil
}

func (x *intMatrix) exportInt8() (CT, error) {
	if x.bits != 8 {
		return CT{}, fmt.Errorf("%v cannot be written as int8 codes", x.m.Type)
	}
	p := CT{Int8: make([]byte, len(x.codes)), Scale: x.scales}
	for i, v := range x.codes {
		p.Int8[i] = v - 128
	}
	if len(x.zeros) > 0 {
		p.Zero8 = make([]byte, len(x.zeros))
		for i, v := range x.zeros {
			p.Zero8[i] = v - 128
		}
	}
	return p, nil
}

// ImportBnB fills m (NF4 or FP4, nested or not).
func ImportBnB(m Raw, p BnB) error {
	planes, err := bookPlanes(m)
	if err != nil {
		return err
	}
	err = firstError(
		expect("weight", p.Weight, len(planes[dtype.Codes])),
		expect("absmax", p.AbsMax, len(planes[dtype.Scales])))
	if err != nil {
		return err
	}
	if n := planes[dtype.NestedScales]; len(n) > 0 {
		outer := len(n) - 4*257
		err := firstError(
			expect("nested_absmax", p.NestedAbsMax, outer),
			expect("nested_quant_map", p.NestedMap, 4*256))
		if err != nil {
			return err
		}
		copy(n, p.NestedAbsMax)
		putF32(n[outer:], p.NestedOffset)
		copy(n[outer+4:], p.NestedMap)
	}
	copy(planes[dtype.Codes], p.Weight)
	copy(planes[dtype.Scales], p.AbsMax)
	return nil
}

// ExportBnB is the inverse of ImportBnB. The slices share m's memory.
func ExportBnB(m Raw) (BnB, error) {
	planes, err := bookPlanes(m)
	if err != nil {
		return BnB{}, err
	}
	p := BnB{Weight: planes[dtype.Codes], AbsMax: planes[dtype.Scales]}
	if n := planes[dtype.NestedScales]; len(n) > 0 {
		outer := len(n) - 4*257
		p.NestedAbsMax, p.NestedOffset, p.NestedMap = n[:outer], f32at(n[outer:]), n[outer+4:]
	}
	return p, nil
}

func bookPlanes(m Raw) (p [dtype.NumPlanes][]byte, err error) {
	if !m.Type.Flat() {
		return p, fmt.Errorf("%v is not a 4-bit type of bitsandbytes", m.Type)
	}
	if err := m.Check(); err != nil {
		return p, err
	}
	for i := range p {
		p[i] = m.Plane(i)
	}
	return p, nil
}
