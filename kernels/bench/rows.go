package bench

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// rows lists what there is to measure on dev.
func rows(dev kernels.Backend) []row {
	out := products(dev)
	out = append(out, matvecs()...)
	out = append(out, attention(dev)...)
	out = append(out, elementwise()...)
	out = append(out, losses(dev)...)
	if dev.Info().Name == "cpu" {
		out = append(out, encoders()...)
		out = append(out, threads(dev)...)
	}
	return out
}

// int4 is the type that GPTQ writes.
func int4(group int) dtype.Type {
	return dtype.Type{Kind: dtype.Int4, Group: int32(group), Scale: dtype.F16}
}

// arithmetics are the kinds of arithmetic that pay on dev.
func arithmetics(dev kernels.Backend) []bool {
	if dev.Info().FastBF16 {
		return []bool{false, true}
	}
	return []bool{false}
}

// limitOf is the limit of products.
func limitOf(bf16 bool) Limit {
	if bf16 {
		return BF16
	}
	return F32
}

// products are x [N,in]·Wᵀ at the shapes of SmolLM2-135M and Llama-3.2-1B, its
// gradients, and the same with weights that are decoded on the way.
func products(dev kernels.Backend) []row {
	smol := [][2]int{{192, 576}, {576, 576}, {1536, 576}, {576, 1536}, {49152, 576}}
	llama := [][2]int{{512, 2048}, {2048, 2048}, {8192, 2048}, {2048, 8192}}
	var shapes [][3]int
	for _, n := range []int{512, 2048} {
		for _, s := range slices.Concat(smol, llama) {
			shapes = append(shapes, [3]int{n, s[0], s[1]})
		}
	}
	shapes = append(shapes, [3]int{512, 128256, 2048}) // 2,048 rows would need 2 GB
	var out []row
	for _, bf16 := range arithmetics(dev) {
		dense := dtype.Of(dtype.F32)
		if bf16 {
			dense = dtype.Of(dtype.BF16)
		}
		for _, s := range shapes {
			out = append(out, linear(dense, bf16, s[0], s[1], s[2]))
		}
		for _, s := range [][3]int{{512, 1536, 576}, {512, 576, 1536}, {2048, 2048, 2048}} {
			for _, t := range []dtype.Type{dtype.NF4Double, dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q8_0), int4(64)} {
				if dtype.Fits(t, s[2]) {
					out = append(out, linear(t, bf16, s[0], s[1], s[2]))
				}
			}
		}
		for _, t := range []dtype.Type{dense, dtype.NF4Double} {
			out = append(out, gradient(t, bf16, false, 2048, 1536, 576))
		}
		out = append(out, gradient(dense, bf16, true, 2048, 1536, 576))
	}
	return out
}

// flops is the work of one product in GFLOP.
func flops(n, rows, cols int) float64 { return 2 * float64(n) * float64(rows) * float64(cols) / 1e9 }

// linear reads x in the arithmetic's own type, as a run in it does.
func linear(t dtype.Type, bf16 bool, n, rows, cols int) row {
	return row{"product " + string(limitOf(bf16)), fmt.Sprintf("%d×%d×%d, weights %v", n, rows, cols, t), func(x *env) op {
		a := &kernels.LinearArgs{N: n, X: x.random(n * cols), W: x.weight(t, rows, cols), BF16: bf16}
		if bf16 {
			a.X = x.half(a.X)
		}
		y := x.empty(n * rows)
		return op{work: flops(n, rows, cols), unit: "GFLOP/s", limit: limitOf(bf16), call: func() { x.Linear(kernels.To(y), a) }}
	}}
}

func gradient(t dtype.Type, bf16, ofWeight bool, n, rows, cols int) row {
	name := "dX"
	if ofWeight {
		name = "dW"
	}
	return row{"product " + string(limitOf(bf16)), fmt.Sprintf("%s %d×%d×%d, weights %v", name, n, rows, cols, t), func(x *env) op {
		a := &kernels.LinearArgs{N: n, X: x.random(n * cols), W: x.weight(t, rows, cols), BF16: bf16}
		dy := x.random(n * rows)
		dx, dw := kernels.To(x.empty(n*cols)), kernels.Dst{}
		if ofWeight {
			dx, dw = kernels.Dst{}, kernels.To(x.empty(rows*cols))
		}
		return op{work: flops(n, rows, cols), unit: "GFLOP/s", limit: limitOf(bf16), call: func() { x.LinearBackward(dx, dw, kernels.Dst{}, dy, a) }}
	}}
}

// streamed is the size of a matrix that no cache holds.
const streamed = 192 << 20

