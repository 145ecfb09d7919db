package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

func dictMethod(name string) method {
	switch name {
	case "get":
		return func(_ *machine, v any, c *call) (any, error) {
			k, other := c.arg("key", nil), c.arg("default", nil)
			if err := c.done(); err != nil {
				return nil, err
			}
			if hashable(k) {
				if e, ok := v.(*Dict).Get(k); ok {
					return e, nil
				}
			}
			return other, nil
		}
	case "items", "keys", "values":
		return func(m *machine, v any, c *call) (any, error) {
			d := v.(*Dict)
			out := make([]any, d.Len())
			for i := range out {
				k, e := d.At(i)
				out[i] = map[string]any{"items": Tuple{k, e}, "keys": k, "values": e}[name]
			}
			return &view{items: out, name: "dict_" + name}, m.step(itemCost * len(out))
		}
	case "copy":
		return func(m *machine, v any, c *call) (any, error) { return v.(*Dict).Clone(), m.step(v.(*Dict).Len()) }
	}
	return nil
}

func listMethod(name string) method {
	switch name {
	case "count":
		return func(m *machine, v any, c *call) (any, error) {
			n := int64(0)
			return n, m.find(v, c.arg("value", nil), func(int) bool { n++; return false })
		}
	case "index":
		return func(m *machine, v any, c *call) (any, error) {
			at := -1
			err := m.find(v, c.arg("value", nil), func(i int) bool { at = i; return true })
			if err == nil && at < 0 {
				err = fmt.Errorf("value is not in list")
			}
			return int64(at), err
		}
	case "copy":
		return func(_ *machine, v any, _ *call) (any, error) { return v, nil }
	}
	return nil
}

// find calls hit with the index of every element equal to want until it says
// true.
func (m *machine) find(v, want any, hit func(int) bool) error {
	items, err := m.iterate(v)
	if err != nil {
		return err
	}
	for i, e := range items {
		same, err := m.equalDeep(e, want)
		if err := firstError(err, m.step(itemCost)); err != nil {
			return err
		}
		if same && hit(i) {
			return nil
		}
	}
	return nil
}

// onString makes a method of a function of a string.
func onString(f func(s string) any) method {
	return func(m *machine, v any, c *call) (any, error) {
		s := v.(string)
		if err := m.grow(len(s)); err != nil {
			return nil, err
		}
		return f(s), c.done()
	}
}

func allRunes(is func(rune) bool) method {
	return onString(func(s string) any {
		for _, r := range s {
			if !is(r) {
				return false
			}
		}
		return s != ""
	})
}

func cased(want, other func(rune) bool) method {
	return onString(func(s string) any {
		return strings.IndexFunc(s, want) >= 0 && strings.IndexFunc(s, other) < 0
	})
}

