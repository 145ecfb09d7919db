package kernels

// The mixers of this file carry a state along each sequence. It begins at zero
// and never crosses into the next sequence, or, for evaluation, it begins with
// what the sequence's slot of State holds and is left there at the end. A
// gradient exists only without State. Weights here are float32, bf16 or f16.

// ConvArgs: a causal convolution of each channel by itself. With rows before
// the sequence zero (or those of State),
// y[n,c] = Bias[c] + Σ_t W[c,t]·x[n-(Taps-1)+t, c], then SiLU where set.
type ConvArgs struct {
	N, C, Taps int
	X          Buffer // [N, C]
	W          Buffer // [C, Taps]; the last tap meets the token itself
	Bias       Buffer // [C] or nil
	Seq        Buffer // [S+1] int32: sequence s is tokens Seq[s] … Seq[s+1]
	SiLU       bool
	State      Buffer // [Slots, Taps-1, C] f32: the last rows of x, oldest first; nil: none
	Slot       Buffer // [S] int32: each sequence's slot, all different; only with State
}

// DeltaArgs is the gated delta rule (Yang et al. 2024, arXiv:2412.06464; with
// PerChannel Kimi Delta Attention, 2025, arXiv:2510.26692). Head h keeps a
// matrix M [Dk, Dv]; each token decays it, replaces what its key k stands for
// by its value v as far as beta says, and reads it:
//
//	M ← diag(decay)·M
//	M ← M + k·(Beta·(v - Mᵀk))ᵀ        with k = KeyScale·key
//	o = Scale·Mᵀq
//
// The H/K neighbouring heads of a key head share its q and k. The log of the
// decay is Gate, or with ALog: -exp(ALog)·softplus(Gate + DtBias).
type DeltaArgs struct {
	N, H, K, Dk, Dv int     // H heads of values, K of queries and keys
	Seq             Buffer  // [S+1] int32, as in ConvArgs
	Gate            Buffer  // [N, H], or with PerChannel [N, H, Dk]
	PerChannel      bool    // every row of M has its own decay
	ALog            Buffer  // [H] or nil
	DtBias          Buffer  // [H], with PerChannel [H, Dk], or nil: 0; only with ALog
	Beta            Buffer  // [N, H]
	Scale, KeyScale float32 // 0 means 1
	State           Buffer  // [Slots, H, Dk, Dv] f32 or nil
	Slot            Buffer  // [S] int32; only with State
}

// DeltaGrads are the gradients of DeltaScan's operands.
type DeltaGrads struct {
	Q, K, V      Heads
	Gate, Beta   Dst
	ALog, DtBias Dst // f32
}

// SSMArgs is the selective scan of Mamba-1 (Gu, Dao 2023, arXiv:2312.00752: a
// head for every channel, P 1, PerState) and Mamba-2 (Dao, Gu 2024,
// arXiv:2405.21060). Head h keeps M [P, S]:
//
//	dt = clamp(softplus(Dt + DtBias), DtMin, DtMax),  A = -exp(ALog)
//	M ← exp(dt·A)·M + dt·x·bᵀ
//	y = M·c + D·x
//
// The H/G neighbouring heads of a group share its b and c.
type SSMArgs struct {
	N, H, P, G, S int     // S numbers a state row has
	Seq           Buffer  // [sequences+1] int32, as in ConvArgs
	Dt            Buffer  // [N, H]
	DtBias        Buffer  // [H] or nil: 0
	DtMin, DtMax  float32 // DtMax 0: no upper limit
	ALog          Buffer  // [H], or with PerState [H, S]
	PerState      bool
	D             Buffer // [H] or nil: 0
	State         Buffer // [Slots, H, P, S] f32 or nil
	Slot          Buffer // [sequences] int32; only with State
}

// SSMGrads are the gradients of SSMScan's operands.
type SSMGrads struct {
	X, B, C         Heads
	Dt              Dst
	DtBias, ALog, D Dst // f32
}
