// Package arch describes model architectures as data: how a config.json or the
// metadata of a GGUF becomes a Spec, what each tensor is called in every file
// format and how its rows are ordered there. It holds no tensors and runs
// nothing; a new architecture is one file and one line in archs.go.
//
// In memory everything has Hugging Face orientation ([out, in]), experts one
// below another. A Rule says what a tensor is (its Role) and in which pieces a
// file keeps it; Source and Sink apply the rules on the way in and out, so that
// names and layouts of files end here.
package arch

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/kernels"
)

// Spec is a transformer as data: a decoder, alone or behind an encoder. Letters as in package kernels.
type Spec struct {
	Arch       string // key of the table in archs.go
	C          int    // hidden size
	V          int    // vocabulary rows of the embedding
	MaxPos     int    // context length
	Tied       bool   // the head is the embedding
	Reward     bool   // the head has one row: see Source.Reward
	Half       bool   // of a larger model, in whose folder names begin otherwise
	Whole      Whole  // of a larger model of any kind, whose names are not the model's
	Deep       int    // layers to whose outputs a larger model adds of what it sees: a GGUF states it
	RouterLoss bool   // config.json turns on the loss over routers in training (output_router_logits)
	Norm       NormSpec

	EmbedWidth  int  // of embedding and head, where maps between it and C stand around the blocks; 0: C
	EmbedNorm   bool // the embedding is normalised
	Positions   int  // rows of a table that is added to the embedding, by position; 0: none
	PosOffset   int  // the row of position 0
	NoFinalNorm bool // the last block's output goes to the head as it is
	HeadBias    bool

	// Part is the number of inputs that every layer gets of its own (*Part): from a
	// table by token, and from a projection of the embedding; 0: none.
	Part int
	// PartRows is the number of tokens in that table, where it is not all: others have
	// the row of the first. 0: all.
	PartRows int
	// Streams is the number of streams of C that a row of the residual stream holds
	// (AltUp); 0: one.
	Streams int
	// Hyper is set where such streams mix around every sublayer.
	Hyper *Hyper

	// Stand are tokens that stand for what is no text; without it they are embedded
	// as StandAs is.
	Stand   []int32
	StandAs int32

	// Apart is a token, or none, whose embedding is a vector of its own that is not
	// scaled: the end of an image.
	Apart []int32

	// Layers are the blocks in their order. Equal ones may share a pointer.
	Layers []*LayerSpec
	// Encoder is the number of the first layers that are an encoder: they read a text
	// of their own, whose tokens see each other on both sides, and the layers behind
	// them read what comes of it beside the text that they go on with; 0: there is none.
	Encoder int
	// EncoderEmbed says that the encoder has an embedding of its own.
	EncoderEmbed bool
	// Start is the token that stands before the first one that is predicted behind an
	// encoder.
	Start int32
	// Distances are of the layers whose attention has them.
	Distances Distances
	// Predict is the number of layers behind these that predict further tokens: files
	// have them, and they are carried along, not run.
	Predict int
	// Ropes are the tables of rotary angles; layers name theirs by index.
	Ropes []RopeSpec
	// Slopes [H] are those of linear biases (ALiBi, Press et al. 2021,
	// arXiv:2108.12409): the score of head h loses Slopes[h] for every token that
	// the key lies behind the query.
	Slopes []float32

	// Scalars of some families; 0 stands for the usual value.
	EmbedScale, LogitScale float32
	LogitCap               float32 // a logit z becomes LogitCap·tanh(z/LogitCap); 0: none
	// Temperature is of the layers whose attention has it.
	Temperature Temperature
}

// Temperature is a factor on the queries that grows with their position p:
// 1 + Beta·ln(1 + ⌊(p+Shift)/Every⌋).
type Temperature struct {
	Beta         float32
	Every, Shift int
}

// At is the factor at position p.
func (t Temperature) At(p int) float64 {
	return 1 + float64(t.Beta)*math.Log(1+float64((p+t.Shift)/t.Every))
}

