package data

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/tokenizer"
)

// Show writes a sample for people: where it came from, its counts, and its
// text as the model sees it, the supervised part in colour, or between ⟦ and ⟧
// without colour. tok may be nil; then the ids are written.
func Show(w io.Writer, e *Example, tok *tokenizer.Tokenizer, colour bool) error {
	_, err := fmt.Fprintf(w, "%s · %s tokens, %s supervised\n%s\n", e.From, group(int64(len(e.IDs))), group(int64(e.Supervised())), marked(e, tok, colour))
	return err
}

// marked is the text of a sample with its supervised ranges marked.
func marked(e *Example, tok *tokenizer.Tokenizer, colour bool) string {
	open, end := "⟦", "⟧"
	if colour {
		open, end = "\x1b[32m", "\x1b[0m"
	}
	var b strings.Builder
	at := int32(0)
	for _, r := range e.Loss {
		b.WriteString(spellOut(tok, e.IDs[at:r[0]]))
		b.WriteString(open + spellOut(tok, e.IDs[r[0]:r[1]]) + end)
		at = r[1]
	}
	b.WriteString(spellOut(tok, e.IDs[at:]))
	return b.String()
}

// spellOut is the text of ids, special tokens included; control characters that
// a terminal would obey are written as escapes.
func spellOut(tok *tokenizer.Tokenizer, ids []int32) string {
	if len(ids) == 0 {
		return ""
	}
	if tok == nil {
		return fmt.Sprint(ids)
	}
	var raw []byte
	for _, id := range ids {
		raw = append(raw, tok.Bytes(id)...)
	}
	return harmless(string(raw))
}

func harmless(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) && r != utf8.RuneError:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\x%02x", r)
		}
	}
	return b.String()
}
