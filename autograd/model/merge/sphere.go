package merge

import (
	"math"

	"github.com/tunekit/tunekit/formats/fail"
)

// slerp goes t of the way from the base to the other model on the arc between their
// directions; where these are all but one, on the line.
func slerp(t *tensor) ([]float32, error) {
	a, b, way := t.base, t.in[0].w, t.all["t"]
	na, nb := norm(a), norm(b)
	cos := dot(a, b)
	for _, n := range []float64{na, nb} {
		if n > 1e-8 {
			cos /= n
		}
	}
	if math.Abs(cos) > 0.9995 {
		return mix([]float64{way, 1 - way}, b, a), nil
	}
	angle := math.Acos(cos)
	return mix([]float64{math.Sin(angle*way) / math.Sin(angle), math.Sin(angle-angle*way) / math.Sin(angle)}, b, a), nil
}

// nuslerp is slerp by weights, of the models or, where there is a base, of their
// differences to it; for the whole tensor, or by row or column.
func nuslerp(t *tensor) ([]float32, error) {
	w0, w1 := t.in[0].each["weight"], t.in[1].each["weight"]
	way := 0.5
	if math.Abs(w0+w1) >= 1e-6 {
		way = w1 / (w0 + w1)
	}
	if t.base != nil {
		t.subtract()
	}
	a, b := t.in[0].w, t.in[1].w
	switch {
	case t.on("nuslerp_flatten") || t.rows == 1:
		arc(way, a, b)
	case t.on("nuslerp_row_wise"): // mergekit's name for along the first dimension
		arcs(way, transposed(a, t.rows, t.cols), transposed(b, t.rows, t.cols), t.rows, func(c int, v []float32) {
			for r, x := range v {
				a[r*t.cols+c] = x
			}
		})
	default:
		arcs(way, a, b, t.cols, nil)
	}
	if t.base != nil {
		return t.addBase(a), nil
	}
	return a, nil
}

// arcs is arc for runs of size values; done is told of each, nil: of none.
func arcs(way float64, a, b []float32, size int, done func(i int, v []float32)) {
	for i := 0; i < len(a); i += size {
		arc(way, a[i:i+size], b[i:i+size])
		if done != nil {
			done(i/size, a[i:i+size])
		}
	}
}

func transposed(v []float32, rows, cols int) []float32 {
	out := make([]float32, len(v))
	each(len(v), func(i int) { out[i%cols*rows+i/cols] = v[i] })
	return out
}

// arc writes over a what lies way between a and b on the arc between them.
func arc(way float64, a, b []float32) {
	const least = 1e-7
	cos := dot(a, b) / (math.Max(norm(a), least) * math.Max(norm(b), least))
	angle := math.Acos(min(max(cos, -1), 1))
	s := math.Sin(angle)
	if math.Abs(s) < 1e-8 {
		mix([]float64{1 - way, way}, a, b)
		return
	}
	mix([]float64{math.Sin((1-way)*angle) / s, math.Sin(way*angle) / s}, a, b)
}

// multislerp interpolates several models in the tangent space at the mean of their
// directions, and gives the result the mean of their norms.
func multislerp(t *tensor) ([]float32, error) {
	if t.base != nil {
		t.subtract()
	}
	n := len(t.in)
	if n == 1 {
		if t.base != nil {
			t.addBase(t.in[0].w)
		}
		return t.in[0].w, nil
	}
	eps := t.all["eps"]
	ws, total := make([]float64, n), 0.0
	for i, p := range t.in {
		ws[i] = p.each["weight"]
		total += ws[i]
	}
	if t.on("normalize_weights") {
		if total == 0 {
			return nil, t.failf("normalize_weights: false takes them as they are", "the weights add up to 0")
		}
		for i := range ws {
			ws[i] /= total
		}
	}
	unit, list := make([]float64, n), make([][]float32, n) // 1/norm
	size := 0.0
	for i, p := range t.in {
		v := norm(p.w)
		unit[i], list[i] = 1/(v+eps), p.w
		size += ws[i] * v
	}
	// Everything is a combination of the models: only its factors are worked with.
	gram := make([]float64, n*n)
	for i := range n {
		for j := range i + 1 {
			gram[i*n+j] = dot(list[i], list[j]) * unit[i] * unit[j]
			gram[j*n+i] = gram[i*n+j]
		}
	}
	length := func(f []float64) float64 {
		s := 0.0
		for i := range f {
			for j := range f {
				s += f[i] * f[j] * gram[i*n+j]
			}
		}
		return math.Sqrt(max(s, 0))
	}
	mean := length(ws)
	if mean < eps {
		if n > 2 {
			return nil, t.failf("choose other weights", "the weighted directions of the models add up to 0")
		}
		out := mix(ws, list...)
		if t.base != nil {
			t.addBase(out)
		}
		return out, nil
	}
	m, tangent := make([]float64, n), make([]float64, n)
	for i := range n {
		m[i] = ws[i] / mean
	}
	for i := range n {
		d := 0.0
		for j := range n {
			d += m[j] * gram[i*n+j]
		}
		tangent[i] += ws[i]
		for j := range n {
			tangent[j] -= ws[i] * d * m[j]
		}
	}
	angle := length(tangent) + eps
	factors := make([]float64, n)
	for i := range n {
		factors[i] = (m[i]*math.Cos(angle) + tangent[i]*math.Sin(angle)/angle) * size * unit[i]
	}
	out := mix(factors, list...)
	if t.base != nil {
		t.addBase(out)
	}
	return out, nil
}

