package kernels

// GatherArgs choose K rows of a table for each of N results and weigh them:
// embeddings, the rows of an expert, and what experts made of a token.
type GatherArgs struct {
	N, K   int    // K 0 means 1
	Table  Mat    // [V, C], any storage type
	Idx    Buffer // [N, K] int32, each in 0 … V-1
	Weight Buffer // [N, K] f32; nil: 1
}

// Choices is K, at least 1.
func (a *GatherArgs) Choices() int { return max(a.K, 1) }