func (t Temperature) check() error {
	if !(math.Abs(float64(t.Beta)) <= 1e6) || t.Every < 1 || t.Shift < 0 {
		return fmt.Errorf("queries grow by %g every %d positions", t.Beta, t.Every)
	}
	return nil
}

// Distances are numbers by head that scores get by how far a key is from the query,
// from a table of Buckets rows of each stack of layers (Raffel et al. 2020,
// arXiv:1910.10683): half of the rows are of single distances, the others of ever
// longer ranges up to Far, and in an encoder one half of all is of keys behind the
// query, the other of keys ahead of it.
type Distances struct{ Buckets, Far int }

// Row is the row of a key that is so many tokens behind the query, below 0 ahead of
// it; both says that keys ahead have rows of their own. Ranges are cut in float32,
// as the reference does.
func (d Distances) Row(behind int, both bool) int {
	n, first := d.Buckets, 0
	if both {
		if n /= 2; behind < 0 {
			first, behind = n, -behind
		}
	}
	behind = max(behind, 0)
	single := n / 2
	if behind < single {
		return first + behind
	}
	share := float32(math.Log(float64(float32(behind)/float32(single)))) / float32(math.Log(float64(d.Far)/float64(single)))
	return first + min(single+int(float32(share*float32(n-single))), n-1)
}

func (d Distances) check(both bool) error {
	n := d.Buckets
	if both {
		n /= 2
	}
	if n < 2 || d.Buckets > 1<<16 || d.Far <= n/2 || d.Far > 1<<20 {
		return fmt.Errorf("relative positions have %d buckets up to a distance of %d", d.Buckets, d.Far)
	}
	return nil
}

// NormSpec says how all norms of a model work.
type NormSpec struct {
	Kind   kernels.NormKind
	Eps    float32
	Offset float32 // of the weights: w is used as Offset + w; GGUF holds the sum
	Bare   bool    // there are no weights
	Bias   bool
}

// LayerSpec is one block: sublayers around a residual stream.
type LayerSpec struct {
	// Sublayers in the order they run.
	Sublayers []Sublayer
	// Parallel sublayers all read the block's input. Others read what the one
	// before left.
	Parallel bool
	// NormSum puts the norms Post behind the sum: a sublayer makes the stream x
	// Post(x + Body(x)).
	NormSum bool
	// NormedStream: a sublayer adds to what its norm Pre makes of the stream, which x
	// becomes Pre(x) + Body(Pre(x)).
	NormedStream bool
	// Residual is the factor on what a sublayer adds to the stream; 0: 1.
	Residual float32
	// AltUp is set where the sublayers work on one of several streams.
	AltUp *AltUp
	// Hyper is set where they mix around each of two sublayers.
	Hyper *Hyper
	// Scaled: what leaves the layer is multiplied by a number in the file.
	Scaled bool
}

// Sublayer adds Residual·post(Body(pre(x))) to the residual stream x.
type Sublayer struct {
	Pre  Role // norm of its input, or None
	Body Body
	Post Role // norm of its output, or None
}

// Body is a mixer or a feed-forward part: *Attention, *MLA, *Compressed, *MLP, *MoE, *ShortConv,
// *DeltaNet, *Mamba2, *Mamba1, *Part, *Laurel, *Cross, *Beside, *Normed.
type Body interface {
	// check reports sizes that no model has or that do not fit the rest of s.
	check(s *Spec) error
}

