package cpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// ColStats reduces the columns of every group of rows. Rows are summed in parts
// of a size that depends on the shape, and the parts in order.
func (c *CPU) ColStats(out kernels.Dst, a *kernels.ColStatsArgs) {
	if out.Skip() {
		return
	}
	rows, cols := groupRows("colstats", a.Groups, a.Rows), a.Cols
	want("colstats: out", out.Buffer, len(rows)*cols)
	want("colstats: x", a.X, a.Rows*cols)
	d, x := f32(out.Buffer), f32(a.X)
	for i, r := range rows {
		c.colStats(d[i*cols:][:cols], out.Add, x[r[0]*cols:r[1]*cols], r[1]-r[0], cols, a.Stat)
	}
}

func (c *CPU) colStats(dst []float32, into bool, xs []float32, rows, cols int, s kernels.Stat) {
	add, start := colStat(s)
	per, parts := normParts(rows, cols)
	sums := c.scratch.take(parts * cols)
	defer c.scratch.give(sums)
	par.For(rows, per, func(lo, hi int) {
		acc := sums[lo/per*cols : (lo/per+1)*cols]
		setEach(acc, start)
		for i := lo; i < hi; i++ {
			add(acc, xs[i*cols:(i+1)*cols])
		}
	})
	if s == kernels.SumSq || s == kernels.SumAbs {
		foldParts(dst, into, sums, parts, cols, 0)
		return
	}
	if !into {
		setEach(dst, start)
	}
	for p := range parts {
		add(dst, sums[p*cols:(p+1)*cols])
	}
}

// colStat is how a row enters a statistic of columns, and what there is before.
func colStat(s kernels.Stat) (add func(y, x []float32), start float32) {
	switch s {
	case kernels.SumSq:
		return vec.AddSq, 0
	case kernels.SumAbs:
		return vec.AddAbs, 0
	case kernels.MaxAbs:
		return vec.MaxAbs, 0
	case kernels.Max:
		return maxInto, float32(math.Inf(-1))
	case kernels.Min:
		return minInto, float32(math.Inf(1))
	}
	panic(fmt.Sprintf("cpu: colstats: no statistic %d", s))
}

func maxInto(y, x []float32) {
	for i, v := range x {
		y[i] = max(y[i], v)
	}
}

func minInto(y, x []float32) {
	for i, v := range x {
		y[i] = min(y[i], v)
	}
}

func setEach(y []float32, v float32) {
	for i := range y {
		y[i] = v
	}
}

// RowStats reduces runs of columns.
func (c *CPU) RowStats(out kernels.Dst, a *kernels.RowStatsArgs) {
	if out.Skip() {
		return
	}
	n, run := a.Rows*a.Runs(), a.Run
	if run == 0 {
		run = a.Cols
	}
	if run*a.Runs() != a.Cols {
		panic(fmt.Sprintf("cpu: rowstats: runs of %d in rows of %d", run, a.Cols))
	}
	want("rowstats: out", out.Buffer, n)
	want("rowstats: x", a.X, n*run)
	want("rowstats: y", a.Y, n*run)
	x, y := f32(a.X), f32(a.Y)
	store := rowStore(out, a.Stat)
	par.For(n, rowGrain(run), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			store(i, rowStat(a.Stat, x[i*run:(i+1)*run], part(y, i*run, (i+1)*run)))
		}
	})
}

// rowStore puts the statistic of a run where it belongs.
func rowStore(out kernels.Dst, s kernels.Stat) func(i int, v float64) {
	if out.Type().Kind == dtype.F64 {
		d := elems[float64](out.Buffer, dtype.F64)
		return func(i int, v float64) {
			if out.Add {
				v += d[i]
			}
			d[i] = v
		}
	}
	d := f32(out.Buffer)
	return func(i int, v float64) {
		x := float32(v)
		switch {
		case !out.Add:
		case s == kernels.MaxAbs || s == kernels.Max:
			x = max(x, d[i])
		case s == kernels.Min:
			x = min(x, d[i])
		default:
			x += d[i]
		}
		d[i] = x
	}
}

