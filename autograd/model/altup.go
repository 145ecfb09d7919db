package model

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// Streams makes of the embedding the streams that a row of the residual stream
// holds, n of C one after another (Baykal et al. 2023, arXiv:2301.13310), and one of
// them again behind the blocks.
type Streams struct {
	In, Out []*nn.Linear // [C, C] for every stream but the first
	c       int
}

func (l *loader) streams(n int) *Streams {
	s := &Streams{c: l.m.Spec.C}
	for i := 1; i < n; i++ {
		s.In = append(s.In, l.linear(-1-i, arch.StreamsIn))
		s.Out = append(s.Out, l.linear(-1-i, arch.StreamsOut))
	}
	return s
}

// begin makes the streams [N, n·C] of x [N, C], in place of x.
func (s *Streams) begin(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	if len(s.In) == 0 {
		return x
	}
	size := rms(t, x)
	all := x
	for i, l := range s.In {
		next := sized(t, l.ForwardWide(t, x), size)
		wide := t.JoinHeads(all, next, (i+1)*s.c)
		if t.Done(next); all != x {
			t.Done(all)
		}
		all = wide
	}
	t.Done(x, size)
	return all
}

// end makes one stream [N, C] of x [N, n·C], which stays the caller's to mark as Done.
func (s *Streams) end(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	first := t.Columns(x, 0, s.c)
	size := rms(t, first)
	sum := first
	for i, l := range s.Out {
		own := t.Columns(x, (i+1)*s.c, s.c)
		next := sized(t, l.ForwardWide(t, own), size)
		before := sum
		sum = t.Add(before, next, 1, 1)
		t.Done(before, own, next)
	}
	t.Done(size)
	return scaled(t, sum, 1/float32(len(s.Out)+1))
}

// sizedLeast is the least mean square by which sized divides.
const sizedLeast = 1e-5

// sized gives each row of x the root mean square size [N, 1], in place of x.
func sized(t *autograd.Tape, x, size *autograd.Tensor) *autograd.Tensor {
	by := t.Act(autograd.ActSpec{Kind: kernels.Rsqrt, ActParams: kernels.ActParams{Limit: sizedLeast}}, meanSquare(t, x), nil)
	factor := t.Mul(size, by, kernels.ByElement)
	y := t.Mul(x, factor, kernels.ByRow)
	t.Done(x, by, factor)
	return y
}

// rms is the root mean square of each row of x, [N, 1].
func rms(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	square := meanSquare(t, x)
	by := t.Act(autograd.ActSpec{Kind: kernels.Rsqrt, ActParams: kernels.ActParams{Limit: math.SmallestNonzeroFloat32}}, square, nil)
	y := t.Mul(square, by, kernels.ByElement)
	t.Done(square, by)
	return y
}

// meanSquare is the mean square of each row of x, [N, 1].
func meanSquare(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	part := t.Scale(x, 1/float32(x.Cols()))
	square := t.Mul(x, part, kernels.ByElement)
	y := rowSums(t, square)
	t.Done(part, square)
	return y
}

// rowSums are the sums of the rows of x, [N, 1].
func rowSums(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return t.LinearWide(x, constant(t, "ones", 1, x.Cols(), 1), nil)
}

// constant is a matrix of one value, for as long as the tape is.
func constant(t *autograd.Tape, name string, rows, cols int, value float32) *autograd.Param {
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = value
	}
	return &autograd.Param{Name: name, Mat: kernels.Mat{Buffer: t.Upload(v, rows, cols).Data, Rows: rows, Cols: cols, Of: rows}}
}

// altUp lets a layer work on one of the streams: before it, every stream is
// predicted as a mixture of all; behind it, all are corrected by what it changed.
type altUp struct {
	spec             *arch.AltUp
	c                int
	norm             *nn.Norm
	router           *nn.Linear // [n, C]
	predict, correct *nn.Linear // [n·n, n], [n, n]
	scale            *autograd.Param
}

func (l *loader) altUp(layer int, spec *arch.AltUp) *altUp {
	return &altUp{spec, l.m.Spec.C, l.norm(layer, arch.AltNorm), l.linear(layer, arch.AltRouter), l.linear(layer, arch.AltPredict), l.linear(layer, arch.AltCorrect),
		l.take(l.src.At(layer, arch.AltScale))}
}

func (a *altUp) linears() []*nn.Linear { return []*nn.Linear{a.router, a.predict, a.correct} }

// modalities are what coefficients are made of, [N, n], of the stream x [N, C].
func (a *altUp) modalities(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	in := scaled(t, a.norm.ForwardWide(t, x), 1/float32(a.c))
	raw := a.router.ForwardWide(t, in)
	y := t.Act(autograd.ActSpec{Kind: kernels.Tanh}, raw, nil)
	t.Done(in, raw)
	return y
}

func (a *altUp) active(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	return t.Columns(x, a.spec.Active*a.c, a.c)
}