// Attention is grouped-query attention, causal unless Full is set.
type Attention struct {
	H, K int // query and key/value heads
	D    int // head size
	Rope int // index in Spec.Ropes; NoRope: no positions

	Fused    bool          // q, k and v are one map: all queries, then all keys, then all values
	ByKey    bool          // of Fused: for every key head its queries, the key and the value; not so in GGUF
	ALiBi    bool          // scores fall with distance as Spec.Slopes say
	QKNorm   QKNorm        // before the rotation
	NormLast bool          // the norm follows the rotation instead
	Pairs    kernels.Pairs // in Hugging Face row order
	Bias     bool          // of q, k, v
	OutBias  bool
	Gate     bool    // the sigmoid of one more map of the input multiplies what o reads
	Clip     float32 // q, k and v are cut off at ±Clip, before their rotation and behind their norms; 0: not
	Window   int     // 0: none
	Chunk    int     // a token sees no key of an earlier chunk of so many positions; 0: all
	Sinks    bool    // every head has a score of its own that takes a share and has no value
	Scale    float32 // of the scores; 0: 1/√D
	VNorm    bool    // each value is normalised, without weights
	KeyValue bool    // values are the keys before their norm and rotation; there is no v
	Lends    bool    // later layers see its keys and values, too
	Borrows  int     // n > 0: it sees those of the nth attention that lends, and has none of its own
	SoftCap  float32 // a scaled score s becomes SoftCap·tanh(s/SoftCap); 0: none
	// Full: keys after a token are seen, too; Ahead of them, 0: all.
	Full  bool
	Ahead int
	// Memory: the keys and values that its maps make of what an encoder made are seen, too,
	// all of them, without positions; Window is of a token's own text.
	Memory bool
	// Distances adds to the scores what Spec.Distances says; OwnDistances: from a table of
	// the layer's own.
	Distances, OwnDistances bool
	// Temperature multiplies the queries by Spec.Temperature.
	Temperature bool
	QGate       bool // q makes of each head a query, then a gate: the sigmoid of it multiplies what o reads
	// Factors on what it reads and makes, and on keys before all else; 0: 1.
	InScale, OutScale, KeyScale float32
}

// Cross is attention whose keys and values are made of what the encoder made, all of
// which every token sees; without positions.
type Cross struct {
	H, K    int     // query and key/value heads
	D       int     // head size
	Scale   float32 // of the scores
	SoftCap float32 // as Attention's
	Bias    bool    // of all four maps
}

func (c *Cross) check(s *Spec) error {
	if s.Encoder == 0 {
		return fmt.Errorf("attention to an encoder's output without an encoder")
	}
	if err := checkSizes(size{"attention heads", c.H, maxHeads}, size{"key/value heads", c.K, maxHeads}, size{"head size", c.D, 1 << 14}); err != nil {
		return err
	}
	return checkGroups(c.H, c.K)
}

// QKNorm says what a norm of queries and keys spans.
type QKNorm uint8

const (
	NoQKNorm   QKNorm = iota // there is none
	PerHead                  // each head by itself; the heads share the weights
	WholeWidth               // all heads of a token together
	OwnPerHead               // each head by itself, with weights of its own
	Bare                     // each head by itself, without weights
)

// NoRope stands for the index of a table of angles where nothing rotates.
const NoRope = -1

// MLP is a feed-forward part: down(act(gate(x))·up(x)), or without a gate
// down(act(up(x))).
type MLP struct {
	F       int // inner size
	Act     kernels.ActKind
	Ungated bool
	Fused   bool // gate and up are one map: all rows of the gate, then those of up
	Bias    bool
	XIELU   *XIELU // of an activation of that kind, else nil
	// Sparse: of the gates only what lies Cut standard deviations above the mean of the
	// token's is open, and counts from there.
	Sparse bool
	Cut    float32
	// ActParams are the numbers of an activation that has any.
	ActParams kernels.ActParams
	// Factors on what gate and down make; 0: 1.
	GateScale, OutScale float32
}

// Part is a layer's own part of what comes of the tokens beside the stream:
// back(act(gate(x))·part).
type Part struct {
	P   int // inner size
	Act kernels.ActKind
}

func (p *Part) check(*Spec) error {
	return checkSizes(size{"inputs of a layer", p.P, maxWidth})
}

// XIELU are the numbers of an activation xIELU as files state them (Huang, Schlag
// 2024, arXiv:2411.13010): for x > 0 it is softplus(Pos)·x² + Beta·x, else
// (Beta + softplus(Neg))·(e^min(x, Eps) - 1 - x) + Beta·x. Pos and Neg are those of
// the file: training changes the model's.
type XIELU struct{ Pos, Neg, Beta, Eps float32 }

