package cli

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/bench"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// benchReport is what tune bench --json prints.
type benchReport struct {
	Version string      `json:"version"`
	CPU     string      `json:"cpu"`
	Device  string      `json:"device"`
	Level   string      `json:"kernel_level"`
	Threads int         `json:"threads"`
	Peak    *cpu.Rates  `json:"peak,omitempty"`
	Rows    []bench.Row `json:"rows,omitempty"`
	Model   *modelSpeed `json:"model,omitempty"`
	Text    *textSpeed  `json:"text,omitempty"`
}

func benchCommand() *ucli.Command {
	return &ucli.Command{
		Name: "bench", Usage: "each kernel as a share of what this machine reaches; or the speed of a model",
		Description: examples("tune bench", "tune bench --filter 'matrix.vector|attention' --time 1",
			"tune bench --model models/M --text corpus.txt",
			"tune bench --model M-Q4_K_M.gguf --json | jq .model.decode_tokens_per_second"),
		Flags: modelFlags(modelFlag(),
			&ucli.StringFlag{Name: "filter", Usage: "regular expression of the rows to measure"},
			&ucli.Float64Flag{Name: "time", Value: 0.3, Usage: "seconds of calls a row"},
			&ucli.IntFlag{Name: "prompt", Value: 512, Usage: "with --model: tokens of the prompt"},
			&ucli.IntFlag{Name: "decode", Value: 128, Usage: "with --model: tokens made after it"},
			&ucli.IntFlag{Name: "answers", Usage: "with --model: so many answers, 16 at a time, drawn at temperature 1, instead of one"},
			&ucli.StringFlag{Name: "text", Usage: "with --model: a file whose lines the model's tokenizer encodes, instead of running the model"},
			&ucli.IntFlag{Name: "rounds", Value: 3, Usage: "with --model: how often; best and median are shown"}),
		Action: runBench,
	}
}

func runBench(c *ucli.Context) error {
	filter, err := regexp.Compile(c.String("filter"))
	if err != nil {
		return usagef(c, "--filter: %v", err)
	}
	if c.Float64("time") <= 0 || c.Int("prompt") < 1 || c.Int("decode") < 2 || c.Int("rounds") < 1 || c.IsSet("answers") && c.Int("answers") < 1 {
		return usagef(c, "--time, --prompt, --answers, --rounds are above 0, --decode above 1")
	}
	if err := benchReads(c); err != nil {
		return err
	}
	dev, err := openDevice(c)
	if err != nil {
		return err
	}
	defer dev.Close()
	in := dev.Info()
	r := &benchReport{Version: Version, CPU: cpuName(), Device: in.Name, Level: in.Level, Threads: in.Threads}
	w := c.App.Writer
	if c.Bool("json") {
		w = io.Discard
	}
	fmt.Fprintf(w, "tune %s on %s, %d threads, kernels %s\n", r.Version, r.CPU, r.Threads, r.Level)
	switch {
	case c.IsSet("text"):
		if err = required(c, "model"); err == nil {
			err = benchText(c, r, w)
		}
	case c.IsSet("model"):
		err = benchModel(c, dev, r, w)
	default:
		err = benchKernels(c, dev, filter, r, w)
	}
	if err == nil && c.Bool("json") {
		err = writeJSON(c, r)
	}
	return err
}

// benchReads refuses flags that what is measured does not read.
func benchReads(c *ucli.Context) error {
	what, unread := "the kernels are measured without --model", []string{"prompt", "decode", "answers", "rounds"}
	switch {
	case c.IsSet("text"):
		what, unread = "--text measures the tokenizer", []string{"prompt", "decode", "answers", "filter", "time"}
	case c.IsSet("model"):
		what, unread = "--model measures the model", []string{"filter", "time"}
	}
	for _, flag := range unread {
		if c.IsSet(flag) {
			return usagef(c, "--%s: %s", flag, what)
		}
	}
	return nil
}

func benchKernels(c *ucli.Context, dev kernels.Backend, filter *regexp.Regexp, r *benchReport, w io.Writer) error {
	progress, clear := bar(c, "bench", "rows")
	defer clear()
	o := bench.Options{Filter: filter, Time: time.Duration(c.Float64("time") * float64(time.Second)), Progress: progress}
	if r.Device == "cpu" {
		rates := cpu.Measure()
		r.Peak = &rates
		fmt.Fprintf(w, "peak %s\n", rates)
		o.Peak = limitsOf(cpu.NewMeter(), r.Threads)
	}
	group := ""
	o.Row = func(row bench.Row) error {
		clear()
		if row.Group != group {
			group = row.Group
			fmt.Fprintln(w, "\n"+group)
		}
		fmt.Fprintln(w, benchLine(row))
		r.Rows = append(r.Rows, row)
		return c.Context.Err()
	}
	if err := bench.Run(dev, o); err != nil {
		return err
	}
	if len(r.Rows) == 0 {
		return usagef(c, "--filter %s matches no row", c.String("filter"))
	}
	return nil
}

// limitsOf measures the processor's limits of the moment.
func limitsOf(m *cpu.Meter, threads int) func(bench.Limit) float64 {
	return func(l bench.Limit) float64 {
		switch l {
		case bench.Read:
			return m.Read(threads)
		case bench.Copy:
			return m.Stream()
		}
		return m.Peak(l == bench.BF16, threads)
	}
}

// benchLine is a row for a person.
func benchLine(r bench.Row) string {
	const name, width = 52, 20
	s := "  " + r.Name + strings.Repeat(" ", max(1, name-utf8.RuneCountInString(r.Name)))
	s += fmt.Sprintf("%8s %-8s", figure(r.Rate), r.Unit)
	if r.Share > 0 {
		full := int(width*min(1, r.Share) + 0.5)
		s += fmt.Sprintf(" ▕%s%s▏ %3.0f %% of %s", strings.Repeat("█", full), strings.Repeat(" ", width-full), 100*r.Share, r.Limit)
	}
	return s
}

// figure is v with three digits or more.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
