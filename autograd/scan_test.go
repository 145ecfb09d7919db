package autograd_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// scanSeq are the sequences of the tests below.
var scanSeq = []int32{0, 5, 11}

const scanN = 11

// eachToken calls f in order with whether a sequence begins.
func eachToken(f func(n int, first bool)) {
	for n := range scanN {
		f(n, slices.Contains(scanSeq, int32(n)))
	}
}

func seqOf(t *autograd.Tape) *autograd.Tensor { return t.Upload(scanSeq, len(scanSeq)) }

func scanCases() []gradCase {
	return []gradCase{convCase(true), convCase(false), convPartCase(), deltaCase(false), deltaCase(true), ssmCase(false), ssmCase(true)}
}

func convCase(silu bool) gradCase {
	const c, taps = 4, 3
	return gradCase{name("convolution silu", silu), [][2]int{{scanN, c}, {c, taps}, {1, c}}, []bool{false, true, true},
		func(in [][]float64) []float64 {
			y := make([]float64, scanN*c)
			from := 0
			eachToken(func(n int, first bool) {
				if first {
					from = n
				}
				for ch := range c {
					sum := in[2][ch]
					for t := range taps {
						if m := n - (taps - 1) + t; m >= from {
							sum += in[1][ch*taps+t] * in[0][m*c+ch]
						}
					}
					if silu {
						sum = act64(kernels.SiLU, sum)
					}
					y[n*c+ch] = sum
				}
			})
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			return t.Conv1D(x[0], autograd.ConvSpec{W: p[1], Bias: p[2], Seq: seqOf(t), SiLU: silu})
		}}
}

// convPartCase convolves the last two of three channels with their part of a weight.
func convPartCase() gradCase {
	const all, taps = 3, 2
	return gradCase{"part of a convolution", [][2]int{{scanN, all - 1}, {all, taps}, {1, all}}, []bool{false, true, true},
		func(in [][]float64) []float64 {
			y := make([]float64, scanN*(all-1))
			eachToken(func(n int, first bool) {
				for ch := range all - 1 {
					sum := in[2][1+ch] + in[1][(1+ch)*taps+1]*in[0][n*(all-1)+ch]
					if !first {
						sum += in[1][(1+ch)*taps] * in[0][(n-1)*(all-1)+ch]
					}
					y[n*(all-1)+ch] = sum
				}
			})
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			return t.Conv1D(x[0], autograd.ConvSpec{W: p[1], Bias: p[2], First: 1, Seq: seqOf(t)})
		}}
}

func name(what string, on bool) string {
	if on {
		return what
	}
	return what + " off"
}

// deltaCase has two heads on one key head. Inputs: q, k, v, gate, beta, ALog, DtBias.
func deltaCase(channel bool) gradCase {
	const h, dk, dv = 2, 3, 4
	w := 1
	if channel {
		w = dk
	}
	return gradCase{name("delta rule by channel", channel), [][2]int{{scanN, dk}, {scanN, dk}, {scanN, h * dv}, {scanN, h * w}, {scanN, h}, {1, h}, {1, h * w}},
		[]bool{false, false, false, false, false, true, true},
		func(in [][]float64) []float64 {
			o := make([]float64, scanN*h*dv)
			for hd := range h {
				var m [dk][dv]float64
				eachToken(func(n int, first bool) {
					if first {
						m = [dk][dv]float64{}
					}
					for i := range dk {
						at := hd*w + i%w
						decay := math.Exp(-math.Exp(in[5][hd]) * math.Log(1+math.Exp(in[3][n*h*w+at]+in[6][at])))
						for j := range dv {
							m[i][j] *= decay
						}
					}
					for j := range dv {
						change := in[2][(n*h+hd)*dv+j]
						for i := range dk {
							change -= m[i][j] * 0.5 * in[1][n*dk+i]
						}
						for i := range dk {
							m[i][j] += 0.5 * in[1][n*dk+i] * in[4][n*h+hd] * change
							o[(n*h+hd)*dv+j] += 2 * in[0][n*dk+i] * m[i][j]
						}
					}
				})
			}
			return o
		},
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			return t.DeltaScan(x[0], x[1], x[2], x[3], x[4], autograd.DeltaSpec{H: h, K: 1, Dk: dk, Dv: dv, Seq: seqOf(t), PerChannel: channel,
				ALog: p[5], DtBias: p[6], Scale: 2, KeyScale: 0.5})
		}}
}