// predicted are the streams [N, n·C] as the layer finds them, of those before it.
func (a *altUp) predicted(t *autograd.Tape, x *autograd.Tensor) *autograd.Tensor {
	own := a.active(t, x)
	from := a.modalities(t, own)
	by := a.predict.ForwardWide(t, from)
	mixed := t.Mix(x, by, a.spec.N)
	y := t.Add(mixed, x, 1, 1)
	t.Done(own, from, by, mixed)
	return y
}

// corrected are the streams behind the layer, which made x [N, C] of the active one.
func (a *altUp) corrected(t *autograd.Tape, predicted, x *autograd.Tensor) *autograd.Tensor {
	from := a.modalities(t, x)
	raw := a.correct.ForwardWide(t, from)
	ones := t.Upload(slicesOf(raw.Rows(), a.spec.N, func(int) float32 { return 1 }), raw.Rows(), a.spec.N)
	by := t.Add(raw, ones, 1, 1)
	own := a.active(t, predicted)
	change := t.Add(x, own, 1, -1)
	each := t.Mix(change, by, 1)
	y := t.Add(each, predicted, 1, 1)
	t.Done(from, raw, ones, by, own, change, each)
	return y
}

// slicesOf are rows of n numbers of their column.
func slicesOf(rows, n int, of func(col int) float32) []float32 {
	out := make([]float32, rows*n)
	for i := range out {
		out[i] = of(i % n)
	}
	return out
}

// wiring is that of sublayer i of three: a mixer and a feed-forward part around the
// active stream, and what adds to all other streams. Between the first two the state
// is the predicted streams and the active one.
func (a *altUp) wiring(subs []sublayer, i int) wiring {
	sub := &subs[i]
	switch i {
	case 0:
		return wiring{held: 2, enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
			all := a.predicted(t, in[0])
			own := a.active(t, all)
			return tensors{all, own}, sub.pre.Forward(t, own)
		}, leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			sum := t.Add(block[1], y, math.Sqrt2/2, math.Sqrt2/2)
			t.Done(y)
			return tensors{block[0], sum}
		}}
	case 1:
		return wiring{held: 2, enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
			return in, sub.pre.Forward(t, in[1])
		}, leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			y = sub.after(t, y)
			own := t.Add(block[1], y, 1, 1)
			all := a.corrected(t, block[0], own)
			t.Done(y, own)
			return tensors{all}
		}}
	case 2:
		return wiring{held: 1, enter: func(t *autograd.Tape, in tensors) (tensors, *autograd.Tensor) {
			own := a.active(t, in[0])
			if a.spec.Unscaled {
				return in, own
			}
			x := t.MulColumns(own, a.scale, nil)
			t.Done(own)
			return in, x
		}, leave: func(t *autograd.Tape, block tensors, y *autograd.Tensor) tensors {
			y = sub.after(t, y)
			others := t.Upload(slicesOf(y.Rows(), a.spec.N, func(stream int) float32 { return float32(min(stream, 1)) }), y.Rows(), a.spec.N)
			each := t.Mix(y, others, 1)
			sum := t.Add(block[0], each, 1, 1)
			t.Done(y, others, each)
			return tensors{sum}
		}}
	}
	panic(fmt.Sprintf("model: %d sublayers around several streams", len(subs)))
}

// laurel is a low-rank map beside a mixer, with what it reads: x + norm(up(down(x))).
type laurel struct {
	down, up *nn.Linear
	norm     *nn.Norm
}

func (l *loader) laurel(layer int) *laurel {
	return &laurel{l.linear(layer, arch.LaurelDown), l.linear(layer, arch.LaurelUp), l.norm(layer, arch.LaurelNorm)}
}

func (l *laurel) steps() []Step {
	return []Step{
		{Linears: l.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			return tensors{in[0], l.down.Forward(t, in[0])}
		}},
		{Linears: []*nn.Linear{l.up}, In: unchanged, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			raw := l.up.ForwardWide(t, in[1])
			y := l.norm.ForwardWide(t, raw)
			sum := t.Add(in[0], y, 1, 1)
			t.Done(raw, y)
			return tensors{sum}
		}},
	}
}

func (l *laurel) readers() []*nn.Linear { return []*nn.Linear{l.down} }

func (l *laurel) smooth() []Pair { return nil }

// sparse is max(0, g - mean - cut·σ) of each row of g, whose mean and standard
// deviation those are, in place of g.
func sparse(t *autograd.Tape, g *autograd.Tensor, cut float32) *autograd.Tensor {
	f := g.Cols()
	z := t.NormWide(g, autograd.NormSpec{Kind: kernels.LayerNorm, Width: f, Eps: 1e-12})
	moved := t.MulColumns(z, constant(t, "ones", 1, f, 1), constant(t, "cut", 1, f, -cut))
	kept := t.Act(autograd.ActSpec{Kind: kernels.ReLU}, moved, nil)
	both := t.Mul(g, z, kernels.ByElement) // whose sum is f·σ
	size := scaled(t, rowSums(t, both), 1/float32(f))
	y := t.Mul(kept, size, kernels.ByRow)
	t.Done(g, z, moved, kept, both, size)
	return y
}
