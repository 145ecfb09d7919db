package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
)

// What is done to scores between the product and the softmax, and after it.

// shape makes raw scores of a query of head h ready for exp(scale·s): it squeezes
// them and adds what belongs to distances; distance(j) is how far key j lies
// behind the query. slope is what gradients of squeezed scores are multiplied by.
func (a *attn) shape(s, slope []float32, h int, distance func(j int) int) {
	if a.squeeze > 0 {
		vec.MulScale(s, s, nil, a.squeeze)
		vec.Tanh.Slope(s, slope, s)
		vec.MulScale(slope, slope, nil, a.squeeze)
	}
	if a.rel != nil {
		for j, x := range s {
			s[j] = float32(a.scaled*x) + a.rel[a.relAt(distance(j))*a.H+h]
		}
	}
}

// relAt is the row of Rel for a query so far after its key.
func (a *attn) relAt(distance int) int { return min(max(0, a.RelZero+distance), a.Span-1) }

// unshape turns p, weights, and ds, their gradients, into gradients of raw
// scores in ds, given Σ p·ds and shape's slope. Those of what shape added are
// summed into rel [Span], nil: not wanted.
func (a *attn) unshape(ds, p, slope []float32, delta float32, rel []float64, distance func(j int) int) {
	vec.SoftGrad(ds, p, delta, a.scale)
	if rel != nil {
		for j, x := range ds {
			rel[a.relAt(distance(j))] += float64(x)
		}
	}
	if a.rel != nil {
		vec.MulScale(ds, ds, nil, a.scaled)
	}
	if a.squeeze > 0 {
		vec.MulScale(ds, ds, slope, 1)
	}
}

// settle ends the softmax of a row of head h, whose largest score is top and
// whose weights relative to it sum up to sum: it returns what the row of
// weighted values is multiplied by, and the log-sum-exp.
func (a *attn) settle(h int, top, sum float64) (factor, lse float64) {
	scaled := 1.0
	if a.sinks != nil {
		sink := float64(a.sinks[h])
		most := math.Max(top, sink)
		scaled = math.Exp(top - most)
		top, sum = most, sum*scaled+math.Exp(sink-most)
	}
	if sum == 0 { // no key and no sink
		return 0, math.Inf(-1)
	}
	return scaled / sum, top + math.Log(sum)
}

// write puts a row times factor into o, in the row's memory, and keeps lse.
func (a *attn) write(tok, h int, row []float32, factor, lse float64) {
	vec.MulScale(row, row, nil, float32(factor))
	at := a.o.Off + tok*a.o.Tok + h*a.o.Head
	var tmp []float32
	if a.os.h != nil && a.o.Add {
		tmp = a.c.scratch.take(a.dv)
		defer a.c.scratch.give(tmp)
	}
	a.os.store(row, at, a.o.Add, tmp)
	if a.lse != nil {
		a.lse[tok*a.H+h] = float32(lse)
	}
}
