package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels/internal/level"
)

// op is a function of the package on slices of one length. Slices in outs are
// written; the rest must not change. exact: the bits of plain Go.
type op struct {
	name  string
	args  int
	outs  []int
	exact bool
	run   func(x [][]float32)
}

var ops = []op{
	{"axpy", 2, []int{0}, false, func(x [][]float32) { Axpy(x[0], 0.7, x[1]) }},
	{"lin", 2, []int{0}, true, func(x [][]float32) { Lin2(x[0], 0.7, x[1], 0, nil) }},
	{"lin2", 3, []int{0}, false, func(x [][]float32) { Lin2(x[0], 0.7, x[1], -0.2, x[2]) }},
	{"lin2 in place", 2, []int{0}, false, func(x [][]float32) { Lin2(x[0], 0.7, x[0], -0.2, x[1]) }},
	{"mulscale", 3, []int{0}, true, func(x [][]float32) { MulScale(x[0], x[1], x[2], 0.7) }},
	{"mulacc", 3, []int{0}, false, func(x [][]float32) { MulAcc(x[0], x[1], x[2], 0.7) }},
	{"normgrad", 4, []int{0}, false, func(x [][]float32) { NormGrad(x[0], x[1], x[2], x[3], 0.7, -0.2) }},
	{"expsum", 2, []int{0}, false, func(x [][]float32) { ExpSum(x[0], x[1], 0.7, 0.1) }},
	{"softgrad", 2, []int{0}, true, func(x [][]float32) { SoftGrad(x[0], x[1], 0.3, 0.7) }},
	{"silu", 2, []int{0}, false, func(x [][]float32) { SiLU(x[0], x[1], nil) }},
	{"silu·u", 3, []int{0}, false, func(x [][]float32) { SiLU(x[0], x[1], x[2]) }},
	{"silu in place", 2, []int{0}, false, func(x [][]float32) { SiLU(x[0], x[0], x[1]) }},
	{"silugrad", 5, []int{0, 1}, false, func(x [][]float32) { SiLUGrad(x[0], x[1], x[2], x[3], x[4]) }},
	{"silugrad plain", 3, []int{0}, false, func(x [][]float32) { SiLUGrad(x[0], nil, x[1], x[2], nil) }},
	{"silugrad in place", 3, []int{0, 1}, false, func(x [][]float32) { SiLUGrad(x[0], x[1], x[2], x[0], x[1]) }},
	{"gelu tanh", 3, []int{0, 1}, false, func(x [][]float32) { GELUTanh.Slope(x[0], x[1], x[2]) }},
	{"gelu", 3, []int{0, 1}, false, func(x [][]float32) { GELU.Slope(x[0], x[1], x[2]) }},
	{"tanh", 3, []int{0, 1}, false, func(x [][]float32) { Tanh.Slope(x[0], x[1], x[2]) }},
	{"tanh in place", 2, []int{0, 1}, false, func(x [][]float32) { Tanh.Slope(x[0], x[1], x[1]) }},
	{"shift", 2, []int{0}, true, func(x [][]float32) { Shift(x[0], x[1], -0.3) }},
	{"rotate", 6, []int{0, 1}, true, func(x [][]float32) { Rotate(x[0], x[1], x[2], x[3], x[4], x[5]) }},
	{"rotate in place", 4, []int{0, 1}, true, func(x [][]float32) { Rotate(x[0], x[1], x[0], x[1], x[2], x[3]) }},
	{"addsq", 2, []int{0}, false, func(x [][]float32) { AddSq(x[0], x[1]) }},
	{"addabs", 2, []int{0}, true, func(x [][]float32) { AddAbs(x[0], x[1]) }},
	{"maxabs", 2, []int{0}, true, func(x [][]float32) { MaxAbs(x[0], x[1]) }},
	{"adamw", 4, []int{0, 2, 3}, true, func(x [][]float32) {
		for i, v := range x[3] {
			x[3][i] = abs(v)
		}
		AdamW(x[0], x[1], x[2], x[3], &Adam{0.5, 0.99, 0.1, 0.999, 0.001, 0.3, 1e-8, -0.01})
	}},
}

const edge = 21

