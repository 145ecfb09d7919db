// Package rows reads files of rows: Parquet, JSONL, JSON, CSV, Arrow IPC and
// text become dictionaries of columns, one row at a time. Files are not trusted:
// what one declares is checked before memory is taken for it.
package rows

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// Limits on what a row file may make us hold at once.
const (
	maxLine     = 64 << 20  // bytes of a JSONL line or a CSV record
	maxJSONFile = 256 << 20 // bytes of a JSON array or a text file

	maxRowValues = 1 << 22   // of lists and columns of a row
	maxRowText   = 256 << 20 // bytes of text and binary values of a row

	freeGrowth = 256 << 20 // bytes that the rows of any columnar or compressed file may take
	maxGrowth  = 1000      // bytes of rows for each of a larger one
)

// budget is what a row of a columnar file takes. A few bytes can stand for any
// number of values there, since lists and dictionaries say things once.
type budget struct{ taken, bytes int64 }

// size is about what the row takes in memory.
func (b budget) size() int64 { return 64*(b.taken+1) + b.bytes }

// value takes one more value.
func (b *budget) value() error {
	b.taken++
	return b.values(0)
}

// values refuses a row that n more values would make too large.
func (b *budget) values(n int64) error {
	if b.taken+n > maxRowValues {
		return fmt.Errorf("%w: more than %d values", errRowSize, maxRowValues)
	}
	return nil
}

// text takes so many more bytes of text.
func (b *budget) text(n int) error {
	if b.bytes += int64(n); b.bytes > maxRowText {
		return fmt.Errorf("%w: more than %d MiB of text", errRowSize, maxRowText>>20)
	}
	return nil
}

var errRowSize = errors.New("the row is too large")

// Reader reads the rows of one file as dictionaries of its columns, in the
// values of jinja.ParseJSON; binary columns that are no text are []byte.
type Reader interface {
	// Next returns the next row and its 1-based number (the line, in JSONL
	// and CSV), or io.EOF. A *RowError concerns one row only and Next may be
	// called again; any other error ends the file. The caller owns the row.
	Next() (row *jinja.Dict, number int64, err error)
	// Total is the number of rows, or -1 when only reading tells.
	Total() int64
	Close() error
}

// RowError says why one row cannot be used, while the rest of its file can.
type RowError struct {
	Column string `json:"column,omitempty"` // "" when it is the whole row
	Reason string `json:"reason"`
}

// Error is the reason, with the column where it is known.
func (b *RowError) Error() string {
	if b.Column != "" {
		return fmt.Sprintf("column %s: %s", b.Column, b.Reason)
	}
	return b.Reason
}

// The formats known by the file's ending: of columns, and of text, which may be
// compressed.
var (
	columnFormats = map[string]func(path string) (Reader, error){
		".parquet": openParquet,
		".arrow":   openArrow,
		".feather": openArrow,
		".ipc":     openArrow,
	}
	textFormats = map[string]func(t *Text) (Reader, error){
		".jsonl":  openJSONL,
		".ndjson": openJSONL,
		".json":   openJSON,
		".csv":    func(t *Text) (Reader, error) { return openCSV(t, 0) },
		".tsv":    func(t *Text) (Reader, error) { return openCSV(t, '\t') },
		".txt":    openText,
		".text":   openText,
		".md":     openText,
	}
)

// rowFormats are the endings, for messages.
const rowFormats = ".parquet, .jsonl, .json, .csv, .tsv, .arrow or .txt; those of text also with .gz, .bz2, .xz or .zst behind"

// known tells whether a file's ending is that of a data file.
func known(path string) bool {
	ext, codec := Format(path)
	return textFormats[ext] != nil || columnFormats[ext] != nil && codec == ""
}

// Open opens a file of rows by its ending. A panic inside a third-party
// parser is returned as an error; errors are of kind fail.Input.
func Open(path string) (r Reader, err error) {
	defer recoverTo(path, &err)
	ext, codec := Format(path)
	switch {
	case textFormats[ext] != nil:
		var t *Text
		if t, err = OpenText(path); err != nil {
			return nil, err
		}
		if r, err = textFormats[ext](t); err != nil {
			t.Close()
		}
	case columnFormats[ext] != nil && codec != "":
		return nil, fail.Inputf(path, "decompress it: "+ext+" files are compressed inside, page by page", "only text is read compressed")
	case columnFormats[ext] != nil:
		r, err = columnFormats[ext](path)
	default:
		return nil, fail.Inputf(path, "give it one of these endings: "+rowFormats, "unknown kind of data file %q", ext+codec)
	}
	if err != nil {
		return nil, FileError(path, err)
	}
	g := &guarded{path: path, Reader: r}
	if st, err := os.Stat(path); err == nil {
		g.allowed = max(freeGrowth, maxGrowth*st.Size())
	}
	return g, nil
}

// FillsIn tells whether every structure of a file's column has the fields of all,
// so that null stands for a field that a row never had.
func FillsIn(path string) bool {
	return columnFormats[Ext(path)] != nil
}

// guarded turns the panics and plain errors of a reader into typed errors.
type guarded struct {
	path string
	Reader
	taken, allowed int64 // bytes of rows so far, and of all
}

func (g *guarded) Next() (row *jinja.Dict, number int64, err error) {
	defer recoverTo(g.path, &err)
	row, number, err = g.Reader.Next()
	if b, ok := g.Reader.(interface{ row() budget }); ok && err == nil {
		if g.taken += b.row().size(); g.taken > g.allowed {
			return nil, number, fail.Limitf(g.path, "write the rows that are meant into another file", "row %d: the rows so far take %d MiB, more than %d times the file", number, g.taken>>20, maxGrowth)
		}
	}
	var bad *RowError
	if err == nil || err == io.EOF || errors.As(err, &bad) {
		return row, number, err
	}
	return nil, number, FileError(g.path, err)
}

// recoverTo is deferred around third-party parsers: what they panic with on a
// hostile file is a bad file, not our bug.
func recoverTo(path string, err *error) {
	if r := recover(); r != nil {
		if _, it := r.(runtime.Error); it { // an index or a pointer of Go's tells a user nothing
			r = "its parts do not fit together"
		}
		*err = fail.Inputf(path, "the file is damaged or of a kind this version cannot read", "cannot be read: %v", r)
	}
}

// FileError is err as an error about a data file, of kind fail.Input; one that
// is a *fail.Error already stays as it is.
func FileError(path string, err error) error {
	var known *fail.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, os.ErrNotExist) {
		return missing(path)
	}
	if errors.Is(err, errRowSize) {
		return fail.Limitf(path, "leave out the columns that training does not need, or make several rows of it", "%w", err)
	}
	return fail.Inputf(path, "the file is damaged, cut off or of another kind; write it again, or look at it with the program that made it", "%w", err)
}

func missing(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	return fail.Inputf(path, "paths are relative to the working directory; tried "+abs, "no such file or folder")
}

// oneRow is a file that is one row.
type oneRow struct {
	row  *jinja.Dict
	done bool
}

// openText reads a plain text file: one row with the column text.
func openText(t *Text) (Reader, error) {
	defer t.Close()
	b, err := t.limited(maxJSONFile)
	if err != nil {
		return nil, err
	}
	text, err := validText(b)
	if err != nil {
		return nil, err
	}
	return &oneRow{row: jinja.NewDict("text", text)}, nil
}

func (o *oneRow) Next() (*jinja.Dict, int64, error) {
	if o.done {
		return nil, 0, io.EOF
	}
	o.done = true
	return o.row, 1, nil
}

func (o *oneRow) Total() int64 { return 1 }
func (o *oneRow) Close() error { return nil }
