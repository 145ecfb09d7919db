package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token found in the text before anything else is done to it.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
	own        bool   // a USER_DEFINED piece that no file beside the vocabulary names
}

// addedTrie finds the leftmost, longest added token.
type addedTrie struct {
	first [256]int32 // root's children
	nodes []trieNode // nodes[0] is unused
	list  []addedToken
}

type trieNode struct {
	next  []trieEdge
	token int32 // index in list, -1 inside
}

type trieEdge struct {
	b  byte
	to int32
}

func newAddedTrie() *addedTrie { return &addedTrie{nodes: make([]trieNode, 1)} }

// add enters a token under its spelling in the text to search.
func (t *addedTrie) add(spelling string, tok addedToken) {
	if spelling == "" {
		return
	}
	at := t.first[spelling[0]]
	if at == 0 {
		at = t.node()
		t.first[spelling[0]] = at
	}
	for i := 1; i < len(spelling); i++ {
		to := t.child(at, spelling[i])
		if to == 0 {
			to = t.node()
			t.nodes[at].next = append(t.nodes[at].next, trieEdge{spelling[i], to})
		}
		at = to
	}
	t.nodes[at].token = int32(len(t.list))
	t.list = append(t.list, tok)
}

func (t *addedTrie) node() int32 {
	t.nodes = append(t.nodes, trieNode{token: -1})
	return int32(len(t.nodes) - 1)
}

func (t *addedTrie) child(at int32, b byte) int32 {
	for _, e := range t.nodes[at].next {
		if e.b == b {
			return e.to
		}
	}
	return 0
}

// match is the longest token at s[i], -1 without, and its length.
func (t *addedTrie) match(s string, i int) (tok int32, n int) {
	tok = -1
	at := t.first[s[i]]
	for k := i + 1; at != 0; k++ {
		if id := t.nodes[at].token; id >= 0 {
			tok, n = id, k-i
		}
		if k >= len(s) {
			break
		}
		at = t.child(at, s[k])
	}
	return tok, n
}

// split calls text for what lies between added tokens and found for those.
// skipSpecial leaves special tokens in the text.
func (t *addedTrie) split(s string, skipSpecial bool, text func(s string, first bool), found func(id int32)) {
	if len(t.list) == 0 {
		text(s, true)
		return
	}
	done := 0
	for i := 0; i < len(s); {
		if t.first[s[i]] == 0 {
			i++
			continue
		}
		tok, n := t.match(s, i)
		if tok < 0 {
			i++
			continue
		}
		lo, hi := i, i+n
		i = hi
		a := &t.list[tok]
		if skipSpecial && a.Special || a.SingleWord && !aloneAt(s, lo, hi) {
			continue
		}
		if a.LStrip {
			lo = max(done, len(strings.TrimRightFunc(s[:lo], unicode.IsSpace)))
		}
		if a.RStrip {
			hi = len(s) - len(strings.TrimLeftFunc(s[hi:], unicode.IsSpace))
		}
		if lo > done {
			text(s[done:lo], done == 0)
		}
		found(a.ID)
		done = hi
	}
	if done < len(s) {
		text(s[done:], done == 0)
	}
}

// aloneAt tells whether no word character touches s[lo:hi].
func aloneAt(s string, lo, hi int) bool {
	before, n := utf8.DecodeLastRuneInString(s[:lo])
	after, m := utf8.DecodeRuneInString(s[hi:])
	return (n == 0 || !isWordRune(before)) && (m == 0 || !isWordRune(after))
}

// isWordRune tells whether \w matches r: letters, marks, digits, connectors and joiners
// (UTS 18, annex C).
func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control) || inTable(youngWords, r)
}