// matvecs are products of one token with weights from memory.
func matvecs() []row {
	var out []row
	for _, k := range []dtype.Kind{dtype.F32, dtype.F16, dtype.BF16, dtype.Q8_0, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1, dtype.IQ4_NL,
		dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K, dtype.IQ4_XS, dtype.IQ3_S, dtype.IQ3_XXS, dtype.IQ2_S, dtype.IQ2_XS, dtype.IQ2_XXS,
		dtype.IQ1_M, dtype.IQ1_S, dtype.TQ2_0, dtype.TQ1_0, dtype.Q2_0, dtype.Q1_0, dtype.MXFP4, dtype.NVFP4} {
		out = append(out, matvec(dtype.Of(k), true))
	}
	for _, t := range []dtype.Type{dtype.NF4Double, {Kind: dtype.NF4, Group: 64}, {Kind: dtype.FP4, Group: 64}, int4(128),
		{Kind: dtype.Int8, Group: 128, Scale: dtype.F16}, {Kind: dtype.Int2, Group: 64, Scale: dtype.F16}, {Kind: dtype.Int3, Group: 128, Scale: dtype.F16}} {
		out = append(out, matvec(t, true))
	}
	for _, t := range []dtype.Type{dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_K), dtype.NF4Double, int4(128)} {
		out = append(out, matvec(t, false))
	}
	return out
}

func matvec(t dtype.Type, fast bool) row {
	const cols = 2048
	name := fmt.Sprintf("weights %v", t)
	if !fast {
		name += ", x not rounded"
	}
	return row{"matrix·vector", name, func(x *env) op {
		rows := streamed / dtype.Size(t, 1024, cols) * 1024
		a := &kernels.LinearArgs{N: 1, X: x.random(cols), W: x.weight(t, rows, cols), Fast: fast}
		y := x.empty(rows)
		return op{work: float64(dtype.Size(t, rows, cols)) / 1e9, unit: "GB/s", limit: Read, call: func() { x.Linear(kernels.To(y), a) }}
	}}
}

// attention counts visible scores only: two products of D a score forward, five
// backward.
func attention(dev kernels.Backend) []row {
	var out []row
	for _, bf16 := range arithmetics(dev) {
		for _, r := range []struct {
			name              string
			forward, backward bool
		}{{"forward", true, false}, {"backward", false, true}, {"forward and backward", true, true}} {
			out = append(out, attend(r.name, bf16, r.forward, r.backward))
		}
	}
	return append(out, cached())
}

func attend(name string, bf16, forward, backward bool) row {
	const t, h, k, d = 2048, 9, 3, 64
	if bf16 {
		name += " in bf16"
	}
	heads := func(x *env, n int) kernels.Heads {
		v := kernels.Heads{Buffer: x.random(t * n * d), Tok: n * d, Head: d}
		if bf16 {
			v.Buffer = x.half(v.Buffer)
		}
		return v
	}
	return row{"attention", fmt.Sprintf("%s, %d tokens, %d heads of %d", name, t, h, d), func(x *env) op {
		q, kk, v, o, do, dq, dk, dv := heads(x, h), heads(x, k), heads(x, k), heads(x, h), heads(x, h), heads(x, h), heads(x, k), heads(x, k)
		lse := x.empty(t * h)
		a := &kernels.AttnArgs{N: t, H: h, K: k, Dk: d, Seq: x.ints(0, t), Scale: 0.125, BF16: bf16}
		if x.err == nil {
			x.Attention(o, lse, q, kk, v, a)
		}
		work := float64(t) * (t + 1) / 2 * h * d * 2 / 1e9 * float64(2*count(forward)+5*count(backward))
		return op{work: work, unit: "GFLOP/s", limit: limitOf(bf16), call: func() {
			if forward {
				x.Attention(o, lse, q, kk, v, a)
			}
			if backward {
				x.AttentionBackward(&kernels.AttnGrads{Q: dq, K: dk, V: dv}, do, o, lse, q, kk, v, a)
			}
		}}
	}}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// cached is the attention of single tokens over long caches of keys and values.
func cached() row {
	const slots, pos, h, k, d = 8, 8000, 32, 8, 64
	return row{"attention", fmt.Sprintf("one token, %d caches of %d", slots, pos), func(x *env) op {
		const size = slots * (pos + 1) * k * d
		kv := &kernels.KV{Keys: x.random(size), Values: x.random(size), Slots: slots, Max: pos + 1, K: k, Dk: d}
		slot, at := make([]int32, slots), make([]int32, slots)
		for i := range slot {
			slot[i], at[i] = int32(i), pos
		}
		q := kernels.Heads{Buffer: x.random(slots * h * d), Tok: h * d, Head: d}
		o := kernels.Heads{Buffer: x.empty(slots * h * d), Tok: h * d, Head: d}
		a := &kernels.KVAttnArgs{N: slots, H: h, Slot: x.ints(slot...), Pos: x.ints(at...), Scale: 0.125}
		return op{work: 8 * size / 1e9, unit: "GB/s", limit: Read, call: func() { x.KVAttention(o, q, kv, a) }}
	}}
}
