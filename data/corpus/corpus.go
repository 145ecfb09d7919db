// Package corpus generates the project's own training corpus: English-like
// text of several kinds and an instruction task whose answers can be checked.
// Everything is a pure function of a seed.
package corpus

import (
	"encoding/json"
	"io"

	"github.com/parquet-go/parquet-go"
)

// Split names a part of the task's rows.
type Split string

// The parts of the task. Their prompts are disjoint by construction.
const (
	Train   Split = "train"
	HeldOut Split = "heldout"
)

// Message is one turn of a task row.
type Message struct {
	Role    string `json:"role" parquet:"role"`
	Content string `json:"content" parquet:"content"`
}

// Row is one task: a user's request and the only right answer.
type Row struct {
	Messages []Message `json:"messages" parquet:"messages,list"`
	Kind     string    `json:"kind" parquet:"kind"`
}

// WriteParquet writes rows as a Parquet file: messages
// LIST<STRUCT<role,content>>, kind string, zstd. The same rows give the same
// bytes.
func WriteParquet(w io.Writer, rows []Row) error {
	p := parquet.NewGenericWriter[Row](w, parquet.Compression(&parquet.Zstd), parquet.CreatedBy("tunekit", "1", ""))
	if _, err := p.Write(rows); err != nil {
		return err
	}
	return p.Close()
}

// WriteJSONL writes rows as one JSON object a line.
func WriteJSONL(w io.Writer, rows []Row) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range rows {
		if err := enc.Encode(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}
