package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// norm is one call's operands as slices.
type norm struct {
	*kernels.NormArgs
	x, res         plain
	w, bias, stats []float32
	offset         []float32 // scratch that holds Offset + W; nil: none
}

func (c *CPU) newNorm(a *kernels.NormArgs, stats kernels.Buffer) *norm {
	n, rows := a.N*a.C, a.WeightRows()
	want("norm: x", a.X, n)
	want("norm: res", a.Res, n)
	want("norm: w", a.W, rows*a.C)
	want("norm: bias", a.Bias, rows*a.C)
	want("norm: stats", stats, a.N*a.Kind.StatsLen())
	if a.N%rows != 0 {
		panic(fmt.Sprintf("cpu: norm: %d rows of %d heads", a.N, rows))
	}
	m := &norm{NormArgs: a, x: plainOf(a.X), res: plainOf(a.Res), w: f32(a.W), bias: f32(a.Bias), stats: f32(stats)}
	if a.Offset != 0 && m.w != nil {
		m.offset = c.scratch.take(rows * a.C)
		vec.Shift(m.offset, m.w[:rows*a.C], a.Offset)
		m.w = m.offset
	}
	return m
}

// weight is the part of w or bias that row i is multiplied with or added to.
func (m *norm) weight(w []float32, i int) []float32 {
	if w == nil {
		return nil
	}
	return w[i%m.WeightRows()*m.C:][:m.C]
}

// Norm normalises rows (RMSNorm: Zhang, Sennrich 2019, arXiv:1910.07467;
// LayerNorm: Ba et al. 2016, arXiv:1607.06450). Statistics are 1/√(mean x²+Eps),
// or the mean and 1/σ; stats nil: not kept.
func (c *CPU) Norm(y, sum kernels.Dst, stats kernels.Buffer, a *kernels.NormArgs) {
	m := c.newNorm(a, stats)
	defer c.scratch.give(m.offset)
	want("norm: y", y.Buffer, a.N*a.C)
	want("norm: sum", sum.Buffer, a.N*a.C)
	yd, sd := plainOf(y.Buffer), plainOf(sum.Buffer)
	par.For(a.N, rowGrain(a.C), func(lo, hi int) {
		tmp := c.scratch.take(4 * a.C)
		defer c.scratch.give(tmp)
		s, out, extra, wide := tmp[:a.C], tmp[a.C:2*a.C], tmp[2*a.C:3*a.C], tmp[3*a.C:]
		for i := lo; i < hi; i++ {
			at := i * a.C
			row := m.input(i, s, wide)
			if !sd.absent() {
				sd.store(row, at, sum.Add, extra)
				if sd.h != nil && !sum.Add {
					row = sd.get(s, at)
				}
			}
			centred, r := m.measure(i, row, out)
			switch {
			case yd.absent():
			case y.Add:
				m.apply(i, out, centred, r)
				yd.store(out, at, true, extra)
			default:
				dst := yd.into(out, at)
				m.apply(i, dst, centred, r)
				yd.put(dst, at)
			}
		}
	})
}

// input is row i of what is normalised: X, or Res + Alpha·X in s.
func (m *norm) input(i int, s, wide []float32) []float32 {
	if m.res.absent() {
		return m.x.get(s, i*m.C)
	}
	vec.Lin2(s, 1, m.res.get(s, i*m.C), m.Alpha, m.x.get(wide, i*m.C))
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

// apply writes the normalised row i. y may be centred.
func (m *norm) apply(i int, y, centred []float32, r float32) {
	vec.MulScale(y, centred, m.weight(m.w, i), r)
	if m.bias != nil {
		vec.Axpy(y, 1, m.weight(m.bias, i))
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
	m := c.newNorm(a, stats)
	defer c.scratch.give(m.offset)
	for _, b := range []kernels.Buffer{dx.Buffer, dy} {
		want("norm backward: dx, dy", b, a.N*a.C)
	}
	heads := a.WeightRows()
	width := heads * a.C
	want("norm backward: dw", dw.Buffer, width)
	want("norm backward: db", db.Buffer, width)
	g, d := plainOf(dy), plainOf(dx.Buffer)
	tokens, parts := normParts(a.N/heads, width)
	sums := c.scratch.take(2 * parts * width)
	defer c.scratch.give(sums)
	par.For(a.N/heads, tokens, func(lo, hi int) {
		tmp := c.scratch.take(5 * a.C)
		defer c.scratch.give(tmp)
		p := lo / tokens
		pw, pb := sums[2*p*width:(2*p+1)*width], sums[(2*p+1)*width:(2*p+2)*width]
		clear(pw)
		clear(pb)
		for i := lo * heads; i < hi*heads; i++ {
			at, head := i*a.C, i%heads*a.C
			row := m.backRow(i, g.get(tmp[2*a.C:3*a.C], at), m.x.get(tmp[3*a.C:4*a.C], at), tmp)
			if !dw.Skip() {
				row.addW(pw[head:][:a.C])
			}
			if !db.Skip() {
				vec.Axpy(pb[head:][:a.C], 1, row.dy)
			}
			switch w := m.weight(m.w, i); {
			case d.absent():
			case d.h == nil:
				row.dx(d.f[at:at+a.C], w, dx.Add, tmp[:a.C])
			default:
				row.dx(tmp[:a.C], w, false, nil)
				d.store(tmp[:a.C], at, dx.Add, tmp[4*a.C:])
			}
		}
	})
	for i, dst := range []kernels.Dst{dw, db} {
		if !dst.Skip() {
			foldParts(f32(dst.Buffer)[:width], dst.Add, sums, parts, 2*width, i*width)
		}
	}
}

// foldParts writes or adds the sum of parts, stride apart, in order.
func foldParts(out []float32, add bool, sums []float32, parts, stride, off int) {
	n := len(out)
	if parts == 0 {
		if !add {
			clear(out)
		}
		return
	}
	total := sums[off : off+n]
	for p := 1; p < parts; p++ {
		vec.Axpy(total, 1, sums[p*stride+off:p*stride+off+n])
	}
	store(out, total, add)
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