// Attention is the first attention among the layers, nil where there is none.
func (s *Spec) Attention() *Attention { return first[*Attention](s) }

// mlp is the first feed-forward part of its kind, nil where there is none.
func (s *Spec) mlp() *MLP { return first[*MLP](s) }

// feed is the inner size and the activation of the feed-forward parts, as files
// state them.
func (s *Spec) feed() (f int, act kernels.ActKind) {
	if m := s.moe(); m != nil {
		return cmp.Or(m.Dense, m.F), m.Act
	}
	m := s.mlp()
	return m.F, m.Act
}

// feeds are the inner sizes of the feed-forward parts by layer, 0 where a layer has
// none, as a GGUF lists them.
func (s *Spec) feeds() []int32 {
	out := make([]int32, len(s.Layers))
	for i, l := range s.Layers {
		if m, ok := bodyOf[*MLP](l); ok {
			out[i] = int32(m.F)
		}
	}
	return out
}

// rope is the first table of angles, which files describe; empty where nothing
// rotates.
func (s *Spec) rope() RopeSpec {
	if len(s.Ropes) == 0 {
		return RopeSpec{}
	}
	return s.Ropes[0]
}

// vary gives the layers that chosen names a changed copy of their attention.
func (s *Spec) vary(chosen []bool, change func(*Attention)) {
	s.rebuild(func(i int) bool { return i < len(chosen) && chosen[i] }, func(old Body) Body {
		a, ok := old.(*Attention)
		if !ok {
			return old
		}
		own := *a
		change(&own)
		return &own
	})
}

// narrow gives the layers that local names a window of so many tokens.
func (s *Spec) narrow(local []bool, window int) {
	s.vary(local, func(a *Attention) { a.Window = window })
}

// rebuild replaces the bodies of the layers that chosen names. Equal layers stay
// equal.
func (s *Spec) rebuild(chosen func(layer int) bool, replace func(old Body) Body) {
	made := map[*LayerSpec]*LayerSpec{}
	for i, l := range s.Layers {
		if !chosen(i) {
			continue
		}
		if made[l] == nil {
			own := *l
			own.Sublayers = slices.Clone(l.Sublayers)
			for j := range own.Sublayers {
				own.Sublayers[j].Body = replaced(own.Sublayers[j].Body, replace)
			}
			made[l] = &own
		}
		s.Layers[i] = made[l]
	}
}

// replaced is a body with what replace makes of its parts.
func replaced(b Body, replace func(old Body) Body) Body {
	switch all := b.(type) {
	case *Normed:
		own := *all
		own.Body = replaced(all.Body, replace)
		return &own
	case *Beside:
		own := &Beside{}
		for _, part := range all.Bodies {
			own.Bodies = append(own.Bodies, replaced(part, replace))
		}
		return own
	}
	return replace(b)
}

// attentions are those of the layers, nil where a layer has none.
func (s *Spec) attentions() []*Attention {
	out := make([]*Attention, len(s.Layers))
	for i, l := range s.Layers {
		out[i], _ = bodyOf[*Attention](l)
	}
	return out
}

// windows says which layers attend to a window, and its size; 0 where none does.
func (s *Spec) windows() (local []bool, size int) {
	local = make([]bool, len(s.Layers))
	for i, a := range s.attentions() {
		if a != nil && a.Window > 0 {
			local[i], size = true, a.Window
		}
	}
	return local, size
}

// LessCached reports whether programs can keep less of a long text than the keys and
// values of all its positions, as is done here: a window of them, or the latents that they
// are made of.
func (s *Spec) LessCached(tokens int) (windows, latents bool) {
	_, size := s.windows()
	for _, l := range s.Layers {
		_, ok := bodyOf[*MLA](l)
		latents = latents || ok
	}
	return size > 0 && size < tokens, latents
}

