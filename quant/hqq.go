package quant

import (
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// hqqMethod is half-quadratic quantization (Badri & Shaji 2023, Half-Quadratic
// Quantization of Large Machine Learning Models): every group's grid is fitted
// to the weights alone, so that few are far off and none pulls at the others.
var hqqMethod = Method{
	Name: "hqq", Title: "half-quadratic quantization, without calibration",
	Schemes: []string{"W4A16_ASYM", "W8A16_ASYM", "W3A16_ASYM", "W2A16_ASYM"},
	Formats: []string{formats.CompressedTensors, formats.GPTQ, formats.AWQ, formats.GPTQV2},
	round:   roundHQQ,
}

// The solver's constants are the reference's: the norm of the error, how far an
// error must reach before it counts as an outlier, and how that grows.
const (
	hqqNorm  = 0.7
	hqqBeta  = 10.0
	hqqKappa = 1.01
	hqqSteps = 20
)

// roundHQQ fits the grid of each group and takes the nearest codes on it.
func roundHQQ(l *layer) (*matrixResult, error) {
	all, err := l.values()
	if err != nil {
		return nil, err
	}
	m := block.New(l.typ, l.rows, l.cols)
	groups := l.typ.Groups(l.cols)
	size := (l.cols + groups - 1) / groups
	top := float32(int(1)<<l.typ.Bits() - 1)
	par.For(l.rows, 1, func(first, last int) {
		codes := make([]uint8, l.cols)
		scales, zeros := make([]float32, groups), make([]float32, groups)
		for r := first; r < last; r++ {
			row := all[r*l.cols:][:l.cols]
			for g := range groups {
				w := row[g*size : min((g+1)*size, l.cols)]
				scales[g], zeros[g] = fitGrid(w, l.typ)
				for i, v := range w {
					codes[g*size+i] = uint8(min(max(float32(math.RoundToEven(float64(v/scales[g])))+zeros[g], 0), top))
				}
			}
			block.SetInt(m, r, codes, scales, zeros)
		}
	})
	rep, err := measure(l, m)
	return &matrixResult{m, rep}, err
}

// fitGrid solves min Σ|w - s·(q-z)|^p by half-quadratic splitting: what the
// proximal operator of the norm takes for an outlier is put aside, and the grid
// is fitted to the rest by least squares. The reference moves z alone, as a real
// number; folders hold whole zero points, for which that gains nothing, so s is
// fitted as well. Errors count in steps of the grid: scaled weights give scaled
// grids. It stops when the error no longer falls.
func fitGrid(w []float32, t dtype.Type) (scale, zero float32) {
	lo, hi := float32(0), float32(0)
	for _, v := range w {
		lo, hi = min(lo, v), max(hi, v)
	}
	s, z := block.IntGrid(t, lo, hi)
	top := float64(int(1)<<t.Bits() - 1)
	codes, rest := make([]float64, len(w)), make([]float64, len(w)) // rest: weights without outliers, in steps
	best, beta := math.Inf(1), hqqBeta
	for range hqqSteps {
		sum, shift := 0.0, 0.0
		for i, v := range w {
			x := float64(v) / float64(s)
			codes[i] = min(max(math.RoundToEven(x)+float64(z), 0), top)
			e := x - (codes[i] - float64(z))
			far := math.Pow(math.Abs(e), hqqNorm)
			sum += far
			rest[i] = x
			if out := math.Abs(e) - far/math.Abs(e)/beta; out > 0 {
				rest[i] = x - math.Copysign(out, e)
			}
			shift += codes[i] - rest[i]
		}
		if sum *= math.Pow(float64(s), hqqNorm); sum >= best {
			break
		}
		best, scale, zero = sum, s, z
		z = float32(min(max(math.RoundToEven(shift/float64(len(w))), 0), top))
		num, den := 0.0, 0.0
		for i, q := range codes {
			q -= float64(z)
			num += float64(rest[i] * q)
			den += float64(q * q)
		}
		if s = block.RoundScale(t.Scale, float32(float64(s)*num/den)); !(s > 0) {
			break
		}
		beta *= hqqKappa
	}
	return scale, zero
}
