package tokenizer

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxTokenizerDepth bounds the nesting of tokenizer.json.
const maxTokenizerDepth = 64

// jsonScan walks JSON in place: tokenizer.json holds hundreds of thousands of
// strings, which a general decoder is slow at.
type jsonScan struct {
	data []byte
	pos  int
	buf  []byte // the last string with escapes
}

func (s *jsonScan) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", s.pos, fmt.Sprintf(format, args...))
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *jsonScan) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *jsonScan) expect(c byte) error {
	if got := s.peek(); got != c {
		return s.errorf("found %s, want %q", describeByte(got), c)
	}
	s.pos++
	return nil
}

func describeByte(c byte) string {
	if c == 0 {
		return "the end"
	}
	return strconv.QuoteRune(rune(c))
}

// object calls f at the value of every key.
func (s *jsonScan) object(f func(key string) error) error {
	return s.list('{', '}', func() error {
		key, err := s.str()
		if err != nil {
			return err
		}
		k := string(key)
		if err := s.expect(':'); err != nil {
			return err
		}
		return f(k)
	})
}

// array calls f at every element.
func (s *jsonScan) array(f func() error) error { return s.list('[', ']', f) }

func (s *jsonScan) list(open, end byte, f func() error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	if s.peek() == end {
		s.pos++
		return nil
	}
	for {
		if err := f(); err != nil {
			return err
		}
		switch c := s.peek(); c {
		case ',':
			s.pos++
		case end:
			s.pos++
			return nil
		default:
			return s.errorf("found %s in a list", describeByte(c))
		}
	}
}

// str reads a string; the result is valid until the next call.
func (s *jsonScan) str() ([]byte, error) {
	if err := s.expect('"'); err != nil {
		return nil, err
	}
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], nil
		case c == '\\':
			return s.escaped(start)
		case c < 0x20:
			return nil, s.errorf("control character in a string")
		}
		s.pos++
	}
	return nil, s.errorf("unterminated string")
}

func (s *jsonScan) escaped(start int) ([]byte, error) {
	s.buf = append(s.buf[:0], s.data[start:s.pos]...)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		s.pos++
		switch {
		case c == '"':
			return s.buf, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, s.errorf("control character in a string")
		default:
			s.buf = append(s.buf, c)
		}
	}
	return nil, s.errorf("unterminated string")
}

func (s *jsonScan) escape() error {
	if s.pos >= len(s.data) {
		return s.errorf("unterminated string")
	}
	c := s.data[s.pos]
	s.pos++
	if c == 'u' {
		return s.unicodeEscape()
	}
	i := bytes.IndexByte([]byte(`"\/bfnrt`), c)
	if i < 0 {
		return s.errorf("unknown escape \\%c", c)
	}
	s.buf = append(s.buf, "\"\\/\b\f\n\r\t"[i])
	return nil
}

func (s *jsonScan) unicodeEscape() error {
	r, err := s.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		if !bytes.HasPrefix(s.data[s.pos:], []byte(`\u`)) {
			return s.errorf("lone surrogate \\u%04x", r)
		}
		s.pos += 2
		low, err := s.hex4()
		if err != nil {
			return err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return s.errorf("lone surrogate")
		}
	}
	s.buf = utf8.AppendRune(s.buf, r)
	return nil
}

func (s *jsonScan) hex4() (rune, error) {
	if s.pos+4 > len(s.data) {
		return 0, s.errorf("short \\u escape")
	}
	n, err := strconv.ParseUint(string(s.data[s.pos:s.pos+4]), 16, 16)
	if err != nil {
		return 0, s.errorf("bad \\u escape")
	}
	s.pos += 4
	return rune(n), nil
}

// scalar reads a number, true, false or null as text.
func (s *jsonScan) scalar() ([]byte, error) {
	s.peek()
	start := s.pos
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c == ',' || c == ']' || c == '}' || c <= ' ' {
			break
		}
		s.pos++
	}
	if s.pos == start {
		return nil, s.errorf("a value is missing")
	}
	return s.data[start:s.pos], nil
}

// int32 reads a whole number ≥ 0.
func (s *jsonScan) id() (int32, error) {
	b, err := s.scalar()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(b), 10, 31)
	if err != nil {
		return 0, s.errorf("%q is no token id", clip(string(b)))
	}
	return int32(n), nil
}

func (s *jsonScan) float() (float64, error) {
	b, err := s.scalar()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return 0, s.errorf("%q is no number", clip(string(b)))
	}
	return serdeFloat(b, f), nil
}

// serdeFloat is the number b, whose nearest float64 is f, as the reference's JSON reader has it:
// up to 19 digits or so as a whole number, and then one division or product, which may be one
// bit off. Sums of such scores decide between ways to cut a word that are as good.
func serdeFloat(b []byte, f float64) float64 {
	digits, exponent, point := uint64(0), 0, false
	for i, c := range b {
		switch {
		case c == '-' && i == 0:
		case c == '.':
			point = true
		case c == 'e' || c == 'E':
			n, err := strconv.Atoi(string(b[i+1:]))
			if err != nil {
				return f
			}
			return serdeScaled(digits, exponent+n, f)
		case c < '0' || c > '9':
			return f
		case digits > (math.MaxUint64-uint64(c-'0'))/10:
			if !point {
				return f
			}
			// further digits of a fraction are passed over
		default:
			digits = 10*digits + uint64(c-'0')
			if point {
				exponent--
			}
		}
	}
	return serdeScaled(digits, exponent, f)
}

// serdeScaled is digits · 10^exponent with the sign of f; f where that is not one operation.
func serdeScaled(digits uint64, exponent int, f float64) float64 {
	x := float64(digits)
	switch {
	case exponent < -308 || exponent > 308:
		return f
	case exponent < 0:
		x /= math.Pow10(-exponent)
	default:
		x *= math.Pow10(exponent)
	}
	return math.Copysign(x, f)
}

// skip passes one value and returns its text.
func (s *jsonScan) skip(depth int) ([]byte, error) {
	if depth > maxTokenizerDepth {
		return nil, s.errorf("nested deeper than %d", maxTokenizerDepth)
	}
	c := s.peek()
	start := s.pos
	var err error
	switch c {
	case '"':
		_, err = s.str()
	case '{':
		err = s.list('{', '}', func() error {
			if _, err := s.str(); err != nil {
				return err
			}
			if err := s.expect(':'); err != nil {
				return err
			}
			_, err := s.skip(depth + 1)
			return err
		})
	case '[':
		err = s.array(func() error { _, err := s.skip(depth + 1); return err })
	default:
		_, err = s.scalar()
	}
	return s.data[start:s.pos], err
}

// clip shortens what an error quotes.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
