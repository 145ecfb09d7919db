package arch

// Role is the part a tensor plays in a model. Whatever is decided by what a
// tensor is (what gets quantized, adapted, decayed, listed) asks its role; names
// belong to files.
type Role uint8

// The roles. A bias has the role of what it is added to, and Rule.Bias set.
const (
	None       Role = iota // no part: the absence of one
	Embed                  // token embedding
	EmbedNorm              // behind it
	Position               // embedding of positions
	ProjectIn              // from the width of the embedding to that of the blocks, and
	ProjectOut             // back, before the head
	Head                   // output layer
	FinalNorm              // before the head

	AttnNorm     // before attention
	PostAttnNorm // behind it
	Q
	K
	V
	QKV // q, k and v in one
	O
	QNorm // of queries, and
	KNorm // of keys
	Sinks // scores of attention that have no value

	AttnGate // whose sigmoid multiplies what attention makes

	QA     // to the latent of queries
	QANorm // of that latent
	QB     // from it to the queries
	KVA    // to the latent of keys and values, and the rotated part of keys
	KVANorm
	KVB
	IndexQ // of what picks keys: its queries from the latent of queries,
	IndexK // its key,
	IndexW // and the weights of its heads
	IndexNorm

	ApartEmbed   // of a token whose embedding is a vector of its own
	EncoderEmbed // token embedding of an encoder that has one of its own
	EncoderNorm  // of what the last layer of an encoder makes
	Near         // what scores get by distance, and
	EncoderNear  // in an encoder
	CrossNorm    // before attention to what an encoder made
	CrossQ       // its queries,
	CrossK       // keys
	CrossV
	CrossO
	PostCrossNorm // behind that attention

	MLPNorm     // before the feed-forward part
	PostMLPNorm // behind it
	OwnMLPNorm  // behind the dense one of two feed-forward parts side by side, and
	ExpertsNorm // behind the one of experts

	PartEmbed   // embedding of tokens for every layer
	PartProject // from the embedding to what every layer gets
	PartNorm    // behind that
	PartGate    // from the stream to a layer's own part
	PartBack    // and back
	PostPartNorm
	LayerScale // factor on what leaves a layer

	StreamsIn  // from the embedding to one more stream of the residual stream, and
	StreamsOut // from such a stream back, before the head
	AltNorm    // of what says how streams mix
	AltRouter  // from that norm to what mixing is made of,
	AltPredict // the mixing before a layer,
	AltCorrect // and behind it
	AltScale   // of the active stream, before a layer's own part
	LaurelDown // low-rank map beside attention,
	LaurelUp   // back,
	LaurelNorm // and the norm of it

	Gate
	Up
	GateUp // gate and up in one
	Down

	ActPos  // numbers of an activation: see XIELU
	ActNeg  //
	ActBeta // these two are not trained
	ActEps

	OA           // from groups of heads to parts of what O reads
	CompressKV   // what entries are made of,
	CompressGate // how much of each token is in one,
	CompressBias // and of each place among its tokens
	CompressNorm
	IndexGate // as CompressGate, of what picks entries
	IndexBias
	MixFn // of several streams: how they mix around attention, or before the head,
	MixBase
	MixScale
	MLPMixFn // and around the feed-forward part
	MLPMixBase
	MLPMixScale

	ExpertIn     // from the input to the narrower one of experts,
	ExpertOut    // and from what they make back
	Router       // scores of experts
	RouterNorm   // of what the router reads
	ExpertNorm   // of what experts read
	ExpertScale  // of each expert, a factor on its weight for a token
	RouteBias    // of those scores where experts are chosen; it never weighs
	ExpertGateUp // of all experts, gate rows before up rows
	ExpertDown   // of all experts

	MixIn      // of a mixer with a state: what it convolves, and maybe more
	MixGate    // gate of its output, or its low-rank part,
	MixGateUp  // and the gate from that
	MixBeta    // how much of a token a delta rule writes
	MixDecay   // how much of its state a delta rule keeps, or the low-rank part of it,
	MixDecayUp // and that from the part
	MixOut     // its output
	MixNorm    // norm of its output, by head or group
	Conv       // its causal convolution, [channels, taps]
	ALog       // logs of its rates of decay
	DtBias     // of its time steps
	Skip       // how much of its input a selective scan passes on
	StepParts  // time step, input and output of a selective scan (Mamba-1)
	StepUp     // time steps of all channels from those of low rank
	StepNorm   // of the low-rank time step,
	BNorm      // of the scan's input
	CNorm      // and of its output

	SharedRouter // the weight of the expert that serves every token
	SharedGate   // of that expert
	SharedUp
	SharedDown

	Carried // of a part of a larger model that is not run

	numRoles
)

