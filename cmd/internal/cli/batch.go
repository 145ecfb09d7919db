package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// batchFlags are those of a command that takes one model after another; expands
// lists what --output may hold beside {name} and {parent}, a model's own name and that
// of the folder it lies in.
func batchFlags(expands string) []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringSliceFlag{Name: "model", Aliases: []string{"m"}, Usage: "model, or @FILE with one a line (may repeat)"},
		&ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "where to write; {name}, {parent}" + expands + " expand"},
		forceFlag(),
		&ucli.StringFlag{Name: "shard", Usage: "i/n: every n-th model from the i-th on, to share a list among machines"},
		&ucli.StringFlag{Name: "summary", Usage: "append one row a model to FILE.md"},
	}
}

// task is one model of a batch, and where it goes.
type task struct {
	Model  string `json:"model"`
	Output string `json:"output"`
}

// outcome is what a command says of a model that is finished.
type outcome struct {
	text string // for people
	json any    // for programs
	how  string // for the summary: method or type
	bits float64
	size string
}

// modelList expands @FILE.
func modelList(c *ucli.Context) ([]string, error) {
	var out []string
	for _, m := range c.StringSlice("model") {
		name, ok := strings.CutPrefix(m, "@")
		if !ok {
			out = append(out, m)
			continue
		}
		raw, err := formats.TextFile(name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out = append(out, line)
			}
		}
	}
	if len(out) == 0 {
		return nil, usagef(c, "--model is required")
	}
	return out, nil
}

// outputWord is a word of --output that each model puts its own in place of.
var outputWord = regexp.MustCompile(`\{[a-z_]+\}`)

// tasks are the models of a command with their outputs, as many as --shard leaves.
// All outputs are made first: two that are equal are found before any work. many
// tells whether there are several in all.
func tasks(c *ucli.Context, expand map[string]string) (list []task, many bool, err error) {
	models, err := modelList(c)
	if err != nil {
		return nil, false, err
	}
	output := c.String("output")
	known := map[string]string{"{name}": "", "{parent}": ""}
	for k, v := range expand {
		known["{"+k+"}"] = v
	}
	for _, word := range outputWord.FindAllString(output, -1) {
		if _, ok := known[word]; !ok {
			return nil, many, fail.Usagef("", "it may hold "+strings.Join(slices.Sorted(maps.Keys(known)), ", "), "--output has %s", word)
		}
	}
	if many = len(models) > 1; many && output != "" && !strings.Contains(output, "{name}") && !strings.Contains(output, "{parent}") {
		return nil, many, usagef(c, "--output needs {name} with several models")
	}
	made := map[string]string{}
	for _, m := range models {
		known["{name}"], known["{parent}"] = nameOf(m), filepath.Base(filepath.Dir(realPath(m)))
		t := task{m, outputWord.ReplaceAllStringFunc(output, func(word string) string { return known[word] })}
		if twin, twice := made[filepath.Clean(t.Output)]; twice && output != "" {
			return nil, many, fail.Usagef("", "give them one at a time, each with an --output of its own", "%s and %s would both be written to %s", twin, m, t.Output)
		}
		made[filepath.Clean(t.Output)] = m
		list = append(list, t)
	}
	list, err = shard(c, list)
	return list, many, err
}

// shard is the part of a list that --shard asks for.
func shard(c *ucli.Context, list []task) ([]task, error) {
	s := c.String("shard")
	if s == "" {
		return list, nil
	}
	a, b, ok := strings.Cut(s, "/")
	i, err := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	if !ok || err != nil || err2 != nil || i < 1 || i > n {
		return nil, usagef(c, "--shard %q: want i/n such as 1/4, with i from 1 to n", s)
	}
	var out []task
	for at := i - 1; at < len(list); at += n {
		out = append(out, list[at])
	}
	return out, nil
}

// batch does one task after another. With several models a failure does not stop
// the rest, and the highest exit code wins; one returns no outcome for what was done
// already.
func batch(c *ucli.Context, list []task, many bool, one func(task) (*outcome, error)) error {
	if f := c.String("summary"); f != "" {
		if st, err := os.Stat(f); err != nil || st.Size() == 0 {
			if err := atomic.Append(f, []byte("| model | how | output | bits a weight | size |\n|---|---|---|---:|---:|\n")); err != nil {
				return err
			}
		}
	}
	var worst error
	var failed []string
	done := 0
	for _, t := range list {
		if c.Context.Err() != nil && many {
			break
		}
		o, err := one(t)
		if err == nil {
			done++
			err = tell(c, o)
		}
		if err == nil {
			err = summarize(c, t, o, nil)
		} else if serr := summarize(c, t, nil, err); many {
			failed = append(failed, t.Model)
			tellFailure(c, t, err)
			if serr != nil {
				return serr
			}
		}
		if fail.Code(err) > fail.Code(worst) {
			worst = err
		}
	}
	if !many {
		return worst
	}
	text := fmt.Sprintf("%d of %d done", done, len(list))
	if worst != nil {
		return &fail.Error{Kind: fail.Kind(fail.Code(worst)), Msg: fmt.Sprintf("%s, %d failed: %s", text, len(failed), strings.Join(failed, ", "))}
	}
	if !c.Bool("quiet") {
		fmt.Fprintln(c.App.ErrWriter, text)
	}
	return c.Context.Err()
}

// tell prints an outcome.
func tell(c *ucli.Context, o *outcome) error {
	switch {
	case o == nil:
		return nil
	case c.Bool("json"):
		return writeJSON(c, o.json)
	}
	_, err := fmt.Fprint(c.App.Writer, o.text)
	return err
}

// tellFailure prints what became of one of several models.
func tellFailure(c *ucli.Context, t task, err error) {
	err = limits(err)
	if !strings.HasPrefix(err.Error(), t.Model) {
		printError(c.App.ErrWriter, fmt.Errorf("%s: %w", t.Model, err))
	} else {
		printError(c.App.ErrWriter, err)
	}
	if c.Bool("json") {
		_ = writeJSON(c, struct {
			task
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
			Code  int    `json:"code"`
		}{t, err.Error(), fail.Hint(err), fail.Code(err)})
	}
}

// summarize appends the row of a model.
func summarize(c *ucli.Context, t task, o *outcome, err error) error {
	f := c.String("summary")
	switch {
	case f == "":
		return nil
	case err != nil:
		return atomic.Append(f, fmt.Appendf(nil, "| %s | failed: %s | %s | | |\n", t.Model, strings.ReplaceAll(err.Error(), "|", `\|`), t.Output))
	case o == nil:
		return atomic.Append(f, fmt.Appendf(nil, "| %s | done already | %s | | |\n", t.Model, t.Output))
	}
	bits := ""
	if o.bits > 0 {
		bits = fmt.Sprintf("%.2f", o.bits)
	}
	return atomic.Append(f, fmt.Appendf(nil, "| %s | %s | %s | %s | %s |\n", t.Model, o.how, t.Output, bits, o.size))
}
