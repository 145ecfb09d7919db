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

// Answer splits e at its last supervised range: the tokens a model is given, and
// those it should answer with (the stop token, if supervised, included). Both
// share e's memory; they are nil without a supervised range.
func (e *Example) Answer() (prompt, answer []int32) {
	if len(e.Loss) == 0 {
		return nil, nil
	}
	r := e.Loss[len(e.Loss)-1]
	return e.IDs[:r[0]:r[0]], e.IDs[r[0]:r[1]:r[1]]
}

// SharedPrompts counts the samples of val whose prompt (as Answer gives it) is
// also the prompt of a sample of train. Samples without a prompt do not count.
func SharedPrompts(train, val []Example) int {
	if len(val) == 0 {
		return 0
	}
	seen := make(map[uint64]bool, len(train))
	for i := range train {
		p, _ := train[i].Answer()
		seen[contentID(p, nil)] = true
	}
	n := 0
	for i := range val {
		if p, _ := val[i].Answer(); len(p) > 0 && seen[contentID(p, nil)] {
			n++
		}
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
