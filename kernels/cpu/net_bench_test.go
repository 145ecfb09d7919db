package cpu

import (
	"fmt"
	"testing"

	"github.com/tunekit/tunekit/kernels"
)

// BenchmarkAttention counts visible scores only: two products of D a score
// forward, five backward.
func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct {
		seqs, t, h, k, d int
		bf16             bool
	}{
		{4, 512, 9, 3, 64, false}, {4, 512, 9, 3, 64, true}, {1, 2048, 9, 3, 64, false}, {1, 2048, 9, 3, 64, true},
		{1, 8192, 9, 3, 64, false}, {1, 8192, 9, 3, 64, true}, {1, 2048, 32, 8, 128, true}, {16, 128, 9, 3, 64, true},
	} {
		x := newBench(b)
		n := c.seqs * c.t
		seq := []int32{0}
		for i := range c.seqs {
			seq = append(seq, int32((i+1)*c.t))
		}
		hv := func(h int) kernels.Heads {
			f := x.random(n * h * c.d)
			if c.bf16 {
				f = x.half(f)
			}
			return kernels.Heads{Buffer: f, Tok: h * c.d, Head: c.d}
		}
		q, k, v, o, do, dq, dk, dv := hv(c.h), hv(c.k), hv(c.k), hv(c.h), hv(c.h), hv(c.h), hv(c.k), hv(c.k)
		lse := x.empty(n * c.h)
		a := &kernels.AttnArgs{N: n, H: c.h, K: c.k, Dk: c.d, Seq: x.ints(seq...), Scale: 0.125, BF16: c.bf16}
		work := float64(c.seqs) * float64(c.t) * float64(c.t+1) / 2 * float64(c.h*c.d) * 2
		name := fmt.Sprintf("%dx%d/heads%d-%dx%d/bf16=%v", c.seqs, c.t, c.h, c.k, c.d, c.bf16)
		x.Attention(o, lse, q, k, v, a)
		b.Run(name+"/forward", func(b *testing.B) {
			measure(b, 2*work, c.bf16, func() { x.Attention(o, lse, q, k, v, a) })
		})
		b.Run(name+"/backward", func(b *testing.B) {
			measure(b, 5*work, c.bf16, func() { x.AttentionBackward(&kernels.AttnGrads{Q: dq, K: dk, V: dv}, do, o, lse, q, k, v, a) })
		})
	}
}

// BenchmarkElementwise reports Gelem/s of the operations around the products.
func BenchmarkElementwise(b *testing.B) {
	const n, c = 512, 1536
	x := newBench(b)
	p, q, r, s, t := x.random(n*c), x.random(n*c), x.empty(n*c), x.empty(n*c), x.random(n*c)
	w, stats, dw := x.random(c), x.empty(n), x.empty(c)
	act := &kernels.ActArgs{N: n, F: c, Gate: p, Up: q}
	norm := &kernels.NormArgs{N: n, C: c, X: p, W: w, Eps: 1e-5}
	rope := &kernels.RopeArgs{N: n, H: c / 64, D: 64, Rot: 64, CS: x.random(n * 64)}
	h := kernels.Heads{Buffer: r, Tok: c, Head: 64}
	var coded []kernels.Buffer
	for _, st := range (&kernels.OptimRule{Bits8: true}).State(n, c, 1) {
		buf, err := x.Alloc(kernels.Optimizer, st.Type, st.Len)
		if err != nil {
			b.Fatal(err)
		}
		coded = append(coded, buf)
	}
	for name, f := range map[string]func(){
		"SwiGLU":          func() { x.Act(kernels.To(r), act) },
		"SwiGLUBackward":  func() { x.ActBackward(kernels.To(r), kernels.To(s), t, act) },
		"RMSNorm":         func() { x.Norm(kernels.To(r), kernels.Dst{}, stats, norm) },
		"RMSNormBackward": func() { x.NormBackward(kernels.Into(r), kernels.Into(dw), kernels.Dst{}, t, stats, norm) },
		"Rope":            func() { x.Rope(h, h, rope) },
		"Copy":            func() { x.Add(kernels.To(r), &kernels.AddArgs{N: n * c, A: p, Alpha: 1}) },
		"AdamW8bit": func() {
			x.Optim(&kernels.OptimArgs{OptimRule: kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Bits8: true}, Step: 1,
				Spans: []kernels.OptimSpan{{P: p, G: q, State: coded, Rows: n, Cols: c, LR: 1e-3}}})
		},
		"AdamW": func() {
			x.Optim(&kernels.OptimArgs{OptimRule: kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Step: 1,
				Spans: []kernels.OptimSpan{{P: p, G: q, State: []kernels.Buffer{r, s}, Rows: n, Cols: c, LR: 1e-3}}})
		},
		"Sum": func() { x.Sum(kernels.To(dw), p, nil, n*c) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(n*c*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
		})
	}
}

// BenchmarkDecode reads the cache of one token a slot: GB/s of keys and values,
// beside those of a plain sum over as much memory.
func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct{ slots, pos, h, k, d int }{{1, 2000, 9, 3, 64}, {8, 1000, 32, 8, 128}} {
		x := newBench(b)
		size := c.slots * (c.pos + 1) * c.k * c.d
		kv := &kernels.KV{Keys: x.random(size), Values: x.random(size), Slots: c.slots, Max: c.pos + 1, K: c.k, Dk: c.d}
		slot, pos := make([]int32, c.slots), make([]int32, c.slots)
		for i := range slot {
			slot[i], pos[i] = int32(i), int32(c.pos)
		}
		a := &kernels.KVAttnArgs{N: c.slots, H: c.h, Slot: x.ints(slot...), Pos: x.ints(pos...), Scale: 0.125}
		q := kernels.Heads{Buffer: x.random(c.slots * c.h * c.d), Tok: c.h * c.d, Head: c.d}
		o := kernels.Heads{Buffer: x.empty(c.slots * c.h * c.d), Tok: c.h * c.d, Head: c.d}
		out := x.empty(1)
		for name, f := range map[string]func(){
			"attention": func() { x.KVAttention(o, q, kv, a) },
			"sum":       func() { x.Sum(kernels.To(out), kv.Keys, nil, size); x.Sum(kernels.To(out), kv.Values, nil, size) },
		} {
			b.Run(fmt.Sprintf("%dx%d/heads%d-%dx%d/%s", c.slots, c.pos, c.h, c.k, c.d, name), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(8*float64(size)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
			})
		}
	}
}
