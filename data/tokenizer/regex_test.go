package tokenizer

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRegex: regular expressions cut texts as those of Hugging Face's library do
// (testdata/make_regex.py).
func TestRegex(t *testing.T) {
	b, err := os.ReadFile("testdata/regex.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Texts  []string
		Pieces map[string][][]string
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for pattern, pieces := range want.Pieces {
		s, err := newRegexSplitter(pattern, "Isolated", false)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, text := range want.Texts {
			got := []string{}
			s.split(text, true, func(p string, _ bool) {
				if p != "" {
					got = append(got, p)
				}
			})
			if !slices.Equal(got, pieces[i]) {
				t.Errorf("%s cuts %+q into %+q, want %+q", pattern, text, got, pieces[i])
			}
		}
	}
}

// TestRegexRefused: what the two engines read differently, and is not written out here, is
// refused by name.
func TestRegexRefused(t *testing.T) {
	for pattern, want := range map[string]string{
		`a{2}?`:                       "{2}? repeats x{2}",
		`\d{1,3}+`:                    "{1,3}+ repeats x{1,3}",
		`a(?i)b|c`:                    "(?i) inside an alternative",
		`(?i)ss`:                      "(?i) on ss",
		`(?i:'s|'t|fi)`:               "(?i) on fi",
		`(?i:[ß])`:                    "(?i) on ß",
		`(?i:'s)|(?i:\p{Lu})`:         `(?i) on \p{Lu}`,
		`(?i)[^\P{Lowercase_Letter}]`: `(?i) on \P{Lowercase_Letter}`,
		`\pL+`:                        `\p without braces`,
		`\Qa.b`:                       `\Q is a letter`,
		`(?s).`:                       "options other than",
		`(?>a+){2}`:                   "an atomic group",
		`(?:(?:a++))b{2}(?:a++){2}`:   "an atomic group",
		`[a[bc]]`:                     "a set inside a set",
		`[[:alpha:]]`:                 "a set inside a set",
		`[a-c&&b]`:                    "an intersection",
		`[]a]`:                        "an unescaped ]",
		`a{,3}`:                       "{,n}",
	} {
		if _, err := newRegexSplitter(pattern, "Isolated", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", pattern, err, want)
		}
	}
	for _, pattern := range []string{`(?i:'s|'t)|first|ss|\p{Lu}`, `(?:a++)b{2}`, `(?i:\ss|[st]+)`, `(?i:x(?-i:ss))`} {
		if _, err := newRegexSplitter(pattern, "Isolated", false); err != nil {
			t.Error(err)
		}
	}
}
