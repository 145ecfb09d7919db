package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// decodeStep turns a list of token texts into another.
type decodeStep func([]string) []string

// compileDecoder translates the decoder of tokenizer.json.
func compileDecoder(c *component) ([]decodeStep, error) {
	switch c.Type {
	case "Sequence":
		var out []decodeStep
		for i := range c.Decoders {
			steps, err := compileDecoder(&c.Decoders[i])
			if err != nil {
				return nil, err
			}
			out = append(out, steps...)
		}
		return out, nil
	case "ByteLevel":
		return []decodeStep{decodeBytes}, nil
	case "ByteFallback":
		return []decodeStep{decodeFallback}, nil
	case "Fuse":
		return []decodeStep{func(s []string) []string { return []string{strings.Join(s, "")} }}, nil
	case "Strip":
		return []decodeStep{stripStep(c.Content, c.Start, c.Stop)}, nil
	case "Replace":
		n, err := compileReplace(c)
		if err != nil {
			return nil, err
		}
		return []decodeStep{func(s []string) []string { return apply(s, n.apply) }}, nil
	case "Metaspace":
		return []decodeStep{metaspaceStep(c)}, nil
	case "BPEDecoder":
		return []decodeStep{suffixStep(c.wordEnd())}, nil
	case "CTC":
		return []decodeStep{ctcStep(c)}, nil
	case "WordPiece":
		return []decodeStep{wordPieceDecoderOf(c).step}, nil
	}
	return nil, fmt.Errorf("decoder type %q is not supported (known: BPEDecoder, ByteLevel, ByteFallback, CTC, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece)", clip(c.Type))
}

func apply(s []string, f func(string) string) []string {
	for i := range s {
		s[i] = f(s[i])
	}
	return s
}

// decodeBytes undoes the byte spelling; a token with another character stands
// for itself.
func decodeBytes(tokens []string) []string {
	var b []byte
	for _, t := range tokens {
		b = appendBytes(b, t)
	}
	return []string{lossy(b)}
}

func appendBytes(b []byte, token string) []byte {
	n := len(b)
	for _, r := range token {
		c, ok := runeByte[r]
		if !ok {
			return append(b[:n], token...)
		}
		b = append(b, c)
	}
	return b
}

// byteToken is the byte that <0xXX> stands for.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, lo := hexDigit(s[3]), hexDigit(s[4])
	return hi<<4 | lo, hi < 16 && lo < 16
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}

// decodeFallback joins runs of byte tokens; a run that is no UTF-8 becomes one
// U+FFFD a byte.
func decodeFallback(tokens []string) []string {
	out := tokens[:0:0]
	var run []byte
	flush := func() {
		if len(run) == 0 {
			return
		}
		if utf8.Valid(run) {
			out = append(out, string(run))
		} else {
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if c, ok := byteToken(t); ok {
			run = append(run, c)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

func stripStep(content string, start, stop int) decodeStep {
	c, _ := utf8.DecodeRuneInString(content)
	return func(s []string) []string {
		return apply(s, func(t string) string {
			for i := 0; i < start && strings.HasPrefix(t, string(c)); i++ {
				t = t[len(string(c)):]
			}
			for i := 0; i < stop && strings.HasSuffix(t, string(c)); i++ {
				t = t[:len(t)-len(string(c))]
			}
			return t
		})
	}
}

func metaspaceStep(c *component) decodeStep {
	mark, scheme := c.Replacement, c.scheme()
	return func(s []string) []string {
		for i, t := range s {
			if i == 0 && scheme != "never" {
				t = strings.ReplaceAll(t, mark, "")
			}
			s[i] = strings.ReplaceAll(t, mark, " ")
		}
		return s
	}
}

// wordEnd is BPEDecoder's mark of a word's end.
func (c *component) wordEnd() string {
	if c.Suffix == nil {
		return "</w>"
	}
	return *c.Suffix
}

// suffixStep writes a space for the mark of a word's end, and nothing for the last one.
func suffixStep(suffix string) decodeStep {
	return func(s []string) []string {
		for i, t := range s {
			space := " "
			if i == len(s)-1 {
				space = ""
			}
			s[i] = strings.ReplaceAll(t, suffix, space)
		}
		return s
	}
}

// ctcStep takes out repeated tokens and padding (Graves et al. 2006), and with cleanup
// writes spaces for word delimiters.
func ctcStep(c *component) decodeStep {
	pad, word, cleanup := "<pad>", "|", c.Cleanup == nil || *c.Cleanup
	if c.PadToken != nil {
		pad = *c.PadToken
	}
	if c.WordDelimiter != nil {
		word = *c.WordDelimiter
	}
	return func(s []string) []string {
		out := s[:0:0]
		for i, t := range s {
			if i > 0 && t == s[i-1] {
				continue
			}
			t = strings.ReplaceAll(t, pad, "")
			if cleanup {
				t = strings.ReplaceAll(cleaned(t), word, " ")
			}
			if t != "" {
				out = append(out, t)
			}
		}
		return out
	}
}

// lossy is b as text; each longest start of a broken character becomes one
// U+FFFD, as Rust and the Unicode standard recommend.
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n <= 1 {
			out.WriteString("\uFFFD")
			n = brokenLen(b)
		} else {
			out.Write(b[:n])
		}
		b = b[n:]
	}
	return out.String()
}

// brokenLen is the length of the longest prefix of b that some character
// begins with, at least 1.
func brokenLen(b []byte) int {
	lo, hi, want := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		want = 2
	case c >= 0xE0 && c <= 0xEF:
		want = 3
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		want = 4
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for n < want && n < len(b) && b[n] >= lo && b[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}

// Decode returns the text of ids; skipSpecial leaves special tokens out. Bytes
// that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	if t.byteLevel() {
		return lossy(t.appendRaw(make([]byte, 0, 4*len(ids)), ids, skipSpecial))
	}
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if s := t.spelling(id); s != "" && !(skipSpecial && t.hidden(id)) {
			tokens = append(tokens, s)
		}
	}
	if t.pipe.Decoder == nil {
		return strings.Join(tokens, " ")
	}
	for _, step := range t.dec {
		tokens = step(tokens)
	}
	return strings.Join(tokens, "")
}

