package tokenizer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
)

// The vocabularies of GGUF that are no BPE: t5 (Unigram) and bert (WordPiece).

const (
	spacePrefixKey = ggufTok + "add_space_prefix"
	dropSpacesKey  = ggufTok + "remove_extra_whitespaces"
	charsmapKey    = ggufTok + "precompiled_charsmap"
)

// ggufUnigram are the keys of a Unigram model, as llama.cpp's converter writes them of
// a SentencePiece model.
func (t *Tokenizer) ggufUnigram(rows int, m *unigram) ([]formats.KV, error) {
	if m.byteFallback {
		return nil, fmt.Errorf("a Unigram model with byte_fallback is not supported there: unknown characters would become one token")
	}
	rules, err := t.precompiled()
	if err != nil {
		return nil, err
	}
	prefix, drop, err := t.spaceRules(rules)
	if err != nil {
		return nil, err
	}
	if id := t.acrossWords(drop); id >= 0 && t.splitsWords() {
		return nil, fmt.Errorf("its pre-tokenizer cuts texts into words, and piece %d, %q, reaches beyond one: llama.cpp cuts nothing and would find it", id, clip(t.vocab[id]))
	}
	tokens, types := t.ggufVocab(rows, false)
	if m.unk >= 0 {
		types[m.unk] = int32(kindUnknown)
	}
	scores := make([]float32, rows)
	copy(scores, t.scores)
	for i := len(t.vocab); i < rows; i++ {
		scores[i] = -10000
	}
	kv := []formats.KV{
		{Key: ggufTok + "model", Value: "t5"}, {Key: ggufTok + "pre", Value: "default"}, {Key: ggufTok + "tokens", Value: tokens},
		{Key: ggufTok + "scores", Value: scores}, {Key: ggufTok + "token_type", Value: types},
		{Key: spacePrefixKey, Value: prefix}, {Key: dropSpacesKey, Value: drop},
	}
	if rules != nil {
		kv = append(kv, formats.KV{Key: charsmapKey, Value: rules})
	}
	return kv, nil
}

// precompiled are the compiled rules that a pipeline begins with, nil without; rules of
// other kinds that are not about spaces are an error.
func (t *Tokenizer) precompiled() (rules []byte, err error) {
	list := []component{}
	if c := t.pipe.Normalizer; c != nil {
		if list = []component{*c}; c.Type == "Sequence" {
			list = c.Normalizers
		}
	}
	for i, c := range list {
		switch {
		case c.Type == "Precompiled" && i == 0:
			rules = c.Charsmap
		case c.Type != "Strip" && c.Type != "Replace" && c.Type != "Prepend":
			return nil, fmt.Errorf("normalizer %s of a Unigram model is not supported there", clip(c.Type))
		}
	}
	return rules, nil
}

// spaceRules tells what a Unigram tokenizer does with spaces: whether one goes before a
// text, and whether those around it and all but one of a run are dropped.
func (t *Tokenizer) spaceRules(rules []byte) (prefix, drop bool, err error) {
	const probe = "x  y "
	switch got := t.rewritten(probe, true); got {
	case "▁x▁y":
		prefix, drop = true, true
	case "x▁y":
		prefix, drop = false, true
	case "▁x▁▁y▁":
		prefix, drop = true, false
	case "x▁▁y▁":
	default:
		return false, false, fmt.Errorf("it makes %q of %q, which no flag says", got, probe)
	}
	if got := t.rewritten(" ", true); got == "▁▁" {
		return false, false, fmt.Errorf("it makes %q of a space alone, before which llama.cpp puts none", got)
	}
	// Of other white space only what compiled rules make of it counts.
	const white = " x\ty\u3000z\u00a0"
	left := white
	if rules != nil {
		m, err := parseCharsmap(rules)
		if err != nil {
			return false, false, err
		}
		left = m.normalizer().apply(left)
	}
	if drop {
		left = strings.Join(strings.FieldsFunc(left, func(r rune) bool { return r == ' ' }), " ")
	}
	if left = strings.ReplaceAll(left, " ", "▁"); prefix && (!strings.HasPrefix(left, "▁") || t.rewritten(" x", true) == "▁▁x") {
		left = "▁" + left
	}
	if got := t.rewritten(white, true); got != left {
		err = fmt.Errorf("it makes %q of %q: white space beside the space that its compiled rules leave is treated as one, which no key says", got, white)
	}
	return prefix, drop, err
}

