package cpu

import "github.com/tunekit/tunekit/kernels/dtype"

// mvExactRows is the most rows of x in a tile of the kernels here.
const mvExactRows = 4

// mvExact are the kernels for quantized weights and x as it is.
var mvExact = map[dtype.Kind]*mvKernel{
	dtype.Q4_0:    {1: mvExactQ401, 2: mvExactQ402, 4: mvExactQ404},
	dtype.Q4_1:    {1: mvExactQ411, 2: mvExactQ412, 4: mvExactQ414},
	dtype.Q5_0:    {1: mvExactQ501, 2: mvExactQ502, 4: mvExactQ504},
	dtype.Q5_1:    {1: mvExactQ511, 2: mvExactQ512, 4: mvExactQ514},
	dtype.Q8_0:    {1: mvExactQ801, 2: mvExactQ802, 4: mvExactQ804},
	dtype.IQ4_NL:  {1: mvExactIQ41, 2: mvExactIQ42, 4: mvExactIQ44},
	dtype.Q2_K:    {1: mvExactQ2K1, 2: mvExactQ2K2, 4: mvExactQ2K4},
	dtype.Q3_K:    {1: mvExactQ3K1, 2: mvExactQ3K2, 4: mvExactQ3K4},
	dtype.Q4_K:    {1: mvExactQ4K1, 2: mvExactQ4K2, 4: mvExactQ4K4},
	dtype.Q5_K:    {1: mvExactQ5K1, 2: mvExactQ5K2, 4: mvExactQ5K4},
	dtype.Q6_K:    {1: mvExactQ6K1, 2: mvExactQ6K2, 4: mvExactQ6K4},
	dtype.IQ4_XS:  {1: mvExactIQ4XS1, 2: mvExactIQ4XS2, 4: mvExactIQ4XS4},
	dtype.IQ3_S:   {1: mvExactIQ3S1, 2: mvExactIQ3S2, 4: mvExactIQ3S4},
	dtype.IQ3_XXS: {1: mvExactIQ3XXS1, 2: mvExactIQ3XXS2, 4: mvExactIQ3XXS4},
	dtype.IQ2_S:   {1: mvExactIQ2S1, 2: mvExactIQ2S2, 4: mvExactIQ2S4},
	dtype.IQ2_XS:  {1: mvExactIQ2XS1, 2: mvExactIQ2XS2, 4: mvExactIQ2XS4},
	dtype.IQ2_XXS: {1: mvExactIQ2XXS1, 2: mvExactIQ2XXS2, 4: mvExactIQ2XXS4},
	dtype.IQ1_M:   {1: mvExactIQ1M1, 2: mvExactIQ1M2, 4: mvExactIQ1M4},
	dtype.IQ1_S:   {1: mvExactIQ1S1, 2: mvExactIQ1S2, 4: mvExactIQ1S4},
	dtype.TQ2_0:   {1: mvExactTQ201, 2: mvExactTQ202, 4: mvExactTQ204},
	dtype.TQ1_0:   {1: mvExactTQ101, 2: mvExactTQ102, 4: mvExactTQ104},
	dtype.Q2_0:    {1: mvExactQ201, 2: mvExactQ202, 4: mvExactQ204},
	dtype.Q1_0:    {1: mvExactQ101, 2: mvExactQ102, 4: mvExactQ104},
	dtype.MXFP4:   {1: mvExactMXFP41, 2: mvExactMXFP42, 4: mvExactMXFP44},
	dtype.NVFP4:   {1: mvExactNVFP41, 2: mvExactNVFP42, 4: mvExactNVFP44},
	dtype.NF4:     {1: mvExactHigh1, 2: mvExactHigh2, 4: mvExactHigh4},
	dtype.FP4:     {1: mvExactHigh1, 2: mvExactHigh2, 4: mvExactHigh4},
	dtype.Int2:    {1: mvExactBits21, 2: mvExactBits22, 4: mvExactBits24},
	dtype.Int3:    {1: mvExactBits31, 2: mvExactBits32, 4: mvExactBits34},
	dtype.Int4:    {1: mvExactLow1, 2: mvExactLow2, 4: mvExactLow4},
	dtype.Int8:    {1: mvExactBytes1, 2: mvExactBytes2, 4: mvExactBytes4},
}

// Numbers of the 16 values of four bits, where unitType.base has others.
var (
	baseMinus16 = [16]float32{-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1}
	baseBits2   = [16]float32{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}
	baseBits3   = [16]float32{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}
)

// exact sets the kernel of a quantized type for x as it is.
func (w *mvWeight) exact(u *unitType, row0 int) bool {
	kind := u.raw.Type.Kind
	w.kernel = mvExact[kind]
	if w.kernel == nil {
		return false
	}
	w.most, w.x = mvExactRows, mvRounding{floats: true}
	switch kind {
	case dtype.Q5_0:
		w.table = bytesOf(baseMinus16[:])
	case dtype.Int2:
		w.table = bytesOf(baseBits2[:])
	case dtype.Int3:
		w.table = bytesOf(baseBits3[:])
	case dtype.IQ4_XS:
		w.table = mvIQ4
	default:
		w.table = bytesOf(u.base[:])
		if f, ok := mvFew[kind]; ok {
			w.table = f.table()
		}
	}
	w.x.split = kind == dtype.Int4 || kind == dtype.NF4 || kind == dtype.FP4
	return w.codes(u, row0)
}

// mvSplit copies units of x, even columns first, to places step floats apart.
func mvSplit(dst []float32, step int, x []float32) {
	units := len(x) / mvUnit
	_ = dst[(units-1)*step+mvUnit-1]
	splitRow(units, &x[0], &dst[0], 4*step)
}
