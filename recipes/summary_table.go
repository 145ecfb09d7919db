package recipes

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/train/eval"
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

// artifact is a model that a run starts from or makes.
type artifact struct {
	name string
	ref  Ref
	row  Row
}

// tables puts sizes and measurements of all models side by side.
func (x *run) tables() []Table {
	arts := x.artifacts()
	var out []Table
	for _, j := range x.jobs {
		res := x.done[j.Stage.ID]
		if res == nil || res.Eval == nil {
			continue
		}
		t := Table{Eval: j.Stage.ID}
		for _, m := range x.targets(j) {
			t.Rows = append(t.Rows, x.measuredRow(j, m, res.Eval, arts))
		}
		out = append(out, t)
	}
	if x.oneTable(out) {
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
	return append([]Table{merged(out[0], arts, out)}, out[1:]...)
}

// oneTable reports whether several evaluations can stand in one table: they
// measured on the same data, and no model twice.
func (x *run) oneTable(ts []Table) bool {
	seen := map[string]bool{}
	var data []string
	for _, t := range ts {
		for _, j := range x.jobs {
			if ref, ok := j.In("data"); ok && j.Stage.ID == t.Eval {
				data = append(data, fmt.Sprint(ref.String(), j.Stage.Eval.Samples, j.Stage.Eval.Context))
			}
		}
		for _, r := range t.Rows {
			if seen[r.Model] {
				return false
			}
			seen[r.Model] = true
		}
	}
	return len(ts) > 1 && len(slices.Compact(data)) == 1
}

// merged adds the artifacts that no table speaks of to the first one, in the
// order they were made.
func merged(t Table, arts []*artifact, all []Table) Table {
	seen := map[string]bool{}
	for _, other := range all {
		for _, r := range other.Rows {
			seen[r.Path] = true
		}
	}
	var lost []*Row
	for _, a := range arts {
		if !seen[a.row.Path] {
			row := a.row
			lost = append(lost, &row)
		}
	}
	t.Rows = append(t.Rows, lost...)
	order := map[string]int{}
	for i, a := range arts {
		order[a.row.Path] = i
	}
	return Table{t.Eval, stableBy(t.Rows, func(r *Row) int {
		if i, ok := order[r.Path]; ok {
			return i
		}
		return len(arts)
	})}
}

// stableBy sorts by a key and keeps the order of equals.
func stableBy[T any](in []T, key func(T) int) []T {
	out := make([]T, 0, len(in))
	for k := 0; len(out) < len(in); k++ {
		for _, v := range in {
			if key(v) == k {
				out = append(out, v)
			}
		}
	}
	return out
}

// artifacts lists the base and what finished stages made, in order.
func (x *run) artifacts() []*artifact {
	var out []*artifact
	add := func(name string, ref Ref, row Row) {
		row.Model, row.Path = name, x.pathOf(ref)
		row.measure()
		out = append(out, &artifact{name, ref, row})
	}
	if x.BaseModel != "" {
		add("base", Ref{Kind: ModelRef, Path: x.BaseModel}, Row{})
	}
	for _, j := range x.jobs {
		s, res := j.Stage, x.done[j.Stage.ID]
		if res == nil {
			continue
		}
		ref := Ref{Kind: ModelRef, Stage: s.ID}
		switch {
		case s.Train != nil:
			add(s.ID, ref, Row{Adapter: s.Train.Adapter != "none"})
		case s.Merge != nil:
			row := Row{}
			if res.Merge != nil && res.Merge.KL != nil {
				row.MergeKL = &Measured{Value: res.Merge.KL.KL, N: int(res.Merge.KL.Tokens)}
			}
			add(s.ID, Ref{Kind: ModelRef, Stage: s.ID}, row)
			out[len(out)-1].row.Path = x.mergePath(s)
			out[len(out)-1].row.measure()
		case s.Quantize != nil:
			add(s.ID, ref, Row{})
		case s.Export != nil:
			for _, t := range s.Export.Type {
				ref.Member = t
				add(s.ID+"/"+t, ref, Row{})
			}
		}
	}
	return out
}

// measure fills in size and bits a weight from the file's header.
func (r *Row) measure() {
	path, err := resolvePath(r.Path)
	if err != nil {
		return
	}
	f, err := formats.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	var held, weights int64
	r.Bytes = 0
	for _, t := range f.Tensors() {
		r.Bytes += t.Stored()
		if t.Unsupported == "" {
			held += int64(dtype.Size(t.Type, t.Rows(), t.Cols()))
			weights += t.Elements()
		}
	}
	if !r.Adapter && weights > 0 {
		r.Bits = 8 * float64(held) / float64(weights)
	}
}

// measuredRow is the row of one evaluated model.
func (x *run) measuredRow(j *Job, m EvalTarget, res *EvalResult, arts []*artifact) *Row {
	row := Row{Path: m.Path}
	for _, a := range arts {
		if a.row.Path == m.Path && len(m.Adapters) == 0 {
			row = a.row
		}
	}
	row.Model = m.Name
	if row.Bytes == 0 {
		row.measure()
	}
	row.Reference = x.referenceName(j, m, arts)
	for _, v := range res.Metrics {
		if v.Model != m.Name {
			continue
		}
		if p := row.slot(v.Metric); p != nil && !math.IsNaN(v.Value) {
			*p = &Measured{v.Value, v.StdErr, v.N}
		}
	}
	row.Gate = verdictOf(res.Checks, m.Name)
	return &row
}

func (r *Row) slot(metric string) **Measured {
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

// verdictOf is the worst verdict about a model; "" where no gate speaks of it.
func verdictOf(checks []eval.Check, name string) string {
	out := ""
	for _, c := range checks {
		if c.Model != name {
			continue
		}
		if out == "" || c.Verdict == eval.Failed || c.Verdict == eval.Unsure && out == string(eval.Pass) {
			out = string(c.Verdict)
		}
	}
	return out
}

// referenceName is what people call the model that kl compares with.
func (x *run) referenceName(j *Job, m EvalTarget, arts []*artifact) string {
	if m.Reference == "" {
		return ""
	}
	for _, a := range arts {
		if a.row.Path == m.Reference {
			return a.name
		}
	}
	return filepath.Base(m.Reference)
}

// columns of a table as people read it. A column that no row fills is left out.
var columns = []struct {
	head  string
	right bool
	cell  func(*Row) string
}{
	{"model", false, func(r *Row) string { return r.Model }},
	{"size", true, func(r *Row) string { return sized(r.Bytes) }},
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
			return "merge " + sig(r.MergeKL.Value, 2)
		}
		return ""
	}
	s := sig(r.KL.Value, 3)
	if r.KL99 != nil {
		s += " (99 %: " + sig(r.KL99.Value, 2) + ")"
	}
	if r.MergeKL != nil {
		s += ", merge " + sig(r.MergeKL.Value, 2)
	}
	return s
}

