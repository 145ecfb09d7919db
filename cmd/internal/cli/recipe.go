package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
)

func usagef(c *ucli.Context, format string, args ...any) error {
	return fail.Usagef("", "tune "+c.Command.FullName()+" --help", format, args...)
}

func setFlag() ucli.Flag {
	return &ucli.StringSliceFlag{Name: "set", Usage: "override a key: ID.key=VALUE (may repeat)"}
}

func validateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "validate", Usage: "check a recipe; exit 2 with every error at once", ArgsUsage: "RECIPE",
		Description: examples("tune validate support.yaml", "tune validate support.yaml --set train.lora.r=8"),
		Flags:       []ucli.Flag{setFlag()},
		Action: func(c *ucli.Context) error {
			if err := args(c, "RECIPE", 1); err != nil {
				return err
			}
			r, err := recipes.Open(c.Args().First(), c.StringSlice("set"))
			if err == nil {
				_, err = r.Resolve()
			}
			return err
		},
	}
}

func schemaCommand() *ucli.Command {
	return &ucli.Command{
		Name: "schema", Usage: "print the JSON Schema of recipes, for editors",
		Description: examples("tune schema > recipe.schema.json"),
		Action: func(c *ucli.Context) error {
			_, err := c.App.Writer.Write(recipes.Schema())
			return err
		},
	}
}

func helpCommand() *ucli.Command {
	return &ucli.Command{
		Name: "help", Usage: "the keys of a recipe: tune help recipe.train", ArgsUsage: "[COMMAND | recipe[.SECTION]]",
		Description: examples("tune help run", "tune help recipe", "tune help recipe.train.lora"),
		Action: func(c *ucli.Context) error {
			topic := c.Args().First()
			if topic == "" {
				fmt.Fprint(c.App.Writer, overview)
				return nil
			}
			section, ok := strings.CutPrefix(topic, "recipe")
			if !ok {
				if c.App.Command(topic) == nil {
					return unknownCommand(c.App.Commands, topic)
				}
				return ucli.ShowCommandHelp(c, topic)
			}
			keys := recipes.Keys(strings.TrimPrefix(section, "."))
			if keys == nil {
				return fail.Usagef("", "recipe, recipe.stages, .ingest, .ingest.datasets, .train, .train.lora, .merge, .quantize, .export, .eval, .eval.gate", "no section %q", topic)
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

func completionCommand() *ucli.Command {
	return &ucli.Command{
		Name: "completion", Usage: "print a completion script: bash, zsh or fish", ArgsUsage: "SHELL",
		Description: examples(`eval "$(tune completion bash)"`, "tune completion fish > ~/.config/fish/completions/tune.fish"),
		Action: func(c *ucli.Context) error {
			script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion}[c.Args().First()]
			if c.Args().First() == "fish" {
				var err error
				if script, err = c.App.ToFishCompletion(); err != nil {
					return err
				}
			} else if !ok {
				return usagef(c, "found %q, want bash, zsh or fish", c.Args().First())
			}
			_, err := fmt.Fprint(c.App.Writer, strings.ReplaceAll(script, "PROG", c.App.Name))
			return err
		},
	}
}

const bashCompletion = `_PROG_complete() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ "$cur" == -* ]] && words+=("$cur")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur") $(compgen -f -- "$cur"))
}
complete -o filenames -F _PROG_complete PROG
`

const zshCompletion = `#compdef PROG
_PROG() {
  local -a opts
  local cur=${words[-1]}
  if [[ "$cur" == -* ]]; then
    opts=("${(@f)$(${words[@]:0:#words[@]-1} ${cur} --generate-bash-completion 2>/dev/null)}")
  else
    opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
  fi
  [[ "${opts[1]}" != "" ]] && _describe 'values' opts || _files
}
compdef _PROG PROG
`
