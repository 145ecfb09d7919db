package jinja

import (
	"math"
	"slices"
	"strconv"
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
	if n := p.peek(); n.kind == tokOp && n.text == "." {
		return p.setAttr(line)
	}
	to := p.target("")
	if p.skipOp("=") {
		e := p.tuple(true, nil)
		p.blockEnd()
		return &setStmt{line, to, e}
	}
	s := &setBlockStmt{line: line, to: to}
	if p.isOp("|") {
		s.value = p.filters(&capturedExpr{})
	}
	p.blockEnd()
	s.body, _ = p.body("endset")
	p.blockEnd()
	return s
}

func (p *parser) setAttr(line int) stmt {
	ns := p.next().text
	p.next()
	attr := p.need(tokName, "an attribute").text
	p.needOp("=")
	e := p.tuple(true, nil)
	p.blockEnd()
	return &setAttrStmt{line, ns, attr, e}
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
	for _, t := range p.toks[first:p.pos] {
		m.varargs = m.varargs || t.kind == tokName && t.text == "varargs"
		m.kwargs = m.kwargs || t.kind == tokName && t.text == "kwargs"
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

func (p *parser) expression() expr {
	p.enter()
	defer p.leave()
	e := p.or()
	for p.skipName("if") {
		c := &condExpr{yes: e, cond: p.or()}
		if p.skipName("else") {
			c.no = p.expression()
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	left := p.and()
	for p.skipName("or") {
		left = &logicExpr{left, p.and(), true}
	}
	return left
}

func (p *parser) and() expr {
	left := p.not()
	for p.skipName("and") {
		left = &logicExpr{left, p.not(), false}
	}
	return left
}

func (p *parser) not() expr {
	if p.isName("not") {
		p.enter()
		defer p.leave()
		p.next()
		return &notExpr{p.not()}
	}
	return p.compare()
}

var compareOps = []string{"==", "!=", "<", "<=", ">", ">="}

func (p *parser) compare() expr {
	first := p.sum()
	c := &compareExpr{line: p.cur().line, first: first}
	for {
		t := p.cur()
		op := ""
		switch {
		case t.kind == tokOp && slices.Contains(compareOps, t.text):
			op = t.text
			p.next()
		case p.skipName("in"):
			op = "in"
		case p.isName("not") && p.peek().kind == tokName && p.peek().text == "in":
			p.next()
			p.next()
			op = "not in"
		}
		if op == "" {
			break
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, p.sum())
	}
	if c.ops == nil {
		return first
	}
	return c
}

// binary parses operands of a higher level joined by operators.
func (p *parser) binary(operand func() expr, ops ...string) expr {
	left := operand()
	for p.cur().kind == tokOp && slices.Contains(ops, p.cur().text) {
		t := p.next()
		left = &binaryExpr{t.line, t.text, left, operand()}
	}
	return left
}

func (p *parser) sum() expr    { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() expr { return p.binary(p.product, "~") }
func (p *parser) product() expr {
	return p.binary(p.power, "*", "/", "//", "%")
}
func (p *parser) power() expr { return p.binary(func() expr { return p.unary(true) }, "**") }

func (p *parser) unary(withFilter bool) expr {
	p.enter()
	defer p.leave()
	var e expr
	if t := p.cur(); p.isOp("-") || p.isOp("+") {
		p.next()
		e = &signExpr{t.line, t.text == "-", p.unary(false)}
	} else {
		e = p.primary()
	}
	e = p.postfix(e)
	if withFilter {
		e = p.filters(e)
	}
	return e
}

var constants = map[string]any{"true": true, "True": true, "false": false, "False": false, "none": nil, "None": nil}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case tokName:
		if v, ok := constants[t.text]; ok {
			return &constExpr{v}
		}
		return &nameExpr{t.line, t.text}
	case tokString:
		s := t.text
		for p.cur().kind == tokString {
			s += p.next().text
		}
		return &constExpr{s}
	case tokInt:
		n, err := strconv.ParseInt(t.text, 0, 64)
		if err != nil {
			p.fail(t.line, "the number %s is too large", t.text)
		}
		return &constExpr{n}
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil || math.IsInf(f, 0) {
			p.fail(t.line, "the number %s is too large", t.text)
		}
		return &constExpr{f}
	}
	switch {
	case t.kind == tokOp && t.text == "(":
		e := p.tuple(false, nil)
		p.needOp(")")
		return e
	case t.kind == tokOp && t.text == "[":
		return p.listLit()
	case t.kind == tokOp && t.text == "{":
		return p.dictLit()
	}
	p.fail(t.line, "unexpected %s", t)
	return nil
}

func (p *parser) listLit() expr {
	l := &listExpr{}
	for !p.isOp("]") {
		if len(l.items) > 0 {
			p.needOp(",")
			if p.isOp("]") {
				break
			}
		}
		l.items = append(l.items, p.expression())
	}
	p.needOp("]")
	return l
}

func (p *parser) dictLit() expr {
	d := &dictExpr{line: p.cur().line}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			p.needOp(",")
			if p.isOp("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.needOp(":")
		d.vals = append(d.vals, p.expression())
	}
	p.needOp("}")
	return d
}

// tuple parses expressions with commas between them. bare is outside
// parentheses, where at least one is required.
func (p *parser) tuple(bare bool, stop []string) expr { return p.tupleWith(p.expression, bare, stop) }

func (p *parser) tupleWith(item func() expr, bare bool, stop []string) expr {
	var items []expr
	isTuple := false
	for {
		if len(items) > 0 && !p.skipOp(",") {
			break
		}
		isTuple = isTuple || len(items) > 0
		if t := p.cur(); t.kind == tokVarEnd || t.kind == tokBlockEnd || p.isOp(")") ||
			t.kind == tokName && slices.Contains(stop, t.text) {
			break
		}
		items = append(items, item())
	}
	if len(items) == 1 && !isTuple {
		return items[0]
	}
	if len(items) == 0 && bare {
		p.fail(p.cur().line, "expected an expression, found %s", p.cur())
	}
	return &listExpr{items, true}
}

func (p *parser) postfix(e expr) expr {
	for {
		switch {
		case p.isOp("."), p.isOp("["):
			e = p.subscript(e)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) subscript(e expr) expr {
	t := p.next()
	if t.text == "." {
		a := p.next()
		switch a.kind {
		case tokName:
			return &attrExpr{t.line, e, a.text}
		case tokInt:
			n, _ := strconv.ParseInt(a.text, 10, 64)
			return &indexExpr{t.line, e, &constExpr{n}}
		}
		p.fail(a.line, "expected a name or a number after the dot, found %s", a)
	}
	var args []expr
	for !p.isOp("]") {
		if len(args) > 0 {
			p.needOp(",")
		}
		args = append(args, p.sliceArg())
	}
	p.needOp("]")
	switch {
	case len(args) == 0:
		p.fail(t.line, "expected an index")
	case len(args) > 1:
		return &indexExpr{t.line, e, &listExpr{args, true}}
	}
	return &indexExpr{t.line, e, args[0]}
}

func (p *parser) sliceArg() expr {
	s := &sliceExpr{}
	colons := 0
	for !p.isOp("]") && !p.isOp(",") {
		if p.skipOp(":") {
			if colons++; colons > 2 {
				p.fail(p.cur().line, "a slice has at most three parts")
			}
			continue
		}
		if s.parts[colons] != nil {
			p.fail(p.cur().line, "expected ] or :, found %s", p.cur())
		}
		s.parts[colons] = p.expression()
	}
	if colons == 0 {
		if s.parts[0] == nil {
			p.fail(p.cur().line, "expected an index")
		}
		return s.parts[0]
	}
	return s
}

// args parses call arguments in parentheses.
func (p *parser) args() (a argList) {
	p.needOp("(")
	first := true
	for !p.isOp(")") {
		if !first {
			p.needOp(",")
			if p.isOp(")") {
				break
			}
		}
		first = false
		switch {
		case p.skipOp("*"):
			a.star = p.one(a.star, "*")
		case p.skipOp("**"):
			a.starstar = p.one(a.starstar, "**")
		case p.cur().kind == tokName && p.peek().kind == tokOp && p.peek().text == "=":
			a.names = append(a.names, p.next().text)
			p.next()
			a.named = append(a.named, p.expression())
		default:
			if len(a.names) > 0 || a.starstar != nil {
				p.fail(p.cur().line, "a positional argument follows a named one")
			}
			a.pos = append(a.pos, p.expression())
		}
	}
	p.needOp(")")
	return a
}

func (p *parser) one(have expr, what string) expr {
	if have != nil {
		p.fail(p.cur().line, "more than one %s argument", what)
	}
	return p.expression()
}

func (p *parser) call(e expr) expr { return &callExpr{p.cur().line, e, p.args()} }

// filters parses filters, tests and calls after an expression.
func (p *parser) filters(e expr) expr {
	for {
		switch {
		case p.skipOp("|"):
			e = p.filter(e)
		case p.skipName("is"):
			e = p.test(e)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

// filterChain parses the filters of a filter block, the first without its |.
func (p *parser) filterChain(e expr) expr {
	e = p.filter(e)
	for p.skipOp("|") {
		e = p.filter(e)
	}
	return e
}

func (p *parser) dotted() token {
	t := p.need(tokName, "a name")
	for p.isOp(".") {
		p.next()
		t.text += "." + p.need(tokName, "a name").text
	}
	return t
}

func (p *parser) filter(e expr) expr {
	t := p.dotted()
	f := filterNamed(t.text)
	if f == nil {
		p.fail(t.line, "unknown filter %q", t.text)
	}
	x := &filterExpr{line: t.line, name: t.text, f: f, of: e}
	if p.isOp("(") {
		x.args = p.args()
	}
	return x
}

func (p *parser) test(e expr) expr {
	negated := p.skipName("not")
	t := p.dotted()
	f := testNamed(t.text)
	if f == nil {
		p.fail(t.line, "unknown test %q", t.text)
	}
	x := &testExpr{line: t.line, name: t.text, f: f, of: e}
	switch c := p.cur(); {
	case p.isOp("("):
		x.args = p.args()
	case c.kind == tokString, c.kind == tokInt, c.kind == tokFloat, p.isOp("["), p.isOp("{"),
		c.kind == tokName && c.text != "else" && c.text != "or" && c.text != "and":
		if c.kind == tokName && c.text == "is" {
			p.fail(c.line, "tests cannot be chained with is")
		}
		x.args.pos = []expr{p.postfix(p.primary())}
	}
	if negated {
		return &notExpr{x}
	}
	return x
}
