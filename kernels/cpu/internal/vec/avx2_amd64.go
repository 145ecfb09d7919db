package vec

// The AVX2 functions take multiples of 8 (sums in float64: of 16); what is left
// is done in Go.
var avx2 = table{
	dot: func(a, b []float32) (r float32) {
		n := len(a) &^ 7
		dotAVX2(n, first(a), first(b), &r)
		return r + dotGeneric(a[n:], b[n:])
	},
	dot3: func(a, b, c []float32) (r float32) {
		n := len(a) &^ 7
		dot3AVX2(n, first(a), first(b), first(c), &r)
		return r + dot3Generic(a[n:], b[n:], c[n:])
	},
	sum: func(x []float32) (r float32) {
		n := len(x) &^ 7
		sumAVX2(n, first(x), &r)
		return r + sumGeneric(x[n:])
	},
	max: func(x []float32) (r float32) {
		n := len(x) &^ 7
		maxAVX2(n, first(x), &r)
		return max(r, maxGeneric(x[n:]))
	},
	sumSq64: func(a, b []float32) (r float64) {
		n := len(a) &^ 15
		if b == nil {
			sumSq64AVX2(n, first(a), &r)
			return r + sumSq64Generic(a[n:], nil)
		}
		sumDiff64AVX2(n, first(a), first(b), &r)
		return r + sumSq64Generic(a[n:], b[n:])
	},
	sum64: func(x []float32) (r float64) {
		n := len(x) &^ 15
		sum64AVX2(n, first(x), &r)
		return r + sum64Generic(x[n:])
	},
	diff64: func(p, a, b []float32) (r float64) {
		n := len(p) &^ 15
		dotDiff64AVX2(n, first(a), first(b), first(p), &r)
		return r + dotDiff64Generic(p[n:], a[n:], b[n:])
	},
	axpy: func(y []float32, a float32, x []float32) {
		n := len(y) &^ 7
		axpyAVX2(n, first(y), first(x), a)
		axpyGeneric(y[n:], a, x[n:])
	},
	lin2: func(y []float32, a float32, x []float32, b float32, z []float32) {
		n := len(y) &^ 7
		if b == 0 {
			linAVX2(n, first(y), first(x), a)
		} else {
			lin2AVX2(n, first(y), first(x), first(z), a, b)
		}
		lin2Generic(y[n:], a, x[n:], b, z[n:])
	},
	mulScale: func(y, x, w []float32, a float32) {
		n := len(y) &^ 7
		mulScaleAVX2(n, first(y), first(x), first(w), a)
		mulScaleGeneric(y[n:], x[n:], w[n:], a)
	},
	mulAcc: func(y, a, b []float32, s float32) {
		n := len(y) &^ 7
		mulAccAVX2(n, first(y), first(a), first(b), s)
		mulAccGeneric(y[n:], a[n:], b[n:], s)
	},
	normGrad: func(dx, dy, w, x []float32, r, c float32) {
		n := len(dx) &^ 7
		normGradAVX2(n, first(dx), first(dy), first(w), first(x), r, c)
		normGradGeneric(dx[n:], dy[n:], w[n:], x[n:], r, c)
	},
	expSum: func(y, x []float32, scale, shift float32) (r float32) {
		n := len(y) &^ 7
		expSumAVX2(n, first(y), first(x), scale, shift, &r)
		return r + expSumGeneric(y[n:], x[n:], scale, shift)
	},
	softGrad: func(ds, p []float32, delta, scale float32) {
		n := len(ds) &^ 7
		softGradAVX2(n, first(ds), first(p), delta, scale)
		softGradGeneric(ds[n:], p[n:], delta, scale)
	},
	silu: func(y, g, u []float32) {
		n := len(y) &^ 7
		if u == nil {
			siluAVX2(n, first(y), first(g))
			siluGeneric(y[n:], g[n:], nil)
			return
		}
		siluMulAVX2(n, first(y), first(g), first(u))
		siluGeneric(y[n:], g[n:], u[n:])
	},
	siluGrad: func(dg, du, dy, g, u []float32) {
		if u == nil {
			siluGradGeneric(dg, du, dy, g, u)
			return
		}
		n := len(dg) &^ 7
		siluGradAVX2(n, first(dg), first(du), first(dy), first(g), first(u))
		siluGradGeneric(dg[n:], du[n:], dy[n:], g[n:], u[n:])
	},
	curves: [3]func(v, s, x []float32){
		func(v, s, x []float32) {
			n := len(x) &^ 7
			geluTanhAVX2(n, first(v), first(s), first(x))
			geluTanhGeneric(v[n:], s[n:], x[n:])
		},
		func(v, s, x []float32) {
			n := len(x) &^ 7
			geluAVX2(n, first(v), first(s), first(x))
			geluGeneric(v[n:], s[n:], x[n:])
		},
		func(v, s, x []float32) {
			n := len(x) &^ 7
			tanhAVX2(n, first(v), first(s), first(x))
			tanhGeneric(v[n:], s[n:], x[n:])
		},
	},
	shift: func(y, x []float32, a float32) {
		n := len(y) &^ 7
		shiftAVX2(n, first(y), first(x), a)
		shiftGeneric(y[n:], x[n:], a)
	},
	rotate: func(y0, y1, x0, x1, c, s []float32) {
		n := len(c) &^ 7
		rotateAVX2(n, first(y0), first(y1), first(x0), first(x1), first(c), first(s))
		rotateGeneric(y0[n:], y1[n:], x0[n:], x1[n:], c[n:], s[n:])
	},
	stat: [3]func(y, x []float32){
		func(y, x []float32) {
			n := len(y) &^ 7
			addSqAVX2(n, first(y), first(x))
			sumSqColsGeneric(y[n:], x[n:])
		},
		func(y, x []float32) {
			n := len(y) &^ 7
			addAbsAVX2(n, first(y), first(x))
			sumAbsColsGeneric(y[n:], x[n:])
		},
		func(y, x []float32) {
			n := len(y) &^ 7
			maxAbsAVX2(n, first(y), first(x))
			maxAbsColsGeneric(y[n:], x[n:])
		},
	},
	adam: func(p, g, m, v []float32, a *Adam) {
		n := len(p) &^ 7
		adamAVX2(n, first(p), first(g), first(m), first(v), &a.Clip)
		adamGeneric(p[n:], g[n:], m[n:], v[n:], a)
	},
	matmul: func(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
		shape{6, 16, &tilesAVX2}.run(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
	},
	trans: func(dst []float32, ldd int, src []float32, lds, rows, cols int) {
		turn(8, transpose8, dst, ldd, src, lds, rows, cols)
	},
	dotRows: func(y, q, k []float32, ldk, n int) {
		if len(q)%8 != 0 {
			dotRowsGeneric(y, q, k, ldk, n)
			return
		}
		whole := n &^ 3
		if whole > 0 {
			dotRowsAVX2(len(q), first(q), first(k), ldk, whole, first(y))
		}
		for j := whole; j < n; j++ {
			dotAVX2(len(q), first(q), &k[j*ldk], &y[j])
		}
	},
}
