//go:build amd64 || arm64

package vec

// vectors is the table of AVX2 on amd64 and of NEON on arm64. Its functions take
// multiples of lanes (sums in float64: of twice that); what is left is done in Go.
var vectors = table{
	dot: func(a, b []float32) (r float32) {
		n := len(a) &^ (lanes - 1)
		dotVec(n, first(a), first(b), &r)
		return r + dotGeneric(a[n:], b[n:])
	},
	dot3: func(a, b, c []float32) (r float32) {
		n := len(a) &^ (lanes - 1)
		dot3Vec(n, first(a), first(b), first(c), &r)
		return r + dot3Generic(a[n:], b[n:], c[n:])
	},
	sum: func(x []float32) (r float32) {
		n := len(x) &^ (lanes - 1)
		sumVec(n, first(x), &r)
		return r + sumGeneric(x[n:])
	},
	max: func(x []float32) (r float32) {
		n := len(x) &^ (lanes - 1)
		maxVec(n, first(x), &r)
		return max(r, maxGeneric(x[n:]))
	},
	sumSq64: func(a, b []float32) (r float64) {
		n := len(a) &^ (2*lanes - 1)
		if b == nil {
			sumSq64Vec(n, first(a), &r)
			return r + sumSq64Generic(a[n:], nil)
		}
		sumDiff64Vec(n, first(a), first(b), &r)
		return r + sumSq64Generic(a[n:], b[n:])
	},
	sum64: func(x []float32) (r float64) {
		n := len(x) &^ (2*lanes - 1)
		sum64Vec(n, first(x), &r)
		return r + sum64Generic(x[n:])
	},
	diff64: func(p, a, b []float32) (r float64) {
		n := len(p) &^ (2*lanes - 1)
		dotDiff64Vec(n, first(a), first(b), first(p), &r)
		return r + dotDiff64Generic(p[n:], a[n:], b[n:])
	},
	axpy: func(y []float32, a float32, x []float32) {
		n := len(y) &^ (lanes - 1)
		axpyVec(n, first(y), first(x), a)
		axpyGeneric(y[n:], a, x[n:])
	},
	lin2: func(y []float32, a float32, x []float32, b float32, z []float32) {
		n := len(y) &^ (lanes - 1)
		if b == 0 {
			linVec(n, first(y), first(x), a)
		} else {
			lin2Vec(n, first(y), first(x), first(z), a, b)
		}
		lin2Generic(y[n:], a, x[n:], b, z[n:])
	},
	mulScale: func(y, x, w []float32, a float32) {
		n := len(y) &^ (lanes - 1)
		mulScaleVec(n, first(y), first(x), first(w), a)
		mulScaleGeneric(y[n:], x[n:], w[n:], a)
	},
	mulAcc: func(y, a, b []float32, s float32) {
		n := len(y) &^ (lanes - 1)
		mulAccVec(n, first(y), first(a), first(b), s)
		mulAccGeneric(y[n:], a[n:], b[n:], s)
	},
	normGrad: func(dx, dy, w, x []float32, r, c float32) {
		n := len(dx) &^ (lanes - 1)
		normGradVec(n, first(dx), first(dy), first(w), first(x), r, c)
		normGradGeneric(dx[n:], dy[n:], w[n:], x[n:], r, c)
	},
	expSum: func(y, x []float32, scale, shift float32) (r float32) {
		n := len(y) &^ (lanes - 1)
		expSumVec(n, first(y), first(x), scale, shift, &r)
		return r + expSumGeneric(y[n:], x[n:], scale, shift)
	},
	softGrad: func(ds, p []float32, delta, scale float32) {
		n := len(ds) &^ (lanes - 1)
		softGradVec(n, first(ds), first(p), delta, scale)
		softGradGeneric(ds[n:], p[n:], delta, scale)
	},
	silu: func(y, g, u []float32) {
		n := len(y) &^ (lanes - 1)
		if u == nil {
			siluVec(n, first(y), first(g))
			siluGeneric(y[n:], g[n:], nil)
			return
		}
		siluMulVec(n, first(y), first(g), first(u))
		siluGeneric(y[n:], g[n:], u[n:])
	},
	siluGrad: func(dg, du, dy, g, u []float32) {
		if u == nil {
			siluGradGeneric(dg, du, dy, g, u)
			return
		}
		n := len(dg) &^ (lanes - 1)
		siluGradVec(n, first(dg), first(du), first(dy), first(g), first(u))
		siluGradGeneric(dg[n:], du[n:], dy[n:], g[n:], u[n:])
	},
	curves: [3]func(v, s, x []float32){
		func(v, s, x []float32) {
			n := len(x) &^ (lanes - 1)
			geluTanhVec(n, first(v), first(s), first(x))
			geluTanhGeneric(v[n:], s[n:], x[n:])
		},
		func(v, s, x []float32) {
			n := len(x) &^ (lanes - 1)
			geluVec(n, first(v), first(s), first(x))
			geluGeneric(v[n:], s[n:], x[n:])
		},
		func(v, s, x []float32) {
			n := len(x) &^ (lanes - 1)
			tanhVec(n, first(v), first(s), first(x))
			tanhGeneric(v[n:], s[n:], x[n:])
		},
	},
	shift: func(y, x []float32, a float32) {
		n := len(y) &^ (lanes - 1)
		shiftVec(n, first(y), first(x), a)
		shiftGeneric(y[n:], x[n:], a)
	},
	rotate: func(y0, y1, x0, x1, c, s []float32) {
		n := len(c) &^ (lanes - 1)
		rotateVec(n, first(y0), first(y1), first(x0), first(x1), first(c), first(s))
		rotateGeneric(y0[n:], y1[n:], x0[n:], x1[n:], c[n:], s[n:])
	},
	stat: [3]func(y, x []float32){
		func(y, x []float32) {
			n := len(y) &^ (lanes - 1)
			addSqVec(n, first(y), first(x))
			sumSqColsGeneric(y[n:], x[n:])
		},
		func(y, x []float32) {
			n := len(y) &^ (lanes - 1)
			addAbsVec(n, first(y), first(x))
			sumAbsColsGeneric(y[n:], x[n:])
		},
		func(y, x []float32) {
			n := len(y) &^ (lanes - 1)
			maxAbsVec(n, first(y), first(x))
			maxAbsColsGeneric(y[n:], x[n:])
		},
	},
	adam: func(p, g, m, v []float32, a *Adam) {
		n := len(p) &^ (lanes - 1)
		adamVec(n, first(p), first(g), first(m), first(v), &a.Clip)
		adamGeneric(p[n:], g[n:], m[n:], v[n:], a)
	},
	matmul: func(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
		shape{6, 16, &tilesVec}.run(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
	},
	trans: func(dst []float32, ldd int, src []float32, lds, rows, cols int) {
		turn(lanes, transposeVec, dst, ldd, src, lds, rows, cols)
	},
	widen: widenHalves, narrow: narrowHalves,
	dotRows: func(y, q, k []float32, ldk, n int) {
		if len(q)%lanes != 0 {
			dotRowsGeneric(y, q, k, ldk, n)
			return
		}
		whole := n &^ 3
		if whole > 0 {
			dotRowsVec(len(q), first(q), first(k), ldk, whole, first(y))
		}
		for j := whole; j < n; j++ {
			dotVec(len(q), first(q), &k[j*ldk], &y[j])
		}
	},
}

// first is the address of the first element; of none, of any.
func first(x []float32) *float32 {
	if len(x) == 0 {
		return &nothing
	}
	return &x[0]
}

var nothing float32

type tileFunc = func(k int, a *float32, lda int, b *float32, ldb int, c *float32, ldc int, acc int)

// shape says what tiles a level has: up to rows × cols, and half as many cols
// for the last 16.
type shape struct {
	rows, cols int
	f          *[2][2][13]tileFunc // [transposed][wide][rows]
}

var tilesVec = [2][2][13]tileFunc{
	{{nil, tileNVec1x16, tileNVec2x16, tileNVec3x16, tileNVec4x16, tileNVec5x16, tileNVec6x16}},
	{{nil, tileTVec1x16, tileTVec2x16, tileTVec3x16, tileTVec4x16, tileTVec5x16, tileTVec6x16}},
}

// run covers C with tiles, column panels outermost so that one of B stays near.
func (s shape) run(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	t, step, add := 0, lda, 0
	if ta {
		t, step = 1, 1
	}
	if acc {
		add = 1
	}
	if k == 0 {
		a, b = []float32{0}, []float32{0}
		step, ldb = 0, 0
	}
	for j := 0; j < n; {
		w, wide := s.cols, 1
		if w == 16 || n-j < w {
			w, wide = 16, 0
		}
		bj := first(b)
		if k > 0 {
			bj = &b[j]
		}
		for i := 0; i < m; i += s.rows {
			r := min(s.rows, m-i)
			s.f[t][wide][r](k, &a[i*step], lda, bj, ldb, &c[i*ldc+j], ldc, add)
		}
		j += w
	}
}

// turn transposes in squares of side n by f, the edges in Go.
func turn(n int, f func(cols int, src *float32, lds int, dst *float32, ldd int), dst []float32, ldd int, src []float32, lds, rows, cols int) {
	r, c := rows/n*n, cols/n*n
	if c > 0 {
		for i := 0; i < r; i += n {
			f(c, &src[i*lds], lds, &dst[i], ldd)
		}
	}
	if c < cols && r > 0 {
		transposeGeneric(dst[c*ldd:], ldd, src[c:], lds, r, cols-c)
	}
	if r < rows {
		transposeGeneric(dst[r:], ldd, src[r*lds:], lds, rows-r, cols)
	}
}
