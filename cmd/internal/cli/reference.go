package cli

import (
	"fmt"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// FlagDoc documents one flag of a command.
type FlagDoc struct {
	Names   string // "--model, -m"
	Value   bool   // takes one
	Repeats bool
	Default string
	Doc     string
}

// Flags lists the flags of a command ("run", "quant gptq") without --help and
// those of "common", which every command that runs a model has. It returns nil
// for an unknown command.
func Flags(command string) []FlagDoc {
	common := modelFlags()
	if command == "common" {
		return flagDocs(common, nil)
	}
	list := commands()
	var found *ucli.Command
	for word := range strings.FieldsSeq(command) {
		i := slices.IndexFunc(list, func(c *ucli.Command) bool { return c.HasName(word) })
		if i < 0 {
			return nil
		}
		found, list = list[i], list[i].Subcommands
	}
	return flagDocs(found.Flags, common)
}

// flagDocs leaves out the flags of without, where a command has all of those.
func flagDocs(flags, without []ucli.Flag) []FlagDoc {
	has := func(list []ucli.Flag, f ucli.Flag) bool {
		return slices.ContainsFunc(list, func(g ucli.Flag) bool { return g.Names()[0] == f.Names()[0] })
	}
	if slices.ContainsFunc(without, func(f ucli.Flag) bool { return !has(flags, f) }) {
		without = nil
	}
	out := []FlagDoc{}
	for _, f := range flags {
		d, ok := f.(ucli.DocGenerationFlag)
		if !ok || has(without, f) {
			continue
		}
		var names []string
		for _, n := range f.Names() {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			names = append(names, dashes+n)
		}
		_, repeats := f.(ucli.DocGenerationSliceFlag)
		out = append(out, FlagDoc{strings.Join(names, ", "), d.TakesValue(), repeats, flagDefault(f, d), d.GetUsage()})
	}
	return out
}

// flagDefault is the default of a flag whose text does not tell it already.
func flagDefault(f ucli.Flag, d ucli.DocGenerationFlag) string {
	s := strings.Trim(d.GetValue(), `"`)
	switch f.(type) {
	case *ucli.BoolFlag, *ucli.StringSliceFlag, *ucli.Float64SliceFlag:
		return ""
	case *ucli.IntFlag, *ucli.Float64Flag:
		if s == "0" {
			return ""
		}
	}
	return fmt.Sprint(s)
}
