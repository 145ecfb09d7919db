package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

func floatFilter(_ *machine, v any, c *call) (any, error) {
	other := c.arg("default", 0.0)
	switch x := unbool(v).(type) {
	case int64:
		return float64(x), c.done()
	case float64:
		return x, c.done()
	case BigInt:
		if f := x.Float(); !math.IsInf(f, 0) {
			return f, c.done()
		}
		return nil, errOverflow
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
		if !math.IsNaN(x) {
			return nil, errOverflow
		}
	case BigInt:
		return x, c.done()
	case string:
		s := strings.TrimSpace(x)
		if base < 2 || base > 36 {
			base = 0
		}
		if prefix := map[int64]string{2: "0b", 8: "0o", 16: "0x"}[base]; prefix != "" {
			s = strings.TrimPrefix(strings.ToLower(s), prefix)
		}
		n, err := strconv.ParseInt(s, int(base), 64)
		if err == nil {
			return n, c.done()
		}
		if errors.Is(err, strconv.ErrRange) {
			return nil, errOverflow
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && f-f == 0 {
			if math.Abs(f) < 1<<63 {
				return int64(f), c.done()
			}
			return nil, errOverflow
		}
	}
	return other, c.done()
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

func indentFilter(m *machine, v any, c *call) (any, error) {
	width, first, blank := c.arg("width", int64(4)), c.flag("first", false), c.flag("blank", false)
	s, isText := v.(string)
	if err := c.done(); err != nil {
		return nil, err
	}
	if !isText {
		return nil, fmt.Errorf("indent wants a string, not %s", typeName(v))
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
	split := splitLines(s+"\n", false)
	lines := make([]string, len(split))
	for i, l := range split {
		lines[i] = l.(string)
	}
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

func truncateFilter(m *machine, v any, c *call) (any, error) {
	n, kill, end := c.integer("length", 255), c.flag("killwords", false), c.text("end", "...")
	leeway := c.integer("leeway", 5)
	s, isText := v.(string)
	if err := c.done(); err != nil {
		return nil, err
	}
	keep := n - int64(utf8.RuneCountInString(end))
	if keep < 0 || leeway < 0 {
		return nil, fmt.Errorf("truncate: length %d is shorter than the end", n)
	}
	if size, err := length(v); !isText {
		if err == nil && int64(size) > n+leeway {
			err = fmt.Errorf("truncate wants a string, not %s", typeName(v))
		}
		return v, err
	}
	if err := m.step(len(s) >> 6); err != nil { // four bytes for each of it
		return nil, err
	}
	r := []rune(s)
	if int64(len(r)) <= n+leeway {
		return s, nil
	}
	cut := string(r[:keep])
	if i := strings.LastIndexByte(cut, ' '); !kill && i >= 0 {
		cut = cut[:i]
	}
	return cut + end, nil
}

func wordWrapFilter(m *machine, v any, c *call) (any, error) {
	width, breakLong, wrap := c.integer("width", 79), c.flag("break_long_words", true), c.text("wrapstring", "\n")
	s, isText := v.(string)
	if err := firstError(c.done(), m.grow(2*len(s))); err != nil {
		return nil, err
	}
	if !isText {
		return nil, fmt.Errorf("wordwrap wants a string, not %s", typeName(v))
	}
	if width < 1 {
		return nil, fmt.Errorf("wordwrap: width must be at least 1")
	}
	for _, w := range strings.FieldsFunc(s, isSpace) {
		if breakLong && int64(utf8.RuneCountInString(w)) > width || strings.Contains(w, "-") {
			return nil, fmt.Errorf("wordwrap: parting a word such as %q at its hyphens or at %d characters is not supported", w, width)
		}
	}
	var lines []string
	for _, line := range strings.Split(s, "\n") {
		lines = append(lines, wrapLine(line, int(min(width, maxOutput)))...)
	}
	out := strings.Join(lines, wrap)
	return out, m.grow(len(out))
}

func wrapLine(line string, width int) []string {
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
		if len(cur) > 0 {
			cur = append(cur, ' ')
		}
		cur = append(cur, w...)
	}
	flush()
	return lines
}
