package data

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
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
	named bool       // only where a source says so
}{
	{name: typeTokens, needs: [][]string{{"input_ids"}}},
	{name: typePreference, needs: [][]string{{"chosen", "rejected"}, {"messages", "label"}, {"prompt", "completion", "label"}}},
	{name: typeChat, needs: [][]string{{"messages"}}},
	{name: typePrompt, needs: [][]string{{"prompt", "completion"}}},
	{name: typeInstruct, needs: [][]string{{"instruction", "output"}}},
	{name: typeText, needs: [][]string{{"text"}}},
	{name: typePromptOnly, needs: [][]string{{"prompt"}, {"instruction"}, {"messages"}}, named: true},
}

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
	if _, ok := row.Get(name); ok || name == "" {
		return ok
	}
	head, _, nested := strings.Cut(name, ".")
	_, ok := row.Get(head)
	return nested && ok
}

// at is the value of a column that is named by its own name or, within columns that
// are objects, by a path: data.messages. It is nil where there is none.
func at(row *jinja.Dict, name string) any {
	if v, ok := row.Get(name); ok {
		return v
	}
	for i := range len(name) { // names may hold dots of their own
		if name[i] != '.' {
			continue
		}
		v, _ := row.Get(name[:i])
		if d, ok := v.(*jinja.Dict); ok {
			if v := at(d, name[i+1:]); v != nil {
				return v
			}
		}
	}
	return nil
}

// detect finds the type of a file by the columns of its first row.
// chats is whether the model has a chat template, for the hint.
func detect(file string, c columns, row *jinja.Dict, chats bool) (string, error) {
	for _, t := range datasetTypes {
		for _, set := range t.needs {
			if !t.named && !slices.ContainsFunc(set, func(n string) bool { return !c.has(row, n) }) {
				if t.name == typePreference && set[len(set)-1] == "label" && !isBool(c.get(row, "label")) {
					continue
				}
				return t.name, nil
			}
		}
	}
	return "", fail.Inputf(file, guess(row, chats), "columns [%s] fit no dataset type", strings.Join(rowKeys(row), ", "))
}

func isBool(v any) bool { _, ok := v.(bool); return ok }

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
