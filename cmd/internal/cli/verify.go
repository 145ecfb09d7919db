package cli

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/recipes/stages"
)

func verifyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "read an artifact whole; exit 3 and what is wrong with it", ArgsUsage: "PATH",
		Description: examples("tune verify runs/support/merged"),
		Action: func(c *ucli.Context) error {
			if err := args(c, "PATH", 1); err != nil {
				return err
			}
			path, err := resolvePath(c.Args().First())
			if err != nil {
				return err
			}
			if err := formats.Verify(path); err != nil {
				return err
			}
			if note, err := stages.VerifyModel(path); err != nil {
				return err
			} else if note != "" {
				fmt.Fprintln(c.App.ErrWriter, "note: "+harmless(note))
			}
			fmt.Fprintln(c.App.Writer, "ok")
			return nil
		},
	}
}
