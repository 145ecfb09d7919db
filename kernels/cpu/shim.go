package cpu

func maxSumExp(z []float32) (float32, float64)    { return maxSumExpGeneric(z) }
func scaledExp(z []float32, shift, scale float32) { scaledExpGeneric(z, shift, scale) }
func subScaled(y, x []float32, a float32)         { subScaledGeneric(y, x, a) }
