package data

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/formats/fail"
)

// Variables of the template are those of all rows, unless a row has its own.
func TestTemplateKwargs(t *testing.T) {
	tmpl, err := chat.Parse("{{ think }} {{ opts.n }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", chat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var o Options
	if err := yaml.Unmarshal([]byte("{datasets: [{path: x}], chat_template_kwargs: {think: no-way, opts: {n: 3}}}"), &o); err != nil {
		t.Fatal(err)
	}
	tok := sharedTokenizer(t, "qwen3")
	const messages = `"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]`
	for row, want := range map[string]string{
		`{` + messages + `}`: "no-way 3<user>q<assistant>a",
		`{` + messages + `,"chat_template_kwargs":{"think":true}}`:       "True 3<user>q<assistant>a",
		`{` + messages + `,"chat_template_kwargs":"{\"think\": false}"}`: "False 3<user>q<assistant>a",
	} {
		_, e, err := chatRow(t, row, o, tmpl)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Decode(e.ids, false); got != want {
			t.Errorf("%s: %q, want %q", row, got, want)
		}
	}
	if text, err := yaml.Marshal(o.TemplateKwargs); err != nil || !strings.Contains(string(text), "think: no-way") || !strings.Contains(string(text), `"n": 3`) {
		t.Errorf("written as %s, %v", text, err)
	}
	for _, bad := range []string{"{chat_template_kwargs: {messages: []}}", "{chat_template_kwargs: {bos_token: x}}"} {
		o := Options{}
		if err := yaml.Unmarshal([]byte(bad), &o); err != nil {
			t.Fatal(err)
		}
		o.Datasets = []Source{{Path: "x"}}
		if err := o.Fill(); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "chat_template_kwargs") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
