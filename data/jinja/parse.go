package jinja

import (
	"slices"
)

// maxParseDepth bounds how deep expressions and blocks nest.
const maxParseDepth = 200

type parser struct {
	toks  []token
	pos   int
	depth int
	loops int
}

// fail aborts parsing; parse recovers it.
func (p *parser) fail(line int, format string, args ...any) { panic(errAt(line, format, args...)) }

func parse(src string) (body []stmt, err error) {
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	body, _ = p.body()
	return body, nil
}

func (p *parser) cur() token { return p.toks[p.pos] }

func (p *parser) peek() token { return p.toks[min(p.pos+1, len(p.toks)-1)] }

func (p *parser) next() token {
	t := p.toks[p.pos]
	if p.pos < len(p.toks)-1 {
		p.pos++
	}
	return t
}

func (p *parser) isOp(op string) bool {
	t := p.cur()
	return t.kind == tokOp && t.text == op
}

func (p *parser) isName(name string) bool {
	t := p.cur()
	return t.kind == tokName && t.text == name
}

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.next()
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.next()
		return true
	}
	return false
}

func (p *parser) needOp(op string) {
	if !p.skipOp(op) {
		p.fail(p.cur().line, "expected %q, found %s", op, p.cur())
	}
}

func (p *parser) need(kind tokKind, what string) token {
	if p.cur().kind != kind {
		p.fail(p.cur().line, "expected %s, found %s", what, p.cur())
	}
	return p.next()
}

func (p *parser) enter() {
	if p.depth++; p.depth > maxParseDepth {
		p.fail(p.cur().line, "nested deeper than %d", maxParseDepth)
	}
}

func (p *parser) leave() { p.depth-- }

// body parses up to one of the end tags, whose name it has then passed, or up
// to the end of the template where there are none.
func (p *parser) body(ends ...string) ([]stmt, string) {
	p.enter()
	defer p.leave()
	var out []stmt
	for {
		t := p.next()
		switch t.kind {
		case tokEOF:
			if len(ends) > 0 {
				p.fail(t.line, "the template ends where %v is missing", ends)
			}
			return out, ""
		case tokData:
			out = append(out, &dataStmt{t.text})
		case tokVarBegin:
			e := p.tuple(true, nil)
			p.need(tokVarEnd, "}}")
			out = append(out, &printStmt{t.line, e})
		case tokBlockBegin:
			name := p.need(tokName, "a tag's name")
			if slices.Contains(ends, name.text) {
				return out, name.text
			}
			out = append(out, p.block(name))
		}
	}
}

func (p *parser) blockEnd() { p.need(tokBlockEnd, "%}") }

func (p *parser) block(t token) stmt {
	switch t.text {
	case "if":
		return p.ifBlock(t.line)
	case "for":
		return p.forBlock(t.line)
	case "set":
		return p.setBlock(t.line)
	case "macro":
		return p.macroBlock(t.line)
	case "call":
		return p.callBlock(t.line)
	case "filter":
		return p.filterBlock(t.line)
	case "with":
		return p.withBlock(t.line)
	case "generation":
		p.blockEnd()
		body, _ := p.body("endgeneration")
		p.blockEnd()
		return &generationStmt{body}
	case "break", "continue":
		if p.loops == 0 {
			p.fail(t.line, "%s outside a loop", t.text)
		}
		p.blockEnd()
		return &jumpStmt{t.text == "break"}
	}
	p.fail(t.line, "unknown tag %q (known: break, call, continue, filter, for, generation, if, macro, raw, set, with)", t.text)
	return nil
}

func (p *parser) ifBlock(line int) stmt {
	s := &ifStmt{line: line}
	for {
		cond := p.tupleNoCond()
		p.blockEnd()
		body, end := p.body("elif", "else", "endif")
		s.conds, s.bodies = append(s.conds, cond), append(s.bodies, body)
		if end == "elif" {
			continue
		}
		if end == "else" {
			p.blockEnd()
			s.other, _ = p.body("endif")
		}
		p.blockEnd()
		return s
	}
}

// tupleNoCond is the condition of an if: a tuple without a conditional
// expression.
func (p *parser) tupleNoCond() expr { return p.tupleWith(p.or, true, nil) }

