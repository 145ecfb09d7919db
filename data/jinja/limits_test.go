package jinja

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Templates that would run for ever, or take all memory, or leave the sandbox.
func TestHostile(t *testing.T) {
	deep := func(open, end string, n int) string { return strings.Repeat(open, n) + "1" + strings.Repeat(end, n) }
	for name, src := range map[string]string{
		"long range":        "{% for i in range(10**9) %}{% endfor %}",
		"nested loops":      "{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}",
		"growing namespace": "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
		"growing text":      "{% set ns = namespace(x='ab') %}{% for i in range(99999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
		"macro recursion":   "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"mutual recursion":  "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
		"loop recursion":    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"parentheses":       "{{ " + deep("(", ")", 60000) + " }}",
		"lists":             "{{ " + deep("[", "]", 60000) + " }}",
		"nots":              "{{ " + strings.Repeat("not ", 60000) + "1 }}",
		"signs":             "{{ " + strings.Repeat("- ", 60000) + "1 }}",
		"ifs":               strings.Repeat("{% if 1 %}", 60000),
		"sum":               "{{ 1" + strings.Repeat("+1", 60000) + " }}",
		"filters":           "{{ 1" + strings.Repeat("|abs", 60000) + " }}",
		"attributes":        "{{ x" + strings.Repeat(".y", 60000) + " }}",
		"elses":             "{{ 1" + strings.Repeat(" if 0 else 1", 60000) + " }}",
		"repeat text":       "{{ '-' * 10**10 }}",
		"repeat list":       "{{ [1] * 10**10 }}",
		"center":            "{{ 'a' | center(10**10) }}",
		"ljust":             "{{ 'a'.ljust(10**10) }}",
		"indent":            "{{ 'a\nb' | indent(10**10) }}",
		"json indent":       "{{ [1] | tojson(indent=10**9) }}",
		"replace":           "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}",
		"replace nothing":   "{{ ('a' * 9999999).replace('', 'b' * 999) }}",
		"join":              "{{ range(99999) | join('x' * 99999) }}",
		"format":            "{{ '%999999999d' % 1 }}",
		"power":             "{{ 2**2**2**30 }}",
		"overflow":          "{{ 9223372036854775807 + 1 }}",
		"shift":             "{{ 9223372036854775807 * 3 }}",
		"least":             "{{ (-9223372036854775807 - 1) // -1 }}",
		"zero":              "{{ 1 // 0 }}",
		"modulo zero":       "{{ 1.5 % 0 }}",
		"slice step":        "{{ 'abc'[::0] }}",
		"classes":           "{{ ''.__class__.__mro__[1].__subclasses__() }}",
		"globals":           "{{ cycler('a').__init__.__globals__ }}",
		"attr filter":       "{{ ''|attr('__class__') }}",
		"import":            "{% import 'x' as y %}",
		"include":           "{% include '/etc/passwd' %}",
		"extends":           "{% extends 'x' %}",
		"self containing":   "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x.x.y }}",
		"batches":           "{{ [1] | batch(10**12, 'x') | list | tojson | length + '' }}",
		"unclosed":          "{{ 'x",
		"unclosed block":    "{% if 1 %}",
		"lone end":          "{% endif %}",
		"break outside":     "{% break %}",
		"macro break":       "{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
		"no clock":          "{{ strftime_now('%Y') }}",
		"too long":          strings.Repeat(" ", maxSource+1),
	} {
		t.Run(name, func(t *testing.T) {
			tmpl, err := Parse(src)
			if err == nil {
				_, _, err = tmpl.Render(map[string]any{"x": NewDict()}, Options{})
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("no error but %v", err)
			}
		})
	}
}

