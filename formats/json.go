package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep JSON of a model file may nest.
const maxDepth = 64

// member is one pair of a JSON object.
type member struct {
	Key   string
	Value any
}

// object is a JSON object in file order. Values are nil, bool, json.Number,
// string, []any or object.
type object []member

func (o object) get(key string) any {
	for _, m := range o {
		if m.Key == key {
			return m.Value
		}
	}
	return nil
}

func (o object) set(key string, v any) object {
	for i, m := range o {
		if m.Key == key {
			o[i].Value = v
			return o
		}
	}
	return append(o, member{key, v})
}

func (o object) without(key string) object {
	var out object
	for _, m := range o {
		if m.Key != key {
			out = append(out, m)
		}
	}
	return out
}

// MarshalJSON keeps the order of members.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		k, err := marshal(m.Key)
		if err != nil {
			return nil, err
		}
		v, err := marshal(m.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, k...), ':'), v...)
	}
	return append(b, '}'), nil
}

// marshal is json.Marshal without escaping <, > and &.
func marshal(v any) ([]byte, error) {
	var sb strings.Builder
	e := json.NewEncoder(&sb)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(sb.String(), "\n")), nil
}

// checkJSON reports what makes JSON from an untrusted file unsafe to decode:
// bad syntax, a key that occurs twice in one object, text that is no UTF-8,
// nesting deeper than 64, anything behind the value. where names the file. A
// leading byte order mark is accepted.
func checkJSON(where string, data []byte) error {
	p := newJSON(where, string(data))
	if err := p.skip(); err != nil {
		return err
	}
	return p.end()
}

// parseJSON decodes a whole file strictly, see checkJSON.
func parseJSON(where string, data []byte) (any, error) {
	p := newJSON(where, string(data))
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	return v, p.end()
}

// parseObject is parseJSON for a file that must hold an object.
func parseObject(where string, data []byte) (object, error) {
	v, err := parseJSON(where, data)
	if err != nil {
		return nil, err
	}
	o, ok := v.(object)
	if !ok {
		return nil, corrupt(where, "found %s, expected a JSON object", kindOf(v))
	}
	return o, nil
}

// FiniteJSON is JSON with what Python writes for infinite numbers, the bare words
// Infinity and -Infinity, as Transformers 5 states them: {"__float__": "Infinity"}.
// Text in quotes stays as it is.
func FiniteJSON(b []byte) []byte {
	return bareWords(b, func(word string) string {
		if word == "NaN" {
			return word
		}
		return fmt.Sprintf(`{"__float__": %q}`, word)
	})
}

// NullJSON is JSON with null for the numbers that JSON has not and Python writes: NaN,
// Infinity and -Infinity. Text in quotes stays as it is.
func NullJSON(b []byte) []byte { return bareWords(b, func(string) string { return "null" }) }

// bareWords replaces the words that Python writes for numbers without digits.
func bareWords(b []byte, by func(word string) string) []byte {
	var out []byte
	quoted, from := false, 0
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			quoted = !quoted
		case quoted && b[i] == '\\':
			i++
		case !quoted && (b[i] == 'I' || b[i] == '-' || b[i] == 'N'):
			for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
				if bytes.HasPrefix(b[i:], []byte(word)) {
					out = append(append(out, b[from:i]...), by(word)...)
					i += len(word) - 1
					from = i + 1
					break
				}
			}
		}
	}
	if from == 0 {
		return b
	}
	return append(out, b[from:]...)
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array"
	}
	return "an object"
}

// jsonParser is a strict parser that walks s once; strings without escapes
// share its memory.
type jsonParser struct {
	where string
	s     string
	i     int
	depth int
}

func newJSON(where, s string) *jsonParser {
	return &jsonParser{where: where, s: strings.TrimPrefix(s, "\ufeff")}
}

func (p *jsonParser) errorf(format string, args ...any) error {
	return corrupt(p.where, "JSON byte %d: "+format, append([]any{p.i}, args...)...)
}

func (p *jsonParser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\r', '\n':
			p.i++
		default:
			return
		}
	}
}

// peek is the next byte that is no white space, 0 at the end.
func (p *jsonParser) peek() byte {
	p.space()
	if p.i == len(p.s) {
		return 0
	}
	return p.s[p.i]
}

func (p *jsonParser) expect(c byte) error {
	if got := p.peek(); got != c {
		if p.i == len(p.s) {
			return p.errorf("it ends where %q is expected", c)
		}
		return p.errorf("found %q, expected %q", got, c)
	}
	p.i++
	return nil
}

func (p *jsonParser) end() error {
	if p.peek() != 0 || p.i != len(p.s) {
		return p.errorf("%d bytes follow the value", len(p.s)-p.i)
	}
	return nil
}

func (p *jsonParser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return p.errorf("nested deeper than %d", maxDepth)
	}
	return nil
}

