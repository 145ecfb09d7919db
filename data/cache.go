package data

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

const (
	cacheVersion = 2         // of the folder's layout
	maxInfo      = 256 << 20 // bytes of dataset.json
)

// cacheInfo is dataset.json: what the Arrow files must hold.
type cacheInfo struct {
	Version   int      `json:"version"`
	Key       string   `json:"key"`
	Vocab     int      `json:"vocab"`
	MaxLength int      `json:"max_length"`
	Groups    bool     `json:"groups,omitempty"` // there is a column of groups
	Marks     bool     `json:"marks,omitempty"`  // and, after it, one of marks
	Rows      bool     `json:"rows,omitempty"`   // there is a column of rows as JSON, the last one
	Files     []string `json:"files"`            // the column file counts in these; in the file: ShortNames
	Train     int      `json:"train_samples"`
	Val       int      `json:"val_samples"`

	Tokens    int    `json:"tokens,omitempty"`        // of the tokenizer
	Spellings string `json:"tokens_sha256,omitempty"` // of them
	Template  string `json:"chat_template,omitempty"` // where it is not the tokenizer's own
}

// schema is the table of both files: one sample a row. Tokens take 2 bytes
// where the vocabulary allows.
func (c *cacheInfo) schema() *arrow.Schema {
	token := arrow.DataType(arrow.PrimitiveTypes.Int32)
	if c.Vocab > 0 && c.Vocab <= 1<<16 {
		token = arrow.PrimitiveTypes.Uint16
	}
	fields := []arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "input_ids", Type: arrow.ListOfNonNullable(token)},
		{Name: "loss", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int32)}, // start, end, start, end, …
		{Name: "file", Type: arrow.PrimitiveTypes.Int32},
		{Name: "row", Type: arrow.PrimitiveTypes.Int64},
	}
	if c.Groups {
		fields = append(fields, arrow.Field{Name: "group", Type: arrow.PrimitiveTypes.Uint32})
	}
	if c.Marks {
		fields = append(fields, arrow.Field{Name: "mark", Type: arrow.PrimitiveTypes.Float32})
	}
	if c.Rows {
		fields = append(fields, arrow.Field{Name: "json", Type: arrow.BinaryTypes.String})
	}
	return arrow.NewSchema(fields, nil)
}

// SaveArrow writes the dataset as a folder dir, which must not exist:
// train.arrow and val.arrow (Arrow IPC streams) and dataset.json. The folder
// appears whole. The same dataset gives the same bytes. A few thousand samples
// at a time are held in memory.
func (d *Dataset) SaveArrow(dir string) error {
	f, err := atomic.Dir(dir)
	if err != nil {
		return err
	}
	defer f.Abort()
	info := cacheInfo{Version: cacheVersion, Key: d.Key, Vocab: d.Vocab, MaxLength: d.MaxLength, Train: d.Train.Len(), Val: d.Val.Len(),
		Tokens: d.Tokens, Spellings: d.Spellings, Template: d.Template}
	info.Marks = hasMarks(d.Train) || hasMarks(d.Val)
	info.Groups = info.Marks || grouped(d.Train) || grouped(d.Val)
	for _, ex := range []Examples{d.Train, d.Val} {
		asks, err := ex.Asks()
		if err != nil {
			return err
		}
		info.Rows = info.Rows || asks
	}
	if err := info.save(f, "train.arrow", d.Train); err != nil {
		return err
	}
	if err := info.save(f, "val.arrow", d.Val); err != nil {
		return err
	}
	info.Files = ShortNames(info.Files)
	b, err := json.MarshalIndent(info, "", " ")
	if err != nil {
		return err
	}
	if err := f.WriteFile("dataset.json", append(b, '\n')); err != nil {
		return err
	}
	return f.Commit()
}

// ShortNames are the ends of paths, as long as it takes to tell them apart: what
// is written must not depend on where the data lies, nor say it.
func ShortNames(paths []string) []string {
	tail := func(path string, n int) string {
		parts := strings.Split(filepath.ToSlash(path), "/")
		return strings.Join(parts[max(0, len(parts)-n):], "/")
	}
	out, short := slices.Clone(paths), make([]bool, len(paths))
	for n := 1; slices.Contains(short, false); n++ {
		count := map[string]int{}
		for _, p := range paths {
			count[tail(p, n)]++
		}
		for i, p := range paths {
			if !short[i] {
				out[i] = tail(p, n)
				short[i] = count[out[i]] == 1 || out[i] == p
			}
		}
	}
	return out
}

