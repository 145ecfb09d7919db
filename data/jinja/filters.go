package jinja

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filterFunc is a filter: v | name(args).
type filterFunc func(m *machine, v any, c *call) (any, error)

// filterNamed finds a filter; nil when there is none of that name.
func filterNamed(name string) filterFunc {
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
			return append([]any{}, items...), firstError(err, m.step(len(items)))
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
		return onText(urlEncode)
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

func batchFilter(m *machine, v any, c *call) (any, error) {
	n, fill := c.integer("linecount", 0), c.arg("fill_with", nil)
	return generator(func() ([]any, error) { return m.batch(v, n, fill) }), c.done()
}

func (m *machine) batch(v any, n int64, fill any) ([]any, error) {
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, fmt.Errorf("batch: linecount must be at least 1")
	}
	var out []any
	for len(items) > 0 {
		k := min(int(min(n, maxRange)), len(items))
		row := append([]any{}, items[:k]...)
		items = items[k:]
		for fill != nil && int64(len(row)) < min(n, maxRange) {
			row = append(row, fill)
		}
		out = append(out, row)
	}
	return out, m.step(len(out))
}

func sliceFilter(m *machine, v any, c *call) (any, error) {
	n, fill := c.integer("slices", 0), c.arg("fill_with", nil)
	return generator(func() ([]any, error) { return m.slices(v, n, fill) }), c.done()
}

func (m *machine) slices(v any, n int64, fill any) ([]any, error) {
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxRange {
		return nil, fmt.Errorf("slice: slices must be 1 to %d", maxRange)
	}
	each, extra := len(items)/int(n), len(items)%int(n)
	var out []any
	for i := range int(n) {
		k := each
		if i < extra {
			k++
		}
		row := append([]any{}, items[:k]...)
		items = items[k:]
		if fill != nil && i >= extra && extra > 0 {
			row = append(row, fill)
		}
		out = append(out, row)
	}
	return out, m.step(len(out))
}

// sortKey folds case unless told not to.
func sortKey(v any, caseSensitive bool) any {
	if s, ok := v.(string); ok && !caseSensitive {
		return strings.ToLower(s)
	}
	return v
}

// sorted sorts items by their keys, keeping the order of equal ones.
func (m *machine) sorted(items, keys []any, reverse bool) ([]any, error) {
	if err := m.step(len(items) * 8); err != nil {
		return nil, err
	}
	idx := make([]int, len(items))
	for i := range idx {
		idx[i] = i
	}
	var bad error
	slices.SortStableFunc(idx, func(i, j int) int {
		c, err := m.order("<", keys[i], keys[j])
		bad = firstError(bad, err)
		if reverse {
			return -c
		}
		return c
	})
	out := make([]any, len(items))
	for i, k := range idx {
		out[i] = items[k]
	}
	return out, bad
}

func dictSortFilter(m *machine, v any, c *call) (any, error) {
	sensitive, by, reverse := c.flag("case_sensitive", false), c.text("by", "key"), c.flag("reverse", false)
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("dictsort wants a mapping, not %s", typeName(v))
	}
	if by != "key" && by != "value" {
		return nil, fmt.Errorf(`you can only sort by either "key" or "value"`)
	}
	items, keys := make([]any, d.Len()), make([]any, d.Len())
	for i := range items {
		k, e := d.At(i)
		items[i], keys[i] = Tuple{k, e}, sortKey(k, sensitive)
		if by == "value" {
			keys[i] = sortKey(e, sensitive)
		}
	}
	out, err := m.sorted(items, keys, reverse)
	return out, firstError(err, c.done())
}

