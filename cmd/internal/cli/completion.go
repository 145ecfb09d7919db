package cli

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

func completionCommand() *ucli.Command {
	return &ucli.Command{
		Name: "completion", Usage: "print a completion script: bash, zsh or fish", ArgsUsage: "SHELL",
		Description: examples(`eval "$(tune completion bash)"`, "tune completion fish > ~/.config/fish/completions/tune.fish"),
		Action: func(c *ucli.Context) error {
			if err := args(c, "SHELL", 1); err != nil {
				return err
			}
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
