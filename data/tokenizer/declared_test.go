package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
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
		`"eos_token":2`:                                     "eos_token has no text",
		`"bos_token":{"id":1}`:                              "bos_token has no text",
		`"eos_token":["<|end|>"]`:                           "eos_token has no text",
		`"pad_token":0`:                                     "pad_token has no text",
		`"unk_token":["<unk>"]`:                             "unk_token has no text",
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

// Of a token that is named several times the last flags hold, and what is said again says nothing: ids by AutoTokenizer of Transformers 5.23.
func TestDeclaredTwice(t *testing.T) {
	const file = `{"added_tokens":[],"decoder":{"type":"Fuse"},"model":{"type":"BPE","vocab":{"a":0,"</s>":1,"<s>":2},"merges":[]}}`
	const word = `{"__type":"AddedToken","content":"<s>","single_word":true}`
	for config, want := range map[string][]int32{
		`{"bos_token":"<s>","eos_token":` + word + `,"unk_token":"<s>"}`: {0, 0},
		`{"bos_token":` + word + `,"eos_token":"<s>"}`:                   {0, 2, 0},
		`{"bos_token":` + word + `,"eos_token":"</s>"}`:                  {0, 0},
		`{"bos_token":` + word + `,"extra_special_tokens":["<s>"]}`:      {0, 2, 0},
		`{"bos_token":"<s>","extra_special_tokens":[` + word + `]}`:      {0, 0},
	} {
		tok, err := Parse([]byte(file), []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode("a<s> a", false); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", config, got, want)
		}
	}
}

// TestDeclaredFiles: ids and text without special tokens of "a<n2><x><tool><s><n1>" by Transformers 5.23, whose
// AutoTokenizer reads this tokenizer.json with tokenizer_config.json, special_tokens_map.json and added_tokens.json. The map goes before
// the configuration, but neither it nor added_tokens.json is read beside added_tokens_decoder.
func TestDeclaredFiles(t *testing.T) {
	const file = `{"added_tokens":[{"id":3,"content":"<tool>","special":false},{"id":4,"content":"<x>","special":true}],"decoder":{"type":"Fuse"},"model":{"type":"BPE","vocab":{"a":0,"</s>":1,"<s>":2},"merges":[]}}`
	for _, c := range []struct{ config, special, added, want string }{
		{`{"eos_token":"<tool>"}`, ``, ``, "[0 4 3] a bos -1 eos 3"},
		{`{"eos_token":"<tool>","added_tokens_decoder":{"4":{"content":"<x>"}}}`, ``, ``, "[0 4 3] a<tool> bos -1 eos 3"},
		{`{"eos_token":"<tool>","added_tokens_decoder":{"3":{"content":"<tool>"}}}`, ``, ``, "[0 4 3] a bos -1 eos 3"},
		{`{"image_token":"<tool>"}`, ``, ``, "[0 4 3] a bos -1 eos -1"},
		{`{"extra_special_tokens":{"image_token":"<tool>"}}`, ``, ``, "[0 4 3] a bos -1 eos -1"},
		{`{"extra_special_tokens":["<tool>"]}`, ``, ``, "[0 4 3] a<tool> bos -1 eos -1"},
		{`{"eos_token":"</s>","pad_token":"<x>"}`, `{"eos_token":"<s>","pad_token":{"content":"<tool>","lstrip":false,"rstrip":false,"single_word":false,"normalized":false}}`, ``, "[0 4 3 2] a bos -1 eos 2"},
		{`{"eos_token":"</s>","added_tokens_decoder":{}}`, `{"eos_token":"<s>","bos_token":"<tool>"}`, ``, "[0 4 3] a<tool> bos -1 eos 1"},
		{``, `{"eos_token":"<tool>","bos_token":"<s>"}`, ``, "[0 4 3 2] a bos 2 eos 3"},
		{`{"additional_special_tokens":["<n1>"]}`, `{"additional_special_tokens":["<n2>"],"eos_token":"</s>"}`, ``, "[0 4 3 5] a<tool> bos -1 eos 1"},
		{`{"extra_special_tokens":["<n1>"]}`, `{"extra_special_tokens":["<n2>"]}`, ``, "[0 6 4 3 5] a<tool> bos -1 eos -1"},
		{`{"eos_token":"</s>"}`, ``, `{"<n1>":5,"<x>":4,"<n2>":6}`, "[0 6 4 3 5] a<n2><tool><n1> bos -1 eos 1"},
		{`{"eos_token":"<n2>"}`, ``, `{"<n1>":5,"<n2>":6}`, "[0 6 4 3 5] a<tool><n1> bos -1 eos 6"},
		{`{"eos_token":"</s>","added_tokens_decoder":{}}`, ``, `{"<n1>":5,"<n2>":6}`, "[0 4 3] a<tool> bos -1 eos 1"},
		{`{"extra_special_tokens":[{"__type":"AddedToken","content":"<n1>","special":false},"<n2>"]}`, ``, ``, "[0 6 4 3 5] a<tool><n1> bos -1 eos -1"},
	} {
		more := map[string][]byte{}
		for name, s := range map[string]string{"special_tokens_map.json": c.special, "added_tokens.json": c.added} {
			if s != "" {
				more[name] = []byte(s)
			}
		}
		var config []byte
		if c.config != "" {
			config = []byte(c.config)
		}
		tok, err := parseHF([]byte(file), config, more)
		if err != nil {
			t.Errorf("%s %s %s: %v", c.config, c.special, c.added, err)
			continue
		}
		ids := tok.Encode("a<n2><x><tool><s><n1>", false)
		if got := fmt.Sprintf("%v %s bos %d eos %d", ids, tok.Decode(ids, true), tok.BOS(), tok.EOS()); got != c.want {
			t.Errorf("%s %s %s: %s, want %s", c.config, c.special, c.added, got, c.want)
		}
	}
	for _, c := range []struct{ special, added, want string }{
		{`{"eos_token":"<none>"}`, `{}`, `special_tokens_map.json: eos_token "<none>" is not in the vocabulary`},
		{`{}`, `{"<n1>":9}`, `added_tokens.json: "<n1>" has id 9, by tokenizer.json its id is 5`},
		{`{}`, `{"<n1>":"5"}`, `added_tokens.json: "<n1>" has "5", want an id`},
	} {
		_, err := parseHF([]byte(file), []byte(`{"eos_token":"</s>"}`), map[string][]byte{"special_tokens_map.json": []byte(c.special), "added_tokens.json": []byte(c.added)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.special, c.added, err, c.want)
		}
	}
}
