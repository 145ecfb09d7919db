// Package kernels is the narrow waist: what a compute backend must do, and
// nothing about how. Everything above speaks of Buffers and fused operations;
// everything below knows memory.
//
// # Letters
//
//	N  packed tokens of a batch (sequences lie one after another, no padding)
//	S  sequences in the batch; C  channels (hidden size); F  feed-forward size
//	H  query heads; K  key/value heads; D  head size; V  vocabulary; R  LoRA rank
//
// # Rules of every method
//
// Destination first. Activations, gradients and statistics are float32, row
// major; x, y, u and their gradients in Linear, Norm's y and what Act, Rope and
// Attention read and write may be bf16 as well, each by itself: such an operand
// is widened, such a result rounded to nearest even after it was computed (and
// added to what is there) in float32. A Dst says where a result goes and whether it is added to what is
// there; the zero Dst is skipped, so a frozen weight costs nothing. An optional
// Buffer that is absent is a nil interface (never a typed nil). Weights (Mat)
// may have any storage type. Wrong shapes are programmer errors and panic.
// Results depend on shapes and values alone: never on the number of threads,
// free memory or a limit. Methods are called inside Device.Run; an error that
// a method meets (a lost device) comes out of Run or Download.
package kernels

import (
	"errors"
	"fmt"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Purpose says what memory is for; every allocation has one and is counted.
type Purpose uint8

const (
	Weights     Purpose = iota // of the base and of adapters
	Activations                // kept from the forward pass for the backward pass
	Gradients                  // of what is trained
	Optimizer                  // its moments
	Scratch                    // of one operation
	Mapped                     // file pages, not ours to limit
	NumPurposes                // how many there are
)

var purposes = [NumPurposes]string{"weights", "activations", "gradients", "optimizer", "scratch", "mapped"}

func (p Purpose) String() string { return purposes[p] }

// ErrOutOfMemory is wrapped by every refusal to allocate past the limit.
var ErrOutOfMemory = errors.New("out of memory")

// MemoryError reports which purpose hit which limit. It wraps ErrOutOfMemory.
type MemoryError struct {
	Purpose     Purpose
	Asked       int64 // bytes
	Limit       int64 // bytes
	InUse       [NumPurposes]int64
	DeviceLabel string
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%s: %d bytes of %s asked, limit %d, in use %v", e.DeviceLabel, e.Asked, e.Purpose, e.Limit, e.InUse)
}

func (e *MemoryError) Unwrap() error { return ErrOutOfMemory }

// Buffer is device memory. Only its backend can look inside.
type Buffer interface {
	Type() dtype.Type
	Len() int // elements
}

// Dst is a destination. The zero Dst is skipped. Add accumulates into what the
// buffer holds instead of overwriting it.
type Dst struct {
	Buffer
	Add bool
}

// To writes into b.
func To(b Buffer) Dst { return Dst{Buffer: b} }

// Into accumulates into b.
func Into(b Buffer) Dst { return Dst{Buffer: b, Add: true} }

// Skip reports whether nobody wants this result.
func (d Dst) Skip() bool { return d.Buffer == nil }

// Mat is a matrix, or the rows Row0 … Row0+Rows of one that has Of rows. Cols
// is the inner (fastest) dimension: weights are [out, in].
type Mat struct {
	Buffer
	Rows, Cols, Row0, Of int
}

// RowsOf returns the n rows of m from row r on, sharing its memory.
func (m Mat) RowsOf(r, n int) Mat {
	if r < 0 || n < 0 || r+n > m.Rows {
		panic(fmt.Sprintf("kernels: rows %d+%d of a matrix of %d", r, n, m.Rows))
	}
	m.Row0 += r
	m.Rows = n
	return m
}

// Heads views part of each token's row as heads: element d of head h of token
// n is at Off + n·Tok + h·Head + d.
type Heads struct {
	Buffer
	Off, Tok, Head int
	Add            bool // for destinations: accumulate
}

// Skip reports whether nobody wants this result.
func (h Heads) Skip() bool { return h.Buffer == nil }

// Drop is dropout without state: whether element c of token n is dropped is a
// function of (Seed, Step, Site, Key[n], c) only, so neither packing nor
// accumulation changes it.
type Drop struct {
	P    float32
	Seed uint64
	Step uint32
	Site uint32
	Key  Buffer // [N] int64: sample<<32 | token
}

// MemStats counts bytes by purpose: in use now, and at most since ResetCounters.
type MemStats struct{ Now, Peak [NumPurposes]int64 }

// Total is the sum over all purposes that count against a limit.
func Total(v [NumPurposes]int64) int64 {
	var s int64
	for p, n := range v {
		if Purpose(p) != Mapped {
			s += n
		}
	}
	return s
}

// Info describes a backend.
type Info struct {
	Name      string // "cpu", "cuda:0", "dry"
	Level     string // kernel level, e.g. "avx512bf16"
	Address   string // what results depend on beside their inputs, e.g. "cpu/avx512bf16": part of the address of every result
	Threads   int
	Limit     int64 // bytes over all counted purposes; 0: none
	FastBF16  bool  // a product of bf16 operands is clearly faster than one of f32
	Mem       MemStats
	PeakTotal int64 // largest sum over all counted purposes at one moment since ResetCounters
}

// Use says what Load may do with the host bytes it is given.
type Use uint8

const (
	Copy   Use = iota // the bytes may change after Load returns
	Borrow            // the bytes stay valid and unchanged until Free: the backend may read them in place
)

// Backend is a compute device.
type Backend interface {
	Device
	Net
	Tools
}

// Device owns memory and order.
type Device interface {
	Info() Info
	// ResetCounters makes what is in use now the peak, so that one device can
	// serve, and measure, several stages.
	ResetCounters()
	// Close gives everything back that the backend holds. Its buffers must not be
	// used afterwards; to free one then does nothing.
	Close()
	// Alloc returns n elements with undefined contents. t must be a plain type.
	Alloc(p Purpose, t dtype.Type, n int) (Buffer, error)
	// Load makes a weight of type t from host bytes laid out by dtype.Planes; nil:
	// its contents are undefined until Quantize.
	Load(p Purpose, t dtype.Type, rows, cols int, host []byte, u Use) (Mat, error)
	// Free gives memory back. The zero interface is ignored; slices need no Free.
	Free(Buffer)
	// Slice views elements [off, off+n) of a plain buffer.
	Slice(b Buffer, off, n int) Buffer
	Upload(dst Buffer, src []byte)
	Download(dst []byte, src Buffer) error
	// Fill sets every element of a buffer of float32 or bf16.
	Fill(dst Buffer, v float32)
	// Run calls step on the device's thread and returns its error, or the
	// first error of a method called inside it.
	Run(step func() error) error
}

// LinearArgs are the operands of y = Alpha·drop(x)·Wᵀ + bias + u·Bᵀ.
type LinearArgs struct {
	N     int
	X     Buffer  // [N, W.Cols]
	W     Mat     // [out, in], any storage type
	Bias  Buffer  // [out] or nil
	U     Buffer  // [N, B.Cols], nil: no second pair
	B     Mat     // forward: [out, R]; backward: [R, in] (see LinearBackward)
	Alpha float32 // 0 means 1; scales the first product only
	BF16  bool    // round the operands of both products to bf16 (nearest even), sum in f32
	Drop  *Drop   // applied to X as it is read; nil: none
	// Fast allows the first product the rounding that is fastest: both operands
	// to bf16, or X to 8 bits with a scale for every 32 where W is quantized.
	Fast bool
}

// NormKind selects the normalisation.
type NormKind uint8

const (
	RMSNorm   NormKind = iota // x·W/√(mean x² + Eps)
	LayerNorm                 // (x-mean)·W/√(var + Eps) + Bias
)

// NormArgs: rows of width C. With Res set the input is s = Res + Alpha·X,
// which the forward also writes to sum; the backward takes s as X.
type NormArgs struct {
	Kind    NormKind
	N, C    int
	X, Res  Buffer // [N, C]; Res nil: none
	Alpha   float32
	W, Bias Buffer // [C] f32; nil: 1 and 0
	Eps     float32
}

// ActKind is the activation of a gated or plain feed-forward part.
type ActKind uint8

const (
	SiLU     ActKind = iota // x·σ(x)
	GELU                    // erf
	GELUTanh                // GELU's tanh approximation
	ReLU                    // max(x, 0)
)

// ActArgs: y[n,f] = act(Gate[n,f])·Up[n,f]; Up nil: y = act(Gate).
type ActArgs struct {
	Kind     ActKind
	N, F     int
	Gate, Up Buffer // [N, F]
}

// Pairs says which elements of a head rotate together.
type Pairs uint8

const (
	HalfSplit Pairs = iota // i and i+rot/2 (Llama in Hugging Face order)
	Adjacent               // 2i and 2i+1
)

// AttnArgs describes causal grouped-query attention over packed sequences.
type AttnArgs struct {
	N, H, K, D int
	Seq        Buffer  // [S+1] int32: sequence s is tokens Seq[s] … Seq[s+1]; no attention across
	Scale      float32 // of the scores
	Window     int     // 0: none; else a token sees itself and the Window-1 before it
	SoftCap    float32 // 0: none; else a scaled score s becomes SoftCap·tanh(s/SoftCap)
	BF16       bool    // allows weights and gradients of scores to be rounded to bf16 where q, k, v and do are bf16
}

// KV is a cache of keys and values, [Slots, Max, K, D] float32 each.
type KV struct {
	Keys, Values     Buffer
	Slots, Max, K, D int
}

// LogProbArgs: the head and the loss in one, without ever holding [N, V].
type LogProbArgs struct {
	N      int
	X      Buffer  // [N, C]
	W      Mat     // [V, C]
	Target Buffer  // [N] int32; -1: no target, contributes nothing
	Coef   Buffer  // [N] f32 or nil (nil: no gradients)
	Scale  float32 // logits = Scale·x·Wᵀ; 0 means 1
	BF16   bool
}

// LogProbOut are per-token results; any may be nil.
type LogProbOut struct {
	LogP   Buffer // [N] f32: log p(target); 0 where there is no target
	LSE    Buffer // [N] f32: log-sum-exp of the logits
	Argmax Buffer // [N] int32: lowest index of the largest logit
}

// Net is the network: fused operations and their gradients.
type Net interface {
	Linear(y Dst, a *LinearArgs)
	// LinearBackward: dx = Alpha·dy·W (masked by Drop) + U·B with U [N,R] and
	// B [R, in] the second pair of the backward; dw [out,in] = Alpha·dyᵀ·drop(X);
	// dbias [out] = column sums of dy. dw and dbias are float32.
	LinearBackward(dx, dw, dbias Dst, dy Buffer, a *LinearArgs)

	// Gather: y[n] = table[idx[n]], decoded. idx [n] int32.
	Gather(y Dst, table Mat, idx Buffer, n int)
	// GatherBackward: dtable[idx[n]] += dy[n], rows in order of n. dtable [V,C] f32.
	GatherBackward(dtable Dst, dy Buffer, idx Buffer, n, c int)

	// Norm writes stats [N] (RMSNorm) or [N,2] (LayerNorm: mean, 1/σ).
	Norm(y, sum Dst, stats Buffer, a *NormArgs)
	NormBackward(dx, dw, db Dst, dy, stats Buffer, a *NormArgs)

	Act(y Dst, a *ActArgs)
	ActBackward(dgate, dup Dst, dy Buffer, a *ActArgs)

	// Add: y = alpha·a + beta·b, n elements; b nil: y = alpha·a. Types F32, BF16, F16 convert.
	Add(y Dst, a, b Buffer, n int, alpha, beta float32)

	// Rope rotates the first rot elements of every head by the angles whose
	// cosines and sines are cs [N, rot/2, 2] f32; the rest is copied. y may be
	// x. inverse rotates back (the gradient).
	Rope(y, x Heads, n, h, d, rot int, cs Buffer, pairs Pairs, inverse bool)

	// Attention writes o and lse [N, H] (needed by the backward; nil: not kept).
	Attention(o Heads, lse Buffer, q, k, v Heads, a *AttnArgs)
	AttentionBackward(dq, dk, dv Heads, do, o Heads, lse Buffer, q, k, v Heads, a *AttnArgs)

	// KVAppend stores token i at position pos[i] of slot[i]. slot, pos [n] int32.
	KVAppend(c *KV, k, v Heads, n int, slot, pos Buffer)
	// KVAttention: token i attends to positions 0..pos[i] of slot[i]
	// (window > 0: only the last window of them; softCap as in AttnArgs).
	KVAttention(o, q Heads, c *KV, n, h int, slot, pos Buffer, scale float32, window int, softCap float32)

	// LogProb computes out, and with Coef the gradients of
	// Σ_n Coef[n]·(-log p(Target[n])): dx [N,C], dw [V,C] f32.
	LogProb(out *LogProbOut, dx, dw Dst, a *LogProbArgs)
}

// Stat is a column statistic.
type Stat uint8

const (
	SumSq  Stat = iota // Σ_n x²
	SumAbs             // Σ_n |x|
	MaxAbs             // max_n |x|
)

// OptimKind is an element-wise update rule.
type OptimKind uint8

const (
	AdamW OptimKind = iota // torch.optim.AdamW, single tensor, not fused
	SGD                    // M holds the momentum (Beta1) or is nil
)

// OptimArgs: one flat range of parameters. Step counts from 1.
type OptimArgs struct {
	N                            int
	P, G, M, V                   Buffer // [N] f32
	LR, Beta1, Beta2, Eps, Decay float64
	Step                         int
	Clip                         Buffer // [1] f32 factor for G; nil: 1. Not finite: nothing is changed
}

// GPTQArgs: one block of columns of GPTQ's inner loop, transposed so that a
// column is contiguous. See quant/gptq.go for the algorithm.
type GPTQArgs struct {
	Rows, Cols  int    // of this block (Cols ≤ 128)
	W           Buffer // [Cols, Rows] f32 in: weights; out: dequantized values
	Err         Buffer // [Cols, Rows] f32 out: (w - q)/U[j,j], for the columns after this block
	U           Buffer // [Cols, Cols] f32, the block of the upper factor
	Codes       Buffer // [Cols, Rows] uint8 out
	Scale, Zero Buffer // [Cols, Rows] f32: of each element's group (zero as a code)
	MaxCode     int    // 2^bits - 1
}

// Tools are what optimizers, quantizers and evaluation need.
type Tools interface {
	// Gemm: c [m,n] = alpha·op(a)·op(b); a is [m,k] or, with ta, [k,m]; b is [k,n] or, with tb, [n,k].
	Gemm(c Dst, a, b Buffer, ta, tb bool, m, n, k int, alpha float32)
	// Gram: h [cols,cols] (full, symmetric) = or += XᵀX of x [rows,cols].
	Gram(h Dst, x Buffer, rows, cols int)
	// ColStats: out [cols].
	ColStats(out Dst, x Buffer, rows, cols int, s Stat)
	// Sum: out [1] = Σ(a-b)² over n elements, b nil: Σa². Float64 inside, fixed tree.
	Sum(out Dst, a, b Buffer, n int)
	// Factor: u = U⁻¹ with H + damp·I = U·Uᵀ (U upper), so uᵀ·u = (H+damp·I)⁻¹ and u is
	// upper triangular [n,n], zeros below. h is not changed. ErrNotPositive when H is not positive definite.
	Factor(u, h Buffer, n int, damp float32) error
	GPTQBlock(g *GPTQArgs)
	// Dequantize writes m decoded, [m.Rows, m.Cols] f32.
	Dequantize(dst Buffer, m Mat)
	Optim(kind OptimKind, o *OptimArgs)
	// LogitStats: kl[n] = Σ p_ref·(log p_ref - log p), top1[n] = 1 when both have the same argmax.
	// logits, ref [n, v]; kl, top1 [n] f32.
	LogitStats(kl, top1 Dst, logits, ref Buffer, n, v int)
}

// ErrNotPositive is Factor's error for a matrix that is not positive definite.
var ErrNotPositive = errors.New("matrix is not positive definite")
