package kernels

// LogProbArgs: the head and the loss in one, without ever holding [N, V].
type LogProbArgs struct {
	N       int
	X       Buffer  // [N, C]
	W       Mat     // [V, C]
	Bias    Buffer  // [V] f32 or nil
	Scale   float32 // logits = Scale·x·Wᵀ + Bias; 0 means 1
	SoftCap float32 // 0: none; else a logit z becomes SoftCap·tanh(z/SoftCap)
	Target  Buffer  // [N] int32; -1: no target, contributes nothing
	Coef    Buffer  // [N] f32 or nil (nil: no gradients)
	Smooth  float32 // of the gradients' loss, (1-Smooth)·(-log p(target)) + Smooth·(the mean of -log p over the vocabulary)
	BF16    bool    // as in LinearArgs
	F16     bool
}

// LogProbOut are per-token results; any may be nil.
type LogProbOut struct {
	LogP   Buffer // [N] f32: log p(target); 0 where there is no target
	LSE    Buffer // [N] f32: log-sum-exp of the logits
	Argmax Buffer // [N] int32: lowest index of the largest logit
	Mean   Buffer // [N] f32: mean of log p over the vocabulary; 0 where there is no target
}
