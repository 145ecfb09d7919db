package data

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/data/rows"
)

// Report counts what happened to every row of an ingest. Rows = Kept + Split
// rows + Truncated + all of Dropped + Compared, per part.
type Report struct {
	Key   string           `json:"key"`
	Files []FileReport     `json:"files"`
	Types map[string]int64 `json:"types"` // rows by dataset type

	Rows       int64            `json:"rows"`                  // read
	Kept       int64            `json:"kept"`                  // whole
	Truncated  int64            `json:"truncated"`             // cut at max_length
	Split      int64            `json:"split"`                 // cut into several samples
	Dropped    map[string]int64 `json:"dropped"`               // by reason: too_long, bad_row, equal_answers, duplicate, near_duplicate, in_evaluation, no_supervised_token, empty
	PromptsCut int64            `json:"prompts_cut,omitempty"` // rows whose prompt was cut to max_prompt_length, of those kept too
	Repeated   int64            `json:"repeated"`              // samples added by weight
	Skipped    int64            `json:"skipped"`               // rows left out by weight below 1

	Duplicates int64 `json:"duplicates"` // rows whose content occurred before, dropped or not
	Overlap    int64 `json:"overlap"`    // training rows whose content is also held back, or compared with

	// Rows whose text is nearly that of an earlier one, where dedup asks for it, and
	// training rows that are nearly held back; with the first 20 of each.
	NearDuplicates int64  `json:"near_duplicates,omitempty"`
	NearOverlap    int64  `json:"near_overlap,omitempty"`
	Near           []Like `json:"near,omitempty"`
	NearHeld       []Like `json:"near_held,omitempty"`
	Compared       int64  `json:"compared,omitempty"` // rows of decontaminate_against, which are in no other count but Rows

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
	Lengths   []Bin     `json:"lengths"` // histogram of lengths before overflow, of what is not dropped as in an evaluation or a duplicate
	Over      []OverBin `json:"over"`    // rows over 1k, 2k, 4k, 8k, as they were read

	Sources  []SourceReport `json:"sources,omitempty"`   // by dataset
	Scripts  []ScriptReport `json:"scripts,omitempty"`   // by the script of most letters, the most rows first
	Longer   []Outlier      `json:"longer,omitempty"`    // the five longest rows
	LeastSay []Outlier      `json:"least_say,omitempty"` // the five that teach the fewest tokens

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

// SourceReport is what became of the rows of one entry of the data sets.
type SourceReport struct {
	Path           string  `json:"path"`
	Part           string  `json:"part"` // train, val or compared
	Weight         float64 `json:"weight,omitempty"`
	Rows           int64   `json:"rows"`
	Dropped        int64   `json:"dropped"` // for any reason
	Duplicates     int64   `json:"duplicates"`
	NearDuplicates int64   `json:"near_duplicates,omitempty"`
	Overlap        int64   `json:"overlap,omitempty"` // exact and near
	Tokens         int64   `json:"tokens"`            // of its samples, each once
	Supervised     int64   `json:"supervised"`
	Longest        int     `json:"longest"`
	Samples        int64   `json:"train_samples"` // as often as its weight says, what is held back left out
	TrainTokens    int64   `json:"train_tokens"`
}

// ScriptReport counts the rows of a script, with the first of them.
type ScriptReport struct {
	Script string   `json:"script"`
	Rows   int64    `json:"rows"`
	First  []RowRef `json:"first,omitempty"`
	nth    []int64  // of the rows read, those of First
}

// Outlier is a row by its length.
type Outlier struct {
	RowRef
	Tokens     int   `json:"tokens"`
	Supervised int   `json:"supervised"`
	nth        int64 // of the rows read
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
	for i, s := range o.sources() {
		r.Sources = append(r.Sources, SourceReport{Path: s.Path, Part: [...]string{"train", "val", "compared"}[o.partOf(i)], Weight: s.Weight})
	}
	return r
}

// A report names shownRows rows of a kind. Until it is complete it knows knownRows, since some may yet be
// dropped as those of an evaluation.
const (
	shownRows = 5
	knownRows = 100
)

// script counts the script of the row read last; "" is none. It returns its place in Scripts plus one, 0 for none.
func (r *Report) script(name string, ref RowRef) int16 {
	if name == "" {
		return 0
	}
	i := slices.IndexFunc(r.Scripts, func(s ScriptReport) bool { return s.Script == name })
	if i < 0 {
		i = len(r.Scripts)
		r.Scripts = append(r.Scripts, ScriptReport{Script: name})
	}
	s := &r.Scripts[i]
	if s.Rows++; len(s.First) < knownRows {
		s.First, s.nth = append(s.First, ref), append(s.nth, r.Rows)
	}
	return int16(i + 1)
}

// forget takes a row that is dropped after all out of the tables that name rows; script is what script returned.
func (r *Report) forget(nth int64, script int16) {
	is := func(o Outlier) bool { return o.nth == nth }
	r.Longer, r.LeastSay = slices.DeleteFunc(r.Longer, is), slices.DeleteFunc(r.LeastSay, is)
	if script == 0 {
		return
	}
	s := &r.Scripts[script-1]
	s.Rows--
	if i := slices.Index(s.nth, nth); i >= 0 {
		s.First, s.nth = slices.Delete(s.First, i, i+1), slices.Delete(s.nth, i, i+1)
	}
}

// outliers keeps the longest rows and those that teach least, of which the row read last may be one.
func (r *Report) outliers(ref RowRef, tokens, supervised int) {
	o := Outlier{ref, tokens, supervised, r.Rows}
	r.Longer = extreme(r.Longer, o, -tokens, func(o Outlier) int { return -o.Tokens })
	if supervised > 0 {
		r.LeastSay = extreme(r.LeastSay, o, supervised, func(o Outlier) int { return o.Supervised })
	}
}

// extreme puts o into a short list that is sorted by a number, the first of equals first.
func extreme(list []Outlier, o Outlier, n int, by func(Outlier) int) []Outlier {
	if len(list) == knownRows && by(list[knownRows-1]) <= n {
		return list
	}
	at := slices.IndexFunc(list, func(l Outlier) bool { return by(l) > n })
	if at < 0 {
		at = len(list)
	}
	list = slices.Insert(list, at, o)
	return list[:min(len(list), knownRows)]
}

// Outliers are the scripts of fewer than two rows in a hundred: likely another
// language than the rest, or no text at all.
func (r *Report) Outliers() (out []ScriptReport) {
	var all int64
	for _, s := range r.Scripts {
		all += s.Rows
	}
	for _, s := range r.Scripts {
		if 50*s.Rows < all {
			out = append(out, s)
		}
	}
	return out
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

// length counts a row's length before overflow, and returns its supervised tokens and
// its bar in Lengths.
func (r *Report) length(ref RowRef, e encoded) (supervised, bar int) {
	n := len(e.ids)
	if n > r.Longest {
		r.Longest, r.LongestAt = n, ref
	}
	supervised = (&Example{Loss: e.loss}).Supervised()
	r.supervised += int64(supervised)
	bar = max(bits.Len(uint(max(n-1, 0)))-6, 0) // 1…64, 65…128, 129…256, …
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
	return supervised, bar
}

// overLine is the table of long rows in one line.
func (r *Report) overLine() string {
	parts := make([]string, len(r.Over))
	for i, o := range r.Over {
		parts[i] = fmt.Sprintf("%s over %dk", group(o.Rows), o.Limit/1024)
	}
	return strings.Join(parts, ", ")
}

// cut leaves of the rows that it knows those that are named.
func (r *Report) cut() {
	if len(r.Longer) > 0 {
		r.Longest, r.LongestAt = r.Longer[0].Tokens, r.Longer[0].RowRef
	}
	r.Longer, r.LeastSay = r.Longer[:min(len(r.Longer), shownRows)], r.LeastSay[:min(len(r.LeastSay), shownRows)]
	r.Scripts = slices.DeleteFunc(r.Scripts, func(s ScriptReport) bool { return s.Rows == 0 })
	for i := range r.Scripts {
		s := &r.Scripts[i]
		s.First, s.nth = s.First[:min(len(s.First), shownRows)], nil
	}
	slices.SortStableFunc(r.Scripts, func(a, b ScriptReport) int { return cmp.Compare(b.Rows, a.Rows) })
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
	if r.Compared > 0 {
		s += fmt.Sprintf(", %s to compare with", group(r.Compared))
	}
	if r.PromptsCut > 0 {
		s += fmt.Sprintf(", %s with a cut prompt", group(r.PromptsCut))
	}
	if total := r.TrainTokens + r.ValTokens; total > 0 {
		s += fmt.Sprintf(" · %s tokens · supervised %.0f %%", group(total), 100*float64(r.TrainSupervised+r.ValSupervised)/float64(total))
	}
	return s + fmt.Sprintf(" · val %s samples", group(int64(r.ValSamples)))
}
