package tokenizer

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// charsmap are the compiled normalization rules of a SentencePiece model: a trie of
// what is replaced, and the texts that replace it. The trie is a double array, as
// Darts lays it out: the child of a node for a byte lies at the node's offset XOR the
// byte, and says which byte it is of.
type charsmap struct {
	units []uint32
	texts string // each ended by a NUL
}

// parseCharsmap reads precompiled_charsmap: the bytes of the trie, the trie, the texts.
func parseCharsmap(raw []byte) (*charsmap, error) {
	if len(raw) < 4 {
		return nil, fmt.Errorf("precompiled_charsmap has %d bytes", len(raw))
	}
	size := int64(binary.LittleEndian.Uint32(raw))
	raw = raw[4:]
	if size == 0 || size%4 != 0 || size > int64(len(raw)) {
		return nil, fmt.Errorf("precompiled_charsmap says that its trie has %d bytes, there are %d", size, len(raw))
	}
	texts := raw[size:]
	if !utf8.Valid(texts) {
		return nil, fmt.Errorf("precompiled_charsmap has texts that are not UTF-8")
	}
	c := &charsmap{units: make([]uint32, size/4), texts: string(texts)}
	for i := range c.units {
		c.units[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return c, nil
}

// unit is node i of the trie; ok is false where a damaged trie points outside.
func (c *charsmap) unit(i uint32) (u uint32, ok bool) {
	if int64(i) >= int64(len(c.units)) {
		return 0, false
	}
	return c.units[i], true
}

func childrenOf(u uint32) uint32 { return u >> 10 << (u & (1 << 9) >> 6) }

// find is the text for the shortest beginning of s that the trie has.
func (c *charsmap) find(s string) (text string, ok bool) {
	at := childrenOf(c.units[0])
	for i := 0; i < len(s) && s[i] != 0; i++ {
		at ^= uint32(s[i])
		u, ok := c.unit(at)
		if !ok || u&(1<<31|0xff) != uint32(s[i]) {
			return "", false
		}
		at ^= childrenOf(u)
		if u>>8&1 == 0 {
			continue
		}
		leaf, ok := c.unit(at)
		if leaf &= 1<<31 - 1; !ok || int64(leaf) > int64(len(c.texts)) {
			return "", false
		}
		text, _, _ = strings.Cut(c.texts[leaf:], "\x00")
		return text, true
	}
	return "", false
}

// maxCluster is the length from which the characters of a cluster are replaced one by
// one only.
const maxCluster = 6

// each calls f with the pieces of the normalised text, as the tokenizers library of
// Hugging Face makes them: a short cluster of characters that begins as a rule says is
// replaced as a whole, of others each character.
func (c *charsmap) each(s string, f func(string)) {
	for len(s) > 0 {
		n := clusterLen(s)
		cluster := s[:n]
		s = s[n:]
		if n < maxCluster {
			if text, ok := c.find(cluster); ok {
				f(text)
				continue
			}
		}
		for len(cluster) > 0 {
			_, n := utf8.DecodeRuneInString(cluster)
			text, ok := c.find(cluster[:n])
			if !ok {
				text = cluster[:n]
			}
			f(text)
			cluster = cluster[n:]
		}
	}
}

// normalizer is c as a step of a pipeline.
func (c *charsmap) normalizer() normalizer {
	return normalizer{
		apply: func(s string) string {
			var b strings.Builder
			b.Grow(len(s))
			c.each(s, func(part string) { b.WriteString(part) })
			return b.String()
		},
		most: func(s string) (n int) {
			c.each(s, func(part string) { n += len(part) })
			return n
		},
	}
}

// clusterLen is the length of the extended grapheme cluster that s begins with (Unicode
// Standard Annex 29), as far as clusters of less than maxCluster bytes go: those of
// Hangul syllables, flags and joined emoji are longer, and may be cut.
func clusterLen(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case strings.HasPrefix(s, "\r\n"):
		return 2
	case breaksAround(r):
		return n
	}
	for unicode.Is(unicode.Prepended_Concatenation_Mark, r) && n < len(s) {
		next, k := utf8.DecodeRuneInString(s[n:])
		if breaksAround(next) {
			return n
		}
		r, n = next, n+k
	}
	for n < len(s) {
		next, k := utf8.DecodeRuneInString(s[n:])
		if !extends(next) {
			break
		}
		n += k
	}
	return n
}

const (
	zeroWidthNonJoiner = '\u200c'
	zeroWidthJoiner    = '\u200d'
)

// breaksAround reports whether r is a cluster by itself.
func breaksAround(r rune) bool {
	if r == zeroWidthJoiner || r == zeroWidthNonJoiner || unicode.Is(unicode.Prepended_Concatenation_Mark, r) {
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) && !unicode.Is(unicode.Other_Grapheme_Extend, r)
}

// extends reports whether r belongs to the cluster before it.
func extends(r rune) bool {
	return r == zeroWidthJoiner || unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc, unicode.Other_Grapheme_Extend) || r == 'ำ' || r == 'ຳ' || 0x1f3fb <= r && r <= 0x1f3ff
}
