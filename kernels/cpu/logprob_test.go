package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func ints(t *testing.T, c *CPU, x []int32) kernels.Buffer {
	t.Helper()
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(x))
	if err != nil {
		t.Fatal(err)
	}
	copy(i32(b), x)
	return b
}

// logProbCase holds operands and the answers in float64.
type logProbCase struct {
	n, cols, v int
	scale      float32
	x, w, coef []float32
	target     []int32
	logp, lse  []float64
	arg        []int32
	dx, dw     []float64
}

func newLogProbCase(n, cols, v int, scale float32) *logProbCase {
	l := &logProbCase{n: n, cols: cols, v: v, scale: scale, x: random(n * cols), w: random(v * cols), coef: random(n)}
	z := mul64(l.x, l.w, false, true, n, v, cols)
	l.logp, l.lse, l.arg = make([]float64, n), make([]float64, n), make([]int32, n)
	l.dx, l.dw = make([]float64, n*cols), make([]float64, v*cols)
	for i := range n {
		target := int32(i*37)%int32(v+1) - 1
		l.target = append(l.target, target)
		l.row(i, int(target), z[i*v:][:v])
	}
	return l
}

func (l *logProbCase) row(i, target int, z []float64) {
	top, sum := math.Inf(-1), 0.0
	for j := range z {
		z[j] *= float64(l.scale)
		if z[j] > top {
			top, l.arg[i] = z[j], int32(j)
		}
	}
	for _, v := range z {
		sum += math.Exp(v - top)
	}
	l.lse[i] = top + math.Log(sum)
	if target < 0 {
		return
	}
	l.logp[i] = z[target] - l.lse[i]
	for j, v := range z {
		d := math.Exp(v - l.lse[i])
		if j == target {
			d--
		}
		d *= float64(l.coef[i]) * float64(l.scale)
		for k := range l.cols {
			l.dx[i*l.cols+k] += d * float64(l.w[j*l.cols+k])
			l.dw[j*l.cols+k] += d * float64(l.x[i*l.cols+k])
		}
	}
}

func TestLogProb(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		for _, s := range [][3]int{{1, 8, 5}, {3, 16, 64}, {17, 33, 70}, {40, 48, 257}, {530, 12, 65}} {
			l := newLogProbCase(s[0], s[1], s[2], 0.5)
			w := kernels.Mat{Buffer: buffer(t, c, "w", l.w).buf(), Rows: l.v, Cols: l.cols, Of: l.v}
			a := &kernels.LogProbArgs{N: l.n, X: buffer(t, c, "x", l.x).buf(), W: w, Target: ints(t, c, l.target), Coef: buffer(t, c, "coef", l.coef).buf(), Scale: l.scale}
			logp, lse := buffer(t, c, "logp", fill(l.n, 9)), buffer(t, c, "lse", fill(l.n, 9))
			dx, dw := buffer(t, c, "dx", fill(l.n*l.cols, 9)), buffer(t, c, "dw", fill(l.v*l.cols, 2))
			arg := ints(t, c, make([]int32, l.n))
			c.LogProb(&kernels.LogProbOut{LogP: logp.buf(), LSE: lse.buf(), Argmax: arg}, kernels.To(dx.buf()), kernels.Into(dw.buf()), kernels.Dst{}, a)
			close64(t, fmt.Sprint(s, " logp"), logp.values(), l.logp, 2e-6)
			close64(t, fmt.Sprint(s, " lse"), lse.values(), l.lse, 2e-6)
			close64(t, fmt.Sprint(s, " dx"), dx.values(), l.dx, 4e-6)
			close64(t, fmt.Sprint(s, " dw"), dw.values(), plus(l.dw, 2, true), 4e-6*math.Sqrt(float64(l.n)))
			for i, v := range i32(arg) {
				if v != l.arg[i] {
					t.Fatalf("%v: argmax of row %d is %d, want %d", s, i, v, l.arg[i])
				}
			}
			// Without LSE and Argmax only rows with a target are computed.
			logp, dx, dw = buffer(t, c, "logp", fill(l.n, 9)), buffer(t, c, "dx", fill(l.n*l.cols, 9)), buffer(t, c, "dw", fill(l.v*l.cols, 2))
			c.LogProb(&kernels.LogProbOut{LogP: logp.buf()}, kernels.To(dx.buf()), kernels.To(dw.buf()), kernels.Dst{}, a)
			close64(t, fmt.Sprint(s, " logp of targets"), logp.values(), l.logp, 2e-6)
			close64(t, fmt.Sprint(s, " dx of targets"), dx.values(), l.dx, 4e-6)
			close64(t, fmt.Sprint(s, " dw of targets"), dw.values(), l.dw, 4e-6*math.Sqrt(float64(l.n)))
			dx = buffer(t, c, "dx", fill(l.n*l.cols, 2))
			c.LogProb(&kernels.LogProbOut{}, kernels.Into(dx.buf()), kernels.Dst{}, kernels.Dst{}, a)
			close64(t, fmt.Sprint(s, " dx added"), dx.values(), plus(l.dx, 2, true), 4e-6)
			// Each output alone; no gradients without Coef.
			a.Coef = nil
			lse = buffer(t, c, "lse", fill(l.n, 9))
			dx = buffer(t, c, "dx", fill(l.n*l.cols, 9))
			c.LogProb(&kernels.LogProbOut{LSE: lse.buf()}, kernels.To(dx.buf()), kernels.Dst{}, kernels.Dst{}, a)
			close64(t, fmt.Sprint(s, " lse alone"), lse.values(), l.lse, 2e-6)
			if dx.values()[0] != 9 {
				t.Fatalf("%v: gradient written without coefficients", s)
			}
		}
	})
}

