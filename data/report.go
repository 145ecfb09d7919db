package data

// Report counts what happened to every row of an ingest. Rows = Kept + Split
// rows + Truncated + all of Dropped, per part.
type Report struct {
	Key   string           `json:"key"`
	Files []FileReport     `json:"files"`
	Types map[string]int64 `json:"types"` // rows by dataset type

	Rows      int64            `json:"rows"`      // read
	Kept      int64            `json:"kept"`      // whole
	Truncated int64            `json:"truncated"` // cut at max_length
	Split     int64            `json:"split"`     // cut into several samples
	Dropped   map[string]int64 `json:"dropped"`   // by reason: too_long, bad_row, duplicate, no_supervised_token, empty
	Repeated  int64            `json:"repeated"`  // samples added by weight
	Skipped   int64            `json:"skipped"`   // rows left out by weight below 1

	Duplicates int64 `json:"duplicates"` // rows whose content occurred before, dropped or not
	Overlap    int64 `json:"overlap"`    // training rows whose content is also held back

	TrainSamples    int   `json:"train_samples"`
	ValSamples      int   `json:"val_samples"`
	TrainTokens     int64 `json:"train_tokens"`
	TrainSupervised int64 `json:"train_supervised"`
	ValTokens       int64 `json:"val_tokens"`
	ValSupervised   int64 `json:"val_supervised"`
	LostSupervised  int64 `json:"lost_supervised"` // supervised tokens cut off or dropped for length

	MaxLength int       `json:"max_length"`
	Longest   int       `json:"longest"` // tokens, before overflow
	LongestAt RowRef    `json:"longest_at"`
	Lengths   []Bin     `json:"lengths"` // histogram of lengths before overflow
	Over      []OverBin `json:"over"`    // rows over 1k, 2k, 4k, 8k

	Bad   []BadRow `json:"bad,omitempty"`   // the first 20
	Notes []string `json:"notes,omitempty"` // what was decided for the user, one line each
}

// FileReport is one file that was read.
type FileReport struct {
	Path string `json:"path"`
	Rows int64  `json:"rows"`
	Type string `json:"type"`
	Hash string `json:"sha256"`
}

// Bin is a bar of the length histogram: samples of Low … High tokens.
type Bin struct {
	Low     int   `json:"low"`
	High    int   `json:"high"`
	Samples int64 `json:"samples"`
}

// OverBin counts the rows longer than Limit tokens and their supervised tokens
// beyond it.
type OverBin struct {
	Limit      int   `json:"limit"`
	Rows       int64 `json:"rows"`
	Supervised int64 `json:"supervised"`
}

// BadRow is one row that could not be used.
type BadRow struct {
	RowRef
	Column string `json:"column,omitempty"`
	Reason string `json:"reason"`
}