// ssmCase has two heads in one group. Inputs: x, b, c, dt, ALog, DtBias, D.
func ssmCase(perState bool) gradCase {
	const h, p, s = 2, 3, 4
	rates := h
	if perState {
		rates = h * s
	}
	return gradCase{name("selective scan by state", perState), [][2]int{{scanN, h * p}, {scanN, s}, {scanN, s}, {scanN, h}, {1, rates}, {1, h}, {1, h}},
		[]bool{false, false, false, false, true, true, true},
		func(in [][]float64) []float64 {
			y := make([]float64, scanN*h*p)
			for hd := range h {
				var m [p][s]float64
				eachToken(func(n int, first bool) {
					if first {
						m = [p][s]float64{}
					}
					dt := math.Log(1 + math.Exp(in[3][n*h+hd]+in[5][hd]))
					for i := range p {
						x := in[0][(n*h+hd)*p+i]
						sum := in[6][hd] * x
						for j := range s {
							rate := hd
							if perState {
								rate = hd*s + j
							}
							m[i][j] = m[i][j]*math.Exp(-dt*math.Exp(in[4][rate])) + dt*x*in[1][n*s+j]
							sum += m[i][j] * in[2][n*s+j]
						}
						y[(n*h+hd)*p+i] = sum
					}
				})
			}
			return y
		},
		func(t *autograd.Tape, x []*autograd.Tensor, w []*autograd.Param) *autograd.Tensor {
			return t.SSMScan(x[0], x[1], x[2], x[3], autograd.SSMSpec{H: h, P: p, G: 1, S: s, Seq: seqOf(t), PerState: perState, ALog: w[4], DtBias: w[5], D: w[6]})
		}}
}

// A state carries a sequence from one pass to the next, and has no gradient.
func TestRecurrent(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	const c, taps, n = 3, 3, 6
	w, x := newParam(t, dev, "w", c, taps, normal(r, c*taps)), single(normal(r, n*c))
	state, err := dev.Alloc(kernels.Activations, dtype.Of(dtype.F32), (taps-1)*c)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Free(state)
	dev.Fill(state, 0)
	run := func(x []float32, carry bool) []float32 {
		tape := &autograd.Tape{Dev: dev}
		defer tape.Free()
		rows := len(x) / c
		s := autograd.ConvSpec{W: w, Seq: tape.Upload([]int32{0, int32(rows)}, 2)}
		if carry {
			s.State = autograd.Recurrent{State: state, Slot: tape.Upload([]int32{0}, 1)}
		}
		y, err := tape.Values(tape.Conv1D(tape.Upload(x, rows, c), s))
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	whole := run(x, false)
	if parts := slices.Concat(run(x[:4*c], true), run(x[4*c:5*c], true), run(x[5*c:], true)); !slices.Equal(parts, whole) {
		t.Errorf("in parts %v, at once %v", parts, whole)
	}
	defer func() {
		if recover() == nil {
			t.Error("a state was taken while recording")
		}
	}()
	tape := &autograd.Tape{Dev: dev, Record: true}
	defer tape.Free()
	tape.Conv1D(tape.Input(x, n, c), autograd.ConvSpec{W: w, Seq: tape.Upload([]int32{0, n}, 2), State: autograd.Recurrent{State: state, Slot: tape.Upload([]int32{0}, 1)}})
}
