package jinja

import (
	"strings"
)

// Limits on one rendering.
const (
	maxSteps  = 10_000_000 // expressions evaluated; see loopCost, itemCost and grow
	maxOutput = 16 << 20   // bytes of text, in all buffers and strings made
	maxDepth  = 2000       // expressions inside expressions
	maxCalls  = 64         // macros inside macros
	maxRange  = 100_000    // elements of range()
)

// What a turn of a loop and an element of a new list cost in steps.
const (
	loopCost = 10
	itemCost = 4
)

// Values are nil, bool, int64, float64, string, []any, Tuple, *Dict and the
// types below.
type (
	// Tuple is Python's tuple.
	Tuple []any
	// undefined is the value of a name that has none.
	undefined struct{ what string }
	// view is what can be walked but not indexed: a generator, or the items of
	// a dictionary.
	view struct {
		items []any
		name  string                // dict_items, dict_keys or dict_values
		lazy  bool                  // a generator: true, without a length, and empty once walked over
		make  func() ([]any, error) // makes a generator's items when they are first wanted
	}
	// namespace is the one thing a template can change.
	namespace struct{ vars *Dict }
	// function is anything that can be called.
	function struct {
		name string
		call func(m *machine, a args) (any, error)
	}
)

// args are the arguments of a call.
type args struct {
	pos   []any
	named *Dict
}

// scope is a set of variables; those it lacks are looked for in its parent.
type scope struct {
	vars   map[string]any
	parent *scope
}

func (s *scope) child() *scope { return &scope{parent: s} }

func (s *scope) set(name string, v any) {
	if s.vars == nil {
		s.vars = map[string]any{}
	}
	s.vars[name] = v
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// machine is one rendering.
type machine struct {
	o     *Options
	steps int
	bytes int
	depth int
	calls int
	spans [][2]int // of generation blocks in the output
	main  *strings.Builder
}

// frame is where statements run.
type frame struct {
	m   *machine
	s   *scope
	out *strings.Builder
}

func (m *machine) limit(line int, format string, args ...any) error {
	e := errAt(line, format, args...)
	e.Limit = true
	return e
}

func (m *machine) step(n int) error {
	if m.steps += n; m.steps > maxSteps || n < 0 {
		return m.limit(0, "the template does more than %d steps", maxSteps)
	}
	return nil
}

// read counts the text among values that is about to be looked through, 64 bytes a
// step.
func (m *machine) read(values ...any) error {
	n := 0
	for _, v := range values {
		if s, ok := v.(string); ok {
			n += len(s)
		}
	}
	return m.step(n >> 6)
}

// grow counts n bytes of text that are about to be made.
func (m *machine) grow(n int) error {
	if n < 0 || n > maxOutput || m.bytes+n > 8*maxOutput {
		return m.limit(0, "the template makes more than %d MiB of text", maxOutput>>20)
	}
	m.bytes += n
	return m.step(n >> 10)
}

func (f *frame) write(s string) error {
	if f.out.Len()+len(s) > maxOutput {
		return f.m.limit(0, "the output is longer than %d MiB", maxOutput>>20)
	}
	f.out.WriteString(s)
	return f.m.step(len(s) >> 10)
}

// jump is a break or continue on its way to the loop.
type jump struct{ brk bool }

func (*jump) Error() string { return "jump" }

type stmt interface{ run(f *frame) error }

type expr interface{ eval(f *frame) (any, error) }

func (f *frame) eval(e expr) (any, error) {
	if err := f.m.step(1); err != nil {
		return nil, err
	}
	if f.m.depth++; f.m.depth > maxDepth {
		return nil, f.m.limit(0, "expressions nest deeper than %d", maxDepth)
	}
	v, err := e.eval(f)
	f.m.depth--
	return v, err
}

// at names the line of an error that has none.
func at(line int, err error) error {
	if err == nil {
		return nil
	}
	switch e := err.(type) {
	case *jump:
		return e
	case *Error:
		if e.Line == 0 {
			e.Line = line
		}
		return e
	}
	return &Error{Line: line, Msg: err.Error()}
}

func runAll(f *frame, body []stmt) error {
	for _, s := range body {
		if err := s.run(f); err != nil {
			return err
		}
	}
	return nil
}

// capture runs a body in a new scope and returns its output.
func (f *frame) capture(s *scope, body []stmt) (string, error) {
	g := &frame{f.m, s, &strings.Builder{}}
	err := runAll(g, body)
	return g.out.String(), err
}

type dataStmt struct{ text string }

func (s *dataStmt) run(f *frame) error { return f.write(s.text) }

type printStmt struct {
	line int
	e    expr
}

func (s *printStmt) run(f *frame) error {
	v, err := f.eval(s.e)
	if err != nil {
		return at(s.line, err)
	}
	text, err := f.m.str(v)
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, f.write(text))
}

type ifStmt struct {
	line   int
	conds  []expr
	bodies [][]stmt
	other  []stmt
}

func (s *ifStmt) run(f *frame) error {
	for i, c := range s.conds {
		v, err := f.eval(c)
		if err != nil {
			return at(s.line, err)
		}
		if truth(v) {
			return runAll(f, s.bodies[i])
		}
	}
	return runAll(f, s.other)
}

type target struct {
	line  int
	name  string
	parts []target
}

func (t *target) assign(f *frame, s *scope, v any) error {
	if t.parts == nil {
		s.set(t.name, v)
		return nil
	}
	items, err := f.m.iterate(v)
	if err != nil {
		return at(t.line, err)
	}
	if len(items) != len(t.parts) {
		return errAt(t.line, "%d values for %d names", len(items), len(t.parts))
	}
	for i := range t.parts {
		if err := t.parts[i].assign(f, s, items[i]); err != nil {
			return err
		}
	}
	return nil
}

