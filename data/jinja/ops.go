package jinja

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func typeName(v any) string {
	switch x := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, BigInt:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []any:
		return "list"
	case Tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case undefined:
		return "Undefined"
	case *view:
		if x.lazy {
			return "generator"
		}
		return x.name
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", v), "*jinja.")
}

// truth is bool(v).
func truth(v any) bool {
	switch x := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return x
	case int64:
		return x != 0
	case float64:
		return x != 0
	case string:
		return x != ""
	case []any:
		return len(x) > 0
	case Tuple:
		return len(x) > 0
	case *Dict:
		return x.Len() > 0
	case *view:
		return x.lazy || len(x.items) > 0
	}
	return true
}

// unbool turns True and False into the ints they are in arithmetic.
func unbool(v any) any {
	if b, ok := v.(bool); ok {
		if b {
			return int64(1)
		}
		return int64(0)
	}
	return v
}

func hashable(v any) bool {
	switch v.(type) {
	case nil, bool, int64, float64, BigInt, string:
		return true
	}
	return false
}

// str is str(v): what {{ v }} prints.
func (m *machine) str(v any) (string, error) {
	switch x := v.(type) {
	case string:
		return x, nil
	case undefined:
		return "", nil
	}
	var b strings.Builder
	err := m.repr(&b, v)
	return b.String(), err
}

// repr writes repr(v).
func (m *machine) repr(b *strings.Builder, v any) error {
	if err := m.step(1); err != nil {
		return err
	}
	if b.Len() > maxOutput {
		return m.grow(maxOutput + 1)
	}
	switch x := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[x])
	case int64:
		b.WriteString(strconv.FormatInt(x, 10))
	case BigInt:
		b.WriteString(string(x))
	case float64:
		b.WriteString(floatRepr(x))
	case string:
		stringRepr(b, x)
	case []any:
		return m.reprList(b, "[", x, "]")
	case Tuple:
		if len(x) == 1 {
			return m.reprList(b, "(", x, ",)")
		}
		return m.reprList(b, "(", x, ")")
	case *Dict:
		return m.reprDict(b, x)
	case undefined:
		b.WriteString("Undefined")
	case *view:
		if !x.lazy {
			return m.reprList(b, x.name+"([", x.items, "])")
		}
		b.WriteString("<generator object>")
	default:
		fmt.Fprintf(b, "<%s object>", typeName(v))
	}
	return nil
}

func (m *machine) reprList(b *strings.Builder, open string, items []any, end string) error {
	b.WriteString(open)
	for i, v := range items {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := m.deeper(func() error { return m.repr(b, v) }); err != nil {
			return err
		}
	}
	b.WriteString(end)
	return nil
}

func (m *machine) reprDict(b *strings.Builder, d *Dict) error {
	b.WriteByte('{')
	for i := range d.Len() {
		if i > 0 {
			b.WriteString(", ")
		}
		k, v := d.At(i)
		if err := m.repr(b, k); err != nil {
			return err
		}
		b.WriteString(": ")
		if err := m.deeper(func() error { return m.repr(b, v) }); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// deeper bounds recursion into nested values.
func (m *machine) deeper(f func() error) error {
	if m.depth++; m.depth > maxDepth {
		return m.limit(0, "a value nests deeper than %d", maxDepth)
	}
	err := f()
	m.depth--
	return err
}

// floatRepr is Python's repr of a float: the shortest text that reads back.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case f == 0 || math.Abs(f) >= 1e-4 && math.Abs(f) < 1e16:
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.ContainsRune(s, '.') {
			s += ".0"
		}
		return s
	}
	return strconv.FormatFloat(f, 'e', -1, 64)
}

// stringRepr quotes as Python does: single quotes unless the text has only
// those.
func stringRepr(b *strings.Builder, s string) {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteByte(q)
}

// iterate lists what for walks over.
func (m *machine) iterate(v any) ([]any, error) {
	switch x := v.(type) {
	case []any:
		return x, nil
	case Tuple:
		return x, nil
	case *view:
		return x.walk()
	case undefined:
		return nil, nil
	case *Dict:
		return append([]any(nil), x.keysOf()...), m.step(x.Len())
	case string:
		if err := m.step(len(x)); err != nil {
			return nil, err
		}
		out := make([]any, 0, len(x))
		for _, r := range x {
			out = append(out, string(r))
		}
		return out, m.step(itemCost * len(out))
	}
	return nil, fmt.Errorf("'%s' object is not iterable", typeName(v))
}

// generator is what map, select and their like give: like Python's it does
// nothing, errors included, until it is walked over.
func generator(f func() ([]any, error)) *view { return &view{lazy: true, make: f} }

// fill makes a generator's items.
func (v *view) fill() error {
	if v.make == nil {
		return nil
	}
	items, err := v.make()
	v.items, v.make = items, nil
	return err
}

// walk lists the items; a generator has none left then.
func (v *view) walk() ([]any, error) {
	err := v.fill()
	items := v.items
	if v.lazy {
		v.items = nil
	}
	return items, err
}

func (d *Dict) keysOf() []any {
	if d == nil {
		return nil
	}
	return d.keys
}

// length is len(v).
func length(v any) (int, error) {
	switch x := v.(type) {
	case string:
		return utf8.RuneCountInString(x), nil
	case []any:
		return len(x), nil
	case Tuple:
		return len(x), nil
	case *Dict:
		return x.Len(), nil
	case undefined:
		return 0, nil
	case *view:
		if !x.lazy {
			return len(x.items), nil
		}
	}
	return 0, fmt.Errorf("object of type '%s' has no len()", typeName(v))
}

