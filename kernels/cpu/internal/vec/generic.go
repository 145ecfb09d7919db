package vec

import "math"

func dotGeneric(a, b []float32) float32 {
	var s [4]float32
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s[0] += a[i] * b[i]
		s[1] += a[i+1] * b[i+1]
		s[2] += a[i+2] * b[i+2]
		s[3] += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s[0] += a[i] * b[i]
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func dot3Generic(a, b, c []float32) float32 {
	var s [4]float32
	b, c = b[:len(a)], c[:len(a)]
	for i := range a {
		s[i&3] += a[i] * b[i] * c[i]
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func sumGeneric(x []float32) float32 {
	var s [4]float32
	for i, v := range x {
		s[i&3] += v
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func sumSq64Generic(a, b []float32) float64 {
	var s [4]float64
	for i, v := range a {
		d := float64(v)
		if b != nil {
			d -= float64(b[i])
		}
		s[i&3] += d * d
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func sum64Generic(x []float32) float64 {
	var s [4]float64
	for i, v := range x {
		s[i&3] += float64(v)
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func dotDiff64Generic(p, a, b []float32) float64 {
	var s [4]float64
	a, b = a[:len(p)], b[:len(p)]
	for i, v := range p {
		s[i&3] += float64(v) * (float64(a[i]) - float64(b[i]))
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func maxGeneric(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func axpyGeneric(y []float32, a float32, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += a * x[i]
	}
}

func lin2Generic(y []float32, a float32, x []float32, b float32, z []float32) {
	x, z = x[:len(y)], z[:len(y)]
	if b == 0 {
		for i := range y {
			y[i] = a * x[i]
		}
		return
	}
	for i := range y {
		y[i] = a*x[i] + b*z[i]
	}
}

func mulScaleGeneric(y, x, w []float32, a float32) {
	x, w = x[:len(y)], w[:len(y)]
	for i := range y {
		y[i] = a * x[i] * w[i]
	}
}

func mulAccGeneric(y, a, b []float32, s float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] += s * a[i] * b[i]
	}
}

func normGradGeneric(dx, dy, w, x []float32, r, c float32) {
	dy, w, x = dy[:len(dx)], w[:len(dx)], x[:len(dx)]
	for i := range dx {
		dx[i] = r*dy[i]*w[i] + c*x[i]
	}
}

// The exponential: n = round(x·log₂e), r = x - n·ln2 in two parts, a
// polynomial of degree 6 in r (Cephes expf), times 2ⁿ.
const (
	log2e = 1.44269504088896341
	ln2Hi = 0.693359375
	ln2Lo = -2.12194440e-4
	expC0 = 1.9875691500e-4
	expC1 = 1.3981999507e-3
	expC2 = 8.3334519073e-3
	expC3 = 4.1665795894e-2
	expC4 = 1.6666665459e-1
	expC5 = 5.0000001201e-1
	expHi = 88.72284 // above: +Inf
	expLo = -87.3365 // below: 0
)

func exp32(x float32) float32 {
	switch {
	case x > expHi:
		return float32(math.Inf(1))
	case x < expLo:
		return 0
	case x != x:
		return x
	}
	// Adding and taking away 1.5·2²³ rounds to the nearest integer.
	const magic = 12582912
	n := x*log2e + magic - magic
	r := x - n*ln2Hi - n*ln2Lo
	p := float32(expC0)
	p = p*r + expC1
	p = p*r + expC2
	p = p*r + expC3
	p = p*r + expC4
	p = p*r + expC5
	p = p*r*r + r + 1
	// n may be 128, for which 2ⁿ is no float32: two factors.
	half := int32(n) >> 1
	return p * pow2(half) * pow2(int32(n)-half)
}

func pow2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

func expSumGeneric(y, x []float32, scale, shift float32) float32 {
	var s [4]float32
	x = x[:len(y)]
	for i := range y {
		y[i] = exp32(scale*x[i] - shift)
		s[i&3] += y[i]
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

func softGradGeneric(ds, p []float32, delta, scale float32) {
	p = p[:len(ds)]
	for i := range ds {
		ds[i] = p[i] * (ds[i] - delta) * scale
	}
}

func siluGeneric(y, g, u []float32) {
	g = g[:len(y)]
	for i := range y {
		v := g[i] / (1 + exp32(-g[i]))
		if u != nil {
			v *= u[i]
		}
		y[i] = v
	}
}

func siluGradGeneric(dg, du, dy, g, u []float32) {
	for i := range dg {
		x, d := g[i], dy[i]
		s := 1 / (1 + exp32(-x))
		t := x * s
		slope := s + t*(1-s)
		if u == nil {
			dg[i] = d * slope
			continue
		}
		up := u[i]
		dg[i] = d * up * slope
		du[i] = d * t
	}
}

func geluTanhGeneric(v, s, x []float32) {
	const k, c = 0.7978845608028654, 0.044715
	for i, f := range x {
		x := float64(f)
		t := math.Tanh(k * (x + c*x*x*x))
		v[i], s[i] = float32(0.5*x*(1+t)), float32(0.5*(1+t)+0.5*x*(1-t*t)*k*(1+3*c*x*x))
	}
}

func geluGeneric(v, s, x []float32) {
	for i, f := range x {
		x := float64(f)
		phi := 0.5 * math.Erfc(-x/math.Sqrt2)
		pdf := math.Exp(-x*x/2) / math.Sqrt(2*math.Pi)
		v[i], s[i] = float32(x*phi), float32(phi+x*pdf)
	}
}

func tanhGeneric(v, s, x []float32) {
	for i, f := range x {
		t := math.Tanh(float64(f))
		v[i], s[i] = float32(t), float32(1-t*t)
	}
}

func shiftGeneric(y, x []float32, a float32) {
	for i, v := range x {
		y[i] = v + a
	}
}

func rotateGeneric(y0, y1, x0, x1, c, s []float32) {
	y0, y1, x0, x1, s = y0[:len(c)], y1[:len(c)], x0[:len(c)], x1[:len(c)], s[:len(c)]
	for i := range c {
		a, b := x0[i], x1[i]
		y0[i] = float32(a*c[i]) - float32(b*s[i])
		y1[i] = float32(b*c[i]) + float32(a*s[i])
	}
}

func sumSqColsGeneric(y, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += v * v
	}
}

func sumAbsColsGeneric(y, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += abs(v)
	}
}

func maxAbsColsGeneric(y, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] = max(y[i], abs(v))
	}
}

func abs(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

func adamGeneric(p, g, m, v []float32, a *Adam) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i := range p {
		d := g[i] * a.Clip
		m[i] += float32(a.Lerp * float32(d-m[i]))
		v[i] = float32(v[i]*a.Beta2) + float32(a.OneBeta2*float32(d*d))
		den := sqrt(v[i])/a.Root + a.Eps
		p[i] = float32(p[i]*a.Keep) + float32(a.StepSize*m[i])/den
	}
}

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

func matmulGeneric(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	si, sp := lda, 1
	if ta {
		si, sp = 1, lda
	}
	for i := range m {
		row := c[i*ldc : i*ldc+n]
		if !acc {
			clear(row)
		}
		for p := range k {
			axpyGeneric(row, a[i*si+p*sp], b[p*ldb:p*ldb+n])
		}
	}
}

func transposeGeneric(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	for i := range rows {
		for j, v := range src[i*lds : i*lds+cols] {
			dst[j*ldd+i] = v
		}
	}
}

func dotRowsGeneric(y, q, k []float32, ldk, n int) {
	for j := range n {
		y[j] = dotGeneric(q, k[j*ldk:j*ldk+len(q)])
	}
}
