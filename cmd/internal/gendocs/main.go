// Command gendocs fills the tables of the documentation from what they
// describe: <!-- keys train --> … <!-- end --> from the keys of a recipe,
// <!-- flags quant gptq --> … <!-- end --> from the flags of a command,
// <!-- methods folders --> … <!-- end --> from the methods that make folders,
// <!-- optimizers all --> … <!-- end --> from the optimizers of a training.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/tunekit/tunekit/cmd/internal/cli"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes/stages"
	"github.com/tunekit/tunekit/train"
)

//go:generate go run . ../../../docs/recipe.md ../../../docs/commands.md ../../../docs/optimizers.md

func main() {
	for _, path := range os.Args[1:] {
		if err := update(path); err != nil {
			fmt.Fprintln(os.Stderr, "gendocs:", err)
			os.Exit(1)
		}
	}
}

func update(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := fill(string(old))
	if err != nil || text == string(old) {
		return err
	}
	return atomic.WriteFile(path, []byte(text))
}

var region = regexp.MustCompile(`(?s)<!-- (keys|flags|methods|optimizers) ([a-z0-9._ -]+) -->\n.*?<!-- end -->`)

// fill replaces what stands between the marks.
func fill(text string) (string, error) {
	var err error
	out := region.ReplaceAllStringFunc(text, func(s string) string {
		m := region.FindStringSubmatch(s)
		table, terr := tables[m[1]](m[2])
		if terr != nil {
			err = terr
		}
		return fmt.Sprintf("<!-- %s %s -->\n%s<!-- end -->", m[1], m[2], table)
	})
	return out, err
}

var tables = map[string]func(what string) (string, error){"keys": keys, "flags": flags, "methods": methods, "optimizers": optimizers}

func keys(section string) (string, error) {
	list := stages.All.Keys(strings.TrimPrefix(section, "recipe"))
	if list == nil {
		return "", fmt.Errorf("a recipe has no section %q", section)
	}
	var b strings.Builder
	b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	for _, k := range list {
		row(&b, "`"+k.Name+"`", k.Type, k.Default, k.Doc)
	}
	return b.String(), nil
}

func flags(command string) (string, error) {
	list := cli.Flags(command)
	if list == nil {
		return "", fmt.Errorf("no command %q", command)
	}
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	for _, f := range list {
		name := "`" + f.Names + "`"
		if f.Value {
			name += " …"
		}
		doc := f.Doc
		if f.Repeats && !strings.Contains(doc, "may repeat") {
			doc += " (may repeat)"
		}
		row(&b, name, f.Default, strings.TrimSpace(doc))
	}
	return b.String(), nil
}

func methods(string) (string, error) {
	var b strings.Builder
	b.WriteString("| command | what it does | schemes, the first by itself | formats, likewise |\n|---|---|---|---|\n")
	for _, m := range quant.Methods() {
		row(&b, "`quant "+m.Name+"`", m.Title, strings.Join(m.Schemes, ", "), strings.Join(m.Formats, ", "))
	}
	return b.String(), nil
}

func optimizers(string) (string, error) {
	list, err := train.Optimizers(dry.New(dry.Options{}))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| optimizer | bytes a value | defaults | of optim_args | paper |\n|---|---|---|---|---|\n")
	for _, o := range list {
		row(&b, "`"+o.Name+"`", fmt.Sprintf("%.3g", o.State), o.Defaults, o.Args, o.Paper)
	}
	return b.String(), nil
}

func row(b *strings.Builder, cells ...string) {
	for _, c := range cells {
		b.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
	}
	b.WriteString("|\n")
}
