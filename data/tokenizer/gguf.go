package tokenizer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// Memory is about the bytes of memory that opening the tokenizer of a model, and having
// it ready for another, takes while it lasts: eight for each byte of its files, 200 for
// each string of a GGUF's metadata, both measured. 0 where there is none.
func Memory(r formats.Reader) (bytes int64) {
	if r.Format() == "gguf" {
		for _, kv := range r.KV() {
			if list, ok := kv.Value.([]string); ok {
				bytes += 200 * int64(len(list))
			}
		}
		return bytes
	}
	for _, name := range Files {
		if st, err := os.Stat(filepath.Join(r.Path(), name)); err == nil {
			bytes += 8 * st.Size()
		}
	}
	return bytes
}

// usual is what the tokenizer of a usual vocabulary takes, which is no matter of its own.
const usual = 8 << 20

// Beyond is about the bytes that an open tokenizer takes beyond that of a usual vocabulary
// of 50 thousand tokens, which is counted with the program itself. A vocabulary of 262
// thousand was measured.
func Beyond(r formats.Reader) int64 { return max(Memory(r)/2-usual, 0) }

// Open reads the tokenizer of an artifact: the keys of a GGUF file, or
// tokenizer.json and the small files beside it in a Hugging Face folder. A folder
// without tokenizer.json is read by the rules of its tokenizer class, and HFFiles
// has the tokenizer.json that says the same.
func Open(r formats.Reader) (*Tokenizer, error) {
	if r.Format() == "gguf" {
		t, err := FromGGUF(r.KV())
		if err != nil {
			return nil, badTokenizer(r.Path(), "%v", err)
		}
		return t, nil
	}
	data, err := r.File("tokenizer.json")
	if err != nil {
		return nil, err
	}
	config, err := r.File("tokenizer_config.json")
	if err != nil {
		return nil, err
	}
	more := map[string][]byte{}
	for _, name := range moreFiles {
		b, err := r.File(name)
		if err != nil {
			return nil, err
		}
		if b != nil {
			more[name] = b
		}
	}
	if data == nil {
		if !Found(r.File) {
			return nil, badTokenizer(r.Path(), "has no tokenizer.json")
		}
		if data, config, err = convertSlow(r, config, more); err != nil {
			return nil, inFolder(err, r.Path())
		}
	}
	t, err := parseHF(data, config, more)
	if err == nil {
		err = t.readAdditional(r.Path())
	}
	return t, inFolder(err, r.Path())
}

// inFolder makes an error name the file in the folder.
func inFolder(err error, dir string) error {
	var e *fail.Error
	if errors.As(err, &e) && !filepath.IsAbs(e.Where) {
		e.Where = filepath.Join(dir, e.Where)
	}
	return err
}

// ggufKeys reads typed values from GGUF metadata; the first error stays.
type ggufKeys struct {
	kv  map[string]any
	err error
}

func (g *ggufKeys) bad(key string, v any, want string) {
	if g.err == nil {
		g.err = fmt.Errorf("key %s holds %T, want %s", key, v, want)
	}
}

func (g *ggufKeys) str(key string) string {
	v, ok := g.kv[key]
	s, isStr := v.(string)
	if ok && !isStr {
		g.bad(key, v, "a string")
	}
	return s
}

func (g *ggufKeys) flag(key string, without bool) bool {
	v, ok := g.kv[key]
	if !ok {
		return without
	}
	b, isBool := v.(bool)
	if !isBool {
		g.bad(key, v, "true or false")
	}
	return b
}

// id reads a token id below n; what is absent or not a token is without.
func (g *ggufKeys) id(key string, n int, without int32) int32 {
	var x int64
	switch v := g.kv[key].(type) {
	case nil:
		return without
	case uint32:
		x = int64(v)
	case int32:
		x = int64(v)
	case uint64:
		x = int64(v)
	case int64:
		x = v
	case uint16:
		x = int64(v)
	case uint8:
		x = int64(v)
	default:
		g.bad(key, v, "a token id")
		return -1
	}
	if x < 0 || x >= int64(n) {
		return -1 // llama.cpp writes 2³²-1 for none
	}
	return int32(x)
}

func ggufArray[T any](g *ggufKeys, key string) []T {
	v, ok := g.kv[key]
	a, isArray := v.([]T)
	if ok && !isArray {
		g.bad(key, v, fmt.Sprintf("%T", a))
	}
	return a
}

const ggufTok = "tokenizer.ggml."

