package cli

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/reference"
	"github.com/tunekit/tunekit/formats/fail"
)

func graphCommand() *ucli.Command {
	return &ucli.Command{
		Name: "graph", Usage: "a layer of the reference engine as a Graphviz graph", ArgsUsage: "LAYER",
		Description: examples("tune graph "+reference.Names()[0]+" | dot -Tsvg > layer.svg", "layers: "+strings.Join(reference.Names(), " ")),
		Flags:       []ucli.Flag{&ucli.BoolFlag{Name: "gradients", Usage: "with the backward pass"}},
		Action: func(c *ucli.Context) error {
			if err := args(c, "LAYER", 1); err != nil {
				return err
			}
			dot, err := reference.Graph(c.Args().First(), c.Bool("gradients"))
			if err != nil {
				return fail.Usagef("", "layers: "+strings.Join(reference.Names(), " "), "%w", err)
			}
			fmt.Fprint(c.App.Writer, dot)
			return nil
		},
	}
}

// cpuName is the processor's own name, where the system tells it.
