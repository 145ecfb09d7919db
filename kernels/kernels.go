// Package kernels is the narrow waist: what a compute backend must do, and
// nothing about how. Everything above speaks of Buffers and fused operations;
// everything below knows memory.
//
// # Letters
//
//	N  packed tokens of a batch (sequences lie one after another, no padding)
//	S  sequences in the batch; C  channels (hidden size); F  feed-forward size
//	H  query heads; K  key/value heads; D  head size, Dk of queries and keys, Dv of values
//	V  vocabulary; R  LoRA rank
//	E  experts, of which a token has K
//
// # Rules of every method
//
// Destination first, then one struct of operands where there are more than two.
// Matrices are row major. A Dst says where a result goes and whether it is added
// to what is there; the zero Dst is skipped, so a frozen weight costs nothing. An
// optional Buffer that is absent is a nil interface (never a typed nil). Wrong
// shapes and types are programmer errors and panic. Results depend on shapes and
// values alone: never on the number of threads, free memory or a limit. Methods
// are called inside Device.Run; an error that a method meets (a lost device)
// comes out of Run or Download.
//
// # Types of operands
//
// Each operand has its type by itself. What is bf16 is widened as it is read; as
// a result it is rounded to nearest even after it was computed, and added to what
// is there, in float32.
//
//	operand                                          type
//	activations and their gradients in Net           F32 or BF16
//	keys and values of a KV                          F32 or BF16
//	Add's operands and result                        F32, BF16 or F16
//	weights, a Mat                                   any storage type
//	weights of Conv1D and the scans                  F32, BF16 or F16
//	norm weights, biases, Rel, Sinks                 F32
//	gradients of weights                             F32
//	states, statistics, angles, weights of Gather    F32
//	log-probabilities, Coef                          F32
//	ids, positions, offsets; Drop.Key                I32; I64
//	all of Tools but what follows                    F32
//	X and y of FakeQuant                             F32 or BF16
//	results of RowStats                              F32, or F64 of SumXY and SumDiff
//	codes of GPTQBlock; ids of Sample                U8; I32
package kernels

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/dustin/go-humanize"

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
	Host                       // held by the caller, where that is the same memory; what Alloc takes of the host's for a device with its own
	Mapped                     // file pages, not ours to limit
	NumPurposes                // how many there are
)

var purposes = [NumPurposes]string{"weights", "activations", "gradients", "optimizer", "scratch", "host", "mapped"}

func (p Purpose) String() string { return purposes[p] }

// ErrOutOfMemory is wrapped by every refusal to allocate past the limit.
var ErrOutOfMemory = errors.New("out of memory")

// MemoryError reports which purpose hit which limit. It wraps ErrOutOfMemory.
type MemoryError struct {
	Purpose     Purpose
	Asked       int64 // bytes
	Limit       int64 // bytes, as Info has it
	Process     ProcessLimit
	Copies      bool // as Info of the device has it
	InUse       [NumPurposes]int64
	DeviceLabel string
}

// Pinned reports whether the limit is that of the host's memory which a device with its
// own takes for what is Host (Info.Staged).
func (e *MemoryError) Pinned() bool { return e.Copies && e.Purpose == Host }

// Least is the smallest limit under which this one allocation would have been made: of
// the process where it has one, of pinned memory where that is what was short.
func (e *MemoryError) Least() int64 {
	if e.Pinned() {
		return e.InUse[Host] + e.Asked
	}
	return Counted(e.InUse, e.Copies) + e.Asked + e.Process.Program
}

