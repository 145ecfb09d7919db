// Command tune runs recipes and the single jobs they are made of. Installed as
// tunekit, too, since another tool also owns the name tune.
package main

import (
	"os"

	"github.com/tunekit/tunekit/cmd/internal/cli"
)

func main() { os.Exit(cli.Main("tune", os.Args[1:])) }
