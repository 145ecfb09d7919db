package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// tojsonFilter is transformers' tojson: json.dumps with ensure_ascii off
// unless asked, and no HTML escapes.
func tojsonFilter(m *machine, v any, c *call) (any, error) {
	j := &jsonWriter{m: m, item: ", ", key: ": "}
	j.ascii = c.flag("ensure_ascii", false)
	indent, separators := c.arg("indent", nil), c.arg("separators", nil)
	j.sort = c.flag("sort_keys", false)
	if err := c.done(); err != nil {
		return nil, err
	}
	switch x := unbool(indent).(type) {
	case nil:
	case int64:
		if x > 1000 {
			return nil, m.limit(0, "tojson: an indent of %d", x)
		}
		j.indent, j.pretty, j.item = strings.Repeat(" ", int(max(x, 0))), true, ","
	case string:
		j.indent, j.pretty, j.item = x, true, ","
	default:
		return nil, fmt.Errorf("tojson: indent must be an integer or a string, not %s", typeName(indent))
	}
	if separators != nil {
		pair, err := m.iterate(separators)
		if err != nil || len(pair) != 2 {
			return nil, fmt.Errorf("tojson: separators must be two strings")
		}
		item, ok1 := pair[0].(string)
		key, ok2 := pair[1].(string)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("tojson: separators must be two strings")
		}
		j.item, j.key = item, key
	}
	if err := j.write(v, 0); err != nil {
		return nil, err
	}
	return j.b.String(), m.grow(j.b.Len())
}

// fromJSONFilter is llama.cpp's from_json: the value that a text writes as JSON. What
// is no text is a value already, such as the arguments of a call that were parsed
// before.
func fromJSONFilter(m *machine, v any, c *call) (any, error) {
	if err := c.done(); err != nil {
		return nil, err
	}
	if _, un := v.(undefined); un {
		return nil, fmt.Errorf("from_json: the value is undefined")
	}
	s, ok := v.(string)
	if !ok {
		return v, nil
	}
	values := 1 // at most
	for i := range len(s) {
		switch s[i] {
		case ',', '[', '{':
			values++
		}
	}
	if err := m.step(itemCost * values); err != nil {
		return nil, err
	}
	x, err := ParseJSON([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("from_json: %w", err)
	}
	return x, m.grow(len(s))
}

// jsonWriter writes values as Python's json.dumps does.
type jsonWriter struct {
	m         *machine
	b         strings.Builder
	item, key string
	indent    string
	pretty    bool
	ascii     bool
	sort      bool
}

func (j *jsonWriter) write(v any, depth int) error {
	if err := j.m.step(1); err != nil {
		return err
	}
	if j.b.Len() > maxOutput || depth > maxDepth/4 {
		return j.m.grow(maxOutput + 1)
	}
	switch x := v.(type) {
	case nil:
		j.b.WriteString("null")
	case bool:
		fmt.Fprint(&j.b, x)
	case int64, BigInt:
		fmt.Fprint(&j.b, x)
	case float64:
		j.b.WriteString(jsonFloat(x))
	case string:
		j.quote(x)
	case []any:
		return j.list(x, depth)
	case Tuple:
		return j.list(x, depth)
	case *Dict:
		return j.dict(x, depth)
	default:
		return fmt.Errorf("Object of type %s is not JSON serializable", typeName(v))
	}
	return nil
}

func jsonFloat(f float64) string {
	switch s := floatRepr(f); s {
	case "nan":
		return "NaN"
	case "inf":
		return "Infinity"
	case "-inf":
		return "-Infinity"
	default:
		return s
	}
}

func (j *jsonWriter) newline(depth int) {
	if j.pretty {
		j.b.WriteByte('\n')
		for range depth {
			j.b.WriteString(j.indent)
		}
	}
}

func (j *jsonWriter) list(items []any, depth int) error {
	if len(items) == 0 {
		j.b.WriteString("[]")
		return nil
	}
	j.b.WriteByte('[')
	for i, v := range items {
		if i > 0 {
			j.b.WriteString(j.item)
		}
		j.newline(depth + 1)
		if err := j.write(v, depth+1); err != nil {
			return err
		}
	}
	j.newline(depth)
	j.b.WriteByte(']')
	return nil
}

func (j *jsonWriter) dict(d *Dict, depth int) error {
	if d.Len() == 0 {
		j.b.WriteString("{}")
		return nil
	}
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	var bad error
	if j.sort {
		slices.SortStableFunc(order, func(a, b int) int {
			c, err := j.m.order("<", d.keys[a], d.keys[b])
			bad = firstError(bad, err)
			return c
		})
	}
	j.b.WriteByte('{')
	for n, i := range order {
		k, v := d.At(i)
		if n > 0 {
			j.b.WriteString(j.item)
		}
		j.newline(depth + 1)
		j.quote(jsonKey(k))
		j.b.WriteString(j.key)
		if err := j.write(v, depth+1); err != nil {
			return err
		}
	}
	j.newline(depth)
	j.b.WriteByte('}')
	return bad
}

func jsonKey(k any) string {
	switch x := k.(type) {
	case string:
		return x
	case nil:
		return "null"
	case float64:
		return jsonFloat(x)
	}
	return fmt.Sprint(k)
}

func (j *jsonWriter) quote(s string) {
	j.b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			j.b.WriteByte('\\')
			j.b.WriteRune(r)
		case r == '\n':
			j.b.WriteString(`\n`)
		case r == '\r':
			j.b.WriteString(`\r`)
		case r == '\t':
			j.b.WriteString(`\t`)
		case r == '\b':
			j.b.WriteString(`\b`)
		case r == '\f':
			j.b.WriteString(`\f`)
		case r < 0x20 || j.ascii && r >= 0x7f && r < 0x10000:
			fmt.Fprintf(&j.b, `\u%04x`, r)
		case j.ascii && r >= 0x10000:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&j.b, `\u%04x\u%04x`, hi, lo)
		default:
			j.b.WriteRune(r)
		}
	}
	j.b.WriteByte('"')
}
