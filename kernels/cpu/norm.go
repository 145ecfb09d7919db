package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// norm is one call's operands as slices.
type norm struct {
	*kernels.NormArgs
	x, res, w, bias, stats []float32
}

func newNorm(a *kernels.NormArgs, stats kernels.Buffer) *norm {
	n := a.N * a.C
	want("norm: x", a.X, n)
	want("norm: res", a.Res, n)
	want("norm: w", a.W, a.C)
	want("norm: bias", a.Bias, a.C)
	want("norm: stats", stats, a.N*statsLen(a.Kind))
	return &norm{a, f32(a.X), f32(a.Res), f32(a.W), f32(a.Bias), f32(stats)}
}

// statsLen is the number of statistics a row.
func statsLen(k kernels.NormKind) int {
	if k == kernels.LayerNorm {
		return 2
	}
	return 1
}

// Norm normalises rows (RMSNorm: Zhang, Sennrich 2019, arXiv:1910.07467;
// LayerNorm: Ba et al. 2016, arXiv:1607.06450). Statistics are 1/√(mean x²+Eps),
// or the mean and 1/σ; stats nil: not kept.
func (c *CPU) Norm(y, sum kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) {
	m := newNorm(a, stats)
	want("norm: y", y.Buffer, a.N*a.C)
	want("norm: sum", sum.Buffer, a.N*a.C)
	yd, sd := plainOf(y.Buffer), f32(sum.Buffer)
	par.For(a.N, rowGrain(a.C), func(lo, hi int) {
		tmp := c.scratch.take(3 * a.C)
		defer c.scratch.give(tmp)
		s, out, extra := tmp[:a.C], tmp[a.C:2*a.C], tmp[2*a.C:]
		for i := lo; i < hi; i++ {
			row := m.input(i, s)
			if sd != nil {
				store(sd[i*a.C:(i+1)*a.C], row, sum.Add)
			}
			centred, r := m.measure(i, row, out)
			switch {
			case yd.absent():
			case y.Add:
				m.apply(out, centred, r)
				yd.store(out, i*a.C, true, extra)
			default:
				dst := yd.into(out, i*a.C)
				m.apply(dst, centred, r)
				yd.put(dst, i*a.C)
			}
		}
	})
}

// input is row i of what is normalised: X, or Res + Alpha·X in s.
func (m *norm) input(i int, s []float32) []float32 {
	x := m.x[i*m.C : (i+1)*m.C]
	if m.res == nil {
		return x
	}
	vec.Lin2(s, 1, m.res[i*m.C:(i+1)*m.C], m.Alpha, x)
	return s
}

// measure computes the statistics of a row and keeps them. It returns 1/σ and
// what that scales: the row, or the row less its mean in tmp.
func (m *norm) measure(i int, row, tmp []float32) (centred []float32, r float32) {
	n := float64(m.C)
	if m.Kind == kernels.RMSNorm {
		r = float32(1 / math.Sqrt(float64(vec.Dot(row, row))/n+float64(m.Eps)))
		if m.stats != nil {
			m.stats[i] = r
		}
		return row, r
	}
	mean := float32(vec.Sum64(row) / n)
	vec.Shift(tmp, row, -mean)
	r = float32(1 / math.Sqrt(vec.SumSq64(tmp, nil)/n+float64(m.Eps)))
	if m.stats != nil {
		m.stats[2*i], m.stats[2*i+1] = mean, r
	}
	return tmp, r
}

// apply writes the normalised row. y may be centred.
func (m *norm) apply(y, centred []float32, r float32) {
	vec.MulScale(y, centred, m.w, r)
	if m.bias != nil {
		vec.Axpy(y, 1, m.bias)
	}
}

// normParts is in how many parts the rows are summed for dw and db: a function
// of the shape. The parts are added in order.
func normParts(n, c int) (rows, parts int) {
	rows = max(rowGrain(c), (n+31)/32)
	return rows, (n + rows - 1) / rows
}

