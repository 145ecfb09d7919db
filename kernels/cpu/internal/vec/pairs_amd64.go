package vec

// avx512bf16 is avx512 with the bf16 dot product.
var avx512bf16 = func() table {
	t := avx512
	t.pairs = &pairsAVX512
	return t
}()

var pairsAVX512 = pairTable{
	matmul: func(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
		shape{12, 32, &tilesPairs}.run(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
	},
	soften: func(p []uint16, s []float32, ld, m, n int, rows []SoftRow, scale float32) {
		softenPairs(m, n, &p[0], &s[0], ld, &rows[0], scale)
	},
	grad: func(pp, dsp []float32, ds []uint16, s, d []float32, ld, m, n int, rows []GradRow, scale, slope float32) {
		softenGradPairs(m, n, &pp[0], &dsp[0], &ds[0], &s[0], &d[0], ld, &rows[0], scale, slope)
	},
	join: func(dst []float32, ldd int, src []uint16, lds, rows, cols int) {
		joinRowsPairs(rows/2, cols, &src[0], lds, &dst[0], ldd)
	},
}

var tilesPairs = [2][2][13]tileFunc{
	{{nil, tileNPairs1x16, tileNPairs2x16, tileNPairs3x16, tileNPairs4x16, tileNPairs5x16, tileNPairs6x16,
		tileNPairs7x16, tileNPairs8x16, tileNPairs9x16, tileNPairs10x16, tileNPairs11x16, tileNPairs12x16},
		{nil, tileNPairs1x32, tileNPairs2x32, tileNPairs3x32, tileNPairs4x32, tileNPairs5x32, tileNPairs6x32,
			tileNPairs7x32, tileNPairs8x32, tileNPairs9x32, tileNPairs10x32, tileNPairs11x32, tileNPairs12x32}},
	{{nil, tileTPairs1x16, tileTPairs2x16, tileTPairs3x16, tileTPairs4x16, tileTPairs5x16, tileTPairs6x16,
		tileTPairs7x16, tileTPairs8x16, tileTPairs9x16, tileTPairs10x16, tileTPairs11x16, tileTPairs12x16},
		{nil, tileTPairs1x32, tileTPairs2x32, tileTPairs3x32, tileTPairs4x32, tileTPairs5x32, tileTPairs6x32,
			tileTPairs7x32, tileTPairs8x32, tileTPairs9x32, tileTPairs10x32, tileTPairs11x32, tileTPairs12x32}},
}
