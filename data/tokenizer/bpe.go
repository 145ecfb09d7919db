package tokenizer

import (
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

// A model turns one piece of normalised text into ids.
type model interface {
	// word appends the ids of w to out; w is not kept.
	word(e *encoder, w string, out []int32) []int32
}

// merge is what becomes of a pair of ids: lower ranks go first.
type merge struct{ rank, id int32 }

// mergeTable maps pairs of ids to merges by open addressing. Keys are the two
// ids plus one, so that 0 is an empty slot.
type mergeTable struct {
	keys  []uint64
	vals  []merge
	shift uint
	n     int
}

func newMergeTable(n int) *mergeTable {
	size := uint(4)
	for size < 60 && 1<<size < 2*n {
		size++
	}
	return &mergeTable{keys: make([]uint64, 1<<size), vals: make([]merge, 1<<size), shift: 64 - size}
}

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) + 1 }

func (m *mergeTable) slot(key uint64) int {
	hi, lo := bits.Mul64(key, 0x9E3779B97F4A7C15)
	i := int((hi ^ lo) >> m.shift)
	for m.keys[i] != 0 && m.keys[i] != key {
		i = (i + 1) & (len(m.keys) - 1)
	}
	return i
}

func (m *mergeTable) get(a, b int32) (merge, bool) {
	i := m.slot(pairKey(a, b))
	return m.vals[i], m.keys[i] != 0
}

// put sets a pair's merge; the table holds at most the n of newMergeTable.
func (m *mergeTable) put(a, b int32, v merge) {
	i := m.slot(pairKey(a, b))
	if m.keys[i] == 0 {
		m.n++
	}
	m.keys[i], m.vals[i] = pairKey(a, b), v
}

// bpe is byte-pair encoding over bytes (GPT-2's spelling) or characters with
// byte fallback (SentencePiece's).
type bpe struct {
	ids          map[string]int32
	foreign      map[int32]bool // added tokens among ids, which no text becomes by the model
	skip         []bool         // control tokens, which no text becomes
	merges       *mergeTable
	bytes        [256]int32 // id of each byte in the vocabulary's spelling, -1 without
	fallen       [256]int32 // id of <0xXX>, -1 without
	prefix       string     // of characters behind the first of a word
	suffix       string     // of the last character of a word
	byteLevel    bool
	byteFallback bool
	ignoreMerges bool
	fuseUnk      bool
	unk          int32
	chars        map[string]int32 // ids beyond the vocabulary for characters only merges know
	size         int32            // ids from here on are not tokens
}

const mark = '▁'

// newCuts finds the characters that stand before ▁ inside a token: text may
// be cut between any other character and ▁ without changing the ids.
func newCuts(tokens []string) map[rune]bool {
	cross := map[rune]bool{}
	for _, t := range tokens {
		if !strings.Contains(t, "▁") {
			continue
		}
		prev := rune(-1)
		for _, r := range t {
			if r == mark && prev >= 0 {
				cross[prev] = true
			}
			prev = r
		}
	}
	return cross
}

// cutSplitter emits the words that merges cannot cross.
type cutSplitter struct{ cross map[rune]bool }

func (c cutSplitter) split(s string, first bool, emit func(string, bool)) {
	start := 0
	for i := 0; i < len(s); {
		j := strings.Index(s[i:], "▁")
		if j < 0 {
			break
		}
		j += i
		if j > start {
			if prev, _ := utf8.DecodeLastRuneInString(s[:j]); !c.cross[prev] {
				emit(s[start:j], first && start == 0)
				start = j
			}
		}
		i = j + len("▁")
	}
	if start < len(s) {
		emit(s[start:], first && start == 0)
	}
}

