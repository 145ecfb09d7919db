package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestDeclared: ids, and text without special tokens, of "Hello<|end|>  brush brushes" by Transformers 5.24 (AutoTokenizer) for the
// tokenizer of the embedded model with these keys in tokenizer_config.json.
func TestDeclared(t *testing.T) {
	const dir = "../../recipes/pocket/model/"
	file, err := os.ReadFile(dir + "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(dir + "tokenizer_config.json")
	if err != nil {
		t.Fatal(err)
	}
	with := func(keys string) []byte {
		var c, more map[string]any
		if err := json.Unmarshal(base, &c); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte("{"+keys+"}"), &more); err != nil {
			t.Fatal(err)
		}
		for k, v := range more {
			c[k] = v
		}
		b, _ := json.Marshal(c)
		return b
	}
	for _, c := range []struct {
		keys string
		ids  []int32
		text string
	}{
		{`"added_tokens_decoder":{"2":{"content":"<|end|>","special":true,"rstrip":true}}`, []int32{45, 354, 1608, 2, 2045, 602, 309, 268, 88}, "Hellobrush brushes"},
		{`"added_tokens_decoder":{"2":{"content":"<|end|>","special":false,"rstrip":true}}`, []int32{45, 354, 1608, 2, 2045, 602, 309, 268, 88}, "Hellobrush brushes"},
		{`"added_tokens_decoder":{"2048":{"content":"Hel","special":false}}`, []int32{2048, 1608, 2, 226, 1150, 602, 309, 268, 88}, "Hello  brush brushes"},
		{`"added_tokens_decoder":{"2045":{"content":"brush","special":true,"single_word":true}}`, []int32{45, 354, 1608, 2, 226, 226, 2045, 602, 309, 268, 88}, "Hello   brushes"},
		{`"additional_special_tokens":["<|user|>","Hel","brush"]`, []int32{2048, 1608, 2, 226, 226, 2045, 226, 2045, 350}, "lo   es"},
		{`"extra_special_tokens":{"image_token":"Hel"}`, []int32{2048, 1608, 2, 226, 1150, 602, 309, 268, 88}, "lo  brush brushes"},
		{`"mask_token":"brush"`, []int32{45, 354, 1608, 2, 226, 226, 2045, 226, 2045, 350}, "Hello   es"},
		{`"pad_token":"[NONE]"`, []int32{45, 354, 1608, 2, 226, 1150, 602, 309, 268, 88}, "Hello  brush brushes"},
	} {
		tok, err := Parse(file, with(c.keys))
		if err != nil {
			t.Errorf("%s: %v", c.keys, err)
			continue
		}
		ids := tok.Encode("Hello<|end|>  brush brushes", true)
		if !reflect.DeepEqual(ids, c.ids) || tok.Decode(ids, true) != c.text {
			t.Errorf("%s: %v %q, want %v %q", c.keys, ids, tok.Decode(ids, true), c.ids, c.text)
		}
	}
	for keys, want := range map[string]string{
		`"added_tokens_decoder":{"2050":{"content":"Hel"}}`: `"Hel" has id 2050, by tokenizer.json its id is 2048`,
		`"added_tokens_decoder":{"x":{"content":"Hel"}}`:    "is no token with an id",
		`"split_special_tokens":true`:                       "split_special_tokens",
	} {
		if _, err := Parse(file, with(keys)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", keys, err, want)
		}
	}
	tok, err := Parse(file, with(`"added_tokens_decoder":{"2":{"content":"<|end|>","special":true,"rstrip":true}}`))
	if err != nil || !strings.Contains(tok.GGUFNote(), "rstrip") {
		t.Errorf("note %q, %v", tok.GGUFNote(), err)
	}
}

// Named special tokens that are nowhere take ids before those of a list that are nowhere, and what tokenizer.json has as
// special stays so (Transformers 5.23).
func TestDeclaredOrder(t *testing.T) {
	const file = `{"added_tokens":[{"id":2,"content":"<tool>","special":false},{"id":3,"content":"<x>","special":true}],"decoder":{"type":"Fuse"},"model":{"type":"BPE","vocab":{"a":0,"</s>":1},"merges":[]}}`
	for config, want := range map[string]string{
		`{"eos_token":"</s>","pad_token":"<pad>","extra_special_tokens":["<extra>"]}`: "[0 4 5] aa<tool>",
		`{"eos_token":"</s>","pad_token":"<pad>"}`:                                    "[0 0 0] aa<tool>",
		`{"eos_token":"<tool>","added_tokens_decoder":{"3":{"content":"<x>"}}}`:       "[0 0 0] aa<tool>",
		`{"extra_special_tokens":["<tool>","<extra>"]}`:                               "[0 0 4] aa<tool>",
	} {
		tok, err := Parse([]byte(file), []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(tok.Encode("a<pad><extra>", false)) + " " + tok.Decode(tok.Encode("a<x>a<tool>", false), true); got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}
