package cuda

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// work is one thing that a step does, in a size that the interpreter counts and in
// one that a GPU is measured with.
type work struct {
	name        string
	kernels     []string // that it is about
	small, real []int
	shape       string // how sizes are written
	// cost is the bytes that must be moved at least, and the products of two numbers.
	cost func(s []int) (moved, products float64)
	make func(b *bench, s []int) (run func())
}

// groups says whether it is about products of warpgroups.
func (w *work) groups() bool { return len(w.kernels) > 0 && strings.HasPrefix(w.kernels[0], "wgmma_") }

// tf32 says whether it is about products of f32 in tf32.
func (w *work) tf32() bool { return len(w.kernels) > 0 && strings.Contains(w.kernels[0], "_tf32_") }

// int8 says whether it is about products of x rounded to 8 bits.
func (w *work) int8() bool { return slices.Contains(w.kernels, "to_int8") }

// rate is how many products of tensor cores take the time of one of bf16.
func (w *work) rate() float64 {
	switch {
	case w.tf32():
		return 0.5
	case w.int8():
		return 2
	}
	return 1
}

// bench makes operands.
type bench struct {
	*testing.T
	c    *CUDA
	bufs []kernels.Buffer
}

// free gives the operands back.
func (b *bench) free() {
	for _, x := range b.bufs {
		b.c.Free(x)
	}
	b.bufs = nil
}

func (b *bench) buffer(k dtype.Kind, n int) kernels.Buffer {
	b.Helper()
	x, err := b.c.Alloc(kernels.Activations, dtype.Of(k), n)
	if err != nil {
		b.Fatal(err)
	}
	b.bufs = append(b.bufs, x)
	if k == dtype.F32 || k == dtype.BF16 {
		b.c.Fill(x, 0.5)
	} else {
		b.c.Upload(x, make([]byte, n*k.Info().Bytes))
	}
	return x
}

func (b *bench) weight(t dtype.Type, rows, cols int) kernels.Mat {
	b.Helper()
	m, err := b.c.Load(kernels.Weights, t, rows, cols, make([]byte, dtype.Size(t, rows, cols)), kernels.Copy)
	if err != nil {
		b.Fatal(err)
	}
	b.bufs = append(b.bufs, m.Buffer)
	return m
}

func (b *bench) ints(x ...int32) kernels.Buffer {
	y := b.buffer(dtype.I32, len(x))
	b.c.Upload(y, kernels.Bytes(x))
	return y
}

var (
	nf4      = dtype.Type{Kind: dtype.NF4, Group: 64}
	int4Work = dtype.Type{Kind: dtype.Int4, Group: 128, Scale: dtype.F16, Flags: dtype.Zero}
)

func gemmCost(s []int) (moved, products float64) {
	m, n, k := float64(s[0]), float64(s[1]), float64(s[2])
	return 2 * (m*k + n*k + m*n), m * n * k
}

func gemmWork(ta, tb bool) func(b *bench, s []int) func() {
	return func(b *bench, s []int) func() {
		m, n, k := s[0], s[1], s[2]
		x, y, z := b.buffer(dtype.BF16, m*k), b.buffer(dtype.BF16, n*k), b.buffer(dtype.BF16, m*n)
		return func() {
			b.c.Gemm(kernels.To(z), &kernels.GemmArgs{A: x, B: y, M: m, N: n, K: k, TA: ta, TB: tb, Alpha: 1})
		}
	}
}

func f32Cost(s []int) (moved, products float64) {
	moved, products = gemmCost(s)
	return 2 * moved, products
}

func f32Work(b *bench, s []int) func() {
	m, n, k := s[0], s[1], s[2]
	x, y, z := b.buffer(dtype.F32, m*k), b.buffer(dtype.F32, n*k), b.buffer(dtype.F32, m*n)
	return func() { b.c.Gemm(kernels.To(z), &kernels.GemmArgs{A: x, B: y, M: m, N: n, K: k, Alpha: 1}) }
}

func attentionCost(times float64) func(s []int) (moved, products float64) {
	return func(s []int) (moved, products float64) {
		n, h, k, d := float64(s[0]), float64(s[1]), float64(s[2]), float64(s[3])
		return times * 4 * n * d * (h + k), times * n * (n + 1) * h * d
	}
}