func (p *parser) forBlock(line int) stmt {
	s := &forStmt{line: line, target: p.target("in")}
	if !p.skipName("in") {
		p.fail(line, "expected in, found %s", p.cur())
	}
	s.iter = p.tupleWith(p.or, true, []string{"recursive"})
	if p.skipName("if") {
		s.cond = p.expression()
	}
	s.recursive = p.skipName("recursive")
	p.blockEnd()
	p.loops++
	body, end := p.body("endfor", "else")
	p.loops--
	s.body = body
	if end == "else" {
		p.blockEnd()
		s.other, _ = p.body("endfor")
	}
	p.blockEnd()
	return s
}

// target parses what a for or set assigns to: names, or tuples of them.
func (p *parser) target(end string) target {
	var names []target
	isTuple := false
	for {
		if p.isOp("(") {
			p.enter()
			p.next()
			names = append(names, p.target(""))
			p.needOp(")")
			p.leave()
		} else {
			t := p.need(tokName, "a name to assign to")
			if _, reserved := constants[t.text]; reserved {
				p.fail(t.line, "cannot assign to %s", t.text)
			}
			names = append(names, target{line: t.line, name: t.text})
		}
		if !p.skipOp(",") {
			break
		}
		isTuple = true
		if p.cur().kind != tokName && !p.isOp("(") || end != "" && p.isName(end) {
			break
		}
	}
	if len(names) == 1 && !isTuple {
		return names[0]
	}
	return target{line: names[0].line, parts: names}
}

func (p *parser) setBlock(line int) stmt {
	s := &setBlockStmt{line: line}
	if n := p.peek(); n.kind == tokOp && n.text == "." {
		ns := p.next().text
		p.next()
		s.attr = &setAttrStmt{line: line, ns: ns, attr: p.need(tokName, "an attribute").text}
	} else {
		s.to = p.target("")
	}
	if p.skipOp("=") {
		e := p.tuple(true, nil)
		p.blockEnd()
		if s.attr != nil {
			s.attr.e = e
			return s.attr
		}
		return &setStmt{line, s.to, e}
	}
	if p.isOp("|") {
		s.value = p.filters(&capturedExpr{})
	}
	p.blockEnd()
	s.body, _ = p.body("endset")
	p.blockEnd()
	return s
}

// signature parses the parameters of a macro or a call block.
func (p *parser) signature() (params []param) {
	p.needOp("(")
	for !p.isOp(")") {
		if len(params) > 0 {
			p.needOp(",")
		}
		q := param{name: p.need(tokName, "a parameter").text}
		if p.skipOp("=") {
			q.value = p.expression()
		} else if len(params) > 0 && params[len(params)-1].value != nil {
			p.fail(p.cur().line, "parameter %s without a default follows one with", q.name)
		}
		params = append(params, q)
	}
	p.needOp(")")
	return params
}

func (p *parser) macroBlock(line int) stmt {
	m := &macroDef{line: line, name: p.need(tokName, "a macro's name").text}
	m.params = p.signature()
	p.blockEnd()
	m.body = p.unlooped(m, "endmacro")
	return &macroStmt{m}
}

// unlooped parses a macro's body, in which break has no loop to end, and notes
// whether it takes arguments beyond its parameters.
func (p *parser) unlooped(m *macroDef, end string) []stmt {
	loops, first := p.loops, p.pos
	p.loops = 0
	body, _ := p.body(end)
	p.loops = loops
	for i, t := range p.toks[first:p.pos] {
		if before := p.toks[max(first+i-1, 0)]; t.kind != tokName || before.kind == tokOp && before.text == "." {
			continue
		}
		m.varargs = m.varargs || t.text == "varargs"
		m.kwargs = m.kwargs || t.text == "kwargs"
		m.caller = m.caller || t.text == "caller"
	}
	p.blockEnd()
	return body
}

func (p *parser) callBlock(line int) stmt {
	m := &macroDef{line: line, name: "caller"}
	if p.isOp("(") {
		m.params = p.signature()
	}
	e := p.expression()
	call, ok := e.(*callExpr)
	if !ok {
		p.fail(line, "expected a call")
	}
	p.blockEnd()
	m.body = p.unlooped(m, "endcall")
	return &callStmt{line, call, m}
}

func (p *parser) filterBlock(line int) stmt {
	e := p.filterChain(&capturedExpr{})
	p.blockEnd()
	body, _ := p.body("endfilter")
	p.blockEnd()
	return &filterStmt{line, e, body}
}

func (p *parser) withBlock(line int) stmt {
	s := &withStmt{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(s.to) > 0 {
			p.needOp(",")
		}
		s.to = append(s.to, p.target(""))
		p.needOp("=")
		s.values = append(s.values, p.expression())
	}
	p.blockEnd()
	s.body, _ = p.body("endwith")
	p.blockEnd()
	return s
}