// slices returns n slices of the given length, at different alignments, inside
// larger ones.
func slices(r *rand.Rand, n, length int) (whole, part [][]float32) {
	for i := range n {
		w := make([]float32, length+2*edge+i)
		for j := range w {
			w[j] = float32(r.NormFloat64() * 2)
		}
		whole = append(whole, w)
		part = append(part, w[edge+i:edge+i+length:edge+i+length])
	}
	return whole, part
}

// TestOps compares every level with plain Go over all tails and alignments.
func TestOps(t *testing.T) {
	for _, l := range level.Supported() {
		for _, o := range ops {
			t.Run(fmt.Sprintf("%v/%s", l, o.name), func(t *testing.T) {
				for n := range 70 {
					compare(t, l, o, n)
				}
				compare(t, l, o, 1031)
			})
		}
	}
}

func compare(t *testing.T, l level.Level, o op, n int) {
	t.Helper()
	seed := func() *rand.Rand { return rand.New(rand.NewPCG(uint64(n), 7)) }
	restore := level.Force(level.Generic)
	want, args := slices(seed(), o.args, n)
	o.run(args)
	restore()
	defer level.Force(l)()
	got, args := slices(seed(), o.args, n)
	o.run(args)
	for i := range got {
		for j, w := range want[i] {
			g := got[i][j]
			if math.Float32bits(g) == math.Float32bits(w) {
				continue
			}
			inside := j >= edge+i && j < edge+i+n
			if o.exact || !inside || math.Abs(float64(g-w)) > 1e-6*(1+math.Abs(float64(w))) {
				t.Fatalf("length %d, argument %d, element %d: %v, in plain Go %v", n, i, j-edge-i, g, w)
			}
		}
	}
}

// TestCurves holds activations to float64 over the whole range, ends included.
func TestCurves(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			for f, name := range []string{"gelu tanh", "gelu", "tanh"} {
				x, v, s := make([]float32, 40000), make([]float32, 40000), make([]float32, 40000)
				want, slope := make([]float32, len(x)), make([]float32, len(x))
				for i := range x {
					x[i] = float32(i-len(x)/2) / 1000
				}
				x[0], x[1] = -3e38, 3e38
				generic.curves[f](want, slope, x)
				Curve(f).Slope(v, s, x)
				for i := range x {
					size := math.Abs(float64(want[i]))
					if x[i] < 0 && f != int(Tanh) { // exp(-x²/2), whose argument is rounded
						size *= 1 + float64(x[i]*x[i])/4
					}
					if d := math.Abs(float64(v[i] - want[i])); d > 1e-6*size+2e-15 { // 1 + tanh in float64
						t.Fatalf("%s(%v) = %v, want %v", name, x[i], v[i], want[i])
					}
					if d := math.Abs(float64(s[i] - slope[i])); !(d <= 1e-6*(1+math.Abs(float64(x[i])))) && i > 1 {
						t.Fatalf("%s'(%v) = %v, want %v", name, x[i], s[i], slope[i])
					}
				}
			}
		})
	}
}

// TestSums compares the reductions with float64.
func TestSums(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			for n := range 200 {
				sums(t, n)
			}
			sums(t, 5003)
		})
	}
}

func sums(t *testing.T, n int) {
	t.Helper()
	_, x := slices(rand.New(rand.NewPCG(uint64(n), 3)), 3, n)
	var dot, dot3, sum, sq, diff, weighed, size float64
	top := math.Inf(-1)
	for i, v := range x[0] {
		a, b, c := float64(v), float64(x[1][i]), float64(x[2][i])
		dot, dot3, sum, sq, diff = dot+a*b, dot3+a*b*c, sum+a, sq+a*a, diff+(a-b)*(a-b)
		weighed += c * (a - b)
		size += math.Abs(a) + math.Abs(a*b) + math.Abs(a*b*c)
		top = math.Max(top, a)
	}
	for _, c := range []struct {
		name      string
		got, want float64
		tol       float64
	}{
		{"dot", float64(Dot(x[0], x[1])), dot, 1e-6 * size},
		{"dot3", float64(Dot3(x[0], x[1], x[2])), dot3, 1e-6 * size},
		{"sum", float64(Sum(x[0])), sum, 1e-6 * size},
		{"max", float64(Max(x[0])), top, 0},
		{"sum64", Sum64(x[0]), sum, 1e-13 * size},
		{"dotdiff64", DotDiff64(x[2], x[0], x[1]), weighed, 1e-12 * size},
		{"sumsq64", SumSq64(x[0], nil), sq, 1e-13 * sq},
		{"sumsq64 of a difference", SumSq64(x[0], x[1]), diff, 1e-13 * diff},
	} {
		if c.got != c.want && !(math.Abs(c.got-c.want) <= c.tol) {
			t.Errorf("%s of %d: %v, want %v", c.name, n, c.got, c.want)
		}
	}
}

