package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
)

func (m *machine) binary(op string, a, b any) (any, error) {
	if op == "~" {
		return m.join2(a, b)
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok {
			return nil, fmt.Errorf("%s", u.what)
		}
	}
	a, b = unbool(a), unbool(b)
	x, xInt := a.(int64)
	y, yInt := b.(int64)
	if xInt && yInt {
		return intOp(op, x, y)
	}
	f, fNum := toFloat(a)
	g, gNum := toFloat(b)
	switch {
	case fNum && gNum:
		return floatOp(op, f, g)
	case op == "+":
		return m.add(a, b)
	case op == "*" && xInt:
		return m.repeat(b, x, a)
	case op == "*" && yInt:
		return m.repeat(a, y, b)
	case op == "%":
		if s, ok := a.(string); ok {
			return m.percent(s, b)
		}
	}
	return nil, unsupported(op, a, b)
}

func unsupported(op string, a, b any) error {
	return fmt.Errorf("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

func (m *machine) join2(a, b any) (any, error) {
	s, err := m.str(a)
	if err != nil {
		return nil, err
	}
	t, err := m.str(b)
	if err != nil {
		return nil, err
	}
	if err := m.grow(len(s) + len(t)); err != nil {
		return nil, err
	}
	return s + t, nil
}

func toFloat(v any) (float64, bool) {
	switch x := v.(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}

func (m *machine) add(a, b any) (any, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			if err := m.grow(len(x) + len(y)); err != nil {
				return nil, err
			}
			return x + y, nil
		}
		return nil, fmt.Errorf("can only concatenate str (not \"%s\") to str", typeName(b))
	case []any:
		if y, ok := b.([]any); ok {
			if err := m.step(itemCost * (len(x) + len(y))); err != nil {
				return nil, err
			}
			return append(append(make([]any, 0, len(x)+len(y)), x...), y...), nil
		}
		return nil, fmt.Errorf("can only concatenate list (not \"%s\") to list", typeName(b))
	case Tuple:
		if y, ok := b.(Tuple); ok {
			if err := m.step(itemCost * (len(x) + len(y))); err != nil {
				return nil, err
			}
			return append(append(make(Tuple, 0, len(x)+len(y)), x...), y...), nil
		}
		return nil, fmt.Errorf("can only concatenate tuple (not \"%s\") to tuple", typeName(b))
	}
	return nil, unsupported("+", a, b)
}

func (m *machine) repeat(v any, n int64, by any) (any, error) {
	n = max(n, 0)
	switch x := v.(type) {
	case string:
		if int64(len(x)) > 0 && n > maxOutput/int64(len(x)) {
			return nil, m.grow(maxOutput + 1)
		}
		return strings.Repeat(x, int(n)), m.grow(len(x) * int(n))
	case []any:
		return m.repeatList(x, n)
	case Tuple:
		l, err := m.repeatList(x, n)
		return Tuple(l), err
	}
	return nil, unsupported("*", v, by)
}

func (m *machine) repeatList(x []any, n int64) ([]any, error) {
	if len(x) > 0 && n > maxSteps/int64(len(x)) {
		return nil, m.step(maxSteps + 1)
	}
	if err := m.step(itemCost * len(x) * int(n)); err != nil {
		return nil, err
	}
	out := make([]any, 0, len(x)*int(n))
	for range n {
		out = append(out, x...)
	}
	return out, nil
}

var errOverflow = fmt.Errorf("the result does not fit 64 bits")

func intOp(op string, x, y int64) (any, error) {
	switch op {
	case "+":
		if s := x + y; (s > x) == (y > 0) {
			return s, nil
		}
		return nil, errOverflow
	case "-":
		if s := x - y; (s < x) == (y > 0) {
			return s, nil
		}
		return nil, errOverflow
	case "*":
		return mulInt(x, y)
	case "**":
		return powInt(x, y)
	}
	if y == 0 {
		return nil, fmt.Errorf("division by zero")
	}
	if x == math.MinInt64 && y == -1 {
		return nil, errOverflow
	}
	switch op {
	case "/":
		return float64(x) / float64(y), nil
	case "//":
		q := x / y
		if x%y != 0 && (x < 0) != (y < 0) {
			q--
		}
		return q, nil
	}
	r := x % y
	if r != 0 && (r < 0) != (y < 0) {
		r += y
	}
	return r, nil
}

func mulInt(x, y int64) (any, error) {
	hi, lo := bits.Mul64(magnitude(x), magnitude(y))
	if hi != 0 || lo > math.MaxInt64 {
		return nil, errOverflow
	}
	if (x < 0) != (y < 0) {
		return -int64(lo), nil
	}
	return int64(lo), nil
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

func powInt(x, y int64) (any, error) {
	if y < 0 {
		if x == 0 {
			return nil, fmt.Errorf("0.0 cannot be raised to a negative power")
		}
		return math.Pow(float64(x), float64(y)), nil
	}
	if x == 0 || x == 1 || x == -1 {
		y = min(y, 2+y&1)
	}
	out := int64(1)
	for range min(y, 64) {
		v, err := mulInt(out, x)
		if err != nil {
			return nil, err
		}
		out = v.(int64)
	}
	if y > 64 {
		return nil, errOverflow
	}
	return out, nil
}

func floatOp(op string, x, y float64) (any, error) {
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "**":
		v := math.Pow(x, y)
		if math.IsInf(v, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			return nil, fmt.Errorf("the result is too large")
		}
		return v, nil
	}
	if y == 0 {
		return nil, fmt.Errorf("float division by zero")
	}
	switch op {
	case "/":
		return x / y, nil
	case "//":
		return math.Floor(x / y), nil
	}
	r := math.Mod(x, y)
	if r != 0 && (r < 0) != (y < 0) {
		r += y
	}
	return r, nil
}

var errIncomplete = errors.New("incomplete format: a percent sign is written %%")

// percent is Python's "%s %d" % values with the plain conversions.
func (m *machine) percent(format string, v any) (any, error) {
	vals, ok := v.(Tuple)
	if !ok {
		vals = Tuple{v}
	}
	var b strings.Builder
	n := 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		if i++; i == len(format) {
			return nil, errIncomplete
		}
		if format[i] == '%' {
			b.WriteByte('%')
			continue
		}
		j := i
		if format[i] == '(' { // an entry of a dictionary
			end := strings.IndexByte(format[i:], ')')
			d, ok := v.(*Dict)
			if end < 0 || !ok {
				return nil, fmt.Errorf("format requires a mapping")
			}
			key := format[i+1 : i+end]
			value, ok := d.Get(key)
			if !ok {
				return nil, fmt.Errorf("format has no value for %q", key)
			}
			i += end + 1
			j, n = i, 0
			vals = Tuple{value}
		}
		for j < len(format) && strings.IndexByte("0123456789.-+ ", format[j]) >= 0 {
			j++
		}
		if j == len(format) {
			return nil, errIncomplete
		}
		if n >= len(vals) {
			return nil, fmt.Errorf("not enough arguments for format string")
		}
		s, err := m.conversion(format[i:j], format[j], vals[n])
		if err != nil {
			return nil, err
		}
		b.WriteString(s)
		n++
		i = j
	}
	switch v.(type) {
	case *Dict, []any: // what has entries need not be used
		n = len(vals)
	}
	if n < len(vals) {
		return nil, fmt.Errorf("not all arguments converted during string formatting")
	}
	return b.String(), m.grow(b.Len())
}