// class is what roles have in common.
type class uint8

const (
	table  class = iota // looked up by row, a matrix outside the blocks, a number that is trained, or a small map that stays as it is
	linear              // a linear map of a block
	norm                // weights of a normalisation
	filter              // weights of a convolution
	state               // numbers of a scan
	fixed               // a number that training leaves alone
)

var classes = [numRoles]class{
	Embed: table, EmbedNorm: norm, Position: table, ProjectIn: table, ProjectOut: table, Head: table, FinalNorm: norm,
	AttnNorm: norm, PostAttnNorm: norm, Q: linear, K: linear, V: linear, QKV: linear, O: linear, QNorm: norm, KNorm: norm, Sinks: table, AttnGate: linear,
	QA: linear, QANorm: norm, QB: linear, KVA: linear, KVANorm: norm, KVB: linear, IndexQ: table, IndexK: table, IndexW: table, IndexNorm: norm,
	ApartEmbed: table, EncoderEmbed: table, EncoderNorm: norm, Near: table, EncoderNear: table, CrossNorm: norm, PostCrossNorm: norm, CrossQ: linear, CrossK: linear, CrossV: linear, CrossO: linear,
	MLPNorm: norm, PostMLPNorm: norm, OwnMLPNorm: norm, ExpertsNorm: norm, RouterNorm: norm, ExpertNorm: norm, ExpertScale: table, Gate: linear, Up: linear, GateUp: linear, Down: linear,
	PartEmbed: table, PartProject: table, PartNorm: norm, PartGate: linear, PartBack: linear, PostPartNorm: norm, LayerScale: fixed,
	StreamsIn: table, StreamsOut: table, AltNorm: norm, AltRouter: table, AltPredict: table, AltCorrect: table, AltScale: table, LaurelDown: table, LaurelUp: table, LaurelNorm: norm,
	ActPos: table, ActNeg: table, ActBeta: fixed, ActEps: fixed,
	OA: linear, CompressKV: linear, CompressGate: linear, CompressBias: table, CompressNorm: norm, IndexGate: table, IndexBias: table,
	MixFn: table, MixBase: table, MixScale: table, MLPMixFn: table, MLPMixBase: table, MLPMixScale: table,
	ExpertIn: linear, ExpertOut: linear, Router: table, RouteBias: fixed, ExpertGateUp: linear, ExpertDown: linear,
	MixIn: linear, MixGate: linear, MixGateUp: linear, MixBeta: linear, MixDecay: linear, MixDecayUp: linear, MixOut: linear, MixNorm: norm,
	Conv: filter, ALog: state, DtBias: state, Skip: state, StepParts: linear, StepUp: table, StepNorm: norm, BNorm: norm, CNorm: norm,
	SharedRouter: table, SharedGate: linear, SharedUp: linear, SharedDown: linear,
}

// IsLinear reports whether the role is that of a linear map of a block: what
// quantizers and adapters work on.
func (r Role) IsLinear() bool { return classes[r] == linear }

// IsNorm reports whether the role is that of a normalisation.
func (r Role) IsNorm() bool { return classes[r] == norm }

// IsState reports whether the role is that of a convolution or of a scan, which
// work with float32 weights.
func (r Role) IsState() bool { return classes[r] == filter || classes[r] == state }

// Decays reports whether weight decay applies to weights of the role: rates of
// decay and time steps are no sizes that should shrink.
func (r Role) Decays() bool { return !r.IsNorm() && classes[r] != state && classes[r] != fixed }
