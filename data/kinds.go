package data

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/fail"
)

// The dataset types.
const (
	typeText       = "text"
	typeChat       = "chat"
	typeInstruct   = "instruct"
	typePrompt     = "prompt_completion"
	typeTokens     = "tokens"
	typePreference = "preference"
	typePromptOnly = "prompt"
)

// datasetTypes are the types by the columns that decide them, in the order in
// which they are tried. The first column of each alternative that the file
// has under another name is found by Source.Columns.
var datasetTypes = []struct {
	name  string
	needs [][]string // any of these sets of columns
	reads []string   // further columns that mean something
	named bool       // only where a source says so
}{
	{name: typeTokens, needs: [][]string{{"input_ids"}}, reads: []string{"labels", "attention_mask"}},
	{name: typePreference, needs: [][]string{{"chosen", "rejected"}, {"messages", "label"}, {"prompt", "completion", "label"}},
		reads: append([]string{"margin", "score_chosen", "score_rejected"}, ofMessages...)},
	{name: typeChat, needs: [][]string{{"messages"}}, reads: ofMessages},
	{name: typePrompt, needs: [][]string{{"prompt", "completion"}}, reads: ofMessages},
	{name: typeInstruct, needs: [][]string{{"instruction", "output"}}, reads: []string{"input", "history", "system", "tools"}},
	{name: typeText, needs: [][]string{{"text"}}},
	{name: typePromptOnly, needs: [][]string{{"prompt"}, {"instruction"}, {"messages"}}, reads: append([]string{"input", "history"}, ofMessages...), named: true},
}

// ofMessages are the columns that go with messages, and those within them.
var ofMessages = []string{"role", "content", "system", "tools"}

// otherNames are the names under which a column is also looked for.
var otherNames = map[string][]string{
	"messages": {"conversations", "conversation"},
	"role":     {"from"},
	"content":  {"value"},
}

// knownColumns are the keys that Source.Columns may have.
var knownColumns = []string{"messages", "role", "content", "tools", "system", "prompt", "completion", "instruction",
	"input", "output", "history", "text", "input_ids", "labels", "attention_mask", "chosen", "rejected", "label", "margin", "score_chosen", "score_rejected"}

// guesses are pairs of columns that look like prompt and completion; they are
// offered in a hint and never applied.
var guesses = [][2]string{{"question", "answer"}, {"q", "a"}, {"query", "response"}, {"prompt", "response"}, {"prompt", "answer"},
	{"input", "output"}, {"input", "target"}, {"source", "target"}, {"context", "response"}, {"instruction", "response"},
	{"question", "response"}, {"query", "answer"}, {"prompt", "output"}, {"inputs", "targets"}, {"inputs", "outputs"}, {"instruction", "answer"}, {"problem", "solution"}}

// columns finds columns of a row by our names: to the row's own, which may be paths.
type columns map[string]string

// name is the row's own name of a column, or "".
func (c columns) name(row *jinja.Dict, ours string) string {
	if theirs, ok := c[ours]; ok {
		return theirs
	}
	if _, ok := row.Get(ours); ok {
		return ours
	}
	for _, n := range otherNames[ours] {
		if _, ok := row.Get(n); ok {
			return n
		}
	}
	return ""
}

// get is the value of a column; nil when the row does not have it.
func (c columns) get(row *jinja.Dict, ours string) any {
	name := c.name(row, ours)
	if name == "" {
		return nil
	}
	return at(row, name)
}

// has tells whether a row has the column; of a path, where it begins.
func (c columns) has(row *jinja.Dict, ours string) bool {
	name := c.name(row, ours)
	if name == "" { // not the column without a name that pandas writes its index into
		return false
	}
	if _, ok := row.Get(name); ok {
		return true
	}
	head, _, nested := strings.Cut(name, ".")
	_, ok := row.Get(head)
	return nested && ok
}

// at is the value of a column that is named by its own name or, within columns that
// are objects, by a path: data.messages. It is nil where there is none.
func at(row *jinja.Dict, name string) any {
	v, _ := find(row, name)
	return v
}

// find is at, and whether there is such a column, null or not.
func find(row *jinja.Dict, name string) (v any, ok bool) {
	if v, ok = row.Get(name); ok {
		return v, true
	}
	for i := range len(name) { // names may hold dots of their own
		if name[i] != '.' {
			continue
		}
		head, _ := row.Get(name[:i])
		if d, nested := head.(*jinja.Dict); nested {
			v, there := find(d, name[i+1:])
			if ok = ok || there; v != nil {
				return v, true
			}
		}
	}
	return nil, ok
}

// detect finds the type of a file by the columns of its first row.
// chats is whether the model has a chat template, for the hint.
func detect(file string, c columns, row *jinja.Dict, chats bool) (string, error) {
	for _, t := range datasetTypes {
		for _, set := range t.needs {
			if !t.named && !slices.ContainsFunc(set, func(n string) bool { return !c.has(row, n) }) {
				if _, ok := truth(c.get(row, "label")); set[len(set)-1] == "label" && !ok {
					continue
				}
				return t.name, nil
			}
		}
	}
	for _, t := range datasetTypes {
		for _, ours := range slices.Concat(t.needs...) {
			if theirs, ok := c[ours]; ok && !c.has(row, ours) {
				return "", fail.Inputf(file, "columns maps our names to the file's", "columns: %s is %s, and the file has [%s]", ours, theirs, strings.Join(rowKeys(row), ", "))
			}
		}
	}
	return "", fail.Inputf(file, guess(row, chats), "columns [%s] fit no dataset type", strings.Join(rowKeys(row), ", "))
}

