package quant

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
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
	v, cut := l.w, 0
	if l.role != arch.Q && l.role != arch.K {
		gram, err := l.in.h.host()
		if err != nil {
			return nil, err
		}
		clip, n, err := clipRanges(l.in.dev, l.w, gram, l.cols, l.typ)
		if err != nil {
			return nil, err
		}
		v, cut = append([]float32(nil), l.w...), n
		size := len(v) / len(clip)
		for g, limit := range clip {
			clamp(v[g*size:(g+1)*size], limit)
		}
	}
	m := block.New(l.typ, l.rows, l.cols)
	if err := block.Encode(m, v, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	rep, err := measure(l.in.h, l.w, m)
	rep.Clipped = cut
	return &matrixResult{m, rep}, err
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

// weightMeans is the mean over all rows of the matrices of |w| relative to the
// largest of its group, [cols]. groups are the matrices' group sizes, -1 for
// whole rows.
func weightMeans(ws [][]float32, cols int, groups []int) []float32 {
	sum, rows := make([]float64, cols), 0
	for i, w := range ws {
		group := groups[i]
		if group <= 0 {
			group = cols
		}
		rows += len(w) / cols
		for at := 0; at < len(w); at += group {
			g, c := w[at:at+group], at%cols
			top := float32(0)
			for _, v := range g {
				top = max(top, v, -v)
			}
			top += 1e-6
			for j, v := range g {
				sum[c+j] += math.Abs(float64(v / top))
			}
		}
	}
	out := make([]float32, cols)
	for c, v := range sum {
		out[c] = float32(v / float64(rows))
	}
	return out
}

// fakeQuant writes Q(w·s)/s for w [rows, cols], rounded to nearest on the grid
// of t. s nil is all ones; clip [rows·groups] bounds |w·s| in each group, nil: none.
func fakeQuant(dst, w, s, clip []float32, cols int, t dtype.Type) {
	group := int(t.Group)
	if group <= 0 {
		group = cols
	}
	ones := make([]float32, group)
	for j := range ones {
		ones[j] = 1
	}
	par.For(len(w)/group, max(1, reduceGrain/group), func(first, last int) {
		for g := first; g < last; g++ {
			at, by, limit := g*group, ones, float32(math.Inf(1))
			if s != nil {
				by = s[at%cols:][:group]
			}
			if clip != nil {
				limit = clip[g]
			}
			block.FakeInt(dst[at:at+group], w[at:at+group], by, limit, t)
		}
	})
}

func clamp(v []float32, limit float32) {
	for j, x := range v {
		v[j] = min(max(x, -limit), limit)
	}
}

// clipSteps of clipGrid: ranges from whole to just above half are tried.
const clipSteps, clipGrid = 10, 20

// clipRanges finds the largest magnitude to keep in each group of w [rows,
// cols] so that the group's output changes least on inputs with gram = XᵀX
// [cols, cols] (AutoAWQ's search, which looks at each group alone). The result
// is [rows·groups], and how many groups lost some of their range.
func clipRanges(dev kernels.Backend, w, gram []float32, cols int, t dtype.Type) (clip []float32, cut int, err error) {
	group := int(t.Group)
	if group <= 0 {
		group = cols
	}
	rows, groups := len(w)/cols, cols/group
	clip = make([]float32, rows*groups)
	for g := range groups {
		if err := clipGroup(dev, clip, w, gram, cols, g, t); err != nil {
			return nil, 0, err
		}
	}
	for i, c := range clip {
		top := float32(0)
		for _, v := range w[i*group : (i+1)*group] {
			top = max(top, v, -v)
		}
		if c < top {
			cut++
		}
	}
	return clip, cut, nil
}

// clipGroup fills clip for group g of every row.
func clipGroup(dev kernels.Backend, clip, w, gram []float32, cols, g int, t dtype.Type) error {
	size := int(t.Group)
	if size <= 0 {
		size = cols
	}
	rows, groups := len(w)/cols, cols/size
	own := make([]float32, rows*size) // this group of every row
	tops := make([]float32, rows)
	grain := max(1, reduceGrain/size)
	par.For(rows, grain, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			part := w[r*cols+g*size:][:size]
			copy(own[r*size:], part)
			for _, v := range part {
				tops[r] = max(tops[r], v, -v)
			}
		}
	})
	gg := make([]float32, size*size)
	for i := range size {
		copy(gg[i*size:], gram[(g*size+i)*cols+g*size:][:size])
	}
	s := scratch{dev: dev}
	defer s.free()
	gb, d, y := s.up(gg), s.alloc(dtype.F32, rows*size), s.alloc(dtype.F32, rows*size)
	if s.err != nil {
		return s.err
	}
	t.Group = int32(size)
	limit, diff, out := make([]float32, rows), make([]float32, rows*size), make([]float32, rows*size)
	best := make([]float64, rows)
	for step := range clipSteps {
		for r, top := range tops {
			limit[r] = top * (1 - float32(step)/clipGrid)
		}
		fakeQuant(diff, own, nil, limit, size, t)
		minus(diff, own)
		dev.Upload(d, f32Bytes(diff))
		dev.Gemm(kernels.To(y), &kernels.GemmArgs{A: d, B: gb, M: rows, N: size, K: size, Alpha: 1})
		if err := down(dev, out, y); err != nil {
			return err
		}
		par.For(rows, grain, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				e := 0.0
				for j, v := range out[r*size : (r+1)*size] {
					e += float64(v) * float64(diff[r*size+j])
				}
				if step == 0 || e < best[r] {
					best[r], clip[r*groups+g] = e, limit[r]
				}
			}
		})
	}
	return nil
}

// minus takes b from a.
func minus(a, b []float32) {
	par.For(len(a), reduceGrain, func(lo, hi int) {
		x := a[lo:hi]
		for i, v := range b[lo:hi] {
			x[i] -= v
		}
	})
}

// unscale divides rows and columns of gram [n,n] by s: the inputs' after they
// were divided.
func unscale(gram, s []float32) {
	n := len(s)
	par.For(n, max(1, reduceGrain/n), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for j, v := range s {
				gram[i*n+j] /= s[i] * v
			}
		}
	})
}