func first[B Body](s *Spec) (none B) {
	for _, l := range s.Layers {
		if b, ok := bodyOf[B](l); ok {
			return b
		}
	}
	return none
}

// bodyOf is the first part of its kind in a layer.
func bodyOf[B Body](l *LayerSpec) (b B, ok bool) {
	for i := range l.Sublayers {
		for _, part := range parts(l.Sublayers[i].Body) {
			if b, ok = part.(B); ok {
				return b, true
			}
		}
	}
	return b, false
}

// parts are the bodies that b is made of.
func parts(b Body) []Body {
	switch all := b.(type) {
	case *Normed:
		return parts(all.Body)
	case *Beside:
		var out []Body
		for _, part := range all.Bodies {
			out = append(out, parts(part)...)
		}
		return out
	}
	return []Body{b}
}

// Beside is bodies that read one input, and whose outputs are summed.
type Beside struct{ Bodies []Body }

// Normed is a body of several in a sublayer with norms of its own.
type Normed struct {
	Pre  Role // norm of its input, or None
	Body Body
	Post Role // norm of its output, or None
}

func (n *Normed) check(s *Spec) error { return n.Body.check(s) }

// norms are those of a body's parts.
func norms(b Body) []Role {
	switch all := b.(type) {
	case *Normed:
		return append(append([]Role{all.Pre}, norms(all.Body)...), all.Post)
	case *Beside:
		var out []Role
		for _, part := range all.Bodies {
			out = append(out, norms(part)...)
		}
		return out
	case *MoE:
		return []Role{all.Pre}
	}
	return nil
}

func (b *Beside) check(s *Spec) error {
	for _, part := range b.Bodies {
		if err := part.check(s); err != nil {
			return err
		}
	}
	return nil
}

// Width is the number of columns of the residual stream.
func (s *Spec) Width() int { return s.C * max(s.Streams, 1) }

// embedWidth is the number of columns of embedding and head.
func (s *Spec) embedWidth() int { return cmp.Or(s.EmbedWidth, s.C) }

// repeat makes n equal layers.
func (s *Spec) repeat(n int, l *LayerSpec) error {
	if err := checkSizes(size{"layers", n, maxLayers}); err != nil {
		return err
	}
	s.Layers = make([]*LayerSpec, n)
	for i := range s.Layers {
		s.Layers[i] = l
	}
	return nil
}

// Limits on what a file may claim, far above every published model.
const (
	maxLayers = 4096
	maxWidth  = 1 << 20
	maxHeads  = 4096
	maxVocab  = 1 << 24
)

// size is a number that a file states.
type size struct {
	name     string
	v, limit int
}

func checkSizes(sizes ...size) error {
	for _, d := range sizes {
		if d.v <= 0 || d.v > d.limit {
			return fmt.Errorf("%s is %d, allowed 1 to %d", d.name, d.v, d.limit)
		}
	}
	return nil
}

// Context is how many tokens a text may have: the context length, or to where the
// scaling of positions stretches it; 0: any number, where positions are distances
// alone.
func (s *Spec) Context() int {
	if s.Distances.Buckets > 0 {
		return 0
	}
	n := s.MaxPos
	for _, r := range s.Ropes {
		if r.Type != "" && r.Factor > 1 {
			n = max(n, int(float64(cmp.Or(r.OrigMax, s.MaxPos))*r.Factor))
		}
	}
	return n
}

// Trained is the context length that a model was trained with; 0: there is none, where
// positions are distances alone.
func (s *Spec) Trained() int {
	if s.Distances.Buckets > 0 {
		return 0
	}
	return s.MaxPos
}

// Turn is the length beyond which all angles of a text are others (longrope); 0:
// there is none.
func (s *Spec) Turn() int {
	for _, r := range s.Ropes {
		if r.Type == "longrope" {
			return r.OrigMax
		}
	}
	return 0
}

