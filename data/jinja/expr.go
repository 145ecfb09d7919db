package jinja

import (
	"fmt"
)

type constExpr struct{ v any }

func (e *constExpr) eval(*frame) (any, error) { return e.v, nil }

type nameExpr struct {
	line int
	name string
}

func (e *nameExpr) eval(f *frame) (any, error) {
	if v, ok := f.s.get(e.name); ok {
		return v, nil
	}
	return undefined{fmt.Sprintf("%q is undefined", e.name)}, nil
}

type listExpr struct {
	items []expr
	tuple bool
}

func (e *listExpr) eval(f *frame) (any, error) {
	out := make([]any, len(e.items))
	for i, x := range e.items {
		v, err := f.eval(x)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	if e.tuple {
		return Tuple(out), nil
	}
	return out, nil
}

type dictExpr struct {
	line       int
	keys, vals []expr
}

func (e *dictExpr) eval(f *frame) (any, error) {
	d := &Dict{}
	for i := range e.keys {
		k, err := f.eval(e.keys[i])
		if err != nil {
			return nil, err
		}
		v, err := f.eval(e.vals[i])
		if err != nil {
			return nil, err
		}
		if !hashable(k) {
			return nil, errAt(e.line, "unhashable type: '%s'", typeName(k))
		}
		d.Set(k, v)
	}
	return d, nil
}

type condExpr struct{ cond, yes, no expr }

func (e *condExpr) eval(f *frame) (any, error) {
	c, err := f.eval(e.cond)
	if err != nil {
		return nil, err
	}
	if truth(c) {
		return f.eval(e.yes)
	}
	if e.no == nil {
		return undefined{"the inline if-expression evaluated to false and no else section was defined"}, nil
	}
	return f.eval(e.no)
}

type logicExpr struct {
	left, right expr
	or          bool
}

func (e *logicExpr) eval(f *frame) (any, error) {
	l, err := f.eval(e.left)
	if err != nil || truth(l) == e.or {
		return l, err
	}
	return f.eval(e.right)
}

type notExpr struct{ e expr }

func (e *notExpr) eval(f *frame) (any, error) {
	v, err := f.eval(e.e)
	return !truth(v), err
}

type compareExpr struct {
	line  int
	first expr
	ops   []string
	rest  []expr
}

func (e *compareExpr) eval(f *frame) (any, error) {
	left, err := f.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := f.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		ok, err := f.m.compare(op, left, right)
		if err != nil {
			return nil, at(e.line, err)
		}
		if !ok {
			return false, nil
		}
		left = right
	}
	return true, nil
}

type binaryExpr struct {
	line        int
	op          string
	left, right expr
}

func (e *binaryExpr) eval(f *frame) (any, error) {
	l, err := f.eval(e.left)
	if err != nil {
		return nil, err
	}
	r, err := f.eval(e.right)
	if err != nil {
		return nil, err
	}
	v, err := f.m.binary(e.op, l, r)
	return v, at(e.line, err)
}

type signExpr struct {
	line int
	neg  bool
	e    expr
}

func (e *signExpr) eval(f *frame) (any, error) {
	v, err := f.eval(e.e)
	if err != nil {
		return nil, err
	}
	v = unbool(v)
	switch x := v.(type) {
	case int64:
		if e.neg {
			return -x, nil
		}
		return x, nil
	case float64:
		if e.neg {
			return -x, nil
		}
		return x, nil
	case undefined:
		return nil, errAt(e.line, "%s", x.what)
	}
	return nil, errAt(e.line, "bad operand type for unary sign: '%s'", typeName(v))
}

type attrExpr struct {
	line int
	of   expr
	name string
}

func (e *attrExpr) eval(f *frame) (any, error) {
	v, err := f.eval(e.of)
	if err != nil {
		return nil, err
	}
	v, err = f.m.attr(v, e.name)
	return v, at(e.line, err)
}

type indexExpr struct {
	line   int
	of, by expr
}

func (e *indexExpr) eval(f *frame) (any, error) {
	v, err := f.eval(e.of)
	if err != nil {
		return nil, err
	}
	if s, ok := e.by.(*sliceExpr); ok {
		v, err = s.slice(f, v)
		return v, at(e.line, err)
	}
	by, err := f.eval(e.by)
	if err != nil {
		return nil, err
	}
	v, err = f.m.item(v, by)
	return v, at(e.line, err)
}

