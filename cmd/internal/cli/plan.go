package cli

import (
	ucli "github.com/urfave/cli/v2"
)

func planCommand() *ucli.Command {
	return &ucli.Command{
		Name: "plan", Usage: "what a recipe would do: sizes, memory, time, disk, what is done already", ArgsUsage: "RECIPE",
		Description: examples("tune plan support.yaml", "tune plan support.yaml --full"),
		Flags:       append(runFlags(), &ucli.BoolFlag{Name: "full", Usage: "the recipe with every default filled in and why"}),
		Action:      runPlan,
	}
}

func runPlan(c *ucli.Context) error {
	r, o, err := openRecipe(c)
	if err != nil {
		return err
	}
	p, err := r.Plan(c.Context, o)
	if p != nil {
		if c.Bool("json") {
			if werr := writeJSON(c, p); err == nil {
				err = werr
			}
		} else {
			p.Print(c.App.Writer, c.Bool("full"))
		}
	}
	return err
}