// NormBackward: dx, and the column sums dw and db, of Norm over a.X (with a
// residual: the sum that the forward wrote).
func (c *CPU) NormBackward(dx, dw, db kernels.Dst, dy, stats kernels.Buffer, a *kernels.NormArgs) {
	m := newNorm(a, stats)
	for _, b := range []kernels.Buffer{dx.Buffer, dy} {
		want("norm backward: dx, dy", b, a.N*a.C)
	}
	want("norm backward: dw", dw.Buffer, a.C)
	want("norm backward: db", db.Buffer, a.C)
	g, d := f32(dy), f32(dx.Buffer)
	rows, parts := normParts(a.N, a.C)
	sums := c.scratch.take(2 * parts * a.C)
	defer c.scratch.give(sums)
	par.For(a.N, rows, func(lo, hi int) {
		tmp := c.scratch.take(2 * a.C)
		defer c.scratch.give(tmp)
		p := lo / rows
		pw, pb := sums[2*p*a.C:(2*p+1)*a.C], sums[(2*p+1)*a.C:(2*p+2)*a.C]
		clear(pw)
		clear(pb)
		for i := lo; i < hi; i++ {
			at := i * a.C
			row := m.backRow(i, g[at:at+a.C], m.x[at:at+a.C], tmp)
			if !dw.Skip() {
				row.addW(pw)
			}
			if !db.Skip() {
				vec.Axpy(pb, 1, row.dy)
			}
			if d != nil {
				row.dx(d[at:at+a.C], m.w, dx.Add, tmp[:a.C])
			}
		}
	})
	foldParts(dw, sums, parts, 2*a.C, a.C, 0)
	foldParts(db, sums, parts, 2*a.C, a.C, a.C)
}

// foldParts writes or adds the sum of parts, stride apart, in order.
func foldParts(dst kernels.Dst, sums []float32, parts, stride, n, off int) {
	if dst.Skip() {
		return
	}
	out := f32(dst.Buffer)[:n]
	if parts == 0 {
		if !dst.Add {
			clear(out)
		}
		return
	}
	total := sums[off : off+n]
	for p := 1; p < parts; p++ {
		vec.Axpy(total, 1, sums[p*stride+off:p*stride+off+n])
	}
	store(out, total, dst.Add)
}

// backRow is one row of the backward pass: dy, the values that were scaled by
// w (x for RMSNorm, x-mean for LayerNorm) and 1/σ.
type backRow struct {
	kind kernels.NormKind
	dy   []float32
	x    []float32
	r    float32
}

func (m *norm) backRow(i int, dy, x, tmp []float32) backRow {
	if m.Kind == kernels.RMSNorm {
		return backRow{m.Kind, dy, x, m.stats[i]}
	}
	mean, c := m.stats[2*i], tmp[m.C:2*m.C]
	vec.Shift(c, x, -mean)
	return backRow{m.Kind, dy, c, m.stats[2*i+1]}
}

// addW adds dy·x·r.
func (b backRow) addW(pw []float32) { vec.MulAcc(pw, b.dy, b.x, b.r) }

// dx: with h = x·r the normalised row and g = dy·w,
// dx = r·(g - h·mean(g·h) [- mean(g) for LayerNorm]).
func (b backRow) dx(dst, w []float32, add bool, tmp []float32) {
	n := float32(len(dst))
	var gx, gsum float32
	if w == nil {
		gx, gsum = vec.Dot(b.dy, b.x), vec.Sum(b.dy)
	} else {
		gx = vec.Dot3(b.dy, w, b.x)
		if b.kind == kernels.LayerNorm {
			gsum = vec.Dot(b.dy, w)
		}
	}
	out := dst
	if add {
		out = tmp
	}
	vec.NormGrad(out, b.dy, w, b.x, b.r, -b.r*b.r*b.r*gx/n)
	if b.kind == kernels.LayerNorm {
		vec.Shift(out, out, -(b.r * gsum / n))
	}
	if add {
		vec.Axpy(dst, 1, out)
	}
}

// store writes src to dst, or adds it.
func store(dst, src []float32, add bool) {
	if add {
		vec.Axpy(dst, 1, src)
		return
	}
	copy(dst, src)
}
