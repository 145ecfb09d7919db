package vec

// amx is avx512bf16 with products of bf16 on tiles.
var amx = func() table {
	t, p := avx512bf16, pairsAVX512
	p.matmul = matmulTiles
	t.pairs, t.tiles = &p, &tilesAMX
	return t
}()

// matmulTiles multiplies in place: rows of A are pairs along k, and those of B
// pairs of rows, as tiles have them. What is no whole step of k, and a transposed
// A, the dot product does.
func matmulTiles(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	steps := k / 16
	if ta {
		steps = 0
	}
	if steps > 0 {
		t := tiles{m: m, n: n, k: steps, a: &a[0], aRow: 4 * lda, aStep: 64, aTile: 64 * lda,
			b: &b[0], bRow: 4 * ldb, bStep: 64 * ldb, bCols: 128, c: &c[0], cRow: 4 * ldc}
		if acc {
			t.acc = 1
		}
		t.next = t.a
		tileProduct(&t)
	}
	if done := 16 * steps; done < k || k == 0 {
		pairsAVX512.matmul(c, ldc, a[done:], lda, b[done*ldb:], ldb, m, n, k-done, ta, acc || done > 0)
	}
}

var tilesAMX = tileTable{
	product:  tileProduct,
	product3: tileProduct3,
	rowsF32: func(dst []float32, src []float32, ld, rows, k int) {
		tileRowsF32(k, &src[0], 4*ld, rows, &dst[0])
	},
	rows: func(dst []float32, src []uint16, ld, rows, k int) {
		tileRowsBF16(k, &src[0], 2*ld, rows, &dst[0])
	},
	pieces: func(dst []float32, src []float32, ld, rows, k int) {
		tileRowsPieces(k, &src[0], 4*ld, rows, &dst[0])
	},
	finish: func(c []float32, ldc int, x []float32, ldx, rows, n, how int, alpha float32) {
		finishRows(rows, n, &x[0], ldx, &c[0], ldc, how, alpha)
	},
}