func attentionWork(backward bool) func(b *bench, s []int) func() {
	return func(b *bench, s []int) func() {
		n, h, k, d := s[0], s[1], s[2], s[3]
		heads := func(h int) kernels.Heads {
			return kernels.Heads{Buffer: b.buffer(dtype.BF16, n*h*d), Tok: h * d, Head: d}
		}
		q, key, v, o, lse := heads(h), heads(k), heads(k), heads(h), b.buffer(dtype.F32, n*h)
		a := &kernels.AttnArgs{N: n, H: h, K: k, Dk: d, Seq: b.ints(0, int32(n)), Scale: 0.1, BF16: true}
		if !backward {
			return func() { b.c.Attention(o, lse, q, key, v, a) }
		}
		do, g := heads(h), &kernels.AttnGrads{Q: heads(h), K: heads(k), V: heads(k)}
		return func() { b.c.AttentionBackward(g, do, o, lse, q, key, v, a) }
	}
}

// scanCost is that of a scan whose heads of h have states of so many numbers, with
// moved floats a token.
func scanCost(times, moved, state float64, s []int) (bytes, products float64) {
	return times * 4 * float64(s[0]) * moved, times * 3 * float64(s[0]) * float64(s[1]) * state
}

func deltaCost(times float64) func(s []int) (moved, products float64) {
	return func(s []int) (moved, products float64) {
		h, k, d := float64(s[1]), float64(s[2]), float64(s[3])
		return scanCost(times, 2*d*(h+k)+2*h, d*d, s)
	}
}

func deltaWork(backward bool) func(b *bench, s []int) func() {
	return func(b *bench, s []int) func() {
		n, h, k, d := s[0], s[1], s[2], s[3]
		heads := func(h int) kernels.Heads {
			return kernels.Heads{Buffer: b.buffer(dtype.BF16, n*h*d), Tok: h * d, Head: d}
		}
		q, key, v, o := heads(k), heads(k), heads(h), heads(h)
		a := &kernels.DeltaArgs{N: n, H: h, K: k, Dk: d, Dv: d, Seq: b.ints(0, int32(n)), Gate: b.buffer(dtype.F32, n*h), Beta: b.buffer(dtype.F32, n*h), ALog: b.buffer(dtype.F32, h), KeyScale: 1 / float32(d)}
		if !backward {
			return func() { b.c.DeltaScan(o, q, key, v, a) }
		}
		g := &kernels.DeltaGrads{Q: heads(k), K: heads(k), V: heads(h), Gate: kernels.To(b.buffer(dtype.F32, n*h)), Beta: kernels.To(b.buffer(dtype.F32, n*h))}
		return func() { b.c.DeltaScanBackward(g, o, q, key, v, a) }
	}
}

func ssmCost(times float64) func(s []int) (moved, products float64) {
	return func(s []int) (moved, products float64) {
		h, p, w := float64(s[1]), float64(s[2]), float64(s[3])
		return scanCost(times, 2*h*p+2*w+h, p*w, s)
	}
}

func ssmWork(backward bool) func(b *bench, s []int) func() {
	return func(b *bench, s []int) func() {
		n, h, p, w := s[0], s[1], s[2], s[3]
		heads := func(h, d int) kernels.Heads {
			return kernels.Heads{Buffer: b.buffer(dtype.BF16, n*h*d), Tok: h * d, Head: d}
		}
		x, y, bb, cc := heads(h, p), heads(h, p), heads(1, w), heads(1, w)
		a := &kernels.SSMArgs{N: n, H: h, P: p, G: 1, S: w, Seq: b.ints(0, int32(n)), Dt: b.buffer(dtype.F32, n*h), ALog: b.buffer(dtype.F32, h)}
		if !backward {
			return func() { b.c.SSMScan(y, x, bb, cc, a) }
		}
		g := &kernels.SSMGrads{X: heads(h, p), B: heads(1, w), C: heads(1, w), Dt: kernels.To(b.buffer(dtype.F32, n*h))}
		return func() { b.c.SSMScanBackward(g, y, x, bb, cc, a) }
	}
}

const nf4Bytes = 0.5 + 4.0/64

func linearCost(weight float64) func(s []int) (moved, products float64) {
	return func(s []int) (moved, products float64) {
		n, out, in := float64(s[0]), float64(s[1]), float64(s[2])
		return 2*(n*in+n*out) + weight*out*in, n * out * in
	}
}

