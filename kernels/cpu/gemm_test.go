package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// eachLevel runs f as a subtest at every kernel level of this machine.
func eachLevel(t *testing.T, f func(t *testing.T)) {
	for _, l := range level.Supported() {
		t.Run(l.String(), func(t *testing.T) {
			defer level.Force(l)()
			f(t)
		})
	}
}

func random(n int) []float32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// guarded is a float32 buffer with x's values and a sentinel after them.
type guarded struct {
	kernels.Buffer
	t    *testing.T
	n    int
	what string
}

const (
	guardWords = 40
	sentinel   = float32(-12345.5)
)

func buffer(t *testing.T, c *CPU, what string, x []float32) *guarded {
	t.Helper()
	b, err := c.Alloc(kernels.Activations, dtype.Type{}, len(x)+guardWords)
	if err != nil {
		t.Fatal(err)
	}
	v := f32(b)
	for i := copy(v, x); i < len(v); i++ {
		v[i] = sentinel
	}
	return &guarded{b, t, len(x), what}
}

// buf is the bare buffer, as methods take it.
func (g *guarded) buf() kernels.Buffer { return g.Buffer }

func (g *guarded) values() []float32 {
	g.t.Helper()
	v := f32(g.Buffer)
	for i, x := range v[g.n:] {
		if x != sentinel {
			g.t.Fatalf("%s: wrote %d elements past its end", g.what, i+1)
		}
	}
	return v[:g.n]
}

// fill is a destination with the sentinel in every element.
func fill(n int, v float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = v
	}
	return x
}

// close64 fails unless |got-want| ≤ tol·scale for every element.
func close64(t *testing.T, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	scale := 0.0
	for _, v := range want {
		scale = max(scale, math.Abs(v))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= tol*max(scale, 1)) {
			t.Fatalf("%s: element %d is %g, want %g (difference %g, scale %g)", what, i, got[i], w, d, scale)
		}
	}
}

// mul64 is op(a)·op(b) in float64.
func mul64(a, b []float32, ta, tb bool, m, n, k int) []float64 {
	c := make([]float64, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for p := range k {
				x, y := i*k+p, p*n+j
				if ta {
					x = p*m + i
				}
				if tb {
					y = j*k + p
				}
				s += float64(a[x]) * float64(b[y])
			}
			c[i*n+j] = s
		}
	}
	return c
}

var gemmShapes = [][3]int{
	{1, 1, 1}, {2, 3, 5}, {5, 17, 16}, {13, 33, 7}, {14, 32, 64}, {15, 31, 63}, {17, 16, 40}, {28, 64, 97},
	{29, 65, 129}, {43, 67, 33}, {61, 96, 320}, {70, 100, 192}, {3, 300, 66}, {300, 3, 66}, {20, 290, 31}, {67, 67, 67},
}

func TestGemm(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range gemmShapes {
			m, n, k := s[0], s[1], s[2]
			a, b := random(m*k), random(k*n)
			for i := range 8 {
				ta, tb, add := i&1 != 0, i&2 != 0, i&4 != 0
				what := fmt.Sprintf("%d×%d×%d ta %v tb %v add %v", m, n, k, ta, tb, add)
				old := float32(math.NaN())
				if add {
					old = 2
				}
				want := mul64(a, b, ta, tb, m, n, k)
				for i := range want {
					want[i] *= 0.5
					if add {
						want[i] += 2
					}
				}
				out := buffer(t, c, what, fill(m*n, old))
				c.Gemm(kernels.Dst{Buffer: out.buf(), Add: add}, &kernels.GemmArgs{A: buffer(t, c, "a", a).buf(), B: buffer(t, c, "b", b).buf(), TA: ta, TB: tb, M: m, N: n, K: k, Alpha: 0.5})
				close64(t, what, out.values(), want, 1e-6*math.Sqrt(float64(k)+9))
			}
		}
	})
}

// A long k is cut into passes, a high A into blocks; a large C is written past the caches.
func TestGemmBlocks(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{20, 40, 4500}, {1200, 33, 70}, {1130, 260, 40}, {1030, 2064, 21}} {
			m, n, k := s[0], s[1], s[2]
			a, b := random(m*k), random(n*k)
			out := buffer(t, c, "c", fill(m*n, 1))
			c.Gemm(kernels.To(out.buf()), &kernels.GemmArgs{A: buffer(t, c, "a", a).buf(), B: buffer(t, c, "b", b).buf(), TB: true, M: m, N: n, K: k, Alpha: 1})
			close64(t, fmt.Sprint(s), out.values(), mul64(a, b, false, true, m, n, k), 1e-6*math.Sqrt(float64(k)))
		}
	})
}