func sized(n int64) string {
	if n == 0 {
		return ""
	}
	return humanize.Bytes(uint64(n))
}

func nonzero(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// sig prints v with digits significant digits, plainly where that is short.
func sig(v float64, digits int) string {
	a := math.Abs(v)
	if a == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	if a < 1e-4 || a >= 1e6 {
		return strings.Replace(fmt.Sprintf("%.*e", digits-1, v), "e-0", "e-", 1)
	}
	return fmt.Sprintf("%.*f", max(0, digits-1-int(math.Floor(math.Log10(a)))), v)
}

// plusMinus is a value with its standard error, both to the error's second
// digit.
func plusMinus(m *Measured, digits int) string {
	if m == nil {
		return ""
	}
	if !(m.StdErr > 0) {
		return sig(m.Value, digits)
	}
	d := max(0, 1-int(math.Floor(math.Log10(m.StdErr))))
	if d > 6 || m.Value >= 1e6 {
		return sig(m.Value, digits)
	}
	return fmt.Sprintf("%.*f ±%.*f", d, m.Value, d, m.StdErr)
}

func percent(m *Measured) string {
	if m == nil {
		return ""
	}
	s := fmt.Sprintf("%.1f %%", 100*m.Value)
	if m.StdErr >= 0.0005 {
		s += fmt.Sprintf(" ±%.1f", 100*m.StdErr)
	}
	return s
}

func rate(m *Measured) string {
	if m == nil {
		return ""
	}
	return sig(m.Value, 3) + " tok/s"
}