// truth is the label of an answer, true or false, or the word in a table whose values are all text.
func truth(v any) (wanted, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		v = strings.TrimSpace(v)
		return strings.EqualFold(v, "true"), strings.EqualFold(v, "true") || strings.EqualFold(v, "false")
	}
	return false, false
}

// zeroOne is a label that is 0 or 1, which may also be a class. A column of whole numbers
// with a gap is one of floats in many tables: 1.0.
func zeroOne(v any) (wanted, ok bool) {
	switch v := v.(type) {
	case int64:
		return v == 1, v == 0 || v == 1
	case float64:
		return v == 1, v == 0 || v == 1
	case string:
		if x, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			return zeroOne(x)
		}
	}
	return false, false
}

// gap reports whether a value says nothing: null, or an empty cell of a table whose
// values are all text.
func gap(v any) bool {
	s, text := v.(string)
	return v == nil || text && strings.TrimSpace(s) == ""
}

// checkLabel refuses a row of answers whose label may say whether they are wanted,
// where the type was found by the columns and would learn from all.
func (c columns) checkLabel(kind string, row *jinja.Dict) error {
	if kind != typeChat && kind != typePrompt && kind != typeInstruct {
		return nil
	}
	v := c.get(row, "label")
	if gap(v) {
		return nil
	}
	heeds := "type: preference"
	if kind == typeInstruct {
		heeds += fmt.Sprintf(" with columns: {prompt: %s, completion: %s}", c.name(row, "instruction"), c.name(row, "output"))
	}
	shown := rows.Shown(v)
	if _, ok := v.(bool); ok {
		shown = fmt.Sprint(v)
	}
	_, ok := truth(v)
	if _, maybe := zeroOne(v); !ok && !maybe {
		heeds += " with labels of true and false or 1 and 0"
	}
	return bad(c.name(row, "label"), "is %s, and rows of type %s are all learned, wanted or not: %s heeds it, type: %s leaves it aside", shown, kind, heeds, kind)
}

// rowKeys are the names of the columns, those within objects by their paths.
func rowKeys(row *jinja.Dict) []string {
	var out []string
	for i := range row.Len() {
		k, v := row.At(i)
		if d, ok := v.(*jinja.Dict); ok && d.Len() > 0 {
			for _, inner := range rowKeys(d) {
				out = append(out, fmt.Sprint(k)+"."+inner)
			}
			continue
		}
		out = append(out, fmt.Sprint(k))
	}
	return out
}

// guess writes out what the columns may mean.
func guess(row *jinja.Dict, chats bool) string {
	names := rowKeys(row)
	for _, g := range guesses {
		if slices.Contains(names, g[0]) && slices.Contains(names, g[1]) {
			if chats { // a question without its template is none the model was made for
				return fmt.Sprintf("type: instruct with columns: {instruction: %s, output: %s}, or prompt_completion, which writes no chat template", g[0], g[1])
			}
			return fmt.Sprintf("type: prompt_completion with columns: {prompt: %s, completion: %s}", g[0], g[1])
		}
	}
	for _, name := range names {
		if list, ok := at(row, name).([]any); ok && len(list) > 0 {
			if _, ok := list[0].(*jinja.Dict); ok {
				return fmt.Sprintf("type: chat with columns: {messages: %s}", name)
			}
		}
	}
	for _, name := range names {
		if _, ok := at(row, name).(string); ok {
			return fmt.Sprintf("type: text with columns: {text: %s}", name)
		}
	}
	return "name the columns: type: prompt_completion with columns: {prompt: …, completion: …}"
}

// checkType checks that a first row has what a chosen type needs.
func checkType(file, name string, c columns, row *jinja.Dict) error {
	for _, t := range datasetTypes {
		if t.name != name {
			continue
		}
		for _, set := range t.needs {
			if !slices.ContainsFunc(set, func(n string) bool { return !c.has(row, n) }) {
				return nil
			}
		}
		return fail.Inputf(file, "columns: {"+t.needs[0][0]+": …} says which column it is",
			"type %s needs the column %s; the file has [%s]", name, strings.Join(t.needs[0], " and "), strings.Join(rowKeys(row), ", "))
	}
	return fail.Usagef("ingest", "", "type %q is not known", name)
}

// checkRead refuses names of columns that rows of a type have no use for.
func checkRead(file, kind string, c columns) error {
	for _, t := range datasetTypes {
		if t.name != kind {
			continue
		}
		can := slices.Concat(append(slices.Clone(t.needs), t.reads)...)
		for _, ours := range slices.Sorted(maps.Keys(c)) {
			if !slices.Contains(can, ours) {
				return fail.Inputf(file, "type: says what the rows are", "columns: %s is %s, and rows of type %s have no %s", ours, c[ours], kind, ours)
			}
		}
	}
	return nil
}

// checkSource checks the keys of a source.
func checkSource(where string, s Source) error {
	if s.Path == "" {
		return fail.Usagef(where, "path: data/*.parquet", "datasets: an entry without path")
	}
	names := []string{"", "auto"}
	for _, t := range datasetTypes {
		names = append(names, t.name)
	}
	if !slices.Contains(names, s.Type) {
		return fail.Usagef(where, "types are "+strings.Join(names[1:], ", "), "datasets: type %q is not known", s.Type)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Columns)) {
		if !slices.Contains(knownColumns, k) {
			return fail.Usagef(where, "columns maps our names ("+strings.Join(knownColumns, ", ")+") to the file's", "datasets: columns: unknown name %q", k)
		}
	}
	if s.Weight < 0 || s.Weight > 1000 || s.Weight != s.Weight {
		return fail.Usagef(where, "2 takes every row twice, 0.5 half of them", "datasets: weight %v", s.Weight)
	}
	if s.MaxSamples < 0 {
		return fail.Usagef(where, "", "datasets: max_samples %d", s.MaxSamples)
	}
	return nil
}