func TestGemmNothing(t *testing.T) {
	c := New(Options{})
	out := buffer(t, c, "c", fill(6, 3))
	a := buffer(t, c, "a", nil)
	c.Gemm(kernels.Into(out.buf()), &kernels.GemmArgs{A: a.buf(), B: a.buf(), M: 2, N: 3, K: 0, Alpha: 1})
	close64(t, "add nothing", out.values(), []float64{3, 3, 3, 3, 3, 3}, 0)
	c.Gemm(kernels.To(out.buf()), &kernels.GemmArgs{A: a.buf(), B: a.buf(), M: 2, N: 3, K: 0, Alpha: 1})
	close64(t, "write nothing", out.values(), make([]float64, 6), 0)
	c.Gemm(kernels.Dst{}, &kernels.GemmArgs{A: a.buf(), B: a.buf(), M: 2, N: 3, K: 0, Alpha: 1})
}

func TestGram(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][2]int{{1, 1}, {7, 5}, {40, 33}, {100, 300}, {2100, 20}} {
			rows, cols := s[0], s[1]
			x := random(rows * cols)
			want := mul64(x, x, true, false, cols, cols, rows)
			h := buffer(t, c, "h", fill(cols*cols, float32(math.NaN())))
			c.Gram(kernels.To(h.buf()), &kernels.GramArgs{Rows: rows, Cols: cols, X: buffer(t, c, "x", x).buf()})
			close64(t, fmt.Sprint("gram ", s), h.values(), want, 2e-6*math.Sqrt(float64(rows)))
			c.Gram(kernels.Into(h.buf()), &kernels.GramArgs{Rows: rows, Cols: cols, X: buffer(t, c, "x", x).buf()})
			for i := range want {
				want[i] *= 2
			}
			close64(t, fmt.Sprint("gram add ", s), h.values(), want, 2e-6*math.Sqrt(float64(rows)))
			v := h.values()
			for i := range cols {
				for j := range i {
					if v[i*cols+j] != v[j*cols+i] {
						t.Fatalf("gram %v: element %d,%d is not its mirror image", s, i, j)
					}
				}
			}
		}
	})
}

// sameBits runs f at several numbers of threads and compares what it returns.
func sameBits(t *testing.T, what string, f func() []float32) {
	t.Helper()
	defer par.SetThreads(0)
	var want []float32
	for _, n := range []int{1, 2, 3, 7} {
		par.SetThreads(n)
		got := f()
		if want == nil {
			want = append([]float32(nil), got...)
		}
		for i, v := range got {
			if math.Float32bits(v) != math.Float32bits(want[i]) {
				t.Fatalf("%s: element %d is %g with %d threads, %g with one", what, i, v, n, want[i])
			}
		}
	}
}

func TestGemmSameBitsAtAnyThreads(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{300, 290, 130}, {500, 40, 2100}, {1200, 300, 20}, {1030, 2064, 9}} {
			m, n, k := s[0], s[1], s[2]
			a, b := buffer(t, c, "a", random(m*k)), buffer(t, c, "b", random(n*k))
			sameBits(t, fmt.Sprint(s), func() []float32 {
				out := buffer(t, c, "c", fill(m*n, 1))
				c.Gemm(kernels.To(out.buf()), &kernels.GemmArgs{A: a.buf(), B: b.buf(), TB: true, M: m, N: n, K: k, Alpha: 1})
				return out.values()
			})
		}
	})
}

// Scratch that does not fit is the error of Run.
func TestScratchLimit(t *testing.T) {
	c := New(Options{MemoryLimit: 1 << 20})
	err := c.Run(func() error {
		b, err := c.Alloc(kernels.Activations, dtype.Type{}, 200*1000)
		if err != nil {
			return err
		}
		c.Gemm(kernels.To(b), &kernels.GemmArgs{A: b, B: b, TB: true, M: 400, N: 400, K: 500, Alpha: 1})
		return nil
	})
	if me, ok := err.(*kernels.MemoryError); !ok || me.Purpose != kernels.Scratch {
		t.Fatalf("error %v, want one about scratch memory", err)
	}
	if now := c.Info().Mem.Now[kernels.Scratch]; now != 0 {
		t.Fatalf("%d bytes of scratch left", now)
	}
}