// acrossWords is the first piece with a space behind its beginning, -1 without one. Where runs of spaces are dropped, those of spaces
// alone do not count: only user-defined ones are looked for before that.
func (t *Tokenizer) acrossWords(drop bool) int {
	return slices.IndexFunc(t.vocab, func(s string) bool {
		if strings.LastIndex(s, "▁") < 1 {
			return false
		}
		k := t.kinds[t.ids[s]]
		return k == kindUser || k == kindNormal && !(drop && strings.Trim(s, "▁") == "")
	})
}

// splitsWords tells whether the pipeline cuts a text at its spaces.
func (t *Tokenizer) splitsWords() bool { return len(t.cut("x y", true)) > 1 }

// rewritten is what normalizers and pre-tokenizers make of s, which begins a text where
// first is set.
func (t *Tokenizer) rewritten(s string, first bool) string { return strings.Join(t.cut(s, first), "") }

// cut are the words for the model that they make of it.
func (t *Tokenizer) cut(s string, first bool) (words []string) {
	for _, n := range t.norm {
		s = n.apply(s)
	}
	emit := func(s string, _ bool) { words = append(words, s) }
	for i := len(t.pre) - 1; i >= 0; i-- {
		next, p := emit, t.pre[i]
		emit = func(s string, first bool) { p.split(s, first, next) }
	}
	emit(s, first)
	return words
}

// readUnigram reads what ggufUnigram writes.
func (t *Tokenizer) readUnigram(g *ggufKeys) error {
	if err := t.ggufSpecial(g, -1, 1, 2, false); err != nil {
		return err
	}
	if _, said := g.kv[ggufTok+"add_eos_token"]; !said { // llama.cpp's own for these
		if err := t.pipe.set(2, t.postJSON(-1, t.eos)); err != nil {
			return err
		}
	}
	t.scores = ggufArray[float32](g, ggufTok+"scores")
	if len(t.scores) != len(t.vocab) {
		return fmt.Errorf("key %sscores has %d entries for %d tokens", ggufTok, len(t.scores), len(t.vocab))
	}
	prefix, drop := g.flag(spacePrefixKey, true), g.flag(dropSpacesKey, false)
	meta := func(prefix bool) string {
		scheme := "never"
		if prefix {
			scheme = "always"
		}
		// llama.cpp cuts nothing; words apart are faster, and the same where no piece holds two.
		return fmt.Sprintf(`{"type":"Metaspace","replacement":"▁","prepend_scheme":"%s","split":%t}`, scheme, t.acrossWords(drop) < 0)
	}
	var rules []string
	if raw := ggufArray[uint8](g, charsmapKey); raw != nil {
		rules = append(rules, precompiledJSON(raw))
	}
	if drop {
		rules = append(rules, `{"type":"Replace","pattern":{"Regex":"\\A +| +\\z"},"content":""}`, `{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}`)
	}
	if prefix { // also before a space, where a Metaspace writes none, but not before spaces alone
		rules = append(rules, `{"type":"Prepend","prepend":"▁"}`)
	}
	if prefix && !drop {
		rules = append(rules, `{"type":"Replace","pattern":{"Regex":"\\A▁(?= +\\z)"},"content":""}`)
	}
	for i, raw := range []string{normalizers(rules...), meta(false), "", meta(prefix)} {
		if raw == "" {
			continue
		}
		if err := t.pipe.set(i, []byte(raw)); err != nil {
			return err
		}
	}
	m := &unigram{ids: t.ids, unk: t.unk}
	for id, s := range t.scores {
		m.scores = append(m.scores, float64(s))
		if k := t.kinds[id]; k != kindNormal && k != kindUser {
			continue
		}
		m.enter(t.vocab[id], int32(id))
	}
	m.close()
	t.model = m
	return nil
}