// thinWork is a product of few rows of bf16.
func thinWork(name, kernel string, t dtype.Type, n int) work {
	size := float64(dtype.Size(t, 1<<10, 1<<12)) / (1 << 22)
	return work{name, []string{fmt.Sprintf("thin_%s_%d", kernel, map[bool]int{true: 1, false: 4}[n == 1])}, []int{n, 128, 4096}, []int{n, 14336, 4096}, "%d rows, %d←%d", linearCost(size), func(b *bench, s []int) func() {
		n, out, in := s[0], s[1], s[2]
		w, x, y := b.weight(t, out, in), b.buffer(dtype.BF16, n*in), b.buffer(dtype.BF16, n*out)
		return func() { b.c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: x, W: w}) }
	}}
}

// fewWork is thinWork of 16 rows by int8.
func fewWork(name string, t dtype.Type, kernel string) work {
	w := promptWork(name, t, "to_int8", kernel)
	w.small, w.real = []int{16, 128, 4096}, []int{16, 14336, 4096}
	return w
}

// promptWork is a product of many rows of bf16 whose operands may be rounded.
func promptWork(name string, t dtype.Type, names ...string) work {
	size := float64(dtype.Size(t, 1<<10, 1<<12)) / (1 << 22)
	return work{name, names, []int{128, 256, 512}, []int{4096, 14336, 4096}, "%d rows, %d←%d", linearCost(size), func(b *bench, s []int) func() {
		n, out, in := s[0], s[1], s[2]
		w, x, y := b.weight(t, out, in), b.buffer(dtype.BF16, n*in), b.buffer(dtype.BF16, n*out)
		return func() { b.c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: x, W: w, Fast: true}) }
	}}
}

// groupWork is a product by warpgroups.
func groupWork(what, orientation string, ta, tb bool) work {
	return work{"product bf16, " + what + ", wgmma", []string{"wgmma_" + orientation + "_bf16"}, []int{128, 256, 2048}, []int{8192, 8192, 8192}, "%d×%d×%d", gemmCost, gemmWork(ta, tb)}
}

// elements is the cost of so many bytes an element.
func elements(size float64) func(s []int) (moved, products float64) {
	return func(s []int) (moved, products float64) {
		moved = size
		for _, n := range s {
			moved *= float64(n)
		}
		return moved, 0
	}
}

