package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/stages"
)

func schemaCommand() *ucli.Command {
	return &ucli.Command{
		Name: "schema", Usage: "print the JSON Schema of recipes, for editors",
		Description: examples("tune schema > recipe.schema.json"),
		Action: func(c *ucli.Context) error {
			_, err := c.App.Writer.Write(stages.All.Schema())
			return err
		},
	}
}
