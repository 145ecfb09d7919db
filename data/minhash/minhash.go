// Package minhash makes signatures of texts, of which the share of equal numbers
// estimates how alike the texts are: the Jaccard similarity of their sets of
// shingles (Broder 1997). Bands of a signature find pairs that are alike among
// many texts without comparing all of them.
package minhash

import (
	"math"
	"unicode"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// Hasher makes signatures of NumPerm numbers over shingles of Ngram words.
type Hasher struct {
	Ngram, NumPerm int
	mul, add       []uint64 // of each number
}

// New makes a hasher. All with the same ngram and numPerm give the same signatures.
func New(ngram, numPerm int) *Hasher {
	h := &Hasher{Ngram: ngram, NumPerm: numPerm, mul: make([]uint64, numPerm), add: make([]uint64, numPerm)}
	for i := range numPerm {
		h.mul[i], h.add[i] = mix(uint64(2*i+1))|1, mix(uint64(2*i+2))
	}
	return h
}

// mix is the finalizer of SplitMix64 after a step of its counter.
func mix(z uint64) uint64 {
	z *= 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Signature is the smallest hash of all shingles under NumPerm hash functions, the
// low 16 bits of each: two texts of nothing in common share one number in 65,536.
type Signature []uint16

// Text is a sequence of words that shingles are cut from. Shingles of texts with
// another Seed are others, whatever their words.
type Text struct {
	Words []uint64 // hashes
	Seed  uint64
}

// Sign makes the signature of texts taken together; nil where they have no words. A
// text of fewer than Ngram words is one shingle.
func (h *Hasher) Sign(texts ...Text) Signature {
	least := make([]uint32, h.NumPerm)
	for i := range least {
		least[i] = math.MaxUint32
	}
	any := false
	for _, t := range texts {
		for from := 0; from < len(t.Words) && (from == 0 || from+h.Ngram <= len(t.Words)); from++ {
			shingle := mix(t.Seed + 1)
			for _, w := range t.Words[from:min(from+h.Ngram, len(t.Words))] {
				shingle = mix(shingle ^ w)
			}
			h.take(least, shingle)
			any = true
		}
	}
	if !any {
		return nil
	}
	sig := make(Signature, h.NumPerm)
	for i, v := range least {
		sig[i] = uint16(v)
	}
	return sig
}

// take lowers what is least to the hashes of a shingle.
func (h *Hasher) take(least []uint32, shingle uint64) {
	mul, add := h.mul[:len(least)], h.add[:len(least)]
	for i := range least {
		least[i] = min(least[i], uint32((mul[i]*shingle+add[i])>>32))
	}
}

// Similarity estimates the Jaccard similarity J of two texts by their signatures,
// with a standard error of √(J(1-J)/NumPerm).
func Similarity(a, b Signature) float64 {
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	const chance = 1.0 / 65536
	return max(0, (float64(same)/float64(len(a))-chance)/(1-chance))
}

// recall is the least share of pairs as alike as the threshold that bands must find.
const recall = 0.95

// Bands says how signatures are cut so that pairs of a similarity of threshold share
// a band with a probability of 95 % at least: as long as that allows, since longer
// ones compare fewer pairs for nothing.
func Bands(threshold float64, numPerm int) (bands, rows int) {
	for rows = numPerm; rows > 1; rows-- {
		bands = numPerm / rows
		if 1-math.Pow(1-math.Pow(threshold, float64(rows)), float64(bands)) >= recall {
			return bands, rows
		}
	}
	return numPerm, 1
}

// Key is the hash of a band of a signature.
func (s Signature) Key(band, rows int) uint32 {
	k := uint64(band + 1)
	for _, v := range s[band*rows : (band+1)*rows] {
		k = mix(k ^ uint64(v))
	}
	return uint32(k >> 32)
}

// AppendWords appends the hashes of a text's words: runs of letters, marks and
// digits in lower case; a character of a script without spaces between words is a
// word, and so is any symbol. Space and the punctuation of prose are left out.
func AppendWords(words []uint64, text string) []uint64 {
	var word []byte
	end := func() {
		if len(word) > 0 {
			words = append(words, xxh3.Hash(word))
			word = word[:0]
		}
	}
	for _, r := range text {
		switch {
		case r < utf8.RuneSelf && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9'):
			word = append(word, byte(r))
		case r >= utf8.RuneSelf && unicode.In(r, unspaced...):
			end()
			word = utf8.AppendRune(word, r)
			end()
		case unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r):
			word = utf8.AppendRune(word, unicode.ToLower(r))
		case prose(r):
			end()
		default:
			end()
			word = utf8.AppendRune(word, r)
			end()
		}
	}
	end()
	return words
}

// unspaced are the scripts that write no spaces between words.
var unspaced = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar}

// prose tells space, controls and the punctuation of sentences from symbols, which
// mean something in code and sums.
func prose(r rune) bool {
	switch r {
	case '.', ',', ';', ':', '!', '?', '\'', '"', '…', '、', '。', '，', '！', '？', '；', '：', '·':
		return true
	}
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Ps, unicode.Pe, unicode.Pi, unicode.Pf, unicode.Cf)
}