// save writes one file.
func (c *cacheInfo) save(f *atomic.Folder, name string, ex Examples) error {
	out, err := f.Create(name)
	if err != nil {
		return err
	}
	w := newTableWriter(out, c)
	for i := range ex.Len() {
		e, err := ex.At(i)
		if err == nil {
			err = w.add(e)
		}
		if err != nil {
			w.close()
			return err
		}
	}
	return w.close()
}

// LoadArrow opens what SaveArrow wrote. The samples stay in the files, which are
// mapped; of each 4,096 of them about 500 bytes are held. The layout and the lengths are
// checked now, a sample's tokens and ranges, against its hash too, when it is
// read: a damaged folder is an error that wraps formats.ErrCorrupt.
func LoadArrow(dir string) (d *Dataset, err error) {
	path := filepath.Join(dir, "dataset.json")
	b, err := readInfo(path)
	if err != nil {
		return nil, rows.FileError(path, err)
	}
	info := &cacheInfo{}
	if err := json.Unmarshal(b, info); err != nil {
		return nil, corrupt(path, "%w", err)
	}
	if info.Marks && !info.Groups {
		return nil, corrupt(path, "marks without groups")
	}
	if info.Version != cacheVersion {
		return nil, corrupt(path, "version %d, this program reads %d", info.Version, cacheVersion)
	}
	train, err := openTable(filepath.Join(dir, "train.arrow"), info, info.Train)
	if err != nil {
		return nil, err
	}
	val, err := openTable(filepath.Join(dir, "val.arrow"), info, info.Val)
	if err != nil {
		return nil, err
	}
	return &Dataset{Train: Examples{train}, Val: Examples{val}, Key: info.Key, Vocab: info.Vocab, MaxLength: info.MaxLength,
		Tokens: info.Tokens, Spellings: info.Spellings, Template: info.Template}, nil
}

// IsCache tells whether dir is a folder that SaveArrow wrote.
func IsCache(dir string) bool { return cacheOf(dir) != nil }

// LoadFor is LoadArrow for a model with this tokenizer (nil: it has none) and so many
// rows in its embedding: ids that mean other tokens to it are an error of kind
// fail.Usage.
func LoadFor(dir string, tok *tokenizer.Tokenizer, vocab int) (*Dataset, error) {
	d, err := LoadArrow(dir)
	if err != nil {
		return nil, err
	}
	return d, cacheOf(dir).fits(dir, tok, vocab)
}

// fits checks that a tokenizer and an embedding are those that the ids were made for,
// as far as the cache says.
func (c *cacheInfo) fits(path string, tok *tokenizer.Tokenizer, vocab int) error {
	const hint = "ingest the rows again with this model"
	if c.Vocab > 0 && vocab > 0 && c.Vocab != vocab {
		return fail.Usagef(path, hint, "holds tokens of a model with %d of them, this one has %d", c.Vocab, vocab)
	}
	if c.Spellings != "" && tok != nil && (c.Tokens < 0 || tok.Spellings(c.Tokens) != c.Spellings) {
		return fail.Usagef(path, hint, "holds ids of another tokenizer: they mean other tokens to this model")
	}
	return nil
}

// cacheOf is the dataset.json of a folder that SaveArrow wrote; nil for any other path.
func cacheOf(dir string) *cacheInfo {
	info := &cacheInfo{}
	b, err := readInfo(filepath.Join(dir, "dataset.json"))
	if err != nil || json.Unmarshal(b, info) != nil || info.Version == 0 || info.Key == "" {
		return nil
	}
	return info
}

// HeldBack is a source for a measurement: the held-back part of a folder that an
// ingest wrote, where it has one, else the path as it is.
func HeldBack(path string) Source {
	if c := cacheOf(path); c != nil && c.Val > 0 {
		return Source{Path: path, Split: "val"}
	}
	return Source{Path: path}
}

// KeepParts makes what earlier ingests held back stay so: where all datasets are
// folders that SaveArrow wrote, and nothing else is asked for.
func (o *Options) KeepParts() {
	if o.ValSetSize != "" || len(o.ValDatasets) > 0 {
		return
	}
	var val []Source
	for _, s := range o.Datasets {
		c := cacheOf(s.Path)
		if c == nil || s.Split != "" {
			return
		}
		if s.Split = "val"; c.Val > 0 {
			val = append(val, s)
		}
	}
	o.ValDatasets = val
}

// readInfo reads at most maxInfo bytes: a longer file is no JSON when cut there.
func readInfo(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxInfo))
}

func corrupt(path, format string, args ...any) error {
	return fail.Inputf(path, "remove the folder and ingest again", "%w", fmt.Errorf("%w: %w", formats.ErrCorrupt, fmt.Errorf(format, args...)))
}
