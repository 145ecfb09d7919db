package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// quantKeys are the keys of a quantize stage that quant METHOD has as flags.
var quantKeys = []string{"group_size", "scheme", "format", "for", "actorder", "damp_percent", "search", "overrides", "samples", "max_length", "ignore", "keep_dtype", "allow_requantize"}

// folderQuant is the command of a method that makes folders.
func folderQuant(m *quant.Method) *ucli.Command {
	bits := []ucli.Flag{&ucli.IntFlag{Name: "bits", Usage: "4 or 8 (2, 3, 5, 6 where the format allows); by default those of --scheme", DefaultText: "the scheme's"}}
	if hasBits(m) {
		bits = optionFlags(&stages.Quantize{}, "bits")
	}
	flags := modelFlags(append(slices.Concat(optionFlags(&stages.Quantize{}, quantKeys...), sourceFlags(), bits),
		append(batchFlags(", {method} and {group_size}"),
			&ucli.StringFlag{Name: "calibration", Usage: "text, JSONL or Parquet"},
			&ucli.BoolFlag{Name: "single-quant", Usage: "NF4 and FP4: leave the scales in f32"})...)...)
	return &ucli.Command{
		Name: m.Name, Usage: m.Title, Flags: flags,
		Description: examples(fmt.Sprintf("quant %s --model models/M --output M-%s%s", m.Name, m.Name, calExample(m)),
			fmt.Sprintf("quant %s --model @models.txt --output 'out/{name}-{method}'%s", m.Name, calExample(m))),
		Action: func(c *ucli.Context) error { return runFolderQuant(c, m) },
	}
}

// hasBits reports whether bits are an option of the method's own.
func hasBits(m *quant.Method) bool { return m.Options != nil && schema.Has(m.Options(), "bits") }

func calExample(m *quant.Method) string {
	if m.Calibrated() {
		return " --calibration train.jsonl --samples 128"
	}
	return ""
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
	for _, name := range []string{"calibration", "samples", "max-length", "type", "split", "columns", "chat-template"} {
		if c.IsSet(name) && !m.Calibrated() && !c.IsSet("search") {
			return usagef(c, "--%s: %s reads no calibration text", name, m.Name)
		}
	}
	if strings.Contains(c.String("output"), "{group_size}") && c.String("group-size") == "auto" {
		return usagef(c, "--output has {group_size}: give --group-size, which auto chooses for each model")
	}
	list, many, err := tasks(c, map[string]string{"method": m.Name, "group_size": c.String("group-size")})
	if err != nil {
		return err
	}
	if err := besides(c); err != nil {
		return err
	}
	o, err := quantOptions(c, m)
	if err != nil {
		return err
	}
	text, err := sourceOf(c, c.String("calibration"))
	if err != nil {
		return err
	}
	return batch(c, list, many, func(t task) (*outcome, error) {
		return quantOne(c, &stages.Quantization{Model: t.Model, Calibration: text, Output: t.Output, Options: o, AnyFor: !c.IsSet("for"), Note: noteOn(c)}, many)
	})
}

func quantOne(c *ucli.Context, q *stages.Quantization, many bool) (out *outcome, err error) {
	dev, err := openDevice(c)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if many && !c.Bool("force") {
		if done, err := q.Done(dev); err != nil || done {
			if done {
				fmt.Fprintln(c.App.ErrWriter, q.Output+": done already")
			}
			return nil, err
		}
	}
	err = writeOutput(c, q.Output, func() error {
		out, err = quantTo(c, dev, q)
		return err
	})
	return out, err
}

func quantTo(c *ucli.Context, dev kernels.Backend, q *stages.Quantization) (*outcome, error) {
	method := string(q.Options.Method)
	progress, clear := bar(c, "quant "+method, "work")
	rep, err := q.Run(c.Context, dev, progress)
	clear()
	if err != nil {
		return nil, err
	}
	for _, w := range rep.Warnings {
		fmt.Fprintln(c.App.ErrWriter, "warning: "+harmless(w))
	}
	group := ""
	switch { // else the scheme says it
	case rep.Group > 0:
		group = fmt.Sprintf(" group %d", rep.Group)
	case rep.Group < 0 && q.Options.GroupSize.Set:
		group = " groups of whole rows"
	}
	size := humanize.Bytes(uint64(rep.Bytes))
	return &outcome{
		text: fmt.Sprintf("%s: %s %s%s, %.2f bits a weight, %s, %d layers fell back\n", q.Output, method, rep.Scheme, group, rep.BitsPerWeight(), size, rep.Fallbacks()),
		json: map[string]any{"model": q.Model, "output": q.Output, "method": method, "scheme": rep.Scheme, "group_size": rep.Group, "bits_per_weight": rep.BitsPerWeight(), "bytes": rep.Bytes, "fallbacks": rep.Fallbacks()},
		how:  method + " " + rep.Scheme, bits: rep.BitsPerWeight(), size: size,
	}, nil
}

// quantOptions are the flags as a quantize stage's options.
func quantOptions(c *ucli.Context, m *quant.Method) (*stages.Quantize, error) {
	o := &stages.Quantize{Method: stages.MethodName(m.Name)}
	err := readOptions(c, o, quantKeys...)
	if err != nil {
		return nil, err
	}
	if hasBits(m) {
		err = readOptions(c, o, "bits")
	} else {
		err = schemeOfBits(c, m, o)
	}
	if err != nil {
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
