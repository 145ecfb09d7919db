package kernels

// RouteKind is how a router turns a token's logits into scores of experts.
type RouteKind uint8

const (
	RouteSoftmax      RouteKind = iota // over all experts
	RouteSoftmaxTopK                   // over the chosen experts alone
	RouteSigmoid                       // of each logit by itself
	RouteSqrtSoftplus                  // √ln(1+eˡ) of each logit by itself
	// RouteSparsemixer (Liu et al. 2024, arXiv:2409.12136) as it evaluates: experts
	// are chosen one after another, the largest logit first. The score of each
	// is a softmax over itself and the experts not chosen before it whose logits
	// l are near the chosen one's m: (m-l)/max(|l|, m) ≤ 2·Jitter.
	RouteSparsemixer
)

// RouteArgs describes a router of N tokens over E experts, K of them for each
// token: those of the largest scores, ties to the lowest index.
type RouteArgs struct {
	Kind    RouteKind
	N, E, K int
	Logits  Buffer // [N, E]
	// Bias [E] f32 is added to a score where experts and groups are chosen, and
	// never weighs; nil: none.
	Bias Buffer
	// Groups > 0 cuts the experts into so many equal groups, and only the best
	// TopGroups of them are chosen from: those whose best score (with Best2 the
	// sum of the two best), with bias, is largest. Not with RouteSparsemixer.
	Groups, TopGroups int
	Best2             bool
	Renorm            bool    // weights are scores divided by (their sum + Eps)
	Eps               float32 // of Renorm
	Scale             float32 // of the weights; 0 means 1
	Jitter            float32 // of RouteSparsemixer
	// Chosen [N, K] int32 are the experts where something else has chosen them,
	// all different; nil: chosen here.
	Chosen Buffer
}

// RouteOut is where tokens go. A choice is a token with one of its experts;
// sorted rows are the choices by expert, those of one expert by token.
type RouteOut struct {
	Idx    Buffer // [N, K] int32: the experts of a token in the order of their choice
	Weight Buffer // [N, K] f32: their weights
	Token  Buffer // [N·K] int32: the token of each sorted row
	Place  Buffer // [N, K] int32: the sorted row of each choice
	Group  Buffer // [E+1] int32: expert e has sorted rows Group[e] … Group[e+1]
	// Probs [E] f32 is Σ_n of the router's distribution, for the loss that
	// balances experts; nil: not wanted. It is the softmax of the logits, or with
	// scores that stand by themselves each divided by the sum of all.
	Probs Buffer
}
