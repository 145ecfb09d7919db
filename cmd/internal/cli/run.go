package cli

import (
	"errors"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/stages"
)

func runFlags() []ucli.Flag {
	return []ucli.Flag{
		setFlag(),
		&ucli.StringFlag{Name: "run-dir", Usage: "parent of run folders (default: runs)", EnvVars: []string{"TUNE_RUN_DIR"}},
		&ucli.StringFlag{Name: "device", Usage: "auto, cpu or cuda:0", EnvVars: []string{"TUNE_DEVICE"}},
		&ucli.IntFlag{Name: "threads", Usage: "worker threads; never changes a result", EnvVars: []string{"TUNE_THREADS"}},
		&ucli.StringFlag{Name: "memory-limit", Usage: "refuse what would need more", EnvVars: []string{"TUNE_MEMORY_LIMIT"}},
		&ucli.BoolFlag{Name: "json", Usage: "one JSON object a line on standard output"},
		&ucli.StringSliceFlag{Name: "only", Usage: "run this stage only (may repeat)"},
		&ucli.StringFlag{Name: "from", Usage: "run this stage and those after it"},
	}
}

func logEveryFlag() ucli.Flag {
	return &ucli.IntFlag{Name: "log-every", Usage: "a line for every so many steps of a training (default: on a terminal none, else every tenth of it)"}
}

func runCommand() *ucli.Command {
	return &ucli.Command{
		Name: "run", Usage: "run a recipe; finished stages are not run again", ArgsUsage: "RECIPE",
		Description: examples("tune run quickstart", "tune run support.yaml --set train.lora.r=8", "tune run support.yaml --dry-run"),
		Flags: append(runFlags(),
			&ucli.BoolFlag{Name: "dry-run", Usage: "plan only"},
			&ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}, logEveryFlag(),
			&ucli.StringFlag{Name: "write-baseline", Usage: "keep what eval stages measure as the baseline of later gates"},
			&ucli.StringSliceFlag{Name: "summary", Usage: "append the summary to FILE.md, .json or .xml (may repeat)"}),
		Action: func(c *ucli.Context) error {
			if c.Bool("dry-run") {
				return runPlan(c)
			}
			if err := args(c, "RECIPE", 1); err != nil {
				return err
			}
			r, err := stages.All.Open(c.Args().First(), c.StringSlice("set"))
			if err != nil {
				return err
			}
			return runRecipe(c, r)
		},
	}
}

// runRecipe runs a recipe, shows its progress and prints its summary.
func runRecipe(c *ucli.Context, r *recipes.Recipe) error {
	o, err := runOptions(c)
	if err != nil {
		return err
	}
	if err := besides(c); err != nil {
		return err
	}
	w := newWatcher(c.App.ErrWriter, c.Bool("quiet"))
	if w.logEvery = int64(c.Int("log-every")); w.logEvery < 0 || w.logEvery == 0 && c.IsSet("log-every") {
		return usagef(c, "--log-every %d: want at least 1", w.logEvery)
	}
	if c.Bool("json") {
		w.json = changes(func(e recipes.Event) { _ = writeJSON(c, e) })
	}
	o.Events = w.event
	o.WriteBaseline = c.String("write-baseline")
	sum, err := r.Run(c.Context, o)
	w.clear()
	if sum != nil && c.Bool("json") {
		if werr := writeJSON(c, result{"result", sum}); err == nil {
			err = werr
		}
	} else if sum != nil && (err == nil || fail.Code(err) == int(fail.Gate)) {
		sum.Print(c.App.Writer)
	}
	for _, f := range c.StringSlice("summary") {
		if sum != nil {
			if serr := sum.Append(f); err == nil {
				err = serr
			}
		}
	}
	return err
}

// result is the last line of a run in JSON: its summary.json.
type result struct {
	Event string `json:"event"`
	*report.Summary
}

// openRecipe reads the recipe argument and the flags that say how to run it.
func openRecipe(c *ucli.Context) (*recipes.Recipe, recipes.RunOptions, error) {
	o, err := runOptions(c)
	if err != nil {
		return nil, o, err
	}
	if err := args(c, "RECIPE", 1); err != nil {
		return nil, o, err
	}
	r, err := stages.All.Open(c.Args().First(), c.StringSlice("set"))
	return r, o, err
}

// runOptions are the flags that say how to run a recipe.
func runOptions(c *ucli.Context) (recipes.RunOptions, error) {
	o := recipes.RunOptions{Dir: c.String("run-dir"), Only: c.StringSlice("only"), From: c.String("from"), Device: c.String("device"), StartRank: startRank}
	var err, lerr error
	o.Threads, err = threads(c)
	o.MemoryLimit, lerr = memoryLimit(c)
	return o, errors.Join(err, lerr)
}
