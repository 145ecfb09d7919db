package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokKind uint8

const (
	tokEOF tokKind = iota
	tokData
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

type token struct {
	kind tokKind
	text string
	line int
}

func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "the end of the template"
	case tokVarEnd:
		return "}}"
	case tokBlockEnd:
		return "%}"
	case tokString:
		return strconv.Quote(t.text)
	}
	return t.text
}

// Error is a template that cannot be parsed, or an expression that failed, at
// a line of the template.
type Error struct {
	Line   int
	Msg    string
	Raised bool // by raise_exception: the template itself refuses its input
	Limit  bool // work, depth or output exceeded a limit
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Msg)
}

func errAt(line int, format string, args ...any) *Error {
	return &Error{Line: line, Msg: fmt.Sprintf(format, args...)}
}

// lexer cuts a template into tokens with trim_blocks and lstrip_blocks on.
type lexer struct {
	src       string
	pos       int
	line      int
	lineStart bool // the last tag took the end of its line
	toks      []token
}

var (
	rawBegin = regexp.MustCompile(`^\{%[-+]?\s*raw\s*(?:(-%\}\s*)|%\})`)
	rawEnd   = regexp.MustCompile(`\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}\s*|%\}\n?)`)
)

func lex(src string) ([]token, error) {
	src = strings.TrimPrefix(src, "\ufeff")
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{src: src, line: 1, lineStart: true}
	for l.pos < len(l.src) {
		if err := l.step(); err != nil {
			return nil, err
		}
	}
	l.add(tokEOF, "")
	return l.toks, nil
}

func (l *lexer) add(k tokKind, text string) { l.toks = append(l.toks, token{k, text, l.line}) }

// take moves past n bytes.
func (l *lexer) take(n int) {
	s := l.src[l.pos : l.pos+n]
	l.line += strings.Count(s, "\n")
	l.lineStart = strings.HasSuffix(s, "\n")
	l.pos += n
}

