package autograd_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// Sizes of the expert layer of the tests: tokens, channels, inner width,
// experts, experts of a token, rank.
const moeN, moeC, moeF, moeE, moeK, moeR = 6, 5, 4, 4, 2, 2

// moe is an expert layer: router, first map with bias and adapter, activation,
// second map, weighted sum.
func moe(t *autograd.Tape, x *autograd.Tensor, router, w1, b1, w2 *autograd.Param, ad *autograd.LowRank) (*autograd.Tensor, *autograd.Routed) {
	logits := t.LinearWide(x, router, nil)
	r := t.Route(logits, kernels.RouteArgs{K: moeK, Renorm: true, Scale: 1.5})
	t.Done(logits)
	in := t.Rows(x, r.Token)
	h := t.ExpertLinear(in, r, w1, b1, ad)
	t.Done(in)
	a := t.Act(autograd.ActSpec{}, h, nil)
	t.Done(h)
	out := t.ExpertLinearWide(a, r, w2, nil)
	t.Done(a)
	y := t.Combine(out, r.Place, r.Weight)
	t.Done(out)
	return y, r
}

// top2 are the experts of the two largest of moeE logits, and their weights.
func top2(l []float64) (idx [moeK]int, w [moeK]float64) {
	order := []int{0, 1, 2, 3}
	slices.SortStableFunc(order, func(a, b int) int {
		if l[a] > l[b] {
			return -1
		}
		return 1
	})
	sum := math.Exp(l[order[0]]) + math.Exp(l[order[1]])
	for j := range moeK {
		idx[j], w[j] = order[j], 1.5*math.Exp(l[order[j]])/sum
	}
	return idx, w
}

func expertCases() []gradCase {
	return []gradCase{
		{"experts", [][2]int{{moeN, moeC}, {moeE, moeC}, {moeE * moeF, moeC}, {1, moeE * moeF}, {moeE * moeC, moeF}, {moeE * moeR, moeC}, {moeE * moeF, moeR}},
			[]bool{false, true, true, true, true, true, true},
			func(in [][]float64) []float64 {
				logits := matT(in[0], in[1], moeN, moeC, moeE)
				y := make([]float64, moeN*moeC)
				for n := range moeN {
					x := in[0][n*moeC : (n+1)*moeC]
					idx, w := top2(logits[n*moeE : (n+1)*moeE])
					for j, e := range idx {
						h := matT(x, in[2][e*moeF*moeC:], 1, moeC, moeF)
						u := matT(x, in[5][e*moeR*moeC:], 1, moeC, moeR)
						h = plus(h, matT(u, in[6][e*moeF*moeR:], 1, moeR, moeF), 1, 2)
						for i := range h {
							h[i] = act64(kernels.SiLU, h[i]+in[3][e*moeF+i])
						}
						for i, v := range matT(h, in[4][e*moeC*moeF:], 1, moeF, moeC) {
							y[n*moeC+i] += w[j] * v
						}
					}
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				y, r := moe(t, x[0], p[1], p[2], p[3], p[4], &autograd.LowRank{A: p[5], B: p[6], Scale: 2})
				t.Done(r.Tensors()...)
				return y
			}},
		{"balance of experts", [][2]int{{moeN, moeE}}, []bool{false},
			func(in [][]float64) []float64 {
				y := make([]float64, moeE)
				for n := range moeN {
					sum := 0.0
					for _, l := range in[0][n*moeE : (n+1)*moeE] {
						sum += math.Exp(l)
					}
					for e := range y {
						y[e] += math.Exp(in[0][n*moeE+e]) / sum
					}
				}
				return y
			},
			func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
				return t.Route(x[0], kernels.RouteArgs{K: moeK}).Probs
			}},
	}
}

// An expert layer with dropout has the same bits with and without keeping its
// inside, and the same for a token wherever it lies in the batch.
func TestCheckpointExperts(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	xv, dy := normal(r, moeN*moeC), normal(r, moeN*moeC)
	weights := [][]float64{normal(r, moeE*moeC), normal(r, moeE*moeF*moeC), normal(r, moeE*moeF), normal(r, moeE*moeC*moeF), normal(r, moeE*moeR*moeC), normal(r, moeE*moeF*moeR)}
	flip := func(v []float64) []float64 {
		out := make([]float64, 0, len(v))
		for n := moeN - 1; n >= 0; n-- {
			out = append(out, v[n*moeC:(n+1)*moeC]...)
		}
		return out
	}
	run := func(keep, flipped bool) [][]float32 {
		shapes := [][2]int{{moeE, moeC}, {moeE * moeF, moeC}, {1, moeE * moeF}, {moeE * moeC, moeF}, {moeE * moeR, moeC}, {moeE * moeF, moeR}}
		p := make([]*autograd.Param, len(shapes))
		for i, s := range shapes {
			p[i] = newParam(t, dev, "w", s[0], s[1], weights[i])
		}
		x, keys, g := xv, []int64{10, 11, 12, 13, 14, 15}, dy
		if flipped {
			x, g = flip(x), flip(g)
			slices.Reverse(keys)
		}
		tape := &autograd.Tape{Dev: dev, Record: true, Seed: 5}
		defer tape.Free()
		tape.Key = tape.Upload(keys, moeN)
		x0 := tape.Input(single(x), moeN, moeC)
		f := func(t *autograd.Tape, in []*autograd.Tensor) []*autograd.Tensor {
			y, r := moe(t, in[0], p[0], p[1], p[2], p[3], &autograd.LowRank{A: p[4], B: p[5], Scale: 2, Dropout: 0.3})
			t.Done(r.Tensors()...)
			return []*autograd.Tensor{y}
		}
		var y *autograd.Tensor
		if keep {
			y = f(tape, []*autograd.Tensor{x0})[0]
		} else {
			y = tape.Checkpoint([]*autograd.Tensor{x0}, f)[0]
		}
		v, err := tape.Values(y)
		if err != nil {
			t.Fatal(err)
		}
		tape.SetGrad(y, single(g))
		if err := tape.Backward(); err != nil {
			t.Fatal(err)
		}
		gx, err := tape.GradOf(x0)
		if err != nil {
			t.Fatal(err)
		}
		out := [][]float32{v, gx}
		for _, w := range p {
			out = append(out, download(t, dev, w.Grad))
		}
		return out
	}
	kept, again, flipped := run(true, false), run(false, false), run(true, true)
	for i := range kept {
		if !slices.Equal(kept[i], again[i]) {
			t.Errorf("array %d: %v, with the inside kept %v", i, again[i], kept[i])
		}
	}
	for i := range 2 { // y and the gradient of x
		want := make([]float64, len(kept[i]))
		for j, v := range kept[i] {
			want[j] = float64(v)
		}
		compare(t, "tokens in the other order", flipped[i], flip(want), tolerance)
	}
	leaks(t, dev)
}

// What experts read is dropped although the gradient of their weight reads it.
func TestRowsAreCheap(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := newParam(t, dev, "w", 3, 5, normal(r, 15))
	tape := &autograd.Tape{Dev: dev, Record: true}
	defer tape.Free()
	rows := tape.Rows(tape.Input(single(normal(r, 20)), 4, 5), tape.Upload([]int32{3, 3, 0}, 3))
	y := tape.Linear(rows, w, nil)
	if tape.Done(rows); rows.Data != nil {
		t.Error("the rows were kept")
	}
	tape.SetGrad(y, make([]float32, 9))
	if err := tape.Backward(); err != nil {
		t.Error(err)
	}
}
