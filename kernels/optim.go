package kernels

import (
	"math"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// OptimKind is an update rule.
type OptimKind uint8

// Rules that look at one element at a time.
const (
	AdamW     OptimKind = iota // torch.optim.AdamW (Loshchilov, Hutter 2019, arXiv:1711.05101)
	SGD                        // torch.optim.SGD
	RMSprop                    // torch.optim.RMSprop
	Adagrad                    // torch.optim.Adagrad (Duchi, Hazan, Singer 2011)
	Lion                       // Chen et al. 2023, arXiv:2302.06675
	AdEMAMix                   // Pagliardini, Ablin, Grangier 2024, arXiv:2409.03137
	ADOPT                      // Taniguchi et al. 2024, arXiv:2411.02853
	Adan                       // Xie et al. 2022, arXiv:2208.06677
	FreeAdamW                  // schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682)
	FreeSGD                    // schedule-free SGD (the same)
	Lerp                       // P += Beta1·(G - P): a moving average of what G holds

	// Rules that look at whole parameters.

	StableAdamW    // AdamW with the update clipping of Wortsman et al. 2023, arXiv:2304.13013
	LAMB           // You et al. 2019, arXiv:1904.00962
	AdamMini       // Zhang et al. 2024, arXiv:2406.16793
	Adafactor      // transformers.Adafactor (Shazeer, Stern 2018, arXiv:1804.04235)
	TorchAdafactor // torch.optim.Adafactor
	CAME           // Luo et al. 2023, arXiv:2307.02047
	Prodigy        // Mishchenko, Defazio 2023, arXiv:2306.06101
)

// ElementWise reports whether the rule looks at one element at a time, so that
// its state may be held in 8 bits.
func (k OptimKind) ElementWise() bool { return k <= Lerp }

// OptimRule is an update rule with its numbers. What a rule does not have it
// ignores; numbers that change from step to step are those of this step.
type OptimRule struct {
	Kind OptimKind
	// Beta1 is the decay of the first moment, or the momentum; Beta2 of the
	// second; Beta3 of AdEMAMix's slow average, Adan's third, CAME's residual and
	// Prodigy's estimate. Lerp: Beta1 is the share of G.
	Beta1, Beta2, Beta3 float64
	// Eps is added to the root (Adagrad: 1e-10; ADOPT: the least root; Adafactor
	// and CAME: added to the square of the gradient). Eps2: Adafactor's least scale
	// of a parameter; CAME's second.
	Eps, Eps2 float64
	Alpha     float64 // AdEMAMix: weight of the slow average
	Dampening float64 // SGD
	MaxRMS    float64 // Adafactor, CAME: largest RMS of an update; 0: none
	Average   float64 // FreeAdamW, FreeSGD: share of the newest point in the average

	L2             bool // AdamW (torch.optim.Adam), ADOPT, Prodigy: the decay is added to the gradient
	Late           bool // AdamW: the decay comes after the update
	AMSGrad        bool // AdamW: the second moment never falls
	Nesterov       bool // SGD
	Centered       bool // RMSprop: the mean of the gradient is taken off
	ScaleParameter bool // Adafactor: rates are relative to the RMS of a parameter

	Bits8    bool // states in 8-bit blocks (Dettmers et al. 2021, arXiv:2110.02861)
	MinBits8 int  // of parameters with at least so many elements

	D0, DCoef, Growth float64 // Prodigy: first estimate, its factor, its largest growth a step (0: any)
	Safeguard         bool    // Prodigy: the rate is left out of the estimate's denominator
	BiasCorrection    bool    // Prodigy
	Slice             int     // Prodigy: the estimate looks at every Slice-th element
}

// OptimBlock is the number of elements of a block of 8-bit state.
const OptimBlock = 256

// OptimState is one buffer of a parameter's state. It begins at zero, or as a
// copy of the first elements of the parameter (every Stride-th).
type OptimState struct {
	Name   string     // m, v … as checkpoints name it
	Type   dtype.Type // F32, or U8: codes of blocks of OptimBlock
	Len    int
	Copy   bool // begins as the parameter
	Stride int  // with Copy: of the elements copied
	Signed bool // U8: codes of block.Signed, else of block.Unsigned
}

// State lists the state of a parameter of rows by cols elements in the order of
// OptimSpan.State. blk is its OptimSpan.Block.
func (r *OptimRule) State(rows, cols, blk int) []OptimState {
	n := rows * cols
	matrix := rows > 1
	var out []OptimState
	add := func(name string, n int) { out = append(out, OptimState{Name: name, Type: dtype.Of(dtype.F32), Len: n}) }
	each := func(names ...string) {
		for _, name := range names {
			if r.Bits8 && n >= r.MinBits8 {
				out = append(out, OptimState{Name: name, Type: dtype.Of(dtype.U8), Len: n, Signed: !r.positive(name)})
				add(name+"_absmax", (n+OptimBlock-1)/OptimBlock)
			} else {
				add(name, n)
			}
		}
	}
	switch r.Kind {
	case AdamW:
		each("m", "v")
		if r.AMSGrad {
			each("v_max")
		}
	case SGD:
		if r.Beta1 > 0 {
			each("m")
		}
	case RMSprop:
		each("v")
		if r.Beta1 > 0 {
			each("m")
		}
		if r.Centered {
			each("mean")
		}
	case Adagrad:
		each("v")
	case Lion:
		each("m")
	case AdEMAMix:
		each("m", "slow", "v")
	case ADOPT, StableAdamW, LAMB:
		each("m", "v")
	case Adan:
		each("m", "diff", "v", "last")
	case FreeAdamW:
		each("z", "v")
		out[0].Copy, out[0].Stride = true, 1
	case FreeSGD:
		each("z")
		out[0].Copy, out[0].Stride = true, 1
	case AdamMini:
		add("m", n)
		add("v", n/blk)
	case Adafactor, TorchAdafactor:
		factors(add, "v", matrix, rows, cols)
		if r.Beta1 > 0 {
			add("m", n)
		}
	case CAME:
		add("m", n)
		factors(add, "v", matrix, rows, cols)
		if matrix {
			factors(add, "res", matrix, rows, cols)
		}
	case Prodigy:
		s := (n + r.Slice - 1) / r.Slice
		add("m", n)
		add("v", n)
		add("s", s)
		add("p0", s)
		out[3].Copy, out[3].Stride = true, r.Slice
	}
	return out
}

// positive reports whether a state holds no negative values, and is coded so:
// bitsandbytes does where there is another state beside it.
func (r *OptimRule) positive(name string) bool {
	return (name == "v" || name == "v_max") && r.Kind != RMSprop && r.Kind != Adagrad
}

// factors are the state of a factored second moment: means of rows and columns,
// or of a vector each element.
func factors(add func(string, int), name string, matrix bool, rows, cols int) {
	if matrix {
		add(name+"_row", rows)
		add(name+"_col", cols)
	} else {
		add(name, rows*cols)
	}
}

// Shared is the number of float32 that a rule remembers for all parameters
// together: Prodigy's estimate d, the largest so far, the numerator, and whether
// a step was made. They begin at zero.
func (r *OptimRule) Shared() int {
	if r.Kind == Prodigy {
		return 4
	}
	return 0
}

// OptimSpan is a parameter, or several that lie together, with one rate and decay.
type OptimSpan struct {
	P, G       Buffer   // [Rows, Cols] f32: values and gradient
	State      []Buffer // as OptimRule.State lists them
	Rows, Cols int      // 1 row: a vector; rules that look at elements need the product only
	Block      int      // AdamMini: so many elements in a row have one second moment
	LR, Decay  float64
}

// OptimArgs: one step of parameters under one rule. Step counts from 1.
type OptimArgs struct {
	OptimRule
	Spans  []OptimSpan
	Common Buffer // [Shared] f32: what the rule remembers for all spans; nil where it has nothing
	Step   int
	// SumSq [1] f32 is Σ G² of all gradients. They are multiplied by
	// min(1, MaxNorm/(√SumSq + 1e-6)) (torch.nn.utils.clip_grad_norm_); MaxNorm
	// 0: by 1. Where SumSq is not finite nothing is changed. nil: not looked at.
	SumSq   Buffer
	MaxNorm float64
}

// ClipFactor is what gradients of the squared norm sumSq are multiplied by so that
// their norm is at most maxNorm (0: any); false where they are not finite.
func ClipFactor(sumSq float32, maxNorm float64) (float32, bool) {
	norm := math.Sqrt(float64(sumSq))
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return 0, false
	}
	if maxNorm == 0 {
		return 1, true
	}
	return min(1, float32(maxNorm/(norm+1e-6))), true
}
