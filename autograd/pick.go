package autograd

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// PickSpec says how keys are picked for attention (DeepSeek-AI 2025, DeepSeek-V3.2,
// section 2.1): each of H small heads scores every key before a token, and the P keys
// with the largest weighted sums of what is above zero are seen.
type PickSpec struct {
	H, D, P int
	Runs    []PickRun
	Every   int         // above 0: a key is of so many tokens, and is seen from the last of them on; 0: of one
	Keys    *kernels.KV // of a cache, one head of D; nil: the keys of the call
}

// PickRun are tokens From … To of one sequence, the last of them at its last key.
// Their keys are Keys in number, from row First of those of the call on, or those of
// slot First of a cache.
//
// At is the position of the first of the tokens, where keys are of several tokens.
type PickRun struct{ From, To, First, Keys, At int }

// All reports whether every token sees all keys there are.
func (s PickSpec) All() bool {
	for _, r := range s.Runs {
		if r.Keys > s.P {
			return false
		}
	}
	return true
}

// pickRows is the most scores of keys that are held at a time. It is a constant:
// results must not depend on the machine.
const pickRows = 1 << 24

// Pick returns the picked keys [N, P] int32 for queries q [N, H·D] with keys
// k [N, D] and weights w [N, H], -1 where a token sees fewer; nil where every token
// sees all there are. It has no gradient.
func (t *Tape) Pick(q, k, w *Tensor, s PickSpec) *Tensor {
	if q.Cols() != s.H*s.D || w.Cols() != s.H {
		panic(fmt.Sprintf("autograd: pick: q %v, w %v of %d heads of %d", q.Shape, w.Shape, s.H, s.D))
	}
	if s.All() {
		return nil
	}
	pick := t.alloc(kernels.Activations, dtype.I32, q.Rows(), s.P)
	qv, wv := t.value(q), t.value(w)
	var kv kernels.Buffer
	if s.Keys != nil {
		kv = s.Keys.Keys
	} else {
		kv = t.value(k)
	}
	for _, r := range s.Runs {
		if t.err != nil {
			break
		}
		if r.Keys <= s.P {
			t.pickAll(pick, r, s.P)
			continue
		}
		first := r.First
		if s.Keys != nil {
			first *= s.Keys.Max
		}
		keys := t.Dev.Slice(kv, first*s.D, r.Keys*s.D)
		step := max(1, pickRows/(s.H*r.Keys))
		for from := r.From; from < r.To && t.err == nil; from += step {
			n := min(step, r.To-from)
			pos := r.Keys - (r.To - from)
			if s.Every > 0 {
				pos = r.At + from - r.From
			}
			t.pickSome(t.Dev.Slice(pick.Data, from*s.P, n*s.P), t.Dev.Slice(qv, from*s.H*s.D, n*s.H*s.D), keys, t.Dev.Slice(wv, from*s.H, n*s.H), n, pos, r.Keys, s)
		}
	}
	return pick
}

// pickAll lets the tokens of r see every key.
func (t *Tape) pickAll(pick *Tensor, r PickRun, p int) {
	list := make([]int32, 0, (r.To-r.From)*p)
	for range r.To - r.From {
		for j := range p {
			if j >= r.Keys {
				j = -1
			}
			list = append(list, int32(j))
		}
	}
	t.Dev.Upload(t.Dev.Slice(pick.Data, r.From*p, len(list)), kernels.Bytes(list))
}

// pickSome picks for n tokens at positions pos and after.
func (t *Tape) pickSome(pick, q, keys, w kernels.Buffer, n, pos, m int, s PickSpec) {
	var made []kernels.Buffer
	alloc := func(k dtype.Kind, n int) kernels.Buffer {
		b, err := t.Dev.Alloc(kernels.Scratch, dtype.Of(k), n)
		if err != nil {
			t.Fail(err)
			return nil
		}
		made = append(made, b)
		return b
	}
	defer func() {
		for _, b := range made {
			t.Dev.Free(b)
		}
	}()
	raw, each, sum := alloc(dtype.F32, n*s.H*m), alloc(dtype.F32, n*s.H*m), alloc(dtype.F32, n*m)
	idx, unseen := alloc(dtype.I32, n*s.H), alloc(dtype.F32, n*m)
	out := &kernels.RouteOut{Idx: pick, Weight: alloc(dtype.F32, n*s.P), Token: alloc(dtype.I32, n*s.P), Place: alloc(dtype.I32, n*s.P), Group: alloc(dtype.I32, m+1)}
	if t.err != nil {
		return
	}
	rows, hide := make([]int32, n*s.H), make([]float32, n*m)
	for i := range rows {
		rows[i] = int32(i)
	}
	for i := range n {
		first := pos + i + 1 // that is not seen
		if s.Every > 0 {
			first /= s.Every
		}
		for j := first; j < m; j++ {
			hide[i*m+j] = float32(math.Inf(-1))
		}
	}
	t.Dev.Upload(idx, kernels.Bytes(rows))
	t.Dev.Upload(unseen, kernels.Bytes(hide))
	t.Dev.Gemm(kernels.To(raw), &kernels.GemmArgs{A: q, B: keys, TB: true, M: n * s.H, N: m, K: s.D, Alpha: 1})
	t.Dev.Act(kernels.To(each), &kernels.ActArgs{Kind: kernels.ReLU, N: n * s.H, F: m, Gate: raw})
	table := kernels.Mat{Buffer: each, Rows: n * s.H, Cols: m, Of: n * s.H}
	t.Dev.Gather(kernels.To(sum), &kernels.GatherArgs{N: n, K: s.H, Table: table, Idx: idx, Weight: w})
	t.Dev.Add(kernels.To(sum), &kernels.AddArgs{N: n * m, A: sum, B: unseen, Alpha: 1, Beta: 1})
	// The largest sums, as a router chooses the largest logits.
	t.Dev.Route(out, &kernels.RouteArgs{Kind: kernels.RouteSoftmaxTopK, N: n, E: m, K: s.P, Logits: sum})
}
