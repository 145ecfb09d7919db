package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// spansOf returns the sequences of a packed batch of n tokens, empty ones too.
func spansOf(what string, seq kernels.Buffer, n int) []span {
	at := i32(seq)
	if len(at) == 0 || at[0] != 0 || int(at[len(at)-1]) != n {
		panic(fmt.Sprintf("cpu: %s: sequences %v do not cover %d tokens", what, at, n))
	}
	out := make([]span, len(at)-1)
	for i := range out {
		if at[i+1] < at[i] {
			panic(fmt.Sprintf("cpu: %s: sequence %d is %d … %d", what, i, at[i], at[i+1]))
		}
		out[i] = span{tok: int(at[i]), n: int(at[i+1] - at[i])}
	}
	return out
}

// states is what sequences begin with and leave behind.
type states struct {
	all  []float32 // nil: sequences begin at zero
	slot []int32
	size int // of one slot
}

func newStates(what string, state, slot kernels.Buffer, sequences, size int) states {
	if state == nil {
		return states{}
	}
	want(what+": slot", slot, sequences)
	s := states{f32(state), i32(slot), size}
	for _, i := range s.slot[:sequences] {
		if i < 0 || (int(i)+1)*size > len(s.all) {
			panic(fmt.Sprintf("cpu: %s: slot %d of %d", what, i, len(s.all)/max(size, 1)))
		}
	}
	return s
}

// of is the state of sequence i, nil when it begins at zero.
func (s states) of(i int) []float32 {
	if s.all == nil {
		return nil
	}
	return s.all[int(s.slot[i])*s.size:][:s.size]
}

// weights returns a vector of weights as float32; nil for nil.
func weights(b kernels.Buffer) []float32 {
	if b == nil {
		return nil
	}
	return widen(make([]float32, b.Len()), b, 0)
}

// noState panics where a gradient is asked for with a state.
func noState(what string, state kernels.Buffer) {
	if state != nil {
		panic(fmt.Sprintf("cpu: %s: a state has no gradient", what))
	}
}

// conv is one Conv1D or its gradient.
type conv struct {
	*kernels.ConvArgs
	x     plain
	taps  []float32 // [Taps, C]
	bias  []float32
	seqs  []span
	state states
}

func newConv(a *kernels.ConvArgs) *conv {
	want("conv1d: x", a.X, a.N*a.C)
	want("conv1d: w", a.W, a.C*a.Taps)
	want("conv1d: bias", a.Bias, a.C)
	v := &conv{ConvArgs: a, x: plainOf(a.X), taps: make([]float32, a.C*a.Taps), bias: weights(a.Bias), seqs: spansOf("conv1d", a.Seq, a.N)}
	v.state = newStates("conv1d", a.State, a.Slot, len(v.seqs), (a.Taps-1)*a.C)
	vec.Transpose(v.taps, a.C, weights(a.W), a.Taps, a.C, a.Taps)
	return v
}

// tap is a row of the transposed weight.
func (v *conv) tap(t int) []float32 { return v.taps[t*v.C:][:v.C] }

// eachToken calls f for every token with its sequence, on several threads, with
// k rows of C floats to use.
func (v *conv) eachToken(c *CPU, k int, f func(n, seq int, tmp []float32)) {
	par.For(v.N, rowGrain(v.C*v.Taps), func(lo, hi int) {
		tmp := c.scratch.take(k * v.C)
		defer c.scratch.give(tmp)
		s := 0
		for n := lo; n < hi; n++ {
			for n >= v.seqs[s].tok+v.seqs[s].n {
				s++
			}
			f(n, s, tmp)
		}
	})
}

// row is the input at token n as sequence seq sees it: before its first token
// that is a row of its state, or nil without one.
func (v *conv) row(tmp []float32, n, seq int) []float32 {
	if at := n - v.seqs[seq].tok; at < 0 {
		old := v.state.of(seq)
		if old == nil {
			return nil
		}
		return old[(v.Taps-1+at)*v.C:][:v.C]
	}
	return v.x.get(tmp, n*v.C)
}

// sum writes the convolution at token n.
func (v *conv) sum(y []float32, n, seq int, tmp []float32) {
	clear(y[copy(y, v.bias):])
	for t := range v.Taps {
		if x := v.row(tmp, n-(v.Taps-1)+t, seq); x != nil {
			vec.MulAcc(y, v.tap(t), x, 1)
		}
	}
}

