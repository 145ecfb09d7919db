package cli

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
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
