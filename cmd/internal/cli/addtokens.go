package cli

import (
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// addTokensKeys are the keys of an add_tokens stage that the command has as flags.
var addTokensKeys = []string{"pad_to_multiple_of", "max_shard_size"}

func addTokensCommand() *ucli.Command {
	return &ucli.Command{
		Name: "add-tokens", Usage: "a model with more tokens: tokenizer, config, rows of embedding and head",
		Description: examples("tune add-tokens --model models/M --special-token '<tool>' --special-token '</tool>' --output more",
			"tune add-tokens --model models/M --token '<tool>' --like '<tool>=call of a tool' --pad-to-multiple-of 64 --output more"),
		Flags: modelFlags(append(optionFlags(&stages.AddTokens{}, addTokensKeys...), modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringSliceFlag{Name: "token", Usage: "ordinary token, a part of the text (may repeat)"},
			&ucli.StringSliceFlag{Name: "special-token", Usage: "control token, which a decoder may leave out (may repeat)"},
			&ucli.StringSliceFlag{Name: "like", Usage: "TOKEN=TEXT: rows of one of them begin as the mean of the text's (default: of all rows; may repeat)"})...),
		Action: runAddTokens,
	}
}

func runAddTokens(c *ucli.Context) error {
	if err := required(c, "model", "output"); err != nil {
		return err
	}
	if err := args(c, "--model M --output DIR", 0); err != nil {
		return err
	}
	var o stages.AddTokens
	if err := readOptions(c, &o, addTokensKeys...); err != nil {
		return err
	}
	schema.Fill(&o)
	if err := readTokens(c, &o); err != nil {
		return err
	}
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	progress, clear := bar(c, "add-tokens", "bytes")
	defer clear()
	var left *stages.AddTokensResult
	err = writeOutput(c, c.String("output"), func() (err error) {
		left, err = stages.AddTokensTo(c.Context, dev, stages.AddTokensOptions{Model: c.String("model"), Output: c.String("output"), Tokens: o,
			Progress: progress, Note: noteOn(c)})
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(c, struct {
		Output string `json:"output"`
		*stages.AddTokensResult
	}{c.String("output"), left})
}

// readTokens takes the tokens of the flags into o.
func readTokens(c *ucli.Context, o *stages.AddTokens) error {
	at := map[string]*stages.NewToken{}
	for flag, list := range map[string]*[]stages.NewToken{"token": &o.Tokens, "special-token": &o.SpecialTokens} {
		for _, t := range c.StringSlice(flag) {
			*list = append(*list, stages.NewToken{Token: t})
		}
		for i := range *list {
			at[(*list)[i].Token] = &(*list)[i]
		}
	}
	for _, like := range c.StringSlice("like") {
		token, text := "", ""
		for name := range at { // which may hold =
			if rest, ok := strings.CutPrefix(like, name+"="); ok && len(name) >= len(token) {
				token, text = name, rest
			}
		}
		if token == "" {
			return fail.Usagef("", "--like TOKEN=TEXT, with --token or --special-token TOKEN", "--like %s is about none of the tokens to add", like)
		}
		at[token].Like = text
	}
	return o.Check()
}
