package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// component is one normalizer, pre-tokenizer, post-processor or decoder of
// tokenizer.json: the fields of all of them.
type component struct {
	Type             string
	Normalizers      []component
	Pretokenizers    []component
	Processors       []component
	Decoders         []component
	Pattern          *pattern
	Behavior         string
	Invert           bool
	AddPrefixSpace   *bool `json:"add_prefix_space"`
	UseRegex         *bool `json:"use_regex"`
	IndividualDigits bool  `json:"individual_digits"`
	Replacement      string
	PrependScheme    string `json:"prepend_scheme"`
	Split            *bool
	Content          string
	Prepend          string
	Start            int
	Stop             int
	StripLeft        bool `json:"strip_left"`
	StripRight       bool `json:"strip_right"`
	Delimiter        string
	Single           []templatePiece
	SpecialTokens    map[string]struct{ IDs []int32 } `json:"special_tokens"`
	Cls, Sep         []any
	Charsmap         []byte `json:"precompiled_charsmap"` // base64
	CleanText        *bool  `json:"clean_text"`
	HandleChinese    *bool  `json:"handle_chinese_chars"`
	StripAccents     *bool  `json:"strip_accents"`
	Lowercase        *bool
	Prefix           *string
	Suffix           *string
	Cleanup          *bool
	PadToken         *string `json:"pad_token"`
	WordDelimiter    *string `json:"word_delimiter_token"`
	Length           *int
}

type pattern struct{ String, Regex *string }

type templatePiece struct {
	SpecialToken *struct{ ID string }
	Sequence     *struct{ ID string }
}

// scheme is when Metaspace and its decoder write a mark before the text.
func (c *component) scheme() string {
	switch {
	case c.PrependScheme != "":
		return c.PrependScheme
	case c.AddPrefixSpace != nil && !*c.AddPrefixSpace:
		return "never"
	}
	return "always"
}

// pipeline is everything around the model: the parsed components and their
// JSON.
type pipeline struct {
	Normalizer, Pre, Post, Decoder *component
	text                           [4]json.RawMessage // in the same order, "null" without
}

var pipelineKeys = [4]string{"normalizer", "pre_tokenizer", "post_processor", "decoder"}

// set parses one of the components; i is its place in pipelineKeys.
func (p *pipeline) set(i int, raw []byte) error {
	p.text[i] = slices.Clone(raw)
	if string(raw) == "null" {
		return nil
	}
	c := &component{}
	if err := json.Unmarshal(raw, c); err != nil {
		return fmt.Errorf("%s: %w", pipelineKeys[i], err)
	}
	*[]**component{&p.Normalizer, &p.Pre, &p.Post, &p.Decoder}[i] = c
	return nil
}

// describe is the pipeline as one string.
func (p *pipeline) describe() string {
	var b strings.Builder
	for i, raw := range p.text {
		fmt.Fprintf(&b, "%s=%s\n", pipelineKeys[i], raw)
	}
	return b.String()
}

// compile builds the working parts from the pipeline.
func (t *Tokenizer) compile() error {
	if c := t.pipe.Normalizer; c != nil {
		n, err := compileNormalizer(c)
		if err != nil {
			return fmt.Errorf("normalizer: %w", err)
		}
		t.norm = n
	}
	if err := t.compilePre(); err != nil {
		return fmt.Errorf("pre_tokenizer: %w", err)
	}
	if c := t.pipe.Post; c != nil {
		if err := t.compilePost(c); err != nil {
			return fmt.Errorf("post_processor: %w", err)
		}
	}
	if c := t.pipe.Decoder; c != nil {
		d, err := compileDecoder(c)
		if err != nil {
			return fmt.Errorf("decoder: %w", err)
		}
		t.dec = d
	}
	if err := t.indexAdded(); err != nil {
		return fmt.Errorf("normalizer: %w", err)
	}
	return nil
}

func (t *Tokenizer) indexAdded() error {
	t.raw, t.normed, t.shown = newAddedTrie(), newAddedTrie(), map[int32]string{}
	for _, a := range t.added {
		if !a.Normalized {
			t.raw.add(a.Content, a)
			continue
		}
		s, err := t.normalize(a.Content)
		if err != nil {
			return err
		}
		t.normed.add(s, a)
		if s != a.Content {
			t.shown[a.ID] = s
		}
	}
	return nil
}