// karcher is the mean of the models' directions on the sphere (Karcher 1977), found
// by steps in its tangent space, with the mean of their norms. A weight that all models
// have is allowed, as files of mergekit carry one, which reads it and counts all alike.
func karcher(t *tensor) ([]float32, error) {
	n, tol := len(t.in), t.all["tol"]
	for _, p := range t.in {
		if w := p.each["weight"]; w != t.in[0].each["weight"] {
			return nil, fail.Usagef("", "leave weights out, or use multislerp", "karcher counts all models alike, and weight is %g of %s and %g of %s", t.in[0].each["weight"], t.in[0].model, w, p.model)
		}
	}
	if n == 1 {
		return t.in[0].w, nil
	}
	list := make([][]float32, n)
	unit := make([]float64, n) // 1/norm; 0: the tensor does not count
	size, counted := 0.0, 0
	for i, p := range t.in {
		v := norm(p.w)
		list[i] = p.w
		size += v / float64(n)
		if v > tol {
			unit[i] = 1 / v
			counted++
		}
	}
	if counted == 0 {
		clear(list[0])
		return list[0], nil
	}
	alpha := 1 / float64(counted)
	u := make([]float64, n) // factors of the unit vectors, of which the mean is a combination
	gram := make([]float64, n*n)
	for i := range n {
		for j := range n {
			if unit[i] != 0 && unit[j] != 0 {
				gram[i*n+j] = dot(list[i], list[j]) * unit[i] * unit[j]
			}
		}
		if unit[i] != 0 {
			u[i] = alpha
		}
	}
	inner := func(a, b []float64) float64 {
		s := 0.0
		for i := range a {
			for j := range b {
				s += a[i] * b[j] * gram[i*n+j]
			}
		}
		return s
	}
	if l := math.Sqrt(max(inner(u, u), 0)); l < tol {
		first := true
		for i := range u {
			u[i] = 0
			if unit[i] != 0 && first {
				u[i], first = 1, false
			}
		}
	} else {
		scale(u, 1/l)
	}
	e := make([]float64, n)
	for range int(t.all["max_iter"]) {
		step := make([]float64, n)
		for i := range n {
			if unit[i] == 0 {
				continue
			}
			clear(e)
			e[i] = 1
			cos := min(max(inner(u, e), -1), 1)
			angle := math.Acos(cos)
			if angle < tol {
				continue
			}
			f := alpha * angle / math.Sin(angle)
			step[i] += f
			for j := range n {
				step[j] -= f * cos * u[j]
			}
		}
		l := math.Sqrt(max(inner(step, step), 0))
		if l < tol {
			break
		}
		for j := range u {
			u[j] = math.Cos(l)*u[j] + math.Sin(l)*step[j]/l
		}
		if l := math.Sqrt(max(inner(u, u), 0)); l > tol {
			scale(u, 1/l)
		}
	}
	for i := range u {
		u[i] *= size * unit[i]
	}
	return mix(u, list...), nil
}

func scale(v []float64, by float64) {
	for i := range v {
		v[i] *= by
	}
}
