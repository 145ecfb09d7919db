package autograd

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// RankedSpec says what logits are compared with by rank. A group is a run of rows that
// say a piece of text together, as a token of another tokenizer may.
type RankedSpec struct {
	Groups [][2]int32 // rows [from, to) of each group, in ascending order
	Tokens []int32    // [N] what each row is followed by; of a group's first row it is not read
	Scale  float32    // of logits: 1/temperature
	// Teacher are the probabilities of each group, as Ranks gives them.
	Teacher [][]float32
}

// Ranks are the probabilities that rows of logits [N, V] give each group, the largest
// first: those of its first row, times what its further rows give the tokens that follow
// them, which is the probability of all of them together.
func Ranks(logits []float32, v int, groups [][2]int32, tokens []int32, scale float32) [][]float32 {
	out := make([][]float32, len(groups))
	par.For(len(groups), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			p, _ := groupOf(logits, v, groups[i], tokens, scale)
			order := descending(p)
			out[i] = make([]float32, v)
			for k, at := range order {
				out[i][k] = p[at]
			}
		}
	})
	return out
}

// Ranked is universal logit distillation (Boizard et al. 2024, arXiv:2402.12030): of
// each group the sum over ranks of how far the probabilities of logits [N, V] are from a
// teacher's, the smaller vocabulary continued with zeros. With coef, one of each group,
// the loss is Σ coef·sum, and a recording tape adds its gradient at once to that of
// logits, where Backward begins; nil: no gradient. It is computed on the host.
func (t *Tape) Ranked(logits *Tensor, s RankedSpec, coef []float32) (loss []float32) {
	v := logits.Cols()
	if len(s.Teacher) != len(s.Groups) || len(s.Tokens) != logits.Rows() {
		panic(fmt.Sprintf("autograd: ranked: %d groups of %d rows, a teacher's %d of %d tokens", len(s.Groups), logits.Rows(), len(s.Teacher), len(s.Tokens)))
	}
	z, err := t.Values(logits)
	t.Fail(err)
	loss = make([]float32, len(s.Groups))
	if t.err != nil {
		return loss
	}
	var d []float32
	if coef != nil && t.Record {
		d = make([]float32, len(z))
	}
	par.For(len(s.Groups), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			g, teacher := s.Groups[i], s.Teacher[i]
			p, first := groupOf(z, v, g, s.Tokens, s.Scale)
			order := descending(p)
			sign := make([]float32, v)
			sum, slope := 0.0, 0.0 // of the loss by log p of the whole group
			for k := range max(v, len(teacher)) {
				var own, its float32
				if k < v {
					own = p[order[k]]
				}
				if k < len(teacher) {
					its = teacher[k]
				}
				sum += math.Abs(float64(own) - float64(its))
				switch {
				case k >= v || own == its:
				case own > its:
					sign[order[k]] = 1
					slope += float64(own)
				default:
					sign[order[k]] = -1
					slope -= float64(own)
				}
			}
			loss[i] = float32(sum)
			if d == nil {
				continue
			}
			by := float64(coef[i] * s.Scale)
			row := d[int(g[0])*v : int(g[0]+1)*v]
			for k := range row {
				row[k] = float32(by * (float64(sign[k])*float64(p[k]) - slope*float64(first[k])))
			}
			for r := g[0] + 1; r < g[1]; r++ { // log p of its token
				q := softmax(z[int(r)*v:int(r+1)*v], s.Scale)
				row := d[int(r)*v : int(r+1)*v]
				for k := range row {
					row[k] = float32(-by * slope * float64(q[k]))
				}
				row[s.Tokens[r]] += float32(by * slope)
			}
		}
	})
	if d != nil {
		dst, part := t.grad(logits), t.Upload(d, logits.Rows(), v)
		if t.err == nil {
			t.Dev.Add(dst, &kernels.AddArgs{N: len(d), A: part.Data, Alpha: 1})
		}
		t.Done(part)
	}
	return loss
}

// groupOf are the probabilities of a group, and those of its first row alone.
func groupOf(z []float32, v int, g [2]int32, tokens []int32, scale float32) (p, first []float32) {
	first = softmax(z[int(g[0])*v:int(g[0]+1)*v], scale)
	if g[1] == g[0]+1 {
		return first, first
	}
	rest := 1.0
	for r := g[0] + 1; r < g[1]; r++ {
		rest *= float64(softmax(z[int(r)*v:int(r+1)*v], scale)[tokens[r]])
	}
	p = make([]float32, v)
	for k := range p {
		p[k] = float32(float64(first[k]) * rest)
	}
	return p, first
}

// softmax are the probabilities of z·scale.
func softmax(z []float32, scale float32) []float32 {
	out, top, sum := make([]float32, len(z)), math.Inf(-1), 0.0
	for _, x := range z {
		top = max(top, float64(x)*float64(scale))
	}
	for i, x := range z {
		e := math.Exp(float64(x)*float64(scale) - top)
		out[i] = float32(e)
		sum += e
	}
	for i := range out {
		out[i] = float32(float64(out[i]) / sum)
	}
	return out
}

// descending are the places of p, none of them negative, the largest first and equals in
// order: three passes of a radix sort over the bits.
func descending(p []float32) []int32 {
	const bits = 11
	order, next := make([]int32, len(p)), make([]int32, len(p))
	for i := range order {
		order[i] = int32(i)
	}
	for shift := 0; shift < 32; shift += bits {
		var count [1<<bits + 1]int32
		digit := func(i int32) uint32 { return ^math.Float32bits(p[i]) >> shift & (1<<bits - 1) }
		for _, i := range order {
			count[digit(i)+1]++
		}
		for k := range 1 << bits {
			count[k+1] += count[k]
		}
		for _, i := range order {
			k := digit(i)
			next[count[k]] = i
			count[k]++
		}
		order, next = next, order
	}
	return order
}