func stringMethod(name string) method {
	switch name {
	case "upper":
		return onString(func(s string) any { return strings.ToUpper(s) })
	case "lower", "casefold":
		return onString(func(s string) any { return strings.ToLower(s) })
	case "title":
		return onString(func(s string) any { return titleCase(s) })
	case "capitalize":
		return onString(func(s string) any { return capitalize(s) })
	case "swapcase":
		return onString(func(s string) any { return strings.Map(swapCase, s) })
	case "splitlines":
		return func(m *machine, v any, c *call) (any, error) {
			keep := c.flag("keepends", false)
			return splitLines(v.(string), keep), firstError(c.done(), m.grow(len(v.(string))))
		}
	case "isdigit", "isdecimal":
		return allRunes(unicode.IsDigit)
	case "isnumeric":
		return allRunes(unicode.IsNumber)
	case "isalpha":
		return allRunes(unicode.IsLetter)
	case "isalnum":
		return allRunes(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
	case "isspace":
		return allRunes(isSpace)
	case "isupper":
		return cased(unicode.IsUpper, unicode.IsLower)
	case "islower":
		return cased(unicode.IsLower, unicode.IsUpper)
	case "expandtabs":
		return expandTabs
	case "strip", "lstrip", "rstrip":
		return stripMethod(name)
	case "split", "rsplit":
		return splitMethod(name == "rsplit")
	case "partition", "rpartition":
		return partitionMethod(name == "rpartition")
	case "startswith", "endswith":
		return affixMethod(map[string]func(string, string) bool{"startswith": strings.HasPrefix, "endswith": strings.HasSuffix}[name])
	case "removeprefix", "removesuffix":
		cut := map[string]func(string, string) string{"removeprefix": strings.TrimPrefix, "removesuffix": strings.TrimSuffix}[name]
		return func(_ *machine, v any, c *call) (any, error) {
			return cut(v.(string), c.text("affix", "")), c.done()
		}
	case "find", "rfind", "index", "rindex":
		return findMethod(name)
	case "ljust", "rjust", "center", "zfill":
		return padMethod(name)
	}
	switch name {
	case "replace":
		return replaceMethod
	case "count":
		return countMethod
	case "join":
		return func(m *machine, v any, c *call) (any, error) { return m.joinStrict(v.(string), c.arg("iterable", nil)) }
	case "format":
		return formatMethod
	}
	return nil
}

// expandTabs writes spaces up to the next multiple of a width for each tab.
func expandTabs(m *machine, v any, c *call) (any, error) {
	s, width := v.(string), int(min(c.integer("tabsize", 8), maxOutput))
	if err := firstError(c.done(), m.grow(len(s)+strings.Count(s, "\t")*max(width, 0))); err != nil {
		return nil, err
	}
	var b strings.Builder
	at := 0
	for _, r := range s {
		switch {
		case r == '\t' && width > 0:
			n := width - at%width
			b.WriteString(strings.Repeat(" ", n))
			at += n
		case r == '\t':
		default:
			b.WriteRune(r)
			if at++; r == '\n' || r == '\r' {
				at = 0
			}
		}
	}
	return b.String(), nil
}

func titleCase(s string) string {
	var b strings.Builder
	inWord := false
	for _, r := range s {
		if inWord {
			b.WriteRune(unicode.ToLower(r))
		} else {
			b.WriteRune(unicode.ToTitle(r))
		}
		inWord = unicode.IsLetter(r)
	}
	return b.String()
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToTitle(r)) + strings.ToLower(s[n:])
}

func swapCase(r rune) rune {
	if unicode.IsUpper(r) {
		return unicode.ToLower(r)
	}
	return unicode.ToUpper(r)
}

// splitLines are the lines of s, with their ends where keep says so.
func splitLines(s string, keep bool) []any {
	out := []any{}
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(out, s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		end := i
		if keep {
			end += n
		}
		out = append(out, s[:end])
		s = s[i+n:]
	}
	return out
}

func stripMethod(name string) method {
	return func(_ *machine, v any, c *call) (any, error) {
		s, set := v.(string), c.arg("chars", nil)
		cut := isSpace
		if chars, ok := set.(string); ok {
			cut = func(r rune) bool { return strings.ContainsRune(chars, r) }
		} else if set != nil {
			return nil, fmt.Errorf("%s arg must be None or str", name)
		}
		if name != "rstrip" {
			s = strings.TrimLeftFunc(s, cut)
		}
		if name != "lstrip" {
			s = strings.TrimRightFunc(s, cut)
		}
		return s, c.done()
	}
}

func splitMethod(right bool) method {
	return func(m *machine, v any, c *call) (any, error) {
		s, sep, most := v.(string), c.arg("sep", nil), c.integer("maxsplit", -1)
		if err := c.done(); err != nil {
			return nil, err
		}
		if err := m.step(1 + len(s)>>4); err != nil {
			return nil, err
		}
		var parts []string
		switch d, ok := sep.(string); {
		case sep == nil:
			parts = splitSpace(s, most, right)
		case !ok:
			return nil, fmt.Errorf("must be str or None, not %s", typeName(sep))
		case d == "":
			return nil, fmt.Errorf("empty separator")
		default:
			parts = splitBy(s, d, most, right)
		}
		out := make([]any, len(parts))
		for i, p := range parts {
			out[i] = p
		}
		return out, m.step(itemCost * len(out))
	}
}

