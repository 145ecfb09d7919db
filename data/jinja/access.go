package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// attr is v.name: a method or field first, then an entry.
func (m *machine) attr(v any, name string) (any, error) {
	if u, ok := v.(undefined); ok {
		return nil, fmt.Errorf("%s", u.what)
	}
	if strings.HasPrefix(name, "__") || strings.HasPrefix(name, "_") && typeName(v) != "dict" {
		return unsafe(v, name), nil
	}
	if f, ok := field(v, name); ok {
		return f, nil
	}
	if d, ok := v.(*Dict); ok {
		if e, ok := d.Get(name); ok {
			return e, nil
		}
	}
	return missing(v, name), nil
}

func missing(v any, name string) undefined {
	if v == nil {
		return undefined{fmt.Sprintf("'None' has no attribute '%s'", name)}
	}
	return undefined{fmt.Sprintf("'%s object' has no attribute '%s'", typeName(v), name)}
}

// field is a method or field of v; false without one of that name.
func field(v any, name string) (any, bool) {
	var f method
	switch x := v.(type) {
	case string:
		f = stringMethod(name)
	case *Dict:
		if slices.Contains(dictMutators, name) {
			return unsafe(v, name), true
		}
		f = dictMethod(name)
	case []any:
		if slices.Contains(listMutators, name) {
			return unsafe(v, name), true
		}
		f = listMethod(name)
	case Tuple:
		f = listMethod(name)
	case *loopVar:
		e := x.field(name)
		return e, e != nil || x.hasNone(name)
	case *namespace:
		return x.vars.Get(name)
	case *cycler:
		return x.field(name)
	}
	if f == nil {
		return nil, false
	}
	return &function{name: name, call: func(m *machine, a args) (any, error) {
		if err := m.read(append(a.pos[:len(a.pos):len(a.pos)], v)...); err != nil {
			return nil, err
		}
		return f(m, v, &call{args: a, name: name})
	}}, true
}

// method is a method of a built-in type.
type method func(m *machine, v any, c *call) (any, error)

// Methods that would change a value: the sandbox denies them.
var (
	listMutators = []string{"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}
	dictMutators = []string{"clear", "pop", "popitem", "setdefault", "update"}
)

// unsafe is an attribute that the sandbox denies: it prints as nothing, and its
// use is an error.
func unsafe(v any, name string) undefined {
	return undefined{fmt.Sprintf("access to attribute %q of '%s' object is unsafe", name, typeName(v))}
}

// item is v[by]: an entry first, then a method or field.
func (m *machine) item(v, by any) (any, error) {
	by = unbool(by)
	if err := m.read(v, by); err != nil {
		return nil, err
	}
	switch x := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%s", x.what)
	case *Dict:
		if hashable(by) {
			if e, ok := x.Get(by); ok {
				return e, nil
			}
		}
	case []any:
		if e, ok := at2(x, by); ok {
			return e, nil
		}
	case Tuple:
		if e, ok := at2(x, by); ok {
			return e, nil
		}
	case string:
		if n, ok := by.(int64); ok {
			return m.runeAt(x, n)
		}
	}
	if name, ok := by.(string); ok && !strings.HasPrefix(name, "_") {
		if f, ok := field(v, name); ok {
			return f, nil
		}
		return missing(v, name), nil
	}
	return undefined{fmt.Sprintf("%s has no element %v", typeName(v), by)}, nil
}

func at2(x []any, by any) (any, bool) {
	n, ok := by.(int64)
	if n < 0 {
		n += int64(len(x))
	}
	if !ok || n < 0 || n >= int64(len(x)) {
		return nil, false
	}
	return x[n], true
}

func (m *machine) runeAt(s string, n int64) (any, error) {
	if n < 0 {
		n += int64(utf8.RuneCountInString(s))
	}
	for _, r := range s {
		if n == 0 {
			return string(r), nil
		}
		n--
	}
	return undefined{"str object has no such element"}, nil
}

// slice is v[start:stop:step].
func (m *machine) slice(v any, n [3]*int64) (any, error) {
	switch x := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%s", x.what)
	case string:
		if err := m.step(len(x) >> 6); err != nil { // four bytes for each of it
			return nil, err
		}
		r := []rune(x)
		idx, err := m.sliceIndex(len(r), n)
		out := make([]rune, len(idx))
		for i, k := range idx {
			out[i] = r[k]
		}
		return string(out), err
	case []any:
		out, err := m.pick(x, n)
		return out, err
	case Tuple:
		out, err := m.pick(x, n)
		return Tuple(out), err
	}
	return nil, fmt.Errorf("'%s' object is not subscriptable", typeName(v))
}

func (m *machine) pick(x []any, n [3]*int64) ([]any, error) {
	idx, err := m.sliceIndex(len(x), n)
	out := make([]any, len(idx))
	for i, k := range idx {
		out[i] = x[k]
	}
	return out, err
}

