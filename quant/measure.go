package quant

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// measure compares a quantized matrix with what it stands for: on the layer's
// inputs where they are known, else the weights alone. It refuses what is not
// finite, such as the scales of weights near the end of float32.
func measure(l *layer, m block.Raw) (rep LayerReport, err error) {
	s := scratch{dev: l.dev}
	defer s.free()
	n := l.rows * l.cols
	d, w := s.alloc(dtype.F32, n), s.load(m)
	if s.err != nil {
		return rep, s.err
	}
	l.dev.Dequantize(d, w)
	off, err := s.sum(kernels.SumDiff, d, l.w, n)
	if err != nil {
		return rep, err
	}
	all, err := s.sum(kernels.SumXY, l.w, l.w, n)
	if err != nil {
		return rep, err
	}
	rep.Weight = ratio(math.Sqrt(off), math.Sqrt(all))
	if h := l.in.hessian(); h != nil {
		subtract(l.dev, d, l.w, n)
		if off, err = h.energy(d, l.rows); err == nil {
			all, err = h.energy(l.w, l.rows)
		}
	}
	rep.Error, rep.Relative = off, ratio(off, all)
	if x := rep.Error + rep.Relative + rep.Weight; err == nil && x-x != 0 {
		return rep, fail.Inputf(l.path, "leave this matrix out with ignore; tune verify looks at the whole model", "stored as %v it would not be finite: its weights or inputs are too large", l.typ)
	}
	return rep, err
}

// ratio is a/b, 0 for nothing out of nothing.
func ratio(a, b float64) float64 {
	if a == 0 {
		return 0
	}
	return a / b
}

// check refuses weights that are not finite and those whose scales the type
// cannot hold.
func (l *layer) check() error {
	s := scratch{dev: l.dev}
	defer s.free()
	tops := s.alloc(dtype.F32, l.rows)
	if s.err != nil || l.rows == 0 {
		return s.err
	}
	l.dev.RowStats(kernels.To(tops), &kernels.RowStatsArgs{Stat: kernels.MaxAbs, Rows: l.rows, Cols: l.cols, X: l.w})
	v := make([]float32, l.rows)
	if err := down(l.dev, v, tops); err != nil {
		return err
	}
	if r := slices.IndexFunc(v, func(x float32) bool { return x-x != 0 }); r >= 0 {
		row := make([]float32, l.cols)
		if err := down(l.dev, row, l.dev.Slice(l.w, r*l.cols, l.cols)); err != nil {
			return err
		}
		return formats.CheckFinite(l.path, row, r, l.cols)
	}
	if l.typ.Scale == dtype.F16 && l.typ.Kind.Info().Family == dtype.Int && slices.Max(v) > 32000 {
		return fail.Inputf(l.path, "leave this matrix out with ignore, or choose nf4", "the largest weight is %g: too large for scales of 16 bits", slices.Max(v))
	}
	return nil
}

// values downloads the layer's weights.
func (l *layer) values() ([]float32, error) {
	w := make([]float32, l.rows*l.cols)
	return w, down(l.dev, w, l.w)
}
