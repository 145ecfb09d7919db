package kerneltest

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func testRoute(s *suite) {
	for _, a := range []kernels.RouteArgs{
		{N: 1, E: 1, K: 1},
		{N: 5, E: 4, K: 2, Renorm: true},
		{N: 90, E: 60, K: 4, Scale: 2.5},
		{N: 33, E: 8, K: 3, Kind: kernels.RouteSoftmaxTopK},
		{N: 33, E: 8, K: 2, Kind: kernels.RouteSigmoid, Scale: 0.5},
		{N: 33, E: 16, K: 4, Kind: kernels.RouteSigmoid, Groups: 4, TopGroups: 2, Best2: true, Renorm: true, Eps: 1e-6, Scale: 2.5},
		{N: 33, E: 12, K: 3, Groups: 3, TopGroups: 1},
		{N: 33, E: 6, K: 2, Kind: kernels.RouteSqrtSoftplus, Renorm: true},
		{N: 33, E: 6, K: 2, Kind: kernels.RouteSparsemixer, Jitter: 0.2},
		{N: 20, E: 5, K: 3, Kind: kernels.RouteSparsemixer, Jitter: 0.4, Renorm: true},
		{N: 0, E: 3, K: 1},
	} {
		for _, biased := range []bool{false, true} {
			s.in(fmt.Sprintf("%+v bias %v", a, biased), func(s *suite) { s.route(a, biased) })
		}
	}
	s.in("ties", func(s *suite) { // the lowest experts of equal ones, in every kind
		for kind := kernels.RouteSoftmax; kind <= kernels.RouteSparsemixer; kind++ {
			a := &kernels.RouteArgs{Kind: kind, N: 2, E: 5, K: 3, Logits: s.up([]float64{1, 2, 1, 2, 1, 0, 0, 0, 0, 0}), Jitter: 0.01}
			out := s.routeOut(a, false)
			s.b.Route(out, a)
			s.sameInts(fmt.Sprintf("kind %d: idx", kind), s.getInts(out.Idx), []int32{1, 3, 0, 0, 1, 2})
		}
	})
	s.in("chosen elsewhere", func(s *suite) {
		a := &kernels.RouteArgs{Kind: kernels.RouteSqrtSoftplus, N: 2, E: 3, K: 2, Renorm: true, Logits: s.up(s.normal(6, 1)), Chosen: s.ints([]int32{2, 0, 1, 2})}
		out := s.routeOut(a, false)
		s.b.Route(out, a)
		s.sameInts("idx", s.getInts(out.Idx), []int32{2, 0, 1, 2})
		s.sameInts("token", s.getInts(out.Token), []int32{0, 1, 0, 1})
		s.sameInts("place", s.getInts(out.Place), []int32{2, 0, 1, 3})
		s.sameInts("group", s.getInts(out.Group), []int32{0, 1, 2, 4})
	})
	s.in("half", func(s *suite) {
		const n, e, k = 40, 9, 2
		logits, dw, dp := s.twin(n*e), s.up(s.normal(n*k, 1)), s.up(s.normal(e, 1))
		var idx [2][]int32
		s.halves([]int{n * e}, func(half bool, d []kernels.Dst) {
			a := &kernels.RouteArgs{N: n, E: e, K: k, Renorm: true, Logits: logits.pick(half)}
			out := s.routeOut(a, true)
			s.b.Route(out, a)
			s.b.RouteBackward(d[0], dw, dp, out, a)
			idx[map[bool]int{true: 1}[half]] = s.getInts(out.Idx)
		})
		s.sameInts("idx", idx[1], idx[0])
	})
}

func (s *suite) sameInts(name string, got, want []int32) {
	s.Helper()
	if !slices.Equal(got, want) {
		s.Errorf("%s: %v, want %v", name, got, want)
	}
}

func (s *suite) routeOut(a *kernels.RouteArgs, probs bool) *kernels.RouteOut {
	ints := func(n int) kernels.Buffer { return s.alloc(dtype.I32, n) }
	n := a.N * a.K
	out := &kernels.RouteOut{Idx: ints(n), Weight: s.alloc(dtype.F32, n), Token: ints(n), Place: ints(n), Group: ints(a.E + 1)}
	if probs {
		out.Probs = s.alloc(dtype.F32, a.E)
	}
	return out
}

// route checks the choice, the weights, the order of the rows and the gradient.
func (s *suite) route(a kernels.RouteArgs, biased bool) {
	logits := s.normal(a.N*a.E, 1.5)
	a.Logits = s.up(logits)
	bias := make([]float64, a.E)
	if biased {
		bias = s.normal(a.E, 0.3)
		a.Bias = s.up(bias)
	}
	idx := choose64(&a, logits, bias)
	weight, probs := weigh64(&a, logits, idx)
	out := s.routeOut(&a, true)
	s.b.Route(out, &a)
	s.sameInts("idx", s.getInts(out.Idx), idx)
	s.close("weight", s.get(out.Weight), weight, f32Tol)
	s.close("probs", s.get(out.Probs), probs, f32Tol)
	s.sortedChoices(&a, out, idx)

	dw, dp := s.normal(a.N*a.K, 1), s.normal(a.E, 1)
	dwb, dpb := s.up(dw), s.up(dp)
	which := s.some(a.N*a.E, 80)
	for _, c := range []struct {
		name         string
		weight, prob float64
	}{{"both", 1, 1}, {"weights alone", 1, 0}, {"probs alone", 0, 1}} {
		loss := func() float64 {
			w, p := weigh64(&a, logits, idx)
			return c.weight*dot(dw, w) + c.prob*dot(dp, p)
		}
		want := gradient(loss, logits, which)
		s.check([]result{{name: "dlogits, " + c.name, n: a.N * a.E, want: want, tol: f32Tol, abs: 1e-6}}, func(d []kernels.Dst) {
			w, p := dwb, dpb
			if c.weight == 0 {
				w = nil
			}
			if c.prob == 0 {
				p = nil
			}
			s.b.RouteBackward(d[0], w, p, out, &a)
		})
	}
}

