package cli

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// hintArg is which argument of an error's function is its hint.
var hintArg = map[string]int{"Usagef": 1, "Inputf": 1, "Limitf": 1, "Gatef": 1, "Numericf": 1, "Interruptedf": 1, "bad": 1, "Bad": 2, "unsupported": 1}

// hints are the hints of the program's sources by place; what is put in at run
// time is X.
func hints(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/gen/") {
			return err
		}
		f, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if i, ok := hintArg[name]; ok && i < len(call.Args) {
				if text := spelled(call.Args[i]); text != "" {
					out[set.Position(call.Pos()).String()] = text
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// spelled is a text of the source, joined where it is put together.
func spelled(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return regexp.MustCompile(`%[a-z]`).ReplaceAllString(s, "X")
		}
	case *ast.BinaryExpr:
		if a, b := spelled(e.X), spelled(e.Y); a != "" || b != "" {
			return a + b
		}
	case *ast.CallExpr:
		if len(e.Args) > 0 { // fmt.Sprintf
			if _, ok := e.Args[0].(*ast.BasicLit); ok {
				return spelled(e.Args[0])
			}
		}
	}
	return "X"
}

var (
	commandRE = regexp.MustCompile(`\b(tune|quant) ([a-z0-9]+)( [a-z0-9]+)?`)
	flagRE    = regexp.MustCompile(`(^|[ (])--?([a-zA-Z][a-z0-9-]*)`)
	hereRE    = regexp.MustCompile(`here it is ([a-z0-9_]{2,})(?:: ([^;]*))?`)
)

// flagsOf are the flags of a command, or of all where name is "".
func flagsOf(name string) map[string]bool {
	out := map[string]bool{}
	each(newApp("tune", io.Discard, io.Discard).Commands, func(c *ucli.Command) {
		if name == "" || c.Name == name {
			for _, f := range c.Flags {
				for _, n := range f.Names() {
					out[n] = true
				}
			}
			out["help"] = true
		}
	})
	return out
}

// checkHint tells what a hint names that there is not.
func checkHint(hint string) error {
	for part := range strings.SplitSeq(hint, ";") {
		if strings.Contains(part, "llama-") || strings.Contains(part, "ulimit") {
			continue // another program's
		}
		command := ""
		for _, m := range commandRE.FindAllStringSubmatch(part, -1) {
			if command = m[2]; command == "quant" {
				command = strings.TrimSpace(m[3])
			}
			names := newApp(m[1], io.Discard, io.Discard).Commands
			if m[2] == "quant" {
				names = quantCommands()
			}
			if !slices.ContainsFunc(names, func(c *ucli.Command) bool { return c.HasName(command) }) {
				return fmt.Errorf("%s has no command %s", m[1], command)
			}
		}
		known := flagsOf(command)
		for _, m := range flagRE.FindAllStringSubmatch(part, -1) {
			if !known[m[2]] {
				return fmt.Errorf("no command %s with a flag %s", command, m[2])
			}
		}
	}
	return nil
}

// TestHints: commands and flags that hints name are there.
func TestHints(t *testing.T) {
	all := hints(t)
	if len(all) < 200 {
		t.Errorf("only %d hints found in the sources", len(all))
	}
	for place, hint := range all {
		if err := checkHint(hint); err != nil {
			t.Errorf("%s: %q: %v", place, hint, err)
		}
	}
	for _, wrong := range []string{"tune gguf --help", "tune pull X, or add --pull", "it lies there (-C X)", "quant rtn --imatrix F", "tune quantize"} {
		if checkHint(wrong) == nil {
			t.Errorf("%q passes", wrong)
		}
	}
}

// TestForeignHints: keys and words that are named for those of other programs are
// there.
func TestForeignHints(t *testing.T) {
	keys := map[string][]string{} // words that a key may have, nil: any
	for _, section := range append([]string{"", "stages"}, stages.All.Sections()...) {
		for _, k := range stages.All.Keys(section) {
			keys[k.Name] = append(keys[k.Name], strings.Split(k.Type, ", ")...)
		}
	}
	n := 0
	for name, hint := range schema.ForeignKeys() {
		m := hereRE.FindStringSubmatch(hint)
		if m == nil {
			continue
		}
		n++
		words, ok := keys[m[1]]
		if !ok {
			t.Errorf("%s: %q: no key %s", name, hint, m[1])
		}
		for _, word := range regexp.MustCompile(`\b[a-z0-9_-]+\b`).FindAllString(regexp.MustCompile(`\([^)]*\)|\{.*|\[.*`).ReplaceAllString(m[2], ""), -1) {
			if word != "or" && len(words) > 1 && !slices.Contains(words, word) {
				t.Errorf("%s: %q: %s cannot be %s (%v)", name, hint, m[1], word, words)
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d keys", n)
	}
}

// TestHelpHints: where a command is wrong, its own help is named, and is there.
func TestHelpHints(t *testing.T) {
	for _, name := range []string{"tune", "quant"} {
		for _, words := range CommandNames(name) {
			argv := append(slices.Clone(words), "--no-such-flag")
			var out bytes.Buffer
			if code := run(context.Background(), name, argv, io.Discard, &out); code != 2 {
				t.Errorf("%s %v: exit %d", name, argv, code)
				continue
			}
			err := out.String()
			_, hint, ok := strings.Cut(err, "hint: ")
			prog, rest, _ := strings.Cut(strings.TrimSpace(hint), " ")
			if !ok || parseOnly(prog, strings.Fields(rest)) != nil || !strings.HasSuffix(rest, words[len(words)-1]+" --help") && words[0] != "help" {
				t.Errorf("%s %v: %s", name, argv, err)
			}
		}
	}
}
