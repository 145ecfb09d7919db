package report

import (
	"path/filepath"
	"slices"
)

// Table lists models with what is known about them: one a run, or one for each
// eval stage where there are several.
type Table struct {
	Eval string `json:"eval,omitempty"` // the stage that measured
	Rows []*Row `json:"rows"`
}

// Measured is a number with its standard error.
type Measured struct {
	Value  float64 `json:"value"`
	StdErr float64 `json:"stderr,omitempty"`
	N      int     `json:"n,omitempty"`
}

// Row is one model of a table. What was not measured is nil.
type Row struct {
	Model     string    `json:"model"`
	Path      string    `json:"path"`
	Adapter   bool      `json:"adapter,omitempty"` // adds to a base, is no model of its own
	Bytes     int64     `json:"bytes,omitempty"`
	Bits      float64   `json:"bits_per_weight,omitempty"`
	Reference string    `json:"reference,omitempty"` // what kl and top1 compare with
	PPL       *Measured `json:"perplexity,omitempty"`
	KL        *Measured `json:"kl,omitempty"`
	KL99      *Measured `json:"kl_p99,omitempty"`
	MergeKL   *Measured `json:"merge_kl,omitempty"` // base+adapter against merged
	Top1      *Measured `json:"top1,omitempty"`
	Exact     *Measured `json:"exact_match,omitempty"`
	Decode    *Measured `json:"decode_tokens_per_second,omitempty"`
	Prompt    *Measured `json:"prompt_tokens_per_second,omitempty"`
	Gate      string    `json:"gate,omitempty"` // pass, fail, unsure
}

// Tables puts what is known of all models side by side: base (nil: none), what
// stages made, and what stages measured. weigh fills in the size of a row from
// the files at its path.
func Tables(base *Row, sections []Section, weigh func(*Row)) []Table {
	var made []*Row
	add := func(r Row) {
		weigh(&r)
		made = append(made, &r)
	}
	if base != nil {
		add(*base)
	}
	for _, s := range sections {
		for _, m := range s.Models {
			add(m)
		}
	}
	var out []Table
	var data []string
	for _, s := range sections {
		if s.Measured == nil {
			continue
		}
		t := Table{Eval: s.Stage}
		for _, m := range s.Measured {
			t.Rows = append(t.Rows, m.beside(made, weigh))
		}
		out, data = append(out, t), append(data, s.MeasuredOn)
	}
	if oneTable(out, data) {
		for _, t := range out[1:] {
			out[0].Rows = append(out[0].Rows, t.Rows...)
		}
		out = out[:1]
	}
	if len(out) == 0 {
		out = []Table{{}}
	}
	if len(out) == 1 {
		out[0].Eval = ""
	}
	return append([]Table{merged(out[0], made, out)}, out[1:]...)
}

// oneTable reports whether several evaluations can stand in one table: they
// measured on the same data, and no model twice.
func oneTable(ts []Table, data []string) bool {
	seen := map[string]bool{}
	for _, t := range ts {
		for _, r := range t.Rows {
			if seen[r.Model] {
				return false
			}
			seen[r.Model] = true
		}
	}
	return len(ts) > 1 && len(slices.Compact(data)) == 1
}

// beside is a measured row with what is known of the model's files.
func (m *MeasuredRow) beside(made []*Row, weigh func(*Row)) *Row {
	row := m.Row
	for _, a := range made {
		if a.Path == m.Path && m.Alone {
			row.Adapter, row.Bytes, row.Bits, row.MergeKL = a.Adapter, a.Bytes, a.Bits, a.MergeKL
		}
	}
	if row.Bytes == 0 {
		weigh(&row)
	}
	if row.Reference == "" {
		return &row
	}
	row.Reference = filepath.Base(m.Reference)
	for _, a := range made {
		if a.Path == m.Reference {
			row.Reference = a.Model
			break
		}
	}
	return &row
}

// merged adds the artifacts that no table speaks of to the first one, in the
// order they were made.
func merged(t Table, made []*Row, all []Table) Table {
	seen, named := map[string]bool{}, map[string]bool{}
	for _, other := range all {
		for _, r := range other.Rows {
			seen[r.Path], named[r.Model] = true, true
		}
	}
	var lost []*Row
	for _, a := range made {
		if !seen[a.Path] && !(a.Adapter && named[a.Model]) { // an adapter that was measured on its base
			lost = append(lost, a)
		}
	}
	t.Rows = append(t.Rows, lost...)
	order := map[string]int{}
	for i, a := range made {
		order[a.Path] = i
	}
	place := func(r *Row) int {
		if i, ok := order[r.Path]; ok {
			return i
		}
		return len(made)
	}
	slices.SortStableFunc(t.Rows, func(a, b *Row) int { return place(a) - place(b) })
	return t
}

// Slot is where a row holds a metric, nil for one that no table shows.
func (r *Row) Slot(metric string) **Measured {
	switch metric {
	case "perplexity":
		return &r.PPL
	case "kl":
		return &r.KL
	case "kl_p99":
		return &r.KL99
	case "top1":
		return &r.Top1
	case "exact_match":
		return &r.Exact
	case "decode_tokens_per_second":
		return &r.Decode
	case "prompt_tokens_per_second":
		return &r.Prompt
	}
	return nil
}

// columns of a table as people read it. A column that no row fills is left out.
var columns = []struct {
	head  string
	right bool
	cell  func(*Row) string
}{
	{"model", false, func(r *Row) string { return r.Model }},
	{"size", true, func(r *Row) string { return Size(r.Bytes) }},
	{"bits", true, func(r *Row) string { return nonzero("%.2f", r.Bits) }},
	{"ppl", true, func(r *Row) string { return plusMinus(r.PPL, 3) }},
	{"KL to", true, klCell},
	{"same top-1", true, func(r *Row) string { return percent(r.Top1) }},
	{"exact match", true, func(r *Row) string { return percent(r.Exact) }},
	{"decode", true, func(r *Row) string { return rate(r.Decode) }},
	{"gate", false, func(r *Row) string { return r.Gate }},
}

// grid is the table's cells, with the heads in the first row.
func (t Table) grid() (head []string, right []bool, cells [][]string) {
	cells = make([][]string, len(t.Rows))
	for _, c := range columns {
		filled := false
		col := make([]string, len(t.Rows))
		for i, r := range t.Rows {
			col[i] = c.cell(r)
			filled = filled || col[i] != ""
		}
		if !filled {
			continue
		}
		name := c.head
		if name == "KL to" {
			name = t.klHead()
		}
		head, right = append(head, name), append(right, c.right)
		for i := range cells {
			cells[i] = append(cells[i], col[i])
		}
	}
	return head, right, cells
}

// klHead names the reference where all rows share one.
func (t Table) klHead() string {
	ref := ""
	for _, r := range t.Rows {
		if r.Reference == "" || r.KL == nil {
			continue
		}
		if ref != "" && ref != r.Reference {
			return "KL to its origin"
		}
		ref = r.Reference
	}
	if ref == "" {
		return "KL"
	}
	return "KL to " + ref
}

func klCell(r *Row) string {
	if r.KL == nil {
		if r.MergeKL != nil {
			return "merge " + Sig(r.MergeKL.Value, 2)
		}
		return ""
	}
	s := Sig(r.KL.Value, 3)
	if r.KL99 != nil {
		s += " (99 %: " + Sig(r.KL99.Value, 2) + ")"
	}
	if r.MergeKL != nil {
		s += ", merge " + Sig(r.MergeKL.Value, 2)
	}
	return s
}
