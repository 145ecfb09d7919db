package tokenizer

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// wordPiece cuts a word into the longest pieces there are, from its beginning on
// (Schuster, Nakajima 2012); a word that cannot be cut so is unknown.
type wordPiece struct {
	ids     map[string]int32
	foreign map[int32]bool // added tokens among ids
	skip    []bool         // control tokens, which no text becomes
	prefix  string         // of pieces inside a word
	unk     int32
	longer  int // words of more characters are unknown
}

// What a file without these keys means.
const (
	wordPrefix  = "##"
	wordUnknown = "[UNK]"
	wordLongest = 100
)

func (h *hfFile) buildWordPiece(t *Tokenizer) error {
	ids, top, err := readVocab(h.vocab)
	if err != nil {
		return fmt.Errorf("model.vocab: %w", err)
	}
	t.ids = ids
	return t.wordPieces(top, &wordPiece{prefix: h.prefix, longer: h.longest}, h.unk)
}

// wordPieces makes m the model of the vocabulary, whose ids end at top.
func (t *Tokenizer) wordPieces(top int32, m *wordPiece, unk string) error {
	id, ok := t.ids[unk]
	if !ok {
		return fmt.Errorf("model.unk_token %q is not in the vocabulary of %d tokens", clip(unk), len(t.ids))
	}
	if m.longer < 1 {
		return fmt.Errorf("model.max_input_chars_per_word is %d", m.longer)
	}
	if err := t.addTokens(top); err != nil {
		return err
	}
	m.ids, m.foreign, m.unk, t.unk, t.model = t.ids, t.foreign, id, id, m
	t.setKinds(false)
	m.skip = t.skip
	return nil
}

func (m *wordPiece) word(e *encoder, w string, out []int32) []int32 {
	if utf8.RuneCountInString(w) > m.longer {
		return append(out, m.unk)
	}
	n := len(out)
	for from := 0; from < len(w); {
		id, to := int32(-1), len(w)
		for ; to > from; to -= lastRune(w[from:to]) {
			e.spell = e.spell[:0]
			if from > 0 {
				e.spell = append(e.spell, m.prefix...)
			}
			e.spell = append(e.spell, w[from:to]...)
			if known, ok := m.ids[string(e.spell)]; ok && !m.foreign[known] && !isSet(m.skip, known) {
				id = known
				break
			}
		}
		if id < 0 {
			return append(out[:n], m.unk)
		}
		out, from = append(out, id), to
	}
	return out
}

// isSet tells whether list has id, which may lie beyond it.
func isSet(list []bool, id int32) bool { return int(id) < len(list) && list[id] }

func lastRune(s string) int {
	_, n := utf8.DecodeLastRuneInString(s)
	return n
}

// wordLevel knows whole words only.
type wordLevel struct {
	ids     map[string]int32
	foreign map[int32]bool // added tokens among ids
	skip    []bool         // control tokens, which no text becomes
	unk     int32          // -1: there is none
}

func (h *hfFile) buildWordLevel(t *Tokenizer) error {
	ids, top, err := readVocab(h.vocab)
	if err != nil {
		return fmt.Errorf("model.vocab: %w", err)
	}
	m := &wordLevel{ids: ids, unk: -1}
	if id, ok := ids[h.unk]; ok {
		m.unk, t.unk = id, id
	}
	t.ids, t.model = ids, m
	if err := t.addTokens(top); err != nil {
		return err
	}
	m.foreign = t.foreign
	t.setKinds(false)
	m.skip = t.skip
	return nil
}

func (m *wordLevel) word(_ *encoder, w string, out []int32) []int32 {
	id, ok := m.ids[w]
	if !ok || m.foreign[id] || isSet(m.skip, id) {
		id = m.unk
	}
	if id < 0 {
		panic(errPattern{noUnknown(w)})
	}
	return append(out, id)
}

// noUnknown is the error about a text that a vocabulary cannot spell.
func noUnknown(s string) error {
	return fmt.Errorf("%q is not in its vocabulary, which has no unknown token (model.unk_token or model.unk_id of tokenizer.json)", clip(s))
}

// hfWordPiece writes the model.
func (t *Tokenizer) hfWordPiece(b *bytes.Buffer, m *wordPiece) {
	fmt.Fprintf(b, "{\"type\":\"WordPiece\",\"unk_token\":%s,\"continuing_subword_prefix\":%s,\"max_input_chars_per_word\":%d,", quoteJSON(t.vocab[m.unk]), quoteJSON(m.prefix), m.longer)
	t.hfVocab(b)
	b.WriteString("}")
}

// hfVocab writes the tokens of a model with their ids.
func (t *Tokenizer) hfVocab(b *bytes.Buffer) {
	b.WriteString("\n\"vocab\":{")
	n := 0
	for i, s := range t.vocab {
		if s != "" {
			fmt.Fprintf(b, "%s\n%s:%d", comma(n), quoteJSON(s), i)
			n++
		}
	}
	b.WriteString("\n}")
}

// wordPieceDecoder puts spaces before tokens that begin a word, and with cleanup
// takes those away that English has none of.
type wordPieceDecoder struct {
	prefix  string
	cleanup bool
}

// wordPieceDecoderOf is the decoder that c describes.
func wordPieceDecoderOf(c *component) wordPieceDecoder {
	d := wordPieceDecoder{wordPrefix, true}
	if c.Prefix != nil {
		d.prefix = *c.Prefix
	}
	if c.Cleanup != nil {
		d.cleanup = *c.Cleanup
	}
	return d
}

