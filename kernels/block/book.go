package block

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// nestedBlock is how many scales share one nested scale (bitsandbytes' double
// quantization).
const nestedBlock = 256

// nf4 is the NormalFloat codebook of QLoRA (arXiv 2305.14314, appendix E).
var nf4 = [16]float32{
	-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
	-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
	0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
}

// fp4 is bitsandbytes' 4-bit float: sign, then the eight magnitudes in its own
// order, each a number of twelfths.
var fp4 = func() (t [16]float32) {
	for i, v := range [8]float64{0, 0.0625, 8, 12, 4, 6, 2, 3} {
		t[i], t[i+8] = float32(v/12), -float32(v/12)
	}
	t[8] = 0
	return t
}()

// CodeMap4 is the 16 values of NF4 or FP4 by code. It panics for other kinds.
func CodeMap4(k dtype.Kind) [16]float32 {
	switch k {
	case dtype.NF4:
		return nf4
	case dtype.FP4:
		return fp4
	}
	panic(fmt.Sprintf("block: %v has no map of 16 codes", k))
}

// search finds the nearest of sorted values: code order[i] where i counts the
// midpoints below v, so a tie goes to the smaller value.
type search struct {
	order  []uint8
	mid    []float32  // midpoints between neighbours, then +Inf
	start  [514]uint8 // by cell of [-1, 1]: how many midpoints are surely below
	values []float32  // sorted
}

func newSearch(values []float32) *search {
	s := &search{order: make([]uint8, len(values))}
	for i := range s.order {
		s.order[i] = uint8(i)
	}
	slices.SortStableFunc(s.order, func(a, b uint8) int {
		if values[a] < values[b] {
			return -1
		}
		if values[a] > values[b] {
			return 1
		}
		return 0
	})
	for i, c := range s.order {
		s.values = append(s.values, values[c])
		if i > 0 {
			s.mid = append(s.mid, (s.values[i-1]+values[c])/2)
		}
	}
	s.mid = append(s.mid, float32(math.Inf(1)))
	for cell := range s.start {
		edge := float32(float32(cell-2)/256) - 1 // one cell to the left: rounding cannot pass it
		for s.mid[s.start[cell]] < edge {
			s.start[cell]++
		}
	}
	return s
}

// rank is how many midpoints lie below v; NaN has rank 0.
func (s *search) rank(v float32) int {
	if !(v > -1) {
		return 0
	}
	if v >= 1 {
		return len(s.values) - 1
	}
	i := int(s.start[int((v+1)*256)])
	for v > s.mid[i] {
		i++
	}
	return i
}

var (
	nf4Search = newSearch(nf4[:])
	fp4Search = newSearch(fp4[:])
)

// encodeBook quantizes the flat tensor x as bitsandbytes' PyTorch kernel does:
// whole blocks are multiplied by the reciprocal of their largest magnitude, a
// ragged last block is divided by it.
func encodeBook(m Raw, x []float32) error {
	if err := m.Check(); err != nil {
		return err
	}
	size := int(m.Type.Group)
	s := nf4Search
	if m.Type.Kind == dtype.FP4 {
		s = fp4Search
	}
	blocks := (len(x) + size - 1) / size
	scales := make([]float32, blocks)
	codes := m.Plane(dtype.Codes)
	grain := max(2, 16384/size&^1) // even, so that no byte has two writers when size is odd
	par.For(blocks, grain, func(lo, hi int) {
		for b := lo; b < hi; b++ {
			part := x[b*size : min((b+1)*size, len(x))]
			scales[b] = absMax(part)
			packBook(codes, b*size, part, s, scales[b], len(part) == size)
		}
	})
	if len(x)%2 != 0 { // padded with the code of 0
		codes[len(codes)-1] = codes[len(codes)-1]&0xf0 | s.order[s.rank(0)]
	}
	if m.Type.Flags&dtype.Nested != 0 {
		return nestScales(m, scales)
	}
	PutF32(m.Plane(dtype.Scales), scales)
	return nil
}

func absMax(x []float32) float32 {
	var a float32
	for _, v := range x {
		a = max(a, math.Float32frombits(math.Float32bits(v)&^(1<<31)))
	}
	return a
}

func packBook(codes []byte, at int, x []float32, s *search, scale float32, whole bool) {
	d := max(scale, 1e-38)
	r := 1 / d
	for i, v := range x {
		if whole {
			v = float32(v * r)
		} else {
			v /= d
		}
		c := s.order[s.rank(v)]
		p := &codes[(at+i)>>1]
		if (at+i)&1 == 0 {
			*p = c << 4
		} else {
			*p |= c
		}
	}
}

// nestScales stores the scales less their mean as 8-bit codes of the dynamic
// map in blocks of 256.
func nestScales(m Raw, scales []float32) error {
	offset := mean(scales)
	for i := range scales {
		scales[i] -= offset
	}
	n := m.Plane(dtype.NestedScales)
	outer := make([]float32, (len(scales)+nestedBlock-1)/nestedBlock)
	quantize8(m.Plane(dtype.Scales), outer, scales, nestedBlock)
	PutF32(n, outer)
	putF32(n[4*len(outer):], offset)
	PutF32(n[4*len(outer)+4:], Signed.Values[:])
	return nil
}

// decodeBook decodes NF4 and FP4 from flat element at.
func decodeBook(dst []float32, m Raw, at int) {
	p := dtype.Planes(m.Type, m.Rows, m.Cols)
	codes := m.Data[:p[dtype.Codes].Len]
	scales := m.Data[p[dtype.Scales].Off:]
	nested := m.Data[p[dtype.NestedScales].Off:][:p[dtype.NestedScales].Len]
	outer := (p[dtype.Scales].Len + nestedBlock - 1) / nestedBlock
	book := &nf4
	if m.Type.Kind == dtype.FP4 {
		book = &fp4
	}
	size := int(m.Type.Group)
	var table [16]float32
	for len(dst) > 0 {
		b := at / size
		n := min(len(dst), (b+1)*size-at)
		var s float32
		if len(nested) > 0 {
			v := f32at(nested[4*outer+4+4*int(scales[b]):])
			s = float32(v*f32at(nested[b/nestedBlock*4:])) + f32at(nested[4*outer:])
		} else {
			s = f32at(scales[4*b:])
		}
		for i, v := range book {
			table[i] = v * s
		}
		unpackBook(dst[:n], codes, at, &table)
		dst, at = dst[n:], at+n
	}
}

func unpackBook(dst []float32, codes []byte, at int, table *[16]float32) {
	if at&1 != 0 && len(dst) > 0 {
		dst[0] = table[codes[at>>1]&15]
		dst, at = dst[1:], at+1
	}
	q := codes[at>>1:]
	for len(dst) >= 2 {
		y := (*[2]float32)(dst)
		y[0], y[1] = table[q[0]>>4], table[q[0]&15]
		dst, q = dst[2:], q[1:]
	}
	if len(dst) > 0 {
		dst[0] = table[q[0]>>4]
	}
}
