// Package vec holds the inner loops of the CPU backend: short functions over
// float32 slices. The functions of generic.go are their specification; on amd64
// generated assembly (see gen) does the same faster.
//
// A function that only treats elements one by one gives the same bits at every
// level, unless its comment says otherwise; one that sums has an order of its
// own at each level, which depends on the length alone.
package vec

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels/internal/level"
)

// table is one level's functions. Lengths are in elements.
type table struct {
	dot      func(a, b []float32) float32
	dot3     func(a, b, c []float32) float32
	sum      func(x []float32) float32
	sumSq64  func(a, b []float32) float64
	sum64    func(x []float32) float64
	diff64   func(p, a, b []float32) float64
	max      func(x []float32) float32
	axpy     func(y []float32, a float32, x []float32)
	lin2     func(y []float32, a float32, x []float32, b float32, z []float32)
	mulScale func(y, x, w []float32, a float32)
	mulAcc   func(y, a, b []float32, s float32)
	normGrad func(dx, dy, w, x []float32, r, c float32)
	expSum   func(y, x []float32, scale, shift float32) float32
	softGrad func(ds, p []float32, delta, scale float32)
	silu     func(y, g, u []float32)
	siluGrad func(dg, du, dy, g, u []float32)
	curves   [3]func(v, s, x []float32) // by Curve
	shift    func(y, x []float32, a float32)
	rotate   func(y0, y1, x0, x1, c, s []float32)
	stat     [3]func(y, x []float32)
	adam     func(p, g, m, v []float32, a *Adam)
	matmul   matmulFunc
	trans    func(dst []float32, ldd int, src []float32, lds, rows, cols int)
	dotRows  func(y, q, k []float32, ldk, n int)
	widen    func(dst []float32, src []uint16)
	narrow   func(dst []uint16, src []float32)
	// narrowTile reports false for sizes it does not do; nil: for all.
	narrowTile func(dst []uint16, ldd int, src []float32, lds, rows, n int) bool
	pairs      *pairTable // nil: in plain Go
	tiles      *tileTable // nil: in plain Go
	half       *halfTable // nil: none
}

var generic = table{
	dot: dotGeneric, dot3: dot3Generic, sum: sumGeneric, sumSq64: sumSq64Generic, sum64: sum64Generic, diff64: dotDiff64Generic, max: maxGeneric,
	axpy: axpyGeneric, lin2: lin2Generic, mulScale: mulScaleGeneric, mulAcc: mulAccGeneric,
	normGrad: normGradGeneric, expSum: expSumGeneric, softGrad: softGradGeneric, silu: siluGeneric, siluGrad: siluGradGeneric,
	curves: [3]func(v, s, x []float32){geluTanhGeneric, geluGeneric, tanhGeneric}, shift: shiftGeneric,
	rotate: rotateGeneric, stat: [3]func(y, x []float32){sumSqColsGeneric, sumAbsColsGeneric, maxAbsColsGeneric},
	adam: adamGeneric, matmul: matmulGeneric, trans: transposeGeneric, dotRows: dotRowsGeneric,
	widen: widenGeneric, narrow: narrowGeneric,
}

// at is the table of the level in use.
func at() *table { return tables[level.Current()] }

func same(what string, n int, lens ...int) {
	for _, l := range lens {
		if l != n {
			panic(fmt.Sprintf("vec: %s: lengths %d and %d", what, n, l))
		}
	}
}

// Dot is Σ a·b.
func Dot(a, b []float32) float32 {
	same("dot", len(a), len(b))
	return at().dot(a, b)
}

// Dot3 is Σ a·b·c.
func Dot3(a, b, c []float32) float32 {
	same("dot3", len(a), len(b), len(c))
	return at().dot3(a, b, c)
}

// Sum is Σ x.
func Sum(x []float32) float32 { return at().sum(x) }

// SumSq64 is Σ (a-b)² in float64, b nil Σ a². The difference is taken in float64.
func SumSq64(a, b []float32) float64 {
	if b != nil {
		same("sumsq64", len(a), len(b))
	}
	return at().sumSq64(a, b)
}

