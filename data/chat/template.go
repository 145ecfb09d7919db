// Package chat makes text of conversations with a model's own chat template, and
// finds in that text what the assistant wrote.
package chat

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// Message is one turn of a conversation: its JSON fields in their order, so
// that tool calls, reasoning and multi-part contents reach the template as
// they were written. Values are what jinja.ParseJSON makes: nil, bool, int64,
// float64, string, []any, *jinja.Dict.
type Message struct{ *jinja.Dict }

// NewMessage returns a message with a role and a text.
func NewMessage(role, content string) Message {
	return Message{jinja.NewDict("role", role, "content", content)}
}

// Role is the message's role, or "" without one.
func (m Message) Role() string { return m.String("role") }

// Content is the message's text; false when the content is absent, null or a
// list of parts.
func (m Message) Content() (string, bool) {
	v, _ := m.Get("content")
	s, ok := v.(string)
	return s, ok
}

// Texts are the texts of the message: its content, or those of the content's parts.
func (m Message) Texts() []string {
	v, _ := m.Get("content")
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, part := range v {
			if p, ok := part.(*jinja.Dict); ok {
				if s, ok := p.Get("text"); ok {
					out = append(out, fmt.Sprint(s))
				}
			}
		}
		return out
	}
	return nil
}

// CheckText refuses content that is more than text: pictures and other parts that
// a model of text does not see.
func (m Message) CheckText() error {
	v, _ := m.Get("content")
	list, _ := v.([]any)
	for i, part := range list {
		p, ok := part.(*jinja.Dict)
		if !ok {
			return fmt.Errorf(`content: part %d is %v, not an object such as {"type": "text", "text": "…"}`, i, part)
		}
		if kind := p.String("type"); kind != "text" {
			return fmt.Errorf("content: part %d is of type %q: text only", i, kind)
		}
		text, _ := p.Get("text")
		if _, ok := text.(string); !ok {
			return fmt.Errorf("content: part %d: text is %v", i, text)
		}
	}
	return nil
}

// with is a copy of the message with one field set.
func (m Message) with(key string, v any) Message {
	c := m.Clone()
	c.Set(key, v)
	return Message{c}
}

// ReasoningFields are the fields of a message that hold its reasoning, the first of them before
// the others: of DeepSeek and Qwen, of gpt-oss, and of OpenRouter and vLLM.
func ReasoningFields() []string { return []string{"reasoning_content", "thinking", "reasoning"} }

// reasoned is the message with its reasoning under the names that templates read, whichever of
// them it was given under: reasoning_content, and thinking where that is absent, as in Transformers.
func (m Message) reasoned() Message {
	for _, key := range ReasoningFields() {
		v, _ := m.Get(key)
		if v == nil {
			continue
		}
		c := m.Clone()
		if _, ok := c.Get("thinking"); !ok {
			c.Set("thinking", v)
		}
		c.Set("reasoning_content", v)
		return Message{c}
	}
	return m
}

// Conversation is what a chat template sees.
type Conversation struct {
	Messages []Message
	Tools    any            // nil, or a list of tool descriptions
	Extra    map[string]any // further template variables, e.g. enable_thinking
}

// Options fix what a template sees beside the conversation.
type Options struct {
	BOS, EOS string            // bos_token and eos_token
	Special  map[string]string // other special tokens by their names: pad_token …
	Ends     []string          // tokens that end a turn, beside the EOS and the well-known
	Now      time.Time         // what strftime_now tells; the zero time makes its use an error
}

// Template is a parsed chat template. It may be used by several goroutines.
type Template struct {
	src   string
	o     Options
	tmpl  *jinja.Template
	stops []string // spellings of end-of-turn tokens: the EOS and the well-known

	// parts tells whether the template writes content given as a list of parts (others
	// would print the list), and text whether it writes it given as a text (some of models
	// that see pictures write none of it).
	parts, text func() bool

	tools *Template // of conversations with tools, where there is one of its own
	names []string  // of the templates there are, none of them the default
}

// Parse reads a chat template in transformers' Jinja. Errors name the
// template's line.
func Parse(src string, o Options) (*Template, error) {
	tmpl, err := jinja.Parse(src)
	if err != nil {
		return nil, jinjaError(err)
	}
	stops := append(tokenizer.EndTokens(), o.Ends...)
	if o.EOS != "" {
		stops = slices.Insert(stops, 0, o.EOS)
	}
	t := &Template{src: src, o: o, tmpl: tmpl, stops: stops}
	t.parts = sync.OnceValue(func() bool { return t.writes(inPart(probe)) })
	t.text = sync.OnceValue(func() bool { return t.writes(probe) })
	return t, nil
}

const probe = "\ue000part\ue002"

func inPart(text string) []any { return []any{jinja.NewDict("type", "text", "text", text)} }

// writes renders a message whose content holds probe and looks for that alone.
func (t *Template) writes(content any) bool {
	ask := Message{jinja.NewDict("role", "user", "content", content)}
	got, _, err := t.renderAs(Conversation{Messages: []Message{ask}}, true)
	return err == nil && strings.Contains(got, probe) && !strings.Contains(got, "'"+probe) && !strings.Contains(got, `"`+probe)
}

