package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes/stages"
)

// quantKeys are the keys of a quantize stage that quant METHOD has as flags.
var quantKeys = []string{"group_size", "scheme", "format", "for", "actorder", "damp_percent", "search", "overrides", "samples", "max_length", "ignore", "allow_requantize"}

// folderQuant is the command of a method that makes folders.
func folderQuant(m *quant.Method) *ucli.Command {
	flags := modelFlags(append(slices.Concat(optionFlags(&stages.Quantize{}, quantKeys...), sourceFlags()),
		&ucli.StringSliceFlag{Name: "model", Aliases: []string{"m"}, Usage: "model, or @FILE with one a line (may repeat)"},
		&ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "folder; {name}, {method} and {group_size} expand"},
		forceFlag(),
		&ucli.IntFlag{Name: "bits", Usage: "4 or 8 (2, 3 where the format allows); else by --scheme"},
		&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
		&ucli.BoolFlag{Name: "single-quant", Usage: "NF4: leave the scales in f32"},
		&ucli.StringFlag{Name: "summary", Usage: "append one row a model to FILE.md"})...)
	return &ucli.Command{
		Name: m.Name, Usage: m.Title, Flags: flags,
		Description: examples(fmt.Sprintf("quant %s --model models/M --output M-%s%s", m.Name, m.Name, calExample(m)),
			fmt.Sprintf("quant %s --model @models.txt --output 'out/{name}-{method}'%s", m.Name, calExample(m))),
		Action: func(c *ucli.Context) error { return runFolderQuant(c, m) },
	}
}

func calExample(m *quant.Method) string {
	if m.Calibrated() {
		return " --calibration train.jsonl --samples 128"
	}
	return ""
}

// models expands @FILE.
func modelList(c *ucli.Context) ([]string, error) {
	var out []string
	for _, m := range c.StringSlice("model") {
		name, ok := strings.CutPrefix(m, "@")
		if !ok {
			out = append(out, m)
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fail.Usagef(name, "", "%w", err)
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out = append(out, line)
			}
		}
	}
	if len(out) == 0 {
		return nil, usagef(c, "--model is required")
	}
	return out, nil
}

// runFolderQuant quantizes every model; with several, a failure does not stop
// the rest, outputs that the same job made are skipped, and the highest exit code wins.
func runFolderQuant(c *ucli.Context, m *quant.Method) error {
	if err := required(c, "output"); err != nil {
		return err
	}
	if (m.Calibrated() || c.IsSet("search")) && !c.IsSet("calibration") {
		return usagef(c, "--calibration is required: poor calibration text would be silent")
	}
	for _, name := range []string{"calibration", "type", "split", "columns"} {
		if c.IsSet(name) && !m.Calibrated() && !c.IsSet("search") {
			return usagef(c, "--%s: %s reads no calibration text", name, m.Name)
		}
	}
	models, err := modelList(c)
	if err != nil {
		return err
	}
	if len(models) > 1 && !strings.Contains(c.String("output"), "{name}") {
		return usagef(c, "--output needs {name} with several models")
	}
	o, err := quantOptions(c, m)
	if err != nil {
		return err
	}
	text, err := sourceOf(c, c.String("calibration"))
	if err != nil {
		return err
	}
	var jobs []*stages.Quantization
	made := map[string]string{}
	for _, model := range models {
		out := strings.NewReplacer("{name}", nameOf(model), "{method}", m.Name, "{group_size}", c.String("group-size")).Replace(c.String("output"))
		if twin, twice := made[filepath.Clean(out)]; twice {
			return fail.Usagef("", "give them one at a time, each with an --output of its own", "%s and %s would both be written to %s", twin, model, out)
		}
		made[filepath.Clean(out)] = model
		jobs = append(jobs, &stages.Quantization{Model: model, Calibration: text, Output: out, Options: o, AnyFor: !c.IsSet("for"), Note: noteOn(c)})
	}
	var worst error
	for _, q := range jobs {
		err := quantOne(c, q, len(jobs) > 1)
		if err != nil && len(jobs) > 1 {
			printError(c.App.ErrWriter, fmt.Errorf("%s: %w", q.Model, err))
		}
		if fail.Code(err) > fail.Code(worst) {
			worst = err
		}
		if c.Context.Err() != nil {
			break
		}
	}
	return worst
}