// Logits far from zero, equal ones and infinities.
func TestLogProbExtremes(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		c := New(Options{})
		const v = 100
		w := make([]float32, v)
		for i := range w {
			w[i] = float32(i%7) - 3
		}
		mat := kernels.Mat{Buffer: buffer(t, c, "w", w).buf(), Rows: v, Cols: 1, Of: v}
		for _, x := range []float32{0, 1e4, -1e4, 80, 1e-30} {
			out := buffer(t, c, "logp", fill(1, 5))
			arg := ints(t, c, []int32{-1})
			a := &kernels.LogProbArgs{N: 1, X: buffer(t, c, "x", []float32{x}).buf(), W: mat, Target: ints(t, c, []int32{6})}
			c.LogProb(&kernels.LogProbOut{LogP: out.buf(), Argmax: arg}, kernels.Dst{}, kernels.Dst{}, kernels.Dst{}, a)
			want := newLogProbCase(1, 1, v, 1)
			want.x, want.w = []float32{x}, w
			z := mul64(want.x, want.w, false, true, 1, v, 1)
			want.row(0, 6, z)
			close64(t, fmt.Sprint("logp at ", x), out.values(), want.logp, 1e-6)
			if i32(arg)[0] != want.arg[0] {
				t.Errorf("x %g: argmax %d, want the lowest index %d", x, i32(arg)[0], want.arg[0])
			}
		}
	})
}

// No row with a target: outputs are zeros, added gradients unchanged.
func TestLogProbWithoutTargets(t *testing.T) {
	c := New(Options{})
	const n, cols, v = 3, 4, 6
	w := kernels.Mat{Buffer: buffer(t, c, "w", random(v*cols)).buf(), Rows: v, Cols: cols, Of: v}
	a := &kernels.LogProbArgs{N: n, X: buffer(t, c, "x", random(n*cols)).buf(), W: w, Target: ints(t, c, []int32{-1, -1, -1}), Coef: buffer(t, c, "coef", fill(n, 1)).buf()}
	logp, dx, dw := buffer(t, c, "logp", fill(n, 9)), buffer(t, c, "dx", fill(n*cols, 9)), buffer(t, c, "dw", fill(v*cols, 9))
	c.LogProb(&kernels.LogProbOut{LogP: logp.buf()}, kernels.To(dx.buf()), kernels.To(dw.buf()), kernels.Dst{}, a)
	close64(t, "logp", logp.values(), make([]float64, n), 0)
	close64(t, "dx", dx.values(), make([]float64, n*cols), 0)
	close64(t, "dw", dw.values(), make([]float64, v*cols), 0)
	a.N, a.Target = 0, ints(t, c, nil)
	dw = buffer(t, c, "dw", fill(v*cols, 9))
	c.LogProb(&kernels.LogProbOut{}, kernels.Dst{}, kernels.Into(dw.buf()), kernels.Dst{}, a)
	close64(t, "dw without rows", dw.values(), plus(make([]float64, v*cols), 9, true), 0)
}
