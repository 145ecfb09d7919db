package data

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
)

var reasoningFields = chat.ReasoningFields()

// The marks around reasoning that stands in the content itself.
const thinkOpen, thinkEnd = "<think>", "</think>"

// assistant is message i of those that the assistant wrote.
func assistant(c *chat.Conversation, i int) chat.Message {
	for _, m := range c.Messages {
		if m.Role() == "assistant" {
			if i == 0 {
				return m
			}
			i--
		}
	}
	return chat.Message{}
}

// withoutReasoning is a conversation whose assistant only answers.
func withoutReasoning(c *chat.Conversation) *chat.Conversation {
	out := *c
	out.Messages = slices.Clone(c.Messages)
	for i, m := range out.Messages {
		if m.Role() != "assistant" {
			continue
		}
		m = chat.Message{Dict: m.Clone()}
		for _, key := range reasoningFields {
			m.Delete(key)
		}
		switch content, _ := m.Get("content"); content := content.(type) {
		case string:
			m.Set("content", answerOf(content))
		case []any:
			parts := slices.Clone(content)
			for k, p := range parts {
				if d, ok := p.(*jinja.Dict); ok && d.String("text") != "" {
					d = d.Clone()
					d.Set("text", answerOf(d.String("text")))
					parts[k] = d
				}
			}
			m.Set("content", parts)
		}
		out.Messages[i] = m
	}
	return &out
}

// answerOf is a text without what stands between the marks of reasoning, and the white
// space behind it. An end without a beginning ends what the prompt began.
func answerOf(s string) string {
	for {
		open, end := strings.Index(s, thinkOpen), strings.Index(s, thinkEnd)
		switch {
		case end < 0:
			return s
		case open < 0 || open > end:
			open = 0
		}
		s = s[:open] + strings.TrimLeft(s[end+len(thinkEnd):], " \n\r\t")
	}
}

// reasoningIn are the ranges of a rendered turn that are reasoning, marks included, in
// order: between the marks, and what a field of the message holds.
func reasoningIn(turn string, m chat.Message) [][2]int {
	var out [][2]int
	for at := 0; ; {
		open, end := strings.Index(turn[at:], thinkOpen), strings.Index(turn[at:], thinkEnd)
		if end < 0 {
			break
		}
		if open < 0 || open > end {
			open = 0
		}
		out = append(out, [2]int{at + open, at + end + len(thinkEnd)})
		at += end + len(thinkEnd)
	}
	for _, key := range reasoningFields {
		text := strings.TrimSpace(m.String(key))
		at := strings.Index(turn, text)
		if text == "" || at < 0 {
			continue
		}
		r := [2]int{len(strings.TrimRight(turn[:at], " ")), at + len(text)} // a space before a word is a part of its token
		if !slices.ContainsFunc(out, func(o [2]int) bool { return o[0] < r[1] && r[0] < o[1] }) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b [2]int) int { return a[0] - b[0] })
	return out
}
