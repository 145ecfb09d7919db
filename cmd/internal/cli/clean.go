package cli

import (
	"fmt"
	"path/filepath"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes"
)

func cleanCommand() *ucli.Command {
	return &ucli.Command{
		Name: "clean", Usage: "remove a run's checkpoints and unfinished work, or all of it but --keep", ArgsUsage: "RUN",
		Description: examples("tune clean runs/support", "tune clean runs/support --keep merged --keep gguf"),
		Flags:       []ucli.Flag{&ucli.StringSliceFlag{Name: "keep", Usage: "stages to keep; others are removed"}},
		Action: func(c *ucli.Context) error {
			if err := args(c, "RUN", 1); err != nil {
				return err
			}
			return recipes.Clean(filepath.Clean(c.Args().First()), c.StringSlice("keep"), func(path string) {
				fmt.Fprintln(c.App.ErrWriter, "removed "+path)
			})
		},
	}
}
