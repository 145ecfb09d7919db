package tokenizer

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// readPieces makes the vocabulary and the model of a tokenizer.model.
func (s *slow) readPieces(raw []byte) (*spmFile, error) {
	if isTiktoken(raw) {
		return nil, fmt.Errorf("is a tiktoken file, which the class %s does not read", s.class.name)
	}
	f, err := parseSPM(raw)
	if err == nil {
		err = f.supported()
	}
	if err != nil {
		return nil, err
	}
	t := s.t
	s.spm = true
	t.ids = make(map[string]int32, len(f.pieces))
	for i, p := range f.pieces {
		id := int32(i)
		if old, ok := t.ids[p.text]; ok {
			return nil, fmt.Errorf("piece %q has ids %d and %d", clip(p.text), old, id)
		}
		t.ids[p.text] = id
		t.vocab, t.scores, t.kinds = append(t.vocab, p.text), append(t.scores, p.score), append(t.kinds, p.kind)
		switch {
		case p.kind == kindUnknown && t.unk >= 0:
			return nil, fmt.Errorf("pieces %d and %d are both of type UNKNOWN", t.unk, id)
		case p.kind == kindUnknown:
			t.unk = id
		case p.kind == kindControl || p.kind == kindUser:
			t.added = append(t.added, addedToken{ID: id, Content: p.text, Special: p.kind == kindControl, own: p.kind == kindUser})
		}
	}
	if t.unk < 0 {
		return nil, fmt.Errorf("no piece is of type UNKNOWN")
	}
	return f, affordable(t.vocab)
}

// pieceModel builds the model that the pieces are for.
func (s *slow) pieceModel(f *spmFile) {
	t := s.t
	if f.model == spmUnigram {
		m := &unigram{unk: t.unk, byteFallback: f.byteFallback}
		for _, p := range f.pieces {
			m.scores = append(m.scores, float64(p.score))
		}
		t.model = m
		return
	}
	t.merges, t.scores = t.pieceMerges(), nil
	t.model = &bpe{ids: t.ids, unk: t.unk, fuseUnk: true, byteFallback: f.byteFallback, size: int32(len(t.vocab))}
}