// sortedChoices checks rows by expert, then token.
func (s *suite) sortedChoices(a *kernels.RouteArgs, out *kernels.RouteOut, idx []int32) {
	s.Helper()
	order := make([]int, len(idx))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(idx[x], idx[y]) })
	token, place, group := make([]int32, len(idx)), make([]int32, len(idx)), make([]int32, a.E+1)
	for row, i := range order {
		token[row], place[i] = int32(i/a.K), int32(row)
	}
	for e := range group {
		for _, x := range idx {
			if int(x) < e {
				group[e]++
			}
		}
	}
	s.sameInts("token", s.getInts(out.Token), token)
	s.sameInts("place", s.getInts(out.Place), place)
	s.sameInts("group", s.getInts(out.Group), group)
}

// scores64 are the scores of a token's experts, of softmax kinds not divided by their sum.
func scores64(a *kernels.RouteArgs, x []float64) []float64 {
	y := make([]float64, len(x))
	for e, v := range x {
		switch a.Kind {
		case kernels.RouteSigmoid:
			y[e] = 1 / (1 + math.Exp(-v))
		case kernels.RouteSqrtSoftplus:
			y[e] = math.Sqrt(math.Log(1 + math.Exp(v)))
		default:
			y[e] = math.Exp(v)
		}
	}
	return y
}

func normalized(x []float64) []float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return scaled(x, 1/sum)
}

func choose64(a *kernels.RouteArgs, logits, bias []float64) []int32 {
	var out []int32
	for n := range a.N {
		x := logits[n*a.E : (n+1)*a.E]
		key := scores64(a, x)
		switch a.Kind {
		case kernels.RouteSoftmax:
			key = normalized(key)
		case kernels.RouteSoftmaxTopK, kernels.RouteSparsemixer:
			key = x
		}
		key = plus(key, bias)
		order := make([]int, a.E)
		for e := range order {
			order[e] = e
		}
		slices.SortStableFunc(order, func(p, q int) int { return cmp.Compare(key[q], key[p]) })
		if a.Groups > 0 {
			order = slices.DeleteFunc(order, func(e int) bool { return !openGroup(a, key, e) })
		}
		for _, e := range order[:a.K] {
			out = append(out, int32(e))
		}
	}
	return out
}

// openGroup reports whether the group of expert e is one of the best.
func openGroup(a *kernels.RouteArgs, key []float64, e int) bool {
	size := a.E / a.Groups
	score := func(g int) float64 {
		part := slices.Sorted(slices.Values(key[g*size : (g+1)*size]))
		if a.Best2 {
			return part[size-1] + part[size-2]
		}
		return part[size-1]
	}
	better := 0
	for g := range a.Groups {
		if score(g) > score(e/size) {
			better++
		}
	}
	return better < a.TopGroups
}

func weigh64(a *kernels.RouteArgs, logits []float64, idx []int32) (weight, probs []float64) {
	probs = make([]float64, a.E)
	for n := range a.N {
		x, own := logits[n*a.E:(n+1)*a.E], idx[n*a.K:(n+1)*a.K]
		score := scores64(a, x)
		spread := normalized(score)
		probs = plus(probs, spread)
		if a.Kind == kernels.RouteSoftmax {
			score = spread
		}
		w := make([]float64, a.K)
		for j, e := range own {
			w[j] = score[e]
			if a.Kind == kernels.RouteSparsemixer {
				w[j] = mixer64(a, x, own[:j], int(e))
			}
		}
		if a.Kind == kernels.RouteSoftmaxTopK {
			w = normalized(w)
		}
		if a.Renorm {
			sum := float64(a.Eps)
			for _, v := range w {
				sum += v
			}
			w = scaled(w, 1/sum)
		}
		if a.Scale != 0 {
			w = scaled(w, float64(a.Scale))
		}
		weight = append(weight, w...)
	}
	return weight, probs
}

// mixer64 is the weight of expert e chosen after others.
func mixer64(a *kernels.RouteArgs, x []float64, before []int32, e int) float64 {
	var sum float64
	for f, l := range x {
		if far := (x[e] - l) / math.Max(math.Abs(l), x[e]); !slices.Contains(before, int32(f)) && far <= 2*float64(a.Jitter) {
			sum += math.Exp(l)
		}
	}
	return math.Exp(x[e]) / sum
}
