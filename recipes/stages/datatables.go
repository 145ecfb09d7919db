package stages

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/recipes/report"
)

// DataTables are what a person may want to act on in rows: by data set, rows of
// another script than most, of unusual length, and pairs that say nearly the same.
// Files are called by their ends: who gets a report is not told where they lay.
func DataTables(r *data.Report) []report.Grid {
	var out []report.Grid
	name := rowNames(r)
	for _, g := range []report.Grid{sourceTable(r), scriptTable(r, name),
		outlierTable("Longest rows", r.Rows, r.Longer, name), outlierTable("Rows that teach least", r.Rows, r.LeastSay, name),
		likeTable("Rows that say nearly the same", "like", r.Near, r.NearDuplicates, name), likeTable("Training rows that are nearly in an evaluation", "held back", r.NearHeld, r.NearOverlap, name)} {
		if len(g.Rows) > 0 {
			out = append(out, g)
		}
	}
	return out
}

// rowNames calls rows by the shortest ends of their files' paths that tell these apart.
func rowNames(r *data.Report) func(data.RowRef) string {
	files := make([]string, len(r.Files))
	for i, f := range r.Files {
		files[i] = f.Path
	}
	short := map[string]string{}
	for i, name := range data.ShortNames(files) {
		short[files[i]] = name
	}
	return func(ref data.RowRef) string {
		ref.File = cmp.Or(short[ref.File], ref.File)
		return ref.String()
	}
}

// sourceTable shows several data sets side by side.
func sourceTable(r *data.Report) report.Grid {
	g := report.Grid{Title: "By data set", Left: 2, Head: []string{"data set", "part", "rows", "dropped", "copies", "near", "in evaluation", "tokens", "learned", "longest", "samples", "of training"}}
	if len(r.Sources) < 2 {
		return g
	}
	var all int64
	for _, s := range r.Sources {
		all += s.TrainTokens
	}
	n := func(v int64) string { return humanize.Comma(v) }
	paths := make([]string, len(r.Sources))
	for i, s := range r.Sources {
		paths[i] = s.Path
	}
	paths = data.ShortNames(paths)
	for i, s := range r.Sources {
		of := ""
		if s.Part == "train" {
			of = share(s.TrainTokens, all)
		}
		row := []string{paths[i], s.Part, n(s.Rows), n(s.Dropped), n(s.Duplicates), n(s.NearDuplicates), n(s.Overlap), n(s.Tokens), share(s.Supervised, s.Tokens), n(int64(s.Longest)), n(s.Samples), of}
		if s.Weight != 0 && s.Weight != 1 {
			row[1] += fmt.Sprintf(" × %g", s.Weight)
		}
		g.Rows = append(g.Rows, row)
	}
	g.Note = "learned: of the tokens; samples: trained on in an epoch, weights counted; of training: their share of its tokens"
	return g
}

// share writes a part as a percentage.
func share(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

func scriptTable(r *data.Report, name func(data.RowRef) string) report.Grid {
	g := report.Grid{Title: "Rows of another script than most", Left: 2, Head: []string{"script", "the first", "rows"},
		Note: "by the script that most letters of a row are of; languages of one script are not told apart"}
	for _, s := range r.Outliers() {
		var first []string
		for _, ref := range s.First {
			first = append(first, name(ref))
		}
		g.Rows = append(g.Rows, []string{s.Script, strings.Join(first, ", "), humanize.Comma(s.Rows)})
	}
	return g
}

// fewRows are so many that none of them is an outlier.
const fewRows = 50

func outlierTable(title string, rows int64, list []data.Outlier, name func(data.RowRef) string) report.Grid {
	g := report.Grid{Title: title, Left: 1, Head: []string{"row", "tokens", "learned"}}
	if rows < fewRows { // a person sees them all
		return g
	}
	for _, o := range list {
		g.Rows = append(g.Rows, []string{name(o.RowRef), humanize.Comma(int64(o.Tokens)), humanize.Comma(int64(o.Supervised))})
	}
	return g
}

func likeTable(title, what string, list []data.Like, all int64, name func(data.RowRef) string) report.Grid {
	g := report.Grid{Title: title, Left: 2, Head: []string{"row", what, "similarity"}}
	for _, l := range list {
		g.Rows = append(g.Rows, []string{name(l.RowRef), name(l.Other), fmt.Sprintf("%.2f", l.Similarity)})
	}
	if more := all - int64(len(list)); more > 0 {
		g.Note = "and " + humanize.Comma(more) + " more"
	}
	return g
}