// sameNumber tells whether f is exactly n.
func sameNumber(n BigInt, f float64) bool {
	if f-f != 0 { // an infinity or no number
		return false
	}
	x, exact := new(big.Float).SetFloat64(f).Int(nil)
	return exact == big.Exact && x.Cmp(n.value()) == 0
}

// bigPair are two whole numbers to compare, of which one at least has more than 64 bits.
func bigPair(a, b any) (x, y *big.Int, ok bool) {
	value := func(v any) (*big.Int, bool) {
		switch v := v.(type) {
		case int64:
			return big.NewInt(v), false
		case BigInt:
			return v.value(), true
		}
		return nil, false
	}
	x, bigX := value(a)
	y, bigY := value(b)
	return x, y, x != nil && y != nil && (bigX || bigY)
}

// equal is a == b.
func (m *machine) equal(a, b any) (bool, error) {
	a, b = unbool(a), unbool(b)
	switch x := a.(type) {
	case nil:
		return b == nil, nil
	case int64:
		switch y := b.(type) {
		case int64:
			return x == y, nil
		case float64:
			return float64(x) == y, nil
		}
	case float64:
		switch y := b.(type) {
		case int64:
			return x == float64(y), nil
		case float64:
			return x == y, nil
		case BigInt:
			return sameNumber(y, x), nil
		}
	case BigInt:
		switch y := b.(type) {
		case float64:
			return sameNumber(x, y), nil
		case BigInt:
			return x == y, nil
		}
	case string:
		y, ok := b.(string)
		if !ok || len(x) != len(y) {
			return false, nil
		}
		return x == y, m.read(x)
	case []any:
		y, ok := b.([]any)
		return m.equalLists(x, y, ok)
	case Tuple:
		y, ok := b.(Tuple)
		return m.equalLists(x, y, ok)
	case *Dict:
		y, ok := b.(*Dict)
		return m.equalDicts(x, y, ok)
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	default:
		return a == b, nil
	}
	return false, nil
}

func (m *machine) equalLists(x, y []any, ok bool) (bool, error) {
	if !ok || len(x) != len(y) {
		return false, nil
	}
	for i := range x {
		if err := m.step(1); err != nil {
			return false, err
		}
		same, err := m.equalDeep(x[i], y[i])
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (m *machine) equalDeep(a, b any) (same bool, err error) {
	err = m.deeper(func() error { same, err = m.equal(a, b); return err })
	return same, err
}

func (m *machine) equalDicts(x, y *Dict, ok bool) (bool, error) {
	if !ok || x.Len() != y.Len() {
		return false, nil
	}
	for i := range x.Len() {
		k, v := x.At(i)
		if err := firstError(m.step(1), m.read(k)); err != nil {
			return false, err
		}
		w, has := y.Get(k)
		if !has {
			return false, nil
		}
		same, err := m.equalDeep(v, w)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (m *machine) compare(op string, a, b any) (bool, error) {
	switch op {
	case "==", "!=":
		same, err := m.equal(a, b)
		return same == (op == "=="), err
	case "in", "not in":
		has, err := m.contains(b, a)
		return has == (op == "in"), err
	}
	c, err := m.order(op, a, b)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

// order compares for <, <=, >, >= and sorting.
func (m *machine) order(op string, a, b any) (int, error) {
	a, b = unbool(a), unbool(b)
	if x, y, ok := bigPair(a, b); ok {
		return x.Cmp(y), nil
	}
	if x, ok := a.(BigInt); ok {
		a = x.Float()
	}
	if y, ok := b.(BigInt); ok {
		b = y.Float()
	}
	switch x := a.(type) {
	case int64:
		switch y := b.(type) {
		case int64:
			return cmp.Compare(x, y), nil
		case float64:
			return cmp.Compare(float64(x), y), nil
		}
	case float64:
		switch y := b.(type) {
		case int64:
			return cmp.Compare(x, float64(y)), nil
		case float64:
			return cmp.Compare(x, y), nil
		}
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), m.read(x[:min(len(x), len(y))])
		}
	case []any:
		if y, ok := b.([]any); ok {
			return m.orderLists(op, x, y)
		}
	case Tuple:
		if y, ok := b.(Tuple); ok {
			return m.orderLists(op, x, y)
		}
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok {
			return 0, fmt.Errorf("%s", u.what)
		}
	}
	return 0, fmt.Errorf("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
}

func (m *machine) orderLists(op string, x, y []any) (int, error) {
	for i := range min(len(x), len(y)) {
		same, err := m.equalDeep(x[i], y[i])
		if err != nil {
			return 0, err
		}
		if !same {
			return m.order(op, x[i], y[i])
		}
	}
	return cmp.Compare(len(x), len(y)), nil
}

// contains is item in v.
func (m *machine) contains(v, item any) (bool, error) {
	switch x := v.(type) {
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("'in <string>' requires string as left operand, not %s", typeName(item))
		}
		if err := m.read(x, s); err != nil {
			return false, err
		}
		return strings.Contains(x, s), nil
	case *Dict:
		if !hashable(item) {
			if _, ok := item.(undefined); ok {
				return false, nil
			}
			return false, fmt.Errorf("unhashable type: '%s'", typeName(item))
		}
		_, ok := x.Get(item)
		return ok, m.read(item)
	}
	items, err := m.iterate(v)
	if err != nil {
		return false, fmt.Errorf("argument of type '%s' is not iterable", typeName(v))
	}
	for _, e := range items {
		same, err := m.equalDeep(e, item)
		if err != nil || same {
			return same, err
		}
		if err := m.step(1); err != nil {
			return false, err
		}
	}
	return false, nil
}