// spelling is what decoders see of an id: of an added token that is looked for in the
// normalised text it is that, so that they undo what normalizers did.
func (t *Tokenizer) spelling(id int32) string {
	if s, ok := t.shown[id]; ok {
		return s
	}
	return t.Token(id)
}

// hidden tells whether Decode may leave id out: where its spelling is that of a special
// token, which that of one looked for in the normalised text need not be.
func (t *Tokenizer) hidden(id int32) bool {
	if s, ok := t.shown[id]; ok {
		id, ok = t.ids[s]
		return ok && t.Special(id)
	}
	return t.Special(id)
}

func (t *Tokenizer) byteLevel() bool {
	return t.pipe.Decoder != nil && t.pipe.Decoder.Type == "ByteLevel"
}

// pieceTable holds the bytes of every token side by side.
type pieceTable struct {
	blob []byte
	at   []uint32 // one more than tokens

	suffixed bool // BPEDecoder's mark of a word's end stands at the end of tokens only
}

func (t *Tokenizer) newPieces() *pieceTable {
	p := &pieceTable{at: make([]uint32, len(t.vocab)+1)}
	marked := t.pipe.Decoder != nil && t.pipe.Decoder.Type == "BPEDecoder"
	p.suffixed = marked
	for i := range t.vocab {
		s := t.spelling(int32(i))
		if marked && p.suffixed {
			end := t.pipe.Decoder.wordEnd()
			p.suffixed = !strings.Contains(strings.TrimSuffix(s, end), end)
		}
		switch c, ok := byteToken(s); {
		case t.pipe.Decoder != nil && t.pipe.Decoder.Type == "WordPiece":
			p.blob = append(p.blob, wordPieceDecoderOf(t.pipe.Decoder).spelled(s, false)...)
		case t.byteLevel():
			p.blob = appendBytes(p.blob, s)
		case ok && t.kinds[i] == kindByte:
			p.blob = append(p.blob, c)
		default:
			p.blob = append(p.blob, strings.ReplaceAll(s, "▁", " ")...)
		}
		p.at[i+1] = uint32(len(p.blob))
	}
	return p
}

// Bytes are the bytes that id adds to a text, nil outside the vocabulary. They
// may be part of a character. The caller must not change them.
func (t *Tokenizer) Bytes(id int32) []byte {
	p := t.pieces()
	if id < 0 || int(id) >= len(t.vocab) {
		return nil
	}
	return p.blob[p.at[id]:p.at[id+1]:p.at[id+1]]
}

func (t *Tokenizer) appendRaw(b []byte, ids []int32, skipSpecial bool) []byte {
	for _, id := range ids {
		if !(skipSpecial && t.hidden(id)) {
			b = append(b, t.Bytes(id)...)
		}
	}
	return b
}

// Stream decodes ids as they come and never splits a character.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	strip       string // what is taken off the front of the text
	pending     []byte

	local bool  // what a token adds depends on whether it is the first or the last only
	last  int32 // that one that added something; -1: none yet

	whole bool // all ids are decoded each time: what a token adds depends on others
	ids   []int32
	text  string // of all ids so far
	sent  int    // bytes of it that were returned
}

// Stream begins a text. Its pieces and Flush together are what Decode gives,
// but for broken UTF-8 in byte tokens, where Decode needs to see a whole run.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	s := &Stream{t: t, skipSpecial: skipSpecial, last: -1}
	switch {
	case t.byteLevel():
	case t.local():
		s.local = true
	case !t.fuses():
		s.whole = true
	case t.stripsSpace():
		s.strip = " "
	}
	return s
}

