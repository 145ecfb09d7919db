package cpu

import (
	"slices"
	"sync"
	"time"
	"unsafe"

	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// mvFew are the kernels of types of few bits for x rounded to 8 bits, the tables that
// these, those for x as it is and decoders look up, made of package block's own values
// at first use, and decoders of a row's blocks, or of as many as fill mvUnit columns.
var mvFew = map[dtype.Kind]struct {
	kernel *mvKernel
	x      mvRounding
	table  func() []byte
	decode func(n int, src, table *byte, dst *float32)
}{
	dtype.IQ3_S:   {&mvKernel{1: mvIQ3S1, 2: mvIQ3S2, 4: mvIQ3S4, 8: mvIQ3S8}, mvBlocks, mvGridOf(dtype.IQ3_S, 4, 64), decodeFewIQ3S},
	dtype.IQ3_XXS: {&mvKernel{1: mvIQ3XXS1, 2: mvIQ3XXS2, 4: mvIQ3XXS4, 8: mvIQ3XXS8}, mvBlocks, mvGridOf(dtype.IQ3_XXS, 4, 64), decodeFewIQ3XXS},
	dtype.IQ2_S:   {&mvKernel{1: mvIQ2S1, 2: mvIQ2S2, 4: mvIQ2S4, 8: mvIQ2S8}, mvBlocks, mvGridOf(dtype.IQ2_S, 8, 64), decodeFewIQ2S},
	dtype.IQ2_XS:  {&mvKernel{1: mvIQ2XS1, 2: mvIQ2XS2, 4: mvIQ2XS4, 8: mvIQ2XS8}, mvBlocks, mvGridOf(dtype.IQ2_XS, 8, 64), decodeFewIQ2XS},
	dtype.IQ2_XXS: {&mvKernel{1: mvIQ2XXS1, 2: mvIQ2XXS2, 4: mvIQ2XXS4, 8: mvIQ2XXS8}, mvBlocks, mvGridOf(dtype.IQ2_XXS, 8, 64), decodeFewIQ2XXS},
	dtype.IQ1_M:   {&mvKernel{1: mvPairedIQ1M1, 2: mvPairedIQ1M2, 4: mvPairedIQ1M4, 8: mvPairedIQ1M8}, mvPaired, mvGrid1, decodeFewIQ1M},
	dtype.IQ1_S:   {&mvKernel{1: mvPairedIQ1S1, 2: mvPairedIQ1S2, 4: mvPairedIQ1S4, 8: mvPairedIQ1S8}, mvPaired, mvGrid1, decodeFewIQ1S},
	dtype.TQ2_0:   {&mvKernel{1: mvTQ201, 2: mvTQ202, 4: mvTQ204, 8: mvTQ208}, mvShifted, mvNoTable, decodeFewTQ20},
	dtype.TQ1_0:   {&mvKernel{1: mvTQ101, 2: mvTQ102, 4: mvTQ104, 8: mvTQ108}, mvBlocks, mvNoTable, decodeFewTQ10},
	dtype.Q2_0:    {&mvKernel{1: mvQ201, 2: mvQ202, 4: mvQ204, 8: mvQ208}, mvRounding{offset: 1, factor: 1}, mvNoTable, decodeFewQ20},
	dtype.Q1_0:    {&mvKernel{1: mvQ101, 2: mvQ102, 4: mvQ104, 8: mvQ108}, mvRounding{offset: 1, factor: 1}, mvNoTable, decodeFewQ10},
	dtype.MXFP4:   {&mvKernel{1: mvMXFP41, 2: mvMXFP42, 4: mvMXFP44, 8: mvMXFP48}, mvRounding{offset: mvFP4Zero, factor: 1}, mvFloatsOf(dtype.MXFP4), decodeFewMXFP4},
	dtype.NVFP4:   {&mvKernel{1: mvNVFP41, 2: mvNVFP42, 4: mvNVFP44, 8: mvNVFP48}, mvRounding{offset: mvFP4Zero, factor: 1}, mvFloatsOf(dtype.NVFP4), decodeFewNVFP4},
}

// mvTurns says that the processor permutes bytes and picks bits, so that points are
// looked up in registers, not gathered.
var mvTurns = level.HasVBMI() && level.HasBITALG()

// mvTurned are the kernels of such processors, how they want x, and their tables.
var mvTurned = map[dtype.Kind]struct {
	kernel *mvKernel
	x      mvRounding
	table  func() []byte
}{
	dtype.IQ2_S:   {&mvKernel{1: mvPairedIQ2S1, 2: mvPairedIQ2S2, 4: mvPairedIQ2S4, 8: mvPairedIQ2S8}, mvPaired, mvGridOf(dtype.IQ2_S, 8, 64)},
	dtype.IQ3_S:   {&mvKernel{1: mvTurnedIQ3S1, 2: mvTurnedIQ3S2, 4: mvTurnedIQ3S4, 8: mvTurnedIQ3S8}, mvTurnedX, mvPlanesOf(dtype.IQ3_S, 4)},
	dtype.IQ3_XXS: {&mvKernel{1: mvTurnedIQ3XXS1, 2: mvTurnedIQ3XXS2, 4: mvTurnedIQ3XXS4, 8: mvTurnedIQ3XXS8}, mvTurnedX, mvPlanesOf(dtype.IQ3_XXS, 4)},
	dtype.IQ2_XS:  {&mvKernel{1: mvTurnedIQ2XS1, 2: mvTurnedIQ2XS2, 4: mvTurnedIQ2XS4, 8: mvTurnedIQ2XS8}, mvTurnedX, mvPlanesOf(dtype.IQ2_XS, 8)},
	dtype.IQ2_XXS: {&mvKernel{1: mvTurnedIQ2XXS1, 2: mvTurnedIQ2XXS2, 4: mvTurnedIQ2XXS4, 8: mvTurnedIQ2XXS8}, mvTurnedX, mvPlanesOf(dtype.IQ2_XXS, 8)},
	dtype.TQ1_0:   {&mvKernel{1: mvTurnedTQ101, 2: mvTurnedTQ102, 4: mvTurnedTQ104, 8: mvTurnedTQ108}, mvTurnedX, mvTrits},
}

// mvPlanesOf are what six bits that begin with a coordinate stand for, and a lattice's points in
// two planes, a byte each: coordinates 0 and 1, or 0, 1, 4 and 5 of eight, and the others.
func mvPlanesOf(k dtype.Kind, dims int) func() []byte {
	return sync.OnceValue(func() []byte {
		grid := blocks.Grid(k)
		var levels []uint8
		for _, p := range grid {
			levels = append(levels, p[:dims]...)
		}
		slices.Sort(levels)
		levels = slices.Compact(levels)
		bits, mask := 4, 7
		if dims == 8 {
			bits, mask = 2, 3
		}
		t := mvAligned(64 + 2*len(grid))
		for i := range 64 {
			t[i] = levels[min(i&mask, len(levels)-1)] + 64
		}
		for i, p := range grid {
			for c, v := range p[:dims] {
				code := byte(slices.Index(levels, v))
				t[64+c/2%2*len(grid)+i] |= code << (c/4*4 + c%2*bits)
			}
		}
		return t
	})
}

// mvTrits are the first four trits of a byte, each one more than its value and two bits, and in
// a second plane the fifth.
var mvTrits = sync.OnceValue(func() []byte {
	t := mvAligned(512)
	for i := range 256 {
		for n, power := 0, 1; n < 5; n, power = n+1, power*3 {
			t[n/4*256+i] |= byte(i*power&255*3>>8) << (2 * (n % 4))
		}
	}
	return t
})

// mvAligned are n bytes whose first is that of a line of a cache.
func mvAligned(n int) []byte {
	b := make([]byte, n+63)
	return b[-uintptr(unsafe.Pointer(&b[0]))&63:][:n:n]
}

// How x is rounded for blocks of 256.
var (
	mvBlocks  = mvRounding{k: true, factor: 1}
	mvTurnedX = mvRounding{k: true, order: mvTurn, factor: 1}
	mvPaired  = mvRounding{k: true, order: mvPairs, factor: 1}
	mvShifted = mvRounding{k: true, order: mvShifts, factor: 1}
)

func mvNoTable() []byte { return nil }

// few sets the kernel of a type of few bits for x rounded to 8 bits.
func (w *mvWeight) few(k dtype.Kind) bool {
	f, ok := mvFew[k]
	if !ok {
		return false
	}
	w.kernel, w.x, w.table = f.kernel, f.x, f.table()
	if t, ok := mvTurned[k]; ok && mvTurns {
		w.kernel, w.x, w.table = t.kernel, t.x, t.table()
	}
	if l := mvLoaded[k]; l != nil && w.x == mvPaired && mvLoads() {
		w.kernel = l
	}
	return true
}

// mvLoaded are kernels that load points one by one where others gather them, to the same bits.
var mvLoaded = map[dtype.Kind]*mvKernel{
	dtype.IQ1_M: {1: mvLoadedIQ1M1, 2: mvLoadedIQ1M2, 4: mvLoadedIQ1M4, 8: mvLoadedIQ1M8},
	dtype.IQ2_S: {1: mvLoadedIQ2S1, 2: mvLoadedIQ2S2, 4: mvLoadedIQ2S4, 8: mvLoadedIQ2S8},
	dtype.IQ1_S: {1: mvLoadedIQ1S1, 2: mvLoadedIQ1S2, 4: mvLoadedIQ1S4, 8: mvLoadedIQ1S8},
}

// mvLoads reports whether loads are faster than gathers on this processor. It takes about 100 µs.
var mvLoads = sync.OnceValue(func() bool {
	const blocks, size = 256, 50
	t := mvFew[dtype.IQ1_S].table()
	w, x, y := make([]byte, blocks*size+mvAhead), make([]byte, 4*mvBlockFloats), make([]float32, blocks)
	for i := range w {
		w[i] = byte(i * 197 >> 3)
	}
	var best [2]time.Duration
	for range 8 {
		for i, f := range [2]mvFunc{mvFew[dtype.IQ1_S].kernel[1], mvLoaded[dtype.IQ1_S][1]} {
			began := time.Now()
			f(blocks, 4, &w[0], &x[0], &y[0], blocks, nil, nil, 0, 0, &t[0], 0, 0, nil, 0)
			if d := time.Since(began); best[i] == 0 || d < best[i] {
				best[i] = d
			}
		}
	}
	return best[1] < best[0]
})

// fewRow decodes elements of a row from a column on; false: the level has no decoder,
// or they are not what one takes at a time.
func fewRow(dst []float32, m *blocks.Raw, row, col int) bool {
	f, ok := mvFew[m.Type.Kind]
	if !ok || level.Current() < level.AVX512 {
		return false
	}
	in := m.Type.Kind.Info()
	step := max(in.Block, mvUnit)
	if len(dst) == 0 || len(dst)%step != 0 || col%step != 0 {
		return false
	}
	at := (row*m.Cols + col) / in.Block * in.Bytes
	src := m.Data[at : at+len(dst)/in.Block*in.Bytes]
	f.decode(len(dst)/step, &src[0], unsafe.SliceData(f.table()), &dst[0])
	return true
}

// mvGrid1 are the points that IQ1_S and IQ1_M share.
var mvGrid1 = mvGridOf(dtype.IQ1_S, 8, 16)

// mvGridOf are the points of a lattice, dims bytes each, zero above their values.
func mvGridOf(k dtype.Kind, dims int, zero uint8) func() []byte {
	return sync.OnceValue(func() (t []byte) {
		for _, p := range blocks.Grid(k) {
			for _, v := range p[:dims] {
				t = append(t, v+zero)
			}
		}
		return t
	})
}

// mvFP4Zero is what codes of E2M1 are raised by: twice the largest value.
const mvFP4Zero = 12

// mvFloatsOf are twice the 16 values of E2M1 and mvFP4Zero, bytes, and half of the
// number that each byte stands for as a scale of k, as f32.
func mvFloatsOf(k dtype.Kind) func() []byte {
	return sync.OnceValue(func() []byte {
		t := make([]byte, 16+4*256)
		for i, v := range blocks.E2M1Map() {
			t[i] = byte(int(2*v) + mvFP4Zero)
		}
		in := k.Info()
		m := blocks.Raw{Type: dtype.Of(k), Rows: 1, Cols: in.Block, Data: make([]byte, in.Bytes)}
		for i := range m.Data {
			m.Data[i] = 0x11 // the least value but 0, which is ½
		}
		x := make([]float32, in.Unit)
		for s := range 256 {
			m.Data[0] = byte(s)
			blocks.Decode(x, m, 0, 0, in.Unit)
			blocks.PutF32(t[16+4*s:], x[:1])
		}
		return t
	})
}