func (t *Tokenizer) compilePre() error {
	if c := t.pipe.Pre; c != nil {
		pre, err := compilePre(c)
		if err != nil {
			return err
		}
		t.pre = pre
	}
	m, ok := t.model.(*bpe)
	if !ok {
		return nil
	}
	if n := len(t.pre) - 1; n >= 0 && t.pre[n] == splitter(byteSpeller{}) {
		t.pre, m.byteLevel = t.pre[:n], true // the model takes bytes as they are
	}
	t.setBytes(m)
	if _, ok := t.ids["▁"]; ok && m.cuttable() {
		t.pre = append(t.pre, cutSplitter{newCuts(t.vocab)})
	}
	return nil
}

// setBytes finds the token of every byte.
func (t *Tokenizer) setBytes(m *bpe) {
	for b := range 256 {
		m.bytes[b], m.fallen[b] = -1, -1
		if id, ok := m.find(string(byteRune[b])); ok {
			m.bytes[b] = id
		}
		if id, ok := m.find(fmt.Sprintf("<0x%02X>", b)); ok {
			m.fallen[b] = id
		}
	}
}

const knownNormalizers = "BertNormalizer, ByteLevel, Lowercase, NFC, NFD, NFKC, NFKD, Nmt, Precompiled, Prepend, Replace, Sequence, Strip, StripAccents"

// normalizer rewrites a text.
type normalizer struct {
	apply func(string) string
	most  func(string) int // bytes that apply may make; nil: not many times those there are

	// beheads tells whether the first character of a text goes; nil: where alone it becomes nothing.
	beheads func(string) bool
}

// growth is how many times longer normalizers may make a text, beside some room: a
// letter becomes eighteen by NFKD at most, and a file could double it forty times.
const growth, growthRoom = 20, 1 << 20

// normalize rewrites a text by all normalizers.
func (t *Tokenizer) normalize(s string) (string, error) {
	s, _, err := t.normalized(s)
	return s, err
}

// normalized is normalize, and tells whether the text's first character is gone: a later one
// does not begin the text for Metaspace.
func (t *Tokenizer) normalized(s string) (_ string, headless bool, err error) {
	most := growth*len(s) + growthRoom
	for _, n := range t.norm {
		headless = headless || n.behead(s)
		if n.most != nil && n.most(s) > most {
			return "", false, fmt.Errorf("its normalizers would make more than %d bytes of a text of %d", most, len(s))
		}
		if s = n.apply(s); len(s) > most {
			return "", false, fmt.Errorf("its normalizers make %d bytes of a text, allowed are %d", len(s), most)
		}
	}
	return s, headless, nil
}

// behead tells whether the first character of a text goes.
func (n normalizer) behead(s string) bool {
	if n.beheads != nil {
		return n.beheads(s)
	}
	_, first := utf8.DecodeRuneInString(s)
	return first > 0 && n.apply(s[:first]) == ""
}

func compileNormalizer(c *component) ([]normalizer, error) {
	one := func(f func(string) string) ([]normalizer, error) { return []normalizer{{apply: f}}, nil }
	switch c.Type {
	case "Sequence":
		var out []normalizer
		for i := range c.Normalizers {
			n, err := compileNormalizer(&c.Normalizers[i])
			if err != nil {
				return nil, err
			}
			out = append(out, n...)
		}
		return out, nil
	case "NFC":
		return one(formed(norm.NFC))
	case "NFD":
		return one(formed(norm.NFD))
	case "NFKC":
		return one(formed(norm.NFKC))
	case "NFKD":
		return one(formed(norm.NFKD))
	case "Lowercase":
		return one(lowercase)
	case "ByteLevel":
		return one(byteSpelled)
	case "BertNormalizer":
		return bertNormalizers(c), nil
	case "Nmt":
		return one(nmt)
	case "Precompiled":
		m, err := parseCharsmap(c.Charsmap)
		if err != nil {
			return nil, err
		}
		return []normalizer{m.normalizer()}, nil
	case "StripAccents":
		return one(func(s string) string { return without(isAccent, s) })
	case "Prepend":
		return one(func(s string) string {
			if s == "" {
				return s
			}
			return c.Prepend + s
		})
	case "Strip":
		strip := func(s string) string {
			if c.StripLeft {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if c.StripRight {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}
		return []normalizer{{apply: strip, beheads: func(s string) bool { return c.StripLeft && strings.TrimLeftFunc(s, unicode.IsSpace) != s }}}, nil
	case "Replace":
		n, err := compileReplace(c)
		return []normalizer{n}, err
	}
	return nil, fmt.Errorf("type %q is not supported (known: %s)", clip(c.Type), knownNormalizers)
}

// nmt drops control characters and writes a space for other marks without a form.
func nmt(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 1 && r <= 8 || r == 0x0b || r >= 0x0e && r <= 0x1f || r == 0x7f || r == 0x8f || r == 0x9f:
			return -1
		case r == '\t' || r == '\n' || r == '\f' || r == '\r' || r == 0x1680 || r >= 0x200b && r <= 0x200f || r == 0x2028 || r == 0x2029 || r == 0x2581 || r == 0xfeff || r == 0xfffd:
			return ' '
		}
		return r
	}, s)
}