// Sum64 is Σ x in float64.
func Sum64(x []float32) float64 { return at().sum64(x) }

// DotDiff64 is Σ p·(a-b) in float64, the difference too.
func DotDiff64(p, a, b []float32) float64 {
	same("dotdiff64", len(p), len(a), len(b))
	return at().diff64(p, a, b)
}

// Max is the largest element, -Inf of none.
func Max(x []float32) float32 { return at().max(x) }

// Axpy is y += a·x. Fused at the assembly levels.
func Axpy(y []float32, a float32, x []float32) {
	same("axpy", len(y), len(x))
	at().axpy(y, a, x)
}

// Lin2 is y = a·x + b·z, z nil y = a·x. y may be x or z. Fused at the assembly levels.
func Lin2(y []float32, a float32, x []float32, b float32, z []float32) {
	same("lin2", len(y), len(x))
	if z == nil {
		b, z = 0, x
	}
	same("lin2", len(y), len(z))
	at().lin2(y, a, x, b, z)
}

// MulScale is y = (a·x)·w, w nil y = a·x. y may be x or w.
func MulScale(y, x, w []float32, a float32) {
	same("mulscale", len(y), len(x))
	if w == nil {
		at().lin2(y, a, x, 0, x)
		return
	}
	same("mulscale", len(y), len(w))
	at().mulScale(y, x, w, a)
}

// MulAcc is y += s·a·b. Fused at the assembly levels.
func MulAcc(y, a, b []float32, s float32) {
	same("mulacc", len(y), len(a), len(b))
	at().mulAcc(y, a, b, s)
}

// NormGrad is dx = r·dy·w + c·x. dx may be dy. Fused at the assembly levels.
func NormGrad(dx, dy, w, x []float32, r, c float32) {
	same("normgrad", len(dx), len(dy), len(x))
	if w == nil {
		at().lin2(dx, r, dy, c, x)
		return
	}
	same("normgrad", len(dx), len(w))
	at().normGrad(dx, dy, w, x, r, c)
}

// ExpSum is y = exp(scale·x - shift) and returns Σ y. y may be x. The relative
// error of y is below 3e-7 apart from the rounding of the argument; results
// below the smallest normal number may become 0. Levels differ in last bits.
func ExpSum(y, x []float32, scale, shift float32) float32 {
	same("expsum", len(y), len(x))
	return at().expSum(y, x, scale, shift)
}

// SoftGrad is ds = p·(ds - delta)·scale: the gradient of a softmax's argument
// from that of its result, which ds holds at first.
func SoftGrad(ds, p []float32, delta, scale float32) {
	same("softgrad", len(ds), len(p))
	at().softGrad(ds, p, delta, scale)
}

// SiLU is y = g·σ(g)·u, u nil y = g·σ(g). y may be g or u. Levels differ in last bits.
func SiLU(y, g, u []float32) {
	same("silu", len(y), len(g))
	if u != nil {
		same("silu", len(y), len(u))
	}
	at().silu(y, g, u)
}

// SiLUGrad is the gradient of SiLU: dg = dy·u·σ(g)·(1+g·(1-σ(g))), du = dy·g·σ(g).
// With u nil du is not written. dg and du may be any of the others. Levels differ in last bits.
func SiLUGrad(dg, du, dy, g, u []float32) {
	same("silugrad", len(dg), len(dy), len(g))
	if u != nil {
		same("silugrad", len(dg), len(du), len(u))
	}
	at().siluGrad(dg, du, dy, g, u)
}

// Curve is an activation that is computed with its slope.
type Curve uint8

const (
	GELUTanh Curve = iota // 0.5·x·(1+tanh(√(2/π)(x+0.044715x³)))
	GELU                  // x·Φ(x) (Hendrycks, Gimpel 2016, arXiv:1606.08415)
	Tanh                  // tanh(x)
)

// Slope is v = f(x) and s = f'(x). v or s may be x. Levels differ in last bits.
func (f Curve) Slope(v, s, x []float32) {
	same("slope", len(x), len(v), len(s))
	at().curves[f](v, s, x)
}

