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

	// What a teacher expects in place of each supervised token: as many ids for each,
	// most likely first, and their log-probabilities; nil where it was not asked.
	TopIDs  []int32
	TopLogP []float32

	// Row is the row as JSON where the sample is a prompt alone, which the model
	// answers itself: for whoever judges the answer. Else it is "".
	Row string

	// Group is a number that samples learned from together share (the answers to
	// one prompt, the better first); 0 stands alone. In a data set the samples of
	// a group follow each other, and a step never parts them.
	Group uint32

	// Mark is what a row says of an answer: of one that stands alone Wanted or
	// Unwanted, of the first of a pair by how much it should be ahead; 0: nothing.
	Mark float32
}

// Marks of answers that stand alone.
const (
	Wanted   float32 = 1
	Unwanted float32 = -1
)

// Supervised counts the tokens of e that training predicts: those in a
// supervised range that have a token before them.
func (e *Example) Supervised() int {
	n := 0
	for _, r := range e.Loss {
		n += int(r[1] - max(r[0], 1))
	}
	return n
}

// Head is e cut to its first n tokens, without an ID of its own.
func (e Example) Head(n int) Example {
	if len(e.IDs) <= n {
		return e
	}
	w := window(e, 0, n)
	w.ID, w.Group, w.Mark = e.ID, e.Group, e.Mark
	return w
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
// also the prompt of a sample of one of train. Samples without a prompt do not
// count. Hashes of a million samples of val are held at a time.
func SharedPrompts(val Examples, train ...Examples) (n int, err error) {
	for from := 0; from < val.Len(); from += promptsAtOnce {
		prompts := map[uint64]int{} // samples of val by the hash of their prompt
		for i := from; i < min(from+promptsAtOnce, val.Len()); i++ {
			e, err := val.At(i)
			if err != nil {
				return 0, err
			}
			if p, _ := e.Answer(); len(p) > 0 {
				prompts[contentID(p, nil)]++
			}
		}
		for _, ex := range train {
			for i := 0; i < ex.Len() && len(prompts) > 0; i++ {
				e, err := ex.At(i)
				if err != nil {
					return 0, err
				}
				p, _ := e.Answer()
				id := contentID(p, nil)
				n += prompts[id]
				delete(prompts, id)
			}
		}
	}
	return n, nil
}

// promptsAtOnce is of how many samples SharedPrompts holds the hashes.
const promptsAtOnce = 1 << 20

// Dataset is what Ingest returns: rows to train on and rows held back.
type Dataset struct {
	Train Examples
	Val   Examples
	Key   string // hex SHA-256 of all that shaped it (options, files, tokenizer, template)
	Vocab int    // size of the tokenizer that made the ids
	// MaxLength is the longest length an Example may have.
	MaxLength int
	// Tokens and Spellings say which ids they are: the size of the tokenizer, and
	// the hash of all its tokens; 0 and "" for rows that came as ids.
	Tokens    int
	Spellings string
	// Template is the chat template that rows were written with where it is not the
	// tokenizer's own, else "".
	Template string

	close func() // nil: nothing to remove
}

// Close removes what Ingest kept in a file; the samples cannot be read any more.
func (d *Dataset) Close() {
	if d.close != nil {
		d.close()
	}
}

// countTokens returns the number of tokens and of supervised tokens in ex.
func countTokens(ex Examples) (tokens, supervised int64, err error) {
	for i := range ex.Len() {
		e, err := ex.At(i)
		if err != nil {
			return 0, 0, err
		}
		tokens += int64(len(e.IDs))
		supervised += int64(e.Supervised())
	}
	return tokens, supervised, nil
}

// String is the place as errors name it: "data/a.parquet row 811".
func (r RowRef) String() string {
	if r.Row == 0 {
		return r.File
	}
	return fmt.Sprintf("%s row %d", r.File, r.Row)
}
