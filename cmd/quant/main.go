// Command quant quantizes models: `quant X` is `tune quant X`.
package main

import (
	"os"

	"github.com/tunekit/tunekit/cmd/internal/cli"
)

func main() { os.Exit(cli.Main("quant", os.Args[1:])) }