// works are what a step of training, a quantization and an answer spend time on.
var works = []work{
	{"product bf16, A·Bᵀ", []string{"mma_nt_bf16_128"}, []int{128, 256, 512}, []int{8192, 8192, 8192}, "%d×%d×%d", gemmCost, gemmWork(false, true)},
	{"product bf16, A·B", []string{"mma_nn_bf16_128"}, []int{128, 256, 512}, []int{8192, 8192, 8192}, "%d×%d×%d", gemmCost, gemmWork(false, false)},
	{"product bf16, Aᵀ·B", []string{"mma_tn_bf16_128"}, []int{128, 256, 512}, []int{8192, 8192, 8192}, "%d×%d×%d", gemmCost, gemmWork(true, false)},
	groupWork("A·Bᵀ", "nt", false, true), groupWork("A·B", "nn", false, false), groupWork("Aᵀ·B", "tn", true, false),
	{"NF4 to bf16", []string{"to_half"}, []int{64, 256}, []int{14336, 4096}, "%d×%d", elements(0.5 + 4.0/64 + 2), func(b *bench, s []int) func() {
		w := b.c.matOf("w", b.weight(nf4, s[0], s[1]))
		return func() {
			_, _, y := b.c.halves(w, s[0], s[1], dtype.BF16, dropArgs{})
			b.c.Free(y)
		}
	}},
	{"QLoRA's product, NF4", []string{"to_half", "mma_nt_bf16_128"}, []int{128, 256, 512}, []int{4096, 14336, 4096}, "%d rows, %d←%d", linearCost(nf4Bytes), func(b *bench, s []int) func() {
		n, out, in := s[0], s[1], s[2]
		w, x, y := b.weight(nf4, out, in), b.buffer(dtype.BF16, n*in), b.buffer(dtype.BF16, n*out)
		return func() { b.c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: x, W: w, BF16: true}) }
	}},
	thinWork("one row by NF4", "book", nf4, 1),
	thinWork("one row by NF4, nested", "book", dtype.NF4Double, 1),
	thinWork("one row by INT4 of 128", "int4", int4Work, 1),
	thinWork("one row by INT8 of 128", "int8", dtype.Type{Kind: dtype.Int8, Group: 128, Scale: dtype.F16}, 1),
	thinWork("one row by FP8", "float8", dtype.Type{Kind: dtype.F8E4M3, Group: -1}, 1),
	thinWork("one row by Q4_0", "q4_0", dtype.Of(dtype.Q4_0), 1),
	thinWork("one row by Q4_K", "q4_k", dtype.Of(dtype.Q4_K), 1),
	thinWork("one row by Q5_K", "q5_k", dtype.Of(dtype.Q5_K), 1),
	thinWork("one row by Q6_K", "q6_k", dtype.Of(dtype.Q6_K), 1),
	thinWork("one row by Q8_0", "q8_0", dtype.Of(dtype.Q8_0), 1),
	thinWork("one row by MXFP4", "mxfp4", dtype.Of(dtype.MXFP4), 1),
	thinWork("one row by NVFP4", "nvfp4", dtype.Of(dtype.NVFP4), 1),
	thinWork("one row by MXFP4 of a folder", "e2m1", mxfp4Folder, 1),
	thinWork("one row by NVFP4 of a folder", "e2m1", nvfp4Folder, 1),
	thinWork("one row by bf16", "bf16", dtype.Of(dtype.BF16), 1),
	thinWork("16 rows by NF4", "book", nf4, 16),
	thinWork("16 rows by INT4 of 128", "int4", int4Work, 16),
	promptWork("prompt by INT4 of 128", int4Work, "to_half", "mma_nt_bf16_128"),
	promptWork("prompt by INT4 of 128, int8", int4Work, "to_int8", "int8_int4_128"),
	promptWork("prompt by Q8_0, int8", dtype.Of(dtype.Q8_0), "to_int8", "int8_q8_0_128"),
	promptWork("prompt by Q4_K, int8", dtype.Of(dtype.Q4_K), "to_int8", "int8_q4_k_128"),
	fewWork("16 rows by INT4 of 128, int8", int4Work, "int8_int4_few"),
	fewWork("16 rows by Q4_K, int8", dtype.Of(dtype.Q4_K), "int8_q4_k_few"),
	{"attention", []string{"attn_rows", "flash_128"}, []int{1024, 1, 1, 128}, []int{4096, 32, 8, 128}, "%d tokens, %d of %d heads of %d", attentionCost(1), attentionWork(false)},
	{"its backward pass", []string{"attn_delta", "attn_rows", "flash_grad_q_128", "flash_grad_kv_128"}, []int{1024, 1, 1, 128}, []int{4096, 32, 8, 128}, "%d tokens, %d of %d heads of %d", attentionCost(2.5), attentionWork(true)},
	{"RMS norm", []string{"norm_rows"}, []int{8, 512}, []int{8192, 4096}, "%d×%d", elements(8), func(b *bench, s []int) func() {
		x, y, w, st := b.buffer(dtype.F32, s[0]*s[1]), b.buffer(dtype.F32, s[0]*s[1]), b.buffer(dtype.F32, s[1]), b.buffer(dtype.F32, 2*s[0])
		return func() {
			b.c.Norm(kernels.To(y), kernels.Dst{}, st, &kernels.NormArgs{Kind: kernels.RMSNorm, N: s[0], C: s[1], X: x, W: w, Eps: 1e-5})
		}
	}},
	{"SwiGLU", []string{"act"}, []int{8, 512}, []int{4096, 14336}, "%d×%d", elements(12), func(b *bench, s []int) func() {
		n := s[0] * s[1]
		x, y, z := b.buffer(dtype.F32, n), b.buffer(dtype.F32, n), b.buffer(dtype.F32, n)
		return func() {
			b.c.Act(kernels.To(z), &kernels.ActArgs{Kind: kernels.SiLU, N: s[0], F: s[1], Gate: x, Up: y})
		}
	}},
	{"AdamW", []string{"optim"}, []int{4096}, []int{42_000_000}, "%d", elements(28), func(b *bench, s []int) func() {
		w, g, m, v := b.buffer(dtype.F32, s[0]), b.buffer(dtype.F32, s[0]), b.buffer(dtype.F32, s[0]), b.buffer(dtype.F32, s[0])
		return func() {
			b.c.Optim(&kernels.OptimArgs{OptimRule: kernels.OptimRule{Kind: kernels.AdamW, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, Step: 1,
				Spans: []kernels.OptimSpan{{P: w, G: g, State: []kernels.Buffer{m, v}, Rows: 1, Cols: s[0], LR: 1e-4}}})
		}
	}},
	{"convolution of 4 taps", []string{"conv"}, []int{16, 64}, []int{8192, 8192}, "%d×%d", elements(4), func(b *bench, s []int) func() {
		n, c := s[0], s[1]
		x, y, w, seq := b.buffer(dtype.BF16, n*c), b.buffer(dtype.BF16, n*c), b.buffer(dtype.F32, 4*c), b.ints(0, int32(n))
		return func() {
			b.c.Conv1D(kernels.To(y), &kernels.ConvArgs{N: n, C: c, Taps: 4, X: x, W: w, Seq: seq, SiLU: true})
		}
	}},
	{"gated delta rule", []string{"delta_gates", "delta_scan_128"}, []int{40, 2, 1, 128}, []int{4096, 32, 16, 128}, "%d tokens, %d of %d heads of %d", deltaCost(1), deltaWork(false)},
	{"its backward pass", []string{"delta_gates", "delta_scan_128", "delta_back_cols_128", "delta_back_rows", "delta_fold", "row_sum", "mul"}, []int{40, 2, 1, 128}, []int{4096, 32, 16, 128}, "%d tokens, %d of %d heads of %d", deltaCost(2.5), deltaWork(true)},
	{"selective scan", []string{"ssm_steps", "ssm_scan"}, []int{40, 4, 16, 64}, []int{4096, 80, 64, 128}, "%d tokens, %d heads of %d, %d each", ssmCost(1), ssmWork(false)},
	{"its backward pass", []string{"ssm_steps", "ssm_back_rows", "ssm_dt", "add", "ssm_back_cols", "ssm_fold"}, []int{40, 4, 16, 64}, []int{4096, 80, 64, 128}, "%d tokens, %d heads of %d, %d each", ssmCost(2.5), ssmWork(true)},
	{"A·B of f32", []string{"gemm"}, []int{64, 64, 128}, []int{4096, 4096, 4096}, "%d×%d×%d", f32Cost, f32Work},
	{"A·B of f32 by tf32", []string{"mma_nn_tf32_128"}, []int{128, 128, 128}, []int{4096, 4096, 4096}, "%d×%d×%d", f32Cost, f32Work},
	{"GPTQ's Hessian", []string{"mma_tn_bf16_128"}, []int{512, 128}, []int{2048, 14336}, "%d rows, %d columns", func(s []int) (moved, products float64) {
		n, c := float64(s[0]), float64(s[1])
		return 2*n*c + 8*c*c, n * c * c
	}, func(b *bench, s []int) func() {
		x, h := b.buffer(dtype.BF16, s[0]*s[1]), b.buffer(dtype.F32, s[1]*s[1])
		return func() { b.c.Gram(kernels.Dst{Buffer: h, Add: true}, &kernels.GramArgs{Rows: s[0], Cols: s[1], X: x}) }
	}},
	{"its factor", []string{"factor_copy", "factor_diagonal", "factor_panel", "factor_update", "factor_store"}, []int{768}, []int{4096}, "%d columns", func(s []int) (moved, products float64) {
		n := float64(s[0])
		return 8 * n * n, n * n * n / 3
	}, func(b *bench, s []int) func() {
		n := s[0]
		h, u := b.buffer(dtype.F32, n*n), b.buffer(dtype.F32, n*n)
		return func() {
			if err := b.c.Factor(u, h, n, 1); err != nil {
				b.Error(err)
			}
		}
	}},
	{"GPTQ's block", []string{"gptq_block"}, []int{64, 128}, []int{4096, 128}, "%d rows, %d columns", func(s []int) (moved, products float64) {
		return 21 * float64(s[0]*s[1]), float64(s[0]*s[1]*s[1]) / 2
	}, func(b *bench, s []int) func() {
		n := s[0] * s[1]
		w, e, u, sc, z, codes := b.buffer(dtype.F32, n), b.buffer(dtype.F32, n), b.buffer(dtype.F32, s[1]*s[1]), b.buffer(dtype.F32, n), b.buffer(dtype.F32, n), b.buffer(dtype.U8, n)
		return func() {
			b.c.GPTQBlock(&kernels.GPTQArgs{Rows: s[0], Cols: s[1], W: w, Err: e, U: u, Codes: codes, Scale: sc, Zero: z, MaxCode: 15})
		}
	}},
}

