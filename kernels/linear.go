package kernels

// LinearArgs are the operands of y = Alpha·drop(x)·Wᵀ + bias + u·Bᵀ.
//
// With Group the rows of X belong to experts, one after another as Route sorts
// them, and each expert has its own part of the weights: rows Group[e] …
// Group[e+1] of X, U and y use part e of W [Experts·out, in], Bias
// [Experts·out] and B [Experts·out, R] (backward: [Experts·R, in]). An expert
// without rows contributes nothing.
type LinearArgs struct {
	N     int
	X     Buffer  // [N, W.Cols]
	W     Mat     // [out, in], any storage type
	Bias  Buffer  // [out] or nil
	U     Buffer  // [N, B.Cols], nil: no second pair
	B     Mat     // forward: [out, R]; backward: [R, in] (see LinearBackward)
	Alpha float32 // 0 means 1; scales the first product only
	BF16  bool    // round the operands of both products to bf16 (nearest even), sum in f32
	F16   bool    // round them to half precision instead: what is too large for it is infinite
	Drop  *Drop   // applied to X as it is read; nil: none
	// Fast allows the first product the rounding that is fastest: both operands
	// to bf16, or X to 8 bits with a scale for every 32 where W is quantized.
	Fast    bool
	Group   Buffer // [Experts+1] int32, from 0 to N, never falling; nil: one weight for all rows
	Experts int    // parts of W; counts only with Group
}

// Parts is how many weights W holds: Experts with Group, else one.
func (a *LinearArgs) Parts() int {
	if a.Group == nil {
		return 1
	}
	return a.Experts
}

// Out is the number of columns of y: the rows of one part of W.
func (a *LinearArgs) Out() int { return a.W.Rows / a.Parts() }
