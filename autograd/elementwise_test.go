package autograd_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// each computes an element of y from its index.
func each(n int, f func(i int) float64) []float64 {
	y := make([]float64, n)
	for i := range y {
		y[i] = f(i)
	}
	return y
}

func elementwiseCases() []gradCase {
	const n, c = 4, 6
	cases := []gradCase{
		{"mul by element", [][2]int{{n, c}, {n, c}}, []bool{false, false},
			func(in [][]float64) []float64 { return each(n*c, func(i int) float64 { return in[0][i] * in[1][i] }) },
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.Mul(x[0], x[1], kernels.ByElement)
			}},
		{"mul by row", [][2]int{{n, c}, {n, 1}}, []bool{false, false},
			func(in [][]float64) []float64 {
				return each(n*c, func(i int) float64 { return in[0][i] * in[1][i/c] })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.Mul(x[0], x[1], kernels.ByRow)
			}},
		{"mul by column", [][2]int{{n, c}, {1, c}, {1, c}}, []bool{false, true, true},
			func(in [][]float64) []float64 {
				return each(n*c, func(i int) float64 { return in[0][i]*in[1][i%c] + in[2][i%c] })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.MulColumns(x[0], p[1], p[2])
			}},
		{"mix", [][2]int{{n, c}, {n, 6}}, []bool{false, false}, // 3 sums of 2 parts of 3
			func(in [][]float64) []float64 {
				return each(n*9, func(i int) float64 {
					t, j, k := i/9, i%9/3, i%3
					return in[1][t*6+j*2]*in[0][t*c+k] + in[1][t*6+j*2+1]*in[0][t*c+3+k]
				})
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.Mix(x[0], x[1], 2)
			}},
		{"stack and reshape", [][2]int{{n, c}, {2, c}}, []bool{false, false},
			func(in [][]float64) []float64 {
				all := append(slices.Clone(in[0]), in[1]...)
				return each(len(all), func(i int) float64 { return all[i] * all[i] })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				y := t.Reshape(t.Stack(x[0], x[1]), 2*(n+2), c/2)
				return t.Mul(y, t.Reshape(y, 2*(n+2), c/2), kernels.ByElement)
			}},
		{"sinkhorn", [][2]int{{n, 9}}, []bool{false},
			func(in [][]float64) []float64 {
				var out []float64
				for i := range n {
					out = append(out, doubly(in[0][9*i:9*i+9], 3, 3, 0.01)...)
				}
				return out
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.Sinkhorn(x[0], 3, 3, 0.01)
			}},
		{"columns", [][2]int{{n, c}}, []bool{false}, // 2 and 3 are read twice, 5 by nobody
			func(in [][]float64) []float64 {
				return each(2*n, func(i int) float64 { r, k := i/2*c, i%2; return in[0][r+k+2]*in[0][r+k] + in[0][r+k+2] })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				a, b := t.Columns(x[0], 2, 2), t.Columns(x[0], 0, 2)
				return t.Add(t.Mul(a, b, kernels.ByElement), a, 1, 1)
			}},
		{"columns of heads", [][2]int{{n, c}}, []bool{false}, // of two heads; the first element of each is read twice, the last by nobody
			func(in [][]float64) []float64 {
				return each(2*n, func(i int) float64 { h := i * c / 2; return in[0][h]*in[0][h+1] + in[0][h] })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				a, b := t.HeadColumns(x[0], c/2, 0, 1), t.HeadColumns(x[0], c/2, 1, 1)
				return t.Add(t.Mul(a, b, kernels.ByElement), a, 1, 1)
			}},
		{"join heads", [][2]int{{n, c}, {n, 2}}, []bool{false, false}, // two heads and a tail
			func(in [][]float64) []float64 {
				const d, wide = c / 2, c/2 + 2
				return each(n*2*wide, func(i int) float64 {
					row, head, k := i/(2*wide), i/wide%2, i%wide
					if k < d {
						return in[0][row*c+head*d+k]
					}
					return in[1][row*2+k-d]
				})
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.JoinHeads(x[0], x[1], c/2)
			}},
		{"norm of heads", [][2]int{{2 * n, c}, {2, c}, {2, c}}, []bool{false, true, true},
			func(in [][]float64) []float64 {
				var y []float64
				for r := range 2 * n {
					w := each(c, func(i int) float64 { return 1 + in[1][r%2*c+i] })
					y = append(y, norm64(kernels.LayerNorm, in[0][r*c:(r+1)*c], w, in[2][r%2*c:(r%2+1)*c], 1e-2)...)
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Norm(x[0], autograd.NormSpec{Kind: kernels.LayerNorm, W: p[1], Bias: p[2], Heads: 2, Offset: 1, Eps: 1e-2})
			}},
	}
	for _, s := range []autograd.ActSpec{
		{Kind: kernels.ReLU2}, {Kind: kernels.Sigmoid}, {Kind: kernels.Tanh}, {Kind: kernels.QuickGELU}, {Kind: kernels.Softplus},
		{Kind: kernels.XIELU, ActParams: kernels.ActParams{AlphaP: 0.75, AlphaN: 0.5, Beta: 0.5, Eps: -0x1p-20}},
	} {
		cases = append(cases, gradCase{fmt.Sprint("act alone ", s.Kind), [][2]int{{n, c}}, []bool{false},
			func(in [][]float64) []float64 {
				return each(n*c, func(i int) float64 { return gate64(s, in[0][i]) })
			},
			func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
				return t.Act(s, x[0], nil)
			}})
	}
	for _, l := range []kernels.ActLayout{kernels.Halves, kernels.Interleaved} {
		cases = append(cases, togetherCase(autograd.ActSpec{Layout: l}),
			togetherCase(autograd.ActSpec{Kind: kernels.ClampedSwiGLU, Layout: l, ActParams: kernels.ActParams{Limit: 1, Alpha: 1.75}}))
	}
	return cases
}

