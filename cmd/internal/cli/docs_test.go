package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/stages"
)

const root = "../../.."

// pages are the texts whose commands must exist.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	out := map[string]string{}
	for _, f := range append(files, filepath.Join(root, "README.md")) {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.ToSlash(strings.TrimPrefix(f, root+string(filepath.Separator)))] = string(raw)
	}
	return out
}

// words splits a shell line into simple commands: quotes are honoured,
// redirections and comments left out.
func words(line string) (cmds [][]string) {
	var cmd []string
	var word strings.Builder
	open, quote, skip := false, rune(0), false
	flush := func() {
		if open && !skip {
			cmd = append(cmd, word.String())
		}
		if open {
			skip = false
		}
		word.Reset()
		open = false
	}
	end := func() {
		flush()
		if len(cmd) > 0 {
			cmds = append(cmds, cmd)
		}
		cmd = nil
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == '#' && !open:
			end()
			return cmds
		case r == ' ' || r == '\t':
			flush()
		case strings.ContainsRune("|&;()", r):
			end()
		case r == '>' || r == '<':
			if w := word.String(); w == "1" || w == "2" {
				word.Reset()
				open = false
			}
			flush()
			skip = true
		default:
			word.WriteRune(r)
			open = true
		}
	}
	end()
	return cmds
}

var (
	fence       = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	inline      = regexp.MustCompile("`([^`\n]+)`")
	placeholder = regexp.MustCompile(`^[A-Z]+$`) // tune COMMAND
	assignment  = regexp.MustCompile(`^[A-Z_]+=`)
	link        = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	target      = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
)

// commandLines are the shell lines of a page: those of its code blocks, and
// code in the text.
func commandLines(page string) []string {
	var out []string
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		if m[1] != "sh" {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(m[2], "\\\n", " ")) {
			out = append(out, strings.TrimPrefix(strings.TrimSpace(line), "$ "))
		}
	}
	for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		out = append(out, m[1])
	}
	return out
}

// parseOnly reads the flags of a command line and stops before its work.
func parseOnly(name string, argv []string) error {
	app := newApp(name, io.Discard, io.Discard)
	each(app.Commands, func(c *ucli.Command) {
		if len(c.Subcommands) == 0 {
			c.Action = func(*ucli.Context) error { return nil }
		}
	})
	args, err := permute(app, argv)
	if err != nil {
		return err
	}
	return app.Run(append([]string{name}, args...))
}

// Every command that README and docs show exists, with its flags, and so do the
// make targets.
func TestCommandsInDocs(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range target.FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
	}
	n := 0
	for name, page := range pages(t) {
		for _, line := range commandLines(page) {
			for _, cmd := range words(line) {
				for len(cmd) > 0 && assignment.MatchString(cmd[0]) {
					cmd = cmd[1:]
				}
				if len(cmd) < 2 {
					continue
				}
				var err error
				switch prog := strings.TrimPrefix(strings.TrimPrefix(cmd[0], "./"), "bin/"); {
				case placeholder.MatchString(cmd[1]) || cmd[1] == "quant" && len(cmd) > 2 && placeholder.MatchString(cmd[2]):
				case slices.Contains([]string{"tune", "tunekit", "quant"}, prog):
					err = parseOnly(prog, cmd[1:])
					n++
				case prog == "make" && !slices.Contains(targets, cmd[1]):
					t.Errorf("%s: %s: the Makefile has no target %s", name, line, cmd[1])
				}
				if err != nil {
					t.Errorf("%s: %s: %v", name, line, err)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d commands found in the pages", n)
	}
}

// Whole recipes in README and docs are right, and links lead to files.
func TestRecipesAndLinksInDocs(t *testing.T) {
	n := 0
	for name, page := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(page, -1) {
			if m[1] != "yaml" || !strings.Contains(m[2], "version: 1") {
				continue
			}
			n++
			r, err := stages.All.Parse(name, []byte(m[2]), nil)
			if err == nil {
				_, err = r.Resolve()
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			}
		}
	}
	if n == 0 {
		t.Error("no recipe found in the pages")
	}
}

func TestWords(t *testing.T) {
	got := words(`TUNE_KERNELS=avx2 tune run 'a b' --set "x=[q,v]" 2>log > out | jq . && quant rtn # no`)
	want := [][]string{{"TUNE_KERNELS=avx2", "tune", "run", "a b", "--set", "x=[q,v]"}, {"jq", "."}, {"quant", "rtn"}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q", got)
	}
	if err := parseOnly("tune", []string{"run", "r.yaml", "--dry-runn"}); err == nil {
		t.Error("an unknown flag is no error")
	}
	if err := parseOnly("tune", []string{"rum", "r.yaml"}); err == nil {
		t.Error("an unknown command is no error")
	}
}

// docs/dependencies.md has a line for each direct dependency, at its version.
func TestDependenciesInDocs(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	page := pages(t)["docs/dependencies.md"]
	n := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(line, "\t") {
			continue // not a direct one
		}
		n++
		if !strings.Contains(page, "| "+f[0]+" | "+f[1]+" |") {
			t.Errorf("docs/dependencies.md has no line for %s %s", f[0], f[1])
		}
	}
	if rows := strings.Count(page, "\n| ") - 1; n == 0 || rows != n {
		t.Errorf("docs/dependencies.md has %d lines for %d direct dependencies", rows, n)
	}
}

