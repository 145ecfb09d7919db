package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes/stages"
)

// folderQuant is the command of a method that makes folders.
func folderQuant(m *quant.Method) *ucli.Command {
	flags := modelFlags(
		&ucli.StringSliceFlag{Name: "model", Aliases: []string{"m"}, Usage: "model, or @FILE with one a line (may repeat)"},
		&ucli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "folder; {name}, {method} and {group_size} expand"},
		forceFlag(),
		&ucli.IntFlag{Name: "bits", Usage: "4 or 8 (2, 3 where the format allows); else by --scheme"},
		&ucli.StringFlag{Name: "group-size", Value: "auto", Usage: "columns that share a scale; auto: largest of 128, 64, 32 that divides every row; -1: whole row"},
		&ucli.StringFlag{Name: "scheme", Usage: strings.Join(quant.Schemes(), ", ")},
		&ucli.StringFlag{Name: "format", Usage: "gptq, awq, compressed-tensors, bitsandbytes (default: the method's own)"},
		&ucli.StringSliceFlag{Name: "for", Usage: "programs that must load it: transformers, vllm, tgi, exllama (may repeat)"},
		&ucli.StringFlag{Name: "actorder", Value: "static", Usage: "GPTQ: static, none, or group (desc_act)"},
		&ucli.Float64Flag{Name: "damp-percent", Value: 0.01, Usage: "GPTQ: of the mean Hessian diagonal, raised when needed"},
		&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
		&ucli.IntFlag{Name: "samples", Value: 128, Usage: "calibration samples"},
		&ucli.IntFlag{Name: "max-length", Value: 2048, Usage: "tokens a calibration sample"},
		&ucli.StringSliceFlag{Name: "ignore", Usage: "module left as it is: name or re:… (may repeat; default lm_head)"},
		&ucli.BoolFlag{Name: "single-quant", Usage: "NF4: leave the scales in f32"},
		&ucli.BoolFlag{Name: "allow-requantize", Usage: "accept a model that is quantized already"},
		&ucli.StringFlag{Name: "summary", Usage: "append one row a model to FILE.md"})
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
// the rest, finished outputs are skipped, and the highest exit code wins.
func runFolderQuant(c *ucli.Context, m *quant.Method) error {
	if err := required(c, "output"); err != nil {
		return err
	}
	if m.Calibrated() && !c.IsSet("calibration") {
		return usagef(c, "--calibration is required: poor calibration text would be silent")
	}
	models, err := modelList(c)
	if err != nil {
		return err
	}
	if len(models) > 1 && !strings.Contains(c.String("output"), "{name}") {
		return usagef(c, "--output needs {name} with several models")
	}
	var worst error
	for _, model := range models {
		err := quantOne(c, m, model, len(models) > 1)
		if err != nil && len(models) > 1 {
			printError(c.App.ErrWriter, fmt.Errorf("%s: %w", model, err))
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

func quantOne(c *ucli.Context, m *quant.Method, model string, many bool) error {
	out := strings.NewReplacer("{name}", nameOf(strings.TrimSuffix(model, string(filepath.Separator))), "{method}", m.Name, "{group_size}", c.String("group-size")).Replace(c.String("output"))
	if _, err := os.Stat(out); err == nil && many && !c.Bool("force") {
		fmt.Fprintln(c.App.ErrWriter, out+": done already")
		return nil
	}
	return writeOutput(c, out, func() error { return quantTo(c, m, model, out) })
}

func quantTo(c *ucli.Context, m *quant.Method, model, out string) error {
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	job := quant.FolderJob{Path: out, Method: m.Name, Scheme: c.String("scheme"), Format: c.String("format"), For: c.StringSlice("for"),
		Samples: c.Int("samples"), Ignore: c.StringSlice("ignore"), AllowRequantize: c.Bool("allow-requantize")}
	values := map[string]any{"actorder": c.String("actorder"), "damp_percent": c.Float64("damp-percent"), "double_quant": !c.Bool("single-quant")}
	job.Options = m.SetOptions(func(key string) (any, bool) { v, ok := values[key]; return v, ok })
	if len(job.For) == 0 {
		job.For = nil
	}
	if len(job.Ignore) == 0 {
		job.Ignore = []string{"lm_head"}
	}
	if job.Group, err = groupSize(c); err != nil {
		return err
	}
	if job.Scheme, err = schemeOf(c, m, job.Scheme); err != nil {
		return err
	}
	progress, clear := bar(c, "quant "+m.Name, "work")
	rep, err := stages.QuantizeFolder(c.Context, dev, model, job, c.String("calibration"), c.Int("max-length"), progress)
	clear()
	if err != nil {
		return err
	}
	for _, w := range rep.Warnings {
		fmt.Fprintln(c.App.ErrWriter, "warning: "+w)
	}
	line := map[string]any{"model": model, "output": out, "method": m.Name, "scheme": rep.Scheme, "group_size": rep.Group, "bits_per_weight": rep.BitsPerWeight(), "bytes": rep.Bytes, "fallbacks": rep.Fallbacks()}
	if c.Bool("json") {
		return writeJSON(c, line)
	}
	fmt.Fprintf(c.App.Writer, "%s: %s %s group %d, %.2f bits a weight, %s, %d layers fell back\n", out, m.Name, rep.Scheme, rep.Group, rep.BitsPerWeight(), humanize.Bytes(uint64(rep.Bytes)), rep.Fallbacks())
	if s := c.String("summary"); s != "" {
		return atomic.Append(s, fmt.Appendf(nil, "| %s | %s | %s | %.2f | %s |\n", model, m.Name, out, rep.BitsPerWeight(), humanize.Bytes(uint64(rep.Bytes))))
	}
	return nil
}

func groupSize(c *ucli.Context) (int, error) {
	s := c.String("group-size")
	if s == "auto" {
		return 0, nil
	}
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || n == 0 || n < -1 || fmt.Sprint(n) != s {
		return 0, usagef(c, "--group-size %q: auto, -1 or a number of columns", s)
	}
	return n, nil
}

// schemeOf joins --bits with the method's usual symmetry.
func schemeOf(c *ucli.Context, m *quant.Method, scheme string) (string, error) {
	if !c.IsSet("bits") {
		return scheme, nil
	}
	if scheme != "" && !strings.HasPrefix(scheme, fmt.Sprintf("W%dA16", c.Int("bits"))) {
		return "", usagef(c, "--bits %d and --scheme %s contradict each other", c.Int("bits"), scheme)
	}
	if scheme == "" {
		scheme = fmt.Sprintf("W%dA16", c.Int("bits"))
		if strings.HasSuffix(m.Schemes[0], "_ASYM") {
			scheme += "_ASYM"
		}
	}
	return scheme, nil
}