// sliceIndex lists the indices a slice selects of n elements.
func (m *machine) sliceIndex(n int, part [3]*int64) ([]int, error) {
	size, step := int64(n), int64(1)
	if part[2] != nil {
		step = *part[2]
	}
	if step == 0 {
		return nil, fmt.Errorf("slice step cannot be zero")
	}
	lo, hi := int64(0), size // where indices are clamped
	start, stop := lo, hi
	if step < 0 {
		lo, hi = -1, size-1
		start, stop = hi, lo
	}
	clamp := func(p *int64, without int64) int64 {
		if p == nil {
			return without
		}
		i := *p
		if i < 0 {
			i += size
		}
		return min(max(i, lo), hi)
	}
	start, stop = clamp(part[0], start), clamp(part[1], stop)
	var out []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; {
		out = append(out, int(i))
		if step > size || -step > size {
			break
		}
		i += step
	}
	return out, m.step(itemCost * len(out))
}

// loopVar is the loop variable.
type loopVar struct {
	items   []any
	i       int
	depth   int
	again   func(items any, depth int) (any, error) // runs a recursive loop's body; nil in others
	changed any
	seen    bool
}

func (l *loopVar) field(name string) any {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.i + 1)
	case "index0":
		return int64(l.i)
	case "revindex":
		return int64(n - l.i)
	case "revindex0":
		return int64(n - l.i - 1)
	case "first":
		return l.i == 0
	case "last":
		return l.i == n-1
	case "length":
		return int64(n)
	case "depth":
		return int64(l.depth + 1)
	case "depth0":
		return int64(l.depth)
	case "previtem":
		if l.i == 0 {
			return undefined{"there is no previous item"}
		}
		return l.items[l.i-1]
	case "nextitem":
		if l.i == n-1 {
			return undefined{"there is no next item"}
		}
		return l.items[l.i+1]
	case "cycle":
		return &function{name: name, call: l.cycle}
	case "changed":
		return &function{name: name, call: l.hasChanged}
	}
	return nil
}

// hasNone tells whether a field exists though its value is None.
func (l *loopVar) hasNone(name string) bool {
	return name == "previtem" || name == "nextitem"
}

func (l *loopVar) cycle(_ *machine, a args) (any, error) {
	if len(a.pos) == 0 {
		return nil, fmt.Errorf("no items for cycling given")
	}
	return a.pos[l.i%len(a.pos)], nil
}

func (l *loopVar) hasChanged(m *machine, a args) (any, error) {
	now := any(Tuple(a.pos))
	same, err := m.equal(l.changed, now)
	if err != nil || same && l.seen {
		return false, err
	}
	l.changed, l.seen = now, true
	return true, nil
}

// cycler and joiner are Jinja's helpers with state.
type cycler struct {
	items []any
	i     int
}

func (c *cycler) field(name string) (any, bool) {
	switch name {
	case "current":
		return c.items[c.i], true
	case "next":
		return &function{name: name, call: func(*machine, args) (any, error) {
			v := c.items[c.i]
			c.i = (c.i + 1) % len(c.items)
			return v, nil
		}}, true
	case "reset":
		return &function{name: name, call: func(*machine, args) (any, error) { c.i = 0; return nil, nil }}, true
	}
	return nil, false
}

// call reads the arguments of a filter, test, method or function by position
// and name; the first mistake stays in err.
type call struct {
	args
	name string
	used int
	err  error
}

// arg is the next parameter.
func (c *call) arg(name string, without any) any {
	i := c.used
	c.used++
	v, named := c.named.Get(name)
	if named {
		c.named.Delete(name)
		if i < len(c.pos) && c.err == nil {
			c.err = fmt.Errorf("%s: two values for %q", c.name, name)
		}
		return v
	}
	if i < len(c.pos) {
		return c.pos[i]
	}
	return without
}

// done reports arguments that nobody asked for.
func (c *call) done() error {
	switch {
	case c.err != nil:
		return c.err
	case len(c.pos) > c.used:
		return fmt.Errorf("%s takes at most %d argument(s), %d given", c.name, c.used, len(c.pos))
	case c.named.Len() > 0:
		k, _ := c.named.At(0)
		return fmt.Errorf("%s got an unexpected keyword argument '%v'", c.name, k)
	}
	return nil
}

func (c *call) integer(name string, without int64) int64 {
	switch v := unbool(c.arg(name, without)).(type) {
	case int64:
		return v
	case nil:
		return without
	default:
		c.bad(name, v, "an integer")
	}
	return without
}

func (c *call) text(name, without string) string {
	v := c.arg(name, without)
	s, ok := v.(string)
	if !ok {
		if v == nil {
			return without
		}
		c.bad(name, v, "a string")
	}
	return s
}

func (c *call) flag(name string, without bool) bool { return truth(c.arg(name, without)) }

func (c *call) bad(name string, v any, want string) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: %s must be %s, not %s", c.name, name, want, typeName(v))
	}
}
