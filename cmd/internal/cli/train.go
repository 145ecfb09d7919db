package cli

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/stages"
)

// trainCommand is a two-stage recipe written as flags: every train key can be
// given with --set.
func trainCommand() *ucli.Command {
	return &ucli.Command{
		Name: "train", Usage: "train on data files without writing a recipe",
		Description: examples("tune train --model models/M --data 'data/*.parquet' --name support",
			"tune train --model M.gguf --data d.jsonl --name q --set train.adapter=qlora --set train.max_steps=100 --set ingest.max_length=512"),
		Flags: append(append(runFlags(), sourceFlags()...), modelFlag(),
			&ucli.StringSliceFlag{Name: "data", Usage: "file, folder or glob (may repeat)"},
			&ucli.StringFlag{Name: "name", Value: "train", Usage: "of the run folder"},
			&ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}, logEveryFlag()),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "data"); err != nil {
				return err
			}
			var b strings.Builder
			fmt.Fprintf(&b, "version: 1\nname: %q\nbase_model: %q\nstages:\n  - ingest: {datasets: [", c.String("name"), c.String("model"))
			for i, d := range c.StringSlice("data") {
				src, err := sourceOf(c, d)
				if err != nil {
					return err
				}
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(sourceText(src))
			}
			b.WriteString("]" + templateKey(c, ", ") + "}\n  - train: {}\n")
			r, err := stages.All.Parse("tune train", []byte(b.String()), c.StringSlice("set"))
			if err != nil {
				return err
			}
			return runRecipe(c, r)
		},
	}
}
