package data

import (
	"time"

	"github.com/tunekit/tunekit/data/jinja"
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
	src string
	o   TemplateOptions
}

// ParseTemplate reads a chat template in transformers' Jinja. Errors name the
// template's line.
func ParseTemplate(src string, o TemplateOptions) (*Template, error) {
	return &Template{src: src, o: o}, nil
}

// Render gives the text of a conversation; addGenerationPrompt appends the
// opening of the next assistant turn, for templates that have one.
func (t *Template) Render(c Conversation, addGenerationPrompt bool) (string, error) {
	return "", nil
}

// Spans renders a conversation and finds what an assistant wrote in it: byte
// ranges [start, end) of text, in order, one for each run of assistant text,
// its end-of-turn token included and nothing after it. They come from the
// template's {% generation %} blocks where it has them, else from rendering
// prefixes of the conversation.
func (t *Template) Spans(c Conversation) (text string, assistant [][2]int, err error) {
	return "", nil, nil
}
