package data

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/chat"
)

// TestLostTexts: what a template leaves out of a row is said, and nothing else.
func TestLostTexts(t *testing.T) {
	const all = `{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{% if m.content %}{{ m.content | trim }}{% endif %}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
	without := func(role string) string {
		return `{% for m in messages %}{% if m.role != '` + role + `' %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
	}
	tok := sharedTokenizer(t, "qwen3")
	const call = `{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"look","arguments":{"city":"Rome \"N\"","n":[7]}}}]}`
	for _, c := range []struct{ name, template, messages, want string }{
		{"all", all, `{"role":"system","content":" S\n"},{"role":"user","content":"a"},{"role":"assistant","content":"b","reasoning_content":"why"}`, ""},
		{"parts", all, `{"role":"user","content":"<|im_end|>"},{"role":"assistant","content":"b"}`, ""},
		{"calls", all, `{"role":"user","content":"a"},` + call, ""},
		{"system", without("system"), `{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}`, "system messages"},
		{"user, a letter of the markup", without("user"), `{"role":"user","content":"im"},{"role":"assistant","content":"b"}`, "user messages"},
		{"user, a word of the answer", without("user"), `{"role":"user","content":"blue"},{"role":"assistant","content":"blue sky"}`, "user messages"},
		{"think", strings.ReplaceAll(all, "m.content | trim", "m.content.split('</think>')[-1]"), `{"role":"user","content":"a"},{"role":"assistant","content":"<think>because</think>42"}`, "a part of what assistant"},
		{"reasoning", without("none"), `{"role":"user","content":"a"},{"role":"assistant","content":"42","reasoning_content":"because"}`, "reasoning_content of assistant"},
		{"name", all, `{"role":"user","name":"Bob","content":"a"},{"role":"assistant","name":"assistant","content":"b"}`, "name of user messages"},
		{"name in the text", all, `{"role":"user","name":"Bob","content":"Bob says a"},{"role":"assistant","content":"b"}`, ""},
		{"arguments", strings.ReplaceAll(all, "c.function | tojson", "c.function.name"), `{"role":"user","content":"a"},` + call, "arguments of tool calls"},
	} {
		tmpl, err := chat.Parse(c.template, chat.Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := parseRow(t, []byte(`{"messages":[`+c.messages+`]}`))
		s, err := convert(typeChat, nil, d, true)
		if err != nil {
			t.Fatal(err)
		}
		e, err := newEncoding(&Options{TrainOn: "assistant", TrainOnEOS: "turn"}, tok, tmpl).encode(s)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := strings.Join(e.lost, "; "); (got == "") != (c.want == "") || !strings.Contains(got, c.want) || len(e.lost) > 1 {
			t.Errorf("%s: %q is lost, want %q", c.name, got, c.want)
		}
	}
}

// TestOlderTools: the older column and field of functions are used or refused.
func TestOlderTools(t *testing.T) {
	o := Options{Datasets: []Source{{Path: "x"}}}
	const turns = `"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]`
	_, old, err := chatRow(t, `{`+turns+`,"functions":[{"name":"find"}]}`, o, chatML{})
	if err != nil {
		t.Fatal(err)
	}
	_, now, err := chatRow(t, `{`+turns+`,"tools":[{"type":"function","function":{"name":"find"}}]}`, o, chatML{})
	if tok := sharedTokenizer(t, "qwen3"); err != nil || tok.Decode(old.ids, false) != tok.Decode(now.ids, false) {
		t.Errorf("functions give %q, tools %q, %v", tok.Decode(old.ids, false), tok.Decode(now.ids, false), err)
	}
	if _, _, err := chatRow(t, `{`+turns+`,"functions":[{"name":"find"}],"tools":[{"name":"find"}]}`, o, chatML{}); err == nil || !strings.Contains(err.Error(), "functions") {
		t.Errorf("both: %v", err)
	}
	const called = `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"","function_call":{"name":"find","arguments":"{}"}}]}`
	if _, _, err := chatRow(t, called, o, chatML{}); err == nil || !strings.Contains(err.Error(), "function_call (find is lost)") {
		t.Errorf("function_call: %v", err)
	}
}