func (e *MemoryError) Error() string {
	s := fmt.Sprintf("%s: %s more for %s is over the limit of %s", e.DeviceLabel, ibytes(e.Asked), e.Purpose, ibytes(max(e.Process.Bytes, e.Limit)))
	if e.Pinned() {
		return fmt.Sprintf("%s: %s more of the host's memory is over the %s that may be pinned, in use are %s", e.DeviceLabel, ibytes(e.Asked), ibytes(e.Limit), ibytes(e.InUse[Host]))
	}
	if e.Process.Program > 0 {
		s += fmt.Sprintf(", the program itself takes %s", ibytes(e.Process.Program))
	}
	in := ""
	for p, n := range e.InUse {
		if n > 0 && Purpose(p) != Mapped && !(e.Copies && Purpose(p) == Host) {
			in += fmt.Sprintf(", %v %s", Purpose(p), ibytes(n))
		}
	}
	if in == "" {
		return s
	}
	return s + ", in use are" + in[1:]
}

func ibytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

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
	Rows Buffer // [rows of the operand] int32: row r is of token Rows[r] and has its key; nil: row n is token n
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

// Counted is Total of a device: without what lies in the host's memory where the device
// copies into its own.
func Counted(v [NumPurposes]int64, copies bool) int64 {
	if copies {
		v[Host] = 0
	}
	return Total(v)
}

// SizeClass rounds a size in bytes up: eight steps for every power of two, so that
// blocks of memory that were given back fit again.
func SizeClass(n int64) int64 {
	if n <= 512 {
		return 512
	}
	step := int64(1) << max(bits.Len64(uint64(n-1))-4, 9)
	return (n + step - 1) &^ (step - 1)
}

// Info describes a backend.
type Info struct {
	Name      string // "cpu", "cuda:0", "dry"
	Level     string // kernel level, e.g. "avx512bf16"
	Address   string // what results depend on beside their inputs, e.g. "cpu/avx512bf16": part of the address of every result
	Threads   int
	Limit     int64 // bytes over all counted purposes; 0: none
	Process   ProcessLimit
	Copies    bool  // mapped weights are copied into its own memory, and count
	Staged    int64 // bytes of the host's memory that a device with its own may pin, for Stage and for what is Host; 0: none
	FastBF16  bool  // a product of bf16 operands is clearly faster than one of f32
	Mem       MemStats
	PeakTotal int64 // largest sum over all counted purposes at one moment since ResetCounters
	Working   Working
}

// InUse is the bytes that count against Limit now, as PeakTotal has them at most.
func (i Info) InUse() int64 { return Counted(i.Mem.Now, i.Copies) }

// ProcessLimit is a limit of the whole process, in bytes; zero where only a device's
// memory is limited.
type ProcessLimit struct {
	Bytes   int64 // as it was given; all but Program is for the backend
	Program int64 // what the program itself takes
}

// Working says how many bytes of Scratch methods take while they run, for plans. Of
// buffers it asks the type and the length alone.
type Working interface {
	Product(p ProductShape) int64
	LogProb(l LogProbShape) int64
	Sample(a *SampleArgs) int64
	Attention(o, q, k, v Heads, a *AttnArgs) int64
	AttentionBackward(g *AttnGrads, do, q, k, v Heads, a *AttnArgs) int64
	Conv1DBackward(dw, db Dst, a *ConvArgs) int64
	DeltaScan(a *DeltaArgs) int64
	DeltaScanBackward(g *DeltaGrads, a *DeltaArgs) int64
	SSMScan(a *SSMArgs) int64
	SSMScanBackward(g *SSMGrads, a *SSMArgs) int64
	Sinkhorn(a *SinkhornArgs) int64
	SinkhornBackward(a *SinkhornArgs) int64
	Route(a *RouteArgs) int64 // and RouteBackward
	Sum(n int) int64
	Gram(a *GramArgs) int64
	Factor(n int) int64
	Quantize(dst Mat) int64
	Optim(o *OptimArgs) int64
}

// Unplanned is the part of a Working that says of every method but products, the loss
// and the factor that it takes nothing, for backends that know no better.
type Unplanned struct{}

// Sample is 0.
func (Unplanned) Sample(*SampleArgs) int64 { return 0 }

