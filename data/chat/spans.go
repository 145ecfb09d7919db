package chat

import (
	"slices"
	"strings"
	"unicode"

	"github.com/tunekit/tunekit/formats/fail"
)

// Spans renders a conversation and finds what the assistant wrote in it: byte
// ranges [start, end) of text in order, one for each assistant message, its
// end-of-turn token included and nothing after it (templates write a newline
// there that no model has to produce).
//
// They come from the template's {% generation %} blocks where it has them.
// Else a turn begins where the conversation up to it, rendered with its
// generation prompt, ends, or, where a template renders earlier turns otherwise
// once others follow (a system text moved to the last user turn), where its
// content begins. It ends with the first end-of-turn token after its content,
// which is found by rendering once more with a mark in its place, or where the
// conversation up to and with it ends. A turn that cannot be found is an error
// that names the message.
func (t *Template) Spans(c Conversation) (text string, assistant [][2]int, err error) {
	text, spans, err := t.render(c, false)
	if err != nil {
		return "", nil, err
	}
	if len(spans) > 0 {
		for i := range spans {
			spans[i][1] = t.trimTurn(text, spans[i][0], spans[i][1])
		}
		return text, slices.DeleteFunc(spans, func(s [2]int) bool { return s[0] >= s[1] }), nil
	}
	from := 0
	for i, m := range c.Messages {
		if m.Role() != "assistant" {
			continue
		}
		s, err := t.turn(c, text, i, from)
		if err != nil {
			return "", nil, err
		}
		spans = append(spans, s)
		from = s[1]
	}
	return text, spans, nil
}

// turn finds message i in the rendered text, at from or later.
func (t *Template) turn(c Conversation, text string, i, from int) (s [2]int, err error) {
	marked := &markedTurn{t: t, c: c, text: text, i: i}
	start, ok := t.prefix(c, text, i, true)
	if !ok || start < from {
		if start, ok = marked.start(); !ok {
			return s, lostTurn(i, "its beginning")
		}
	}
	end, ok := marked.end()
	if !ok || end <= start {
		if end, ok = t.prefix(c, text, i+1, false); !ok {
			return s, lostTurn(i, "its end")
		}
		content, _ := c.Messages[i].Content()
		if start > end || !strings.Contains(text[start:end], strings.TrimSpace(content)) {
			return s, lostTurn(i, "its content")
		}
	}
	end = t.trimTurn(text, start, end)
	if start < from || end <= start {
		return s, lostTurn(i, "any text of it")
	}
	return [2]int{start, end}, nil
}

func lostTurn(i int, what string) error {
	return fail.Inputf("chat template", "give a chat_template that marks what the assistant writes with {% generation %}",
		"message %d (assistant): cannot find %s in the rendered conversation", i, what)
}

// prefix is where the conversation of the first n messages ends in text.
func (t *Template) prefix(c Conversation, text string, n int, prompt bool) (int, bool) {
	c.Messages = c.Messages[:n]
	if n == 0 {
		return 0, false
	}
	p, err := t.Render(c, prompt)
	return len(p), err == nil && strings.HasPrefix(text, p)
}

// markedTurn finds a turn by rendering with a mark for its content.
type markedTurn struct {
	t    *Template
	c    Conversation
	text string
	i    int
}

// cut renders with the mark for message i's content and returns what lies
// before and after it.
func (m *markedTurn) cut(i int) (before, after string, ok bool) {
	mark := "\ue000"
	for strings.Contains(m.text, mark) {
		mark += "\ue001"
	}
	mark += "turn\ue002"
	c := m.c
	c.Messages = slices.Clone(c.Messages)
	c.Messages[i] = c.Messages[i].with("content", mark)
	got, err := m.t.Render(c, false)
	if err != nil || strings.Count(got, mark) != 1 {
		return "", "", false
	}
	return strings.Cut(got, mark)
}

func (m *markedTurn) start() (int, bool) {
	before, _, ok := m.cut(m.i)
	return len(before), ok && strings.HasPrefix(m.text, before)
}

// end is after the first end-of-turn token behind the content, or where the
// content ends in templates without one.
func (m *markedTurn) end() (int, bool) {
	_, after, ok := m.cut(m.i)
	if !ok || !strings.HasSuffix(m.text, after) {
		return 0, false
	}
	content := len(m.text) - len(after)
	rest := m.text[content:max(content, m.limit())]
	end, first := content, len(rest)+1
	for _, stop := range m.t.stops {
		if j := strings.Index(rest, stop); j >= 0 && j < first {
			end, first = content+j+len(stop), j
		}
	}
	return end, true
}

// limit is where the content of the next message begins.
func (m *markedTurn) limit() int {
	if m.i+1 < len(m.c.Messages) {
		if before, _, ok := m.cut(m.i + 1); ok && strings.HasPrefix(m.text, before) {
			return len(before)
		}
	}
	return len(m.text)
}

// trimTurn is end without the white space after an end-of-turn token.
func (t *Template) trimTurn(text string, start, end int) int {
	trimmed := strings.TrimRightFunc(text[start:end], unicode.IsSpace)
	for _, stop := range t.stops {
		if strings.HasSuffix(trimmed, stop) {
			return start + len(trimmed)
		}
	}
	return end
}
