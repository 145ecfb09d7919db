package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// router is one Route or its gradient. A token's scores are float64.
type router struct {
	*kernels.RouteArgs
	logits plain
	bias   []float32
	chosen []int32
}

func newRouter(a *kernels.RouteArgs) *router {
	if a.K < 1 || a.K > a.E {
		panic(fmt.Sprintf("cpu: route: %d of %d experts", a.K, a.E))
	}
	if a.Groups > 0 && (a.E%a.Groups != 0 || a.TopGroups < 1 || a.TopGroups > a.Groups || a.K > a.E/a.Groups*a.TopGroups) {
		panic(fmt.Sprintf("cpu: route: %d of %d experts in the best %d of %d groups", a.K, a.E, a.TopGroups, a.Groups))
	}
	want("route: logits", a.Logits, a.N*a.E)
	want("route: bias", a.Bias, a.E)
	want("route: chosen", a.Chosen, a.N*a.K)
	return &router{a, plainOf(a.Logits), f32(a.Bias), i32(a.Chosen)}
}

// routeRows is the number of tokens of one task.
func (r *router) routeRows() int { return max(1, elemGrain/8/(r.E*(1+r.K/4))) }

// token is what is known of one token while it is routed.
type token struct {
	x     []float32 // [E] logits
	score []float64 // [E]; of the kinds that weigh the chosen alone: the logits
	key   []float64 // [E] what experts are chosen by
	group []float64 // [Groups] what groups are chosen by
	taken []bool    // [E]
	best  []int32   // [TopGroups]
	raw   []float64 // [K] scores of the chosen
	grad  []float64 // [K] gradients of raw
	near  []float64 // [E] one softmax of RouteSparsemixer
}

func (r *router) newToken() *token {
	f := make([]float64, 3*r.E+r.Groups+2*r.K)
	part := func(n int) []float64 {
		p := f[:n:n]
		f = f[n:]
		return p
	}
	return &token{make([]float32, r.E), part(r.E), part(r.E), part(r.Groups), make([]bool, r.E), make([]int32, r.TopGroups), part(r.K), part(r.K), part(r.E)}
}

// Route chooses the experts of every token, weighs them and sorts the choices.
func (c *CPU) Route(out *kernels.RouteOut, a *kernels.RouteArgs) {
	r := newRouter(a)
	for _, b := range []kernels.Buffer{out.Idx, out.Weight, out.Token, out.Place} {
		want("route: out", b, a.N*a.K)
	}
	want("route: group", out.Group, a.E+1)
	want("route: probs", out.Probs, a.E)
	idx, weight, rows := i32(out.Idx), f32(out.Weight), r.routeRows()
	var sums []float64 // of the distributions of each task's tokens
	if out.Probs != nil {
		sums = make([]float64, ceilDiv(a.N, rows)*a.E)
	}
	par.For(a.N, rows, func(lo, hi int) {
		t := r.newToken()
		for i := lo; i < hi; i++ {
			own := idx[i*a.K : (i+1)*a.K]
			r.read(t, i)
			r.choose(own, t, i)
			r.weigh(t, own)
			sum, scale := r.total(t), float64(orOne(a.Scale))
			for j, s := range t.raw {
				weight[i*a.K+j] = float32(scale * s / sum)
			}
			if sums != nil {
				r.spread(t.key, t)
				for e, p := range t.key {
					sums[lo/rows*a.E+e] += p
				}
			}
		}
	})
	sortChoices(i32(out.Token), i32(out.Place), i32(out.Group), idx, a.N, a.K, a.E)
	if sums != nil {
		probs := f32(out.Probs)
		for e := range a.E {
			var p float64
			for i := e; i < len(sums); i += a.E {
				p += sums[i]
			}
			probs[e] = float32(p)
		}
	}
}

// sortChoices counts the choices of each expert and gives them rows, stably.
func sortChoices(token, place, group, idx []int32, n, k, experts int) {
	clear(group[:experts+1])
	for _, e := range idx[:n*k] {
		group[e+1]++
	}
	next := make([]int32, experts)
	for e := range next {
		group[e+1] += group[e]
		next[e] = group[e]
	}
	for i, e := range idx[:n*k] {
		place[i] = next[e]
		token[next[e]] = int32(i / k)
		next[e]++
	}
}