// Attention is 0.
func (Unplanned) Attention(_, _, _, _ Heads, _ *AttnArgs) int64 { return 0 }

// AttentionBackward is 0.
func (Unplanned) AttentionBackward(*AttnGrads, Heads, Heads, Heads, Heads, *AttnArgs) int64 { return 0 }

// Conv1DBackward is 0.
func (Unplanned) Conv1DBackward(_, _ Dst, _ *ConvArgs) int64 { return 0 }

// DeltaScan is 0.
func (Unplanned) DeltaScan(*DeltaArgs) int64 { return 0 }

// DeltaScanBackward is 0.
func (Unplanned) DeltaScanBackward(*DeltaGrads, *DeltaArgs) int64 { return 0 }

// SSMScan is 0.
func (Unplanned) SSMScan(*SSMArgs) int64 { return 0 }

// SSMScanBackward is 0.
func (Unplanned) SSMScanBackward(*SSMGrads, *SSMArgs) int64 { return 0 }

// Sinkhorn is 0.
func (Unplanned) Sinkhorn(*SinkhornArgs) int64 { return 0 }

// SinkhornBackward is 0.
func (Unplanned) SinkhornBackward(*SinkhornArgs) int64 { return 0 }

// Route is 0.
func (Unplanned) Route(*RouteArgs) int64 { return 0 }

// Sum is 0.
func (Unplanned) Sum(int) int64 { return 0 }

// Gram is 0.
func (Unplanned) Gram(*GramArgs) int64 { return 0 }

// Quantize is 0.
func (Unplanned) Quantize(Mat) int64 { return 0 }

// Optim is 0.
func (Unplanned) Optim(*OptimArgs) int64 { return 0 }

// ProductShape is M rows of N sums of K products of op(A) and op(B), and of K2 more of
// a second pair (0: none), as far as memory depends on it.
type ProductShape struct {
	M, N, K, K2  int
	Parts        int  // of B, one below another; 0: one
	TA, TB       bool // operands are transposed; else A is [M, K], B [K, N]
	BF16, F16    bool // as in LinearArgs
	Fast         bool
	DropA, DropB bool       // elements are dropped as they are read
	DropC        bool       // elements of the first pair's sums are dropped before the second's are added
	Bias, Add    bool       // a bias is added to every row; the sums are added to what is there
	A, B, A2, B2 dtype.Kind // how operands are stored
	C            dtype.Kind // and the result
	W            dtype.Type // of B where it is a weight
}

