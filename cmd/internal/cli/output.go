package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train/eval"
)

// bar returns a progress function for one job.
func bar(c *ucli.Context, name, unit string) (func(done, total int64), func()) {
	w := newWatcher(c.App.ErrWriter, c.Bool("quiet"))
	return func(done, total int64) {
		w.event(recipes.Event{Stage: name, What: "progress", Done: done, Total: total, Unit: unit})
	}, w.clear
}

func outputFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "where to write"}
}

func forceFlag() ucli.Flag {
	return &ucli.BoolFlag{Name: "force", Usage: "replace what is at --output"}
}

// writeOutput runs write for a path that must not exist yet. With --force what
// is there steps aside and comes back when write fails: nothing is lost. The
// folders above are made.
func writeOutput(c *ucli.Context, path string, write func() error) error {
	if err := outputFree(c, path); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		if err := atomic.MkdirAll(filepath.Dir(filepath.Clean(path))); err != nil { // of o/ the folder above o
			return err
		}
		werr := write()
		if werr != nil && errors.Is(err, fs.ErrNotExist) { // written whole, but not what was asked for
			werr = errors.Join(werr, atomic.RemoveAll(path))
		}
		return werr
	}
	restore, drop, err := atomic.Aside(path)
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return errors.Join(err, restore())
	}
	return drop()
}

// outputFree refuses a path that holds something, unless --force replaces it, and one
// that the command reads.
func outputFree(c *ucli.Context, path string) error {
	if err := overInputs(c, path); err != nil {
		return err
	}
	if err := atomic.Recover(path); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil && !c.Bool("force") {
		return fail.Usagef(path, "--force replaces it", "already exists")
	}
	return nil
}

// fileName refuses the name of a folder where a file is written: one that ends in a
// slash, and one of a folder that is there, which --force would lose with all in it.
func fileName(path string) error {
	if n := len(path); n > 0 && os.IsPathSeparator(path[n-1]) {
		return fail.Usagef(path, "name the file", "is the name of a folder, and a file is written")
	}
	if err := atomic.Ordinary(path); err != nil {
		return err
	}
	if st, err := os.Lstat(path); err == nil && st.IsDir() {
		return fail.Usagef(path, "name the file, or remove the folder", "is a folder, and a file would take its place")
	}
	return nil
}

// inputFlags name what commands read.
var inputFlags = []string{"model", "data", "adapter", "calibration", "imatrix", "in-file", "tensor-type-file", "reference", "input"}

// overInputs refuses an output that would take the place of what the command reads:
// of a file, of a folder around it, or of a file within a folder.
func overInputs(c *ucli.Context, output string) error {
	out := realPath(output)
	for _, flag := range inputFlags {
		if !c.IsSet(flag) {
			continue
		}
		given := c.StringSlice(flag)
		if len(given) == 0 { // it takes one
			given = []string{c.String(flag)}
		}
		for _, path := range given {
			if flag == "adapter" {
				path, _, _ = lastCut(path)
			}
			files := []string{path}
			if _, err := os.Lstat(path); err != nil {
				files, _ = filepath.Glob(path) // what is no pattern, and not there, is no file
			}
			for _, f := range files {
				in := realPath(f)
				_, err := os.Lstat(out)
				if within(in, out) || err == nil && within(out, in) {
					return fail.Usagef(output, "write elsewhere", "--%s reads %s: writing here would destroy it", flag, path)
				}
			}
		}
	}
	return nil
}

// realPath is a path without links, as far as it is there.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	if up := filepath.Dir(abs); up != abs {
		return filepath.Join(realPath(up), filepath.Base(abs))
	}
	return abs
}

// within tells whether a path is dir, or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// nameOf is the last part of a model's path, of a file without its ending: the dot
// in the name of a folder (Llama-3.2-1B) begins none.
func nameOf(path string) string {
	return strings.TrimSuffix(filepath.Base(path), ".gguf")
}

// besides refuses, before any work, the files that a command is to write beside
// its result and that hold something else.
func besides(c *ucli.Context) error {
	if f := c.String("write-baseline"); f != "" {
		if err := eval.BaselineTo(f); err != nil {
			return err
		}
	}
	for _, f := range append(c.StringSlice("summary"), c.String("summary")) { // quant has only one
		if f == "" {
			continue
		}
		if err := report.SummaryTo(f); err != nil {
			return err
		}
	}
	return nil
}
