package schema

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// Problem is one thing wrong with a recipe.
type Problem struct {
	Place     string // file, or "--set #2"
	Line, Col int
	Path      string // e.g. "train.lora"
	Msg, Hint string
	Source    string // the line of text, for the caret

	node *yaml.Node // where it is
}

// Problems is every problem of a recipe at once. It is a usage error.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	for i, x := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s", x.where())
		if x.Path != "" {
			fmt.Fprintf(&b, ": %s", x.Path)
		}
		fmt.Fprintf(&b, ": %s", x.Msg)
		if x.Source != "" {
			fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", x.Line, x.Source, caretPad(x.Source, x.Col))
		}
		if x.Hint != "" {
			fmt.Fprintf(&b, "\nhint: %s", x.Hint)
		}
	}
	return b.String()
}

func (x Problem) where() string {
	if x.Line == 0 {
		return x.Place
	}
	return fmt.Sprintf("%s:%d:%d", x.Place, x.Line, x.Col)
}

// caretPad repeats tabs so that the caret stands under its column.
func caretPad(line string, col int) string {
	var b strings.Builder
	for i, r := range []rune(line) {
		if i >= col-1 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Unwrap makes the problems a usage error (exit 2).
func (p Problems) Unwrap() error {
	return &fail.Error{Kind: fail.Usage, Msg: fmt.Sprintf("%d problems", len(p))}
}