// read computes the scores of token i.
func (r *router) read(t *token, i int) {
	t.x = r.logits.get(t.x, i*r.E)
	switch r.Kind {
	case kernels.RouteSoftmax:
		softmax64(t.score, t.x)
	case kernels.RouteSigmoid:
		for e, x := range t.x {
			t.score[e] = sigmoid64(float64(x))
		}
	case kernels.RouteSqrtSoftplus:
		for e, x := range t.x {
			t.score[e] = math.Sqrt(softplus64(float64(x)))
		}
	case kernels.RouteSoftmaxTopK, kernels.RouteSparsemixer:
		for e, x := range t.x {
			t.score[e] = float64(x)
		}
	default:
		panic(fmt.Sprintf("cpu: route: no kind %d", r.Kind))
	}
}

// choose writes the experts of token i, the best first.
func (r *router) choose(own []int32, t *token, i int) {
	if r.chosen != nil {
		copy(own, r.chosen[i*r.K:])
		for _, e := range own {
			if e < 0 || int(e) >= r.E {
				panic(fmt.Sprintf("cpu: route: expert %d of %d", e, r.E))
			}
		}
		return
	}
	copy(t.key, t.score)
	for e, b := range r.bias {
		t.key[e] += float64(b)
	}
	if r.Groups > 0 {
		r.closeGroups(t)
	}
	topK(own, t.key, t.taken)
}

// closeGroups makes the keys of experts outside of the best groups -Inf.
func (r *router) closeGroups(t *token) {
	size := r.E / r.Groups
	for g := range t.group {
		first, second := math.Inf(-1), math.Inf(-1)
		for _, k := range t.key[g*size : (g+1)*size] {
			if k > first {
				first, second = k, first
			} else if k > second {
				second = k
			}
		}
		t.group[g] = first
		if r.Best2 && size > 1 {
			t.group[g] = first + second
		}
	}
	topK(t.best, t.group, t.taken)
	open := t.taken[:r.Groups]
	clear(open)
	for _, g := range t.best {
		open[g] = true
	}
	for e := range t.key {
		if !open[e/size] {
			t.key[e] = math.Inf(-1)
		}
	}
}

// topK writes the indices of the largest keys, the lowest of equal ones first.
func topK(idx []int32, key []float64, taken []bool) {
	clear(taken)
	for j := range idx {
		best := -1
		for e, k := range key {
			if !taken[e] && (best < 0 || k > key[best]) {
				best = e
			}
		}
		taken[best] = true
		idx[j] = int32(best)
	}
}

// weigh writes the chosen experts' scores to raw.
func (r *router) weigh(t *token, own []int32) {
	switch r.Kind {
	case kernels.RouteSoftmaxTopK:
		top, sum := math.Inf(-1), 0.0
		for _, e := range own {
			top = math.Max(top, t.score[e])
		}
		for j, e := range own {
			t.raw[j] = math.Exp(t.score[e] - top)
			sum += t.raw[j]
		}
		for j := range own {
			t.raw[j] /= sum
		}
	case kernels.RouteSparsemixer:
		for j, e := range own {
			r.nearest(t, own, j)
			t.raw[j] = t.near[e]
		}
	default:
		for j, e := range own {
			t.raw[j] = t.score[e]
		}
	}
}

// nearest is the softmax of choice j of RouteSparsemixer.
func (r *router) nearest(t *token, own []int32, j int) {
	m := t.score[own[j]]
	var sum float64
	for e, l := range t.score {
		t.near[e] = 0
		if !((m-l)/math.Max(math.Abs(l), m) > 2*float64(r.Jitter)) {
			t.near[e] = math.Exp(l - m)
		}
	}
	for _, e := range own[:j] {
		t.near[e] = 0
	}
	for _, p := range t.near {
		sum += p
	}
	for e := range t.near {
		t.near[e] /= sum
	}
}

// total is what raw scores are divided by.
func (r *router) total(t *token) float64 {
	if !r.Renorm {
		return 1
	}
	sum := float64(r.Eps)
	for _, s := range t.raw {
		sum += s
	}
	return sum
}

// alone reports whether each score stands by itself.
func (r *router) alone() bool {
	return r.Kind == kernels.RouteSigmoid || r.Kind == kernels.RouteSqrtSoftplus
}

// spread writes the token's distribution over all experts and returns what the
// scores were divided by.
func (r *router) spread(p []float64, t *token) float64 {
	switch {
	case r.alone():
		var sum float64
		for _, s := range t.score {
			sum += s
		}
		for e, s := range t.score {
			p[e] = s / sum
		}
		return sum
	case r.Kind == kernels.RouteSoftmax:
		copy(p, t.score)
	default:
		softmax64(p, t.x)
	}
	return 1
}

