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
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
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
	if len(argv) > 0 && argv[0] == rankWord {
		return runRank()
	}
	ctx, stop := signalContext(saves(name, argv))
	defer stop()
	return run(ctx, name, argv, os.Stdout, os.Stderr)
}

// saves reports whether an interrupted command has something to save first, or
// ends in its own way. All others only read, or write a small file whole.
func saves(name string, argv []string) bool {
	return name == "quant" || len(argv) > 0 && slices.Contains([]string{"run", "train", "merge", "export", "pull", "quant", "chat"}, argv[0])
}

func run(ctx context.Context, name string, argv []string, stdout, stderr io.Writer) int {
	if len(argv) > 0 && argv[0] == completeWord {
		for _, w := range complete(name, argv[1:]) {
			fmt.Fprintln(stdout, w)
		}
		return 0
	}
	out := &console{w: stdout}
	err := command(ctx, newApp(name, out, stderr), argv)
	if code, ok := stopped(ctx, err, stderr); ok {
		return code
	}
	if err = limits(err); err == nil {
		err = out.failure()
	}
	printError(stderr, err)
	if asksJSON(argv) {
		printFailure(out, err)
	}
	return fail.Code(err)
}

// command runs the one that argv names.
func command(ctx context.Context, app *ucli.App, argv []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = crashed(r)
		}
	}()
	defer formats.CatchFaults(&err)()
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
	var short *kernels.MemoryError
	switch {
	case errors.As(err, &short) && short.Pinned():
		return fail.Limitf("", "a larger --memory-limit, of which a GPU may pin half, or less that is kept in the host's memory", "%w", err)
	case errors.As(err, &short) && short.Copies:
		return fail.Limitf("", fmt.Sprintf("a GPU with more free memory, or device_memory_limit: %dMiB at least where a recipe sets it; a smaller model, or fewer tokens at a time", (short.Least()+1<<20-1)>>20), "%w", err)
	case errors.As(err, &short):
		return fail.Limitf("", fmt.Sprintf("--memory-limit %dMiB at least, a smaller model, or fewer tokens at a time", (short.Least()+1<<20-1)>>20), "%w", err)
	case known == nil && errors.Is(err, context.Canceled):
		return fail.Interruptedf("", "the same command goes on", "interrupted")
	case errors.Is(err, kernels.ErrOutOfMemory):
		return fail.Limitf("", "a smaller model, fewer tokens at a time or a larger --memory-limit", "%w", err)
	case errors.Is(err, syscall.EFBIG):
		return fail.Limitf("", "raise the limit of a file's size (ulimit -f), or write to a file system that holds larger files; then the same command goes on", "%w", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
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

// zeroDefault is what the library says of a flag with no value of its own.
var zeroDefault = regexp.MustCompile(` \(default: (0|false)\)( \[\$.*\])?$`)

// flagText is a flag in a help text. Where its usage says what it is otherwise, the
// library does not say so again.
func flagText(f ucli.Flag) string {
	text := libraryText(f)
	if strings.Count(text, "(default") > 1 {
		text = zeroDefault.ReplaceAllString(text, "$2")
	}
	return text
}

var (
	libraryText = ucli.FlagStringer
	setFlagText = sync.OnceFunc(func() { ucli.FlagStringer = flagText })
)

func newApp(name string, stdout, stderr io.Writer) *ucli.App {
	setFlagText()
	app := &ucli.App{
		Name: name, Version: Version, Writer: stdout, ErrWriter: stderr,
		Usage:                     "tune, quantize and test language models",
		HideHelpCommand:           true,
		Flags:                     []ucli.Flag{ucli.HelpFlag}, // a command of our own is called help
		DisableSliceFlagSeparator: true,
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
		if action := c.Action; action != nil && !slices.Contains(recipeCommands, c.Name) {
			c.Action = func(ctx *ucli.Context) error { return inFlags(ctx, action(ctx)) }
		}
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
	_, name, unknown := strings.Cut(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return fail.Usagef("", helpOf(c), "%w", err)
	}
	hint := helpOf(c)
	if near := likeFlag(c, strings.TrimLeft(name, "-")); near != "" {
		hint = "did you mean --" + near + "? " + hint
	}
	name = strings.TrimLeft(name, "-")
	return fail.Usagef("", hint, "%s: no such flag", dashes(name)+name)
}

// dashes are those before the name of a flag.
func dashes(name string) string {
	if len(name) == 1 {
		return "-"
	}
	return "--"
}

// foreignFlags are what other programs call flags of ours.
var foreignFlags = map[string]string{"n-predict": "max-new-tokens", "max-length": "max-new-tokens", "temp": "temperature", "model-name-or-path": "model", "outfile": "output",
	"out": "output", "outtype": "type", "calibration-dataset": "calibration", "limit": "samples", "lora": "adapter", "ctx-size": "context"}

// likeFlag is the flag of a command that an unknown name may mean; "" where none is like it.
func likeFlag(c *ucli.Context, name string) string {
	var names []string
	if c.Command != nil {
		for _, f := range c.Command.Flags {
			names = append(names, f.Names()[0])
		}
	}
	name = flagName(strings.ToLower(name))
	if other := foreignFlags[name]; slices.Contains(names, other) {
		return other
	}
	if slices.Contains(names, name) {
		return name
	}
	if near := fail.Nearest(name, names); near != "" {
		return near
	}
	for _, n := range names { // max-tokens is max-new-tokens
		words := strings.Split(n, "-")
		if len(words) > 1 && !slices.ContainsFunc(strings.Split(name, "-"), func(w string) bool { return !slices.Contains(words, w) }) {
			return n
		}
	}
	return ""
}

// helpOf is the line that shows the help of a command.
func helpOf(c *ucli.Context) string {
	name := ""
	if c.Command != nil {
		name = c.Command.Name
	}
	switch {
	case name == "" || name == c.App.Name:
		return c.App.Name + " --help"
	case slices.ContainsFunc(quantCommands(), func(q *ucli.Command) bool { return q.Name == name }):
		return "quant " + name + " --help"
	}
	return "tune " + name + " --help"
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
	switch {
	case arg == "version":
		hint = "tune --version"
	case arg == "help":
		hint = "quant METHOD --help"
	case slices.ContainsFunc(quantCommands(), func(q *ucli.Command) bool { return q.Name == arg }):
		hint = "quant " + arg + " --help"
	}
	return fail.Usagef("", hint, "unknown command %q", arg)
}

// permute moves flags before positional arguments, command by command: the
// parser stops at the first positional, so that `run r.yaml --dry-run` would
// run. "--" ends flags. What the parser would drop without a word is an error: an
// argument of a command that takes none, which an unquoted glob makes, and all but
// the last value of a flag that takes one.
func permute(app *ucli.App, argv []string) ([]string, error) {
	var out []string
	var cmd *ucli.Command
	cmds, flags := app.Commands, app.Flags
	rest := argv
	for len(rest) > 0 {
		i := slices.IndexFunc(cmds, func(c *ucli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		cmd = cmds[i]
		out, flags = append(out, rest[0]), cmd.Flags
		cmds, rest = cmd.Subcommands, rest[1:]
	}
	var before, after []string
	help := false
	given := map[ucli.Flag]string{}
	var last, near ucli.Flag // the flag before rest, before the first argument
	known := true            // of all flags: the parser says which one is not
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		if len(after) == 0 {
			near = last
		}
		if arg == "--" {
			after = append(after, rest...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' || isNumber(arg) {
			after = append(after, arg)
			continue
		}
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		help = help || name == "help" || name == "h"
		if last = flagOf(flags, name); last != nil { // by one name: the parser refuses two
			arg = "--" + last.Names()[0]
			if joined {
				arg += "=" + value
			}
		}
		before = append(before, arg)
		known = known && last != nil
		takes := !joined && takesValue(last)
		if takes {
			if len(rest) == 0 {
				return nil, fail.Usagef("", "", "flag %s needs a value", arg)
			}
			value = rest[0]
			before, rest = append(before, value), rest[1:]
		}
		if was, twice := given[last]; twice && !repeats(last) && (takes || joined) {
			return nil, fail.Usagef("", "leave one of them out", "--%s takes one value, found %q and %q", last.Names()[0], was, value)
		}
		if last != nil {
			given[last] = value
		}
	}
	if help && len(after) > 0 {
		if cmd == nil || len(cmd.Subcommands) > 0 { // its name is the mistake
			return append(out, after...), nil
		}
		return append(out, "--help"), nil // whatever it was to work on
	}
	if known && len(after) > 0 && cmd != nil && len(cmd.Subcommands) == 0 && cmd.ArgsUsage == "" {
		return nil, fail.Usagef("", moreHint(near), "unexpected argument %q", after[0])
	}
	out = append(out, before...)
	if len(after) > 0 {
		out = append(append(out, "--"), after...)
	}
	return out, nil
}

// moreHint says what to do with an argument that follows the value of a flag.
func moreHint(f ucli.Flag) string {
	switch {
	case f == nil:
		return "what a command works on is given by flags: add --help"
	case repeats(f):
		return fmt.Sprintf("quote a glob, or give the flag to every value: --%[1]s A --%[1]s B", f.Names()[0])
	case takesValue(f):
		return fmt.Sprintf("quote a value of several words; --%s takes one", f.Names()[0])
	}
	return fmt.Sprintf("--%s takes no value", f.Names()[0])
}

func isNumber(s string) bool { return len(s) > 1 && s[1] >= '0' && s[1] <= '9' }

// flagOf is the flag of this name; nil when there is none.
func flagOf(flags []ucli.Flag, name string) ucli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// takesValue reports whether the next argument belongs to the flag.
func takesValue(f ucli.Flag) bool {
	d, ok := f.(ucli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// repeats reports whether the flag keeps every value that it is given.
func repeats(f ucli.Flag) bool {
	d, ok := f.(ucli.DocGenerationSliceFlag)
	return ok && d.IsSliceFlag()
}
