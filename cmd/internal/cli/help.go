package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/stages"
)

func helpCommand() *ucli.Command {
	return &ucli.Command{
		Name: "help", Usage: "the keys of a recipe: tune help recipe.train", ArgsUsage: "[COMMAND | recipe[.SECTION]]",
		Description: examples("tune help run", "tune help recipe", "tune help recipe.train.lora"),
		Action: func(c *ucli.Context) error {
			if c.NArg() > 1 {
				return args(c, "[COMMAND | recipe[.SECTION]]", 1)
			}
			topic := c.Args().First()
			if topic == "" {
				fmt.Fprint(c.App.Writer, overview)
				return nil
			}
			section, ok := strings.CutPrefix(topic, "recipe")
			if !ok {
				for _, q := range quantCommands() { // tune help gptq is that of quant gptq
					if q.Name == topic {
						return c.App.RunContext(c.Context, []string{c.App.Name, "quant", topic, "--help"})
					}
				}
				if c.App.Command(topic) == nil {
					return unknownCommand(c.App.Commands, topic)
				}
				return ucli.ShowCommandHelp(c, topic)
			}
			keys := stages.All.Keys(strings.TrimPrefix(section, "."))
			if keys == nil {
				return fail.Usagef("", "recipe, recipe.stages, ."+strings.Join(stages.All.Sections(), ", ."), "no section %q", topic)
			}
			w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "key\ttype\tdefault\tmeaning")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.Name, k.Type, k.Default, k.Doc)
			}
			return w.Flush()
		},
	}
}