func (m *machine) conversion(flags string, verb byte, v any) (string, error) {
	if len(flags) > 6 {
		return "", fmt.Errorf("format %%%s%c is too wide", flags, verb)
	}
	switch verb {
	case 's':
		s, err := m.str(v)
		return fmt.Sprintf("%"+flags+"s", s), err
	case 'r':
		var b strings.Builder
		err := m.repr(&b, v)
		return fmt.Sprintf("%"+flags+"s", b.String()), err
	case 'd', 'i':
		if n, ok := unbool(v).(int64); ok {
			return fmt.Sprintf("%"+flags+"d", n), nil
		}
		f, ok := v.(float64)
		if !ok || !(math.Abs(f) < 1<<63) {
			return "", fmt.Errorf("%%d format: a real number of at most 64 bits is required, not %s", typeName(v))
		}
		return fmt.Sprintf("%"+flags+"d", int64(f)), nil
	case 'f', 'e', 'g', 'F', 'E', 'G':
		f, ok := toFloat(unbool(v))
		if !ok {
			return "", fmt.Errorf("must be real number, not %s", typeName(v))
		}
		return fmt.Sprintf("%"+flags+string(verb), f), nil
	case 'x', 'X', 'o':
		n, ok := unbool(v).(int64)
		if !ok {
			return "", fmt.Errorf("%%%c format: an integer is required, not %s", verb, typeName(v))
		}
		return fmt.Sprintf("%"+flags+string(verb), n), nil
	}
	return "", fmt.Errorf("unsupported format character %q", verb)
}
