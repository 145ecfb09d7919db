package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// TestThreads: every operation gives the same bits at any number of threads.
func TestThreads(t *testing.T) {
	defer par.SetThreads(0)
	want := map[string][]uint32{}
	numbers := []int{1, 2, 3, 7}
	if testing.Short() {
		numbers = []int{1, 3}
	}
	for _, n := range numbers {
		par.SetThreads(n)
		for name, got := range manyOps(t) {
			if n == 1 {
				want[name] = got
				continue
			}
			for i := range got {
				if got[i] != want[name][i] {
					t.Errorf("%s: element %d differs at %d threads", name, i, n)
					break
				}
			}
		}
	}
}

// bench is a CPU with random inputs whose order of creation is fixed.
type bench struct {
	testing.TB
	*CPU
	rng *rand.Rand
}

func newBench(t testing.TB) *bench {
	return &bench{t, New(Options{}), rand.New(rand.NewPCG(3, 4))}
}

func (b *bench) random(n int) kernels.Buffer {
	x := b.empty(n)
	for i, s := 0, f32(x); i < n; i++ {
		s[i] = float32(b.rng.NormFloat64())
	}
	return x
}

func (b *bench) empty(n int) kernels.Buffer {
	x, err := b.Alloc(kernels.Activations, dtype.Of(dtype.F32), n)
	if err != nil {
		b.Fatal(err)
	}
	return x
}

// half is x rounded to bf16.
func (b *bench) half(x kernels.Buffer) kernels.Buffer {
	h, err := b.Alloc(kernels.Activations, dtype.Of(dtype.BF16), x.Len())
	if err != nil {
		b.Fatal(err)
	}
	b.Add(kernels.To(h), &kernels.AddArgs{N: x.Len(), A: x, Alpha: 1})
	return h
}

func (b *bench) ints(v ...int32) kernels.Buffer {
	x, err := b.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(v))
	if err != nil {
		b.Fatal(err)
	}
	copy(i32(x), v)
	return x
}

func manyOps(t *testing.T) map[string][]uint32 {
	b := newBench(t)
	out := map[string][]uint32{}
	keep := func(name string, bufs ...kernels.Buffer) {
		for i, x := range bufs {
			for _, v := range f32(x) {
				out[fmt.Sprint(name, i)] = append(out[fmt.Sprint(name, i)], math.Float32bits(v))
			}
		}
	}
	const n, c, h, k, d = 700, 96, 6, 2, 16
	x, dy, w := b.random(n*c), b.random(n*c), b.random(c)
	y, dx, dw, stats := b.empty(n*c), b.empty(n*c), b.empty(c), b.empty(n)
	na := &kernels.NormArgs{N: n, C: c, X: x, W: w, Eps: 1e-5}
	b.Norm(kernels.To(y), kernels.Dst{}, stats, na)
	b.NormBackward(kernels.To(dx), kernels.To(dw), kernels.Dst{}, dy, stats, na)
	keep("norm", y, stats, dx, dw)

	aa := &kernels.AttnArgs{N: n, H: h, K: k, Dk: d, Seq: b.ints(0, 13, 600, n), Scale: 0.25}
	q, kk, v := b.random(n*h*d), b.random(n*k*d), b.random(n*k*d)
	o, lse := b.empty(n*h*d), b.empty(n*h)
	dq, dk, dv := b.empty(n*h*d), b.empty(n*k*d), b.empty(n*k*d)
	hv := func(x kernels.Buffer, h int) kernels.Heads { return kernels.Heads{Buffer: x, Tok: h * d, Head: d} }
	b.Attention(hv(o, h), lse, hv(q, h), hv(kk, k), hv(v, k), aa)
	b.AttentionBackward(&kernels.AttnGrads{Q: hv(dq, h), K: hv(dk, k), V: hv(dv, k)}, hv(dy, h), hv(o, h), lse, hv(q, h), hv(kk, k), hv(v, k), aa)
	keep("attention", o, lse, dq, dk, dv)
	aa.BF16 = true
	q16, k16, v16, o16, dy16 := hv(b.half(q), h), hv(b.half(kk), k), hv(b.half(v), k), hv(b.half(o), h), hv(b.half(dy), h)
	b.Attention(o16, lse, q16, k16, v16, aa)
	b.AttentionBackward(&kernels.AttnGrads{Q: hv(dq, h), K: hv(dk, k), V: hv(dv, k)}, dy16, o16, lse, q16, k16, v16, aa)
	keep("attention bf16", lse, dq, dk, dv)

	aa.BF16, aa.Full, aa.Sinks, aa.Rel, aa.Span, aa.RelZero = false, true, b.random(h), b.random(9*h), 9, 4
	for _, aa.P = range []int{0, 5} { // the blocks, and picked keys
		if aa.P > 0 {
			pick := make([]int32, n*aa.P)
			for i := range pick {
				pick[i] = int32(i % 13)
			}
			aa.Pick = b.ints(pick...)
		}
		sinks, rel := b.empty(h), b.empty(9*h)
		b.Attention(hv(o, h), lse, hv(q, h), hv(kk, k), hv(v, k), aa)
		g := &kernels.AttnGrads{Q: hv(dq, h), K: hv(dk, k), V: hv(dv, k), Sinks: kernels.To(sinks), Rel: kernels.To(rel)}
		b.AttentionBackward(g, hv(dy, h), hv(o, h), lse, hv(q, h), hv(kk, k), hv(v, k), aa)
		keep(fmt.Sprint("attention both ways, picked ", aa.P), o, lse, dq, dk, dv, sinks, rel)
	}

	act := &kernels.ActArgs{N: n, F: c, Gate: x, Up: dy}
	b.Act(kernels.To(y), act)
	b.ActBackward(kernels.To(dx), kernels.Dst{}, dy, act)
	sums := b.empty(2)
	b.ColStats(kernels.To(dw), &kernels.ColStatsArgs{Stat: kernels.SumSq, Rows: n, Cols: c, X: x})
	b.Sum(kernels.To(sums), x, dy, n*c)
	b.GatherBackward(kernels.To(o), kernels.Dst{}, dy, &kernels.GatherArgs{N: n, Table: kernels.Mat{Rows: 1, Cols: c}, Idx: b.ints(make([]int32, n)...)})
	keep("rest", y, dx, dw, b.Slice(sums, 0, 1), o)
	b.elementwiseOps(x, dy, w, keep)
	b.expertOps(x, keep)
	b.scanOps(x, keep)
	return out
}

