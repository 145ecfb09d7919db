package rows

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

var utf8BOM = []byte("\xef\xbb\xbf")

// errUTF16 is about a file in the encoding that some programs of Windows save tables in.
var errUTF16 = errors.New("the text is UTF-16; convert it to UTF-8")

func isUTF16(b []byte) bool {
	return bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff"))
}

// validText takes a byte order mark off and checks the encoding.
func validText(b []byte) (string, error) {
	b = bytes.TrimPrefix(b, utf8BOM)
	if isUTF16(b) {
		return "", errUTF16
	}
	if !utf8.Valid(b) {
		return "", errors.New("the text is not UTF-8")
	}
	return string(b), nil
}

// parseRow is ParseJSON of an object.
func parseRow(b []byte) (*jinja.Dict, error) {
	v, err := ParseJSON(b)
	if err != nil {
		return nil, err
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, fmt.Errorf("a row is a JSON object, not %s", KindOf(v))
	}
	return d, nil
}

// ParseJSON reads one JSON value strictly: UTF-8, no duplicate keys, no half of a
// surrogate pair, nothing after it. Values are those of jinja.ParseJSON.
func ParseJSON(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if err := checkJSON(b); err != nil {
		return nil, err
	}
	v, err := jinja.ParseJSON(b)
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return v, nil
}

// checkJSON finds what encoding/json lets pass: duplicate keys of an object
// and lone surrogates in \u escapes, and more values than a row may have, each of
// which takes more memory than the text that says it. Anything else it leaves to the
// parser.
func checkJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var open []map[string]bool // of objects; nil for arrays
	key := false               // the next string is a key of the innermost object
	var row budget
	for {
		at := dec.InputOffset()
		tok, err := dec.Token()
		if err != nil {
			return nil //nolint:nilerr // the parser reports it
		}
		if err := row.value(); err != nil { // keys and ends count, too
			return err
		}
		if s, ok := tok.(string); ok {
			if err := checkSurrogates(b[at:dec.InputOffset()]); err != nil {
				return err
			}
			if key {
				seen := open[len(open)-1]
				if seen[s] {
					return fmt.Errorf("key %q occurs twice in one object", s)
				}
				seen[s], key = true, false
				continue
			}
		}
		switch tok {
		case json.Delim('{'):
			open = append(open, map[string]bool{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > 200 {
			return errors.New("nested deeper than 200")
		}
		key = len(open) > 0 && open[len(open)-1] != nil
	}
}

// checkSurrogates looks at the \u escapes of a JSON string's raw bytes.
func checkSurrogates(raw []byte) error {
	for i := 0; i+1 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		u, ok := escape(raw[i:])
		if !ok {
			i++ // the escaped byte
			continue
		}
		if u >= 0xd800 && u < 0xdc00 {
			if low, ok := escape(raw[i+6:]); ok && low >= 0xdc00 && low < 0xe000 {
				i += 11
				continue
			}
		}
		if u >= 0xd800 && u < 0xe000 {
			return fmt.Errorf("\\u%04x is half of a surrogate pair", u)
		}
		i += 5
	}
	return nil
}

// escape reads \uXXXX at the start of b.
func escape(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var u rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			u = u<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			u = u<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return u, true
}

// KindOf names the kind of a row's value, for messages: "a number", "text".
func KindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int64, float64, jinja.BigInt:
		return "a number"
	case string:
		return "text"
	case []byte:
		return "binary"
	case []any:
		return "a list"
	case *jinja.Dict:
		return "an object"
	}
	return fmt.Sprintf("%T", v)
}

// Shown is a row's value for messages: numbers and the beginning of a text as they are, else the kind.
func Shown(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) > 40 {
			v = strings.ToValidUTF8(v[:40], "") + "…"
		}
		return fmt.Sprintf("the text %q", v)
	case int64, jinja.BigInt:
		return fmt.Sprint(v)
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s
	}
	return KindOf(v)
}

// jsonl reads one object a line; blank lines are skipped but counted.
type jsonl struct {
	f    io.Closer
	r    *bufio.Reader
	line int64
	buf  []byte
}

func openJSONL(t *Text) (Reader, error) { return newJSONL(t, t), nil }

func newJSONL(r io.Reader, c io.Closer) *jsonl {
	return &jsonl{f: c, r: bufio.NewReaderSize(r, 1<<16)}
}

