package data

import (
	"github.com/tunekit/tunekit/data/jinja"
)

// unread says what else a row of a type tells the model that has no place in its sample s, one note a column.
func (c columns) unread(kind string, row *jinja.Dict, s sample) []string {
	if kind == typeText || kind == typeTokens {
		return nil
	}
	var out []string
	if s.chat != nil {
		text, _ := c.get(row, "system").(string)
		if first := s.chat.Messages[0]; text != "" && first.Role() == "system" {
			if own, ok := first.Content(); !ok || own != text {
				out = append(out, "the messages begin with another system text than the column "+c.name(row, "system")+" says: the column is lost")
			}
		}
		return out
	}
	names := []string{"system", "tools"}
	if kind != typeInstruct {
		names = append(names, "history")
	}
	for _, ours := range names {
		if !empty(c.get(row, ours)) {
			out = append(out, "the column "+c.name(row, ours)+" is lost where a prompt is text without a template; type: instruct has a place for it")
		}
	}
	return out
}

// empty reports whether a value says nothing.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case *jinja.Dict:
		return v.Len() == 0
	}
	return false
}