// local tells whether the text of more ids begins with that of fewer, and what an id adds
// depends on whether others come before and behind it, not on which.
func (t *Tokenizer) local() bool {
	if t.pipe.Decoder == nil {
		return true
	}
	switch t.pipe.Decoder.Type {
	case "BPEDecoder":
		return t.pieces().suffixed
	case "Fuse", "Metaspace", "Replace", "Strip", "WordPiece":
		return true
	}
	return false
}

// Pieces are the parts of the text of ids, special tokens included, each that which its id
// completes, so that characters are whole: the text of an id that ends within a character
// goes with the one that completes it, and what the last ids only begin is in none.
func (t *Tokenizer) Pieces(ids []int32) []string {
	out, held := make([]string, len(ids)), ""
	piece := func(i int, text string, whole bool) {
		if held += text; whole {
			out[i], held = held, ""
		}
	}
	s := t.Stream(false)
	if !s.whole {
		for i, id := range ids {
			text := s.Push(id)
			piece(i, text, len(s.pending) == 0)
		}
		return out
	}
	all, from := t.Decode(ids, false), 0
	for i := range ids {
		text := t.Decode(ids[:i+1], false)
		same := common(text, all)
		to := max(from, same)
		piece(i, all[from:to], !strings.HasPrefix(text[same:], "\uFFFD"))
		from = to
	}
	return out
}

// common is how many bytes of whole characters both texts begin with.
func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	for n > 0 && n < len(b) && !utf8.RuneStart(b[n]) {
		n--
	}
	return n
}

// fuses tells whether the decoder is that of SentencePiece's models: spaces for ▁, bytes for
// byte tokens, and at most a space less at the front.
func (t *Tokenizer) fuses() bool {
	if t.pipe.Decoder == nil || t.pipe.Decoder.Type != "Sequence" {
		return false
	}
	steps := t.pipe.Decoder.Decoders
	if n := len(steps); n == 4 && steps[3].Type == "Strip" && steps[3].Content == " " && steps[3].Start == 1 && steps[3].Stop == 0 {
		steps = steps[:3]
	}
	return len(steps) == 3 && steps[0].Type == "Replace" && steps[0].Pattern != nil && steps[0].Pattern.String != nil && *steps[0].Pattern.String == "▁" && steps[0].Content == " " &&
		steps[1].Type == "ByteFallback" && steps[2].Type == "Fuse"
}

// stripsSpace tells whether Decode takes one space off the front.
func (t *Tokenizer) stripsSpace() bool {
	got := []string{"▁x"}
	for _, step := range t.dec {
		got = step(got)
	}
	return len(got) == 1 && got[0] == "x"
}

// Push adds an id and returns the text that is now complete, often "".
func (s *Stream) Push(id int32) string {
	if s.skipSpecial && s.t.hidden(id) {
		return ""
	}
	switch {
	case s.local:
		return s.behind(id)
	case s.whole:
		s.ids = append(s.ids, id)
		return s.news()
	}
	b := s.t.Bytes(id)
	if len(b) > 0 && s.strip != "" {
		b = []byte(strings.TrimPrefix(string(b), s.strip))
		s.strip = ""
	}
	s.pending = append(s.pending, b...)
	n := complete(s.pending)
	text := lossy(s.pending[:n])
	s.pending = append(s.pending[:0], s.pending[n:]...)
	return text
}

// behind is what id adds behind the last one.
func (s *Stream) behind(id int32) string {
	if s.t.spelling(id) == "" {
		return ""
	}
	ids, had := []int32{id}, ""
	if s.last >= 0 {
		ids, had = []int32{s.last, id}, s.t.Decode([]int32{s.last}, false)
	}
	s.last = id
	return strings.TrimPrefix(s.t.Decode(ids, false), had)
}

// news decodes all ids and returns what the last one left as it was and was not returned yet.
func (s *Stream) news() string {
	was := s.text
	s.text = s.t.Decode(s.ids, false)
	same, from := common(was, s.text), s.sent
	s.sent = max(from, len(strings.TrimRight(s.text[:same], "\uFFFD")))
	return s.text[min(from, len(s.text)):min(s.sent, len(s.text))]
}

// Flush returns what is left, a broken character as U+FFFD.
func (s *Stream) Flush() string {
	if s.whole {
		rest := s.text[min(s.sent, len(s.text)):]
		s.sent = len(s.text)
		return rest
	}
	text := lossy(s.pending)
	s.pending = s.pending[:0]
	return text
}

// complete is the length of b without the start of a character at its end.
func complete(b []byte) int {
	for n := 1; n <= 3 && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) && brokenLen(tail) == n {
				return len(b) - n
			}
			return len(b)
		}
	}
	return len(b)
}