// GPU is what a prediction is for: an H200.
const (
	gpuBytes   = 4.8e12               // a second
	gpuTensor  = 989e12 / 2           // products of bf16
	gpuIssue   = 132 * 4 * 1.755e9    // instructions of warps a second
	gpuName    = "H200"               // whose data sheet these are of
	countsFile = "../../docs/cuda.md" // the table of counts
	tableBegin = "<!-- counts -->\n"  // up to
	tableEnd   = "<!-- /counts -->\n" // here
)

// counted runs w small on the interpreter and describes it: one row of the table.
func counted(t *testing.T, w *work) string {
	c, sim := interpreted(t)
	defer c.Close()
	sim.Hopper, c.groups.on, c.tf32 = w.groups(), w.groups(), w.tf32()
	c.useInt8(w.int8())
	run := w.make(&bench{T: t, c: c}, w.small)
	moved, products := w.cost(w.small)
	movedReal, productsReal := w.cost(w.real)
	if err := c.Run(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	sim.Profile = true
	if err := c.Run(func() error { run(); return nil }); err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	sim.Profile = false
	n, found := ptxsim.Count{}, 0
	for name, k := range sim.Counts {
		for _, want := range w.kernels {
			if name == want {
				found++
			}
		}
		n.Instructions += k.Instructions
		n.Bytes += k.Bytes
		n.GlobalRequests += k.GlobalRequests
		n.GlobalSectors += k.GlobalSectors
		n.SharedPasses += k.SharedPasses
		n.SharedLeast += k.SharedLeast
		n.Tensor += k.Tensor
	}
	if found != len(w.kernels) || len(sim.Counts) != found {
		t.Fatalf("%s ran %v, not %v", w.name, sim.Counts, w.kernels)
	}
	grow := movedReal / moved
	if products > 0 {
		grow = productsReal / products
	}
	ratio := func(a, b int64) string {
		if b == 0 {
			return ""
		}
		return strconv.FormatFloat(float64(a)/float64(b), 'f', 2, 64)
	}
	issue, mem, tensor := float64(n.Instructions)*grow/gpuIssue, movedReal/gpuBytes, float64(n.Tensor)*grow/gpuTensor/w.rate()
	bound := "instructions"
	if m := math.Max(issue, math.Max(mem, tensor)); m == mem {
		bound = "memory"
	} else if m == tensor {
		bound = "tensor cores"
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %s | %s | %d | %s: %.3g ms by %s |\n", w.name, shape(w, w.small), n.Instructions, strconv.FormatFloat(float64(n.Bytes)/moved, 'f', 2, 64),
		ratio(n.GlobalSectors, n.GlobalRequests), ratio(n.SharedPasses, n.SharedLeast), n.Tensor, shape(w, w.real), 1e3*math.Max(issue, math.Max(mem, tensor)), bound)
}

func shape(w *work, s []int) string {
	var args []any
	for _, x := range s {
		args = append(args, x)
	}
	return fmt.Sprintf(w.shape, args...)
}

// TestCounts: what each kernel does is as docs/cuda.md has it (UPDATE_COUNTS=1
// writes the table).
func TestCounts(t *testing.T) {
	defer func(n int) { busy = n }(busy)
	busy = 1
	var table strings.Builder
	table.WriteString("| work | counted at | instructions of warps | bytes asked for, of the least | sectors an access | passes over banks, of the least | products on tensor cores | least time on an " + gpuName + " |\n|---|---|---|---|---|---|---|---|\n")
	for i := range works {
		table.WriteString(counted(t, &works[i]))
	}
	doc, err := os.ReadFile(countsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	have, after, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		t.Fatalf("%s has no place for counts", countsFile)
	}
	if string(have) == table.String() {
		return
	}
	if os.Getenv("UPDATE_COUNTS") == "" {
		t.Fatalf("%s has other counts than the kernels (UPDATE_COUNTS=1 writes it):\n%s", countsFile, table.String())
	}
	out := append(append(append(append([]byte{}, before...), tableBegin+table.String()...), tableEnd...), after...)
	if err := os.WriteFile(countsFile, out, 0o644); err != nil {
		t.Fatal(err)
	}
}