func rowStat(s kernels.Stat, x, y []float32) float64 {
	sum, top := 0.0, float32(0)
	switch s {
	case kernels.SumSq:
		return float64(vec.Dot(x, x))
	case kernels.SumAbs:
		for _, v := range x {
			sum += math.Abs(float64(v))
		}
	case kernels.SumXY:
		for i, v := range x {
			sum += float64(v) * float64(y[i])
		}
	case kernels.SumDiff:
		for i, v := range x {
			d := float64(v) - float64(y[i])
			sum += float64(d * d)
		}
	case kernels.MaxAbs:
		for _, v := range x {
			top = max(top, v, -v)
		}
		return float64(top)
	case kernels.Max:
		return float64(slices.Max(x))
	case kernels.Min:
		return float64(slices.Min(x))
	default:
		panic(fmt.Sprintf("cpu: rowstats: no statistic %d", s))
	}
	return sum
}

// Sum is Σ(a-b)², b nil Σa², in float64: chunks of elemGrain, added in order.
func (c *CPU) Sum(out kernels.Dst, a, b kernels.Buffer, n int) {
	if out.Skip() {
		return
	}
	want("sum: out", out.Buffer, 1)
	want("sum: a", a, n)
	want("sum: b", b, n)
	x, z := f32(a), f32(b)
	sums := make([]float64, (n+elemGrain-1)/elemGrain)
	par.For(n, elemGrain, func(lo, hi int) {
		sums[lo/elemGrain] = vec.SumSq64(x[lo:hi], part(z, lo, hi))
	})
	var total float64
	for _, s := range sums {
		total += s
	}
	dst := f32(out.Buffer)
	if out.Add {
		total += float64(dst[0])
	}
	dst[0] = float32(total)
}

// LogitStats compares rows of logits with reference rows: the divergence
// KL(ref ‖ logits) in nats, and whether the first largest element is the same.
func (c *CPU) LogitStats(kl, top1 kernels.Dst, a *kernels.LogitStatsArgs) {
	n, v := a.N, a.V
	want("logitstats: logits", a.Logits, n*v)
	want("logitstats: ref", a.Ref, n*v)
	want("logitstats: kl", kl.Buffer, n)
	want("logitstats: top1", top1.Buffer, n)
	l, r, kd, td := f32(a.Logits), f32(a.Ref), f32(kl.Buffer), f32(top1.Buffer)
	par.For(n, max(1, rowGrain(v)/4), func(lo, hi int) {
		tmp := c.scratch.take(v)
		defer c.scratch.give(tmp)
		for i := lo; i < hi; i++ {
			x, y := l[i*v:(i+1)*v], r[i*v:(i+1)*v]
			if kd != nil {
				set(kd, i, float32(divergence(x, y, tmp)), kl.Add)
			}
			if td != nil {
				same := float32(0)
				if argmax(x) == argmax(y) {
					same = 1
				}
				set(td, i, same, top1.Add)
			}
		}
	})
}

func set(d []float32, i int, v float32, add bool) {
	if add {
		v += d[i]
	}
	d[i] = v
}

// divergence is Σ p·(ref - x) - (lse(ref) - lse(x)) with p = softmax(ref): the
// differences are taken before they are weighed, so that close rows keep
// their digits.
func divergence(x, ref, tmp []float32) float64 {
	lx := logSum(x, tmp)
	m := vec.Max(ref)
	vec.ExpSum(tmp, ref, 1, m)
	sum := vec.Sum64(tmp)
	return max(0, vec.DotDiff64(tmp, ref, x)/sum-(float64(m)+math.Log(sum)-lx))
}

// logSum is log Σ exp(x), summed in float64.
func logSum(x, tmp []float32) float64 {
	m := vec.Max(x)
	vec.ExpSum(tmp, x, 1, m)
	return float64(m) + math.Log(vec.Sum64(tmp))
}

// argmax is the lowest index of the largest element.
func argmax(x []float32) int {
	_, first := largestOf(x)
	return int(first)
}
