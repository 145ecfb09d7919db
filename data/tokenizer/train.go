package tokenizer

import (
	"bytes"
	"container/heap"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// TrainBPE learns a byte-level BPE of vocab tokens from docs and returns it as
// a tokenizer.json that Hugging Face's tokenizers load alike. The special
// tokens take the first ids, the 256 bytes the next; then come merges, the most
// frequent pair first, among equals the pair with the lower ids. Digits are
// single tokens; the rest is split as GPT-2 does. The same docs, in any order,
// give the same bytes. It fails where docs hold too little text for vocab
// tokens.
func TrainBPE(docs iter.Seq[string], vocab int, special []string) (tokenizerJSON []byte, err error) {
	if least := 256 + len(special); vocab < least || vocab > 1<<20 {
		return nil, fail.Usagef("tokenizer", "", "a vocabulary of %d: want %d (bytes and special tokens) to %d", vocab, least, 1<<20)
	}
	b, err := newBPETrainer(special)
	if err != nil {
		return nil, err
	}
	b.count(docs)
	b.index()
	for len(b.tokens) < vocab {
		if !b.mergeBest() {
			return nil, fail.Inputf("tokenizer", "give more text or ask for a smaller vocabulary",
				"the text gives %d tokens of the %d asked for", len(b.tokens), vocab)
		}
	}
	return b.json(len(special))
}

type bpePair struct{ a, b int32 }

// trainWord is a distinct word, how often it occurs and its symbols.
type trainWord struct {
	syms []int32
	n    int64
}

// pairState is a pair's count and the words it was seen in.
type pairState struct {
	n     int64
	words []int32
}

type bpeTrainer struct {
	tokens []string
	ids    map[string]int32
	merges [][2]string
	freq   map[string]int64
	words  []trainWord
	pairs  map[bpePair]*pairState
	queue  pairQueue
}

func newBPETrainer(special []string) (*bpeTrainer, error) {
	b := &bpeTrainer{ids: map[string]int32{}, freq: map[string]int64{}, pairs: map[bpePair]*pairState{}}
	for _, s := range special {
		if _, ok := b.ids[s]; ok || s == "" {
			return nil, fail.Usagef("tokenizer", "", "special token %q is empty or given twice", s)
		}
		b.token(s)
	}
	letters := slices.Clone(byteRune[:])
	slices.Sort(letters)
	for _, r := range letters {
		b.token(string(r))
	}
	return b, nil
}

// token returns the id of a token, a new one where there is none.
func (b *bpeTrainer) token(s string) int32 {
	if id, ok := b.ids[s]; ok {
		return id
	}
	id := int32(len(b.tokens))
	b.ids[s] = id
	b.tokens = append(b.tokens, s)
	return id
}

func (b *bpeTrainer) count(docs iter.Seq[string]) {
	word := func(w string, _ bool) { b.freq[w]++ }
	text := func(s string, first bool) { gpt2Splitter{}.split(s, first, word) }
	for doc := range docs {
		digitSplitter{max: 1}.split(strings.ToValidUTF8(doc, "\uFFFD"), true, text)
	}
}

// index spells the words in bytes and counts their pairs.
func (b *bpeTrainer) index() {
	keys := make([]string, 0, len(b.freq))
	for w := range b.freq {
		keys = append(keys, w)
	}
	slices.Sort(keys)
	for _, w := range keys {
		syms := make([]int32, len(w))
		for i := range len(w) {
			syms[i] = b.ids[string(byteRune[w[i]])]
		}
		i := int32(len(b.words))
		b.words = append(b.words, trainWord{syms, b.freq[w]})
		b.addPairs(i, 1)
	}
	for p, s := range b.pairs {
		b.queue = append(b.queue, queued{p, s.n})
	}
	heap.Init(&b.queue)
}

// addPairs adds, or with sign -1 removes, a word's pairs to the counts.
func (b *bpeTrainer) addPairs(word int32, sign int64) {
	w := &b.words[word]
	for i := 0; i+1 < len(w.syms); i++ {
		p := bpePair{w.syms[i], w.syms[i+1]}
		s := b.pairs[p]
		if s == nil {
			s = &pairState{}
			b.pairs[p] = s
		}
		s.n += sign * w.n
		if n := len(s.words); sign > 0 && (n == 0 || s.words[n-1] != word) {
			s.words = append(s.words, word)
		}
	}
}

// mergeBest makes a token of the most frequent pair; false without one.
func (b *bpeTrainer) mergeBest() bool {
	for b.queue.Len() > 0 {
		top := heap.Pop(&b.queue).(queued)
		s := b.pairs[top.pair]
		if s.n != top.n {
			if s.n > 0 {
				heap.Push(&b.queue, queued{top.pair, s.n})
			}
			continue
		}
		if s.n < 1 {
			continue
		}
		x, y := b.tokens[top.pair.a], b.tokens[top.pair.b]
		b.merges = append(b.merges, [2]string{x, y})
		b.replace(top.pair, b.token(x+y))
		return true
	}
	return false
}

// replace joins a pair in all words that have it.
func (b *bpeTrainer) replace(p bpePair, id int32) {
	fresh := map[bpePair]bool{}
	for _, i := range b.pairs[p].words {
		w := &b.words[i]
		if !hasPair(w.syms, p) {
			continue // an earlier merge took it
		}
		b.addPairs(i, -1)
		out := w.syms[:0]
		for k := 0; k < len(w.syms); k++ {
			if k+1 < len(w.syms) && w.syms[k] == p.a && w.syms[k+1] == p.b {
				out = append(out, id)
				k++
				continue
			}
			out = append(out, w.syms[k])
		}
		w.syms = out
		b.addPairs(i, 1)
		for k := 0; k+1 < len(out); k++ {
			if out[k] == id || out[k+1] == id {
				fresh[bpePair{out[k], out[k+1]}] = true
			}
		}
	}
	for q := range fresh { // the heap's order does not depend on theirs
		heap.Push(&b.queue, queued{q, b.pairs[q].n})
	}
}

func hasPair(syms []int32, p bpePair) bool {
	for i := 0; i+1 < len(syms); i++ {
		if syms[i] == p.a && syms[i+1] == p.b {
			return true
		}
	}
	return false
}

// queued is a pair with the count it had when it was queued.
type queued struct {
	pair bpePair
	n    int64
}

type pairQueue []queued

func (q pairQueue) Len() int      { return len(q) }
func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *pairQueue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *pairQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (q pairQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.n != b.n {
		return a.n > b.n
	}
	if a.pair.a != b.pair.a {
		return a.pair.a < b.pair.a
	}
	return a.pair.b < b.pair.b
}

// json writes the tokenizer file, two spaces an indent, as the reference does.
func (b *bpeTrainer) json(special int) ([]byte, error) {
	var o bytes.Buffer
	o.WriteString("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [")
	for i := range special {
		fmt.Fprintf(&o, "%s\n    {\"id\": %d, \"content\": %s, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
			comma(i), i, quoteJSON(b.tokens[i]))
	}
	o.WriteString("\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": " + smollmPre + ",\n  \"post_processor\": null,\n  \"decoder\": " + byteLevelJSON + ",\n")
	o.WriteString("  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n" +
		"    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {")
	for i, s := range b.tokens {
		fmt.Fprintf(&o, "%s\n      %s: %d", comma(i), quoteJSON(s), i)
	}
	o.WriteString("\n    },\n    \"merges\": [")
	for i, m := range b.merges {
		fmt.Fprintf(&o, "%s\n      %s", comma(i), quoteJSON(m[0]+" "+m[1]))
	}
	o.WriteString("\n    ]\n  }\n}\n")
	return o.Bytes(), nil
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// quoteJSON is s as a JSON string with nothing escaped that need not be.
func quoteJSON(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// byteLevelJSON and smollmPre are the ByteLevel decoder and the pre-tokenizer
// that splits digits, then as GPT-2.
const (
	byteLevelJSON = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`
	smollmPre     = `{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},` + byteLevelJSON + `]}`
)
