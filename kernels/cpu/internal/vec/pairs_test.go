package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels/internal/level"
)

// eachPairs runs f at every level.
func eachPairs(t *testing.T, f func(t *testing.T, r *rand.Rand)) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			f(t, rand.New(rand.NewPCG(3, 4)))
		})
	}
}

func normals(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func pairsOf(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = pairOf(float32(r.NormFloat64()), float32(r.NormFloat64()))
	}
	return x
}

func near(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	for i, w := range want {
		if d := math.Abs(float64(got[i] - w)); !(d <= tol*(1+math.Abs(float64(w)))) {
			t.Fatalf("%s: element %d is %v, want %v", what, i, got[i], w)
		}
	}
}

func TestMatMulPairs(t *testing.T) {
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		for _, s := range [][3]int{{1, 16, 1}, {12, 32, 32}, {13, 48, 7}, {96, 128, 33}, {25, 16, 0}} {
			m, n, k := s[0], s[1], s[2]
			for _, ta := range []bool{false, true} {
				for _, acc := range []bool{false, true} {
					ld := k + 3
					if ta {
						ld = m + 3
					}
					a, b, got := pairsOf(r, max(m, k)*ld), pairsOf(r, (k+1)*(n+5)), normals(r, m*(n+2))
					want := append([]float32(nil), got...)
					MatMulPairs(got, n+2, a, ld, b, n+5, m, n, k, ta, acc)
					matmulPairsGeneric(want, n+2, a, ld, b, n+5, m, n, k, ta, acc)
					near(t, fmt.Sprint(s, ta, acc), got, want, 1e-5*math.Sqrt(float64(k+1)))
				}
			}
		}
	})
}

func TestSoften(t *testing.T) {
	const ld = 128
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		for _, n := range []int{32, 96, 128} {
			const m = 5
			s := normals(r, m*ld)
			for i := range s { // what is not live may be anything
				if i%ld >= n-3 {
					s[i] = float32(math.NaN())
				}
			}
			var got, want [m]SoftRow
			for i := range got {
				got[i] = SoftRow{Live: LiveFrom(i, n-3-7*i), Top: -1e30}
			}
			got[1].Live = Live{}
			got[3].Top, got[3].Sum = 0.5, 3
			want = got
			p, q := make([]uint16, m*ld), make([]uint16, m*ld)
			Soften(p, s, ld, m, n, got[:], 1.7)
			softenGeneric(q, s, ld, m, n, want[:], 1.7)
			for i := range got {
				near(t, fmt.Sprint("row ", i, " of ", n), []float32{got[i].Top, got[i].Sum, got[i].Shrink}, []float32{want[i].Top, want[i].Sum, want[i].Shrink}, 1e-5)
				nearHalf(t, p[i*ld:][:n], q[i*ld:][:n])
			}
		}
	})
}

// nearHalf allows the other neighbour of a number between two bf16.
func nearHalf(t *testing.T, got, want []uint16) {
	t.Helper()
	a, b := make([]float32, len(got)), make([]float32, len(want))
	widenGeneric(a, got)
	widenGeneric(b, want)
	for i, w := range b {
		if d := math.Abs(float64(a[i] - w)); !(d <= math.Abs(float64(w))/128) {
			t.Fatalf("column %d is %v, want %v", i, a[i], w)
		}
	}
}

func TestSoftenGrad(t *testing.T) {
	const ld = 128
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		for _, n := range []int{16, 80, 128} {
			const m = 6
			s, d := normals(r, m*ld), normals(r, m*ld)
			var rows [m]GradRow
			for i := range rows {
				rows[i] = GradRow{Live: LiveFrom(i, n-9*i), LSE: 2, Delta: 0.3}
			}
			rows[m-1].Live = Live{}
			s[(m-1)*ld], d[(m-1)*ld+1] = float32(math.NaN()), float32(math.Inf(1))
			var pp, dsp [2][]float32
			var ds [2][]uint16
			for i, f := range []func(pp, dsp []float32, ds []uint16, s, d []float32, ld, m, n int, rows []GradRow, scale, slope float32){SoftenGrad, softenGradGeneric} {
				pp[i], dsp[i], ds[i] = make([]float32, m/2*ld), make([]float32, m/2*ld), make([]uint16, m*ld)
				f(pp[i], dsp[i], ds[i], s, d, ld, m, n, rows[:], 1.7, 0.2)
			}
			nearHalf(t, ds[0], ds[1])
			for i := range pp[0] {
				p0, p1 := unpair(pp[0][i])
				q0, q1 := unpair(pp[1][i])
				near(t, "p", []float32{p0, p1}, []float32{q0, q1}, 1.0/128)
				g0, g1 := unpair(dsp[0][i])
				lo, hi := i/ld*2*ld+i%ld, (i/ld*2+1)*ld+i%ld
				var w [2]float32
				widenGeneric(w[:], []uint16{ds[0][lo], ds[0][hi]})
				near(t, "pairs of ds", []float32{g0, g1}, w[:], 0)
			}
		}
	})
}

func TestJoinRows(t *testing.T) {
	eachPairs(t, func(t *testing.T, r *rand.Rand) {
		for rows := range 8 {
			src := make([]uint16, 8*50)
			for i := range src {
				src[i] = uint16(r.Uint32())
			}
			got, want := make([]float32, 4*40), make([]float32, 4*40)
			JoinRows(got, 40, src, 50, rows, 32)
			joinRowsGeneric(want, 40, src, 50, rows, 32)
			for i := range got {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
					t.Fatalf("%d rows: element %d is %x, want %x", rows, i, math.Float32bits(got[i]), math.Float32bits(want[i]))
				}
			}
		}
	})
}