func quantOne(c *ucli.Context, q *stages.Quantization, many bool) error {
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	if many && !c.Bool("force") {
		if done, err := q.Done(dev); err != nil || done {
			if done {
				fmt.Fprintln(c.App.ErrWriter, q.Output+": done already")
			}
			return err
		}
	}
	return writeOutput(c, q.Output, func() error { return quantTo(c, dev, q) })
}

func quantTo(c *ucli.Context, dev kernels.Backend, q *stages.Quantization) error {
	method := string(q.Options.Method)
	progress, clear := bar(c, "quant "+method, "work")
	rep, err := q.Run(c.Context, dev, progress)
	clear()
	if err != nil {
		return inFlags(err)
	}
	for _, w := range rep.Warnings {
		fmt.Fprintln(c.App.ErrWriter, "warning: "+w)
	}
	line := map[string]any{"model": q.Model, "output": q.Output, "method": method, "scheme": rep.Scheme, "group_size": rep.Group, "bits_per_weight": rep.BitsPerWeight(), "bytes": rep.Bytes, "fallbacks": rep.Fallbacks()}
	if c.Bool("json") {
		return writeJSON(c, line)
	}
	fmt.Fprintf(c.App.Writer, "%s: %s %s group %d, %.2f bits a weight, %s, %d layers fell back\n", q.Output, method, rep.Scheme, rep.Group, rep.BitsPerWeight(), humanize.Bytes(uint64(rep.Bytes)), rep.Fallbacks())
	if s := c.String("summary"); s != "" {
		return atomic.Append(s, fmt.Appendf(nil, "| %s | %s | %s | %.2f | %s |\n", q.Model, method, q.Output, rep.BitsPerWeight(), humanize.Bytes(uint64(rep.Bytes))))
	}
	return nil
}

// keyOf finds the keys of a stage in a hint.
var keyOf = regexp.MustCompile(`\b(` + strings.Join(append(quantKeys, "method"), "|") + `): `)

// inFlags says an error about a key of a quantize stage with the flag of that name.
func inFlags(err error) error {
	var e *fail.Error
	if !errors.As(err, &e) || !slices.Contains(quantKeys, e.Where) {
		return err
	}
	hint := keyOf.ReplaceAllStringFunc(e.Hint, func(key string) string { return "--" + flagName(strings.TrimSuffix(key, ": ")) + " " })
	hint = strings.NewReplacer("--method ", "quant ", " out of for", " out of --for").Replace(hint)
	text := strings.TrimPrefix(e.Error(), e.Where+": ")
	return &fail.Error{Kind: e.Kind, Where: "--" + flagName(e.Where), Hint: hint, Msg: text}
}

// quantOptions are the flags as a quantize stage's options.
func quantOptions(c *ucli.Context, m *quant.Method) (*stages.Quantize, error) {
	o := &stages.Quantize{Method: stages.MethodName(m.Name)}
	err := readOptions(c, o, quantKeys...)
	if err != nil {
		return nil, err
	}
	if err := schemeOfBits(c, m, o); err != nil {
		return nil, err
	}
	if c.Bool("single-quant") {
		no := false
		o.DoubleQuant = &no
	}
	o.Fill(func(key, hint, format string, args ...any) {
		err = fail.Usagef("", hint, "--"+flagName(key)+": "+format, args...)
	})
	return o, err
}

// schemeOfBits joins --bits with the method's usual symmetry.
func schemeOfBits(c *ucli.Context, m *quant.Method, o *stages.Quantize) error {
	if !c.IsSet("bits") {
		return nil
	}
	scheme := fmt.Sprintf("W%dA16", c.Int("bits"))
	if o.Scheme != "" {
		if !strings.HasPrefix(string(o.Scheme), scheme) {
			return usagef(c, "--bits %d and --scheme %s contradict each other", c.Int("bits"), o.Scheme)
		}
		return nil
	}
	if strings.HasSuffix(m.Schemes[0], "_ASYM") {
		scheme += "_ASYM"
	}
	o.Scheme = stages.SchemeName(scheme)
	return nil
}
