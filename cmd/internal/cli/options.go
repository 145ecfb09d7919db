package cli

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

// optionFlags are flags for keys of the struct of options at ptr, with the
// documentation and the default of their tags: --max-length for max_length.
func optionFlags(ptr any, keys ...string) []ucli.Flag {
	var out []ucli.Flag
	for _, key := range keys {
		o := schema.Lookup(ptr, key)
		name, usage := flagName(key), o.Doc
		if n := len(o.Enum); n > 0 {
			usage += ": " + strings.Join(o.Enum[:n-1], ", ") + " or " + o.Enum[n-1]
		}
		if o.Unset != "" {
			usage += " (default: " + o.Unset + ")"
		}
		switch o.Type.Kind() {
		case reflect.Bool:
			out = append(out, &ucli.BoolFlag{Name: name, Usage: usage})
		case reflect.Int:
			n, _ := strconv.Atoi(o.Default)
			out = append(out, &ucli.IntFlag{Name: name, Value: n, Usage: usage})
		case reflect.Float64:
			f, _ := strconv.ParseFloat(o.Default, 64)
			out = append(out, &ucli.Float64Flag{Name: name, Value: f, Usage: usage})
		case reflect.Slice:
			if o.Default != "" {
				usage += " (default: " + strings.Trim(o.Default, "[]") + ")"
			}
			out = append(out, &ucli.StringSliceFlag{Name: name, Usage: usage + " (may repeat)"})
		default:
			out = append(out, &ucli.StringFlag{Name: name, Value: o.Default, Usage: usage})
		}
	}
	return out
}

// sourceKeys are the keys of a dataset that commands with data have as flags.
var sourceKeys = []string{"type", "split"}

// sourceFlags are the flags that say how data files are read; sourceOf reads them.
func sourceFlags() []ucli.Flag {
	return append(optionFlags(&data.Source{}, sourceKeys...), templateFlag(),
		&ucli.StringFlag{Name: "columns", Usage: "our names to yours as YAML: {messages: conv}"})
}

// sourceOf is a data file with these flags.
func sourceOf(c *ucli.Context, path string) (data.Source, error) {
	src := data.Source{Path: path}
	var err error
	if src.Template, err = templateText(c); err != nil {
		return src, err
	}
	if err := readOptions(c, &src, sourceKeys...); err != nil {
		return src, err
	}
	src.Columns, err = parseColumns(c.String("columns"))
	return src, err
}

// templateText is --chat-template: a name, or what a file holds; "" for the model's
// own.
func templateText(c *ucli.Context) (string, error) {
	name := c.String("chat-template")
	if name == "" || name == "model" {
		return "", nil
	}
	return stages.TemplateText(name)
}

// templateKey is --chat-template as a key of an ingest stage, after before; "" where
// it is the model's.
func templateKey(c *ucli.Context, before string) string {
	if name := c.String("chat-template"); name != "" && name != "model" {
		return fmt.Sprintf("%schat_template: %q", before, name)
	}
	return ""
}

// parseColumns reads --columns, a YAML mapping.
func parseColumns(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	m := map[string]string{}
	if err := yaml.Unmarshal([]byte(s), &m); err != nil {
		return nil, fail.Usagef("--columns", "--columns '{messages: conv, role: from, content: value}': our names, then yours", "%q is no YAML mapping of names", s)
	}
	return m, nil
}

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

// readOptions takes the given ones of these flags over into the options at ptr.
func readOptions(c *ucli.Context, ptr any, keys ...string) error {
	for _, key := range keys {
		name := flagName(key)
		if !c.IsSet(name) {
			continue
		}
		texts := []string{fmt.Sprint(c.Value(name))}
		if schema.Lookup(ptr, key).Type.Kind() == reflect.Slice {
			texts = c.StringSlice(name)
		}
		if err := schema.Set(ptr, key, texts...); err != nil {
			hint := fail.Hint(err)
			if hint == "" {
				hint = helpOf(c)
			}
			return fail.Usagef("", hint, "--%s: %v", name, err)
		}
	}
	return nil
}