func splitBy(s, sep string, most int64, right bool) []string {
	if most < 0 {
		return strings.Split(s, sep)
	}
	if !right {
		return strings.SplitN(s, sep, int(min(most, 1<<30))+1)
	}
	var out []string
	for ; most > 0; most-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		out = append(out, s[i+len(sep):])
		s = s[:i]
	}
	out = append(out, s)
	slices.Reverse(out)
	return out
}

func splitSpace(s string, most int64, right bool) []string {
	if most < 0 {
		return strings.FieldsFunc(s, isSpace)
	}
	var out []string
	for {
		if right {
			s = strings.TrimRightFunc(s, isSpace)
		} else {
			s = strings.TrimLeftFunc(s, isSpace)
		}
		if s == "" {
			break
		}
		i := strings.IndexFunc(s, isSpace)
		if right {
			i = strings.LastIndexFunc(s, isSpace)
		}
		if i < 0 || int64(len(out)) >= most {
			out = append(out, s)
			break
		}
		if right {
			_, n := utf8.DecodeRuneInString(s[i:])
			out, s = append(out, s[i+n:]), s[:i]
		} else {
			out, s = append(out, s[:i]), s[i:]
		}
	}
	if right {
		slices.Reverse(out)
	}
	return out
}

func partitionMethod(right bool) method {
	return func(_ *machine, v any, c *call) (any, error) {
		s, sep := v.(string), c.text("sep", "")
		if sep == "" && c.err == nil {
			return nil, fmt.Errorf("empty separator")
		}
		i := strings.Index(s, sep)
		if right {
			i = strings.LastIndex(s, sep)
		}
		switch {
		case i >= 0:
			return Tuple{s[:i], sep, s[i+len(sep):]}, c.done()
		case right:
			return Tuple{"", "", s}, c.done()
		}
		return Tuple{s, "", ""}, c.done()
	}
}

func affixMethod(has func(string, string) bool) method {
	return func(_ *machine, v any, c *call) (any, error) {
		list, ok := c.arg("prefix", nil).(Tuple)
		if !ok {
			c.used--
			list = Tuple{c.text("prefix", "")}
		}
		part, _, inside := c.part(v.(string))
		for _, p := range list {
			s, ok := p.(string)
			if !ok {
				return nil, fmt.Errorf("%s: tuple must hold strings, not %s", c.name, typeName(p))
			}
			if inside && has(part, s) {
				return true, c.done()
			}
		}
		return false, c.done()
	}
}

func findMethod(name string) method {
	return func(_ *machine, v any, c *call) (any, error) {
		sub := c.text("sub", "")
		s, from, inside := c.part(v.(string))
		if err := c.done(); err != nil {
			return nil, err
		}
		i := strings.Index(s, sub)
		if name[0] == 'r' {
			i = strings.LastIndex(s, sub)
		}
		if !inside {
			i = -1
		}
		if i < 0 && strings.HasSuffix(name, "index") {
			return nil, fmt.Errorf("substring not found")
		}
		if i >= 0 {
			i = from + utf8.RuneCountInString(s[:i])
		}
		return int64(i), nil
	}
}

func padMethod(name string) method {
	return func(m *machine, v any, c *call) (any, error) {
		s, width, fill := v.(string), c.integer("width", 0), "0"
		if name != "zfill" {
			fill = c.text("fillchar", " ")
		}
		if utf8.RuneCountInString(fill) != 1 {
			return nil, fmt.Errorf("the fill character must be exactly one character long")
		}
		n := width - int64(utf8.RuneCountInString(s))
		if n <= 0 || c.err != nil {
			return s, c.done()
		}
		if n > maxOutput {
			return nil, m.grow(maxOutput + 1)
		}
		if err := m.grow(int(width)); err != nil {
			return nil, err
		}
		left := map[string]int64{"rjust": n, "zfill": n, "center": n/2 + n&width&1}[name]
		sign := ""
		if name == "zfill" && (strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+")) {
			sign, s = s[:1], s[1:]
		}
		return sign + strings.Repeat(fill, int(left)) + s + strings.Repeat(fill, int(n-left)), c.done()
	}
}

