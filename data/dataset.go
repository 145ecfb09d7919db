package data

import "fmt"

// RowRef says where a row came from: a file and the 1-based number of the row
// in it (the line, in JSONL and CSV).
type RowRef struct {
	File string `json:"file"`
	Row  int64  `json:"row"`
}

// Example is one tokenized sample.
type Example struct {
	ID   uint64     // hash of IDs and Loss: the same content has the same ID in any order of rows
	IDs  []int32    // [T] token ids
	Loss [][2]int32 // supervised ranges [start, end) of IDs, ascending, not empty, not touching
	From RowRef
}

// Supervised counts the tokens of e that training predicts: those in a
// supervised range that have a token before them.
func (e *Example) Supervised() int {
	n := 0
	for _, r := range e.Loss {
		n += int(r[1] - max(r[0], 1))
	}
	return n
}

// Dataset is what Ingest returns: rows to train on and rows held back.
type Dataset struct {
	Train []Example
	Val   []Example
	Key   string // hex SHA-256 of all that shaped it (options, files, tokenizer, template)
	Vocab int    // size of the tokenizer that made the ids
	// MaxLength is the longest length an Example may have.
	MaxLength int
}

// Tokens returns the number of tokens and of supervised tokens in ex.
func Tokens(ex []Example) (tokens, supervised int64) {
	for i := range ex {
		tokens += int64(len(ex[i].IDs))
		supervised += int64(ex[i].Supervised())
	}
	return tokens, supervised
}

// String is the place as errors name it: "data/a.parquet row 811".
func (r RowRef) String() string {
	if r.Row == 0 {
		return r.File
	}
	return fmt.Sprintf("%s row %d", r.File, r.Row)
}
