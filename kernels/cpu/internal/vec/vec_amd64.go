package vec

import "github.com/tunekit/tunekit/kernels/internal/level"

// lanes is how many f32 a register of the table vectors holds.
const lanes = 8

var tables = [...]*table{level.Generic: &generic, level.AVX2: &vectors, level.AVX512: &avx512, level.AVX512BF16: &avx512bf16, level.AMX: &amx}

var avx512 = table{
	dot: func(a, b []float32) (r float32) {
		dotAVX512(len(a), first(a), first(b), &r)
		return r
	},
	dot3: func(a, b, c []float32) (r float32) {
		dot3AVX512(len(a), first(a), first(b), first(c), &r)
		return r
	},
	sum: func(x []float32) (r float32) {
		sumAVX512(len(x), first(x), &r)
		return r
	},
	max: func(x []float32) (r float32) {
		maxAVX512(len(x), first(x), &r)
		return r
	},
	sumSq64: func(a, b []float32) (r float64) {
		n := len(a) &^ 31
		if b == nil {
			sumSq64AVX512(n, first(a), &r)
			return r + sumSq64Generic(a[n:], nil)
		}
		sumDiff64AVX512(n, first(a), first(b), &r)
		return r + sumSq64Generic(a[n:], b[n:])
	},
	sum64: func(x []float32) (r float64) {
		n := len(x) &^ 31
		sum64AVX512(n, first(x), &r)
		return r + sum64Generic(x[n:])
	},
	diff64: func(p, a, b []float32) (r float64) {
		n := len(p) &^ 31
		dotDiff64AVX512(n, first(a), first(b), first(p), &r)
		return r + dotDiff64Generic(p[n:], a[n:], b[n:])
	},
	axpy: func(y []float32, a float32, x []float32) { axpyAVX512(len(y), first(y), first(x), a) },
	lin2: func(y []float32, a float32, x []float32, b float32, z []float32) {
		if b == 0 {
			linAVX512(len(y), first(y), first(x), a)
			return
		}
		lin2AVX512(len(y), first(y), first(x), first(z), a, b)
	},
	mulScale: func(y, x, w []float32, a float32) { mulScaleAVX512(len(y), first(y), first(x), first(w), a) },
	mulAcc:   func(y, a, b []float32, s float32) { mulAccAVX512(len(y), first(y), first(a), first(b), s) },
	normGrad: func(dx, dy, w, x []float32, r, c float32) {
		normGradAVX512(len(dx), first(dx), first(dy), first(w), first(x), r, c)
	},
	expSum: func(y, x []float32, scale, shift float32) (r float32) {
		expSumAVX512(len(y), first(y), first(x), scale, shift, &r)
		return r
	},
	softGrad: func(ds, p []float32, delta, scale float32) {
		softGradAVX512(len(ds), first(ds), first(p), delta, scale)
	},
	silu: func(y, g, u []float32) {
		if u == nil {
			siluAVX512(len(y), first(y), first(g))
			return
		}
		siluMulAVX512(len(y), first(y), first(g), first(u))
	},
	siluGrad: func(dg, du, dy, g, u []float32) {
		if u == nil {
			siluGradGeneric(dg, du, dy, g, u)
			return
		}
		siluGradAVX512(len(dg), first(dg), first(du), first(dy), first(g), first(u))
	},
	curves: [3]func(v, s, x []float32){
		func(v, s, x []float32) { geluTanhAVX512(len(x), first(v), first(s), first(x)) },
		func(v, s, x []float32) { geluAVX512(len(x), first(v), first(s), first(x)) },
		func(v, s, x []float32) { tanhAVX512(len(x), first(v), first(s), first(x)) },
	},
	shift: func(y, x []float32, a float32) { shiftAVX512(len(y), first(y), first(x), a) },
	rotate: func(y0, y1, x0, x1, c, s []float32) {
		rotateAVX512(len(c), first(y0), first(y1), first(x0), first(x1), first(c), first(s))
	},
	stat: [3]func(y, x []float32){
		func(y, x []float32) { addSqAVX512(len(y), first(y), first(x)) },
		func(y, x []float32) { addAbsAVX512(len(y), first(y), first(x)) },
		func(y, x []float32) { maxAbsAVX512(len(y), first(y), first(x)) },
	},
	adam: func(p, g, m, v []float32, a *Adam) {
		adamAVX512(len(p), first(p), first(g), first(m), first(v), &a.Clip)
	},
	matmul: func(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
		shape{12, 32, &tilesAVX512}.run(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
	},
	trans: func(dst []float32, ldd int, src []float32, lds, rows, cols int) {
		turn(16, transpose16, dst, ldd, src, lds, rows, cols)
	},
	widen: widen512, narrow: narrow512, narrowTile: narrowTile512, half: &half512,
	dotRows: func(y, q, k []float32, ldk, n int) {
		whole := n &^ 3
		if whole > 0 {
			dotRowsAVX512(len(q), first(q), first(k), ldk, whole, first(y))
		}
		for j := whole; j < n; j++ {
			dotAVX512(len(q), first(q), &k[j*ldk], &y[j])
		}
	},
}

var tilesAVX512 = [2][2][13]tileFunc{
	{{nil, tileNAVX5121x16, tileNAVX5122x16, tileNAVX5123x16, tileNAVX5124x16, tileNAVX5125x16, tileNAVX5126x16,
		tileNAVX5127x16, tileNAVX5128x16, tileNAVX5129x16, tileNAVX51210x16, tileNAVX51211x16, tileNAVX51212x16},
		{nil, tileNAVX5121x32, tileNAVX5122x32, tileNAVX5123x32, tileNAVX5124x32, tileNAVX5125x32, tileNAVX5126x32,
			tileNAVX5127x32, tileNAVX5128x32, tileNAVX5129x32, tileNAVX51210x32, tileNAVX51211x32, tileNAVX51212x32}},
	{{nil, tileTAVX5121x16, tileTAVX5122x16, tileTAVX5123x16, tileTAVX5124x16, tileTAVX5125x16, tileTAVX5126x16,
		tileTAVX5127x16, tileTAVX5128x16, tileTAVX5129x16, tileTAVX51210x16, tileTAVX51211x16, tileTAVX51212x16},
		{nil, tileTAVX5121x32, tileTAVX5122x32, tileTAVX5123x32, tileTAVX5124x32, tileTAVX5125x32, tileTAVX5126x32,
			tileTAVX5127x32, tileTAVX5128x32, tileTAVX5129x32, tileTAVX51210x32, tileTAVX51211x32, tileTAVX51212x32}},
}
