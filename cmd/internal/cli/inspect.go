package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
)

func inspectCommand() *ucli.Command {
	return &ucli.Command{
		Name: "inspect", Usage: "print an artifact's header: format, metadata, tensors", ArgsUsage: "PATH",
		Description: examples("tune inspect model.gguf", "tune inspect models/M --json --hash | jq '.tensors[].sha256'"),
		Flags: []ucli.Flag{
			jsonFlag(),
			&ucli.BoolFlag{Name: "hash", Usage: "read every tensor and print its sha256"},
		},
		Action: func(c *ucli.Context) error {
			if err := args(c, "PATH", 1); err != nil {
				return err
			}
			path, err := recipes.ResolveHeaders(c.Args().First())
			if err != nil {
				return err
			}
			rep, err := formats.Inspect(path, c.Bool("hash"))
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(rep)
			}
			printReport(c, rep)
			return nil
		},
	}
}

func printReport(c *ucli.Context, rep formats.Report) {
	out := c.App.Writer
	fmt.Fprintf(out, "%s  %s  %s  %d tensors\n", rep.Path, rep.Format, humanize.Bytes(uint64(rep.Bytes)), len(rep.Tensors))
	var types []string
	for _, t := range rep.Types {
		types = append(types, fmt.Sprintf("%d × %s %s", t.Tensors, t.DType, humanize.Bytes(uint64(t.Bytes))))
	}
	fmt.Fprintf(out, "%s parameters, %.2f bits each: %s\n", humanize.Comma(rep.Parameters), rep.Bits, strings.Join(types, ", "))
	if f, err := lora.ReadFolder(rep.Path); err == nil {
		fmt.Fprintf(out, "adapter of %s: %s\n", f.Base, f.Summary())
	}
	if rep.Config != nil {
		raw, _ := json.MarshalIndent(rep.Config, "", "  ")
		fmt.Fprintf(out, "%s\n", raw)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range slices.Sorted(maps.Keys(rep.Metadata)) {
		fmt.Fprintf(w, "%s\t%s\n", k, ellipsis(fmt.Sprint(rep.Metadata[k]), 100))
	}
	fmt.Fprintln(w)
	for _, t := range rep.Tensors {
		fmt.Fprintf(w, "%s\t%s\t%v\t%s\t%s\n", t.Name, t.DType, t.Shape, humanize.Bytes(uint64(t.Bytes)), t.SHA256)
	}
	w.Flush()
	for _, warn := range rep.Warnings {
		fmt.Fprintln(c.App.ErrWriter, "warning: "+harmless(warn))
	}
}

func ellipsis(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