// LogProbShape is the head over N tokens.
type LogProbShape struct {
	N, Answered int // Answered of them have a target, or all count
	V, C        int // the head has V rows of C columns
	BF16, F16   bool
	DX, DW      bool       // gradients that are made
	X, W        dtype.Kind // how operands are stored
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
	// Host counts n bytes that the caller holds in the host's memory, until
	// release, and refuses them as Alloc does. A device with memory of its own
	// counts nothing.
	Host(n int64) (release func(), err error)
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

// Stager is a Device with memory of its own that copies from the host's while it
// computes.
type Stager interface {
	// Stage takes n bytes of the host's memory, zeros; nil: there is none to be had.
	// Alloc of what is Host may take them back: who does both from several goroutines
	// orders them.
	Stage(n int64) *Staged
	// Save copies src, all bytes of a buffer, to s in the order of what is asked of the
	// device.
	Save(s *Staged, src Buffer)
	// LoadStaged makes a weight of what Save copied. The copy goes on beside what is
	// computed; the first method that reads the weight waits for it. s must not be
	// written, nor released, before the weight is freed.
	LoadStaged(p Purpose, t dtype.Type, rows, cols int, s *Staged) (Mat, error)
}

// Staged is memory of the host that a device copies from.
type Staged struct {
	Bytes   []byte // nil of a device that counts alone
	Gone    bool   // the device took it back: what was saved is lost
	Release func() // gives it back, where it is not gone
}

// Ranked is a Device that can have what other processes have on theirs, without the host
// in between.
type Ranked interface {
	// RanksWay names the way there, e.g. nccl-2.27.3, which all ranks must have. An error
	// says why there is none; one of the package fail, that this may not be.
	RanksWay() (string, error)
	// RanksID is what one rank makes, and all give to JoinRanks.
	RanksID() ([]byte, error)
	// JoinRanks waits until size ranks have called it with one id. It asks alive meanwhile,
	// whose error ends it, and the device with it.
	JoinRanks(id []byte, rank, size int, alive func() error) error
	// GatherRanks completes dst, float32 [ranks, n] of which this rank has written its own
	// row; all ranks call it in the same order. It waits, and asks alive as JoinRanks does.
	GatherRanks(dst Buffer, rank, n int, alive func() error) error
	// LeaveRanks ends it.
	LeaveRanks() error
}

// Net is the network: fused operations and their gradients.
type Net interface {
	// Linear: see LinearArgs.
	Linear(y Dst, a *LinearArgs)
	// LinearBackward: dx = Alpha·dy·W (masked by Drop) + U·B with U [N,R] and
	// B [R, in] the second pair of the backward; dw [out,in] = Alpha·dyᵀ·drop(X);
	// dbias [out] = column sums of dy. dw and dbias are float32. With Group each
	// expert's rows meet its own part of W, B, dw and dbias.
	LinearBackward(dx, dw, dbias Dst, dy Buffer, a *LinearArgs)

	// Route sends every token to K of E experts: see RouteArgs.
	Route(out *RouteOut, a *RouteArgs)
	// RouteBackward: dlogits [N, E] from the gradients of out.Weight [N, K] and
	// out.Probs [E], either nil. It reads out.Idx. The choice itself has no gradient.
	RouteBackward(dlogits Dst, dweight, dprobs Buffer, out *RouteOut, a *RouteArgs)

	// Gather: y[n] = Σ_j Weight[n,j]·Table[Idx[n,j]], decoded; y [N, C].
	Gather(y Dst, a *GatherArgs)
	// GatherBackward: dtable[Idx[n,j]] += Weight[n,j]·dy[n], in order of n, then
	// j; dweight[n,j] = dy[n]·Table[Idx[n,j]]. dtable [V, C], dweight [N, K] f32.
	// Table's memory is read for dweight alone: without it only its shape counts.
	GatherBackward(dtable, dweight Dst, dy Buffer, a *GatherArgs)

	// Norm writes stats [N] (RMSNorm) or [N,2] (LayerNorm: mean, 1/σ).
	Norm(y, sum Dst, stats Buffer, a *NormArgs)
	NormBackward(dx, dw, db Dst, dy, stats Buffer, a *NormArgs)

	Act(y Dst, a *ActArgs)
	ActBackward(dgate, dup Dst, dy Buffer, a *ActArgs)

	// Sinkhorn: see SinkhornArgs. y [N, S·S] f32, dx and dy like it.
	Sinkhorn(y Dst, a *SinkhornArgs)
	SinkhornBackward(dx Dst, dy Buffer, a *SinkhornArgs)

	Add(y Dst, a *AddArgs)
	Mul(y Dst, a *MulArgs)
	// MulBackward: dx = dy·S, ds = dy·X summed over what shares a factor, dbias =
	// column sums of dy. dx may be dy.
	MulBackward(dx, ds, dbias Dst, dy Buffer, a *MulArgs)
	// Copy2D: y is as long as the last row that is written needs.
	Copy2D(y Dst, a *Copy2DArgs)

	// Rope rotates heads (Su et al. 2021, arXiv:2104.09864). y may be x.
	Rope(y, x Heads, a *RopeArgs)

	// Attention writes o and lse [N, H] (needed by the backward; nil: not kept).
	Attention(o Heads, lse Buffer, q, k, v Heads, a *AttnArgs)
	AttentionBackward(g *AttnGrads, do, o Heads, lse Buffer, q, k, v Heads, a *AttnArgs)

	// KVAppend stores the keys and values of tokens.
	KVAppend(c *KV, a *KVAppendArgs)
	// KVAttention is Attention to what slots of a cache hold.
	KVAttention(o, q Heads, c *KV, a *KVAttnArgs)

	// Conv1D: see ConvArgs. y [N, C]. The backward makes dx [N, C], dw [C, Taps]
	// and db [C], the last two f32.
	Conv1D(y Dst, a *ConvArgs)
	Conv1DBackward(dx, dw, db Dst, dy Buffer, a *ConvArgs)

	// DeltaScan: see DeltaArgs. q, k are K heads of Dk, v and o H heads of Dv.
	DeltaScan(o, q, k, v Heads, a *DeltaArgs)
	DeltaScanBackward(g *DeltaGrads, do, q, k, v Heads, a *DeltaArgs)

	// SSMScan: see SSMArgs. x and y are H heads of P, b and c G heads of S.
	SSMScan(y, x, b, c Heads, a *SSMArgs)
	SSMScanBackward(g *SSMGrads, dy, x, b, c Heads, a *SSMArgs)

	// LogProb computes out, and with Coef (see Smooth) the gradients of
	// Σ_n Coef[n]·(-log p(Target[n])): dx [N,C], dw [V,C] and dbias [V] f32.
	LogProb(out *LogProbOut, dx, dw, dbias Dst, a *LogProbArgs)

	// Divergence computes out, and with Coef the gradient of Σ_n Coef[n]·Loss[n]:
	// dlogits [N, V], which is not a.Logits.
	Divergence(out *DivergenceOut, dlogits Dst, a *DivergenceArgs)
}

// Tools are what optimizers, quantizers and evaluation need.
type Tools interface {
	Gemm(c Dst, a *GemmArgs)
	// Gram with a Dst that adds needs a symmetric h.
	Gram(h Dst, a *GramArgs)
	ColStats(out Dst, a *ColStatsArgs)
	RowStats(out Dst, a *RowStatsArgs)
	// Sum: out [1] = Σ(a-b)² over n elements, b nil: Σa². Float64 inside, fixed tree.
	Sum(out Dst, a, b Buffer, n int)
	// Factor: u = U⁻¹ with H + damp·I = U·Uᵀ (U upper), so uᵀ·u = (H+damp·I)⁻¹ and u is
	// upper triangular [n,n], zeros below. h is not changed; u may be h, which then is
	// unchanged after an error only. ErrNotPositive when H is not positive definite.
	Factor(u, h Buffer, n int, damp float32) error
	GPTQBlock(g *GPTQArgs)
	// Quantize encodes x [dst.Rows, dst.Cols] f32 into dst with the bytes of
	// block.Encode; importance [dst.Cols] f32 weighs the columns, nil: none. A
	// type whose blocks cross rows must be given whole. An error names a value
	// that is not finite or too large for its scale.
	Quantize(dst Mat, x, importance Buffer) error
	// Dequantize writes m decoded, [m.Rows, m.Cols] f32.
	Dequantize(dst Buffer, m Mat)
	FakeQuant(y Dst, a *FakeQuantArgs)
	// Divide: y = X/S, without a Bias. y may be X.
	Divide(y Dst, a *MulArgs)
	Optim(o *OptimArgs)
	// LogitStats: kl[n] = Σ p_ref·(log p_ref - log p), top1[n] = 1 when both have
	// the same argmax; f32 [N].
	LogitStats(kl, top1 Dst, a *LogitStatsArgs)
	Sample(ids Buffer, a *SampleArgs)
}

// ErrNotPositive is Factor's error for a matrix that is not positive definite.
var ErrNotPositive = errors.New("matrix is not positive definite")