func sortFilter(m *machine, v any, c *call) (any, error) {
	reverse, sensitive, attr := c.flag("reverse", false), c.flag("case_sensitive", false), c.arg("attribute", nil)
	items, err := m.iterate(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	keys := make([]any, len(items))
	for i, e := range items {
		if keys[i], err = m.sortKeys(e, attr, sensitive); err != nil {
			return nil, err
		}
	}
	return m.sorted(items, keys, reverse)
}

// sortKeys is an item's key: by one attribute, or by several with commas.
func (m *machine) sortKeys(e, attr any, sensitive bool) (any, error) {
	s, ok := attr.(string)
	if attr == nil || ok && s == "" {
		return sortKey(e, sensitive), nil
	}
	if !ok || !strings.Contains(s, ",") {
		k, err := m.path(e, attr)
		return sortKey(k, sensitive), err
	}
	var key Tuple
	for _, part := range strings.Split(s, ",") {
		k, err := m.path(e, part)
		if err != nil {
			return nil, err
		}
		key = append(key, sortKey(k, sensitive))
	}
	return key, nil
}

func endFilter(name string) filterFunc {
	return func(m *machine, v any, c *call) (any, error) {
		items, err := m.iterate(v)
		if err != nil || len(items) == 0 {
			return undefined{fmt.Sprintf("no %s item, sequence was empty", name)}, err
		}
		if name == "first" {
			if g, ok := v.(*view); ok && g.lazy {
				g.items = items[1:] // the others are still to come
			}
			return items[0], c.done()
		}
		return items[len(items)-1], c.done()
	}
}

func floatFilter(_ *machine, v any, c *call) (any, error) {
	other := c.arg("default", 0.0)
	switch x := unbool(v).(type) {
	case int64:
		return float64(x), c.done()
	case float64:
		return x, c.done()
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSpace(x), 64); err == nil {
			return f, c.done()
		}
	}
	return other, c.done()
}

