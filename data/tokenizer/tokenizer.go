// Package tokenizer turns text into a model's token ids and back: byte-pair
// encoding and unigram vocabularies out of tokenizer.json files and GGUF keys,
// bit for bit as the programs that made them do. It trains small vocabularies,
// too.
package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// Tokenizer turns text into token ids and back, as the model's own tokenizer
// does. It may be used by several goroutines.
type Tokenizer struct {
	vocab   []string // by id, "" where there is none
	ids     map[string]int32
	kinds   []tokenKind
	skip    []bool // special tokens, which Decode may leave out
	pipe    pipeline
	model   model
	norm    []normalizer
	pre     []splitter
	raw     *addedTrie       // added tokens looked for in the text as it is
	normed  *addedTrie       // and in the normalised text
	shown   map[int32]string // what Decode has for added tokens whose normalised spelling is another
	added   []addedToken
	foreign map[int32]bool // ids of added tokens that the model does not have
	before  []int32        // what special puts around a text
	after   []int32
	dec     []decodeStep

	bos, eos, pad, unk int32
	ends               []int32
	templates          []NamedTemplate
	sampling           []formats.KV      // how to choose tokens, with GGUF's keys
	config             *jinja.Dict       // tokenizer_config.json
	words              *jinja.Dict       // config with what special_tokens_map.json says over it
	files              map[string][]byte // the Hugging Face files it came from
	merges             []string          // "a b", for GGUF; nil where scores are used
	scores             []float32         // by id; nil where merges are used
	preName            string            // tokenizer.ggml.pre of the file it came from
	hash               func() string
	mu                 sync.Mutex
	idle               []*encoder
	pieces             func() *pieceTable
}

// tokenKind is the token type of GGUF.
type tokenKind uint8

const (
	kindNormal  tokenKind = 1
	kindUnknown tokenKind = 2
	kindControl tokenKind = 3
	kindUser    tokenKind = 4
	kindUnused  tokenKind = 5
	kindByte    tokenKind = 6
)

// encoder is the working memory of one goroutine.
type encoder struct {
	t     *Tokenizer
	out   []int32
	plain bool // special tokens are text
	emits []func(string, bool)
	cache map[string]cached
	arena []int32
	syms  []int32
	next  []int32
	prev  []int32
	heap  []candidate
	spell []byte
	path  []viterbi
}

// cached is where in the arena the ids of a word lie.
type cached struct{ at, n int32 }

// Bounds of the word cache of one encoder.
const (
	maxCachedWord  = 64
	maxCachedWords = 1 << 16
	maxArena       = 1 << 19
)

func (t *Tokenizer) newEncoder() *encoder {
	e := &encoder{t: t, cache: map[string]cached{}}
	e.emits = make([]func(string, bool), len(t.pre)+1)
	e.emits[len(t.pre)] = func(w string, _ bool) { e.word(w) }
	for i := len(t.pre) - 1; i >= 0; i-- {
		s, emit := t.pre[i], e.emits[i+1]
		e.emits[i] = func(w string, first bool) { s.split(w, first, emit) }
	}
	return e
}

// encoder is one that no goroutine has: the last to become idle, whose cache of
// words is the warmest, or a new one.
func (t *Tokenizer) encoder() *encoder {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.idle)
	if n == 0 {
		return t.newEncoder()
	}
	e := t.idle[n-1]
	t.idle = t.idle[:n-1]
	return e
}

// rest makes e idle.
func (t *Tokenizer) rest(e *encoder) {
	t.mu.Lock()
	t.idle = append(t.idle, e)
	t.mu.Unlock()
}

// Forget frees what encoding keeps between calls: caches of up to 10 MB for each
// goroutine that encoded at the same time. They fill again with use.
func (t *Tokenizer) Forget() {
	t.mu.Lock()
	t.idle = nil
	t.mu.Unlock()
}

