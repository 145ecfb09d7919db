package data

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
)

// lostTexts says what a rendered conversation is without, one note a kind of
// thing. Many templates leave something out on purpose (reasoning of earlier
// turns), so that it is said and counted, and no error. A short text may be a
// part of some markup: what the assistant says is looked for in its own turns,
// the rest outside them and beside control tokens.
func (e *encoding) lostTexts(text string, c *chat.Conversation, spans [][2]int) []string {
	var out []string
	var turns []*rendered
	others, from := "", 0
	for _, s := range spans {
		turns = append(turns, &rendered{text: text[s[0]:s[1]], before: text[from:s[0]]})
		others, from = others+text[from:s[0]]+"\n", s[1]
	}
	rest := &rendered{text: e.markup.Replace(others + text[from:]), strip: e.markup}
	note := func(what string) {
		if what = "the template leaves out " + what + ": lost"; !slices.Contains(out, what) {
			out = append(out, what)
		}
	}
	for _, m := range c.Messages {
		r := rest
		if m.Role() == "assistant" {
			r, turns = turns[0], turns[1:]
		}
		for _, s := range contentTexts(m) {
			switch {
			case r.has(s):
			case m.Role() == "assistant":
				note("a part of what assistant messages say (such as reasoning in <think>)")
			default:
				note("what " + m.Role() + " messages say")
			}
		}
		for _, key := range reasoningFields {
			if s := m.String(key); !r.has(s) {
				note(key + " of " + m.Role() + " messages")
			}
		}
		// whose name a tool's message bears is known from its place; a speaker's is not
		if name := m.String("name"); m.Role() != "tool" && m.Role() != "function" && !strings.EqualFold(name, m.Role()) && !rest.has(name) {
			note("name of " + m.Role() + " messages")
		}
		calls, _ := m.Get("tool_calls")
		list, _ := calls.([]any)
		for _, call := range list {
			if !r.hasLeaves(arguments(call)) {
				note("arguments of tool calls")
			}
		}
	}
	return out
}

// contentTexts are the texts of a message's content, which may be in parts.
func contentTexts(m chat.Message) []string {
	if s, ok := m.Content(); ok {
		return []string{s}
	}
	v, _ := m.Get("content")
	parts, _ := v.([]any)
	var out []string
	for _, p := range parts {
		if d, ok := p.(*jinja.Dict); ok {
			out = append(out, d.String("text"))
		}
	}
	return out
}

// arguments are those of a tool call.
func arguments(call any) any {
	d, ok := call.(*jinja.Dict)
	if !ok {
		return nil
	}
	if f, ok := d.Get("function"); ok {
		if inner, ok := f.(*jinja.Dict); ok {
			d = inner
		}
	}
	v, _ := d.Get("arguments")
	return v
}

// rendered is a text in which others are looked for.
type rendered struct {
	text     string
	squeezed string // without white space, which templates trim and JSON is free in
	strip    *strings.Replacer
	before   string // what a turn may begin with: <think> of a prompt that asks for reasoning
}

// has reports whether s is in the text, as it is or as JSON writes it.
func (r *rendered) has(s string) bool {
	if r.strip != nil {
		s = r.strip.Replace(s)
	}
	if strings.Contains(r.text, s) {
		return true
	}
	if r.squeezed == "" {
		r.squeezed = withoutSpace(r.text)
	}
	s = withoutSpace(s)
	if strings.Contains(r.squeezed, s) || r.before != "" && strings.HasPrefix(s, "<think>") && strings.Contains(withoutSpace(r.before+r.text), s) {
		return true
	}
	b, err := json.Marshal(s)
	return err == nil && strings.Contains(r.squeezed, strings.Trim(string(b), `"`))
}

// hasLeaves reports whether the texts and whole numbers in a JSON value are in
// the text.
func (r *rendered) hasLeaves(v any) bool {
	switch v := v.(type) {
	case string:
		return r.has(v)
	case int64:
		return strings.Contains(r.text, strconv.FormatInt(v, 10))
	case jinja.BigInt:
		return strings.Contains(r.text, string(v))
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !r.hasLeaves(e) })
	case *jinja.Dict:
		for i := range v.Len() {
			if _, e := v.At(i); !r.hasLeaves(e) {
				return false
			}
		}
	}
	return true
}

func withoutSpace(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsSpace(c) {
			return -1
		}
		return c
	}, s)
}

// olderCall refuses the older form of a call, which templates do not write.
func olderCall(text string, i int, m chat.Message) error {
	v, ok := m.Get("function_call")
	if !ok {
		return nil
	}
	if name := functionName(v); name == "" || !strings.Contains(text, name) {
		return bad("", "message %d: the template writes no function_call (%s is lost); tool_calls is its newer form", i, name)
	}
	return nil
}

// functionTools are the descriptions of the older column functions as tools.
func functionTools(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	out := make([]any, len(list))
	for i, f := range list {
		if out[i] = f; functionName(f) != "" {
			out[i] = jinja.NewDict("type", "function", "function", f)
		}
	}
	return out
}
