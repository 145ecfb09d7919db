package data

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/chat"
)

// cut tokenizes a rendered conversation and finds the token positions of byte
// positions. Where a token straddles a position, the position is after it: a
// model that has seen the prompt cannot be asked for half a token.
func (e *encoding) cut(text string, c *chat.Conversation, cuts []int) (ids, at []int32, note string, err error) {
	if plain := e.forged(c); len(plain) > 0 {
		ids, at, err = e.cutPlain(text, plain, cuts)
		return ids, at, noteControl, err
	}
	if ids, err = e.tok.TryEncode(text, false); err != nil {
		return nil, nil, "", err
	}
	if at = e.apart(text, ids, cuts); at != nil {
		return ids, at, "", nil
	}
	for _, c := range cuts {
		prefix, err := e.tok.TryEncode(text[:c], false)
		if err != nil {
			return nil, nil, "", err
		}
		n := 0
		for n < len(prefix) && n < len(ids) && prefix[n] == ids[n] {
			n++
		}
		if n < len(prefix) && n < len(ids) {
			n, note = n+1, noteStraddle
		}
		at = append(at, int32(n))
	}
	return ids, at, note, nil
}

const noteStraddle = "a token straddled the beginning or end of a turn: not supervised"

// apart tokenizes the pieces between the cuts one by one; nil unless that
// gives the same ids as the whole text.
func (e *encoding) apart(text string, ids []int32, cuts []int) (at []int32) {
	n, from := 0, 0
	for _, c := range append(slices.Clone(cuts), len(text)) {
		piece, err := e.tok.TryEncode(text[from:c], false)
		if err != nil || len(piece) > len(ids)-n || !slices.Equal(piece, ids[n:n+len(piece)]) {
			return nil
		}
		n, from = n+len(piece), c
		at = append(at, int32(n))
	}
	if n != len(ids) {
		return nil
	}
	return at[:len(cuts)]
}

// forged lists the texts of messages in which someone has written a control
// token of the model.
func (e *encoding) forged(c *chat.Conversation) []string {
	var out []string
	for _, m := range c.Messages {
		for _, s := range m.Texts() {
			if e.hasControl(s) {
				out = append(out, strings.TrimSpace(s))
			}
		}
	}
	return out
}

// hasControl tells whether a text holds a special token.
func (e *encoding) hasControl(s string) bool {
	return slices.ContainsFunc(e.control, func(c string) bool { return strings.Contains(s, c) })
}

// cutPlain is cut with the given parts of the text encoded as plain text.
func (e *encoding) cutPlain(text string, plain []string, cuts []int) (ids, at []int32, err error) {
	type piece struct {
		end   int
		plain bool
	}
	var pieces []piece
	from := 0
	for _, p := range plain {
		if i := strings.Index(text[from:], p); i >= 0 && p != "" {
			pieces = append(pieces, piece{from + i, false}, piece{from + i + len(p), true})
			from += i + len(p)
		}
	}
	pieces = append(pieces, piece{len(text), false})
	from = 0
	for _, p := range pieces {
		for {
			end := p.end
			if len(cuts) > 0 && cuts[0] <= end {
				end = cuts[0]
			}
			var some []int32
			if p.plain {
				some, err = e.tok.EncodePlain(text[from:end])
			} else {
				some, err = e.tok.TryEncode(text[from:end], false)
			}
			if err != nil {
				return nil, nil, err
			}
			ids = append(ids, some...)
			from = end
			if len(cuts) == 0 || cuts[0] > end {
				break
			}
			cuts, at = cuts[1:], append(at, int32(len(ids)))
		}
	}
	return ids, at, nil
}