// TestExp holds the exponential to float64 over its whole range.
func TestExp(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			var x []float32
			for v := -87.3; v < 88.7; v += 0.00137 {
				x = append(x, float32(v))
			}
			y := make([]float32, len(x))
			sum := float64(ExpSum(y[:1000], x[:1000], 1, 0))
			ExpSum(y, x, 1, 0)
			worst := 0.0
			for i, v := range x {
				want := math.Exp(float64(v))
				worst = max(worst, math.Abs(float64(y[i])-want)/want)
			}
			if !(worst < 3e-7) {
				t.Errorf("relative error %.3g", worst)
			}
			var total float64
			for _, v := range y[:1000] {
				total += float64(v)
			}
			if math.Abs(sum-total) > 1e-6*total {
				t.Errorf("sum %v, of the elements %v", sum, total)
			}
			inf := float32(math.Inf(1))
			for _, c := range [][2]float32{{-inf, 0}, {inf, inf}, {-1e30, 0}, {1e30, inf}, {0, 1}, {89, inf}, {-110, 0}} {
				z := []float32{c[0], 0, 0, 0, 0, 0, 0, 0, c[0]}
				ExpSum(z, z, 1, 0)
				if z[0] != c[1] || z[8] != c[1] {
					t.Errorf("exp(%v) is %v and %v, want %v", c[0], z[0], z[8], c[1])
				}
			}
			nan := []float32{float32(math.NaN()), 0, 0, 0, 0, 0, 0, 0, float32(math.NaN())}
			if ExpSum(nan, nan, 1, 0); nan[0] == nan[0] || nan[8] == nan[8] {
				t.Errorf("exp(NaN) is %v and %v", nan[0], nan[8])
			}
		})
	}
}

// TestMatMul compares products of all tile shapes with float64.
func TestMatMul(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			for m := 1; m <= 26; m++ {
				for _, n := range []int{16, 32, 48, 80} {
					for _, k := range []int{0, 1, 7, 33} {
						for i := range 4 {
							matmul(t, m, n, k, i&1 > 0, i&2 > 0)
						}
					}
				}
			}
		})
	}
}

func matmul(t *testing.T, m, n, k int, ta, acc bool) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(m), uint64(n)))
	lda, ldb, ldc := k+3, n+5, n+2
	rows := m
	if ta {
		lda, rows = m+3, k
	}
	_, x := slices(r, 1, max(1, rows*lda))
	_, y := slices(r, 1, max(1, k*ldb))
	whole, z := slices(r, 1, m*ldc)
	a, b, c := x[0], y[0], z[0]
	before := append([]float32{}, whole[0]...)
	MatMul(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
	for j, v := range whole[0] {
		i := j - edge
		if i < 0 || i >= m*ldc || i%ldc >= n {
			if v != before[j] {
				t.Fatalf("%d×%d×%d: element %d outside of C was changed", m, n, k, i)
			}
			continue
		}
		var want float64
		if acc {
			want = float64(before[j])
		}
		for p := range k {
			e := (i/ldc)*lda + p
			if ta {
				e = p*lda + i/ldc
			}
			want += float64(a[e]) * float64(b[p*ldb+i%ldc])
		}
		if math.Abs(float64(v)-want) > 1e-4 {
			t.Fatalf("%d×%d×%d ta %v acc %v: element %d is %v, want %v", m, n, k, ta, acc, i, v, want)
		}
	}
}