// Looking through long texts and lists costs steps by their length, so that it comes
// to an end.
func TestLongReads(t *testing.T) {
	const size = 1 << 16
	text := strings.Repeat("a", size)
	list := make([]any, size/64)
	vars := map[string]any{"s": text, "t": text, "w": strings.Repeat("a ", size/2), "l": list, "d": NewDict(text, int64(1)), "e": NewDict(text, int64(1))}
	for _, look := range []string{"s.find('b')", "s.count('b')", "'b' in s", "s == t", "s < t", "s[-1]", "s[0:1]", "s[9999999]", "s|length", "s|truncate(3)", "s|wordcount", "w|wordcount",
		"s.startswith(t)", "s is lower", "s is eq t", "l.index(0)", "l.count(0)", "1 in l", "d[s]", "s in d", "d.get(s)", "[s]|map('length')|list", "[s]|select('eq', t)|list", "d == e"} {
		tmpl, err := Parse("{% set x = " + look + " %}")
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{o: &Options{}, main: &strings.Builder{}}
		f := &frame{m, (&scope{vars: m.globals()}).child(), m.main}
		for k, v := range vars {
			f.s.set(k, v)
		}
		_ = runAll(f, tmpl.body) // what is not found is an error, and has been looked for
		if m.steps < size/64 {
			t.Errorf("%s: %d steps for %d bytes", look, m.steps, size)
		}
	}
	tmpl, err := Parse("{% for i in range(200) %}{% if 'x' in s or s.find('y') >= 0 or s.startswith('z') or s == '' %}bad{% endif %}{% endfor %}ok")
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := tmpl.Render(map[string]any{"s": strings.Repeat("a", 200_000)}, Options{}); err != nil || out != "ok" {
		t.Errorf("hundreds of looks at a long message: %q, %v", out, err)
	}
}

// What users write is data: it is never run as a template.
func TestContentIsData(t *testing.T) {
	tmpl, err := Parse("{{ x }}{% set y %}{{ x }}{% endset %}{{ y }}")
	if err != nil {
		t.Fatal(err)
	}
	const evil = "{{ 1/0 }}{% raw %}"
	got, _, err := tmpl.Render(map[string]any{"x": evil}, Options{})
	if err != nil || got != evil+evil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestGenerationSpans(t *testing.T) {
	tmpl, err := Parse("{% for m in l %}<{% generation %}{{ m }}!{% endgeneration %}>{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	got, spans, err := tmpl.Render(map[string]any{"l": []any{"é", "bc"}}, Options{})
	if err != nil || got != "<é!><bc!>" || len(spans) != 2 || spans[0] != [2]int{1, 4} || spans[1] != [2]int{6, 9} {
		t.Errorf("%q %v %v", got, spans, err)
	}
}

// TestLargeWhole: whole numbers that Python holds and we cannot are errors, not others.
func TestLargeWhole(t *testing.T) {
	for _, src := range []string{"{{ '1e30' | int }}", "{{ '-1e19' | int }}", "{{ 1e30 | int }}", "{{ '99999999999999999999' | int }}", "{{ n | float }}"} {
		tmpl, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := tmpl.Render(map[string]any{"n": BigInt(strings.Repeat("9", 400))}, Options{})
		if err == nil || !strings.Contains(err.Error(), errOverflow.Error()) {
			t.Errorf("%s: %q, %v", src, got, err)
		}
	}
}

// FuzzTemplate: whatever the template, parsing and rendering end, without a
// panic, in a text or an *Error.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		"{% for m in messages %}{{ m['role'] + m.content }}{% endfor %}",
		"{{ messages | selectattr('role', 'eq', 'user') | map(attribute='content') | join(', ') | upper }}",
		"{% macro m(a, b=2) %}{{ a ~ b ~ varargs ~ kwargs }}{% endmacro %}{{ m(1, *[2, 3], **{'c': 4}) }}",
		"{% set ns = namespace(i=0) %}{%- for x in 'abc' if x != 'b' -%}{% set ns.i = ns.i + loop.index %}{%- endfor %}{{ ns.i // 2 ** 3 }}",
		"{{ {'a': [1, none, 2.5]} | tojson(indent=2) }}{# c #}{% raw %}{{ }}{% endraw %}{{ 'a\\n%s' % 1 }}",
		"{% call(x) m(1) %}{{ x }}{% endcall %}{% filter trim %} x {% endfilter %}{% with a = 1, b = 2 %}{{ a < b <= 3 }}{% endwith %}",
		"{% generation %}{{ messages[-1]['content'][::-1].split('a')[0].strip() }}{% endgeneration %}",
		"{{ ('[1, {\"a\": null}]' | from_json)[1].a }}{% for k, v in (messages | from_json | first).items() %}{{ k }}{% endfor %}",
	} {
		f.Add(s)
	}
	vars := map[string]any{"messages": []any{NewDict("role", "user", "content", "Hallo"), NewDict("role", "assistant", "content", nil)}, "n": int64(7)}
	f.Fuzz(func(t *testing.T, src string) {
		tmpl, err := Parse(src)
		if err == nil {
			_, _, err = tmpl.Render(vars, Options{Now: time.Unix(0, 0)})
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
