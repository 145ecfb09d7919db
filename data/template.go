package data

import (
	"errors"
	"fmt"
	"time"

	"github.com/tunekit/tunekit/data/jinja"
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

// with is a copy of the message with one field set.
func (m Message) with(key string, v any) Message {
	c := m.Clone()
	c.Set(key, v)
	return Message{c}
}

// Conversation is what a chat template sees.
type Conversation struct {
	Messages []Message
	Tools    any            // nil, or a list of tool descriptions
	Extra    map[string]any // further template variables, e.g. enable_thinking
}

// TemplateOptions fix what a template sees beside the conversation.
type TemplateOptions struct {
	BOS, EOS string    // bos_token and eos_token
	Now      time.Time // what strftime_now tells; the zero time makes its use an error
}

// Template is a parsed chat template. It may be used by several goroutines.
type Template struct {
	src  string
	o    TemplateOptions
	tmpl *jinja.Template
}

// ParseTemplate reads a chat template in transformers' Jinja. Errors name the
// template's line.
func ParseTemplate(src string, o TemplateOptions) (*Template, error) {
	tmpl, err := jinja.Parse(src)
	if err != nil {
		return nil, jinjaError(err)
	}
	return &Template{src: src, o: o, tmpl: tmpl}, nil
}

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

func (t *Template) render(c Conversation, prompt bool) (string, [][2]int, error) {
	messages := make([]any, len(c.Messages))
	for i, m := range c.Messages {
		messages[i] = m.Dict
	}
	vars := map[string]any{
		"messages": messages, "tools": c.Tools, "documents": nil, "add_generation_prompt": prompt,
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
