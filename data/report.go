package data

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/data/rows"
)

// Report counts what happened to every row of an ingest. Rows = Kept + Split
// rows + Truncated + all of Dropped, per part.
type Report struct {
	Key   string           `json:"key"`
	Files []FileReport     `json:"files"`
	Types map[string]int64 `json:"types"` // rows by dataset type

	Rows       int64            `json:"rows"`                  // read
	Kept       int64            `json:"kept"`                  // whole
	Truncated  int64            `json:"truncated"`             // cut at max_length
	Split      int64            `json:"split"`                 // cut into several samples
	Dropped    map[string]int64 `json:"dropped"`               // by reason: too_long, bad_row, equal_answers, duplicate, no_supervised_token, empty
	PromptsCut int64            `json:"prompts_cut,omitempty"` // rows whose prompt was cut to max_prompt_length, of those kept too
	Repeated   int64            `json:"repeated"`              // samples added by weight
	Skipped    int64            `json:"skipped"`               // rows left out by weight below 1

	Duplicates int64 `json:"duplicates"` // rows whose content occurred before, dropped or not
	Overlap    int64 `json:"overlap"`    // training rows whose content is also held back

	SharedPrompts int `json:"shared_prompts"` // held-back samples whose prompt is also trained on

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

	badRows    int64 // all of them
	supervised int64 // before overflow
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

// BadRow is one row that could not be used, and why.
type BadRow struct {
	RowRef
	rows.RowError
}

// maxBad is how many bad rows a report lists.
const maxBad = 20

func newReport(o *Options) *Report {
	r := &Report{Types: map[string]int64{}, Dropped: map[string]int64{}, MaxLength: o.MaxLength}
	for _, limit := range []int{1024, 2048, 4096, 8192} {
		r.Over = append(r.Over, OverBin{Limit: limit})
	}
	return r
}

func (r *Report) drop(reason string) { r.Dropped[reason]++ }

func (r *Report) bad(row BadRow) {
	r.badRows++
	if row.Reason == noSupervised || strings.HasPrefix(row.Reason, noSupervised+":") {
		r.drop("no_supervised_token")
	} else if row.Reason == sameAnswers {
		r.drop("equal_answers")
	} else {
		r.drop("bad_row")
	}
	if len(r.Bad) < maxBad {
		r.Bad = append(r.Bad, row)
	}
}

// length counts a row's length before overflow.
func (r *Report) length(ref RowRef, e encoded) {
	n := len(e.ids)
	if n > r.Longest {
		r.Longest, r.LongestAt = n, ref
	}
	r.supervised += int64((&Example{Loss: e.loss}).Supervised())
	bar := max(bits.Len(uint(max(n-1, 0)))-6, 0) // 1…64, 65…128, 129…256, …
	for len(r.Lengths) <= bar {
		k := len(r.Lengths)
		low := 1
		if k > 0 {
			low = 64<<(k-1) + 1
		}
		r.Lengths = append(r.Lengths, Bin{Low: low, High: 64 << k})
	}
	r.Lengths[bar].Samples++
	for i := range r.Over {
		if o := &r.Over[i]; n > o.Limit {
			o.Rows++
			for _, l := range e.loss {
				o.Supervised += int64(max(0, int(l[1])-max(int(l[0]), o.Limit)))
			}
		}
	}
}

// overLine is the table of long rows in one line.
func (r *Report) overLine() string {
	parts := make([]string, len(r.Over))
	for i, o := range r.Over {
		parts[i] = fmt.Sprintf("%s over %dk", group(o.Rows), o.Limit/1024)
	}
	return strings.Join(parts, ", ")
}

func (r *Report) finish(d *Dataset) (err error) {
	r.TrainSamples, r.ValSamples = d.Train.Len(), d.Val.Len()
	if r.TrainTokens, r.TrainSupervised, err = countTokens(d.Train); err != nil {
		return err
	}
	if r.ValTokens, r.ValSupervised, err = countTokens(d.Val); err != nil {
		return err
	}
	r.SharedPrompts, err = SharedPrompts(d.Val, d.Train)
	return err
}

// group writes a number with commas between thousands.
func group(n int64) string { return humanize.Comma(n) }

// Line is the report in one line: what happened to the rows and how much of
// them is supervised.
func (r *Report) Line() string {
	var dropped int64
	var why []string
	for _, k := range slices.Sorted(maps.Keys(r.Dropped)) {
		dropped += r.Dropped[k]
		why = append(why, fmt.Sprintf("%s %s", group(r.Dropped[k]), strings.ReplaceAll(k, "_", " ")))
	}
	s := fmt.Sprintf("rows: %s kept, %s split, %s truncated, %s dropped", group(r.Kept), group(r.Split), group(r.Truncated), group(dropped))
	if len(why) > 0 {
		s += " (" + strings.Join(why, ", ") + ")"
	}
	if r.PromptsCut > 0 {
		s += fmt.Sprintf(", %s with a cut prompt", group(r.PromptsCut))
	}
	if total := r.TrainTokens + r.ValTokens; total > 0 {
		s += fmt.Sprintf(" · %s tokens · supervised %.0f %%", group(total), 100*float64(r.TrainSupervised+r.ValSupervised)/float64(total))
	}
	return s + fmt.Sprintf(" · val %s samples", group(int64(r.ValSamples)))
}
