package kernels

// Pairs says which elements of a head rotate together.
type Pairs uint8

const (
	HalfSplit Pairs = iota // i and i+Rot/2 (Llama in Hugging Face order)
	Adjacent               // 2i and 2i+1
)

// RopeArgs: elements Off … Off+Rot of every head are rotated, the others copied.
type RopeArgs struct {
	N, H, D  int
	Rot, Off int
	CS       Buffer // [N, Rot/2, 2] f32: cosines and sines; nil where Rot is 0
	Pairs    Pairs
	Inverse  bool // rotates back: the gradient
}

// AttnArgs describes grouped-query attention over packed sequences: every token
// of a sequence of queries attends to the sequence of keys of the same number.
//
// A query stands at a position among its keys: the last one at the last key, so
// that queries are as a rule at the positions of their own keys, and follow the
// keys that a longer sequence of keys has before them. Unless Full is set a
// token sees the keys up to its own position. A token that sees no key gets
// zeros (and a log-sum-exp of -Inf where it has no sink).
type AttnArgs struct {
	N, NKV int    // tokens of queries, and of keys and values; NKV 0: N
	H, K   int    // query heads, key heads: H/K neighbours share one
	Dk, Dv int    // size of a query and a key, and of a value; Dv 0: Dk
	Seq    Buffer // [S+1] int32: sequence s is queries Seq[s] … Seq[s+1]
	SeqKV  Buffer // [S+1] int32: the same for keys; nil: Seq

	Scale   float32 // of the scores
	SoftCap float32 // 0: none; else a scaled score s becomes SoftCap·tanh(s/SoftCap)
	Rel     Buffer  // [Span, H] f32: row RelZero+(i-j), or the nearest there is, is added to the score of a query at i and a key at j; nil: none
	Span    int     // rows of Rel
	RelZero int     // the row of a token's own position
	Sinks   Buffer  // [H] f32: a score that takes its share of the weights and has no value; nil: none

	Full   bool   // keys after a token are seen, too
	Window int    // 0: none; else a token sees no further back than itself and the Window-1 before it
	Ahead  int    // with Full, how many keys after it a token sees; 0: all
	Chunk  int    // 0: none; else a token sees only keys whose position divided by Chunk is its own
	Pick   Buffer // [N, P] int32: of what a token may see, it sees these positions alone, all different; -1: none. nil: no choice
	P      int    // columns of Pick

	BF16 bool // allows weights and gradients of scores to be rounded to bf16 where q, k, v and do are bf16
}

// Keys is the number of tokens of keys.
func (a *AttnArgs) Keys() int {
	if a.NKV == 0 && a.SeqKV == nil {
		return a.N
	}
	return a.NKV
}

// Values is the size of a value.
func (a *AttnArgs) Values() int {
	if a.Dv == 0 {
		return a.Dk
	}
	return a.Dv
}

// Bounds are the sequences of keys.
func (a *AttnArgs) Bounds() Buffer {
	if a.SeqKV == nil {
		return a.Seq
	}
	return a.SeqKV
}

// Seen are the positions lo … hi that a token at position p of a sequence of
// keys may see. Neither end falls as p rises.
func (a *AttnArgs) Seen(p, keys int) (lo, hi int) {
	hi = p + 1
	if a.Full {
		hi = keys
		if a.Ahead > 0 {
			hi = min(hi, p+1+a.Ahead)
		}
	}
	if a.Window > 0 {
		lo = p - a.Window + 1
	}
	if a.Chunk > 0 && p >= 0 {
		lo = max(lo, p-p%a.Chunk)
		hi = min(hi, p-p%a.Chunk+a.Chunk)
	}
	lo = max(lo, 0)
	return lo, max(lo, hi)
}

// AttnGrads are what AttentionBackward makes; any may be skipped.
type AttnGrads struct {
	Q, K, V Heads
	Sinks   Dst // [H] f32
	Rel     Dst // [Span, H] f32
}

// KV is a cache of keys and values, [Slots, Max, K, Dk] and [Slots, Max, K, Dv],
// each float32 or bf16. Without Values a value is the first Dv elements of its
// key (the latent of multi-head latent attention).
//
// With Ring position p lies at p mod Max, so that a slot has no end; what is
// attended to must still be there: as many positions as Max, counted from the
// first that the first token of a call sees to the last one appended.
type KV struct {
	Keys, Values Buffer
	Slots, Max   int
	K            int
	Dk, Dv       int // Dv 0: Dk
	Ring         bool
}

// ValueSize is the size of a value.
func (c *KV) ValueSize() int {
	if c.Dv == 0 {
		return c.Dk
	}
	return c.Dv
}

// KVAppendArgs say where tokens go in a cache: no two to the same place.
type KVAppendArgs struct {
	N         int
	K, V      Heads  // keys and values; V is not read where the cache has no Values
	Slot, Pos Buffer // [N] int32
}

// KVAttnArgs describes attention to a cache: token i sees positions 0 … Pos[i]
// of Slot[i], or fewer as the fields say that it shares with AttnArgs. (For
// cross-attention every Pos is the slot's last.)
type KVAttnArgs struct {
	N, H      int
	Slot, Pos Buffer // [N] int32

	Scale, SoftCap float32
	Rel            Buffer
	Span, RelZero  int
	Sinks          Buffer
	Window, Chunk  int
	Pick           Buffer
	P              int
}

// Attn is a as attention to the keys of c, whose tokens are its rows.
func (a *KVAttnArgs) Attn(c *KV) *AttnArgs {
	return &AttnArgs{N: a.N, NKV: c.Slots * c.Max, H: a.H, K: c.K, Dk: c.Dk, Dv: c.Dv, Scale: a.Scale, SoftCap: a.SoftCap,
		Rel: a.Rel, Span: a.Span, RelZero: a.RelZero, Sinks: a.Sinks, Window: a.Window, Chunk: a.Chunk, Pick: a.Pick, P: a.P}
}
