package jinja

import (
	"fmt"
	"slices"
	"strings"
)

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
	return out, m.step(itemCost * len(out))
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
		if fill != nil && i >= extra {
			row = append(row, fill)
		}
		out = append(out, row)
	}
	return out, m.step(itemCost * len(out))
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
		return out, m.step(itemCost * len(out))
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
	return best, m.step(itemCost * len(items))
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
	if err := firstError(err, c.done(), m.step(itemCost*len(items))); err != nil {
		return nil, err
	}
	items = append([]any{}, items...)
	slices.Reverse(items)
	if _, ok := v.(string); ok {
		return m.joinStrict("", items)
	}
	return &view{items: items, lazy: true}, nil
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
	return out, m.step(itemCost * len(items))
}