func replaceMethod(m *machine, v any, c *call) (any, error) {
	s, from, to, n := v.(string), c.text("old", ""), c.text("new", ""), c.integer("count", -1)
	if err := c.done(); err != nil {
		return nil, err
	}
	hits := strings.Count(s, from)
	if n >= 0 {
		hits = min(hits, int(min(n, maxOutput)))
	}
	if len(to) > 0 && hits > maxOutput/len(to) {
		return nil, m.grow(maxOutput + 1)
	}
	if err := m.grow(len(s) + hits*len(to)); err != nil {
		return nil, err
	}
	return strings.Replace(s, from, to, hits), nil
}

func countMethod(m *machine, v any, c *call) (any, error) {
	sub := c.text("sub", "")
	s, _, inside := c.part(v.(string))
	if !inside {
		return int64(0), c.done()
	}
	return int64(strings.Count(s, sub)), c.done()
}

// part is what the arguments start and end leave of s, and the character that it begins at;
// inside is false where start lies behind s, which has not even an empty text there.
func (c *call) part(s string) (part string, from int, inside bool) {
	start, end := c.arg("start", nil), c.arg("end", nil)
	if start == nil && end == nil {
		return s, 0, true
	}
	n := int64(utf8.RuneCountInString(s))
	bound := func(v any, without int64) int64 {
		i, ok := unbool(v).(int64)
		switch {
		case v == nil:
			return without
		case !ok:
			c.bad("start or end", v, "an integer or None")
		case i < 0:
			return max(i+n, 0)
		}
		return i
	}
	lo, hi := bound(start, 0), min(bound(end, n), n)
	if lo > hi {
		return "", 0, false
	}
	r := []rune(s)
	return string(r[lo:hi]), int(lo), true
}

// joinStrict is str.join, which takes strings only.
func (m *machine) joinStrict(sep string, v any) (any, error) {
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(items))
	for i, e := range items {
		s, ok := e.(string)
		if !ok {
			return nil, fmt.Errorf("sequence item %d: expected str instance, %s found", i, typeName(e))
		}
		if err := m.grow(len(s) + len(sep)); err != nil {
			return nil, err
		}
		parts[i] = s
	}
	return strings.Join(parts, sep), nil
}

// formatMethod is str.format with the fields {}, {0} and {name}, each with !r or !s and a
// format such as {:>8,.2f}.
func formatMethod(m *machine, v any, c *call) (any, error) {
	s := v.(string)
	var b strings.Builder
	auto := 0
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], "{{"), strings.HasPrefix(s[i:], "}}"):
			b.WriteByte(s[i])
			i++
			continue
		case s[i] != '{':
			b.WriteByte(s[i])
			continue
		}
		n := strings.IndexByte(s[i:], '}')
		if n < 0 {
			return nil, fmt.Errorf("expected '}' before end of string")
		}
		name, spec, _ := strings.Cut(s[i+1:i+n], ":")
		name, as, _ := strings.Cut(name, "!")
		e, err := formatField(name, &auto, c)
		if err != nil {
			return nil, err
		}
		text, err := m.formatted(e, as, spec)
		if err != nil {
			return nil, err
		}
		if err := m.grow(len(text)); err != nil {
			return nil, err
		}
		b.WriteString(text)
		i += n
	}
	return b.String(), m.grow(b.Len())
}

func formatField(name string, auto *int, c *call) (any, error) {
	if name == "" {
		name = fmt.Sprint(*auto)
		*auto++
	}
	if e, ok := c.named.Get(name); ok {
		return e, nil
	}
	i := 0
	if _, err := fmt.Sscanf(name, "%d", &i); err == nil && fmt.Sprint(i) == name {
		if i < 0 || i >= len(c.pos) {
			return nil, fmt.Errorf("replacement index %d out of range", i)
		}
		return c.pos[i], nil
	}
	return nil, fmt.Errorf("format field {%s} is not supported or has no value", name)
}
