package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// TestUnicode: what each character is, to normalizers, pre-tokenizers, regular expressions and added
// tokens, is what it is to Hugging Face's tokenizers 0.23.3 (testdata/make_unicode.py). Where it
// fails with another Go, unicode.go has the differences to that Go's tables.
func TestUnicode(t *testing.T) {
	var want map[string]string
	if err := json.Unmarshal(testdir.ReadFile(t, "testdata/unicode.json"), &want); err != nil {
		t.Fatal(err)
	}
	word, err := Parse([]byte(`{"added_tokens":[{"id":1,"content":"X","single_word":true}],"model":{"type":"WordLevel","vocab":{"<unk>":0},"unk_token":"<unk>"}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, sum := range want {
		f := func(c string) string { return fmt.Sprint(len(word.Encode(c+"X", false))) }
		if n := unicodeNormalizer(name); n != nil {
			f = n
		} else if name != "single_word" {
			f = unicodePieces(t, name)
		}
		h := sha256.New()
		for c := rune(0); c < 0x2f000; c++ {
			if c == 0xd800 {
				c = 0xe000
			} else if c == 0x20000 {
				c = 0x2eb00
			}
			if c > 0 {
				h.Write([]byte("\n"))
			}
			h.Write([]byte(f(string(c))))
		}
		if got := hex.EncodeToString(h.Sum(nil))[:16]; got != sum {
			t.Errorf("%s: other characters", name)
		}
	}
}

// unicodeNormalizer is what a normalizer makes of a character behind a letter, nil for other names.
func unicodeNormalizer(name string) func(string) string {
	c, after := component{Type: name}, "\u0334"
	if flags := []string{"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}; slices.Contains(flags, name) {
		set := func(is string) *bool { on := is == name; return &on }
		c = component{Type: "BertNormalizer", CleanText: set("clean_text"), HandleChinese: set("handle_chinese_chars"), StripAccents: set("strip_accents"), Lowercase: set("lowercase")}
		after = ""
	}
	n, err := compileNormalizer(&c)
	if err != nil {
		return nil
	}
	return func(s string) string {
		s = "a" + s + after
		for _, n := range n {
			s = n.apply(s)
		}
		return s
	}
}

// unicodePieces is how a pre-tokenizer or a regular expression cuts a character between two others.
func unicodePieces(t *testing.T, name string) func(string) string {
	c := component{Type: name, IndividualDigits: true}
	if strings.ContainsAny(name, `\[`) {
		c = component{Type: "Split", Pattern: &pattern{Regex: &name}, Behavior: "Isolated"}
	}
	pre, err := compilePre(&c)
	if err != nil {
		t.Fatal(err)
	}
	tok := &Tokenizer{pre: pre}
	return func(s string) string { return strings.Join(tok.cut("a"+s+"-", true), "|") }
}