// without drops characters.
func without(drop func(rune) bool, s string) string {
	return strings.Map(func(r rune) rune {
		if drop(r) {
			return -1
		}
		return r
	}, s)
}

// byteSpelled is s in GPT-2's spelling of its bytes.
func byteSpelled(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(byteRune[s[i]])
	}
	return b.String()
}

func compileReplace(c *component) (normalizer, error) {
	switch {
	case c.Pattern != nil && c.Pattern.String != nil:
		from := *c.Pattern.String
		if from == "" {
			return normalizer{}, fmt.Errorf("Replace has an empty pattern")
		}
		return normalizer{
			apply: func(s string) string { return strings.ReplaceAll(s, from, c.Content) },
			most:  func(s string) int { return len(s) + strings.Count(s, from)*len(c.Content) },

			beheads: func(s string) bool { return strings.HasPrefix(s, from) && c.takes(from) },
		}, nil
	case c.Pattern != nil && c.Pattern.Regex != nil:
		re, err := compilePattern(*c.Pattern.Regex)
		if err != nil {
			return normalizer{}, err
		}
		r := &regexSplitter{re: re}
		return normalizer{
			apply: func(s string) string { return r.replace(s, c.Content) },
			most: func(s string) (n int) {
				if len(c.Content) < growth { // a match has a letter or lies between two
					return 0
				}
				for _, p := range r.matches(s) {
					if n += p.hi - p.lo; p.match {
						n += len(c.Content)
					}
				}
				return n
			},
			beheads: func(s string) bool {
				for _, p := range r.matches(s) {
					if p.hi > 0 {
						return p.match && c.takes(s[:p.hi])
					}
				}
				return false
			},
		}, nil
	}
	return normalizer{}, fmt.Errorf("Replace has no pattern")
}

// takes tells whether a Replace takes the first character of a match away: what it writes
// counts as the match's last character.
func (c *component) takes(match string) bool {
	return c.Content == "" || utf8.RuneCountInString(match) > 1
}

// replace writes with for every match.
func (r *regexSplitter) replace(s, with string) string {
	var b strings.Builder
	for _, p := range r.matches(s) {
		if p.match {
			b.WriteString(with)
		} else {
			b.WriteString(s[p.lo:p.hi])
		}
	}
	return b.String()
}

const knownPre = "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, FixedLength, Metaspace, Punctuation, Sequence, Split, Whitespace, WhitespaceSplit"

// compilePre translates a pre-tokenizer.
func compilePre(c *component) ([]splitter, error) {
	one := func(s splitter, err error) ([]splitter, error) { return []splitter{s}, err }
	switch c.Type {
	case "Sequence":
		var out []splitter
		for i := range c.Pretokenizers {
			s, err := compilePre(&c.Pretokenizers[i])
			if err != nil {
				return nil, err
			}
			out = append(out, s...)
		}
		return out, nil
	case "ByteLevel":
		var out []splitter
		if c.AddPrefixSpace == nil || *c.AddPrefixSpace {
			out = append(out, spacePrefix{})
		}
		if c.UseRegex == nil || *c.UseRegex {
			out = append(out, gpt2Splitter{})
		}
		return append(out, byteSpeller{}), nil
	case "Split":
		return one(compileSplit(c))
	case "Digits":
		if c.IndividualDigits {
			return one(digitSplitter{max: 1, rust: true}, nil)
		}
		return one(digitSplitter{max: 1 << 30, rust: true}, nil)
	case "Punctuation":
		if c.Behavior == "" {
			c.Behavior = "Isolated"
		}
		return one(charSplitter{isPunctuation, c.Behavior}, nil)
	case "Whitespace":
		return one(wordSplitter{}, nil)
	case "FixedLength":
		n := 5
		if c.Length != nil {
			n = *c.Length
		}
		if n < 1 {
			return nil, fmt.Errorf("FixedLength has length %d, want 1 or more", n)
		}
		return one(lengthSplitter{n}, nil)
	case "BertPreTokenizer":
		return []splitter{charSplitter{unicode.IsSpace, "Removed"}, charSplitter{isPunctuation, "Isolated"}}, nil
	case "WhitespaceSplit":
		return one(charSplitter{unicode.IsSpace, "Removed"}, nil)
	case "CharDelimiterSplit":
		return one(literalSplitter{sep: c.Delimiter, behavior: "Removed"}, nil)
	case "Metaspace":
		return one(metaspace{c.Replacement, c.scheme(), c.Split == nil || *c.Split}, nil)
	}
	return nil, fmt.Errorf("type %q is not supported (known: %s)", clip(c.Type), knownPre)
}

