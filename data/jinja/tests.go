package jinja

import (
	"fmt"
	"math"
)

// testFunc is a test: v is name(args).
type testFunc func(m *machine, v any, c *call) (bool, error)

func pure(f func(v any) bool) testFunc {
	return func(_ *machine, v any, c *call) (bool, error) { return f(v), c.done() }
}

func comparing(op string) testFunc {
	return func(m *machine, v any, c *call) (bool, error) {
		other := c.arg("other", nil)
		if err := c.done(); err != nil {
			return false, err
		}
		return m.compare(op, v, other)
	}
}

// testNamed is a test that counts the text it looks through, nil for none.
func testNamed(name string) testFunc {
	f := builtinTest(name)
	if f == nil {
		return nil
	}
	return func(m *machine, v any, c *call) (bool, error) {
		if err := m.read(append(c.pos[:len(c.pos):len(c.pos)], v)...); err != nil {
			return false, err
		}
		return f(m, v, c)
	}
}

// builtinTest finds a test; nil when there is none of that name.
func builtinTest(name string) testFunc {
	switch name {
	case "==", "eq", "equalto":
		return comparing("==")
	case "!=", "ne":
		return comparing("!=")
	case "<", "lt", "lessthan":
		return comparing("<")
	case "<=", "le":
		return comparing("<=")
	case ">", "gt", "greaterthan":
		return comparing(">")
	case ">=", "ge":
		return comparing(">=")
	case "in":
		return comparing("in")
	case "boolean":
		return pure(func(v any) bool { _, ok := v.(bool); return ok })
	case "callable":
		return pure(func(v any) bool { _, ok := v.(*function); return ok })
	case "defined":
		return pure(func(v any) bool { _, un := v.(undefined); return !un })
	case "undefined":
		return pure(func(v any) bool { _, un := v.(undefined); return un })
	case "true", "false":
		return pure(func(v any) bool { b, ok := v.(bool); return ok && b == (name == "true") })
	case "none":
		return pure(func(v any) bool { return v == nil })
	case "string":
		return pure(func(v any) bool { _, ok := v.(string); return ok })
	case "integer":
		return pure(func(v any) bool { return typeName(v) == "int" })
	case "float":
		return pure(func(v any) bool { _, ok := v.(float64); return ok })
	case "number":
		return pure(func(v any) bool { t := typeName(v); return t == "int" || t == "float" || t == "bool" })
	case "mapping":
		return pure(func(v any) bool { _, ok := v.(*Dict); return ok })
	case "iterable":
		return func(m *machine, v any, c *call) (bool, error) {
			if _, ok := v.(*view); ok {
				return true, c.done()
			}
			_, err := m.iterate(v)
			return err == nil, c.done()
		}
	case "sequence":
		return pure(func(v any) bool {
			_, err := length(v)
			_, isView := v.(*view)
			return err == nil && !isView
		})
	case "filter":
		return pure(func(v any) bool { s, ok := v.(string); return ok && filterNamed(s) != nil })
	case "test":
		return pure(func(v any) bool { s, ok := v.(string); return ok && testNamed(s) != nil })
	case "escaped":
		return pure(func(any) bool { return false })
	case "lower", "upper":
		return func(m *machine, v any, c *call) (bool, error) {
			s, err := m.str(v)
			if err != nil {
				return false, err
			}
			ok, err := stringMethod("is"+name)(m, s, c)
			return ok == true, err
		}
	case "sameas":
		return sameAs
	case "odd", "even", "divisibleby":
		return divisible(name)
	}
	return nil
}

func sameAs(m *machine, v any, c *call) (bool, error) {
	other := c.arg("other", nil)
	if err := c.done(); err != nil || typeName(v) != typeName(other) {
		return false, err
	}
	if hashable(v) {
		return v == other, nil
	}
	return m.equal(v, other)
}

func divisible(name string) testFunc {
	return func(_ *machine, v any, c *call) (bool, error) {
		by := any(int64(2))
		if name == "divisibleby" {
			by = c.arg("num", int64(0))
		}
		n, ok := toFloat(unbool(v))
		d, isNumber := toFloat(unbool(by))
		if err := c.done(); err != nil {
			return false, err
		}
		if !ok || !isNumber || d == 0 {
			return false, fmt.Errorf("%s: '%s' is no number or the divisor is 0", name, typeName(v))
		}
		x, whole := unbool(v).(int64)
		y, both := unbool(by).(int64)
		rest := math.Mod(n, d)
		if whole && both {
			rest = float64(x % y)
		}
		if name == "odd" {
			return rest == 1 || rest == -1, nil
		}
		return rest == 0, nil
	}
}
