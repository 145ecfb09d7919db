package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// filterFunc is a filter: v | name(args).
type filterFunc func(m *machine, v any, c *call) (any, error)

// filterNamed is a filter that counts the text it looks through, nil for none.
func filterNamed(name string) filterFunc {
	f := builtinFilter(name)
	if f == nil {
		return nil
	}
	return func(m *machine, v any, c *call) (any, error) {
		if err := m.read(append(c.pos[:len(c.pos):len(c.pos)], v)...); err != nil {
			return nil, err
		}
		return f(m, v, c)
	}
}

// builtinFilter finds a filter; nil when there is none of that name.
func builtinFilter(name string) filterFunc {
	switch name {
	case "abs":
		return absFilter
	case "attr":
		return func(m *machine, v any, c *call) (any, error) { return m.attrOnly(v, c.text("name", "")) }
	case "batch":
		return batchFilter
	case "capitalize", "lower", "upper":
		return textMethod(name)
	case "title":
		return onText(titleWords)
	case "center":
		return func(m *machine, v any, c *call) (any, error) {
			c.pos = append([]any{}, c.pos...)
			if len(c.pos) == 0 && c.named.Len() == 0 {
				c.pos = []any{int64(80)}
			}
			return textMethod("center")(m, v, c)
		}
	case "count", "length":
		return func(_ *machine, v any, c *call) (any, error) {
			n, err := length(v)
			return int64(n), firstError(err, c.done())
		}
	case "d", "default":
		return func(_ *machine, v any, c *call) (any, error) {
			other, falsy := c.arg("default_value", ""), c.flag("boolean", false)
			if _, un := v.(undefined); un || falsy && !truth(v) {
				return other, c.done()
			}
			return v, c.done()
		}
	case "dictsort":
		return dictSortFilter
	case "e", "escape", "forceescape":
		return onText(func(s string) string { return htmlEscaper.Replace(s) })
	case "first", "last":
		return endFilter(name)
	case "float":
		return floatFilter
	case "int":
		return intFilter
	case "format":
		return func(m *machine, v any, c *call) (any, error) {
			s, err := m.str(v)
			if err != nil {
				return nil, err
			}
			if c.named.Len() > 0 {
				return nil, fmt.Errorf("format takes positional values only")
			}
			return m.percent(s, Tuple(c.pos))
		}
	case "from_json":
		return fromJSONFilter
	case "groupby":
		return groupByFilter
	case "indent":
		return indentFilter
	case "items":
		return itemsFilter
	case "join":
		return joinFilter
	case "list":
		return func(m *machine, v any, _ *call) (any, error) {
			items, err := m.iterate(v)
			return append([]any{}, items...), firstError(err, m.step(itemCost*len(items)))
		}
	case "map":
		return mapFilter
	case "max", "min":
		return extremeFilter
	case "pprint":
		return func(m *machine, v any, _ *call) (any, error) {
			var b strings.Builder
			err := m.repr(&b, v)
			return b.String(), err
		}
	case "reject", "select":
		return selectFilter(name == "select", false)
	case "rejectattr", "selectattr":
		return selectFilter(name == "selectattr", true)
	}
	return moreFilters(name)
}

func moreFilters(name string) filterFunc {
	switch name {
	case "replace":
		return func(m *machine, v any, c *call) (any, error) {
			s, err := m.str(v)
			if err != nil {
				return nil, err
			}
			return replaceMethod(m, s, c)
		}
	case "reverse":
		return reverseFilter
	case "round":
		return roundFilter
	case "safe", "string":
		return func(m *machine, v any, _ *call) (any, error) { return m.str(v) }
	case "slice":
		return sliceFilter
	case "sort":
		return sortFilter
	case "striptags":
		return onText(stripTags)
	case "sum":
		return sumFilter
	case "tojson":
		return tojsonFilter
	case "trim":
		return func(m *machine, v any, c *call) (any, error) {
			s, err := m.str(v)
			if err != nil {
				return nil, err
			}
			return stripMethod("strip")(m, s, c)
		}
	case "truncate":
		return truncateFilter
	case "unique":
		return uniqueFilter
	case "urlencode":
		return func(m *machine, v any, c *call) (any, error) {
			switch v.(type) {
			case *Dict, []any, Tuple, *view:
				return nil, fmt.Errorf("urlencode of more than a text is not supported")
			}
			return onText(urlEncode)(m, v, c)
		}
	case "wordcount":
		return func(m *machine, v any, c *call) (any, error) {
			s, err := m.str(v)
			words := strings.FieldsFunc(s, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) })
			return int64(len(words)), firstError(err, c.done())
		}
	case "wordwrap":
		return wordWrapFilter
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

var htmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

// textMethod is a filter that is a method of str(v).
func textMethod(name string) filterFunc {
	return func(m *machine, v any, c *call) (any, error) {
		s, err := m.str(v)
		if err != nil {
			return nil, err
		}
		return stringMethod(name)(m, s, c)
	}
}

func onText(f func(string) string) filterFunc {
	return func(m *machine, v any, c *call) (any, error) {
		s, err := m.str(v)
		if err != nil {
			return nil, err
		}
		out := f(s)
		return out, firstError(c.done(), m.grow(len(out)))
	}
}

// titleWords capitalizes words as the filter does, which unlike the method
// keeps "it's" one word.
func titleWords(s string) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		sep := isSpace(r) || strings.ContainsRune("-({[<", r)
		switch {
		case start && !sep:
			b.WriteRune(unicode.ToUpper(r))
		default:
			b.WriteRune(unicode.ToLower(r))
		}
		start = sep
	}
	return b.String()
}

func stripTags(s string) string {
	var b strings.Builder
	for s != "" {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			break
		}
		j := strings.IndexByte(s[i:], '>')
		if j < 0 {
			break
		}
		b.WriteString(s[:i])
		s = s[i+j+1:]
	}
	b.WriteString(s)
	return strings.Join(strings.FieldsFunc(b.String(), isSpace), " ")
}

func urlEncode(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-~/"
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(plain, s[i]) >= 0 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

func absFilter(_ *machine, v any, c *call) (any, error) {
	switch x := unbool(v).(type) {
	case int64:
		if x == math.MinInt64 {
			return nil, errOverflow
		}
		return max(x, -x), c.done()
	case float64:
		return math.Abs(x), c.done()
	}
	return nil, fmt.Errorf("bad operand type for abs(): '%s'", typeName(v))
}

// attrOnly is v | attr(name): fields, never entries.
func (m *machine) attrOnly(v any, name string) (any, error) {
	if strings.HasPrefix(name, "_") {
		return nil, fmt.Errorf("access to attribute %q of '%s' object is unsafe", name, typeName(v))
	}
	if f, ok := field(v, name); ok {
		return f, nil
	}
	return missing(v, name), nil
}

// path follows a dotted attribute ("function.name", or a number) as map,
// selectattr and sort do.
func (m *machine) path(v any, attr any) (any, error) {
	s, ok := attr.(string)
	if !ok {
		return m.item(v, attr)
	}
	for _, part := range strings.Split(s, ".") {
		var by any = part
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			by = n
		}
		var err error
		if v, err = m.item(v, by); err != nil {
			return nil, err
		}
	}
	return v, nil
}