func compileSplit(c *component) (splitter, error) {
	switch {
	case c.Pattern != nil && c.Pattern.Regex != nil && c.Behavior == "Isolated" && !c.Invert:
		return newPatternSplitter(*c.Pattern.Regex)
	case c.Pattern != nil && c.Pattern.Regex != nil && c.Behavior == "Removed" && c.Invert:
		// Leaves the matches alone; the same where the pattern covers every text.
		return newCoveringSplitter(*c.Pattern.Regex)
	case c.Pattern != nil && c.Pattern.Regex != nil:
		return newRegexSplitter(*c.Pattern.Regex, c.Behavior, c.Invert)
	case c.Pattern != nil && c.Pattern.String != nil:
		if _, err := newBehavior(&regexSplitter{behavior: c.Behavior}); err != nil {
			return nil, err
		}
		return literalSplitter{*c.Pattern.String, c.Behavior, c.Invert}, nil
	}
	return nil, fmt.Errorf("Split has no pattern")
}

// newCoveringSplitter is for Split with Removed and invert, which keeps only
// the matches: the known patterns match everything there is.
func newCoveringSplitter(p string) (splitter, error) {
	switch p {
	case llama3Pattern, qwen2Pattern, gpt2Pattern:
		return newPatternSplitter(p)
	}
	return newRegexSplitter(p, "Removed", true)
}

// compilePost finds what special puts before and after a text.
func (t *Tokenizer) compilePost(c *component) error {
	switch c.Type {
	case "ByteLevel": // moves offsets only
		return nil
	case "Sequence":
		for i := range c.Processors {
			if err := t.compilePost(&c.Processors[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if t.before != nil || t.after != nil {
		return fmt.Errorf("%s behind another that adds tokens is not supported", clip(c.Type))
	}
	switch c.Type {
	case "TemplateProcessing":
		return t.compileTemplate(c)
	case "BertProcessing", "RobertaProcessing":
		return t.around(pairID(c.Cls), pairID(c.Sep))
	}
	return fmt.Errorf("type %q is not supported (known: BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing)", clip(c.Type))
}

// pairID is the id of a ["token", id] pair, -1 when it is none.
func pairID(p []any) int32 {
	if len(p) == 2 {
		if f, ok := p[1].(float64); ok && f >= 0 && f < 1<<31 {
			return int32(f)
		}
	}
	return -1
}

// around puts one id before a text and one after it.
func (t *Tokenizer) around(before, after int32) error {
	for _, id := range []int32{before, after} {
		if id < 0 || int(id) >= len(t.vocab) {
			return fmt.Errorf("id %d lies outside the vocabulary of %d", id, len(t.vocab))
		}
	}
	t.before, t.after = []int32{before}, []int32{after}
	return nil
}

func (t *Tokenizer) compileTemplate(c *component) error {
	var before, after []int32
	seen := false
	for _, p := range c.Single {
		switch {
		case p.Sequence != nil && !seen:
			seen = true
		case p.SpecialToken != nil:
			ids, err := t.templateIDs(c, p.SpecialToken.ID)
			if err != nil {
				return err
			}
			if seen {
				after = append(after, ids...)
			} else {
				before = append(before, ids...)
			}
		default:
			return fmt.Errorf("the single template has more than one sequence")
		}
	}
	if !seen {
		return fmt.Errorf("the single template has no sequence")
	}
	t.before, t.after = before, after
	return nil
}

func (t *Tokenizer) templateIDs(c *component, name string) ([]int32, error) {
	s, ok := c.SpecialTokens[name]
	if !ok {
		return nil, fmt.Errorf("special token %q of the single template is not defined", clip(name))
	}
	for _, id := range s.IDs {
		if id < 0 || int(id) >= len(t.vocab) {
			return nil, fmt.Errorf("special token %q: id %d lies outside the vocabulary of %d", clip(name), id, len(t.vocab))
		}
	}
	return s.IDs, nil
}
