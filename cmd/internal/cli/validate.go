package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/stages"
)

// validated is a recipe without problems, in JSON.
type validated struct {
	Recipe string   `json:"recipe"`
	OK     bool     `json:"ok"`
	Stages []string `json:"stages"` // their ids
}

func validateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "validate", Usage: "check a recipe; exit 2 with every error at once", ArgsUsage: "RECIPE",
		Description: examples("tune validate support.yaml", "tune validate support.yaml --set train.lora.r=8"),
		Flags:       []ucli.Flag{setFlag(), jsonFlag()},
		Action: func(c *ucli.Context) error {
			if err := args(c, "RECIPE", 1); err != nil {
				return err
			}
			r, err := stages.All.Open(c.Args().First(), c.StringSlice("set"))
			if err != nil {
				return err
			}
			if _, err := r.Resolve(); err != nil || !c.Bool("json") {
				return err
			}
			ok := validated{Recipe: c.Args().First(), OK: true}
			for _, s := range r.Stages {
				ok.Stages = append(ok.Stages, s.ID)
			}
			return writeJSON(c, ok)
		},
	}
}
