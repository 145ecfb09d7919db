package bench

import (
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// elementwise are the operations around the products, by the bytes they read
// and write: so many tokens of SmolLM2-135M that no cache holds them.
func elementwise() []row {
	const n, c, f, h, d = 16384, 576, 1536, 9, 64
	const params = 8 << 20
	bytes := func(elems int) float64 { return 4 * float64(elems) / 1e9 }
	r := func(name string, elems int, call func(x *env) func()) row {
		return row{"around", name, func(x *env) op { return op{work: bytes(elems), unit: "GB/s", limit: Copy, call: call(x)} }}
	}
	norm := func(x *env) (*kernels.NormArgs, kernels.Buffer) {
		return &kernels.NormArgs{N: n, C: c, X: x.random(n * c), W: x.random(c), Eps: 1e-5}, x.empty(n)
	}
	return []row{
		r("RMSNorm", 2*n*c, func(x *env) func() {
			a, stats := norm(x)
			y := x.empty(n * c)
			return func() { x.Norm(kernels.To(y), kernels.Dst{}, stats, a) }
		}),
		r("RMSNorm backward", 3*n*c, func(x *env) func() {
			a, stats := norm(x)
			dx, dw, dy := x.empty(n*c), x.empty(c), x.random(n*c)
			if x.err == nil {
				x.Norm(kernels.To(dx), kernels.Dst{}, stats, a)
			}
			return func() { x.NormBackward(kernels.To(dx), kernels.To(dw), kernels.Dst{}, dy, stats, a) }
		}),
		r("SwiGLU", 3*n*f, func(x *env) func() {
			a := &kernels.ActArgs{Kind: kernels.SiLU, N: n, F: f, Gate: x.random(n * f), Up: x.random(n * f)}
			y := x.empty(n * f)
			return func() { x.Act(kernels.To(y), a) }
		}),
		r("SwiGLU backward", 5*n*f, func(x *env) func() {
			a := &kernels.ActArgs{Kind: kernels.SiLU, N: n, F: f, Gate: x.random(n * f), Up: x.random(n * f)}
			dg, du, dy := x.empty(n*f), x.empty(n*f), x.random(n*f)
			return func() { x.ActBackward(kernels.To(dg), kernels.To(du), dy, a) }
		}),
		r("RoPE", 2*n*h*d+n*d, func(x *env) func() {
			q := kernels.Heads{Buffer: x.random(n * h * d), Tok: h * d, Head: d}
			a := &kernels.RopeArgs{N: n, H: h, D: d, Rot: d, CS: x.random(n * d)}
			return func() { x.Rope(q, q, a) }
		}),
		r("residual sum", 3*n*c, func(x *env) func() {
			y, a, b := x.empty(n*c), x.random(n*c), x.random(n*c)
			return func() { x.Add(kernels.To(y), &kernels.AddArgs{N: n * c, A: a, B: b, Alpha: 1, Beta: 1}) }
		}),
		r("AdamW", 7*params, func(x *env) func() {
			o := &kernels.OptimArgs{OptimRule: kernels.OptimRule{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Step: 1, Spans: []kernels.OptimSpan{{
				P: x.random(params), G: x.random(params), State: []kernels.Buffer{x.empty(params), x.empty(params)}, Rows: 1, Cols: params, LR: 1e-4, Decay: 0.01}}}
			return func() { x.Optim(o) }
		}),
		r("embedding rows", 2*n*c, func(x *env) func() {
			table, y := x.weight(dtype.Of(dtype.F32), 49152, c), x.empty(n*c)
			idx := make([]int32, n)
			for i := range idx {
				idx[i] = int32(i * 7919 % 49152)
			}
			ib := x.ints(idx...)
			a := &kernels.GatherArgs{N: n, Table: table, Idx: ib}
			return func() { x.Gather(kernels.To(y), a) }
		}),
	}
}

// losses are the head with the loss and their gradient, in one: a product of
// the vocabulary forward and one back.
func losses(dev kernels.Backend) []row {
	const n, v, c = 512, 49152, 576
	var out []row
	for _, bf16 := range arithmetics(dev) {
		out = append(out, row{"loss", "cross-entropy head with dX, 512×49152×576, " + string(limitOf(bf16)), func(x *env) op {
			target := make([]int32, n)
			for i := range target {
				target[i] = int32(i * 7919 % v)
			}
			a := &kernels.LogProbArgs{N: n, X: x.random(n * c), W: x.weight(dtype.Of(dtype.BF16), v, c), Target: x.ints(target...), Coef: x.empty(n), BF16: bf16}
			if x.err == nil {
				x.Fill(a.Coef, 1.0/n)
			}
			out, dx := &kernels.LogProbOut{LogP: x.empty(n)}, x.empty(n*c)
			return op{work: 2 * flops(n, v, c), unit: "GFLOP/s", limit: limitOf(bf16), call: func() { x.LogProb(out, kernels.To(dx), kernels.Dst{}, kernels.Dst{}, a) }}
		}})
	}
	return out
}