// sliceExpr is start:stop:step; absent parts are nil.
type sliceExpr struct{ parts [3]expr }

func (e *sliceExpr) eval(*frame) (any, error) {
	return nil, fmt.Errorf("a slice stands where an index is wanted")
}

func (e *sliceExpr) slice(f *frame, v any) (any, error) {
	var n [3]*int64
	for i, p := range e.parts {
		if p == nil {
			continue
		}
		x, err := f.eval(p)
		if err != nil {
			return nil, err
		}
		switch k := unbool(x).(type) {
		case nil:
		case int64:
			n[i] = &k
		default:
			return nil, fmt.Errorf("slice indices must be integers or None, not %s", typeName(x))
		}
	}
	return f.m.slice(v, n)
}

// argList are the arguments of a call in the source.
type argList struct {
	pos            []expr
	names          []string
	named          []expr
	star, starstar expr
}

func (a *argList) eval(f *frame) (args, error) {
	out := args{named: &Dict{}}
	for _, e := range a.pos {
		v, err := f.eval(e)
		if err != nil {
			return out, err
		}
		out.pos = append(out.pos, v)
	}
	for i, e := range a.named {
		v, err := f.eval(e)
		if err != nil {
			return out, err
		}
		out.named.Set(a.names[i], v)
	}
	return out, a.spread(f, &out)
}

// spread adds *args and **kwargs.
func (a *argList) spread(f *frame, out *args) error {
	if a.star != nil {
		v, err := f.eval(a.star)
		if err != nil {
			return err
		}
		items, err := f.m.iterate(v)
		if err != nil {
			return err
		}
		out.pos = append(out.pos, items...)
	}
	if a.starstar != nil {
		v, err := f.eval(a.starstar)
		if err != nil {
			return err
		}
		d, ok := v.(*Dict)
		if !ok {
			return fmt.Errorf("argument after ** must be a mapping, not %s", typeName(v))
		}
		for i := range d.Len() {
			out.named.Set(d.At(i))
		}
	}
	return nil
}

type callExpr struct {
	line int
	of   expr
	args argList
}

func (e *callExpr) prepare(f *frame) (any, args, error) {
	fn, err := f.eval(e.of)
	if err != nil {
		return nil, args{}, err
	}
	a, err := e.args.eval(f)
	return fn, a, err
}

func (e *callExpr) eval(f *frame) (any, error) {
	fn, a, err := e.prepare(f)
	if err != nil {
		return nil, at(e.line, err)
	}
	v, err := f.m.invoke(fn, a)
	return v, at(e.line, err)
}

func (m *machine) invoke(fn any, a args) (any, error) {
	switch x := fn.(type) {
	case *function:
		return x.call(m, a)
	case *loopVar:
		if x.again != nil && len(a.pos) == 1 {
			return x.again(a.pos[0], x.depth+1)
		}
	case undefined:
		return nil, fmt.Errorf("%s", x.what)
	}
	return nil, fmt.Errorf("'%s' object is not callable", typeName(fn))
}

// applied is a filter or a test on a value.
type applied struct {
	line int
	name string
	of   expr
	args argList
}

// operands evaluates the value, then the arguments.
func (e *applied) operands(f *frame) (any, *call, error) {
	v, err := f.eval(e.of)
	if err != nil {
		return nil, nil, err
	}
	a, err := e.args.eval(f)
	return v, &call{args: a, name: e.name}, at(e.line, err)
}

type filterExpr struct {
	applied
	f filterFunc
}

func (e *filterExpr) eval(f *frame) (any, error) {
	v, c, err := e.operands(f)
	if err != nil {
		return nil, err
	}
	v, err = e.f(f.m, v, c)
	return v, at(e.line, err)
}

type testExpr struct {
	applied
	f testFunc
}

func (e *testExpr) eval(f *frame) (any, error) {
	v, c, err := e.operands(f)
	if err != nil {
		return nil, err
	}
	ok, err := e.f(f.m, v, c)
	return ok, at(e.line, err)
}