// spelled is what a token adds to a text.
func (d wordPieceDecoder) spelled(token string, first bool) string {
	if inside, ok := strings.CutPrefix(token, d.prefix); ok && !first {
		token = inside
	} else if !first {
		token = " " + token
	}
	if d.cleanup {
		token = cleaned(token)
	}
	return token
}

// cleaned is s without the spaces before punctuation that English has none of.
func cleaned(s string) string {
	for _, p := range [...][2]string{{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}} {
		s = strings.ReplaceAll(s, p[0], p[1])
	}
	return s
}

func (d wordPieceDecoder) step(s []string) []string {
	for i := range s {
		s[i] = d.spelled(s[i], i == 0)
	}
	return s
}

// bertNormalizers are those of BERT, which c switches on and off: without control
// characters, spaces around Chinese characters, without accents, in lower case.
func bertNormalizers(c *component) []normalizer {
	var out []normalizer
	on := c.switches()
	for i, f := range [...]func(string) string{cleanText, spaceChinese, func(s string) string { return without(isBertAccent, formed(norm.NFD)(s)) }, lowercase} {
		if on[i] {
			out = append(out, normalizer{apply: f})
		}
	}
	return out
}

// switches are those of a BertNormalizer, in the order in which it works: what is
// absent is on, and accents go where letters become small.
func (c *component) switches() [4]bool {
	on := func(flag *bool, without bool) bool { return flag == nil && without || flag != nil && *flag }
	lower := on(c.Lowercase, true)
	return [4]bool{on(c.CleanText, true), on(c.HandleChinese, true), on(c.StripAccents, lower), lower}
}

// cleanText drops control characters and writes a space for each white one.
func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r != utf8.RuneError && unicode.IsSpace(r) && r != '\x0b' && r != '\x0c' && r != '\u0085':
			return ' '
		case r == 0 || r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co) && !inTable(noControl, r):
			return -1
		}
		return r
	}, s)
}

// spaceChinese puts spaces around characters of the blocks of Chinese ones.
func spaceChinese(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.Is(chinese, r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

var chinese = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x3400, Hi: 0x4dbf, Stride: 1}, {Lo: 0x4e00, Hi: 0x9fff, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1}},
	R32: []unicode.Range32{{Lo: 0x20000, Hi: 0x2a6df, Stride: 1}, {Lo: 0x2a700, Hi: 0x2b73f, Stride: 1}, {Lo: 0x2b740, Hi: 0x2b81f, Stride: 1}, {Lo: 0x2b920, Hi: 0x2ceaf, Stride: 1}, {Lo: 0x2f800, Hi: 0x2fa1f, Stride: 1}},
}

// bert reads vocab.txt, a token a line.
func (s *slow) bert(raw []byte) error {
	t := s.t
	t.ids = map[string]int32{}
	for i, line := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		token := strings.TrimSuffix(line, "\r")
		if old, ok := t.ids[token]; ok || token == "" || len(token) > maxTokenLen || !utf8.ValidString(token) {
			return fmt.Errorf("line %d, %q, is no token, or that of line %d again", i+1, clip(token), old+1)
		}
		t.ids[token] = int32(i)
	}
	unk := wordUnknown
	if v, ok := s.config.Get("unk_token"); ok {
		if a, ok := token(v); ok {
			unk = a.Content
		}
	}
	if err := t.wordPieces(int32(len(t.ids)-1), &wordPiece{prefix: wordPrefix, longer: wordLongest}, unk); err != nil {
		return err
	}
	flags := map[string]bool{}
	for key, without := range map[string]bool{"do_lower_case": true, "tokenize_chinese_chars": true} {
		on, err := s.flag(key, without)
		if err != nil {
			return err
		}
		flags[key] = on
	}
	accents := "null"
	if v, _ := s.config.Get("strip_accents"); v != nil {
		on, err := s.flag("strip_accents", false)
		if err != nil {
			return err
		}
		accents = fmt.Sprint(on)
	}
	ids := map[string]int32{}
	for _, of := range [][2]string{{"cls_token", "[CLS]"}, {"sep_token", "[SEP]"}} {
		key, name := of[0], of[1]
		if v, ok := s.config.Get(key); ok {
			if a, ok := token(v); ok {
				name = a.Content
			}
		}
		id, ok := t.ids[name]
		if !ok {
			return fmt.Errorf("%s %q is not in the vocabulary of %d tokens", key, clip(name), len(t.ids))
		}
		ids[key] = id
		s.addSpecial(addedToken{Content: name, Special: true})
	}
	if _, ok := t.ids["[MASK]"]; ok {
		s.addSpecial(addedToken{Content: "[MASK]", Special: true})
	}
	s.pipeline = [4]string{
		fmt.Sprintf(`{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":%t,"strip_accents":%s,"lowercase":%t}`, flags["tokenize_chinese_chars"], accents, flags["do_lower_case"]),
		bertPre, string(t.postJSON(ids["cls_token"], ids["sep_token"])), wordDecoder,
	}
	return nil
}

const (
	bertPre     = `{"type":"BertPreTokenizer"}`
	wordDecoder = `{"type":"WordPiece","prefix":"##","cleanup":true}`
)