func (j *jsonl) Next() (*jinja.Dict, int64, error) {
	for {
		line, err := j.readLine()
		if err != nil {
			return nil, j.line, err
		}
		if j.line == 1 {
			line = bytes.TrimPrefix(line, utf8BOM)
		}
		line = formats.NullJSON(bytes.TrimSpace(line))
		if len(line) == 0 {
			continue
		}
		row, err := parseRow(line)
		if err != nil {
			return nil, j.line, &RowError{Reason: err.Error()}
		}
		return row, j.line, nil
	}
}

// readLine returns the next line; a line over the limit is skipped and
// reported as a bad row.
func (j *jsonl) readLine() ([]byte, error) {
	j.buf = j.buf[:0]
	j.line++
	tooLong := false
	for {
		part, err := j.r.ReadSlice('\n')
		if len(j.buf)+len(part) > maxLine {
			tooLong, j.buf = true, j.buf[:0]
		}
		if !tooLong {
			j.buf = append(j.buf, part...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && (len(part) > 0 || len(j.buf) > 0 || tooLong) {
			err = nil
		}
		if err == nil && tooLong {
			err = &RowError{Reason: fmt.Sprintf("line is longer than %d MiB", maxLine>>20)}
		}
		return j.buf, err
	}
}

func (j *jsonl) Total() int64 { return -1 }
func (j *jsonl) Close() error { return j.f.Close() }

// jsonArray reads the rows of a JSON file that is an array, one at a time.
type jsonArray struct {
	dec   *json.Decoder
	n, at int64
}

// openJSON reads a .json file: an array of rows, one row, or JSONL under
// another name.
func openJSON(t *Text) (Reader, error) {
	defer t.Close()
	b, err := t.limited(maxJSONFile)
	if err != nil {
		return nil, err
	}
	b = formats.NullJSON(bytes.TrimSpace(bytes.TrimPrefix(b, utf8BOM)))
	if looksLikeLines(b) {
		return newJSONL(bytes.NewReader(b), io.NopCloser(nil)), nil
	}
	if len(b) > 0 && b[0] == '[' {
		return newJSONArray(b)
	}
	v, err := ParseJSON(b)
	if err != nil {
		return nil, err
	}
	if d, ok := v.(*jinja.Dict); ok {
		return &oneRow{row: d}, nil
	}
	return nil, fail.Inputf(t.path, "write an array of objects, or one object a line", "the file holds %s", KindOf(v))
}

// newJSONArray checks an array as a whole and counts its elements.
func newJSONArray(b []byte) (*jsonArray, error) {
	a := &jsonArray{}
	var element json.RawMessage
	for round := range 2 {
		a.dec = json.NewDecoder(bytes.NewReader(b))
		if _, err := a.dec.Token(); err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		if round == 1 {
			break
		}
		for ; a.dec.More(); a.n++ {
			if err := a.dec.Decode(&element); err != nil {
				return nil, fmt.Errorf("not JSON: %w", noEnd(err))
			}
		}
		if _, err := a.dec.Token(); err != nil {
			return nil, fmt.Errorf("not JSON: %w", noEnd(err))
		}
		if _, err := a.dec.Token(); err != io.EOF {
			return nil, fmt.Errorf("not JSON: more than one value (offset %d)", a.dec.InputOffset())
		}
	}
	return a, nil
}

// noEnd is an end of the text where more was to come.
func noEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (a *jsonArray) Next() (*jinja.Dict, int64, error) {
	if a.at == a.n {
		return nil, 0, io.EOF
	}
	a.at++
	var element json.RawMessage
	if err := a.dec.Decode(&element); err != nil {
		return nil, a.at, err
	}
	d, err := parseRow(element)
	if err != nil {
		return nil, a.at, &RowError{Reason: err.Error()}
	}
	return d, a.at, nil
}

func (a *jsonArray) Total() int64 { return a.n }
func (a *jsonArray) Close() error { return nil }

// looksLikeLines tells JSONL from one object over several lines: the first
// line is complete JSON and something follows it.
func looksLikeLines(b []byte) bool {
	end := bytes.IndexByte(b, '\n')
	return len(b) > 0 && b[0] == '{' && end > 0 && json.Valid(b[:end])
}