// FromTokenizer parses the chat templates that came with a tokenizer, of which each
// conversation takes its own as in Transformers: tool_use where it has tools, else
// default. Without o.Special, the special tokens and a missing BOS or EOS are the tokenizer's;
// with it, o is taken as it is, but for the ends, which always are the tokenizer's. A tokenizer without a template is an error of kind fail.Input.
func FromTokenizer(t *tokenizer.Tokenizer, o Options) (*Template, error) {
	list := t.ChatTemplates()
	if len(list) == 0 {
		return nil, fail.Inputf("tokenizer", "give a chat template (chat_template: a file or the text)", "it has no chat template")
	}
	if o.Special == nil {
		o.BOS = cmp.Or(o.BOS, t.Token(t.BOS()))
		o.EOS = cmp.Or(o.EOS, t.Token(t.EOS()))
		o.Special = t.SpecialTexts()
	}
	o.Ends = t.EOSTexts()
	out := &Template{o: o}
	var tools *Template
	var names []string
	for _, n := range list {
		p, err := Parse(n.Text, o)
		if err != nil {
			return nil, err
		}
		switch n.Name {
		case tokenizer.DefaultTemplate:
			out = p
		case tokenizer.ToolTemplate:
			tools = p
		}
		if n.Name != tokenizer.DefaultTemplate {
			names = append(names, n.Name)
		}
	}
	if out.tmpl == nil && tools != nil {
		out.stops = tools.stops
	}
	out.tools, out.names = tools, names
	return out, nil
}

// Key lists what the text of a conversation depends on beside it: sources, special tokens, the clock.
func (t *Template) Key() []string {
	out := append([]string{t.src, t.o.BOS, t.o.EOS, t.o.Now.String()}, t.o.Ends...)
	for _, name := range slices.Sorted(maps.Keys(t.o.Special)) {
		out = append(out, name, t.o.Special[name])
	}
	if t.tools != nil {
		out = append(out, "tools", t.tools.src)
	}
	return out
}

// of is the template of a conversation: that of conversations with tools where it has
// some and there is one, else the default.
func (t *Template) of(c Conversation) (*Template, error) {
	switch {
	case c.Tools != nil && t.tools != nil:
		return t.tools, nil
	case t.tmpl == nil:
		return nil, fail.Inputf("chat template", "give the one that is meant as chat_template", "the model has templates called %s and none called default", strings.Join(t.names, ", "))
	}
	return t, nil
}

// Source is the template's text, as it was parsed; that of conversations with tools
// follows after a NUL where it is another.
func (t *Template) Source() string {
	if t.tools != nil {
		return t.src + "\x00" + t.tools.src
	}
	return t.src
}

// Options are what the template was parsed with.
func (t *Template) Options() Options { return t.o }

// jinjaError makes a user's error of one of package jinja. What the template
// itself raised is the message alone.
func jinjaError(err error) error {
	var e *jinja.Error
	if !errors.As(err, &e) {
		return err
	}
	where := "chat template"
	if e.Line > 0 {
		where = fmt.Sprintf("chat template line %d", e.Line)
	}
	kind, hint := fail.Input, ""
	switch {
	case e.Limit:
		kind = fail.Limit
	case e.Raised:
		hint = "the template refuses this conversation; change the rows or give another chat_template"
	}
	return &fail.Error{Kind: kind, Where: where, Msg: e.Msg, Hint: hint, Err: err}
}

// Render gives the text of a conversation; addGenerationPrompt appends the
// opening of the next assistant turn, for templates that have one. Errors are
// what the template raises, or name its line.
func (t *Template) Render(c Conversation, addGenerationPrompt bool) (string, error) {
	text, _, err := t.render(c, addGenerationPrompt)
	return text, err
}

// render gives the text and the ranges of {% generation %} blocks. Content in parts
// of text is joined, with line breaks as servers do, for a template that would
// print the list, and a text is made one part for a template that writes nothing else.
func (t *Template) render(c Conversation, prompt bool) (string, [][2]int, error) {
	t, err := t.of(c)
	if err != nil {
		return "", nil, err
	}
	inParts := func(m Message) bool {
		v, _ := m.Get("content")
		_, ok := v.([]any)
		return ok && m.CheckText() == nil
	}
	if slices.ContainsFunc(c.Messages, inParts) && !t.parts() {
		c.Messages = slices.Clone(c.Messages)
		for i, m := range c.Messages {
			if inParts(m) {
				c.Messages[i] = m.with("content", strings.Join(m.Texts(), "\n"))
			}
		}
	}
	inText := func(m Message) bool { s, ok := m.Content(); return ok && s != "" }
	if slices.ContainsFunc(c.Messages, inText) && !t.text() && t.parts() {
		c.Messages = slices.Clone(c.Messages)
		for i, m := range c.Messages {
			if s, _ := m.Content(); s != "" {
				c.Messages[i] = m.with("content", inPart(s))
			}
		}
	}
	return t.renderAs(c, prompt)
}

// renderAs is render of messages as they are.
func (t *Template) renderAs(c Conversation, prompt bool) (string, [][2]int, error) {
	messages := make([]any, len(c.Messages))
	for i, m := range c.Messages {
		messages[i] = m.reasoned().Dict
	}
	vars := map[string]any{
		"messages": messages, "tools": c.Tools, "documents": nil, "add_generation_prompt": prompt,
	}
	for name, s := range t.o.Special {
		vars[name] = s
	}
	if t.o.BOS != "" {
		vars["bos_token"] = t.o.BOS
	}
	if t.o.EOS != "" {
		vars["eos_token"] = t.o.EOS
	}
	for k, v := range c.Extra {
		vars[k] = v
	}
	text, spans, err := t.tmpl.Render(vars, jinja.Options{Now: t.o.Now})
	if err != nil {
		return "", nil, jinjaError(err)
	}
	return text, spans, nil
}