// nextTag is the offset of the next {{, {% or {#, or -1.
func (l *lexer) nextTag() int {
	for i := l.pos; ; i++ {
		j := strings.IndexByte(l.src[i:], '{')
		if j < 0 || i+j+1 >= len(l.src) {
			return -1
		}
		i += j
		if c := l.src[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
}

// step passes text and the tag after it.
func (l *lexer) step() error {
	i := l.nextTag()
	if i < 0 {
		l.data(l.src[l.pos:])
		l.pos = len(l.src)
		return nil
	}
	text, kind := l.src[l.pos:i], l.src[i+1]
	sign := byte(0)
	if i+2 < len(l.src) && (l.src[i+2] == '-' || l.src[i+2] == '+') {
		sign = l.src[i+2]
	}
	l.data(l.strip(text, sign, kind == '{'))
	l.take(len(text))
	if kind == '#' {
		return l.comment()
	}
	if m := rawBegin.FindStringSubmatch(l.src[l.pos:]); m != nil {
		return l.raw(len(m[0]))
	}
	n := 2
	if sign != 0 {
		n = 3
	}
	l.take(n)
	if kind == '{' {
		l.add(tokVarBegin, "{{")
		return l.inside(tokVarEnd, "}}")
	}
	l.add(tokBlockBegin, "{%")
	return l.inside(tokBlockEnd, "%}")
}

func (l *lexer) data(s string) {
	if s != "" {
		l.add(tokData, s)
	}
}

// strip takes white space off the text before a tag: all of it for {%-, that
// on the tag's own line for a plain block or comment tag.
func (l *lexer) strip(text string, sign byte, variable bool) string {
	switch {
	case sign == '-':
		return strings.TrimRightFunc(text, isSpace)
	case sign == '+' || variable:
		return text
	}
	start := strings.LastIndexByte(text, '\n') + 1
	if start == 0 && !l.lineStart {
		return text
	}
	if strings.TrimLeftFunc(text[start:], isSpace) == "" {
		return text[:start]
	}
	return text
}

func (l *lexer) comment() error {
	line := l.line
	n := strings.Index(l.src[l.pos+2:], "#}")
	if n < 0 {
		return errAt(line, "the comment is not closed by #}")
	}
	end := l.pos + 2 + n
	last := byte(0)
	if n > 0 {
		last = l.src[end-1]
	}
	l.take(end + 2 - l.pos + l.after(end+2, last, true))
	return nil
}

// after is how much white space a tag's end takes: all after a -, else where
// trim is set the newline.
func (l *lexer) after(at int, sign byte, trim bool) int {
	rest := l.src[at:]
	switch {
	case sign == '-':
		return len(rest) - len(strings.TrimLeftFunc(rest, isSpace))
	case trim && sign != '+' && strings.HasPrefix(rest, "\n"):
		return 1
	}
	return 0
}

func (l *lexer) raw(n int) error {
	line := l.line
	l.take(n)
	m := rawEnd.FindStringSubmatchIndex(l.src[l.pos:])
	if m == nil {
		return errAt(line, "the raw block is not closed by endraw")
	}
	text := l.src[l.pos : l.pos+m[0]]
	sign := byte(0)
	if m[3] > m[2] {
		sign = l.src[l.pos+m[2]]
	}
	l.data(l.strip(text, sign, false))
	l.take(m[1])
	return nil
}

const operators = "** // == != >= <= + - / * % ~ [ ] ( ) { } > < = . : | , ;"

var operatorList = strings.Fields(operators)

// inside reads the tokens of a tag up to its end.
func (l *lexer) inside(endKind tokKind, end string) error {
	start := l.line
	var open []byte
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		if len(open) == 0 {
			if n := l.tagEnd(rest, end); n > 0 {
				l.add(endKind, end)
				l.take(n)
				return nil
			}
		}
		if c := rest[0]; c < utf8.RuneSelf && isSpace(rune(c)) {
			l.take(1)
			continue
		}
		n, err := l.token(rest)
		if err != nil {
			return err
		}
		if open, err = l.balance(open, rest[:n]); err != nil {
			return err
		}
		l.take(n)
	}
	return errAt(start, "the tag is not closed by %s", end)
}

// tagEnd is the length of the end of a tag at rest, 0 without one.
func (l *lexer) tagEnd(rest, end string) int {
	sign := byte(0)
	n := 0
	if rest[0] == '-' || rest[0] == '+' && end == "%}" {
		sign, n = rest[0], 1
	}
	if !strings.HasPrefix(rest[n:], end) {
		return 0
	}
	n += len(end)
	return n + l.after(l.pos+n, sign, end == "%}")
}

func (l *lexer) balance(open []byte, tok string) ([]byte, error) {
	if len(tok) != 1 {
		return open, nil
	}
	switch c := tok[0]; c {
	case '(', '[', '{':
		return append(open, c), nil
	case ')', ']', '}':
		want := map[byte]byte{')': '(', ']': '[', '}': '{'}[c]
		if len(open) == 0 || open[len(open)-1] != want {
			return nil, errAt(l.line, "unexpected %q", c)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// token reads one token and returns its length.
func (l *lexer) token(rest string) (int, error) {
	c := rest[0]
	switch {
	case c == '"' || c == '\'':
		return l.stringToken(rest)
	case c >= '0' && c <= '9':
		return l.numberToken(rest)
	}
	if n := nameLen(rest); n > 0 {
		l.add(tokName, rest[:n])
		return n, nil
	}
	for _, op := range operatorList {
		if strings.HasPrefix(rest, op) {
			l.add(tokOp, op)
			return len(op), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return 0, errAt(l.line, "unexpected character %q", r)
}

func nameLen(s string) int {
	for i, r := range s {
		if r == '_' || unicode.IsLetter(r) || i > 0 && (unicode.IsDigit(r) || unicode.Is(unicode.M, r)) {
			continue
		}
		return i
	}
	return len(s)
}

var (
	floatLit = regexp.MustCompile(`^(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)`)
	intLit   = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*)`)
)

func (l *lexer) numberToken(rest string) (int, error) {
	if m := floatLit.FindString(rest); m != "" {
		l.add(tokFloat, strings.ReplaceAll(m, "_", ""))
		return len(m), nil
	}
	m := intLit.FindString(rest)
	l.add(tokInt, strings.ReplaceAll(m, "_", ""))
	return len(m), nil
}

func (l *lexer) stringToken(rest string) (int, error) {
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			s, err := unescape(rest[1:i])
			if err != nil {
				return 0, errAt(l.line, "%v", err)
			}
			l.add(tokString, s)
			return i + 1, nil
		}
	}
	return 0, errAt(l.line, "the string is not closed")
}

var simpleEscapes = map[byte]string{
	'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"",
	'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': "",
}

var hexEscapes = map[byte]int{'x': 2, 'u': 4, 'U': 8}

// unescape reads a string literal's escapes as Python does: unknown ones stay.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if e, ok := simpleEscapes[s[i]]; ok {
			b.WriteString(e)
			continue
		}
		if n, ok := hexEscapes[s[i]]; ok {
			if i+n >= len(s) {
				return "", fmt.Errorf("short escape \\%s", s[i:])
			}
			v, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32)
			if err != nil || v > unicode.MaxRune {
				return "", fmt.Errorf("bad escape \\%s", s[i:i+1+n])
			}
			b.WriteRune(rune(v))
			i += n
			continue
		}
		if n := octalLen(s[i:]); n > 0 {
			v, _ := strconv.ParseUint(s[i:i+n], 8, 16)
			b.WriteRune(rune(v))
			i += n - 1
			continue
		}
		b.WriteByte('\\')
		b.WriteByte(s[i])
	}
	return b.String(), nil
}

func octalLen(s string) int {
	n := 0
	for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	return n
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}
