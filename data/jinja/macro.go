package jinja

import (
	"fmt"
	"slices"
	"strings"
)

type param struct {
	name  string
	value expr
}

// macroDef is a macro or the body of a call block.
type macroDef struct {
	line   int
	name   string
	params []param
	body   []stmt

	varargs, kwargs, caller bool // the body uses them
}

type macroStmt struct{ def *macroDef }

func (s *macroStmt) run(f *frame) error {
	f.s.set(s.def.name, s.def.bind(f.s))
	return nil
}

// bind makes the macro callable; it sees the scope it was defined in.
func (d *macroDef) bind(s *scope) *function {
	return &function{name: d.name, call: func(m *machine, a args) (any, error) { return d.call(m, s, a) }}
}

func (d *macroDef) call(m *machine, outer *scope, a args) (any, error) {
	if m.calls++; m.calls > maxCalls {
		return nil, m.limit(d.line, "macros call each other deeper than %d", maxCalls)
	}
	defer func() { m.calls-- }()
	f := &frame{m, outer.child(), &strings.Builder{}}
	if err := d.setArgs(f, a); err != nil {
		return nil, at(d.line, err)
	}
	if err := runAll(f, d.body); err != nil {
		return nil, err
	}
	return f.out.String(), m.grow(f.out.Len())
}

func (d *macroDef) setArgs(f *frame, a args) error {
	named := a.named.Clone()
	for i, p := range d.params {
		v, given := named.Get(p.name)
		switch {
		case i < len(a.pos) && given:
			return fmt.Errorf("macro %q got two values for %q", d.name, p.name)
		case i < len(a.pos):
			v = a.pos[i]
		case given:
			named.Delete(p.name)
		case p.value != nil:
			var err error
			if v, err = f.eval(p.value); err != nil {
				return err
			}
		default:
			v = undefined{fmt.Sprintf("parameter %q was not provided", p.name)}
		}
		f.s.set(p.name, v)
	}
	if !slices.ContainsFunc(d.params, func(p param) bool { return p.name == "caller" }) {
		f.s.set("caller", undefined{"no caller defined"})
	}
	if c, ok := named.Get("caller"); ok {
		switch {
		case d.caller:
			named.Delete("caller")
			f.s.set("caller", c)
		case !d.kwargs: // of which it is one, where the body uses those only
			return fmt.Errorf("macro %q is called by a call block and does not use caller", d.name)
		}
	}
	var rest Tuple
	if len(a.pos) > len(d.params) {
		rest = Tuple(a.pos[len(d.params):])
	}
	if len(rest) > 0 && !d.varargs {
		return fmt.Errorf("macro %q takes not more than %d argument(s)", d.name, len(d.params))
	}
	if named.Len() > 0 && !d.kwargs {
		k, _ := named.At(0)
		return fmt.Errorf("macro %q takes no keyword argument %q", d.name, k)
	}
	f.s.set("varargs", rest)
	f.s.set("kwargs", named)
	return nil
}

type callStmt struct {
	line   int
	call   *callExpr
	caller *macroDef
}

func (s *callStmt) run(f *frame) error {
	fn, a, err := s.call.prepare(f)
	if err != nil {
		return at(s.line, err)
	}
	a.named.Set("caller", s.caller.bind(f.s))
	v, err := f.m.invoke(fn, a)
	if err != nil {
		return at(s.line, err)
	}
	text, err := f.m.str(v)
	if err != nil {
		return at(s.line, err)
	}
	return f.write(text)
}
