package vec

// firstHalf is the address of the first element; of none, of any.
func firstHalf(x []uint16) *uint16 {
	if len(x) == 0 {
		return &noHalf
	}
	return &x[0]
}

var noHalf uint16

func widen512(dst []float32, src []uint16)  { widenAVX512(len(dst), first(dst), firstHalf(src)) }
func narrow512(dst []uint16, src []float32) { narrowAVX512(len(dst), firstHalf(dst), first(src)) }

// narrowTile512 does tiles of 16 and 32 columns.
func narrowTile512(dst []uint16, ldd int, src []float32, lds, rows, n int) bool {
	switch n {
	case 16:
		narrowTile16(rows, &dst[0], ldd, &src[0], lds)
	case 32:
		narrowTile32(rows, &dst[0], ldd, &src[0], lds)
	default:
		return false
	}
	return true
}

var half512 = halfTable{
	silu: func(y, g, u []uint16) { siluMulHalf(len(y), firstHalf(y), firstHalf(g), firstHalf(u)) },
	siluGrad: func(dg, du, dy, g, u []uint16) {
		siluGradHalf(len(dg), firstHalf(dg), firstHalf(du), firstHalf(dy), firstHalf(g), firstHalf(u))
	},
	rotate: func(n int, y []uint16, ldy int, x []uint16, ldx, k int, c, s []float32) {
		rotateHeadsHalf(n, &y[0], ldy, &x[0], ldx, k, &c[0], &s[0])
	},
}

func widenHalves(dst []float32, src []uint16) {
	n := len(dst) &^ 7
	widenVec(n, first(dst), firstHalf(src))
	widenGeneric(dst[n:], src[n:])
}

func narrowHalves(dst []uint16, src []float32) {
	n := len(dst) &^ 7
	narrowVec(n, firstHalf(dst), first(src))
	narrowGeneric(dst[n:], src[n:])
}
