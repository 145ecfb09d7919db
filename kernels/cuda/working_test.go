package cuda

import (
	"fmt"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestWorking: what methods take while they run is what the counting backend counts for
// them, to the byte, with products of f32 in tf32, too.
func TestWorking(t *testing.T) {
	for _, tf32 := range []string{"0", "1"} {
		t.Run("tf32 "+tf32, func(t *testing.T) {
			t.Setenv(TF32Variable, tf32)
			workingAsPlanned(t)
		})
	}
}

func workingAsPlanned(t *testing.T) {
	gpu, _ := interpreted(t)
	defer gpu.Close()
	counting := dry.New(dry.Options{Copies: true, Working: gpu.Info().Working})
	same := func(what string, op func(m memory)) {
		t.Helper()
		var peaks [2]int64
		for i, b := range []kernels.Backend{counting, gpu} {
			m := memory{t, b}
			b.ResetCounters()
			if err := b.Run(func() error { op(m); return nil }); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			peaks[i] = b.Info().Mem.Peak[kernels.Scratch]
		}
		if peaks[0] != peaks[1] || peaks[0] == 0 {
			t.Errorf("%s: %d bytes of scratch are planned, %d are taken", what, peaks[0], peaks[1])
		}
	}
	for _, wanted := range []bool{false, true} {
		same(fmt.Sprint("conv ", wanted), func(m memory) {
			const n, c, taps = 5, 6, 3
			var dw, db kernels.Dst
			if wanted {
				dw, db = m.to(c*taps), m.to(c)
			}
			m.b.Conv1DBackward(m.to(n*c), dw, db, m.f(n*c), &kernels.ConvArgs{N: n, C: c, Taps: taps, X: m.f(n * c), W: m.f(c * taps), Seq: m.i(0, 2, n), SiLU: true})
		})
		same(fmt.Sprint("delta rule, channels ", wanted), func(m memory) {
			const n, h, k, dk, dv = 35, 4, 2, 3, 5
			width := 1
			if wanted {
				width = dk
			}
			q, kk, v := m.h(n, k, dk), m.h(n, k, dk), m.h(n, h, dv)
			a := &kernels.DeltaArgs{N: n, H: h, K: k, Dk: dk, Dv: dv, Seq: m.i(0, 3, n), Gate: m.f(n * h * width), Beta: m.f(n * h), PerChannel: wanted, ALog: m.f(h), DtBias: m.f(h * width)}
			m.b.DeltaScan(m.h(n, h, dv), q, kk, v, a)
			g := &kernels.DeltaGrads{Q: m.h(n, k, dk), K: m.h(n, k, dk), V: m.h(n, h, dv), Gate: m.to(n * h * width), Beta: m.to(n * h)}
			if wanted {
				g.ALog, g.DtBias = m.to(h), m.to(h*width)
			}
			m.b.DeltaScanBackward(g, m.h(n, h, dv), q, kk, v, a)
		})
		same(fmt.Sprint("forward alone ", wanted), func(m memory) {
			const n, h, d = 3, 2, 4
			if wanted {
				m.b.DeltaScan(m.h(n, h, d), m.h(n, h, d), m.h(n, h, d), m.h(n, h, d), &kernels.DeltaArgs{N: n, H: h, K: h, Dk: d, Dv: d, Seq: m.i(0, n), Gate: m.f(n * h), Beta: m.f(n * h)})
			} else {
				m.b.SSMScan(m.h(n, h, d), m.h(n, h, d), m.h(n, 1, d), m.h(n, 1, d), &kernels.SSMArgs{N: n, H: h, P: d, G: 1, S: d, Seq: m.i(0, n), Dt: m.f(n * h), ALog: m.f(h)})
			}
		})
		same(fmt.Sprint("selective scan, states ", wanted), func(m memory) {
			const n, h, p, g, s = 35, 4, 3, 2, 5
			rates := h
			if wanted {
				rates *= s
			}
			x, b, c := m.h(n, h, p), m.h(n, g, s), m.h(n, g, s)
			to := &kernels.SSMGrads{X: m.h(n, h, p), Dt: m.to(n * h), ALog: m.to(rates)}
			if wanted {
				to.B = m.h(n, g, s)
			}
			m.b.SSMScanBackward(to, m.h(n, h, p), x, b, c, &kernels.SSMArgs{N: n, H: h, P: p, G: g, S: s, Seq: m.i(0, 30, n), Dt: m.f(n * h), ALog: m.f(rates), PerState: wanted})
		})
	}
	sinkhorn := func(m memory) *kernels.SinkhornArgs {
		return &kernels.SinkhornArgs{N: 3, S: 4, Iters: 2, X: m.f(3 * 16), Eps: 1e-6}
	}
	same("sinkhorn", func(m memory) { m.b.Sinkhorn(m.to(3*16), sinkhorn(m)) })
	same("sinkhorn's gradient", func(m memory) { m.b.SinkhornBackward(m.to(3*16), m.f(3*16), sinkhorn(m)) })
	for _, back := range []bool{false, true} {
		same(fmt.Sprint("route, back ", back), func(m memory) {
			const n, e, k = 5, 6, 2
			a := &kernels.RouteArgs{N: n, E: e, K: k, Logits: m.f(n * e)}
			out := &kernels.RouteOut{Idx: m.i(make([]int32, n*k)...), Weight: m.f(n * k), Token: m.i(make([]int32, n*k)...), Place: m.i(make([]int32, n*k)...), Group: m.i(make([]int32, e+1)...)}
			if back {
				m.b.RouteBackward(m.to(n*e), m.f(n*k), nil, out, a)
			} else {
				m.b.Route(out, a)
			}
		})
	}
	same("the factor of a Hessian", func(m memory) {
		if err := m.b.Factor(m.f(5*5), m.f(5*5), 5, 1); err != nil {
			t.Error(err)
		}
	})
	same("Gram of bf16", func(m memory) {
		m.b.Gram(m.to(12*12), &kernels.GramArgs{Rows: 20, Cols: 12, X: m.as(dtype.BF16, 20*12)})
	})
	for _, n := range []int{0, 5, sumPart, 3*sumPart + 1} {
		same(fmt.Sprint("sum of ", n), func(m memory) { m.b.Sum(m.to(1), m.f(n), nil, n) })
	}
	for _, typ := range []dtype.Type{dtype.Of(dtype.F16), dtype.NF4Double, {Kind: dtype.Int4, Group: 32, Scale: dtype.F16}} {
		same(fmt.Sprint("quantize ", typ), func(m memory) {
			w, err := m.b.Load(kernels.Weights, typ, 6, 64, nil, kernels.Copy)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.b.Quantize(w, m.f(6*64), nil); err != nil {
				t.Error(err)
			}
		})
	}
	for kind := kernels.StableAdamW; kind <= kernels.Prodigy; kind++ {
		same(fmt.Sprint("rule ", kind), func(m memory) {
			o := &kernels.OptimArgs{OptimRule: kernels.OptimRule{Kind: kind, Beta1: 0.9, Beta2: 0.99, Beta3: 0.999, Eps: 1e-8, Eps2: 1e-3, MaxRMS: 1, D0: 1e-6, DCoef: 1, Slice: 2}, Step: 1}
			if n := o.Shared(); n > 0 {
				o.Common = m.f(n)
			}
			for _, rows := range []int{1, 4, 3} {
				s := kernels.OptimSpan{P: m.f(rows * 8), G: m.f(rows * 8), Rows: rows, Cols: 8, Block: 8, LR: 0.1}
				for _, st := range o.State(rows, 8, 8) {
					s.State = append(s.State, m.f(st.Len))
				}
				o.Spans = append(o.Spans, s)
			}
			for _, b := range []kernels.Buffer{m.f(128), m.f(128)} {
				m.b.Free(b) // written: a total is loaded before it is known that it is not needed
			}
			m.b.Optim(o)
		})
	}
	for _, half := range []bool{false, true} {
		same(fmt.Sprint("attention, on tensor cores ", half), func(m memory) {
			const n, h, k, d = 20, 4, 2, 16
			kind := dtype.F32
			if half {
				kind = dtype.BF16
			}
			a := &kernels.AttnArgs{N: n, H: h, K: k, Dk: d, Seq: m.i(0, 7, n), Scale: 0.25, BF16: half}
			heads := func(h int) kernels.Heads { return kernels.Heads{Buffer: m.as(kind, n*h*d), Tok: h * d, Head: d} }
			q, kk, v, o, lse := heads(h), heads(k), heads(k), heads(h), m.f(n*h)
			m.b.Attention(o, lse, q, kk, v, a)
			if forward := m.b.Info().Mem.Peak[kernels.Scratch]; forward != map[bool]int64{true: 8 * n}[half] {
				t.Errorf("%d bytes of attention's forward pass", forward)
			}
			m.b.AttentionBackward(&kernels.AttnGrads{Q: heads(h), K: heads(k), V: heads(k)}, heads(h), o, lse, q, kk, v, a)
		})
	}
	same("sample", func(m memory) {
		m.b.Sample(m.i(0, 0), &kernels.SampleArgs{V: 9, Logits: m.f(18), Rows: []kernels.SampleRow{{}, {Temperature: 1, RepetitionPenalty: 1.5, Seen: []int32{3, 4, 3, 20}}}})
	})
}

// memory is operands of one backend: numbers that are all the same, or given.
type memory struct {
	t *testing.T
	b kernels.Backend
}

func (m memory) as(k dtype.Kind, n int) kernels.Buffer {
	b, err := m.b.Alloc(kernels.Activations, dtype.Of(k), n)
	if err != nil {
		m.t.Fatal(err)
	}
	m.b.Fill(b, 0.5)
	return b
}

func (m memory) f(n int) kernels.Buffer { return m.as(dtype.F32, n) }

func (m memory) to(n int) kernels.Dst { return kernels.To(m.f(n)) }

func (m memory) h(n, h, d int) kernels.Heads {
	return kernels.Heads{Buffer: m.f(n * h * d), Tok: h * d, Head: d}
}

func (m memory) i(v ...int32) kernels.Buffer {
	b, err := m.b.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(v))
	if err != nil {
		m.t.Fatal(err)
	}
	m.b.Upload(b, kernels.Bytes(v))
	return b
}
