// Package corpus generates the project's own training corpus: English-like
// text of several kinds and an instruction task whose answers can be checked.
// Everything is a pure function of a seed.
package corpus

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

// Text returns document i of the pretraining text of a seed.
func Text(seed uint64, i int) string { return "" }

// Task returns n rows of a part of the task, all prompts different.
func Task(seed uint64, n int, split Split) []Row { return nil }

// WriteParquet writes rows to a Parquet file: messages
// LIST<STRUCT<role,content>>, kind string, zstd.
func WriteParquet(path string, rows []Row) error { return nil }

// WriteJSONL writes rows as one JSON object a line.
func WriteJSONL(path string, rows []Row) error { return nil }