type forStmt struct {
	line        int
	target      target
	iter, cond  expr
	body, other []stmt
	recursive   bool
}

func (s *forStmt) run(f *frame) error {
	v, err := f.eval(s.iter)
	if err != nil {
		return at(s.line, err)
	}
	return s.loop(f, v, 0)
}

func (s *forStmt) loop(f *frame, v any, depth int) error {
	items, err := f.m.iterate(v)
	if err != nil {
		return at(s.line, err)
	}
	if items, err = s.keep(f, items); err != nil {
		return at(s.line, err)
	}
	if len(items) == 0 {
		return runAll(&frame{f.m, f.s.child(), f.out}, s.other)
	}
	loop := &loopVar{items: items, depth: depth}
	if s.recursive {
		loop.again = func(v any, depth int) (any, error) { return s.again(f, v, depth) }
	}
	for i, item := range items {
		if err := f.m.step(loopCost); err != nil {
			return at(s.line, err)
		}
		loop.i = i
		g := &frame{f.m, f.s.child(), f.out}
		g.s.set("loop", loop)
		if err := s.target.assign(g, g.s, item); err != nil {
			return err
		}
		err := runAll(g, s.body)
		if j, ok := err.(*jump); ok {
			if j.brk {
				break
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// again is loop(items) in a recursive loop: the text of the loop over them.
func (s *forStmt) again(f *frame, v any, depth int) (any, error) {
	if depth > maxCalls {
		return nil, f.m.limit(s.line, "the loop calls itself deeper than %d", maxCalls)
	}
	g := &frame{f.m, f.s, &strings.Builder{}}
	err := s.loop(g, v, depth)
	return g.out.String(), firstError(err, f.m.grow(g.out.Len()))
}

// keep filters the items by the loop's own condition.
func (s *forStmt) keep(f *frame, items []any) ([]any, error) {
	if s.cond == nil {
		return items, nil
	}
	var out []any
	for _, item := range items {
		if err := f.m.step(loopCost); err != nil {
			return nil, err
		}
		g := &frame{f.m, f.s.child(), f.out}
		if err := s.target.assign(g, g.s, item); err != nil {
			return nil, err
		}
		v, err := g.eval(s.cond)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			out = append(out, item)
		}
	}
	return out, nil
}

type jumpStmt struct{ brk bool }

func (s *jumpStmt) run(f *frame) error { return &jump{s.brk} }

type setStmt struct {
	line int
	to   target
	e    expr
}

func (s *setStmt) run(f *frame) error {
	v, err := f.eval(s.e)
	if err != nil {
		return at(s.line, err)
	}
	return s.to.assign(f, f.s, v)
}

type setAttrStmt struct {
	line     int
	ns, attr string
	e        expr
}

func (s *setAttrStmt) run(f *frame) error {
	v, err := f.eval(s.e)
	if err != nil {
		return at(s.line, err)
	}
	return s.assign(f, v)
}

func (s *setAttrStmt) assign(f *frame, v any) error {
	o, _ := f.s.get(s.ns)
	ns, ok := o.(*namespace)
	if !ok {
		return errAt(s.line, "cannot assign attribute on non-namespace object")
	}
	ns.vars.Set(s.attr, v)
	return nil
}

// capturedExpr stands for the output of a block that filters are applied to.
type capturedExpr struct{}

const capturedName = " captured"

func (*capturedExpr) eval(f *frame) (any, error) {
	v, _ := f.s.get(capturedName)
	return v, nil
}

type setBlockStmt struct {
	line  int
	to    target
	attr  *setAttrStmt // instead of to: an attribute of a namespace
	value expr         // filters over capturedExpr, or nil
	body  []stmt
}

func (s *setBlockStmt) run(f *frame) error {
	text, err := f.capture(f.s.child(), s.body)
	if err != nil {
		return err
	}
	var v any = text
	if s.value != nil {
		g := &frame{f.m, f.s.child(), f.out}
		g.s.set(capturedName, text)
		if v, err = g.eval(s.value); err != nil {
			return at(s.line, err)
		}
	}
	if s.attr != nil {
		return s.attr.assign(f, v)
	}
	return s.to.assign(f, f.s, v)
}

type filterStmt struct {
	line  int
	value expr
	body  []stmt
}

func (s *filterStmt) run(f *frame) error {
	text, err := f.capture(f.s.child(), s.body)
	if err != nil {
		return err
	}
	g := &frame{f.m, f.s.child(), f.out}
	g.s.set(capturedName, text)
	return (&printStmt{s.line, s.value}).run(g)
}

type withStmt struct {
	line   int
	to     []target
	values []expr
	body   []stmt
}

func (s *withStmt) run(f *frame) error {
	g := &frame{f.m, f.s.child(), f.out}
	for i, e := range s.values {
		v, err := f.eval(e)
		if err != nil {
			return at(s.line, err)
		}
		if err := s.to[i].assign(g, g.s, v); err != nil {
			return err
		}
	}
	return runAll(g, s.body)
}

// generationStmt is transformers' {% generation %}: what the model writes.
type generationStmt struct{ body []stmt }

func (s *generationStmt) run(f *frame) error {
	start := f.out.Len()
	err := runAll(&frame{f.m, f.s.child(), f.out}, s.body)
	if err == nil && f.out == f.m.main {
		f.m.spans = append(f.m.spans, [2]int{start, f.out.Len()})
	}
	return err
}