func (m *bpe) word(e *encoder, w string, out []int32) []int32 {
	if m.ignoreMerges {
		if id, ok := m.find(m.spell(e, w)); ok && !m.skip[id] {
			return append(out, id)
		}
	}
	e.syms = e.syms[:0]
	switch {
	case m.affixed():
		e.syms = m.charSymbols(e.syms, m.spell(e, w))
	case m.byteLevel:
		e.syms = m.byteSymbols(e.syms, w)
	default:
		e.syms = m.charSymbols(e.syms, w)
	}
	e.syms = m.mergeAll(e, e.syms)
	for _, id := range e.syms {
		if id < m.size {
			out = append(out, id)
		} else {
			out = m.outside(out, id)
		}
	}
	return out
}

// spell writes w as the vocabulary does; the result lives until the next call.
func (m *bpe) spell(e *encoder, w string) string {
	if !m.byteLevel {
		return w
	}
	e.spell = e.spell[:0]
	for i := range len(w) {
		e.spell = utf8.AppendRune(e.spell, byteRune[w[i]])
	}
	return string(e.spell)
}

// find is the id of a token of the model's own.
func (m *bpe) find(s string) (id int32, ok bool) {
	id, ok = m.ids[s]
	return id, ok && !m.foreign[id]
}

// cuttable tells whether what stands before a ▁ has no bearing on what stands behind it but
// by merges: not where whole words or their ends count, or a character may vanish between two.
func (m *bpe) cuttable() bool {
	vanish := m.unk < 0 && !(m.byteFallback && slices.Min(m.fallen[:]) >= 0)
	return !m.byteLevel && !m.ignoreMerges && !m.affixed() && !vanish
}

// affixed tells whether a character's spelling depends on where in its word it stands.
func (m *bpe) affixed() bool { return m.prefix != "" || m.suffix != "" }

func (m *bpe) byteSymbols(syms []int32, w string) []int32 {
	unknown := false
	for i := range len(w) {
		if id := m.bytes[w[i]]; id >= 0 {
			syms = append(m.flush(syms, unknown), id)
			unknown = false
			continue
		}
		syms, unknown = m.missing(syms, string(byteRune[w[i]]), unknown)
	}
	return m.flush(syms, unknown)
}

func (m *bpe) charSymbols(syms []int32, w string) []int32 {
	unknown := false
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		c := w[i : i+n]
		if i > 0 && m.prefix != "" {
			c = m.prefix + c
		}
		if i += n; i == len(w) && m.suffix != "" {
			c += m.suffix
		}
		id, ok := m.find(c)
		if !ok {
			id, ok = m.chars[c]
		}
		if ok {
			syms = append(m.flush(syms, unknown), id)
			unknown = false
			continue
		}
		syms, unknown = m.missing(syms, c, unknown)
	}
	return m.flush(syms, unknown)
}

// missing appends the byte tokens of a character without a token of its own. Without
// those it is an unknown one, which waits: as in the reference it stands behind byte
// tokens that follow, and takes in unknown ones where they are fused. A model without an
// unknown token drops the character.
func (m *bpe) missing(syms []int32, c string, unknown bool) ([]int32, bool) {
	if m.byteFallback {
		n := len(syms)
		for i := range len(c) {
			if id := m.fallen[c[i]]; id >= 0 {
				syms = append(syms, id)
			}
		}
		if len(syms)-n == len(c) {
			return syms, unknown
		}
		syms = syms[:n]
	}
	if m.unk < 0 {
		return syms, unknown
	}
	return m.flush(syms, unknown && !m.fuseUnk), true
}

// flush appends the unknown token that waits.
func (m *bpe) flush(syms []int32, unknown bool) []int32 {
	if unknown {
		return append(syms, m.unk)
	}
	return syms
}

// outside spells a symbol that never became a token in bytes.
func (m *bpe) outside(out []int32, id int32) []int32 {
	for c, i := range m.chars {
		if i == id {
			return m.flush(m.missing(out, c, false))
		}
	}
	return out
}

// manySymbols is where the linear search for the best pair gives way to a
// heap.
const manySymbols = 24

