package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/quant"
)

// commands is the table of `tune`. A new command is one line here and one file.
func commands() []*ucli.Command {
	return []*ucli.Command{
		runCommand(), planCommand(), validateCommand(), initCommand(), schemaCommand(), cleanCommand(),
		addTokensCommand(), ingestCommand(), trainCommand(), mergeCommand(), mergeModelsCommand(), exportCommand(), evalCommand(), compareCommand(), tailCommand(),
		generateCommand(), chatCommand(), inspectCommand(), verifyCommand(), diffCommand(), fitCommand(), doctorCommand(), pullCommand(), pushCommand(), graphCommand(),
		logitsCommand(), tokenizeCommand(), renderCommand(), benchCommand(),
		{Name: "quant", Usage: "quantize a model; also the binary quant", Subcommands: quantCommands(), Action: noSubcommand},
		helpCommand(), completionCommand(),
	}
}

// quantCommands is the table of `quant` and `tune quant`.
func quantCommands() []*ucli.Command {
	var list []*ucli.Command
	for _, m := range quant.Methods() {
		list = append(list, folderQuant(m))
	}
	return append(list, quantGGUFCommand(), imatrixCommand())
}

func noSubcommand(c *ucli.Context) error {
	if arg := c.Args().First(); arg != "" {
		return unknownCommand(c.Command.Subcommands, arg)
	}
	fmt.Fprint(c.App.Writer, quantOverview)
	return nil
}

// args checks the number of positional arguments.
func args(c *ucli.Context, want string, n int) error {
	if c.NArg() == n {
		return nil
	}
	return fail.Usagef("", strings.TrimSuffix(helpOf(c), " --help")+" "+want, "found %d arguments, want %d", c.NArg(), n)
}

// openInput opens a file, or standard input for "-".
func openInput(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fail.Inputf(path, "", "%w", err)
	}
	return f, nil
}

// examples formats a command's Description.
func examples(lines ...string) string { return "examples:\n  " + strings.Join(lines, "\n  ") }

func required(c *ucli.Context, names ...string) error {
	for _, n := range names {
		if !c.IsSet(n) {
			return fail.Usagef("", helpOf(c), "--%s is required", n)
		}
	}
	return nil
}

func usagef(c *ucli.Context, format string, args ...any) error {
	return fail.Usagef("", helpOf(c), format, args...)
}

func setFlag() ucli.Flag {
	return &ucli.StringSliceFlag{Name: "set", Usage: "override a key: ID.key=VALUE (may repeat)"}
}