// check refuses sizes that no model has and that would make later arithmetic
// divide by zero or overflow.
func (s *Spec) check() error {
	err := checkSizes(size{"hidden size", s.C, maxWidth}, size{"vocabulary", s.V, maxVocab}, size{"context length", s.MaxPos, 1 << 28})
	if err != nil {
		return err
	}
	if !(s.Norm.Eps > 0 && s.Norm.Eps < 1) {
		return fmt.Errorf("normalisation epsilon is %g", s.Norm.Eps)
	}
	var before *LayerSpec
	for i, l := range s.Layers {
		if l == before {
			continue
		}
		before = l
		for j := range l.Sublayers {
			if err := l.Sublayers[j].Body.check(s); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
		}
		if l.Hyper != nil {
			if err := l.Hyper.check(); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
		}
		if l.AltUp != nil {
			if err := l.AltUp.check(l); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
		}
	}
	for i := range s.Ropes {
		if err := s.Ropes[i].check(); err != nil {
			return err
		}
	}
	if s.PartRows < 0 || s.PartRows > s.V {
		return fmt.Errorf("inputs of layers for %d of %d tokens", s.PartRows, s.V)
	}
	if s.Part < 0 || s.Part > maxWidth || s.Part*len(s.Layers) > 1<<24 {
		return fmt.Errorf("%d layers with %d inputs each", len(s.Layers), s.Part)
	}
	if s.Encoder < 0 || s.Encoder > 0 && s.Encoder >= len(s.Layers) || s.Encoder > 0 && (s.Start < 0 || int(s.Start) >= s.V) {
		return fmt.Errorf("%d of %d layers are an encoder; its decoder's text begins with token %d of %d", s.Encoder, len(s.Layers), s.Start, s.V)
	}
	if s.Positions < 0 || s.Positions > maxVocab || s.EmbedWidth < 0 || s.EmbedWidth > maxWidth {
		return fmt.Errorf("%d positions, embedding of width %d", s.Positions, s.EmbedWidth)
	}
	return nil
}

func (a *Attention) check(s *Spec) error {
	err := checkSizes(size{"attention heads", a.H, maxHeads}, size{"key/value heads", a.K, maxHeads}, size{"head size", a.D, 1 << 14})
	if err != nil {
		return err
	}
	if err := checkGroups(a.H, a.K); err != nil {
		return err
	}
	if a.Window < 0 || a.Window > 1<<28 {
		return fmt.Errorf("attention window is %d", a.Window)
	}
	if !(a.Clip >= 0) {
		return fmt.Errorf("queries, keys and values are cut off at %g", a.Clip)
	}
	if a.Clip > 0 && a.QKNorm != NoQKNorm && (a.Fused || a.NormLast || a.Borrows > 0) {
		return lack{fmt.Errorf("bounds of queries and keys behind their norms are supported where each has a map of its own")}
	}
	if a.Temperature {
		if err := s.Temperature.check(); err != nil {
			return err
		}
	}
	if a.Ahead < 0 || a.Ahead > 1<<28 {
		return fmt.Errorf("a token sees %d tokens ahead", a.Ahead)
	}
	if a.Distances || a.OwnDistances {
		if err := s.Distances.check(a.Full); err != nil {
			return err
		}
	}
	if a.ALiBi && len(s.Slopes) != a.H {
		return fmt.Errorf("%d slopes for %d attention heads", len(s.Slopes), a.H)
	}
	if a.Rope == NoRope {
		return nil
	}
	if rot := s.Ropes[a.Rope].Dim; rot > a.D {
		return fmt.Errorf("rotary size %d does not fit head size %d", rot, a.D)
	}
	return nil
}

// checkGroups refuses query heads that do not share key/value heads evenly.
func checkGroups(heads, keys int) error {
	if heads%keys != 0 {
		return fmt.Errorf("%d attention heads are no multiple of %d key/value heads", heads, keys)
	}
	return nil
}

func (m *MLP) check(*Spec) error {
	return checkSizes(size{"feed-forward size", m.F, maxWidth})
}
