package cpu

import (
	"sync"

	blocks "github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// mvFew are the kernels of types of few bits for x rounded to 8 bits, and the tables
// that these and those for x as it is look up, made of package block's own values at
// first use.
var mvFew = map[dtype.Kind]struct {
	kernel *mvKernel
	x      mvRounding
	table  func() []byte
}{
	dtype.IQ3_S:   {&mvKernel{1: mvIQ3S1, 2: mvIQ3S2, 4: mvIQ3S4, 8: mvIQ3S8}, mvBlocks, mvGridOf(dtype.IQ3_S, 4, 64)},
	dtype.IQ3_XXS: {&mvKernel{1: mvIQ3XXS1, 2: mvIQ3XXS2, 4: mvIQ3XXS4, 8: mvIQ3XXS8}, mvBlocks, mvGridOf(dtype.IQ3_XXS, 4, 64)},
	dtype.IQ2_S:   {&mvKernel{1: mvIQ2S1, 2: mvIQ2S2, 4: mvIQ2S4, 8: mvIQ2S8}, mvBlocks, mvGridOf(dtype.IQ2_S, 8, 64)},
	dtype.IQ2_XS:  {&mvKernel{1: mvIQ2XS1, 2: mvIQ2XS2, 4: mvIQ2XS4, 8: mvIQ2XS8}, mvBlocks, mvGridOf(dtype.IQ2_XS, 8, 64)},
	dtype.IQ2_XXS: {&mvKernel{1: mvIQ2XXS1, 2: mvIQ2XXS2, 4: mvIQ2XXS4, 8: mvIQ2XXS8}, mvBlocks, mvGridOf(dtype.IQ2_XXS, 8, 64)},
	dtype.IQ1_M:   {&mvKernel{1: mvIQ1M1, 2: mvIQ1M2, 4: mvIQ1M4, 8: mvIQ1M8}, mvBlocks, mvGrid1},
	dtype.IQ1_S:   {&mvKernel{1: mvIQ1S1, 2: mvIQ1S2, 4: mvIQ1S4, 8: mvIQ1S8}, mvBlocks, mvGrid1},
	dtype.TQ2_0:   {&mvKernel{1: mvTQ201, 2: mvTQ202, 4: mvTQ204, 8: mvTQ208}, mvBlocks, mvNoTable},
	dtype.TQ1_0:   {&mvKernel{1: mvTQ101, 2: mvTQ102, 4: mvTQ104, 8: mvTQ108}, mvBlocks, mvNoTable},
	dtype.Q2_0:    {&mvKernel{1: mvQ201, 2: mvQ202, 4: mvQ204, 8: mvQ208}, mvRounding{offset: 1, factor: 1}, mvNoTable},
	dtype.Q1_0:    {&mvKernel{1: mvQ101, 2: mvQ102, 4: mvQ104, 8: mvQ108}, mvRounding{offset: 1, factor: 1}, mvNoTable},
	dtype.MXFP4:   {&mvKernel{1: mvMXFP41, 2: mvMXFP42, 4: mvMXFP44, 8: mvMXFP48}, mvRounding{offset: mvFP4Zero, factor: 1}, mvFloatsOf(dtype.MXFP4)},
	dtype.NVFP4:   {&mvKernel{1: mvNVFP41, 2: mvNVFP42, 4: mvNVFP44, 8: mvNVFP48}, mvRounding{offset: mvFP4Zero, factor: 1}, mvFloatsOf(dtype.NVFP4)},
}

// mvBlocks is the rounding of x for blocks of 256.
var mvBlocks = mvRounding{k: true, factor: 1}

func mvNoTable() []byte { return nil }

// few sets the kernel of a type of few bits for x rounded to 8 bits.
func (w *mvWeight) few(k dtype.Kind) bool {
	f, ok := mvFew[k]
	if !ok {
		return false
	}
	w.kernel, w.x, w.table = f.kernel, f.x, f.table()
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