func (e *encoder) word(w string) {
	if c, ok := e.cache[w]; ok {
		e.out = append(e.out, e.arena[c.at:c.at+c.n]...)
		return
	}
	n := len(e.out)
	e.out = e.t.model.word(e, w, e.out)
	if len(w) > maxCachedWord {
		return
	}
	if len(e.cache) >= maxCachedWords || len(e.arena) > maxArena {
		clear(e.cache)
		e.arena = e.arena[:0]
	}
	ids := e.out[n:]
	e.cache[strings.Clone(w)] = cached{int32(len(e.arena)), int32(len(ids))}
	e.arena = append(e.arena, ids...)
}

func (e *encoder) text(s string) {
	e.t.raw.split(s, e.plain, e.segment, e.found)
}

func (e *encoder) found(id int32) { e.out = append(e.out, id) }

// segment encodes what lies between two added tokens.
func (e *encoder) segment(s string, first bool) {
	s, headless, err := e.t.normalized(s)
	if err != nil {
		panic(errPattern{err})
	}
	first = first && !headless
	e.t.normed.split(s, e.plain, func(s string, f bool) {
		if s != "" {
			e.emits[0](s, first && f)
		}
	}, e.found)
}

// Encode returns the ids of text. Added tokens (such as <|im_start|>) are
// recognised in it; special adds what the tokenizer puts around a text, such as
// a BOS. Text is taken as UTF-8; a byte that is not becomes U+FFFD. It panics
// where TryEncode returns an error.
func (t *Tokenizer) Encode(text string, special bool) []int32 {
	ids, err := t.TryEncode(text, special)
	if err != nil {
		panic(err)
	}
	return ids
}

// TryEncode is Encode for tokenizers that nobody vetted. Its errors are about
// rules of the tokenizer's own that take too long on text, such as a regular
// expression, which cannot happen where they are those of the known families, and
// about text that a vocabulary without an unknown token cannot spell.
func (t *Tokenizer) TryEncode(text string, special bool) ([]int32, error) {
	var out []int32
	if special {
		out = append(out, t.before...)
	}
	out, err := t.appendText(out, text, false)
	if err == nil && special {
		out = append(out, t.after...)
	}
	return out, err
}

// EncodePlain is Encode for text that is data: special tokens written in it
// are text, and nothing is put around it. Errors are those of TryEncode.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	return t.appendText(nil, text, true)
}

func (t *Tokenizer) appendText(out []int32, text string, plain bool) (ids []int32, err error) {
	e := t.encoder()
	defer func() {
		switch r := recover().(type) {
		case nil:
			t.rest(e)
		case errPattern:
			ids, err = nil, fail.Limitf("tokenizer", "its rules cannot be trusted with this text", "%w", r.err)
		default:
			panic(r)
		}
	}()
	if !utf8.ValidString(text) {
		text = lossy([]byte(text))
	}
	e.out, e.plain = slices.Grow(e.out[:0], len(text)/4), plain
	e.text(text)
	out = append(out, append(e.out, 0)...) // with room for an end token
	return out[:len(out)-1], nil
}

// BOS is the id that begins a text, or -1.
func (t *Tokenizer) BOS() int32 { return t.bos }

// EOS is the id that ends a text, or -1.
func (t *Tokenizer) EOS() int32 { return t.eos }

// PAD is the padding id, or -1.
func (t *Tokenizer) PAD() int32 { return t.pad }

// UNK is the id of what the vocabulary cannot spell, or -1.
func (t *Tokenizer) UNK() int32 { return t.unk }

// AddsBOS tells whether Encode with special begins with the BOS.
func (t *Tokenizer) AddsBOS() bool {
	return len(t.before) > 0 && t.before[0] == t.bos
}

// AddsEOS tells whether Encode with special ends with the EOS.
func (t *Tokenizer) AddsEOS() bool {
	return len(t.after) > 0 && t.after[len(t.after)-1] == t.eos
}

// EOSIDs are all ids that end a text or a turn, in ascending order.
func (t *Tokenizer) EOSIDs() []int32 { return slices.Clone(t.ends) }

// Special tells whether id is a control token, one that Decode may leave out.
func (t *Tokenizer) Special(id int32) bool {
	return id >= 0 && int(id) < len(t.skip) && t.skip[id]
}

// Token is the vocabulary's own spelling of an id, "" outside the vocabulary.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.vocab) {
		return ""
	}
	return t.vocab[id]
}