func intFilter(_ *machine, v any, c *call) (any, error) {
	other, base := c.arg("default", int64(0)), c.integer("base", 10)
	switch x := unbool(v).(type) {
	case int64:
		return x, c.done()
	case float64:
		if math.Abs(x) < 1<<63 {
			return int64(x), c.done()
		}
	case string:
		s := strings.TrimSpace(x)
		if base < 2 || base > 36 {
			base = 0
		}
		if prefix := map[int64]string{2: "0b", 8: "0o", 16: "0x"}[base]; prefix != "" {
			s = strings.TrimPrefix(strings.ToLower(s), prefix)
		}
		if n, err := strconv.ParseInt(s, int(base), 64); err == nil {
			return n, c.done()
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<63 {
			return int64(f), c.done()
		}
	}
	return other, c.done()
}

func groupByFilter(m *machine, v any, c *call) (any, error) {
	attr, other, sensitive := c.arg("attribute", nil), c.arg("default", nil), c.flag("case_sensitive", false)
	items, err := m.iterate(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	keys := make([]any, len(items))
	for i, e := range items {
		k, err := m.path(e, attr)
		if err != nil {
			return nil, err
		}
		if _, un := k.(undefined); un && other != nil {
			k = other
		}
		keys[i] = sortKey(k, sensitive)
	}
	pairs := make([]any, len(items))
	for i := range items {
		pairs[i] = Tuple{keys[i], items[i]}
	}
	if pairs, err = m.sorted(pairs, keys, false); err != nil {
		return nil, err
	}
	var out []any
	for i, p := range pairs {
		k := p.(Tuple)[0]
		if i > 0 {
			last := out[len(out)-1].(Tuple)
			if same, err := m.equal(last[0], k); err != nil {
				return nil, err
			} else if same {
				last[1] = append(last[1].([]any), p.(Tuple)[1])
				continue
			}
		}
		out = append(out, Tuple{k, []any{p.(Tuple)[1]}})
	}
	return out, nil
}

func indentFilter(m *machine, v any, c *call) (any, error) {
	width, first, blank := c.arg("width", int64(4)), c.flag("first", false), c.flag("blank", false)
	s, err := m.str(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	pad, ok := width.(string)
	if n, isInt := unbool(width).(int64); isInt {
		if n > maxOutput {
			return nil, m.grow(maxOutput + 1)
		}
		pad, ok = strings.Repeat(" ", int(max(n, 0))), true
	}
	if !ok {
		return nil, fmt.Errorf("indent: width must be an integer or a string")
	}
	lines := strings.Split(s, "\n")
	if len(pad) > 0 && len(lines) > maxOutput/len(pad) {
		return nil, m.grow(maxOutput + 1)
	}
	if err := m.grow(len(s) + len(lines)*len(pad)); err != nil {
		return nil, err
	}
	for i := range lines {
		if i == 0 && first || i > 0 && (blank || lines[i] != "") {
			lines[i] = pad + lines[i]
		}
	}
	return strings.Join(lines, "\n"), nil
}

func itemsFilter(m *machine, v any, c *call) (any, error) {
	return generator(func() ([]any, error) {
		if _, un := v.(undefined); un {
			return nil, nil
		}
		d, ok := v.(*Dict)
		if !ok {
			return nil, fmt.Errorf("Can only get item pairs from a mapping.")
		}
		out := make([]any, d.Len())
		for i := range out {
			k, e := d.At(i)
			out[i] = Tuple{k, e}
		}
		return out, m.step(len(out))
	}), c.done()
}

func joinFilter(m *machine, v any, c *call) (any, error) {
	sep, attr := c.arg("d", ""), c.arg("attribute", nil)
	items, err := m.iterate(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	d, err := m.str(sep)
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(items))
	for i, e := range items {
		if attr != nil {
			if e, err = m.path(e, attr); err != nil {
				return nil, err
			}
		}
		if parts[i], err = m.str(e); err != nil {
			return nil, err
		}
		if err := m.grow(len(parts[i]) + len(d)); err != nil {
			return nil, err
		}
	}
	return strings.Join(parts, d), nil
}

func mapFilter(m *machine, v any, c *call) (any, error) {
	return generator(func() ([]any, error) { return m.mapped(v, c) }), nil
}

func (m *machine) mapped(v any, c *call) ([]any, error) {
	if !truth(v) {
		return nil, nil // as the reference, also for None
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	apply, err := m.mapper(c)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, e := range items {
		if out[i], err = apply(e); err != nil {
			return nil, err
		}
		if err := m.step(1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mapper is what map does to an item: take an attribute, or apply a filter.
func (m *machine) mapper(c *call) (func(any) (any, error), error) {
	if attr, ok := c.named.Get("attribute"); ok && len(c.pos) == 0 {
		other, hasOther := c.named.Get("default")
		return func(e any) (any, error) {
			v, err := m.path(e, attr)
			if _, un := v.(undefined); un && hasOther {
				v = other
			}
			return v, err
		}, nil
	}
	if len(c.pos) == 0 {
		return nil, fmt.Errorf("map requires a filter argument")
	}
	name, _ := c.pos[0].(string)
	f := filterNamed(name)
	if f == nil {
		return nil, fmt.Errorf("no filter named %q", name)
	}
	return func(e any) (any, error) {
		return f(m, e, &call{args: args{c.pos[1:], c.named.Clone()}, name: name})
	}, nil
}

func extremeFilter(m *machine, v any, c *call) (any, error) {
	sensitive, attr := c.flag("case_sensitive", false), c.arg("attribute", nil)
	items, err := m.iterate(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	var best, bestKey any = undefined{"No aggregated item, sequence was empty."}, nil
	for i, e := range items {
		k, err := m.sortKeys(e, attr, sensitive)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			o, err := m.order("<", k, bestKey)
			if err != nil {
				return nil, err
			}
			if c.name == "max" && o <= 0 || c.name == "min" && o >= 0 {
				continue
			}
		}
		best, bestKey = e, k
	}
	return best, m.step(len(items))
}

// selectFilter is select, reject, selectattr and rejectattr.
func selectFilter(want, byAttr bool) filterFunc {
	return func(m *machine, v any, c *call) (any, error) {
		return generator(func() ([]any, error) { return m.selected(v, c, want, byAttr) }), nil
	}
}

func (m *machine) selected(v any, c *call, want, byAttr bool) ([]any, error) {
	if !truth(v) {
		return nil, nil // as the reference, also for None
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	rest := c.pos
	var attr any
	if byAttr {
		if len(rest) == 0 {
			return nil, fmt.Errorf("%s: missing parameter for attribute name", c.name)
		}
		attr, rest = rest[0], rest[1:]
	}
	passes, err := m.tester(rest, c.named)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, e := range items {
		x := e
		if byAttr {
			if x, err = m.path(e, attr); err != nil {
				return nil, err
			}
		}
		ok, err := passes(x)
		if err := firstError(err, m.step(1)); err != nil {
			return nil, err
		}
		if ok == want {
			out = append(out, e)
		}
	}
	return out, nil
}

// tester is the test a select filter names first among its arguments; truth
// without one.
func (m *machine) tester(pos []any, named *Dict) (func(any) (bool, error), error) {
	if len(pos) == 0 {
		return func(v any) (bool, error) { return truth(v), nil }, nil
	}
	name, _ := pos[0].(string)
	f := testNamed(name)
	if f == nil {
		return nil, fmt.Errorf("no test named %q", name)
	}
	return func(v any) (bool, error) {
		return f(m, v, &call{args: args{pos[1:], named.Clone()}, name: name})
	}, nil
}

func reverseFilter(m *machine, v any, c *call) (any, error) {
	items, err := m.iterate(v)
	if err := firstError(err, c.done(), m.step(len(items))); err != nil {
		return nil, err
	}
	items = append([]any{}, items...)
	slices.Reverse(items)
	if _, ok := v.(string); ok {
		return m.joinStrict("", items)
	}
	return &view{items: items, lazy: true}, nil
}

func roundFilter(_ *machine, v any, c *call) (any, error) {
	digits, how := c.integer("precision", 0), c.text("method", "common")
	f, ok := toFloat(unbool(v))
	if !ok {
		return nil, fmt.Errorf("round wants a number, not %s", typeName(v))
	}
	if digits < -300 || digits > 300 {
		return nil, fmt.Errorf("round: precision %d is out of range", digits)
	}
	p := math.Pow(10, float64(digits))
	if n, ok := v.(int64); ok && how == "common" && digits >= 0 {
		return n, c.done()
	}
	switch how {
	case "common":
		if digits >= 0 {
			f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
		} else {
			f = math.RoundToEven(f*p) / p
		}
	case "ceil":
		f = math.Ceil(f*p) / p
	case "floor":
		f = math.Floor(f*p) / p
	default:
		return nil, fmt.Errorf("round: method must be common, ceil or floor")
	}
	return f, c.done()
}

func sumFilter(m *machine, v any, c *call) (any, error) {
	attr, total := c.arg("attribute", nil), c.arg("start", int64(0))
	items, err := m.iterate(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	for _, e := range items {
		if attr != nil {
			if e, err = m.path(e, attr); err != nil {
				return nil, err
			}
		}
		if total, err = m.binary("+", total, e); err != nil {
			return nil, err
		}
		if err := m.step(1); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func truncateFilter(m *machine, v any, c *call) (any, error) {
	n, kill, end := c.integer("length", 255), c.flag("killwords", false), c.text("end", "...")
	leeway := c.integer("leeway", 5)
	s, err := m.str(v)
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	r := []rune(s)
	keep := n - int64(utf8.RuneCountInString(end))
	if keep < 0 || leeway < 0 {
		return nil, fmt.Errorf("truncate: length %d is shorter than the end", n)
	}
	if int64(len(r)) <= n+leeway {
		return s, nil
	}
	cut := string(r[:keep])
	if i := strings.LastIndexByte(cut, ' '); !kill && i >= 0 {
		cut = cut[:i]
	}
	return cut + end, nil
}

func uniqueFilter(m *machine, v any, c *call) (any, error) {
	sensitive, attr := c.flag("case_sensitive", false), c.arg("attribute", nil)
	return generator(func() ([]any, error) { return m.unique(v, attr, sensitive) }), c.done()
}

func (m *machine) unique(v, attr any, sensitive bool) ([]any, error) {
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	seen, out := &Dict{}, []any{}
	for _, e := range items {
		k, err := m.sortKeys(e, attr, sensitive)
		if err != nil {
			return nil, err
		}
		if !hashable(k) {
			return nil, fmt.Errorf("unhashable type: '%s'", typeName(k))
		}
		if _, ok := seen.Get(k); !ok {
			seen.Set(k, true)
			out = append(out, e)
		}
	}
	return out, m.step(len(items))
}

func wordWrapFilter(m *machine, v any, c *call) (any, error) {
	width, breakLong, wrap := c.integer("width", 79), c.flag("break_long_words", true), c.text("wrapstring", "\n")
	s, err := m.str(v)
	if err := firstError(err, c.done(), m.grow(2*len(s))); err != nil {
		return nil, err
	}
	if width < 1 {
		return nil, fmt.Errorf("wordwrap: width must be at least 1")
	}
	var lines []string
	for _, line := range strings.Split(s, "\n") {
		lines = append(lines, wrapLine(line, int(min(width, maxOutput)), breakLong)...)
	}
	out := strings.Join(lines, wrap)
	return out, m.grow(len(out))
}

func wrapLine(line string, width int, breakLong bool) []string {
	var lines []string
	cur := []rune{}
	flush := func() {
		lines = append(lines, strings.TrimRight(string(cur), " "))
		cur = cur[:0]
	}
	for _, word := range strings.FieldsFunc(line, isSpace) {
		w := []rune(word)
		if len(cur) > 0 && len(cur)+1+len(w) > width {
			flush()
		}
		for breakLong && len(w) > width {
			cur = append(cur, w[:width]...)
			w = w[width:]
			flush()
		}
		if len(cur) > 0 {
			cur = append(cur, ' ')
		}
		cur = append(cur, w...)
	}
	flush()
	return lines
}