// Shift is y = x + a. y may be x.
func Shift(y, x []float32, a float32) {
	same("shift", len(y), len(x))
	at().shift(y, x, a)
}

// Rotate is y0 = x0·c - x1·s, y1 = x1·c + x0·s. y may be x.
func Rotate(y0, y1, x0, x1, c, s []float32) {
	same("rotate", len(c), len(y0), len(y1), len(x0), len(x1), len(s))
	at().rotate(y0, y1, x0, x1, c, s)
}

// AddSq is y += x². Fused at the assembly levels.
func AddSq(y, x []float32) {
	same("addsq", len(y), len(x))
	at().stat[0](y, x)
}

// AddAbs is y += |x|.
func AddAbs(y, x []float32) {
	same("addabs", len(y), len(x))
	at().stat[1](y, x)
}

// MaxAbs is y = max(y, |x|).
func MaxAbs(y, x []float32) {
	same("maxabs", len(y), len(x))
	at().stat[2](y, x)
}

// Adam are the numbers of one AdamW step, rounded to float32 as PyTorch does.
type Adam struct {
	Clip     float32 // factor of the gradient
	Keep     float32 // 1 - lr·decay
	Lerp     float32 // 1 - β₁
	Beta2    float32
	OneBeta2 float32 // 1 - β₂
	Root     float32 // √(1 - β₂ᵗ)
	Eps      float32
	StepSize float32 // -lr / (1 - β₁ᵗ)
}

// AdamW updates p, m and v in place from g. Every product is rounded before it
// is added: all levels give the same bits.
func AdamW(p, g, m, v []float32, a *Adam) {
	same("adamw", len(p), len(g), len(m), len(v))
	at().adam(p, g, m, v, a)
}

// MatMul is C = A·B, or C += A·B with acc: C [m, n] with rows ldc apart, B
// [k, n] with rows ldb apart, A [m, k] with rows lda apart or, with ta, [k, m].
// n is a multiple of 16. The sum over k runs in order, fused at the assembly levels.
func MatMul(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	multiply(at().matmul, c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
}

// matmulFunc is MatMul of shapes that were checked.
type matmulFunc func(c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool)

// multiply calls f where there is something to compute, after checking the shapes.
func multiply(f matmulFunc, c []float32, ldc int, a []float32, lda int, b []float32, ldb, m, n, k int, ta, acc bool) {
	if m == 0 || n == 0 {
		return
	}
	ra, ca := m, k
	if ta {
		ra, ca = k, m
	}
	if n%16 != 0 || !holds(c, ldc, m, n) || !holds(a, lda, ra, ca) || !holds(b, ldb, k, n) {
		panic(fmt.Sprintf("vec: matmul m %d n %d k %d, a %d/%d b %d/%d c %d/%d", m, n, k, len(a), lda, len(b), ldb, len(c), ldc))
	}
	f(c, ldc, a, lda, b, ldb, m, n, k, ta, acc)
}

func holds(x []float32, ld, rows, cols int) bool {
	return rows == 0 || cols == 0 || ld >= cols && len(x) >= (rows-1)*ld+cols
}

// Transpose is dst[j, i] = src[i, j] for src [rows, cols], rows lds and ldd apart.
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	if !holds(dst, ldd, cols, rows) || !holds(src, lds, rows, cols) {
		panic(fmt.Sprintf("vec: transpose %d×%d, src %d/%d dst %d/%d", rows, cols, len(src), lds, len(dst), ldd))
	}
	at().trans(dst, ldd, src, lds, rows, cols)
}

// DotRows is y[j] = Σ q·k[j] for n rows of k, ldk apart.
func DotRows(y, q, k []float32, ldk, n int) {
	if len(y) < n || !holds(k, ldk, n, len(q)) {
		panic(fmt.Sprintf("vec: dotrows %d×%d of %d/%d", n, len(q), len(k), ldk))
	}
	at().dotRows(y, q, k, ldk, n)
}