// FromGGUF builds the tokenizer that the metadata of a GGUF file
// describes: model gpt2 (byte-level BPE) with a known tokenizer.ggml.pre, llama
// (SentencePiece BPE by scores), t5 (Unigram) or bert (WordPiece).
func FromGGUF(kv []formats.KV) (*Tokenizer, error) {
	g := &ggufKeys{kv: map[string]any{}}
	for _, e := range kv {
		g.kv[e.Key] = e.Value
	}
	t := &Tokenizer{templates: g.readTemplates(kv)}
	name := g.str(ggufTok + "model")
	if err := t.ggufTokens(g); err != nil {
		return nil, err
	}
	var err error
	switch name {
	case "gpt2":
		err = t.ggufBPE(g)
	case "llama":
		err = t.ggufSPM(g)
	case "t5":
		err = t.readUnigram(g)
	case "bert":
		err = t.readWords(g)
	case "":
		err = fmt.Errorf("key %smodel is missing: the file has no tokenizer", ggufTok)
	default:
		err = fmt.Errorf("key %smodel: %q is not supported (known: bert, gpt2, llama, t5)", ggufTok, clip(name))
	}
	if err == nil {
		err = g.err
	}
	if err == nil {
		t.samplingFromGGUF(g.kv)
		t.setEnds(g.id(ggufTok+"eot_token_id", len(t.vocab), -1), g.id(ggufTok+"eom_token_id", len(t.vocab), -1))
		err = t.finish()
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// ggufTokens reads the vocabulary and its token types.
func (t *Tokenizer) ggufTokens(g *ggufKeys) error {
	t.vocab = slices.Clone(ggufArray[string](g, ggufTok+"tokens"))
	types := ggufArray[int32](g, ggufTok+"token_type")
	n := len(t.vocab)
	switch {
	case g.err != nil:
		return g.err
	case n == 0:
		return fmt.Errorf("key %stokens is missing or empty", ggufTok)
	case types != nil && len(types) != n:
		return fmt.Errorf("key %stoken_type has %d entries for %d tokens", ggufTok, len(types), n)
	}
	t.ids = make(map[string]int32, n)
	t.kinds, t.skip = make([]tokenKind, n), make([]bool, n)
	for i, s := range t.vocab {
		t.kinds[i] = kindNormal
		if types != nil && types[i] >= 1 && types[i] <= 6 {
			t.kinds[i] = tokenKind(types[i])
		}
		if err := t.ggufToken(int32(i), s); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokenizer) ggufToken(id int32, s string) error {
	if len(s) > maxTokenLen {
		return fmt.Errorf("key %stokens: token %d has %d bytes", ggufTok, id, len(s))
	}
	if s == "" {
		return nil
	}
	if old, ok := t.ids[s]; ok {
		return fmt.Errorf("key %stokens: %q has ids %d and %d", ggufTok, clip(s), old, id)
	}
	t.ids[s] = id
	switch t.kinds[id] {
	case kindByte:
		if _, ok := byteToken(s); !ok {
			return fmt.Errorf("key %stokens: byte token %d is %q, want <0x00> to <0xFF>", ggufTok, id, clip(s))
		}
	case kindControl, kindUnknown:
		t.skip[id] = true
		t.added = append(t.added, addedToken{ID: id, Content: s, Special: true})
	case kindUser:
		t.added = append(t.added, addedToken{ID: id, Content: s})
	}
	return nil
}

// ggufSpecial reads the special ids and writes the post-processor.
func (t *Tokenizer) ggufSpecial(g *ggufKeys, bos, eos, unk int32, addBOS bool) error {
	n := len(t.vocab)
	t.bos = g.id(ggufTok+"bos_token_id", n, bos)
	t.eos = g.id(ggufTok+"eos_token_id", n, eos)
	t.unk = g.id(ggufTok+"unknown_token_id", n, unk)
	t.pad = g.id(ggufTok+"padding_token_id", n, -1)
	for _, id := range []*int32{&t.bos, &t.eos, &t.unk} { // what is usual may lie beyond a small vocabulary
		if int(*id) >= n {
			*id = -1
		}
	}
	before, after := int32(-1), int32(-1)
	if g.flag(ggufTok+"add_bos_token", addBOS) {
		before = t.bos
	}
	if g.flag(ggufTok+"add_eos_token", false) {
		after = t.eos
	}
	return t.pipe.set(2, t.postJSON(before, after))
}

// postJSON is a TemplateProcessing with these ids around the text, -1 for none.
func (t *Tokenizer) postJSON(before, after int32) []byte {
	if before < 0 && after < 0 {
		return []byte("null")
	}
	single, pair, special := seqJSON("A", 0), seqJSON("B", 1), []string{}
	define := func(id int32) string {
		s := quoteJSON(t.vocab[id])
		d := fmt.Sprintf(`%s:{"id":%s,"ids":[%d],"tokens":[%s]}`, s, s, id, s)
		if !slices.Contains(special, d) {
			special = append(special, d)
		}
		return s
	}
	if before >= 0 {
		s := define(before)
		single = fmt.Sprintf(`{"SpecialToken":{"id":%s,"type_id":0}},`, s) + single
		pair = fmt.Sprintf(`{"SpecialToken":{"id":%s,"type_id":1}},`, s) + pair
	}
	if after >= 0 {
		s := define(after)
		single += fmt.Sprintf(`,{"SpecialToken":{"id":%s,"type_id":0}}`, s)
		pair += fmt.Sprintf(`,{"SpecialToken":{"id":%s,"type_id":1}}`, s)
	}
	return []byte(`{"type":"TemplateProcessing","single":[` + single + `],"pair":[` + single + "," + pair +
		`],"special_tokens":{` + strings.Join(special, ",") + `}}`)
}

func seqJSON(id string, typ int) string {
	return fmt.Sprintf(`{"Sequence":{"id":"%s","type_id":%d}}`, id, typ)
}

func (t *Tokenizer) ggufBPE(g *ggufKeys) error {
	pre := g.str(ggufTok + "pre")
	if g.err != nil {
		return g.err
	}
	if pre == "" {
		return fmt.Errorf("key %spre is missing: the file does not say how its tokenizer splits text; convert the model again", ggufTok)
	}
	f, err := familyOf(pre)
	if err != nil {
		return fmt.Errorf("key %spre: %w", ggufTok, err)
	}
	if err := t.ggufSpecial(g, -1, -1, -1, f.bos); err != nil {
		return err
	}
	t.preName = pre
	t.merges = ggufArray[string](g, ggufTok+"merges")
	if t.merges == nil {
		return fmt.Errorf("key %smerges is missing", ggufTok)
	}
	normalizer := "null"
	if f.nfc {
		normalizer = `{"type":"NFC"}`
	}
	for i, raw := range []string{normalizer, string(f.preJSON()), "", byteLevelJSON} {
		if raw == "" {
			continue
		}
		if err := t.pipe.set(i, []byte(raw)); err != nil {
			return err
		}
	}
	m := &bpe{ids: t.ids, skip: t.skip, ignoreMerges: f.ignoreMerges, unk: -1, size: int32(len(t.vocab))}
	t.model = m
	if err := m.index(t.merges); err != nil {
		return fmt.Errorf("key %smerges: %w", ggufTok, err)
	}
	return nil
}

const spmReplace = `{"type":"Replace","pattern":{"String":" "},"content":"▁"}`

func (t *Tokenizer) ggufSPM(g *ggufKeys) error {
	if err := t.ggufSpecial(g, 1, 2, 0, true); err != nil {
		return err
	}
	t.scores = ggufArray[float32](g, ggufTok+"scores")
	if len(t.scores) != len(t.vocab) {
		return fmt.Errorf("key %sscores has %d entries for %d tokens", ggufTok, len(t.scores), len(t.vocab))
	}
	normalizer, strip := spmReplace, ""
	if g.flag(ggufTok+"add_space_prefix", true) {
		normalizer = `{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},` + spmReplace + `]}`
		strip = `,{"type":"Strip","content":" ","start":1,"stop":0}`
	}
	decoder := `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}` + strip + `]}`
	for i, raw := range []string{normalizer, "null", "", decoder} {
		if raw == "" {
			continue
		}
		if err := t.pipe.set(i, []byte(raw)); err != nil {
			return err
		}
	}
	m := &bpe{ids: t.ids, skip: t.skip, byteFallback: true, fuseUnk: true, unk: t.unk, size: int32(len(t.vocab)), chars: map[string]int32{}}
	t.model = m
	t.indexScores(m)
	return nil
}

// scorePair is a way to put a token together from two.
type scorePair struct {
	a, b, id int32
	rank     int32 // of the token's score, best first; equal scores share one
}

// scorePairs lists how tokens arise from two tokens or from characters that
// are none themselves, best score first.
func (t *Tokenizer) scorePairs(char func(string) int32) []scorePair {
	order := make([]int32, 0, len(t.vocab))
	for i, k := range t.kinds {
		if (k == kindNormal || k == kindUser || k == kindUnused) && utf8.RuneCountInString(t.vocab[i]) > 1 {
			order = append(order, int32(i))
		}
	}
	sort.SliceStable(order, func(i, j int) bool { return t.scores[order[i]] > t.scores[order[j]] })
	var out []scorePair
	rank := int32(0)
	for i, id := range order {
		if i > 0 && t.scores[id] != t.scores[order[i-1]] {
			rank++
		}
		s := t.vocab[id]
		first := len(out)
		for cut := range s {
			if cut == 0 {
				continue
			}
			a, b := t.part(s[:cut], char), t.part(s[cut:], char)
			if a >= 0 && b >= 0 {
				out = append(out, scorePair{a, b, id, rank})
			}
		}
		local := out[first:]
		sort.Slice(local, func(i, j int) bool {
			return local[i].a < local[j].a || local[i].a == local[j].a && local[i].b < local[j].b
		})
	}
	return out
}

// part is the id of a token or, by char, of a lone character; -1 without.
func (t *Tokenizer) part(s string, char func(string) int32) int32 {
	if id, ok := t.ids[s]; ok && !t.skip[id] && t.kinds[id] != kindByte {
		return id
	}
	if utf8.RuneCountInString(s) == 1 {
		return char(s)
	}
	return -1
}

func (t *Tokenizer) indexScores(m *bpe) {
	pairs := t.scorePairs(func(c string) int32 {
		id, ok := m.chars[c]
		if !ok {
			id = m.size + int32(len(m.chars))
			m.chars[c] = id
		}
		return id
	})
	m.merges = newMergeTable(len(pairs))
	for _, p := range pairs {
		m.merges.put(p.a, p.b, merge{p.rank, p.id})
	}
}