// scanOps runs the mixers that carry a state over the 96 columns of x.
func (b *bench) scanOps(x kernels.Buffer, keep func(name string, bufs ...kernels.Buffer)) {
	const n, c, h, d = 700, 96, 6, 16
	seq, e := b.ints(0, 13, 600, n), func(n int) kernels.Dst { return kernels.To(b.empty(n)) }
	y, dx, dw, db := e(n*c), e(n*c), e(4*c), e(c)
	ca := &kernels.ConvArgs{N: n, C: c, Taps: 4, X: x, W: b.random(4 * c), Seq: seq, SiLU: true}
	b.Conv1D(y, ca)
	b.Conv1DBackward(dx, dw, db, x, ca)
	keep("conv", y.Buffer, dx.Buffer, dw.Buffer, db.Buffer)

	heads := func(x kernels.Buffer, h, d int) kernels.Heads { return kernels.Heads{Buffer: x, Tok: h * d, Head: d} }
	hx, gate, aLog := heads(x, h, d), b.random(n*h), b.random(h)
	da := &kernels.DeltaArgs{N: n, H: h, K: h, Dk: d, Dv: d, Seq: seq, Gate: gate, ALog: aLog, Beta: gate, KeyScale: 0.1}
	dg := &kernels.DeltaGrads{Q: heads(b.empty(n*c), h, d), K: heads(b.empty(n*c), h, d), V: heads(b.empty(n*c), h, d), Gate: e(n * h), Beta: e(n * h), ALog: e(h)}
	b.DeltaScan(heads(y.Buffer, h, d), hx, hx, hx, da)
	b.DeltaScanBackward(dg, hx, hx, hx, hx, da)
	keep("delta", y.Buffer, dg.Q.Buffer, dg.K.Buffer, dg.V.Buffer, dg.Gate.Buffer, dg.Beta.Buffer, dg.ALog.Buffer)

	sa := &kernels.SSMArgs{N: n, H: h, P: d, G: 2, S: 8, Seq: seq, Dt: gate, ALog: aLog}
	bc := heads(b.random(n*2*8), 2, 8)
	sg := &kernels.SSMGrads{X: heads(b.empty(n*c), h, d), B: heads(b.empty(n*16), 2, 8), C: heads(b.empty(n*16), 2, 8), Dt: e(n * h), ALog: e(h)}
	b.SSMScan(heads(y.Buffer, h, d), hx, bc, bc, sa)
	b.SSMScanBackward(sg, hx, hx, bc, bc, sa)
	keep("ssm", y.Buffer, sg.X.Buffer, sg.B.Buffer, sg.C.Buffer, sg.Dt.Buffer, sg.ALog.Buffer)
}

