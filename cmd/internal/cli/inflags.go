package cli

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
)

// recipeCommands are the commands whose user writes keys of a recipe, so that hints
// which name keys stay as they are.
var recipeCommands = []string{"run", "plan", "validate", "schema", "help"}

// keyOf finds a key with its value in a hint: "type: text", "columns: {text: body}".
var keyOf = regexp.MustCompile(`(in a recipe )?\b([a-z_]+): (\{[^}]*\}|\S*[^\s,;:.])`)

// inFlags says an error about keys of a recipe, which the packages below speak of,
// in the flags of the command that was given: "type: text with columns: {text: body}"
// becomes "--type text --columns '{text: body}'". Keys that are no flags of it stay.
func inFlags(c *ucli.Context, err error) error {
	var e *fail.Error
	if !errors.As(err, &e) || c.Command == nil {
		return err
	}
	has := func(key string) bool {
		return key != "" && slices.ContainsFunc(c.Command.Flags, func(f ucli.Flag) bool { return f.Names()[0] == flagName(key) })
	}
	flags := func(text string) string {
		text = keyOf.ReplaceAllStringFunc(text, func(pair string) string {
			key, value, _ := strings.Cut(pair, ": ")
			switch {
			case strings.HasPrefix(pair, "in a recipe "):
				return pair
			case key == "method" && c.Command.Name != "merge":
				return "quant " + value
			case !has(key):
				return pair
			case strings.HasPrefix(value, "{"):
				value = "'" + value + "'"
			case value == "true":
				return "--" + flagName(key)
			}
			return "--" + flagName(key) + " " + value
		})
		return strings.NewReplacer(" with --columns", " --columns", " out of for", " out of --for").Replace(text)
	}
	said := &fail.Error{Kind: e.Kind, Hint: flags(e.Hint), Msg: err.Error(), Err: err}
	if slices.Contains(quantKeys, e.Where) || e.Where == "bits" {
		said.Msg = strings.Replace(said.Msg, e.Where+": ", "--"+flagName(e.Where)+": ", 1)
	}
	return said
}