// object calls f for every key; f consumes the value. A key that occurs twice
// is an error.
func (p *jsonParser) object(f func(key string) error) error {
	if err := p.expect('{'); err != nil {
		return err
	}
	if err := p.enter(); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	if p.peek() == '}' {
		p.i++
		return nil
	}
	var seen keySet
	for {
		key, err := p.str()
		if err != nil {
			return err
		}
		if !seen.add(key) {
			return p.errorf("key %s occurs twice", quote(key))
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		if err := f(key); err != nil {
			return err
		}
		if p.peek() == '}' {
			p.i++
			return nil
		}
		if err := p.expect(','); err != nil {
			return err
		}
	}
}

// keySet is a set that costs nothing for small objects.
type keySet struct {
	few  [8]string
	n    int
	many map[string]struct{}
}

func (k *keySet) add(s string) bool {
	if k.many != nil {
		before := len(k.many)
		k.many[s] = struct{}{}
		return len(k.many) > before
	}
	for _, t := range k.few[:k.n] {
		if s == t {
			return false
		}
	}
	if k.n < len(k.few) {
		k.few[k.n] = s
		k.n++
		return true
	}
	k.many = map[string]struct{}{s: {}}
	for _, t := range k.few {
		k.many[t] = struct{}{}
	}
	return true
}

// array calls f for every element; f consumes it.
func (p *jsonParser) array(f func(i int) error) error {
	if err := p.expect('['); err != nil {
		return err
	}
	if err := p.enter(); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	if p.peek() == ']' {
		p.i++
		return nil
	}
	for i := 0; ; i++ {
		if err := f(i); err != nil {
			return err
		}
		if p.peek() == ']' {
			p.i++
			return nil
		}
		if err := p.expect(','); err != nil {
			return err
		}
	}
}

// str reads a string.
func (p *jsonParser) str() (string, error) {
	if err := p.expect('"'); err != nil {
		return "", err
	}
	start := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			out := p.s[start:p.i]
			if !utf8.ValidString(out) {
				return "", p.errorf("a string is no valid UTF-8")
			}
			p.i++
			return out, nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.errorf("a string holds the control character %#02x", c)
		}
		p.i++
	}
	return "", p.errorf("a string has no end")
}

// escaped goes on with a string that began at start and has an escape at p.i.
func (p *jsonParser) escaped(start int) (string, error) {
	b := []byte(p.s[start:p.i])
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return "", p.errorf("a string is no valid UTF-8")
			}
			return string(b), nil
		case c < 0x20:
			return "", p.errorf("a string holds the control character %#02x", c)
		case c != '\\':
			b = append(b, c)
		default:
			var err error
			if b, err = p.escape(b); err != nil {
				return "", err
			}
		}
	}
	return "", p.errorf("a string has no end")
}

const escapes = `"\/bfnrt`
const escaped = "\"\\/\b\f\n\r\t"

// escape appends what stands behind a backslash.
func (p *jsonParser) escape(b []byte) ([]byte, error) {
	if p.i == len(p.s) {
		return nil, p.errorf("a string has no end")
	}
	c := p.s[p.i]
	p.i++
	if k := strings.IndexByte(escapes, c); k >= 0 {
		return append(b, escaped[k]), nil
	}
	if c != 'u' {
		return nil, p.errorf("unknown escape \\%c", c)
	}
	r, err := p.hex4()
	if err != nil {
		return nil, err
	}
	if utf16.IsSurrogate(r) {
		if !strings.HasPrefix(p.s[p.i:], `\u`) {
			return nil, p.errorf("half a surrogate pair")
		}
		p.i += 2
		low, err := p.hex4()
		if err != nil {
			return nil, err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return nil, p.errorf("half a surrogate pair")
		}
	}
	return utf8.AppendRune(b, r), nil
}

func (p *jsonParser) hex4() (rune, error) {
	if len(p.s)-p.i < 4 {
		return 0, p.errorf("a string has no end")
	}
	v, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 16)
	if err != nil {
		return 0, p.errorf("\\u%s is no code", quote(p.s[p.i:p.i+4]))
	}
	p.i += 4
	return rune(v), nil
}

// number reads a number and returns its text.
func (p *jsonParser) number() (string, error) {
	p.space()
	start := p.i
	digits := func() bool {
		from := p.i
		for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
			p.i++
		}
		return p.i > from
	}
	take := func(set string) bool {
		if p.i < len(p.s) && strings.IndexByte(set, p.s[p.i]) >= 0 {
			p.i++
			return true
		}
		return false
	}
	take("-")
	first := p.i
	ok := digits() && (p.s[first] != '0' || p.i == first+1)
	if ok && take(".") {
		ok = digits()
	}
	if ok && take("eE") {
		take("+-")
		ok = digits()
	}
	if !ok {
		return "", p.errorf("no valid number")
	}
	return p.s[start:p.i], nil
}

// size reads a number that must be a whole one from 0 to 2^63-1, written plain.
func (p *jsonParser) size() (int64, error) {
	text, err := p.number()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil || v > math.MaxInt64 {
		return 0, p.errorf("%s is no size: a whole number from 0 to 2^63-1 is expected", quote(text))
	}
	return int64(v), nil
}

func (p *jsonParser) word(w string) error {
	if !strings.HasPrefix(p.s[p.i:], w) {
		return p.errorf("found %s, expected a value", quote(p.s[p.i:min(p.i+10, len(p.s))]))
	}
	p.i += len(w)
	return nil
}

// value reads any value into memory.
func (p *jsonParser) value() (any, error) {
	switch p.peek() {
	case '{':
		o := object{}
		err := p.object(func(key string) error {
			v, err := p.value()
			o = append(o, member{key, v})
			return err
		})
		return o, err
	case '[':
		a := []any{}
		err := p.array(func(int) error {
			v, err := p.value()
			a = append(a, v)
			return err
		})
		return a, err
	case '"':
		return p.str()
	case 't':
		return true, p.word("true")
	case 'f':
		return false, p.word("false")
	case 'n':
		return nil, p.word("null")
	}
	n, err := p.number()
	return json.Number(n), err
}

// skip checks any value and drops it.
func (p *jsonParser) skip() error {
	switch p.peek() {
	case '{':
		return p.object(func(string) error { return p.skip() })
	case '[':
		return p.array(func(int) error { return p.skip() })
	}
	_, err := p.value()
	return err
}
