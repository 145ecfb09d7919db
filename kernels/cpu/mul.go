package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// mulOf checks one call's operands.
func mulOf(what string, a *kernels.MulArgs) (x, s, bias plain) {
	want(what+": x", a.X, a.N*a.C)
	want(what+": s", a.S, a.Factors())
	want(what+": bias", a.Bias, a.C)
	if a.Bias != nil && a.By != kernels.ByCol {
		panic("cpu: " + what + ": a bias needs factors by column")
	}
	return plainOf(a.X), plainOf(a.S), plainOf(a.Bias)
}

// mulRows is how the work is split: a product by element has pieces for rows.
func mulRows(a *kernels.MulArgs) (rows, cols int) {
	if a.By == kernels.ByElement {
		rows = (a.N*a.C + actPiece - 1) / actPiece
		return rows, actPiece
	}
	return a.N, a.C
}

// Mul is y = X·S + Bias. y may be X, and S where they are alike.
func (c *CPU) Mul(y kernels.Dst, a *kernels.MulArgs) {
	want("mul: y", y.Buffer, a.N*a.C)
	x, s, bias := mulOf("mul", a)
	if y.Skip() {
		return
	}
	out := plainOf(y.Buffer)
	rows, cols := mulRows(a)
	c.eachRow(rows, 4*cols, func(r int, tmp []float32) {
		at := r * cols
		n := min(cols, a.N*a.C-at)
		res := tmp[2*cols:][:n]
		if !y.Add {
			res = out.into(res, at)
		}
		scaled(a.By, res, x.get(tmp[:n], at), s, r, at, tmp[cols:][:n])
		if !bias.absent() {
			vec.Axpy(res, 1, bias.get(tmp[:n], 0))
		}
		if y.Add {
			out.store(res, at, true, tmp[3*cols:][:n])
		} else {
			out.put(res, at)
		}
	})
}

// Divide is y = X/S.
func (c *CPU) Divide(y kernels.Dst, a *kernels.MulArgs) {
	want("divide: y", y.Buffer, a.N*a.C)
	x, s, _ := mulOf("divide", a)
	if a.Bias != nil {
		panic("cpu: divide: there is no bias")
	}
	if y.Skip() {
		return
	}
	out := plainOf(y.Buffer)
	rows, cols := mulRows(a)
	c.eachRow(rows, 4*cols, func(r int, tmp []float32) {
		at := r * cols
		n := min(cols, a.N*a.C-at)
		v, res, by := x.get(tmp[:n], at), tmp[2*cols:][:n], tmp[cols:][:n]
		switch a.By {
		case kernels.ByElement:
			by = s.get(by, at)
		case kernels.ByCol:
			by = s.get(by, 0)
		default:
			setEach(by, s.get(by[:1], r)[0])
		}
		for i, d := range by {
			res[i] = v[i] / d
		}
		out.store(res, at, y.Add, tmp[3*cols:][:n])
	})
}

// scaled writes x·s to y, a row or a piece of one; x may be y.
func scaled(by kernels.MulBy, y, x []float32, s plain, row, at int, tmp []float32) {
	switch by {
	case kernels.ByElement:
		vec.MulScale(y, x, s.get(tmp, at), 1)
	case kernels.ByRow:
		vec.MulScale(y, x, nil, s.get(tmp[:1], row)[0])
	case kernels.ByCol:
		vec.MulScale(y, x, s.get(tmp, 0), 1)
	default:
		panic(fmt.Sprintf("cpu: mul: no dimension %d", by))
	}
}

// MulBackward: dx = dy·S; ds = dy·X, summed over the columns or the rows that
// share a factor (over rows in their order); dbias is the sum of dy's rows. dx
// may be dy.
func (c *CPU) MulBackward(dx, ds, dbias kernels.Dst, dy kernels.Buffer, a *kernels.MulArgs) {
	want("mul backward: dx", dx.Buffer, a.N*a.C)
	want("mul backward: ds", ds.Buffer, a.Factors())
	want("mul backward: dbias", dbias.Buffer, a.C)
	want("mul backward: dy", dy, a.N*a.C)
	x, s, _ := mulOf("mul backward", a)
	g, d, f := plainOf(dy), plainOf(dx.Buffer), plainOf(ds.Buffer)
	if a.By == kernels.ByCol {
		c.sumRows(ds, a.N, a.C, g, x)
		f = plain{}
	}
	c.sumRows(dbias, a.N, a.C, g, plain{})
	if d.absent() && f.absent() {
		return
	}
	rows, cols := mulRows(a)
	c.eachRow(rows, 5*cols, func(r int, tmp []float32) {
		at := r * cols
		n := min(cols, a.N*a.C-at)
		res, extra := tmp[3*cols:][:n], tmp[4*cols:][:n]
		part := g.get(tmp[:n], at)
		if !f.absent() {
			xs := x.get(tmp[cols:][:n], at)
			if a.By == kernels.ByRow {
				f.store([]float32{vec.Dot(part, xs)}, r, ds.Add, extra[:1])
			} else {
				vec.MulScale(res, part, xs, 1)
				f.store(res, at, ds.Add, extra)
			}
		}
		if !d.absent() {
			scaled(a.By, res, part, s, r, at, tmp[2*cols:][:n])
			d.store(res, at, dx.Add, extra)
		}
	})
}

// sumCols is how many columns of a sum over rows are one task: no two tasks
// meet, and every column is summed in the order of the rows.
const sumCols = 64

// sumRows: dst [cols] = or += Σ over the rows of g·x, x absent: of g. Each
// product is rounded before it is added.
func (c *CPU) sumRows(dst kernels.Dst, rows, cols int, g, x plain) {
	if dst.Skip() {
		return
	}
	d := plainOf(dst.Buffer)
	par.For(cols, sumCols, func(lo, hi int) {
		var room [4][sumCols]float32
		n := hi - lo
		sum, a, b, product := room[0][:n], room[1][:n], room[2][:n], room[3][:n]
		if dst.Add {
			d.copy(sum, lo)
		}
		for r := range rows {
			v := g.get(a, r*cols+lo)
			if !x.absent() {
				vec.MulScale(product, v, x.get(b, r*cols+lo), 1)
				v = product
			}
			vec.Axpy(sum, 1, v)
		}
		d.store(sum, lo, false, nil)
	})
}

// Copy2D copies rows of columns from one place to another.
func (c *CPU) Copy2D(y kernels.Dst, a *kernels.Copy2DArgs) {
	if y.Skip() || a.Rows == 0 || a.Cols == 0 {
		return
	}
	if a.XOff < 0 || a.YOff < 0 || a.XStride < 0 || a.YStride < a.Cols && a.Rows > 1 {
		panic(fmt.Sprintf("cpu: copy2d: offsets and strides of %+v", *a))
	}
	want("copy2d: x", a.X, a.XOff+(a.Rows-1)*a.XStride+a.Cols)
	want("copy2d: y", y.Buffer, a.YOff+(a.Rows-1)*a.YStride+a.Cols)
	x, out := plainOf(a.X), plainOf(y.Buffer)
	if a.Cols == 1 && x.f != nil && out.f != nil && !y.Add { // columns: a row is one element
		par.For(a.Rows, elemGrain, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				out.f[a.YOff+r*a.YStride] = x.f[a.XOff+r*a.XStride]
			}
		})
		return
	}
	c.eachRow(a.Rows, 2*a.Cols, func(r int, tmp []float32) {
		out.store(x.get(tmp[:a.Cols], a.XOff+r*a.XStride), a.YOff+r*a.YStride, y.Add, tmp[a.Cols:])
	})
}
