package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/stages"
)

func validateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "validate", Usage: "check a recipe; exit 2 with every error at once", ArgsUsage: "RECIPE",
		Description: examples("tune validate support.yaml", "tune validate support.yaml --set train.lora.r=8"),
		Flags:       []ucli.Flag{setFlag()},
		Action: func(c *ucli.Context) error {
			if err := args(c, "RECIPE", 1); err != nil {
				return err
			}
			r, err := stages.All.Open(c.Args().First(), c.StringSlice("set"))
			if err == nil {
				_, err = r.Resolve()
			}
			return err
		},
	}
}
