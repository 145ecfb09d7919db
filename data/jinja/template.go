package jinja

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// maxSource bounds a template, in bytes.
const maxSource = 1 << 20

// Options fix what a template can see beside its variables.
type Options struct {
	Now time.Time // what strftime_now formats; its use with the zero time is an error
}

// Template is a parsed template. It may be used by several goroutines.
type Template struct{ body []stmt }

// Parse reads a template. Errors are *Error.
func Parse(src string) (*Template, error) {
	if len(src) > maxSource {
		return nil, &Error{Msg: fmt.Sprintf("the template has %d bytes, more than %d", len(src), maxSource), Limit: true}
	}
	body, err := parse(src)
	if err != nil {
		return nil, err
	}
	return &Template{body}, nil
}

// Render runs the template. vars may hold what Value takes. spans are the byte
// ranges of the text that {% generation %} blocks wrote, in order. Errors are
// *Error.
func (t *Template) Render(vars map[string]any, o Options) (text string, spans [][2]int, err error) {
	m := &machine{o: &o, main: &strings.Builder{}}
	globals := &scope{vars: m.globals()}
	f := &frame{m, globals.child(), m.main}
	for _, k := range sortedKeys(vars) {
		v, err := Value(vars[k])
		if err != nil {
			return "", nil, &Error{Msg: fmt.Sprintf("variable %s: %v", k, err)}
		}
		f.s.set(k, v)
	}
	if err := runAll(f, t.body); err != nil {
		return "", nil, at(0, err)
	}
	return m.main.String(), m.spans, nil
}

// Value turns Go values into the template's: whole numbers become int64,
// map[string]any a *Dict by sorted key, json.RawMessage what it holds.
// *Dict and []any are kept, so their contents must already be such values, as
// those of ParseJSON are.
func Value(v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, int64, float64, BigInt, string, []any, Tuple, *Dict:
		return v, nil
	case int:
		return int64(x), nil
	case int32:
		return int64(x), nil
	case float32:
		return float64(x), nil
	case json.Number:
		return number(string(x))
	case json.RawMessage:
		return ParseJSON(x)
	case []string:
		out := make([]any, len(x))
		for i, s := range x {
			out[i] = s
		}
		return out, nil
	case map[string]any:
		d := &Dict{}
		for _, k := range sortedKeys(x) {
			e, err := Value(x[k])
			if err != nil {
				return nil, err
			}
			d.Set(k, e)
		}
		return d, nil
	}
	return nil, fmt.Errorf("%T is no value a template can have", v)
}

// globals are the functions every template has.
func (m *machine) globals() map[string]any {
	out := map[string]any{}
	for name, f := range map[string]func(*machine, args) (any, error){
		"range": rangeFunc, "dict": dictFunc, "namespace": namespaceFunc, "cycler": cyclerFunc,
		"joiner": joinerFunc, "raise_exception": raiseFunc, "strftime_now": strftimeFunc,
	} {
		out[name] = &function{name, f}
	}
	return out
}

func raiseFunc(m *machine, a args) (any, error) {
	c := &call{args: a, name: "raise_exception"}
	msg, err := m.str(c.arg("message", ""))
	if err := firstError(err, c.done()); err != nil {
		return nil, err
	}
	return nil, &Error{Msg: msg, Raised: true}
}

func rangeFunc(m *machine, a args) (any, error) {
	var n []int64
	for _, v := range a.pos {
		i, ok := unbool(v).(int64)
		if !ok {
			return nil, fmt.Errorf("'%s' object cannot be interpreted as an integer", typeName(v))
		}
		n = append(n, i)
	}
	start, stop, step := int64(0), int64(0), int64(1)
	switch len(n) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	case 3:
		start, stop, step = n[0], n[1], n[2]
	default:
		return nil, fmt.Errorf("range expected 1 to 3 arguments, got %d", len(n))
	}
	if step == 0 {
		return nil, fmt.Errorf("range() arg 3 must not be zero")
	}
	out := []any{}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(out) >= maxRange {
			return nil, m.limit(0, "range too big, the most is %d", maxRange)
		}
		out = append(out, i)
		if step > 0 && i > stop-step || step < 0 && i < stop-step {
			break // the next one would pass stop, perhaps beyond 64 bits
		}
	}
	return out, m.step(itemCost * len(out))
}

func dictFunc(m *machine, a args) (any, error) {
	d := &Dict{}
	if len(a.pos) == 1 {
		src, ok := a.pos[0].(*Dict)
		if !ok {
			return nil, fmt.Errorf("dict() takes a mapping, not %s", typeName(a.pos[0]))
		}
		d = src.Clone()
	} else if len(a.pos) > 1 {
		return nil, fmt.Errorf("dict expected at most 1 argument, got %d", len(a.pos))
	}
	for i := range a.named.Len() {
		d.Set(a.named.At(i))
	}
	return d, m.step(d.Len())
}

func namespaceFunc(m *machine, a args) (any, error) {
	d, err := dictFunc(m, a)
	if err != nil {
		return nil, err
	}
	return &namespace{d.(*Dict)}, nil
}

func cyclerFunc(_ *machine, a args) (any, error) {
	if len(a.pos) == 0 {
		return nil, fmt.Errorf("at least one item has to be provided")
	}
	return &cycler{items: a.pos}, nil
}

func joinerFunc(_ *machine, a args) (any, error) {
	c := &call{args: a, name: "joiner"}
	sep := c.arg("sep", ", ")
	used := false
	return &function{name: "joiner", call: func(*machine, args) (any, error) {
		if !used {
			used = true
			return "", nil
		}
		return sep, nil
	}}, c.done()
}

func strftimeFunc(m *machine, a args) (any, error) {
	c := &call{args: a, name: "strftime_now"}
	format := c.text("format", "")
	if err := c.done(); err != nil {
		return nil, err
	}
	if m.o.Now.IsZero() {
		return nil, fmt.Errorf("the template asks for the date, which is not fixed")
	}
	s, err := strftime(format, m.o.Now)
	return s, firstError(err, m.grow(len(s)))
}

// strftime formats a time in the C locale.
func strftime(format string, t time.Time) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 >= len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		pad := true
		if format[i] == '-' && i+1 < len(format) {
			pad = false
			i++
		}
		s, ok := timeField(format[i], t)
		if !ok {
			return "", fmt.Errorf("strftime_now: %%%c is not supported", format[i])
		}
		if !pad {
			if s = strings.TrimLeft(s, "0 "); s == "" {
				s = "0"
			}
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func timeField(c byte, t time.Time) (string, bool) {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'd': "02", 'e': "_2", 'm': "01", 'y': "06", 'Y': "2006",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'Z': "MST", 'z': "-0700", 'j': "002",
		'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	if l, ok := layouts[c]; ok {
		return t.Format(l), true
	}
	switch c {
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'w':
		return fmt.Sprint(int(t.Weekday())), true
	case 'u':
		return fmt.Sprint((int(t.Weekday())+6)%7 + 1), true
	case 's':
		return fmt.Sprint(t.Unix()), true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case '%':
		return "%", true
	}
	return "", false
}
