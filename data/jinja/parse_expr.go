package jinja

import (
	"math"
	"slices"
	"strconv"
)

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
	x := &filterExpr{applied{line: t.line, name: t.text, of: e}, f}
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
	x := &testExpr{applied{line: t.line, name: t.text, of: e}, f}
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
