package chat

import (
	"slices"
	"strings"
	"unicode"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
)

// Spans renders a conversation and finds what the assistant wrote in it: byte
// ranges [start, end) of text in order, one for each assistant message, its
// end-of-turn token included and nothing after it (templates write a newline
// there that no model has to produce).
//
// They come from the template's {% generation %} blocks where it has them, an empty range
// of a turn that is empty there.
// Else a turn begins where the conversation up to it, rendered with its
// generation prompt, ends, or, where a template renders earlier turns otherwise
// once others follow (tools moved to the last user turn, reasoning taken out),
// behind the message before it as it does there, or where its content begins. It
// ends with the first end-of-turn token after its content, which is found by
// rendering once more with a mark in its place, where the conversation up to and
// with it ends, or, of a turn that calls tools, behind the last call as it ends there, else
// where the next message begins.
// What a template writes of a turn behind the answer of a tool is not in it. A turn
// that cannot be found is an error that names the message. The last turn of a template
// that writes the end of a turn with the next one (GLM) has that end added to text.
func (t *Template) Spans(c Conversation) (text string, assistant [][2]int, err error) {
	text, spans, err := t.render(c, false)
	if err != nil {
		return "", nil, err
	}
	if len(spans) > 0 {
		spans = joined(spans, c)
		for i := range spans {
			spans[i][1] = t.trimTurn(text, spans[i][0], spans[i][1])
		}
		if len(spans) != turns(c) { // else an empty one is a turn that says nothing
			spans = slices.DeleteFunc(spans, func(s [2]int) bool { return s[0] >= s[1] })
		}
		return text, spans, nil
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
	if last := len(spans) - 1; last >= 0 && spans[last][1] == len(text) {
		text += t.closing(c, text)
		spans[last][1] = len(text)
	}
	return text, spans, nil
}

// joined are the ranges of {% generation %} blocks, those that touch as one where there are
// more of them than turns (an EOS behind the last turn in a block of its own).
func joined(spans [][2]int, c Conversation) [][2]int {
	for i := len(spans) - 1; i > 0 && len(spans) > turns(c); i-- {
		if spans[i-1][1] == spans[i][0] {
			spans[i-1][1] = spans[i][1]
			spans = slices.Delete(spans, i, i+1)
		}
	}
	return spans
}

// turns is how many messages are the assistant's.
func turns(c Conversation) (n int) {
	for _, m := range c.Messages {
		if m.Role() == "assistant" {
			n++
		}
	}
	return n
}

// closing is the end-of-turn token that a template writes only where a conversation goes on
// (GLM's <|user|>), "" where text ends with one or the template has none.
func (t *Template) closing(c Conversation, text string) string {
	last := len(c.Messages) - 1
	if c.Messages[last].Role() != "assistant" || t.unended(text) != strings.TrimRightFunc(text, unicode.IsSpace) {
		return ""
	}
	c.Messages = append(slices.Clone(c.Messages), NewMessage("user", "on"))
	m := &markedTurn{t: t, c: c, text: text, i: last}
	_, after, ok := m.cut(last)
	if !ok {
		return ""
	}
	if end := t.ended(after, 0); end > 0 {
		return after[:end]
	}
	return ""
}

// turn finds message i in the rendered text, at from or later.
func (t *Template) turn(c Conversation, text string, i, from int) (s [2]int, err error) {
	marked := &markedTurn{t: t, c: c, text: text, i: i}
	start, ok := t.prefix(c, text, i, true)
	if !ok || start < from {
		if start, ok = marked.opened(); !ok || start < from {
			if start, ok = marked.start(); !ok {
				return s, lostTurn(i, "its beginning")
			}
		}
	}
	end, ok := marked.called(start)
	if from, written := marked.argued(); written {
		if end, ok = marked.closed(from, end, ok); !ok || end <= start {
			return s, lostTurn(i, "the end of its calls")
		}
	} else if !ok {
		end, ok = marked.end()
	}
	if !ok || end <= start {
		if end, ok = t.prefix(c, text, i+1, false); !ok || end <= start {
			return s, lostTurn(i, "its end")
		}
		if start > end || !marked.said(text[start:end]) {
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

// mark is a text that the conversation does not have.
func (m *markedTurn) mark() string {
	mark := "\ue000"
	for strings.Contains(m.text, mark) {
		mark += "\ue001"
	}
	return mark + "turn\ue002"
}

// cut renders with the mark for message i's content and returns what lies
// before and after it.
func (m *markedTurn) cut(i int) (before, after string, ok bool) { return m.cutOf(m.c, i, false) }

// cutOf is cut in another conversation, with its generation prompt or without.
func (m *markedTurn) cutOf(c Conversation, i int, prompt bool) (before, after string, ok bool) {
	mark := m.mark()
	c.Messages = slices.Clone(c.Messages)
	c.Messages[i] = c.Messages[i].with("content", mark)
	got, err := m.t.Render(c, prompt)
	if err != nil || strings.Count(got, mark) != 1 {
		return "", "", false
	}
	return strings.Cut(got, mark)
}

// opened is where the turn begins behind the content of the message before it: as far as
// the text goes on there as the conversation up to the turn does, rendered with its generation
// prompt. A prompt that the text leaves (it asks for reasoning that this turn has not) counts
// up to the last mark or line break that both have.
func (m *markedTurn) opened() (int, bool) {
	if m.i == 0 {
		return 0, false
	}
	_, after, ok := m.cut(m.i - 1)
	if !ok || !strings.HasSuffix(m.text, after) {
		return 0, false
	}
	c := m.c
	c.Messages = c.Messages[:m.i]
	_, closing, ok := m.cutOf(c, m.i-1, false)
	_, opening, also := m.cutOf(c, m.i-1, true)
	if !ok || !also || !strings.HasPrefix(opening, closing) {
		return 0, false
	}
	opening = opening[len(closing):]
	turn, ok := strings.CutPrefix(after, closing)
	if !ok { // another end where the conversation goes on: the prompt stands behind the same text
		at := strings.Index(after, opening)
		if opening == "" || at < 0 || m.t.unended(after[:at]) != m.t.unended(closing) {
			return 0, false
		}
		turn = after[at:]
	}
	same := 0
	for same < min(len(opening), len(turn)) && opening[same] == turn[same] {
		same++
	}
	if same < len(opening) {
		same = strings.LastIndexAny(opening[:same], "\n>]") + 1
	}
	return len(m.text) - len(turn) + same, same > 0 || opening == ""
}

func (m *markedTurn) start() (int, bool) {
	before, _, ok := m.cut(m.i)
	return len(before), ok && strings.HasPrefix(m.text, before)
}

// end is after the first end-of-turn token behind the content, or where the
// content ends in templates without one. Content behind the next message's is none.
func (m *markedTurn) end() (int, bool) {
	_, after, ok := m.cut(m.i)
	if !ok || !strings.HasSuffix(m.text, after) {
		return 0, false
	}
	content, limit := len(m.text)-len(after), m.limit()
	if limit < content {
		return 0, false
	}
	rest := m.text[content:limit]
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
	if at, ok := m.next(); ok {
		return at
	}
	return len(m.text)
}

// next is limit where it was found.
func (m *markedTurn) next() (int, bool) {
	if m.i+1 == len(m.c.Messages) {
		return len(m.text), true
	}
	before, _, ok := m.cut(m.i + 1)
	return len(before), ok && strings.HasPrefix(m.text, before)
}

// called is where a turn that calls tools ends: where its text from the name of the last
// one on is what the conversation up to and with it ends with, or would without content.
func (m *markedTurn) called(start int) (int, bool) {
	limit, ok := m.next()
	name := m.lastCall()
	if !ok || name == "" || limit < start {
		return 0, false
	}
	turn := m.c.Messages[m.i]
	for _, turn := range []Message{turn, turn.with("content", "")} {
		c := m.c
		c.Messages = append(slices.Clone(c.Messages[:m.i]), turn)
		alone, err := m.t.Render(c, false)
		k := strings.LastIndex(alone, name)
		if err != nil || k < 0 {
			continue
		}
		call := alone[k:]
		at := strings.LastIndex(m.text[start:limit], call)
		if at < 0 {
			call = m.t.unended(call)
			at = strings.LastIndex(m.text[start:limit], call)
		}
		if at >= 0 {
			return m.t.ended(m.text, start+at+len(call)), true
		}
	}
	return 0, false
}

// argued is where the arguments of the turn's last call end at the latest, false of templates
// that write no calls: the text from there on is the same with other arguments.
func (m *markedTurn) argued() (int, bool) {
	call := m.lastFunction()
	if call == nil {
		return 0, false
	}
	mark := m.mark()
	key, other := "arguments", any(jinja.NewDict("k", mark))
	switch v, _ := call.Get(key); v.(type) {
	case *jinja.Dict:
	case string:
		other = `{"k": "` + mark + `"}`
	default:
		key, other = "name", mark
	}
	c := m.c
	c.Messages = slices.Clone(c.Messages)
	c.Messages[m.i] = m.c.Messages[m.i].withLastCall(key, other)
	got, err := m.t.Render(c, false)
	_, after, ok := strings.Cut(got, mark)
	if err != nil || !ok {
		return 0, false
	}
	same := 0
	for same < min(len(after), len(m.text)) && after[len(after)-1-same] == m.text[len(m.text)-1-same] {
		same++
	}
	return len(m.text) - same, true
}

// closed is where a turn ends whose last call ends at from or later: at end where that is found,
// else with the first end-of-turn token, but no later than where the next message begins with the
// mark that this one began with (Command R+ writes no token behind calls, and a prompt that
// nobody asked for behind the last one).
func (m *markedTurn) closed(from, end int, found bool) (int, bool) {
	if !found {
		end, found = len(m.text), m.i+1 == len(m.c.Messages)
		for _, stop := range m.t.stops {
			if at := strings.Index(m.text[from:end], stop); at >= 0 {
				end, found = from+at+len(stop), true
			}
		}
	}
	if at := strings.Index(m.text[from:max(from, end)], m.opening()); at > 0 {
		return from + at, true
	}
	return end, found
}

// opening is the mark that the prompt for the turn begins with (<|im_start|>), "" without one.
func (m *markedTurn) opening() string {
	c := m.c
	c.Messages = c.Messages[:m.i]
	said, err := m.t.Render(c, false)
	asked, also := m.t.Render(c, true)
	prompt, ok := strings.CutPrefix(asked, said)
	if err != nil || also != nil || !ok || !strings.HasPrefix(prompt, "<") {
		return ""
	}
	return prompt[:strings.IndexByte(prompt, '>')+1]
}

// unended is a turn's text without the end-of-turn token and white space that it ends with.
func (t *Template) unended(turn string) string {
	turn = strings.TrimRightFunc(turn, unicode.IsSpace)
	for _, stop := range t.stops {
		if rest, ok := strings.CutSuffix(turn, stop); ok {
			return strings.TrimRightFunc(rest, unicode.IsSpace)
		}
	}
	return turn
}

// ended is at, or after the end-of-turn token that stands there, white space before it or not.
func (t *Template) ended(text string, at int) int {
	rest := strings.TrimLeftFunc(text[at:], unicode.IsSpace)
	for _, stop := range t.stops {
		if strings.HasPrefix(rest, stop) {
			return len(text) - len(rest) + len(stop)
		}
	}
	return at
}

// lastCall is the name of the function that the turn calls last, "" without calls.
func (m *markedTurn) lastCall() string {
	if f := m.lastFunction(); f != nil {
		return f.String("name")
	}
	return ""
}

// lastFunction is what the turn calls last, name and arguments; nil without calls.
func (m *markedTurn) lastFunction() *jinja.Dict {
	v, _ := m.c.Messages[m.i].Get("tool_calls")
	list, _ := v.([]any)
	if len(list) == 0 {
		return nil
	}
	call, _ := list[len(list)-1].(*jinja.Dict)
	if call == nil {
		return nil
	}
	f, _ := call.Get("function")
	if inner, ok := f.(*jinja.Dict); ok {
		return inner
	}
	return call
}

// withLastCall is a copy of the message with one field of its last call set.
func (m Message) withLastCall(key string, v any) Message {
	calls, _ := m.Get("tool_calls")
	list := slices.Clone(calls.([]any))
	call := list[len(list)-1].(*jinja.Dict).Clone()
	list[len(list)-1] = call
	f, _ := call.Get("function")
	if inner, ok := f.(*jinja.Dict); ok {
		inner = inner.Clone()
		inner.Set(key, v)
		call.Set("function", inner)
	} else {
		call.Set(key, v)
	}
	return m.with("tool_calls", list)
}

// said tells whether a text is the turn's: it has its content, or the tool that it calls
// last, beside which many templates write nothing.
func (m *markedTurn) said(text string) bool {
	content, _ := m.c.Messages[m.i].Content()
	name := m.lastCall()
	return strings.Contains(text, strings.TrimSpace(content)) || name != "" && strings.Contains(text, name)
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