// pieceMerges are the merges that stand for the scores: all ways to make a piece of
// two, the best score first. Among equal scores longer parts come first, so that a run
// of the same character becomes the longest piece there is, as SentencePiece finds
// user-defined pieces.
func (t *Tokenizer) pieceMerges() []string {
	type pair struct {
		a, b       int32
		score      float32
		lenA, lenB int
	}
	mergeable := func(id int32) bool { return t.kinds[id] == kindNormal || t.kinds[id] == kindUser }
	var pairs []pair
	for i, piece := range t.vocab {
		if !mergeable(int32(i)) || strings.Contains(piece, " ") { // in a text spaces are ▁ by then
			continue
		}
		first, n, total := len(pairs), 0, utf8.RuneCountInString(piece)
		for cut := range piece {
			a, okA := t.ids[piece[:cut]]
			b, okB := t.ids[piece[cut:]]
			if okA && okB && cut > 0 && mergeable(a) && mergeable(b) {
				pairs = append(pairs, pair{a, b, t.scores[i], n, total - n})
			}
			n++
		}
		slices.SortFunc(pairs[first:], func(x, y pair) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	}
	slices.SortStableFunc(pairs, func(x, y pair) int {
		return cmp.Or(cmp.Compare(y.score, x.score), cmp.Compare(y.lenA, x.lenA), cmp.Compare(y.lenB, x.lenB))
	})
	out := make([]string, len(pairs))
	for i, p := range pairs {
		out[i] = t.vocab[p.a] + "\x00" + t.vocab[p.b]
	}
	return out
}

// plain refuses precompiled rules in a model of a class that Transformers runs without
// them.
func (f *spmFile) plain(class string) error {
	if len(f.charsmap) == 0 {
		return nil
	}
	return fmt.Errorf("normalizer_spec %q has a precompiled_charsmap of %d bytes, which a tokenizer of class %s has none of: only the identity normalizer is supported", clip(f.normalizer), len(f.charsmap), class)
}

// spaceRules are the normalizers for a model that drops spaces, in its order. Behind a
// text a ▁ counts as a space. They work on what lies between two added tokens, the model on the whole text with its user-defined
// pieces in it.
func (f *spmFile) spaceRules() ([]string, error) {
	if !f.removeSpaces {
		return nil, nil
	}
	if i := slices.IndexFunc(f.pieces, func(p spmPiece) bool { return p.kind == kindUser }); i >= 0 {
		return nil, fmt.Errorf("normalizer_spec.remove_extra_whitespaces is true and piece %d, %q, is USER_DEFINED, which together are not supported: the model keeps one space beside such a piece, Transformers all of them", i, clip(f.pieces[i].text))
	}
	return []string{
		`{"type":"Replace","pattern":{"Regex":"\\A +|[ ▁]+\\z"},"content":""}`,
		`{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}`,
	}, nil
}

func normalizers(list ...string) string {
	switch len(list) {
	case 0:
		return "null"
	case 1:
		return list[0]
	}
	return `{"type":"Sequence","normalizers":[` + strings.Join(list, ",") + `]}`
}

// pieceDecoder writes spaces for ▁ and bytes for byte pieces, and drops the space that
// was put before the text.
func pieceDecoder(prefix bool) string {
	strip := ""
	if prefix {
		strip = `,{"type":"Strip","content":" ","start":1,"stop":0}`
	}
	return `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}` + strip + `]}`
}

// llama puts a space before texts: where legacy is true, which it is where no file
// says otherwise, also before what follows an added token.
func (s *slow) llama(raw []byte) error {
	f, err := s.readPieces(raw)
	if err == nil {
		err = f.plain(s.class.name)
	}
	if err != nil {
		return err
	}
	legacy, err := s.flag("legacy", true)
	if err != nil {
		return err
	}
	prefix, err := s.flag("add_prefix_space", f.dummyPrefix)
	if err != nil {
		return err
	}
	if f.removeSpaces && !legacy && prefix {
		return fmt.Errorf("normalizer_spec.remove_extra_whitespaces is true with legacy false in tokenizer_config.json, which is not supported: Transformers keeps the spaces that the model drops, and does not say where its own goes")
	}
	rules, err := f.spaceRules()
	if err != nil {
		return err
	}
	s.t.added = slices.DeleteFunc(s.t.added, func(a addedToken) bool {
		return a.own && strings.Contains(a.Content, " ") // found in no text, where spaces are ▁ by then
	})
	switch {
	case !legacy:
		scheme := "never"
		if prefix {
			scheme = "first"
		}
		s.pipeline[1] = fmt.Sprintf(`{"type":"Metaspace","replacement":"▁","prepend_scheme":"%s","split":false}`, scheme)
	case prefix:
		rules = append(rules, `{"type":"Prepend","prepend":"▁"}`, spmReplace)
		s.spaced = true
	default:
		rules = append(rules, spmReplace)
	}
	s.pipeline[0], s.pipeline[3] = normalizers(rules...), pieceDecoder(prefix)
	if f.model == spmUnigram && f.byteFallback {
		cut, err := f.cutBytes()
		if err != nil {
			return err
		}
		if s.pipeline[1] == "" {
			s.pipeline[1] = cut
		} else {
			s.pipeline[1] = `{"type":"Sequence","pretokenizers":[` + s.pipeline[1] + "," + cut + `]}`
		}
	}
	s.pieceModel(f)
	return nil
}

// cutBytes is the pre-tokenizer that keeps a text like <0x41> from becoming the piece of a byte,
// which for SentencePiece no text is: it cuts such a text where no other piece reaches across, so
// that the best pieces stay the best.
func (f *spmFile) cutBytes() (string, error) {
	const mark = "<0x"
	for at := 1; at < len(mark); at++ {
		around := mark[at-1 : at+1]
		if !slices.ContainsFunc(f.pieces, func(p spmPiece) bool { return p.kind != kindByte && strings.Contains(p.text, around) }) {
			pattern := mark[:at] + "(?=" + mark[at:] + "[0-9A-F]{2}>)"
			return `{"type":"Split","pattern":{"Regex":` + quoteJSON(pattern) + `},"behavior":"MergedWithPrevious","invert":false}`, nil
		}
	}
	return "", fmt.Errorf("a Unigram model with byte_fallback that has pieces with <0 and with 0x is not supported: its tokenizer.json would make bytes of a text that spells them, like <0x41>")
}

// keepWithin has the pieces that only the model calls USER_DEFINED found behind the rule that
// puts a space before texts, so that they end none, as in SentencePiece. A token is found there
// as the rules rewrite it alone, hence the last rule, which takes the space from before it.
func (s *slow) keepWithin() {
	var own []string
	for i, a := range s.t.added {
		if a.own && strings.Trim(a.Content, "▁") != "" { // runs of ▁ come of merges
			s.t.added[i].Normalized = true
			own = append(own, regexp.QuoteMeta(a.Content))
		}
	}
	if own != nil {
		pattern := `\A▁(?=(?:` + strings.Join(own, "|") + `)\z)`
		s.pipeline[0] = normalizers(`{"type":"Prepend","prepend":"▁"}`, spmReplace,
			fmt.Sprintf(`{"type":"Replace","pattern":{"Regex":%s},"content":""}`, quoteJSON(pattern)))
	}
}

// onlyWhole refuses pieces of a BPE model that only the model calls USER_DEFINED and that have ▁
// beside other characters, where no rule puts a space before texts: SentencePiece finds them
// whole, and Transformers what merges make.
func (s *slow) onlyWhole() error {
	if _, ok := s.t.model.(*bpe); !ok {
		return nil
	}
	for _, a := range s.t.added {
		if a.own && strings.Contains(a.Content, "▁") && strings.Trim(a.Content, "▁") != "" {
			return fmt.Errorf("piece %d, %q, is USER_DEFINED and has a space (▁), which without a space before texts is not supported: SentencePiece finds it whole, Transformers does not", a.ID, clip(a.Content))
		}
	}
	return nil
}

// gemma puts nothing before texts. Its first vocabularies lack the tab, which takes the
// place of the piece of its byte.
func (s *slow) gemma(raw []byte) error {
	f, err := s.readPieces(raw)
	if err == nil {
		err = f.plain(s.class.name)
	}
	if err != nil {
		return err
	}
	if f.dummyPrefix {
		return fmt.Errorf("normalizer_spec.add_dummy_prefix is true, a tokenizer of class %s has it false", s.class.name)
	}
	rules, err := f.spaceRules()
	if err != nil {
		return err
	}
	t := s.t
	if id, ok := t.ids["<0x09>"]; ok && t.kinds[id] == kindByte {
		if _, ok := t.ids["\t"]; !ok {
			delete(t.ids, "<0x09>")
			t.vocab[id], t.ids["\t"], t.kinds[id], f.pieces[id].text = "\t", id, kindNormal, "\t"
		}
	}
	for i := range t.added {
		if c := t.added[i].Content; c == "<start_of_turn>" || c == "<end_of_turn>" {
			t.added[i].Special = true
		}
	}
	s.pipeline = [4]string{normalizers(append(rules, spmReplace)...),
		`{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false}`, "", pieceDecoder(false)}
	s.pieceModel(f)
	return nil
}

// precompiledJSON is the normalizer of precompiled rules.
func precompiledJSON(rules []byte) string {
	return `{"type":"Precompiled","precompiled_charsmap":"` + base64.StdEncoding.EncodeToString(rules) + `"}`
}

// maxExtraIDs bounds T5's extra_ids; published models have 100 to 300.
const maxExtraIDs = 1 << 16

// t5 splits at white space, adds the sentinels <extra_id_0> … behind the pieces, last
// first, and ends texts with the EOS.
func (s *slow) t5(raw []byte) error {
	f, err := s.readPieces(raw)
	if err != nil {
		return err
	}
	if f.model != spmUnigram {
		return fmt.Errorf("trainer_spec.model_type is %d, a tokenizer of class %s has 1 (unigram)", f.model, s.class.name)
	}
	extra := int64(100)
	if v, _ := s.config.Get("extra_ids"); v != nil {
		n, ok := v.(int64)
		if !ok || n < 0 || n > maxExtraIDs {
			return badTokenizer("tokenizer_config.json", "extra_ids is %v, want 0 to %d", v, maxExtraIDs)
		}
		extra = n
	}
	for i := extra - 1; i >= 0; i-- {
		text := fmt.Sprintf("<extra_id_%d>", i)
		if old, ok := s.t.ids[text]; ok {
			return fmt.Errorf("piece %d is %q, which extra_ids %d adds again", old, text, extra)
		}
		id := int32(len(f.pieces))
		f.pieces = append(f.pieces, spmPiece{text: text, kind: kindUser})
		s.t.vocab, s.t.ids[text] = append(s.t.vocab, text), id
		s.t.added = append(s.t.added, addedToken{ID: id, Content: text, Special: true})
	}
	const meta = `{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}`
	s.pipeline = [4]string{"", `{"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},` + meta + `]}`, "", meta}
	if len(f.charsmap) > 0 {
		s.pipeline[0] = precompiledJSON(f.charsmap)
	}
	s.pieceModel(f)
	return nil
}
