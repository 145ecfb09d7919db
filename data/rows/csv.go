package rows

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/jinja"
)

// csvFile reads CSV with a header line; every value is text.
type csvFile struct {
	t       *Text
	limit   *recordLimit
	r       *csv.Reader
	head    []string
	guessed bool // what parts the fields
}

// openCSV reads a table whose fields are parted by comma; 0: what the first line says.
func openCSV(t *Text, comma rune) (Reader, error) {
	br := bufio.NewReaderSize(t, 1<<16)
	if b, _ := br.Peek(3); bytes.Equal(b, utf8BOM) {
		br.Discard(3)
	} else if isUTF16(b) {
		return nil, errUTF16
	}
	quoted := &quotedReturns{r: br}
	c := &csvFile{t: t, limit: &recordLimit{r: quoted}}
	if comma == 0 {
		first, _ := br.Peek(1 << 16)
		var err error
		if comma, err = delimiter(first); err != nil {
			return nil, err
		}
		c.guessed = comma != ','
	}
	quoted.comma = byte(comma) // one of those of delimiter
	c.r = csv.NewReader(c.limit)
	c.r.Comma = comma
	c.r.FieldsPerRecord = -1
	var err error
	c.head, err = c.r.Read()
	if err == io.EOF {
		err = errors.New("empty file: the first line names the columns")
	}
	if err != nil {
		return nil, err
	}
	for i := range c.head {
		c.head[i] = withReturns(c.head[i])
	}
	return c, checkHead(c.head)
}

// delimiter is what parts the fields of a table that begins with text: of comma,
// semicolon, tab and bar the one that parts the first line. Where several do, it is
// the one by which the second line has as many fields, the comma before others.
func delimiter(text []byte) (rune, error) {
	var parts, fit []rune
	for _, comma := range ",;\t|" {
		r := csv.NewReader(bytes.NewReader(text))
		r.Comma, r.FieldsPerRecord = comma, -1
		head, err := r.Read()
		if err != nil || len(head) < 2 {
			continue
		}
		parts = append(parts, comma)
		if row, err := r.Read(); err == nil && len(row) == len(head) {
			fit = append(fit, comma)
		}
	}
	switch {
	case slices.Contains(fit, ',') || len(parts) == 0 || slices.Contains(parts, ',') && len(fit) == 0:
		return ',', nil
	case len(fit) == 1:
		return fit[0], nil
	case len(parts) == 1:
		return parts[0], nil
	}
	return 0, fmt.Errorf("the columns that the first line names can be parted by %q: write the table with commas, and names with others of these signs in quotes", string(parts))
}

// maxColumns is how many columns any kind of file may have.
const maxColumns = 10_000

func checkHead(head []string) error {
	if len(head) > maxColumns {
		return fmt.Errorf("the first line names %d columns (at most %d)", len(head), maxColumns)
	}
	seen := make(map[string]bool, len(head))
	for _, h := range head {
		if seen[h] {
			return fmt.Errorf("column %q occurs twice in the first line", h)
		}
		seen[h] = true
	}
	return nil
}

func (c *csvFile) Next() (*jinja.Dict, int64, error) {
	c.limit.n = 0
	rec, err := c.r.Read()
	if err == io.EOF {
		return nil, 0, err
	}
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return nil, int64(parse.StartLine), &RowError{Reason: parse.Err.Error()}
	}
	if err != nil {
		return nil, 0, err
	}
	line, _ := c.r.FieldPos(0)
	if len(rec) != len(c.head) {
		reason := fmt.Sprintf("%d fields, the first line names %d", len(rec), len(c.head))
		if c.guessed {
			reason += fmt.Sprintf(" (parted by %q, as it is)", c.r.Comma)
		} else if len(c.head) == 1 {
			reason += " (text with a comma in it stands in quotes)"
		}
		return nil, int64(line), &RowError{Reason: reason}
	}
	d := &jinja.Dict{}
	for i, v := range rec {
		v = withReturns(v)
		if !utf8.ValidString(v) {
			return nil, int64(line), &RowError{Column: c.head[i], Reason: "not UTF-8"}
		}
		d.Set(c.head[i], v)
	}
	return d, int64(line), nil
}

func (c *csvFile) Total() int64 { return -1 }
func (c *csvFile) Close() error { return c.t.Close() }

// quotedReturns writes the byte FF, which no text has, for carriage returns within quotes:
// encoding/csv drops those in front of a line break, and they are part of the value. An FF
// that is there becomes FE, which is no text either. What is within quotes it finds as
// encoding/csv does: of a record with a fault the rest of the line is skipped.
type quotedReturns struct {
	r     io.Reader
	comma byte
	at    csvPlace
}

// csvPlace is where in a table a byte stands.
type csvPlace uint8

const (
	fieldStart csvPlace = iota // a quote opens here only
	plainField
	withinQuotes
	behindQuote // which closed, or is the first of two
	faultyLine
)

// after is the place behind the byte b at p.
func (p csvPlace) after(b, comma byte) csvPlace {
	switch {
	case p == withinQuotes && b != '"':
		return p
	case p == withinQuotes:
		return behindQuote
	case b == '\n':
		return fieldStart
	case p == faultyLine:
		return p
	case b == comma:
		return fieldStart
	case b == '"' && (p == fieldStart || p == behindQuote):
		return withinQuotes
	case b == '"' || p == behindQuote: // here a return may be no fault: then the line break follows
		return faultyLine
	}
	return plainField
}

func (q *quotedReturns) Read(p []byte) (int, error) {
	n, err := q.r.Read(p)
	for i, b := range p[:n] {
		switch {
		case b == '\r' && q.at == withinQuotes:
			p[i] = 0xff
		case b == 0xff:
			p[i] = 0xfe
		}
		q.at = q.at.after(b, q.comma)
	}
	return n, err
}

// withReturns undoes quotedReturns.
func withReturns(v string) string { return strings.ReplaceAll(v, "\xff", "\r") }

// recordLimit fails when one record takes more than maxLine bytes: an unclosed
// quote would otherwise swallow the rest of a large file.
type recordLimit struct {
	r io.Reader
	n int // bytes since the record began
}

func (l *recordLimit) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.n += n; l.n > maxLine {
		return n, fmt.Errorf("a record is longer than %d MiB (an unclosed quote?)", maxLine>>20)
	}
	return n, err
}
