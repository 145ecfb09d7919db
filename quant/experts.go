package quant

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// fewTokens is the number of calibration tokens below which an expert's inputs
// say less about it than its own weights do.
const fewTokens = 16

// roundExperts rounds the matrices of a stack one by one, each for the tokens
// that were sent to it: one that got few is rounded to nearest. The report is
// about the stack: the mean of relative errors, and how many fell back.
func roundExperts(l *layer, round func(*layer) (*matrixResult, error)) (*matrixResult, error) {
	n := len(l.in.experts)
	rows := l.rows / n
	out := &matrixResult{raw: block.New(l.typ, l.rows, l.cols)}
	rep := &out.report
	for e, in := range l.in.experts {
		own := *l
		own.path, own.w, own.rows, own.in = fmt.Sprintf("%s, expert %d", l.path, e), l.dev.Slice(l.w, e*rows*l.cols, rows*l.cols), rows, in
		turn := round
		if in.rows < fewTokens {
			turn = func(l *layer) (*matrixResult, error) {
				return fallback(l, fmt.Sprintf("%d tokens of the text are sent to it, %d are needed", in.rows, fewTokens))
			}
		}
		r, err := turn(&own)
		if err != nil {
			return nil, err
		}
		if err := stack(out.raw, r.raw, e); err != nil {
			return nil, fmt.Errorf("%s: %w", own.path, err)
		}
		if r.report.Fallback != "" {
			rep.Experts++
			rep.Fallback = r.report.Fallback
		}
		if r.report.Fallback == "" || rep.Method == "" {
			rep.Method = r.report.Method
		}
		rep.Error += r.report.Error
		rep.Relative += r.report.Relative / float64(n)
		rep.Weight += r.report.Weight * r.report.Weight / float64(n)
		rep.Damp = max(rep.Damp, r.report.Damp)
		rep.Dead += r.report.Dead
		rep.Clipped += r.report.Clipped
	}
	rep.Weight = math.Sqrt(rep.Weight)
	if rep.Experts > 0 {
		rep.Fallback = fmt.Sprintf("%d of %d experts; of the last, %s", rep.Experts, n, rep.Fallback)
	}
	return out, nil
}

// stack puts the matrix of expert e into a stack.
func stack(all, one block.Raw, e int) error {
	a, o := dtype.Planes(all.Type, all.Rows, all.Cols), dtype.Planes(one.Type, one.Rows, one.Cols)
	for i := range o {
		if one.Type != all.Type || a[i].Len*one.Rows != o[i].Len*all.Rows {
			return fmt.Errorf("%v cannot be put together from experts; choose another type or order", one.Type)
		}
		copy(all.Plane(i)[e*o[i].Len:], one.Plane(i))
	}
	return nil
}