// RouteBackward computes the gradient of the logits, token by token.
func (c *CPU) RouteBackward(dlogits kernels.Dst, dweight, dprobs kernels.Buffer, out *kernels.RouteOut, a *kernels.RouteArgs) {
	if dlogits.Skip() {
		return
	}
	r := newRouter(a)
	want("route backward: dlogits", dlogits.Buffer, a.N*a.E)
	want("route backward: dweight", dweight, a.N*a.K)
	want("route backward: dprobs", dprobs, a.E)
	want("route backward: idx", out.Idx, a.N*a.K)
	d, dw, dp, idx := plainOf(dlogits.Buffer), f32(dweight), f32(dprobs), i32(out.Idx)
	par.For(a.N, r.routeRows(), func(lo, hi int) {
		t, dl := r.newToken(), make([]float64, a.E)
		row, tmp := make([]float32, a.E), make([]float32, a.E)
		for i := lo; i < hi; i++ {
			clear(dl)
			own := idx[i*a.K : (i+1)*a.K]
			r.read(t, i)
			if dw != nil {
				r.weigh(t, own)
				r.unscale(t, dw[i*a.K:(i+1)*a.K])
				r.addWeights(dl, t, own)
			}
			if dp != nil {
				r.addProbs(dl, t, dp)
			}
			for e, v := range dl {
				row[e] = float32(v)
			}
			d.store(row, i*a.E, dlogits.Add, tmp)
		}
	})
}

// unscale writes the gradients of raw from those of the weights.
func (r *router) unscale(t *token, dw []float32) {
	sum, scale, mean := r.total(t), float64(orOne(r.Scale)), 0.0
	if r.Renorm {
		for j, s := range t.raw {
			mean += float64(dw[j]) * s / sum
		}
	}
	for j := range t.raw {
		t.grad[j] = scale * (float64(dw[j]) - mean) / sum
	}
}

// addWeights adds the gradients of the logits from those of raw.
func (r *router) addWeights(dl []float64, t *token, own []int32) {
	switch r.Kind {
	case kernels.RouteSparsemixer:
		for j, e := range own {
			r.nearest(t, own, j)
			g := t.grad[j] * t.near[e]
			dl[e] += g
			for f, p := range t.near {
				dl[f] -= g * p
			}
		}
	case kernels.RouteSoftmax, kernels.RouteSoftmaxTopK:
		var mean float64
		for j, s := range t.raw {
			mean += t.grad[j] * s
		}
		for j, e := range own {
			dl[e] += t.raw[j] * t.grad[j]
			if r.Kind == kernels.RouteSoftmaxTopK {
				dl[e] -= t.raw[j] * mean
			}
		}
		if r.Kind == kernels.RouteSoftmax {
			for e, p := range t.score {
				dl[e] -= p * mean
			}
		}
	default:
		for j, e := range own {
			dl[e] += t.grad[j] * r.slope(t, int(e))
		}
	}
}

// slope is the derivative of a score that stands by itself.
func (r *router) slope(t *token, e int) float64 {
	s := t.score[e]
	switch {
	case r.Kind == kernels.RouteSigmoid:
		return s * (1 - s)
	case s == 0:
		return 0
	}
	return sigmoid64(float64(t.x[e])) / (2 * s)
}

// addProbs adds the gradients of the logits from those of the summed distributions.
func (r *router) addProbs(dl []float64, t *token, dp []float32) {
	sum, mean := r.spread(t.key, t), 0.0
	for e, p := range t.key {
		mean += float64(dp[e]) * p
	}
	for e, p := range t.key {
		if r.alone() {
			dl[e] += (float64(dp[e]) - mean) / sum * r.slope(t, e)
		} else {
			dl[e] += p * (float64(dp[e]) - mean)
		}
	}
}

func softmax64(p []float64, x []float32) {
	top, sum := math.Inf(-1), 0.0
	for _, v := range x {
		top = math.Max(top, float64(v))
	}
	for i, v := range x {
		p[i] = math.Exp(float64(v) - top)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
}

func sigmoid64(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// softplus64 is ln(1+eˣ).
func softplus64(x float64) float64 {
	if x > 0 {
		return x + math.Log1p(math.Exp(-x))
	}
	return math.Log1p(math.Exp(x))
}
