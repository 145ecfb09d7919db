package tokenizer

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// unigram is SentencePiece's unigram language model: the segmentation with the
// highest sum of scores (Kudo 2018).
type unigram struct {
	ids          map[string]int32
	scores       []float64
	skip         []bool // control tokens, which no text becomes
	trie         *addedTrie
	unk          int32
	unkScore     float64
	byteFallback bool
	bytes        [256]int32
}

// viterbi is the best way to reach a byte of the word.
type viterbi struct {
	score float64
	from  int32
	id    int32
	set   bool
}

// maxLooked is how many bytes the search may look at for each of a word, on average.
// SentencePiece makes pieces of 16 characters unless it is told otherwise; only a
// vocabulary made of very long ones comes near it.
const maxLooked = 256

// unkPenalty is how much worse than the worst token an unknown one is.
const unkPenalty = 10

func (h *hfFile) buildUnigram(t *Tokenizer) error {
	m := &unigram{ids: map[string]int32{}, byteFallback: h.byteFallback, unk: h.unkID}
	s := &jsonScan{data: h.vocab}
	if h.vocab == nil {
		return fmt.Errorf("model.vocab: is missing")
	}
	err := s.array(func() error {
		token, score, err := unigramPiece(s)
		if err != nil {
			return err
		}
		id := int32(len(m.scores))
		if old, ok := m.ids[token]; ok {
			return s.errorf("token %q has ids %d and %d", clip(token), old, id)
		}
		m.ids[token] = id
		m.scores = append(m.scores, score)
		m.enter(token, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("model.vocab: %w", err)
	}
	if m.unk >= int32(len(m.scores)) {
		return fmt.Errorf("model.unk_id %d lies outside the vocabulary of %d", m.unk, len(m.scores))
	}
	m.close()
	t.ids, t.unk, t.model = m.ids, m.unk, m
	if err := t.addTokens(int32(len(m.scores)) - 1); err != nil {
		return err
	}
	t.scores = make([]float32, len(t.vocab))
	for i, f := range m.scores {
		t.scores[i] = float32(f)
	}
	t.setKinds(m.byteFallback)
	m.skip = t.skip
	return nil
}

// enter has token found in words. Its score is known.
func (m *unigram) enter(token string, id int32) {
	if m.trie == nil {
		m.trie, m.unkScore = newAddedTrie(), math.Inf(1)
	}
	m.trie.add(token, addedToken{ID: id})
	m.unkScore = min(m.unkScore, m.scores[id])
}

// close ends entering.
func (m *unigram) close() {
	if m.trie == nil {
		m.trie = newAddedTrie()
	}
	m.unkScore -= unkPenalty
	for b := range 256 {
		id, ok := m.ids[fmt.Sprintf("<0x%02X>", b)]
		if m.bytes[b] = id; !ok {
			m.bytes[b] = -1
		}
	}
}

// unigramPiece reads ["token", score].
func unigramPiece(s *jsonScan) (token string, score float64, err error) {
	n := 0
	err = s.array(func() error {
		n++
		switch n {
		case 1:
			b, err := s.str()
			token = string(b)
			return err
		case 2:
			score, err = s.float()
			return err
		}
		return s.errorf("a vocabulary entry has more than two parts")
	})
	if err == nil && n != 2 {
		err = s.errorf("a vocabulary entry has %d parts", n)
	}
	return token, score, err
}

func (m *unigram) word(e *encoder, w string, out []int32) []int32 {
	if cap(e.path) < len(w)+1 {
		e.path = make([]viterbi, len(w)+1)
	}
	path := e.path[:len(w)+1]
	clear(path)
	path[0].set = true
	looked := 0
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		looked += m.extend(path, w, i, n)
		if looked > maxLooked*len(w) {
			panic(errPattern{fmt.Errorf("the pieces of its vocabulary are so long that a word of %d bytes takes more than %d steps", len(w), looked)})
		}
		i += n
	}
	return m.walk(path, w, out)
}

// extend enters all tokens that begin at i, whose character has n bytes. It returns how
// many bytes it looked at.
func (m *unigram) extend(path []viterbi, w string, i, n int) (looked int) {
	single := false
	at := m.trie.first[w[i]]
	for k := i + 1; at != 0; k++ {
		looked++
		if tok := m.trie.nodes[at].token; tok >= 0 && !isSet(m.skip, m.trie.list[tok].ID) {
			id := m.trie.list[tok].ID
			path[k].offer(path[i].score+m.scores[id], i, id)
			single = single || k == i+n
		}
		if k >= len(w) {
			break
		}
		at = m.trie.child(at, w[k])
	}
	if !single {
		path[i+n].offer(path[i].score+m.unkScore, i, -1)
	}
	return looked
}

func (v *viterbi) offer(score float64, from int, id int32) {
	if !v.set || score > v.score {
		*v = viterbi{score, int32(from), id, true}
	}
}

// walk reads the best path from its end; neighbouring unknown characters are
// one unknown piece, and so is the unknown token where the text spells it beside them.
func (m *unigram) walk(path []viterbi, w string, out []int32) []int32 {
	start := len(out)
	for i := len(w); i > 0; {
		v := path[i]
		if v.id >= 0 && v.id != m.unk {
			out = append(out, v.id)
			i = int(v.from)
			continue
		}
		lo := i
		for lo > 0 && (path[lo].id < 0 || path[lo].id == m.unk) {
			lo = int(path[lo].from)
		}
		out = m.unknown(w[lo:i], out)
		i = lo
	}
	for i, j := start, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// unknown appends, last first, the bytes of an unknown piece or its one id.
func (m *unigram) unknown(piece string, out []int32) []int32 {
	if id, ok := m.ids[piece]; ok && id == m.unk {
		return append(out, id)
	}
	n := len(out)
	for i := len(piece) - 1; m.byteFallback && i >= 0; i-- {
		id := m.bytes[piece[i]]
		if id < 0 {
			break
		}
		out = append(out, id)
	}
	if len(out)-n == len(piece) {
		return out
	}
	if m.unk < 0 {
		panic(errPattern{noUnknown(piece)})
	}
	return append(out[:n], m.unk)
}