// elementwiseOps runs what treats elements, rows or groups by themselves.
func (b *bench) elementwiseOps(x, dy, w kernels.Buffer, keep func(name string, bufs ...kernels.Buffer)) {
	const n, c = 700, 96
	e := func(n int) kernels.Dst { return kernels.To(b.empty(n)) }
	for _, by := range []kernels.MulBy{kernels.ByElement, kernels.ByRow, kernels.ByCol} {
		a := &kernels.MulArgs{N: n, C: c, By: by, X: x, S: dy}
		y, dx, ds, dbias := e(n*c), e(n*c), e(a.Factors()), e(c)
		b.Mul(y, a)
		b.MulBackward(dx, ds, dbias, dy, a)
		keep(fmt.Sprint("mul by ", by), y.Buffer, dx.Buffer, ds.Buffer, dbias.Buffer)
	}
	act := &kernels.ActArgs{Kind: kernels.GELU, Layout: kernels.Interleaved, N: n, F: c / 2, Gate: x}
	y, dx := e(n*c/2), e(n*c)
	b.Act(y, act)
	b.ActBackward(dx, kernels.Dst{}, dy, act)
	heads := &kernels.NormArgs{N: n * 6, C: 16, Heads: 6, X: x, W: w, Offset: 1, Eps: 1e-5}
	ny, nx, nw, stats := e(n*c), e(n*c), e(c), b.empty(n*6)
	b.Norm(ny, kernels.Dst{}, stats, heads)
	b.NormBackward(nx, nw, kernels.Dst{}, dy, stats, heads)
	keep("act and norm", y.Buffer, dx.Buffer, ny.Buffer, nx.Buffer, nw.Buffer)

	fake, runs, gram := e(n*c), e(n*3), e(2*c*c)
	b.FakeQuant(fake, &kernels.FakeQuantArgs{Type: dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F16}, Rows: n, Cols: c, X: x})
	b.RowStats(runs, &kernels.RowStatsArgs{Stat: kernels.SumXY, Rows: n, Cols: c, Run: 32, X: x, Y: dy})
	b.Gram(gram, &kernels.GramArgs{Rows: n, Cols: c, X: x, Groups: kernels.Groups{Offsets: b.ints(0, 200, n), Count: 2}})
	keep("tools", fake.Buffer, runs.Buffer, gram.Buffer)
	for kind := kernels.AdamW; kind <= kernels.Prodigy; kind++ {
		rule := kernels.OptimRule{Kind: kind, Beta1: 0.9, Beta2: 0.99, Beta3: 0.999, Eps: 1e-8, MaxRMS: 1, D0: 1e-3, DCoef: 1, Slice: 1}
		if kind.ElementWise() {
			keep(fmt.Sprintf("optim %d in 32 bits", kind), optimStep(b, rule)...)
			rule.Bits8 = true
		}
		keep(fmt.Sprintf("optim %d", kind), optimStep(b, rule)...)
	}
}

// optimStep makes three steps of two parameters under a rule and returns them.
func optimStep(b *bench, rule kernels.OptimRule) []kernels.Buffer {
	a := &kernels.OptimArgs{OptimRule: rule, Common: b.empty(4)}
	b.Fill(a.Common, 0)
	var out []kernels.Buffer
	for i, rows := range []int{400, 300} {
		s := kernels.OptimSpan{P: b.random(rows * 100), Rows: rows, Cols: 100, Block: 100, LR: 1e-3, Decay: 0.1 * float64(i)}
		out = append(out, s.P)
		for _, st := range rule.State(rows, 100, s.Block) {
			x, err := b.Alloc(kernels.Optimizer, st.Type, st.Len)
			if err != nil {
				b.Fatal(err)
			}
			b.Upload(x, make([]byte, st.Len*st.Type.Kind.Info().Bytes))
			s.State = append(s.State, x)
		}
		a.Spans = append(a.Spans, s)
	}
	for a.Step = 1; a.Step <= 3; a.Step++ {
		for i := range a.Spans {
			a.Spans[i].G = b.random(a.Spans[i].Rows * 100)
		}
		b.Optim(a)
	}
	return out
}

// expertOps routes the 96 logits of each row of x.
func (b *bench) expertOps(x kernels.Buffer, keep func(name string, bufs ...kernels.Buffer)) {
	const n, e, k, out = 700, 96, 3, 5
	a := &kernels.RouteArgs{N: n, E: e, K: k, Logits: x}
	ints := func(n int) kernels.Buffer { return b.ints(make([]int32, n)...) }
	r := &kernels.RouteOut{Idx: ints(n * k), Weight: b.empty(n * k), Token: ints(n * k), Place: ints(n * k), Group: ints(e + 1), Probs: b.empty(e)}
	dl := b.empty(n * e)
	b.Route(r, a)
	b.RouteBackward(kernels.To(dl), r.Weight, r.Probs, r, a)
	keep("route", r.Weight, r.Probs, dl)
	l := &kernels.LinearArgs{N: n * k, X: b.random(n * k * e), W: kernels.Mat{Buffer: b.random(e * out * e), Rows: e * out, Cols: e, Of: e * out}, Group: r.Group, Experts: e}
	y, dx, dw := b.empty(n*k*out), b.empty(n*k*e), b.empty(e*out*e)
	b.Linear(kernels.To(y), l)
	b.LinearBackward(kernels.To(dx), kernels.To(dw), kernels.Dst{}, y, l)
	keep("experts", y, dx, dw)
}
