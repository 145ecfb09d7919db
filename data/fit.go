package data

import (
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// overflow counts the rows over max_length and what each way out would cost.
type overflow struct {
	rows     int64
	first    RowRef
	length   int   // of the first
	lostRows int64 // supervised tokens of those rows
	lostTail int64 // supervised tokens beyond max_length
}

// fitted is what becomes of a row: itself, a part of it, several or none.
type fitted struct {
	id    uint64 // of the whole row
	parts []Example
	// together says that parts are learned from together, as a group.
	together bool

	all  int64 // supervised tokens of the row
	head int64 // of its first max_length tokens
	kept int64 // of parts
}

// fit makes the samples of a row without its report.
func fit(ref RowRef, e encoded, limit int, overflow string) fitted {
	row := Example{ID: contentID(e.ids, e.loss), IDs: e.ids, Loss: e.loss, From: ref, Row: e.row}
	f := fitted{id: row.ID, all: int64(row.Supervised())}
	if e.mark < 0 { // another row than the same answer wanted
		f.id = mix64(row.ID)
	}
	row.Mark = e.mark
	if len(e.ids) <= limit {
		f.parts, f.head, f.kept = []Example{row}, f.all, f.all
		return f
	}
	head := window(row, 0, limit)
	f.head = int64(head.Supervised())
	switch {
	case overflow == "truncate" && f.head > 0:
		f.parts = []Example{head}
	case overflow == "split":
		f.parts = split(row, limit)
	}
	for i := range f.parts {
		w := &f.parts[i]
		w.ID, w.Mark = contentID(w.IDs, w.Loss), e.mark
		f.kept += int64(w.Supervised())
	}
	return f
}

// fate counts what fit did to a row.
func (in *ingest) fate(ref RowRef, tokens int, f fitted) {
	if tokens <= in.o.MaxLength {
		in.report.Kept++
		return
	}
	in.tooLong.add(ref, tokens, f.all, f.all-f.head)
	if in.o.Overflow != "error" { // which is reported at the end
		in.report.LostSupervised += f.all - f.kept
	}
	switch {
	case in.o.Overflow == "drop":
		in.report.drop("too_long")
	case in.o.Overflow == "truncate" && len(f.parts) > 0:
		in.report.Truncated++
	case in.o.Overflow == "split" && len(f.parts) > 0:
		in.report.Split++
	case in.o.Overflow != "error":
		in.report.drop("no_supervised_token")
	}
}

// split cuts a row into samples of at most limit tokens; parts without a
// supervised token are left out. A token that begins a part has nothing before
// it to be predicted from.
func split(row Example, limit int) []Example {
	var out []Example
	for at := 0; at < len(row.IDs); at += limit {
		if w := window(row, at, min(at+limit, len(row.IDs))); w.Supervised() > 0 {
			out = append(out, w)
		}
	}
	return out
}

// window is the part [lo, hi) of a sample, without its ID.
func window(e Example, lo, hi int) Example {
	w := Example{IDs: e.IDs[lo:hi:hi], From: e.From}
	for _, r := range e.Loss {
		from, to := max(int(r[0]), lo)-lo, min(int(r[1]), hi)-lo
		if from < to {
			w.Loss = append(w.Loss, [2]int32{int32(from), int32(to)})
		}
	}
	return w
}

func (o *overflow) add(ref RowRef, length int, all, tail int64) {
	if o.rows == 0 {
		o.first, o.length = ref, length
	}
	o.rows++
	o.lostRows += all
	o.lostTail += tail
}

// verdict is the error that the rows as a whole deserve.
func (in *ingest) verdict() error {
	r := in.report
	if r.badRows > 0 && in.o.BadRows == "error" {
		what := in.first.RowRef.String() + ": " + in.first.Error()
		if r.badRows > 1 {
			what = fmt.Sprintf("%s (and %s more bad rows of %s)", what, group(r.badRows-1), group(r.Rows))
		}
		return fail.Inputf("", "tune ingest --errors bad.jsonl writes all of them; bad_rows: drop leaves them out", "%s", what)
	}
	if in.tooLong.rows > 0 && in.o.Overflow == "error" {
		return in.overflowError()
	}
	if in.chats && !in.ends && r.Kept+r.Truncated+r.Split > 0 {
		return fail.Inputf(in.report.LongestAt.String(), "add the token to the tokenizer's EOS tokens, or say train_on_eos: none",
			"end of turn is never supervised: none of %s ends what the assistant writes, so the model would not learn to stop", in.enc.endNames())
	}
	return nil
}

// nothing is the error of rows of which none is left.
func (in *ingest) nothing() error {
	r := in.report
	if r.Rows == 0 {
		var paths []string
		for _, d := range in.o.Datasets {
			paths = append(paths, d.Path)
		}
		return fail.Inputf(in.o.Name, "the files have no rows: look at what path names", "no row to train on (0 rows read of %s)", strings.Join(paths, ", "))
	}
	if r.badRows == 0 {
		return fail.Inputf(in.o.Name, "see the report for what happened to each row", "no row to train on (%s rows read)", group(r.Rows))
	}
	return fail.Inputf(in.o.Name, "tune ingest --errors bad.jsonl writes what is wrong with each", "no row to train on (%s rows read, %s bad; the first: %s: %s)",
		group(r.Rows), group(r.badRows), in.first.RowRef, in.first.Error())
}

// overflowError is UX.md E3: the counts, the first row and each way out.
func (in *ingest) overflowError() error {
	t, r := in.tooLong, in.report
	supervised := max(r.supervised, 1)
	hint := fmt.Sprintf("overflow: drop loses %.1f %% of rows, truncate %.1f %% of supervised tokens; max_length: %d keeps all",
		100*float64(t.rows)/float64(r.Rows), 100*float64(t.lostTail)/float64(supervised), roundUp(r.Longest))
	if in.o.Context > 0 && r.Longest > in.o.Context {
		hint = fmt.Sprintf("overflow: drop loses %.1f %% of rows, truncate %.1f %% of supervised tokens; the longest row (%s tokens) is over the model's context of %d",
			100*float64(t.rows)/float64(r.Rows), 100*float64(t.lostTail)/float64(supervised), group(int64(r.Longest)), in.o.Context)
	}
	return fail.Inputf("", hint, "%s of %s rows are longer than max_length %d (first: %s, %s tokens; %s)",
		group(t.rows), group(r.Rows), in.o.MaxLength, t.first, group(int64(t.length)), r.overLine())
}

// roundUp is the next multiple of 256, which divides work well.
func roundUp(n int) int { return (n + 255) / 256 * 256 }

func (e *encoding) endNames() string {
	names := e.tok.EOSTexts()
	if len(names) == 0 {
		return "the end tokens (the tokenizer has none)"
	}
	return fmt.Sprint(names)
}
