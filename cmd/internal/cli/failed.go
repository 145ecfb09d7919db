package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// failed is the last line on standard output of a command that was asked for JSON
// and ends with another exit code than 0.
type failed struct {
	Error failure `json:"error"`
}

type failure struct {
	Code     int       `json:"code"` // the exit code
	Kind     string    `json:"kind"`
	Message  string    `json:"message"` // as on standard error
	Hint     string    `json:"hint,omitempty"`
	Problems []problem `json:"problems,omitempty"` // of a recipe, all of them
}

type problem struct {
	File    string `json:"file"` // or --set #2
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"` // the section, such as train.lora
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// jsonFlag is of the commands that have not all of modelFlags.
func jsonFlag() ucli.Flag {
	return &ucli.BoolFlag{Name: "json", Usage: "as one JSON object"}
}

// asksJSON tells whether --json is among arguments that may be wrong otherwise.
func asksJSON(argv []string) bool {
	asks := false
	for _, arg := range argv {
		if arg == "--" {
			break
		}
		name, value, given := strings.Cut(arg, "=")
		if name == "--json" || name == "-json" {
			on, err := strconv.ParseBool(value)
			asks = !given || on && err == nil
		}
	}
	return asks
}

// printFailure writes err as JSON. A gate's verdict that stands in the lines before
// is not said again.
func printFailure(out *console, err error) {
	code := fail.Code(err)
	if err == nil || code == int(fail.Gate) && out.wrote {
		return
	}
	f := failure{Code: code, Kind: fail.Kind(code).String(), Message: err.Error(), Hint: fail.Hint(err)}
	var problems schema.Problems
	if errors.As(err, &problems) {
		f.Message = fmt.Sprintf("%s: problems found: %d", problems[0].Place, len(problems))
		for _, p := range problems {
			f.Problems = append(f.Problems, problem{p.Place, p.Line, p.Col, p.Path, p.Msg, p.Hint})
		}
	}
	f.Message = strings.ToValidUTF8(f.Message, "�")
	e := json.NewEncoder(io.Writer(out))
	e.SetEscapeHTML(false)
	_ = e.Encode(failed{f}) // what cannot be written is said on standard error, and the exit code stays
}