// wordSpecials are the special tokens of BERT and their keys; the spelling of the
// second is GGUF's.
var wordSpecials = [...][2]string{{"[CLS]", "cls_token_id"}, {"[SEP]", "seperator_token_id"}, {"[MASK]", "mask_token_id"}}

// ggufWords are the keys of a WordPiece model, whose pieces a GGUF spells with a mark
// before words instead of one inside them.
func (t *Tokenizer) ggufWords(rows int, m *wordPiece) ([]formats.KV, error) {
	if n := t.pipe.Normalizer; n == nil || n.Type != "BertNormalizer" || n.switches() != [4]bool{true, true, true, true} {
		return nil, fmt.Errorf("llama.cpp writes texts of a WordPiece model in lower case without accents and with spaces around Chinese characters, this one is not so: %s", clip(string(t.pipe.text[0])))
	}
	if p := t.pipe.Pre; p == nil || p.Type != "BertPreTokenizer" || m.prefix != wordPrefix {
		return nil, fmt.Errorf("only the pre-tokenizer BertPreTokenizer with the prefix %s is supported there", wordPrefix)
	}
	tokens, types := t.ggufVocab(rows, false)
	for i := range t.vocab {
		switch inside, ok := strings.CutPrefix(tokens[i], wordPrefix); {
		case kindControl == tokenKind(types[i]) || kindUnused == tokenKind(types[i]):
		case ok:
			tokens[i] = inside
		default:
			tokens[i] = "▁" + tokens[i]
		}
	}
	kv := []formats.KV{
		{Key: ggufTok + "model", Value: "bert"}, {Key: ggufTok + "pre", Value: "default"},
		{Key: ggufTok + "tokens", Value: tokens}, {Key: ggufTok + "token_type", Value: types},
	}
	for i, s := range wordSpecials {
		id, ok := t.ids[s[0]]
		if i == 0 && len(t.before) == 1 {
			id, ok = t.before[0], true
		}
		if i == 1 && len(t.after) == 1 {
			id, ok = t.after[0], true
		}
		if ok {
			kv = append(kv, formats.KV{Key: ggufTok + s[1], Value: uint32(id)})
		}
	}
	return kv, nil
}

// readWords reads what ggufWords writes.
func (t *Tokenizer) readWords(g *ggufKeys) error {
	n := len(t.vocab)
	t.bos, t.eos = g.id(ggufTok+"bos_token_id", n, -1), g.id(ggufTok+"eos_token_id", n, -1)
	t.pad = g.id(ggufTok+"padding_token_id", n, -1)
	unk := g.id(ggufTok+"unknown_token_id", n, -1)
	before, after := g.id(ggufTok+"cls_token_id", n, -1), g.id(ggufTok+"seperator_token_id", n, -1)
	if id, ok := t.ids["▁"+wordUnknown]; unk < 0 && ok {
		unk = id
	} else if id, ok := t.ids[wordUnknown]; unk < 0 && ok {
		unk = id
	}
	if unk < 0 || g.err != nil {
		return fmt.Errorf("key %sunknown_token_id is missing", ggufTok)
	}
	ids := map[string]int32{}
	for i, s := range t.vocab {
		if k := t.kinds[i]; k != kindControl && k != kindUnused {
			if word, ok := strings.CutPrefix(s, "▁"); ok {
				s = word
			} else {
				s = wordPrefix + s
			}
		}
		if old, ok := ids[s]; ok {
			return fmt.Errorf("key %stokens: %q has ids %d and %d", ggufTok, clip(s), old, i)
		}
		ids[s], t.vocab[i] = int32(i), s
	}
	t.ids = ids
	for i := range t.added {
		t.added[i].Content = t.vocab[t.added[i].ID]
	}
	t.unk, t.model = unk, &wordPiece{ids: ids, prefix: wordPrefix, unk: unk, longer: wordLongest}
	for i, raw := range []string{`{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":true,"lowercase":true}`, bertPre, string(t.postJSON(before, after)), wordDecoder} {
		if err := t.pipe.set(i, []byte(raw)); err != nil {
			return err
		}
	}
	return nil
}