// mergeAll joins pairs, lowest rank first, leftmost first among equals.
func (m *bpe) mergeAll(e *encoder, ids []int32) []int32 {
	if len(ids) > manySymbols {
		return m.mergeHeap(e, ids)
	}
	if len(ids) < 2 {
		return ids
	}
	var ranks [manySymbols]merge
	for i := range len(ids) - 1 {
		ranks[i] = m.pair(ids[i], ids[i+1])
	}
	for n := len(ids); n > 1; n-- {
		best := 0
		for i := 1; i < n-1; i++ {
			if ranks[i].rank < ranks[best].rank {
				best = i
			}
		}
		if ranks[best].rank == noRank {
			return ids[:n]
		}
		ids[best] = ranks[best].id
		copy(ids[best+1:n-1], ids[best+2:n])
		copy(ranks[best:n-2], ranks[best+1:n-1])
		if best > 0 {
			ranks[best-1] = m.pair(ids[best-1], ids[best])
		}
		if best < n-2 {
			ranks[best] = m.pair(ids[best], ids[best+1])
		}
	}
	return ids[:1]
}

const noRank = 1<<31 - 1

func (m *bpe) pair(a, b int32) merge {
	if v, ok := m.merges.get(a, b); ok {
		return v
	}
	return merge{rank: noRank}
}

// candidate is a pair that may be merged: position i, ids a and b when found.
type candidate struct{ rank, i, a, b, id int32 }

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.i < d.i
}

// mergeHeap is mergeAll for long words in n·log n.
func (m *bpe) mergeHeap(e *encoder, ids []int32) []int32 {
	n := len(ids)
	e.next, e.prev = grow(e.next, n), grow(e.prev, n)
	for i := range n {
		e.next[i], e.prev[i] = int32(i+1), int32(i-1)
	}
	e.next[n-1] = -1
	e.heap = e.heap[:0]
	for i := range int32(n - 1) {
		m.push(e, ids, i)
	}
	for len(e.heap) > 0 {
		c := e.pop()
		j := e.next[c.i]
		if ids[c.i] != c.a || j < 0 || ids[j] != c.b {
			continue // an older merge took one side
		}
		ids[c.i], ids[j] = c.id, -1
		e.next[c.i] = e.next[j]
		if k := e.next[j]; k >= 0 {
			e.prev[k] = c.i
		}
		e.next[j] = -1
		m.push(e, ids, c.i)
		if p := e.prev[c.i]; p >= 0 {
			m.push(e, ids, p)
		}
	}
	k := 0
	for i := int32(0); i >= 0; {
		next := e.next[i]
		ids[k] = ids[i]
		k++
		i = next
	}
	return ids[:k]
}

func grow(s []int32, n int) []int32 {
	if cap(s) < n {
		return make([]int32, n)
	}
	return s[:n]
}

func (m *bpe) push(e *encoder, ids []int32, i int32) {
	j := e.next[i]
	if j < 0 {
		return
	}
	v, ok := m.merges.get(ids[i], ids[j])
	if !ok {
		return
	}
	e.heap = append(e.heap, candidate{v.rank, i, ids[i], ids[j], v.id})
	h := e.heap
	for c := len(h) - 1; c > 0; {
		p := (c - 1) / 2
		if !h[c].before(h[p]) {
			break
		}
		h[c], h[p] = h[p], h[c]
		c = p
	}
}

func (e *encoder) pop() candidate {
	h := e.heap
	top := h[0]
	n := len(h) - 1
	h[0] = h[n]
	h = h[:n]
	for c := 0; ; {
		k := 2*c + 1
		if k >= n {
			break
		}
		if k+1 < n && h[k+1].before(h[k]) {
			k++
		}
		if !h[k].before(h[c]) {
			break
		}
		h[c], h[k] = h[k], h[c]
		c = k
	}
	e.heap = h
	return top
}

// byteRune is GPT-2's printable spelling of each byte, runeByte its inverse.
var byteRune, runeByte = func() (to [256]rune, from map[rune]byte) {
	from = map[rune]byte{}
	n := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = n
			n++
		}
		to[b] = r
		from[r] = byte(b)
	}
	return to, from
}()
