package model

import (
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Cache holds what mixers remember of several conversations, one a slot.
type Cache struct {
	Slots, Max int // slots, and tokens a slot can hold

	m    *Model
	kept []memory // by mixer
	n    []int    // tokens in each slot
	// Of a model with an encoder, else nil: what it reads for each slot with its first
	// tokens, and how many tokens that were.
	sources [][]int32
	read    []int
	// turn is a length beyond which all angles of a text are others, so that its
	// tokens, ids by slot, must be computed again; 0: there is none.
	turn int
	ids  [][]int32

	spare autograd.Spare // for steps of a few tokens
}

// mixer is a body that lets tokens see those before them.
type mixer interface {
	// remember makes its part of a cache.
	remember(dev kernels.Backend, slots, max int) (memory, error)
}

// memory is what one mixer remembers: keys and values, or a state.
type memory interface {
	// begin prepares a slot for its first tokens; inside Dev.Run.
	begin(slot int)
	// shortens reports whether a slot can go back to its first tokens. What lies
	// behind a slot's length is then not read.
	shortens() bool
	// grow makes room for max tokens a slot; the first held[i] of slot i stay.
	grow(max int, held []int) error
	free()
}

// NewCache makes a cache for slots conversations of at most max tokens. What it
// takes is the mixers' affair: attention keeps 4·K·(Dk+Dv) bytes a token and layer.
func (m *Model) NewCache(slots, max int) (*Cache, error) {
	c := &Cache{Slots: slots, Max: max, m: m, n: make([]int, slots), turn: m.Spec.Turn(), ids: make([][]int32, slots), spare: autograd.Spare{Dev: m.Dev}}
	if m.Spec.Encoder > 0 {
		c.sources, c.read = make([][]int32, slots), make([]int, slots)
	}
	for _, x := range m.mixers {
		kept, err := x.remember(m.Dev, slots, max)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.kept = append(c.kept, kept)
	}
	return c, nil
}

// Len is the number of tokens in a slot.
func (c *Cache) Len(slot int) int { return c.n[slot] }

// Reset empties a slot.
func (c *Cache) Reset(slot int) { c.Truncate(slot, 0) }

// Truncate keeps the first n tokens of a slot, all where it has fewer, and
// returns how many there are then: none where a mixer cannot go back.
func (c *Cache) Truncate(slot, n int) int {
	c.n[slot] = c.Kept(slot, n)
	c.ids[slot] = c.ids[slot][:min(c.n[slot], len(c.ids[slot]))]
	return c.n[slot]
}

// Kept is how many tokens Truncate would leave.
func (c *Cache) Kept(slot, n int) int {
	if n >= c.n[slot] {
		return c.n[slot]
	}
	if c.n[slot] > c.turn && n <= c.turn || !c.shortens() {
		return 0
	}
	return n
}

// shortens reports whether slots can go back to their first tokens.
func (c *Cache) shortens() bool {
	return !slices.ContainsFunc(c.kept, func(x memory) bool { return !x.shortens() })
}

// Shares reports whether Share can be called: where all that mixers remember of a
// token is keys and values of its own.
func (c *Cache) Shares() bool {
	return c.sources == nil && !slices.ContainsFunc(c.kept, func(x memory) bool { return tokenwise(x) == nil })
}

// tokenwise are the parts of a memory that hold something of each token alone; nil: there is more.
func tokenwise(x memory) []*keysValues {
	switch x := x.(type) {
	case *keysValues:
		return []*keysValues{x}
	case *latentMemory:
		return slices.DeleteFunc([]*keysValues{x.keysValues, x.index}, func(kv *keysValues) bool { return kv == nil })
	}
	return nil
}

// Share gives an empty slot copies of the first n tokens of another, as if it had been
// given them itself. It reports false, and does nothing, where a text of n tokens has
// other angles than one as long as the other.
func (c *Cache) Share(from, to, n int) (bool, error) {
	if !c.Shares() || from == to || c.n[to] > 0 || n < 1 || n > c.n[from] {
		panic("model: a slot takes the beginning of another when it is empty")
	}
	if c.n[from] > c.turn && n <= c.turn {
		return false, nil
	}
	err := c.m.Dev.Run(func() error {
		for _, x := range c.kept {
			for _, kv := range tokenwise(x) {
				kv.copyTo(kv, from, to, n)
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	c.n[to] = n
	if c.turn > 0 {
		c.ids[to] = append(c.ids[to][:0], c.ids[from][:n]...)
	}
	return true, nil
}

// Grow gives every slot room for max tokens, which takes new memory a mixer at a
// time. On an error the cache is as before.
func (c *Cache) Grow(max int) error {
	if max <= c.Max {
		return nil
	}
	err := c.m.Dev.Run(func() error {
		for _, x := range c.kept {
			held := c.n
			switch x.(type) {
			case *crossKeys:
				held = c.read
			case *jointKeys:
				held = slices.Clone(c.read)
				for i, n := range c.n {
					held[i] += n
				}
			}
			if err := x.grow(max, held); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		c.Max = max
	}
	return err
}

// Close gives the memory back.
func (c *Cache) Close() {
	for _, x := range c.kept {
		x.free()
	}
	c.kept = nil
	c.spare.Close()
}

// Piece is what one slot gets in a Step: a prompt, or the last token.
type Piece struct {
	Slot   int
	Tokens []int32
}

// Step appends the pieces to their slots, prompts and single tokens mixed, and
// returns the logits [V] after the last token of each. On an error the cache
// is as before, but for slots that are empty then: those that were being computed
// again, where a text outgrows the length at which longrope changes all its angles,
// and of a mixer that keeps a state those of the pieces.
func (m *Model) Step(c *Cache, pieces []Piece) ([][]float32, error) {
	flat := make([]float32, len(pieces)*m.Spec.V)
	err := m.advance(c, pieces, func(int) bool { return true }, func(t *autograd.Tape, logits *autograd.Tensor) error {
		return m.Dev.Download(kernels.Bytes(flat), logits.Data)
	})
	if err != nil {
		return nil, err
	}
	out := make([][]float32, len(pieces))
	for i := range out {
		out[i] = flat[i*m.Spec.V : (i+1)*m.Spec.V]
	}
	return out, nil
}

// Choose appends the pieces as Step does and returns the token that follows
// each, chosen on the device as how[i] says; -1 where how[i] is nil: of such a
// piece, a part of a prompt, no logits are made.
func (m *Model) Choose(c *Cache, pieces []Piece, how []*kernels.SampleRow) ([]int32, error) {
	out := make([]int32, len(pieces))
	var rows []kernels.SampleRow
	for i, r := range how {
		if out[i] = -1; r != nil {
			rows = append(rows, *r)
		}
	}
	err := m.advance(c, pieces, func(i int) bool { return how[i] != nil }, func(t *autograd.Tape, logits *autograd.Tensor) error {
		x := t.Upload(make([]int32, len(rows)), len(rows))
		if t.Err() != nil {
			return t.Err()
		}
		m.Dev.Sample(x.Data, &kernels.SampleArgs{V: m.Spec.V, Logits: logits.Data, Rows: rows})
		ids, err := t.Ints(x)
		if err != nil {
			return err
		}
		for i := range out {
			if how[i] != nil {
				if ids[0] < 0 {
					return fail.Numericf("", "--dtype f32 has a wider range; does tune verify find its weights finite?", "the model's logits are not finite")
				}
				out[i], ids = ids[0], ids[1:]
			}
		}
		return nil
	})
	return out, err
}

// spareTokens are the most of a step whose memory is kept for the next one.
const spareTokens = 16

// advance runs the pieces and calls use with the logits of those that wants
// names [rows, V], where it names any.
func (m *Model) advance(c *Cache, pieces []Piece, wants func(i int) bool, use func(t *autograd.Tape, logits *autograd.Tensor) error) error {
	b, err := c.place(pieces, wants)
	if err != nil {
		return err
	}
	err = m.Dev.Run(func() error {
		t := &autograd.Tape{Dev: m.Dev, Fast: m.Fast}
		if len(b.ids) <= spareTokens {
			t.Spare = &c.spare
		} else {
			c.spare.Close()
		}
		defer t.Free()
		for _, slot := range b.fresh {
			for _, x := range c.kept {
				x.begin(slot)
			}
		}
		y := m.step(t, c, b)
		if t.Err() != nil || y == nil {
			return t.Err()
		}
		return use(t, y)
	})
	if err != nil {
		for _, slot := range b.again { // what it held is lost
			c.Reset(slot)
		}
		for _, p := range pieces {
			if !c.shortens() { // a state may have moved on
				c.Reset(p.Slot)
			}
		}
		return err
	}
	for _, p := range pieces {
		c.n[p.Slot] += len(p.Tokens)
		if c.turn > 0 {
			c.ids[p.Slot] = append(c.ids[p.Slot], p.Tokens...)
		}
	}
	return nil
}

// placed are the tokens of a step with their places in the cache.
type placed struct {
	ids, slot, pos, span []int32
	seq, slots           []int32 // where the tokens of each piece begin, and its slot
	last                 []int32 // rows of which logits are wanted
	fresh                []int   // slots that begin with their first token
	again                []int   // those that held it before

	source                            []int32 // what an encoder reads: its tokens,
	sourceSlot, sourcePos, sourceSpan []int32 // where they are, and how many there are in each text
	sourceSeq                         []int32 // where texts begin
}

func (c *Cache) place(pieces []Piece, wants func(i int) bool) (placed, error) {
	b := placed{seq: []int32{0}, sourceSeq: []int32{0}}
	seen := make([]bool, c.Slots)
	for i, p := range pieces {
		if p.Slot < 0 || p.Slot >= c.Slots || len(p.Tokens) == 0 || seen[p.Slot] {
			panic("model: a step's pieces need tokens and slots of their own")
		}
		seen[p.Slot] = true
		from, tokens := c.n[p.Slot], p.Tokens
		n := from + len(tokens)
		if from > 0 && from <= c.turn && n > c.turn {
			from, tokens = 0, slices.Concat(c.ids[p.Slot], tokens)
			b.again = append(b.again, p.Slot)
		}
		if from == 0 {
			b.fresh = append(b.fresh, p.Slot)
		}
		if n > c.Max {
			return b, fail.Limitf("cache", "shorten the prompt or raise the context length", "slot %d would hold %d tokens, it has room for %d", p.Slot, n, c.Max)
		}
		if from == 0 && c.read != nil {
			if err := c.placeSource(&b, p.Slot); err != nil {
				return b, err
			}
		}
		for j, id := range tokens {
			b.ids = append(b.ids, id)
			b.slot = append(b.slot, int32(p.Slot))
			b.pos = append(b.pos, int32(from+j))
			b.span = append(b.span, int32(n))
		}
		b.seq, b.slots = append(b.seq, int32(len(b.ids))), append(b.slots, int32(p.Slot))
		if wants(i) {
			b.last = append(b.last, int32(len(b.ids)-1))
		}
	}
	if err := c.m.checkPositions(b.pos); err != nil {
		return b, err
	}
	if err := c.m.CheckIDs(b.source); err != nil {
		return b, err
	}
	return b, c.m.CheckIDs(b.ids)
}

// Source says what the encoder of a model that has one reads for a slot that is
// empty, whose first token is then arch.Spec.Start. ids are kept.
func (c *Cache) Source(slot int, ids []int32) { c.sources[slot] = ids }

// placeSource lays out what the encoder reads for a slot that begins.
func (c *Cache) placeSource(b *placed, slot int) error {
	n := len(c.sources[slot])
	if n == 0 {
		return fail.Inputf("prompt", "give a text", "a model with an encoder answers a text, and there is none")
	}
	if n > c.Max {
		return fail.Limitf("cache", "shorten the prompt or raise the context length", "slot %d would hold %d tokens of a prompt, it has room for %d", slot, n, c.Max)
	}
	for i, id := range c.sources[slot] {
		b.source, b.sourceSlot, b.sourcePos, b.sourceSpan = append(b.source, id), append(b.sourceSlot, int32(slot)), append(b.sourcePos, int32(i)), append(b.sourceSpan, int32(n))
	}
	b.sourceSeq = append(b.sourceSeq, int32(len(b.source)))
	c.read[slot] = n
	return nil
}

// runs are the pieces of the step with the keys that their slots hold then.
func (b *placed) runs() []autograd.PickRun {
	var out []autograd.PickRun
	for i, slot := range b.slot {
		if i == 0 || slot != b.slot[i-1] {
			out = append(out, autograd.PickRun{From: i, First: int(slot)})
		}
		r := &out[len(out)-1]
		r.To, r.Keys = i+1, int(b.pos[i])+1
	}
	return out
}

// step returns the logits of the rows in b.last, nil where there are none.
func (m *Model) step(t *autograd.Tape, c *Cache, b placed) *autograd.Tensor {
	n := len(b.ids)
	s := &State{N: n, cache: c}
	s.IDs = t.Upload(m.embedded(b.ids), n)
	s.Seq, s.slots = t.Upload(b.seq, len(b.seq)), t.Upload(b.slots, len(b.slots))
	s.slot, s.pos = t.Upload(b.slot, n), t.Upload(b.pos, n)
	s.runs = b.runs()
	m.position(t, s, m.embedded(b.ids), b.pos, b.span, false)
	m.markApart(t, s, b.ids)
	if c.read != nil {
		m.joinCached(t, c, b, s)
		m.encode(t, c, b, s)
	}
	x := tensors{m.Begin(t, s)}
	for _, blk := range m.Blocks[m.Spec.Encoder:] {
		y := m.forward(t, blk, x, s)
		release(t, x, y)
		x = y
	}
	if len(b.last) == 0 {
		return nil
	}
	last := t.Rows(stream(x), t.Upload(b.last, len(b.last)))
	t.Done(x...)
	return m.Logits(t, m.finish(t, last))
}

// encode runs the encoder over the texts of slots that begin, if there are any, for
// the blocks that read s.
func (m *Model) encode(t *autograd.Tape, c *Cache, b placed, s *State) {
	n := len(b.source)
	last := make([]int32, len(b.slot))
	for i, slot := range b.slot {
		last[i] = int32(c.read[slot] - 1)
	}
	s.memoryLast = t.Upload(last, len(last))
	s.memorySlot, s.memoryPos = t.Upload(b.sourceSlot, n), t.Upload(b.sourcePos, n)
	s.Memory = t.New(n, m.Spec.C)
	if n > 0 {
		reads := m.prepare(t, Inputs{IDs: b.source, Pos: b.sourcePos, Seq: b.sourceSeq}, true)
		x := tensors{m.Begin(t, reads)}
		for _, blk := range m.Blocks[:m.Spec.Encoder] {
			y := m.forward(t, blk, x, reads)
			release(t, x, y)
			x = y
		}
		s.Memory = m.Encoder.Norm.ForwardWide(t, stream(x))
		t.Done(x...)
	}
	t.Keep(s.Memory)
}
