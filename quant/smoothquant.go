package quant

import (
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// smoothMethod is SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): columns whose
// inputs have large peaks hand a part of them to the weights, so that 8 bits are
// enough for both. Its search goes before any rounding.
var smoothMethod = Method{
	Name: "smoothquant", Title: "SmoothQuant, calibrated (arXiv 2211.10438)",
	Schemes: []string{"W8A8", "FP8_DYNAMIC"}, Formats: []string{formats.CompressedTensors},
	searches: needPeaks, search: searchSmooth,
	searchWork: func(tokens, in, out float64) float64 { return 2 * tokens * in * out },
	round:      roundNearest,
}

// smoothStrength is the share of the peaks, as an exponent, that moves to the
// weights: the paper's and llm-compressor's.
const smoothStrength = 0.5

// searchSmooth chooses the scales of layers behind a norm:
// max|x|^strength / max|w|^(1-strength) for each column.
func searchSmooth(r *blockRun, g *group) error {
	if g.pair.Norm == nil {
		return nil
	}
	weights := make([]float32, g.in.cols)
	inputs := make([]float32, g.in.cols)
	err := r.dev.Run(func() error {
		s := scratch{dev: r.dev}
		defer s.free()
		peaks := s.alloc(dtype.F32, g.in.cols)
		if s.err != nil {
			return s.err
		}
		for i, l := range g.linears {
			r.dev.ColStats(kernels.Dst{Buffer: peaks, Add: i > 0}, &kernels.ColStatsArgs{Stat: kernels.MaxAbs, Rows: l.W.Rows, Cols: l.W.Cols, X: r.w[l]})
		}
		if err := down(r.dev, weights, peaks); err != nil {
			return err
		}
		return down(r.dev, inputs, g.in.peaks)
	})
	g.scales = smoothScales(inputs, weights)
	return err
}

// smoothScales are the factors of columns with these peaks; a column whose
// inputs or weights are all zero keeps its own.
func smoothScales(inputs, weights []float32) []float32 {
	s := make([]float32, len(inputs))
	for c, x := range inputs {
		s[c] = 1
		if w := weights[c]; x > 0 && w > 0 {
			s[c] = float32(max(math.Pow(float64(x), smoothStrength)/math.Pow(float64(w), 1-smoothStrength), 1e-5))
		}
	}
	return s
}