// EOSTexts are the tokens of EOSIDs in the vocabulary's own spelling.
func (t *Tokenizer) EOSTexts() []string {
	out := make([]string, len(t.ends))
	for i, id := range t.ends {
		out[i] = t.vocab[id]
	}
	return out
}

// ID is the id of a token in the vocabulary's own spelling.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Size is one more than the largest id.
func (t *Tokenizer) Size() int { return len(t.vocab) }

// Hash is the SHA-256, in hex, of everything that shapes the ids.
func (t *Tokenizer) Hash() string { return t.hash() }

var endTokens = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|endoftext|>", "<|end_of_text|>",
	"<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|eom_id|>", "<|return|>", "<|call|>",
	"<|END_OF_TURN_TOKEN|>", "<|eot|>", "<|eom|>", "<|assistant_end|>",
}

// EndTokens are the spellings of the tokens that end a turn or a text, in the
// chat formats there are. The caller owns the slice.
func EndTokens() []string { return slices.Clone(endTokens) }

// setEnds collects EOSIDs; more are ids that the model's files name.
func (t *Tokenizer) setEnds(more ...int32) {
	ends := append([]int32{}, more...)
	if t.eos >= 0 {
		ends = append(ends, t.eos)
	}
	for _, s := range endTokens {
		if id, ok := t.ids[s]; ok && (t.kinds[id] == kindControl || t.kinds[id] == kindUser) {
			ends = append(ends, id)
		}
	}
	slices.Sort(ends)
	ends = slices.Compact(ends)
	t.ends = slices.DeleteFunc(ends, func(id int32) bool { return id < 0 || int(id) >= len(t.vocab) })
}

// finish derives what all sources share: the vocabulary's index must be set.
func (t *Tokenizer) finish() error {
	if err := t.compile(); err != nil {
		return err
	}
	t.pieces = sync.OnceValue(t.newPieces)
	t.hash = sync.OnceValue(t.digest)
	return nil
}

// Spellings is the SHA-256, in hex, of the first n tokens as the vocabulary spells
// them: ids below n mean the same to tokenizers that give the same. It is "" where
// there are fewer tokens.
func (t *Tokenizer) Spellings(n int) string {
	if n > len(t.vocab) {
		return ""
	}
	h := sha256.New()
	for _, s := range t.vocab[:n] {
		h.Write(strconv.AppendQuote(nil, s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digest hashes the vocabulary, the merges or scores, the pipeline and the
// special ids in a form that does not depend on the file they came from.
func (t *Tokenizer) digest() string {
	h := sha256.New()
	var b []byte
	for i, s := range t.vocab {
		b = strconv.AppendQuote(append(strconv.AppendInt(b[:0], int64(t.kinds[i]), 10), ' '), s)
		h.Write(append(b, '\n'))
	}
	for _, m := range t.merges {
		b = strconv.AppendQuote(append(b[:0], "merge "...), m)
		h.Write(append(b, '\n'))
	}
	for _, s := range t.scores {
		fmt.Fprintf(h, "score %x\n", s)
	}
	for _, a := range t.added {
		fmt.Fprintf(h, "added %+v\n", a)
	}
	switch m := t.model.(type) {
	case *bpe:
		fmt.Fprintf(h, "bpe %q %q %t %t %t %t %d\n", m.prefix, m.suffix, m.byteLevel, m.byteFallback, m.ignoreMerges, m.fuseUnk, m.unk)
	case *unigram:
		fmt.Fprintf(h, "unigram %t %d %x\n", m.byteFallback, m.unk, m.unkScore)
	case *wordPiece:
		fmt.Fprintf(h, "wordpiece %q %d %d\n", m.prefix, m.longer, m.unk)
	case *wordLevel:
		fmt.Fprintf(h, "wordlevel %d\n", m.unk)
	}
	fmt.Fprintf(h, "%s\n%v %v %d %d %d %d\n", t.pipe.describe(), t.before, t.after, t.bos, t.eos, t.pad, t.unk)
	return hex.EncodeToString(h.Sum(nil))
}
