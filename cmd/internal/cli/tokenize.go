package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/stages"
)

func tokenizeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "tokenize", Usage: "text to token ids and back, a line at a time",
		Description: examples(`echo '{"text": "Hello"}' | tune tokenize --model models/M --input -`,
			`echo '{"ids": [1, 2]}' | tune tokenize --model models/M --input - --decode`),
		Flags: []ucli.Flag{modelFlag(),
			&ucli.StringFlag{Name: "input", Value: "-", Usage: `{"text": …} a line, or {"ids": […]} with --decode; - is standard input`},
			&ucli.BoolFlag{Name: "decode", Usage: "ids to text"},
			&ucli.BoolFlag{Name: "no-special-tokens", Usage: "without what the tokenizer adds around a text; when decoding, leave special tokens out"}},
		Action: func(c *ucli.Context) error {
			if err := required(c, "model"); err != nil {
				return err
			}
			tok, err := stages.TokenizerOf(c.String("model"))
			if err != nil {
				return err
			}
			bare := c.Bool("no-special-tokens")
			return eachLine(c, c.String("input"), func(d *jinja.Dict) (*jinja.Dict, error) {
				if c.Bool("decode") {
					ids, err := idsOf(d)
					if err != nil {
						return nil, err
					}
					d.Set("text", tok.Decode(ids, bare))
					return d, nil
				}
				text, _ := d.Get("text")
				s, ok := text.(string)
				if !ok {
					return nil, fail.Inputf("text", `{"text": "…"}`, "found %s", jsonText(text))
				}
				ids, err := tok.TryEncode(s, !bare)
				if err != nil {
					return nil, err
				}
				d.Set("ids", idList(ids))
				return d, nil
			})
		},
	}
}

func idsOf(d *jinja.Dict) ([]int32, error) {
	v, _ := d.Get("ids")
	list, ok := v.([]any)
	if !ok {
		return nil, fail.Inputf("ids", `{"ids": [1, 2]}`, "found %s", jsonText(v))
	}
	out := make([]int32, len(list))
	for i, x := range list {
		n, ok := x.(int64)
		if !ok || n < 0 || n > 1<<30 {
			return nil, fail.Inputf("ids", "", "found %s, want token ids", jsonText(x))
		}
		out[i] = int32(n)
	}
	return out, nil
}

func idList(ids []int32) []any {
	out := make([]any, len(ids))
	for i, id := range ids {
		out[i] = int64(id)
	}
	return out
}
