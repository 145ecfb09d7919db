package jinja

import (
	"strings"
	"testing"
)

// from_json reads a text, leaves a value that was read before, and says what is none.
func TestFromJSON(t *testing.T) {
	args, err := ParseJSON([]byte(`{"city": "Rome", "n": [1, 2.5, null]}`))
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{"text": `{"city": "Rome", "n": [1, 2.5, null]}`, "args": args, "torn": `{"city": `,
		"bomb": "[" + strings.Repeat("[],", 2_000_000) + "1]"}
	for _, c := range []struct{ src, want, bad string }{
		{src: "{{ (text | from_json).city }} {{ (text | from_json) == args }}", want: "Rome True"},
		{src: "{% for k, v in (args | from_json).items() %}{{ k }}={{ v | tojson }};{% endfor %}", want: `city="Rome";n=[1, 2.5, null];`},
		{src: "{{ '3' | from_json + 1 }}", want: "4"},
		{src: "{{ torn | from_json }}", bad: "from_json: "},
		{src: "{{ none_such | from_json }}", bad: "from_json: the value is undefined"},
		{src: "{{ (bomb | from_json) | length }}", bad: "steps"},
		{src: "{{ text | from_json(1) }}", bad: "from_json"},
	} {
		tmpl, err := Parse(c.src)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := tmpl.Render(vars, Options{})
		switch {
		case c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)):
			t.Errorf("%s: %q, %v, want an error with %q", c.src, got, err, c.bad)
		case c.bad == "" && (err != nil || got != c.want):
			t.Errorf("%s: %q, %v, want %q", c.src, got, err, c.want)
		}
	}
}
