package cli

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub"
)

func pullCommand() *ucli.Command {
	return &ucli.Command{
		Name: "pull", Usage: "fetch a model into the local Hugging Face cache", ArgsUsage: "hf://org/name[@revision]",
		Description: examples("tune pull hf://HuggingFaceTB/SmolLM2-135M-Instruct@main", "tune pull --header hf://Qwen/Qwen3-32B && tune fit hf://Qwen/Qwen3-32B --memory 24GiB"),
		Flags: []ucli.Flag{
			&ucli.BoolFlag{Name: "header", Usage: "of files of weights only their headers: enough for fit and inspect"},
			&ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}},
		Action: func(c *ucli.Context) error {
			if err := args(c, "hf://org/name[@revision]", 1); err != nil {
				return err
			}
			if !strings.HasPrefix(c.Args().First(), "hf://") {
				return fail.Usagef("", "tune pull hf://org/name@revision", "found %q", c.Args().First())
			}
			progress, clear := bar(c, "pull", "bytes")
			o := hub.Options{Progress: progress}
			if c.Bool("header") {
				o.Header = formats.HeaderFile
			}
			dir, _, err := hub.Pull(c.Context, c.Args().First(), o)
			clear()
			if err == nil {
				fmt.Fprintln(c.App.Writer, dir)
			}
			return err
		},
	}
}