// TestRows checks the transpose and the dot products of rows.
func TestRows(t *testing.T) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			r := rand.New(rand.NewPCG(5, 5))
			for rows := range 40 {
				for _, cols := range []int{1, 5, 8, 16, 17, 40, 64} {
					turned(t, r, rows, cols)
					dots(t, r, rows, cols)
				}
			}
		})
	}
}

func turned(t *testing.T, r *rand.Rand, rows, cols int) {
	t.Helper()
	lds, ldd := cols+3, rows+2
	_, src := slices(r, 1, rows*lds)
	whole, dst := slices(r, 1, cols*ldd)
	before := append([]float32{}, whole[0]...)
	Transpose(dst[0], ldd, src[0], lds, rows, cols)
	for j, v := range whole[0] {
		want, i := before[j], j-edge
		if i >= 0 && i < cols*ldd && i%ldd < rows {
			want = src[0][i%ldd*lds+i/ldd]
		}
		if v != want {
			t.Fatalf("transpose %d×%d: element %d is %v, want %v", rows, cols, i, v, want)
		}
	}
}

func dots(t *testing.T, r *rand.Rand, n, d int) {
	t.Helper()
	ldk := d + 3
	_, k := slices(r, 1, n*ldk)
	_, q := slices(r, 1, d)
	whole, y := slices(r, 1, n)
	before := append([]float32{}, whole[0]...)
	DotRows(y[0], q[0], k[0], ldk, n)
	for j, v := range whole[0] {
		i := j - edge
		if i < 0 || i >= n {
			if v != before[j] {
				t.Fatalf("dotrows %d×%d: element %d was changed", n, d, i)
			}
			continue
		}
		var want float64
		for p := range d {
			want += float64(q[0][p]) * float64(k[0][i*ldk+p])
		}
		if math.Abs(float64(v)-want) > 1e-4 {
			t.Fatalf("dotrows %d×%d: element %d is %v, want %v", n, d, i, v, want)
		}
	}
}

// TestHalves compares the conversions of bf16 with plain Go, NaN and ties
// included, at all tails and alignments.
func TestHalves(t *testing.T) {
	special := []float32{0, float32(math.Copysign(0, -1)), float32(math.NaN()), math.Float32frombits(0x7f800001), math.Float32frombits(0xffffffff),
		float32(math.Inf(1)), math.MaxFloat32, 1e-40, math.Float32frombits(0x3f808000), math.Float32frombits(0x3f818000)}
	r := rand.New(rand.NewPCG(3, 4))
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			for n := range 70 {
				src := make([]float32, n+3)[n%3:][:n]
				for i := range src {
					src[i] = float32(r.NormFloat64())
					if r.IntN(3) == 0 {
						src[i] = special[r.IntN(len(special))]
					}
				}
				want, got := make([]uint16, n), make([]uint16, n+2)
				narrowGeneric(want, src)
				Narrow(got[1:n+1], src)
				for i, w := range append([]uint16{0}, append(want, 0)...) {
					if got[i] != w {
						t.Fatalf("length %d, element %d: %#x, want %#x of %v", n, i-1, got[i], w, src[max(0, min(i-1, n-1))])
					}
				}
				back := make([]float32, n+2)
				Widen(back[1:n+1], want)
				for i, w := range want {
					if math.Float32bits(back[i+1]) != uint32(w)<<16 {
						t.Fatalf("length %d, element %d: %#x widened to %v", n, i, w, back[i+1])
					}
				}
				if back[0] != 0 || back[n+1] != 0 {
					t.Fatalf("length %d: wrote outside", n)
				}
			}
			for _, cols := range []int{1, 16, 20, 32} {
				src, want, got := make([]float32, 7*40), make([]uint16, 7*50), make([]uint16, 7*50)
				for i := range src {
					src[i] = float32(r.NormFloat64())
				}
				for i := range 7 {
					narrowGeneric(want[i*50:][:cols], src[i*40:][:cols])
				}
				NarrowTile(got, 50, src, 40, 7, cols)
				for i, w := range want {
					if got[i] != w {
						t.Fatalf("tile of %d columns, element %d: %#x, want %#x", cols, i, got[i], w)
					}
				}
			}
		})
	}
}
