package chat

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// trlSet is one tokenizer and template of golden/train/sft, prepared by TRL.
type trlSet struct {
	Tokenizer string
	EOS, BOS  string
	Added     []string `json:"added_special_tokens"`
	Template  string   `json:"chat_template"`
	Training  string   `json:"training_chat_template"`
}

type trlRow struct {
	Type      string
	Row       int
	Text      string
	TextError string  `json:"text_error"`
	InputIDs  []int32 `json:"input_ids"`
	Prompt    string  `json:"prompt_text"`
	Assistant struct {
		InputIDs   []int32 `json:"input_ids"`
		Supervised [][2]int
	}
}

var trlNames = []string{"qwen2.5", "qwen3", "llama3", "gemma3", "mistral-nemo", "phi3.5", "deepseek-r1-distill", "smollm2", "smollm2-gen"}

func trlGoldens(t testing.TB, name string) (set trlSet, rows []trlRow) {
	t.Helper()
	dir := testdir.Shared(t, "golden/train/sft")
	meta, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Sets map[string]trlSet }
	if err := json.Unmarshal(meta, &all); err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Split(bytes.TrimSpace(testdir.ReadFile(t, filepath.Join(dir, name+".jsonl"))), []byte("\n")) {
		var r trlRow
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return all.Sets[name], rows
}

// trlInput is the conversation of a row of inputs.json.
func trlInput(t testing.TB, inputs *jinja.Dict, r trlRow) Conversation {
	t.Helper()
	v, _ := inputs.Get(r.Type)
	row := v.([]any)[r.Row].(*jinja.Dict)
	var c Conversation
	for _, key := range []string{"messages", "prompt", "completion"} {
		v, _ := row.Get(key)
		list, _ := v.([]any)
		for _, m := range list {
			c.Messages = append(c.Messages, Message{m.(*jinja.Dict)})
		}
	}
	c.Tools, _ = row.Get("tools")
	return c
}

