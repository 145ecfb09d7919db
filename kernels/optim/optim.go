// Package optim is the arithmetic of the update rules in plain Go: the
// specification of Backend.Optim, in float32 for backends and in float64 for
// tests. Results are the same at any number of threads.
package optim

import (
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/par"
)

// Float is the type of values and state.
type Float interface{ float32 | float64 }

// Span is a kernels.OptimSpan in memory.
type Span[F Float] struct {
	// Coded makes the step of blocks lo … of a span in 8 bits, up to hi at most, as its
	// rule would on decoded states, and returns the first that it did not; nil: of none.
	Coded func(lo, hi int) int

	P, G              []F
	State             []Moment[F] // one of each name that OptimRule.State lists; 8-bit codes and their scales are one
	Rows, Cols, Block int
	LR, Decay         float64
}

// Moment is one state of a parameter: values, or codes of blocks of
// kernels.OptimBlock with the largest magnitude of each block.
type Moment[F Float] struct {
	V      []F
	Codes  []byte
	AbsMax []F
	Book   *block.Dynamic
}

// Args are kernels.OptimArgs in memory. Clip is the factor of all gradients.
type Args[F Float] struct {
	kernels.OptimRule
	Spans  []Span[F]
	Common []F
	Step   int
	Clip   F
}

// Element updates p from g and the moments m, in the order of OptimRule.State;
// all have the same length. Elements do not look at each other.
type Element[F Float] func(p, g []F, m [][]F)

// grain is the number of elements of one chunk of work.
const grain = 16 << 10

// Update makes one step. element gives the rule of element-wise kinds for one
// span; nil: Elements.
func Update[F Float](a *Args[F], element func(*Span[F]) Element[F]) {
	if element == nil {
		element = func(s *Span[F]) Element[F] { return Elements(a, s) }
	}
	if a.Kind.ElementWise() {
		each(a, element)
		return
	}
	if a.Kind == kernels.Prodigy {
		prodigy(a)
		return
	}
	rule, ok := map[kernels.OptimKind]func(*Args[F], *Span[F]){
		kernels.StableAdamW: stableAdamW[F], kernels.LAMB: lamb[F], kernels.AdamMini: adamMini[F],
		kernels.Adafactor: adafactor[F], kernels.TorchAdafactor: torchAdafactor[F], kernels.CAME: came[F],
	}[a.Kind]
	if !ok {
		panic(fmt.Sprintf("optim: no rule %d", a.Kind))
	}
	for i := range a.Spans {
		rule(a, &a.Spans[i])
	}
}

// each runs an element-wise rule over all spans as if they lay together: many
// small parameters are one piece of work.
func each[F Float](a *Args[F], element func(*Span[F]) Element[F]) {
	ends, rules, n := make([]int, len(a.Spans)), make([]Element[F], len(a.Spans)), 0
	for i := range a.Spans {
		s := &a.Spans[i]
		n += (len(s.P) + kernels.OptimBlock - 1) / kernels.OptimBlock
		ends[i], rules[i] = n, element(s)
	}
	par.For(n, grain/kernels.OptimBlock, func(lo, hi int) {
		i, _ := slices.BinarySearch(ends, lo+1) // the span that holds block lo
		for ; lo < hi; i++ {
			begin := 0
			if i > 0 {
				begin = ends[i-1]
			}
			end := min(ends[i], hi)
			a.Spans[i].blocks(rules[i], lo-begin, end-begin)
			lo = end
		}
	})
}

// blocks updates blocks lo … hi of the span, those in 8 bits one at a time.
func (s *Span[F]) blocks(rule Element[F], lo, hi int) {
	from, to := lo*kernels.OptimBlock, min(hi*kernels.OptimBlock, len(s.P))
	var m [4][]F
	coded := false
	for i, st := range s.State {
		if st.Codes != nil {
			coded = true
		} else {
			m[i] = st.V[from:to]
		}
	}
	if !coded {
		rule(s.P[from:to], s.G[from:to], m[:len(s.State)])
		return
	}
	if s.Coded != nil {
		lo = s.Coded(lo, hi)
	}
	var buf [4][kernels.OptimBlock]F
	for b := lo; b < hi; b++ {
		at, end := b*kernels.OptimBlock, min((b+1)*kernels.OptimBlock, len(s.P))
		for i, st := range s.State {
			m[i] = buf[i][:end-at]
			decode(m[i], st.Codes[at:end], st.AbsMax[b], st.Book)
		}
		rule(s.P[at:end], s.G[at:end], m[:len(s.State)])
		for i, st := range s.State {
			st.AbsMax[b] = encode(st.Codes[at:end], m[i], st.Book)
		}
	}
}

func decode[F Float](dst []F, codes []byte, absmax F, book *block.Dynamic) {
	if x, ok := any(dst).([]float32); ok {
		book.Decode(x, codes, float32(absmax))
		return
	}
	for i, c := range codes {
		dst[i] = F(book.Values[c]) * absmax
	}
}

// encode returns the largest magnitude of x.
func encode[F Float](codes []byte, x []F, book *block.Dynamic) F {
	if x, ok := any(x).([]float32); ok {
		return F(book.Encode(codes, x))
	}
	var top F
	for _, v := range x {
		top = max(top, v, -v)
	}
	r := 1 / max(top, 1e-38)
	for i, v := range x {
		codes[i] = book.Code(float32(v * r))
	}
	return top
}

// total adds f over the chunks of n elements in a fixed order.
func total(n int, f func(lo, hi int) float64) float64 {
	sums := make([]float64, (n+grain-1)/grain)
	par.For(n, grain, func(lo, hi int) { sums[lo/grain] = f(lo, hi) })
	var t float64
	for _, s := range sums {
		t += s
	}
	return t
}

// sumSq is Σ x².
func sumSq[F Float](x []F) float64 {
	return total(len(x), func(lo, hi int) float64 {
		var t float64
		for _, v := range x[lo:hi] {
			t += float64(v) * float64(v)
		}
		return t
	})
}

// rms is the root of the mean square of n elements whose squares sum to sum.
func rms(sum float64, n int) float64 { return math.Sqrt(sum / float64(n)) }

func sqrt[F Float](x F) F { return F(math.Sqrt(float64(x))) }

// blend is a·x + b·y, each product rounded.
func blend[F Float](a, x, b, y F) F { return F(a*x) + F(b*y) }

// unbias is 1 - βᵗ.
func unbias(beta float64, step int) float64 { return 1 - math.Pow(beta, float64(step)) }