// doubly is the transpose of x [s, s], its rows made a softmax, then columns and rows
// divided by their sums in turn.
func doubly(x []float64, s, iters int, eps float64) []float64 {
	m := each(s*s, func(i int) float64 {
		sum := 0.0
		for j := range s {
			sum += math.Exp(x[i/s*s+j] - x[i])
		}
		return 1/sum + eps
	})
	for turn := 1; turn < 2*iters; turn++ {
		m = each(s*s, func(i int) float64 {
			sum := eps
			for j := range s {
				if turn%2 == 1 {
					sum += m[j*s+i%s]
				} else {
					sum += m[i/s*s+j]
				}
			}
			return m[i] / sum
		})
	}
	return each(s*s, func(i int) float64 { return m[i%s*s+i/s] })
}

// togetherCase is an activation whose gates and ups lie in one matrix.
func togetherCase(s autograd.ActSpec) gradCase {
	const n, f = 3, 5
	return gradCase{fmt.Sprint("act ", s.Kind, " layout ", s.Layout), [][2]int{{n, 2 * f}}, []bool{false},
		func(in [][]float64) []float64 {
			return each(n*f, func(i int) float64 {
				g, u := in[0][2*i], in[0][2*i+1]
				if s.Layout == kernels.Halves {
					row, col := i/f*2*f, i%f
					g, u = in[0][row+col], in[0][row+f+col]
				}
				if s.Kind == kernels.ClampedSwiGLU {
					u = 1 + max(-float64(s.Limit), min(u, float64(s.Limit)))
				}
				return gate64(s, g) * u
			})
		},
		func(t *autograd.Tape, x []*autograd.Tensor, _ []*autograd.Param) *autograd.Tensor {
			return t.Act(s, x[0], nil)
		}}
}

// gate64 is the activation of one gate.
func gate64(s autograd.ActSpec, x float64) float64 {
	sigma := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	switch s.Kind {
	case kernels.ReLU2:
		return math.Pow(max(x, 0), 2)
	case kernels.Sigmoid:
		return sigma(x)
	case kernels.Tanh:
		return math.Tanh(x)
	case kernels.QuickGELU:
		return x * sigma(1.702*x)
	case kernels.Softplus:
		return math.Log(1 + math.Exp(x))
	case kernels.XIELU:
		if x > 0 {
			return float64(s.AlphaP)*x*x + float64(s.Beta)*x
		}
		return float64(s.AlphaN)*(math.Exp(min(x, float64(s.Eps)))-1-x) + float64(s.Beta)*x
	case kernels.ClampedSwiGLU:
		x = min(x, float64(s.Limit))
		return x * sigma(float64(s.Alpha)*x)
	}
	return act64(s.Kind, x)
}

// TestFakeQuantPassesStraight: the values are rounded, the gradient is not.
func TestFakeQuantPassesStraight(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	tape := &autograd.Tape{Dev: dev, Record: true}
	x := tape.Input([]float32{-1, 0.3, 1, 2, 0, -8}, 2, 3)
	y := tape.Scale(tape.FakeQuant(x, dtype.Type{Kind: dtype.Int2, Group: -1, Scale: dtype.F32}, kernels.Grid{}), 3)
	got, err := tape.Values(y)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{-4, 0, 2, 0, 0, -32} { // scales 2/3 and 16/3; codes -2 to 1
		if math.Abs(float64(got[i])-want) > 1e-5 {
			t.Errorf("value %d is %v, want %v", i, got[i], want)
		}
	}
	tape.SetGrad(y, []float32{1, 2, 3, 4, 5, 6})
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	g, err := tape.GradOf(x)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range g {
		if v != float32(3*(i+1)) {
			t.Errorf("gradient %d is %v, want %v", i, v, 3*(i+1))
		}
	}
	tape.Free()
	leaks(t, dev)
}
