// Package cli is the command line of both binaries: one table of commands.
//
// A word on standard output is a result; progress, plans and errors go to
// standard error. Exit codes are those of package fail.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Version is shown by --version and recorded in manifests.
const Version = recipes.Version

// Main runs the binary called name ("tune", "quant", "tunekit") and returns
// its exit code.
func Main(name string, argv []string) int {
	ctx, stop := signalContext(saves(name, argv))
	defer stop()
	return run(ctx, name, argv, os.Stdout, os.Stderr)
}

// saves reports whether an interrupted command has something to save first, or
// ends in its own way. All others only read, or write a small file whole.
func saves(name string, argv []string) bool {
	return name == "quant" || len(argv) > 0 && slices.Contains([]string{"run", "train", "merge", "export", "pull", "quant", "chat"}, argv[0])
}

// signalContext is cancelled by the first interrupt where something is to be
// saved; the second one, elsewhere the first, ends the process at once (nothing
// is ever half-written).
func signalContext(saves bool) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		if saves {
			if _, ok := <-ch; !ok {
				return
			}
			fmt.Fprintln(os.Stderr, "tune: saving the last finished step; interrupt again to stop at once")
			cancel()
		}
		if s, ok := <-ch; ok {
			code := 130
			if s == syscall.SIGTERM {
				code = 143
			}
			os.Exit(code)
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); cancel() }
}

func run(ctx context.Context, name string, argv []string, stdout, stderr io.Writer) int {
	out := &console{w: stdout}
	err := limits(command(ctx, newApp(name, out, stderr), argv))
	if err == nil {
		err = out.failure()
	}
	printError(stderr, err)
	return fail.Code(err)
}

// command runs the one that argv names.
func command(ctx context.Context, app *ucli.App, argv []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = crashed(r)
		}
	}()
	args, err := permute(app, argv)
	if err != nil {
		return err
	}
	return app.RunContext(ctx, append([]string{app.Name}, args...))
}

// limits marks what ran out of memory or disk as such, and what was interrupted,
// wherever it was met.
func limits(err error) error {
	var known *fail.Error
	if errors.As(err, &known) && known.Kind == fail.Limit {
		return err
	}
	switch {
	case known == nil && errors.Is(err, context.Canceled):
		return fail.Interruptedf("", "the same command goes on", "interrupted")
	case errors.Is(err, kernels.ErrOutOfMemory):
		return fail.Limitf("", "a smaller model, fewer tokens at a time or a larger --memory-limit", "%w", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fail.Limitf("", "free space, or write elsewhere; then the same command goes on", "%w", err)
	}
	return err
}

func printError(w io.Writer, err error) {
	if err == nil {
		return
	}
	var problems schema.Problems
	if errors.As(err, &problems) {
		for line := range strings.SplitSeq(harmless(err.Error()), "\n") {
			if strings.HasPrefix(line, " ") {
				fmt.Fprintln(w, line)
			} else {
				fmt.Fprintln(w, "tune: "+line)
			}
		}
		return
	}
	fmt.Fprintf(w, "tune: %s\n", strings.ReplaceAll(harmless(err.Error()), "\n", "\n      "))
	if h := fail.Hint(err); h != "" {
		fmt.Fprintf(w, "tune: hint: %s\n", harmless(h))
	}
}

func newApp(name string, stdout, stderr io.Writer) *ucli.App {
	app := &ucli.App{
		Name: name, Version: Version, Writer: stdout, ErrWriter: stderr,
		Usage:                     "tune, quantize and test language models",
		HideHelpCommand:           true,
		Flags:                     []ucli.Flag{ucli.HelpFlag}, // a command of our own is called help
		DisableSliceFlagSeparator: true,
		EnableBashCompletion:      true,
		Commands:                  commands(),
		ExitErrHandler:            func(*ucli.Context, error) {},
		OnUsageError:              usageError,
		CommandNotFound:           nil,
		Action: func(c *ucli.Context) error {
			if arg := c.Args().First(); arg != "" {
				return unknownCommand(c.App.Commands, arg)
			}
			fmt.Fprint(c.App.Writer, overview)
			return nil
		},
		CustomAppHelpTemplate: overview,
	}
	if name == "quant" {
		app.Usage = "quantize language models"
		app.Commands = append(quantCommands(), completionCommand())
		app.CustomAppHelpTemplate = quantOverview
		app.Action = func(c *ucli.Context) error {
			if arg := c.Args().First(); arg != "" {
				return unknownCommand(c.App.Commands, arg)
			}
			fmt.Fprint(c.App.Writer, quantOverview)
			return nil
		}
	}
	each(app.Commands, func(c *ucli.Command) {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
	})
	return app
}

func each(cmds []*ucli.Command, f func(*ucli.Command)) {
	for _, c := range cmds {
		f(c)
		each(c.Subcommands, f)
	}
}

// CommandNames lists the commands of a binary, each as the words that call it.
func CommandNames(name string) [][]string {
	var out [][]string
	var walk func(cmds []*ucli.Command, before []string)
	walk = func(cmds []*ucli.Command, before []string) {
		for _, c := range cmds {
			words := append(slices.Clone(before), c.Name)
			out = append(out, words)
			walk(c.Subcommands, words)
		}
	}
	walk(newApp(name, io.Discard, io.Discard).Commands, nil)
	return out
}

func usageError(c *ucli.Context, err error, _ bool) error {
	hint := "tune --help"
	if c.Command != nil && c.Command.Name != "" {
		hint = "tune " + c.Command.FullName() + " --help"
	}
	return fail.Usagef("", hint, "%w", err)
}

func unknownCommand(cmds []*ucli.Command, arg string) error {
	var names []string
	for _, c := range cmds {
		names = append(names, c.Name)
	}
	hint := "tune --help lists the commands"
	if near := fail.Nearest(arg, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return fail.Usagef("", hint, "unknown command %q", arg)
}

// permute moves flags before positional arguments, command by command: the
// parser stops at the first positional, so that `run r.yaml --dry-run` would
// run. "--" ends flags.
func permute(app *ucli.App, argv []string) ([]string, error) {
	var out []string
	cmds, flags := app.Commands, app.Flags
	rest := argv
	for len(rest) > 0 {
		i := slices.IndexFunc(cmds, func(c *ucli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		out, flags = append(out, rest[0]), cmds[i].Flags
		cmds, rest = cmds[i].Subcommands, rest[1:]
	}
	var before, after []string
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		if arg == "--" {
			after = append(after, rest...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' || isNumber(arg) {
			after = append(after, arg)
			continue
		}
		before = append(before, arg)
		if takesValue(flags, arg) {
			if len(rest) == 0 {
				return nil, fail.Usagef("", "", "flag %s needs a value", arg)
			}
			before, rest = append(before, rest[0]), rest[1:]
		}
	}
	out = append(out, before...)
	if len(after) > 0 {
		out = append(append(out, "--"), after...)
	}
	return out, nil
}

func isNumber(s string) bool { return len(s) > 1 && s[1] >= '0' && s[1] <= '9' }

// takesValue reports whether the next argument belongs to the flag.
func takesValue(flags []ucli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(ucli.DocGenerationFlag)
			return ok && d.TakesValue()
		}
	}
	return false
}
