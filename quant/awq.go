package quant

import (
	"math"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// awqMethod is AWQ (Lin et al. 2023, arXiv:2306.00978): scales for the columns
// of layers that share an input, searched on the block's own outputs, then
// ranges cut where that helps, then the nearest codes.
var awqMethod = Method{
	Name: "awq", Title: "AWQ, calibrated (arXiv 2306.00978)",
	Schemes: []string{"W4A16_ASYM", "W4A16"}, Formats: []string{formats.AWQ, formats.CompressedTensors},
	searches: needHessian | needColumns | needInputs, search: searchAWQ,
	searchWork: func(tokens, in, out float64) float64 { return 16 * tokens * in * out }, // on the block's outputs
	needs:      needHessian, round: roundAWQ,
}

// roundAWQ cuts ranges and rounds to nearest. Queries and keys are not cut:
// their product is what matters (AutoAWQ).
func roundAWQ(l *layer) (*matrixResult, error) {
	if l.role == arch.Q || l.role == arch.K || l.role == arch.QKV {
		return l.encode(l.w)
	}
	s := scratch{dev: l.dev}
	defer s.free()
	clip, cut, err := clipRanges(l, l.in.h.buf)
	if err != nil {
		return nil, err
	}
	limits, v := s.up(clip), s.alloc(dtype.F32, l.rows*l.cols)
	if s.err != nil {
		return nil, s.err
	}
	plain := dtype.Type{Kind: dtype.F32, Group: int32(l.group())} // cut by group and not rounded
	l.dev.FakeQuant(kernels.To(v), &kernels.FakeQuantArgs{Type: plain, Rows: l.rows, Cols: l.cols, X: l.w, Clip: limits})
	r, err := l.encode(v)
	if err == nil {
		r.report.Clipped = cut
	}
	return r, err
}

// group is the number of columns that share a scale.
func (l *layer) group() int {
	if l.typ.Group > 0 {
		return int(l.typ.Group)
	}
	return l.cols
}

// awqRatios is how many exponents the search for scales tries: 0, 1/20 … 19/20.
const awqRatios = 20

// awqScales are the factors of the input columns for one exponent (Lin et al.
// 2023, arXiv:2306.00978, section 3.2, in AutoAWQ's form with duo scaling):
// s = mean|x|^r / mean|w|^(1-r), scaled to √(max·min) = 1. wMean nil leaves the
// weights out. Inputs that were always zero get the smallest factor.
func awqScales(ratio float64, xMean, wMean []float32) []float32 {
	s := make([]float32, len(xMean))
	lo, hi := math.Inf(1), 0.0
	for c, x := range xMean {
		if x == 0 {
			continue
		}
		v := math.Pow(float64(x), ratio)
		if wMean != nil {
			v /= math.Pow(float64(wMean[c]), 1-ratio) + 1e-4
		}
		v = max(v, 1e-4)
		lo, hi = min(lo, v), max(hi, v)
		s[c] = float32(v)
	}
	if hi == 0 {
		lo, hi = 1, 1
	}
	norm := math.Sqrt(lo * hi)
	for c := range s {
		if s[c] == 0 {
			s[c] = float32(lo)
		}
		s[c] = float32(float64(s[c]) / norm)
	}
	return s
}

// means are those of |w| relative to the largest of its group, by column, over
// the rows of matrices.
type means struct {
	sum  []float64
	rows int
}

func newMeans(cols int) *means { return &means{sum: make([]float64, cols)} }

// add takes rows w with groups of group columns, below 1: whole rows.
func (m *means) add(w []float32, group int) {
	cols := len(m.sum)
	if group <= 0 {
		group = cols
	}
	m.rows += len(w) / cols
	for at := 0; at < len(w); at += group {
		g, c := w[at:at+group], at%cols
		top := float32(0)
		for _, v := range g {
			top = max(top, v, -v)
		}
		top += 1e-6
		for j, v := range g {
			m.sum[c+j] += math.Abs(float64(v / top))
		}
	}
}

func (m *means) values() []float32 {
	out := make([]float32, len(m.sum))
	for c, v := range m.sum {
		out[c] = float32(v / float64(m.rows))
	}
	return out
}

// clipSteps of clipGrid: ranges from whole to just above half are tried.
const clipSteps, clipGrid = 10, 20

// clipRanges finds the largest magnitude to keep in each group of the layer's
// weights so that the group's output changes least on inputs with gram = XᵀX
// [cols, cols] (AutoAWQ's search, which looks at each group alone). The result
// is [rows·groups], and how many groups lost some of their range.
func clipRanges(l *layer, gram kernels.Buffer) (clip []float32, cut int, err error) {
	s := scratch{dev: l.dev}
	defer s.free()
	size := l.group()
	groups := l.cols / size
	tops, clip := make([]float32, l.rows*groups), make([]float32, l.rows*groups)
	out := s.alloc(dtype.F32, len(tops))
	if s.err != nil {
		return nil, 0, s.err
	}
	l.dev.RowStats(kernels.To(out), &kernels.RowStatsArgs{Stat: kernels.MaxAbs, Rows: l.rows, Cols: l.cols, Run: size, X: l.w})
	if err := down(l.dev, tops, out); err != nil {
		return nil, 0, err
	}
	for g := range groups {
		if err := clipGroup(l, gram, g, tops, clip); err != nil {
			return nil, 0, err
		}
	}
	for i, c := range clip {
		if c < tops[i] {
			cut++
		}
	}
	return clip, cut, nil
}

// clipGroup fills clip for group g of every row.
func clipGroup(l *layer, gram kernels.Buffer, g int, tops, clip []float32) error {
	dev, rows, size := l.dev, l.rows, l.group()
	groups := l.cols / size
	s := scratch{dev: dev}
	defer s.free()
	own, gg := s.alloc(dtype.F32, rows*size), s.alloc(dtype.F32, size*size)
	d, y, limit, e := s.alloc(dtype.F32, rows*size), s.alloc(dtype.F32, rows*size), s.alloc(dtype.F32, rows), s.alloc(dtype.F64, rows)
	if s.err != nil {
		return s.err
	}
	columns(dev, own, l.w, g*size, l.cols, rows, size)
	columns(dev, gg, gram, g*size*l.cols+g*size, l.cols, size, size)
	typ := l.typ
	typ.Group = int32(size)
	keep, off, best := make([]float32, rows), make([]float64, rows), make([]float64, rows)
	for step := range clipSteps {
		for r := range keep {
			keep[r] = tops[r*groups+g] * (1 - float32(step)/clipGrid)
		}
		dev.Upload(limit, kernels.Bytes(keep))
		dev.FakeQuant(kernels.To(d), &kernels.FakeQuantArgs{Type: typ, Rows: rows, Cols: size, X: own, Clip: limit})
		subtract(dev, d, own, rows*size)
		dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: d, B: gg, M: rows, N: size, K: size, Alpha: 1})
		dev.RowStats(kernels.To(e), &kernels.RowStatsArgs{Stat: kernels.SumXY, Rows: rows, Cols: size, X: y, Y: d})
		if err := dev.Download(kernels.Bytes(off), e); err != nil {
			return err
		}
		for r, v := range off {
			if step == 0 || v < best[r] {
				best[r], clip[r*groups+g] = v, keep[r]
			}
		}
	}
	return nil
}
