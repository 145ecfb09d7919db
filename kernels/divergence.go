package kernels

// DivergenceArgs compares what a model expects next, p = softmax(Scale·Logits),
// with what a teacher does, q: of logits [N, V], of the Top most likely tokens of
// each row, or, where there is neither, the uniform distribution.
type DivergenceArgs struct {
	N, V   int
	Logits Buffer  // [N, V] f32
	Scale  float32 // 1/temperature of p; 0: 1

	Teacher      Buffer  // [N, V] f32 logits; nil: none
	TeacherScale float32 // 1/temperature of q; 0: 1

	// Of each row the Top most likely tokens of the teacher with their
	// log-probabilities, in place of its logits. The probability they leave, at
	// least TailMass, is dealt to the other tokens as p deals its own, so that only
	// how much p gives them together counts.
	Top     int    // 0: none
	TopIDs  Buffer // [N, Top] int32, different in a row
	TopLogP Buffer // [N, Top] f32

	// Beta is 0 for KL(q‖p), 1 for KL(p‖q), and between them the generalized
	// Jensen-Shannon divergence Beta·KL(q‖m) + (1-Beta)·KL(p‖m) with
	// m = Beta·q + (1-Beta)·p (Agarwal et al. 2023, arXiv:2306.13649).
	Beta float32
	Coef Buffer // [N] f32: how much a row counts in the gradient; nil: no gradient
}

// TailMass is the least probability that a teacher of DivergenceArgs.Top leaves
// to the other tokens: what float32 can tell from one.
const TailMass = 1.0 / (1 << 24)

// DivergenceOut are results of each row, [N] f32; either may be nil.
type DivergenceOut struct {
	Loss    Buffer // in nats
	Entropy Buffer // of p, in nats
}