func trlInputs(t testing.TB) *jinja.Dict {
	t.Helper()
	raw, err := os.ReadFile(testdir.Shared(t, "golden/train/sft/inputs.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jinja.ParseJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v.(*jinja.Dict)
}

func trlTokenizer(t testing.TB, set trlSet) *tokenizer.Tokenizer {
	t.Helper()
	if set.Tokenizer == "smollm2" {
		if path := testdir.SmolLM2(); path != "" {
			return openGGUF(t, path)
		}
		return nil
	}
	if len(set.Added) > 0 {
		return nil // these sets add tokens to a tokenizer that is not theirs
	}
	return sharedTokenizer(t, set.Tokenizer)
}

// TRL's rendered text and ids of 60 conversations for each of nine templates.
func TestChatRender(t *testing.T) {
	inputs := trlInputs(t)
	for _, name := range trlNames {
		t.Run(name, func(t *testing.T) {
			set, rows := trlGoldens(t, "chat-"+name)
			tmpl, err := Parse(set.Template, Options{BOS: set.BOS, EOS: set.EOS})
			if err != nil {
				t.Fatal(err)
			}
			tok := trlTokenizer(t, set)
			for _, r := range rows {
				got, err := tmpl.Render(trlInput(t, inputs, r), false)
				if r.TextError != "" {
					if err == nil {
						t.Errorf("%s %d rendered, want %s", r.Type, r.Row, r.TextError)
					}
					continue
				}
				if err != nil || got != r.Text {
					t.Errorf("%s %d: %v\n got %q\nwant %q", r.Type, r.Row, err, got, r.Text)
				} else if tok != nil && !otherIDs(set, r) && !slices.Equal(tok.Encode(got, false), r.InputIDs) {
					t.Errorf("%s %d: other ids", r.Type, r.Row)
				}
			}
		})
	}
}

// otherIDs lists rows whose ids Transformers 5 makes otherwise than the
// tokenizer's own file says: its LlamaTokenizer rebuilds the pre-tokenizer and
// writes ▁ only before the first piece, and its reader of GGUF does not take ½
// for a digit.
func otherIDs(set trlSet, r trlRow) bool {
	return set.Tokenizer == "llama2" || set.Tokenizer == "smollm2" && strings.Contains(r.Text, "½")
}

// What TRL supervises with its hand-made training templates, we find from the
// models' own templates: the same tokens, but for the newline after the
// end-of-turn token and, for Qwen2.5, the one before the answer, which end the
// generation prompt and which TRL supervises (with SmolLM2 in row 18, where one
// token holds that newline and the answer's first).
func TestChatSpans(t *testing.T) {
	inputs := trlInputs(t)
	for _, name := range []string{"qwen2.5", "qwen3", "llama3", "gemma3", "smollm2-gen"} {
		t.Run(name, func(t *testing.T) {
			set, rows := trlGoldens(t, "chat-"+name)
			tok := trlTokenizer(t, set)
			if tok == nil {
				t.Skip("needs SmolLM2: make smollm2 fetches it")
			}
			tmpl, err := Parse(set.Template, Options{BOS: set.BOS, EOS: set.EOS})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.TextError != "" || r.Assistant.InputIDs != nil {
					continue // refused, or TRL's template changes the tokens
				}
				text, spans, err := tmpl.Spans(trlInput(t, inputs, r))
				if err != nil {
					t.Errorf("%s %d: %v", r.Type, r.Row, err)
					continue
				}
				got, want := supervised(t, tok, text, spans), trlSupervised(tok, r, name == "qwen2.5" || name == "smollm2-gen" && r.Row == 18 && r.Type == "messages")
				if !slices.Equal(got, want) {
					t.Errorf("%s %d: supervised\n got %q\nwant %q", r.Type, r.Row, got, want)
				}
			}
		})
	}
}

// supervised lists the decoded text of each span, checking that ids fall on its
// borders.
func supervised(t *testing.T, tok *tokenizer.Tokenizer, text string, spans [][2]int) (out []string) {
	t.Helper()
	for _, s := range spans {
		out = append(out, text[s[0]:s[1]])
		ids := slices.Concat(tok.Encode(text[:s[0]], false), tok.Encode(text[s[0]:s[1]], false), tok.Encode(text[s[1]:], false))
		if !slices.Equal(ids, tok.Encode(text, false)) {
			t.Logf("a token straddles the border of %q", text[s[0]:s[1]])
		}
	}
	return out
}

func trlSupervised(tok *tokenizer.Tokenizer, r trlRow, newline bool) (out []string) {
	for _, s := range r.Assistant.Supervised {
		text := tok.Decode(r.InputIDs[s[0]:s[1]], false)
		if newline {
			text = strings.TrimPrefix(text, "\n")
		}
		for _, stop := range []string{"<|im_end|>\n", "<end_of_turn>\n"} {
			if strings.HasSuffix(text, stop) {
				text = strings.TrimSuffix(text, "\n")
			}
		}
		out = append(out, text)
	}
	return out
}

// Every template of chat-templates finds its assistant turns: each range holds
// the message's content, ends with an end-of-turn token where the template has
// one, and covers no user text.
func TestSpansOfTemplates(t *testing.T) {
	dir := testdir.Shared(t, "chat-templates")
	files, err := filepath.Glob(filepath.Join(dir, "*.jinja"))
	if err != nil || len(files) != 30 {
		t.Fatalf("%d templates, want 30 (%v)", len(files), err)
	}
	c := Conversation{Messages: []Message{
		NewMessage("user", "first QUESTION"), NewMessage("assistant", "first ANSWER"),
		NewMessage("user", "second QUESTION"), NewMessage("assistant", "second ANSWER"),
	}, Tools: []any{}, Extra: map[string]any{"functions": "[]", "datetime": "now"}}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := Parse(string(src), Options{BOS: "<s>", EOS: "</s>", Now: time.Date(2024, 7, 26, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
			continue
		}
		text, spans, err := tmpl.Spans(c)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
			continue
		}
		if len(spans) != 2 {
			t.Errorf("%s: %d spans", filepath.Base(f), len(spans))
			continue
		}
		for i, want := range []string{"first ANSWER", "second ANSWER"} {
			got := text[spans[i][0]:spans[i][1]]
			if !strings.Contains(got, want) || strings.Contains(got, "QUESTION") || strings.TrimRight(got, "\n") != got {
				t.Errorf("%s: span %d is %q of %q", filepath.Base(f), i, got, text)
			}
			t.Logf("%s: %q", filepath.Base(f), got)
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	_, err := Parse("a\n{% if x %}\nb", Options{})
	if err == nil || !strings.Contains(err.Error(), "chat template line 3") {
		t.Errorf("got %v", err)
	}
	tmpl, err := Parse("\n{{ raise_exception('no ' + messages[0].role) }}", Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tmpl.Render(Conversation{Messages: []Message{NewMessage("system", "")}}, false)
	if err == nil || err.Error() != "chat template line 2: no system" {
		t.Errorf("got %v", err)
	}
	tmpl, err = Parse("{% for m in messages %}{{ m.role }}{% endfor %}", Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = tmpl.Spans(Conversation{Messages: []Message{NewMessage("user", "a"), NewMessage("assistant", "b")}})
	if err == nil || !strings.Contains(err.Error(), "message 1 (assistant)") {
		t.Errorf("a template that drops the answer: %v", err)
	}
}

// Text in parts reaches a template that writes parts as it is, and others as one
// text; a picture reaches both as it is.
func TestTextInParts(t *testing.T) {
	part := func(s string) any { return jinja.NewDict("type", "text", "text", s) }
	for src, want := range map[string]string{
		"{% for m in messages %}{{ m.content }}{% endfor %}":                                                           "a\nb",
		"{% for m in messages %}{{ m['content'] | trim }}{% endfor %}":                                                 "a\nb",
		"{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}":                                               "<a\nb>",
		"{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}":                        "[a][b]",
		"{% for m in messages %}{% if m.content is string %}s{% else %}{{ m.content[1].text }}{% endif %}{% endfor %}": "s",
	} {
		tmpl, err := Parse(src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := Message{jinja.NewDict("role", "user", "content", []any{part("a"), part("b")})}
		if got, err := tmpl.Render(Conversation{Messages: []Message{m}}, false); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", src, got, err, want)
		}
		if c, _ := m.Get("content"); len(c.([]any)) != 2 {
			t.Error("the caller's message changed")
		}
	}
	tmpl, err := Parse("{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% endif %}{% endfor %}{% endfor %}", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tmpl.Render(Conversation{Messages: []Message{NewMessage("user", "a")}}, false); err != nil || got != "[a]" {
		t.Errorf("a text where only parts are written: %q, %v", got, err)
	}
}

// Of named templates a conversation takes its own, and names them all where there is
// none for it.
func TestNamedTemplates(t *testing.T) {
	render := func(config string, tools any) (string, error) {
		tok, err := tokenizer.Parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`), []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := FromTokenizer(tok, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tmpl.Render(Conversation{Messages: []Message{NewMessage("user", "q")}, Tools: tools}, false)
	}
	const tool = `{"name":"tool_use","template":"T{{ tools | length }}"}`
	both := `{"chat_template":[{"name":"default","template":"D"},` + tool + `]}`
	for _, c := range []struct {
		config, want string
		tools        any
	}{{both, "D", nil}, {both, "T1", []any{"t"}}, {`{"chat_template":[` + tool + `]}`, "T1", []any{"t"}}, {`{"chat_template":"D"}`, "D", []any{"t"}}} {
		if got, err := render(c.config, c.tools); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.config, got, err, c.want)
		}
	}
	if _, err := render(`{"chat_template":[`+tool+`]}`, nil); err == nil || !strings.Contains(err.Error(), "tool_use") {
		t.Error(err)
	}
}

// TestNoBOS: a BOS that is said to be nothing is nothing, and not the tokenizer's.
func TestNoBOS(t *testing.T) {
	tok, err := tokenizer.Parse([]byte(`{"model":{"type":"BPE","vocab":{"<s>":0,"a":1},"merges":[]}}`), []byte(`{"bos_token":"<s>","chat_template":"[{{ bos_token + 'a' }}]"}`))
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{"[<s>a]": {}, "[a]": {Special: map[string]string{"bos_token": ""}}, "[<x>a]": {BOS: "<x>"}} {
		tmpl, err := FromTokenizer(tok, o)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tmpl.Render(Conversation{}, false); got != want || err != nil {
			t.Errorf("%+v: %q, %v; want %q", o, got, err, want)
		}
	}
}

// TestSpecialVars: a template sees the special tokens by their names, and what it is known by names them.
func TestSpecialVars(t *testing.T) {
	o := Options{BOS: "<s>", Special: map[string]string{"pad_token": "<pad>", "bos_token": "<other>"}}
	tmpl, err := Parse("{{ bos_token }}{{ pad_token }}{{ sep_token is defined }}", o)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tmpl.Render(Conversation{}, false); got != "<s><pad>False" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	o.Special = map[string]string{"pad_token": "<x>"}
	other, err := Parse("{{ bos_token }}{{ pad_token }}{{ sep_token is defined }}", o)
	if err != nil || slices.Equal(other.Key(), tmpl.Key()) {
		t.Errorf("%v, %v", other.Key(), err)
	}
}

// Reasoning reaches a template under the name it reads, whichever the row gave it under. The
// texts are those of Transformers 5.23: render_jinja_template(conversations=[[m]], chat_template=src).
func TestReasoningNames(t *testing.T) {
	tmpl, err := Parse("{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}{% endfor %}", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for want, fields := range map[string][]any{
		"a|a|":     {"reasoning_content", "a"},
		"b|b|":     {"thinking", "b"},
		"c|c|c":    {"reasoning", "c"},
		"a|b|c":    {"reasoning", "c", "thinking", "b", "reasoning_content", "a"},
		"b|b|c":    {"reasoning", "c", "thinking", "b"},
		"c|None|c": {"reasoning", "c", "thinking", nil},
		"|c|c":     {"reasoning", "c", "thinking", "c", "reasoning_content", ""},
		"None||":   {"reasoning_content", nil},
	} {
		m := Message{jinja.NewDict(append([]any{"role", "assistant", "content", "x"}, fields...)...)}
		if got, err := tmpl.Render(Conversation{Messages: []Message{m}}, false); err != nil || got != want {
			t.Errorf("%v: %q, %v; want %q", fields, got, err, want)
		}
	}
}

// Turns of templates that write earlier ones otherwise than last ones, with tools: the shapes of
// Qwen 3.5 (no reasoning before the last user, whose turns begin without <think>), Mistral (tools
// at the last user), Gemma 4 (what a turn says after the answer of its tool), GLM (a turn ends
// where the next begins), Hermes 3 (a tool's answer ends otherwise where it is the last), Command R7B (a prompt
// behind a last turn of calls), Command R+ (no token behind calls, and a prompt behind whatever is last) and of TRL's Phi-3 (its last EOS in a block of its own). What {% generation %}
// marks in TRL 1.16's training templates of Qwen 3.6, GLM and Phi-3 are these texts, but for the
// beginning of a <think> that the prompt has.
func TestSpansOfCalls(t *testing.T) {
	const qwen = `{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}{{ m.content }}
{%- for c in m.tool_calls %}{{ ('\n\n' if m.content else '') + '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}`
	const mistral = `{{ bos_token }}{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}
{%- for m in messages %}{% if m.role == 'user' %}{% if m == last %}{{ '[TOOLS]x[/TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[RESULT]' + m.content + '[/RESULT]' }}
{%- elif m.tool_calls %}{{ '[CALLS]' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}{{ eos_token }}
{%- else %}{{ m.content + eos_token }}{% endif %}{% endfor %}`
	const gemma = `{% for m in messages %}{% if m.role == 'user' %}{{ '<|turn>user\n' + m.content + '<turn|>\n<|turn>model\n' }}
{%- elif m.role == 'assistant' %}{% for c in m.tool_calls %}{{ '<|tool_call>' + c.function.name + (c.function.arguments | tojson) + '<tool_call|>' }}{% endfor %}
{%- if m.tool_calls %}{{ '<|tool_response>' }}{% if not loop.last %}{{ loop.nextitem.content + '<tool_response|>' }}{% endif %}{% endif %}{{ m.content }}
{%- if not m.tool_calls %}{{ '<turn|>\n' }}{% endif %}{% endif %}{% endfor %}`
	const glm = `{% for m in messages %}{{ '<|' + {'tool': 'observation'}.get(m.role, m.role) + '|>' }}{{ m.content }}
{%- for c in m.tool_calls %}{{ '<tool_call>' + c.function.name + '</tool_call>' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}`
	const phi = `{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>\n' }}{% endgeneration %}
{%- else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}{% generation %}{{ eos_token }}{% endgeneration %}`
	const hermes = `{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name + (c.function.arguments | tojson) }}{% endfor %}{{ '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}{{ m.content + '</r>' }}{% if not loop.last %}{{ '\n' }}{% endif %}{{ '<|im_end|>' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`
	const command = `{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name + (c.function.arguments | tojson) }}{% endfor %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}
{%- if messages[-1].role != 'assistant' or messages[-1].tool_calls %}{{ '<|assistant|>' }}{% endif %}`
	const plus = `{% for m in messages %}{{ '<|turn|>' + m.role + '|' + m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '\nAction: ' + c.function.name + (c.function.arguments | tojson) }}{% endfor %}{{ '\n' }}{% else %}{{ '<|im_end|>' }}{% endif %}{% endfor %}
{{- '<|turn|>system|act<|im_end|>' }}{% if add_generation_prompt %}{{ '<|turn|>assistant|' }}{% endif %}`
	const empty = `{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}`
	call := func(content, reason string, args ...any) Message {
		f := jinja.NewDict("name", "f", "arguments", jinja.NewDict(args...))
		m := NewMessage("assistant", content)
		m.Set("tool_calls", []any{jinja.NewDict("type", "function", "function", f)})
		if reason != "" {
			m.Set("reasoning_content", reason)
		}
		return m
	}
	answer := func(content, reason string) Message {
		m := NewMessage("assistant", content)
		m.Set("reasoning_content", reason)
		return m
	}
	rows := []Message{NewMessage("user", "q1"), call("", "r1"), NewMessage("tool", "t1"), call("so", "", "a", "<|im_end|>"), NewMessage("tool", "t2"),
		answer("a1", "r2"), NewMessage("user", "q2"), answer("a2", "r3")}
	simple := []Message{NewMessage("user", "q1"), NewMessage("assistant", "a1"), NewMessage("user", "q2"), NewMessage("assistant", "a2")}
	for _, c := range []struct {
		name, src string
		rows      []Message
		want      []string
	}{
		{"qwen", qwen, rows, []string{"<tool_call>f{}</tool_call><|im_end|>", "so\n\n<tool_call>f{\"a\": \"<|im_end|>\"}</tool_call><|im_end|>", "a1<|im_end|>", "r3\n</think>\n\na2<|im_end|>"}},
		{"mistral", mistral, rows, []string{"[CALLS]{\"name\": \"f\", \"arguments\": {}}</s>", "[CALLS]{\"name\": \"f\", \"arguments\": {\"a\": \"<|im_end|>\"}}</s>", "a1</s>", "a2</s>"}},
		{"gemma", gemma, []Message{rows[0], rows[3], rows[4], rows[5], rows[6], rows[7]}, []string{"<|tool_call>f{\"a\": \"<|im_end|>\"}<tool_call|><|tool_response>", "a1<turn|>", "a2<turn|>"}},
		{"glm", glm, rows, []string{"<tool_call>f</tool_call><|observation|>", "so<tool_call>f</tool_call><|observation|>", "a1<|user|>", "a2<|user|>"}},
		{"hermes", hermes, rows, []string{"f{}<|im_end|>", "f{\"a\": \"<|im_end|>\"}<|im_end|>", "a1<|im_end|>", "a2<|im_end|>"}},
		{"command", command, rows, []string{"f{}<|im_end|>", "f{\"a\": \"<|im_end|>\"}<|im_end|>", "a1<|im_end|>", "a2<|im_end|>"}},
		{"plus", plus, rows, []string{"\nAction: f{}\n", "so\nAction: f{\"a\": \"<|im_end|>\"}\n", "a1<|im_end|>", "a2<|im_end|>"}},
		{"plus, calls last", plus, rows[:4], []string{"\nAction: f{}\n", "so\nAction: f{\"a\": \"<|im_end|>\"}\n"}},
		{"empty", empty, []Message{simple[0], NewMessage("assistant", ""), simple[2], simple[3]}, []string{"", "a2"}},
		{"phi", phi, simple, []string{"a1<|end|>", "a2<|end|>\n</s>"}},
	} {
		tmpl, err := Parse(c.src, Options{BOS: "<s>", EOS: "</s>", Ends: []string{"<|user|>", "<|observation|>"}})
		if err != nil {
			t.Fatal(err)
		}
		text, spans, err := tmpl.Spans(Conversation{Messages: c.rows})
		var got []string
		for _, s := range spans {
			got = append(got, text[s[0]:s[1]])
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v\nof %q; want\n%q", c.name, got, err, text, c.want)
		}
	}
}