// Every command has its place in docs/commands.md and on the overview.
func TestAllCommandsInDocs(t *testing.T) {
	page := pages(t)["docs/commands.md"]
	each(commands(), func(c *ucli.Command) {
		heading := regexp.MustCompile(`(?m)^(### .*|\| .quant )\b` + regexp.QuoteMeta(c.Name) + `\b`) // or a line of the table of methods
		if !heading.MatchString(page) && len(c.Subcommands) == 0 {
			t.Errorf("docs/commands.md has no section for %s", c.FullName())
		}
		if !strings.Contains(overview, c.Name) {
			t.Errorf("the overview does not name %s", c.Name)
		}
	})
}

// The table of what can be added names files that exist, and in each the
// identifier whose line is to be written.
func TestAddingThings(t *testing.T) {
	page := pages(t)["docs/architecture.md"]
	_, page, _ = strings.Cut(page, "## Adding things")
	page, _, _ = strings.Cut(page, "\n## ")
	path := regexp.MustCompile(`[a-z]+(/[A-Za-z0-9_.]+)+`)
	name := regexp.MustCompile("`([A-Za-z]+)` in ([a-z/]+[a-z]+(\\.go)?)")
	rows := 0
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.Contains(cells[1], "--") || cells[1] == " new " {
			continue
		}
		rows++
		for _, p := range path.FindAllString(strings.Join(cells, "|"), -1) {
			p = strings.TrimRight(strings.ReplaceAll(p, "NAME", "*"), ".")
			found, _ := filepath.Glob(filepath.Join(root, p))
			for _, from := range []string{"autograd/model/", "train/"} { // short for what stands beside it
				more, _ := filepath.Glob(filepath.Join(root, from, p))
				found = append(found, more...)
			}
			if len(found) == 0 {
				t.Errorf("%s: nothing is called %s", cells[1], p)
			}
		}
		for _, m := range name.FindAllStringSubmatch(cells[3], -1) {
			file := filepath.Join(root, m[2])
			if _, err := os.Stat(file); err != nil {
				file = filepath.Join(root, "autograd/model", m[2])
			}
			files := []string{file}
			if m[3] == "" { // a package
				files, _ = filepath.Glob(filepath.Join(file, "*.go"))
			}
			has := false
			for _, f := range files {
				raw, _ := os.ReadFile(f)
				has = has || regexp.MustCompile(`\b`+m[1]+`\b`).Match(raw)
			}
			if !has && m[2] != "commands.go" {
				t.Errorf("%s: no %s in %s", cells[1], m[1], m[2])
			}
		}
	}
	if rows < 8 {
		t.Errorf("only %d rows", rows)
	}
}