// Conv1D convolves every channel along its sequence.
func (c *CPU) Conv1D(y kernels.Dst, a *kernels.ConvArgs) {
	v := newConv(a)
	want("conv1d: y", y.Buffer, a.N*a.C)
	if out := plainOf(y.Buffer); !y.Skip() {
		v.eachToken(c, 3, func(n, seq int, tmp []float32) {
			row := tmp[:a.C]
			v.sum(row, n, seq, tmp[a.C:2*a.C])
			if a.SiLU {
				vec.SiLU(row, row, nil)
			}
			out.store(row, n*a.C, y.Add, tmp[2*a.C:])
		})
	}
	if a.State != nil {
		par.For(len(v.seqs), 1, func(lo, hi int) {
			for s := lo; s < hi; s++ {
				v.leave(s)
			}
		})
	}
}

// leave keeps the last rows that sequence s has seen.
func (v *conv) leave(s int) {
	state, end := v.state.of(s), v.seqs[s].tok+v.seqs[s].n
	for t := range v.Taps - 1 { // a row moves to a lower place, if at all
		row := state[t*v.C:][:v.C]
		copy(row, v.row(row, end-(v.Taps-1)+t, s))
	}
}

// Conv1DBackward computes the gradients of the rows and of the weight.
func (c *CPU) Conv1DBackward(dx, dw, db kernels.Dst, dy kernels.Buffer, a *kernels.ConvArgs) {
	noState("conv1d backward", a.State)
	v := newConv(a)
	want("conv1d backward: dx", dx.Buffer, a.N*a.C)
	want("conv1d backward: dw", dw.Buffer, a.C*a.Taps)
	want("conv1d backward: db", db.Buffer, a.C)
	want("conv1d backward: dy", dy, a.N*a.C)
	mem := c.workspace(a.N * a.C)
	defer mem.free()
	g, from := mem.take(a.N*a.C), plainOf(dy) // gradients of the sums
	v.eachToken(c, 2, func(n, seq int, tmp []float32) {
		row := g[n*a.C:][:a.C]
		from.copy(row, n*a.C)
		if a.SiLU {
			sum := tmp[:a.C]
			v.sum(sum, n, seq, tmp[a.C:])
			vec.SiLUGrad(row, nil, row, sum, nil)
		}
	})
	if out := plainOf(dx.Buffer); !dx.Skip() {
		v.eachToken(c, 2, func(n, seq int, tmp []float32) {
			row, end := tmp[:a.C], v.seqs[seq].tok+v.seqs[seq].n
			clear(row)
			for t := a.Taps - 1; t >= 0; t-- {
				if m := n + a.Taps - 1 - t; m < end {
					vec.MulAcc(row, v.tap(t), g[m*a.C:][:a.C], 1)
				}
			}
			out.store(row, n*a.C, dx.Add, tmp[a.C:])
		})
	}
	v.weightGrad(dw, db, g)
}

// weightGrad sums over tokens in float64, a few channels in each task.
func (v *conv) weightGrad(dw, db kernels.Dst, g []float32) {
	const width = 64
	w, b := f32(dw.Buffer), f32(db.Buffer)
	par.For(v.C, width, func(lo, hi int) {
		sums := make([]float64, (v.Taps+1)*width)
		var tmp [width]float32
		for _, s := range v.seqs {
			for n := s.tok; n < s.tok+s.n; n++ {
				grad := g[n*v.C:][lo:hi]
				for t := max(0, v.Taps-1-(n-s.tok)); t < v.Taps; t++ {
					x, sum := v.x.get(tmp[:hi-lo], (n-(v.Taps-1)+t)*v.C+lo), sums[t*width:]
					for i, d := range grad {
						sum[i] += float64(d) * float64(x[i])
					}
				}
				for i, d := range grad {
					sums[v.Taps*width+i] += float64(d)
				}
			}
		}
		for i := lo; i < hi; i++ {
			for t := range v.Taps {
				keepSum(w, i*v.Taps+t, sums[t*width+i-lo], dw.Add)
			}
			keepSum(b, i, sums[v.Taps*width+i-lo], db.Add)
		}
	})
}

// keepSum writes or adds a sum to element i of out, unless that is nil.
func keepSum(out []float32, i int, sum float64, add bool) {
	switch {
	case out == nil:
	case add:
		out[i] += float32(sum)
	default:
		out[i] = float32(sum)
	}
}
