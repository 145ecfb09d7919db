package tokenizer

import (
	"errors"
	"fmt"
	"github.com/tunekit/tunekit/formats"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/tunekit/tunekit/formats/fail"
)

// tinyJSON is a byte-level tokenizer of all bytes and a few merges.
func tinyJSON(t testing.TB) string {
	t.Helper()
	raw, err := TrainBPE(slices.Values([]string{"the cat and the hat", "the end of the end"}), 266, []string{"<s>", "</s>", "<|x|>"})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// swap replaces old in s, which must be there.
func swap(t testing.TB, s, old, with string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%q is not in the file", old)
	}
	return strings.Replace(s, old, with, 1)
}

func TestHostileTokenizer(t *testing.T) {
	good := tinyJSON(t)
	vocab := `"vocab": {`
	pre := `"pre_tokenizer": ` + smollmPre
	deep := strings.Repeat(`{"type":"Sequence","normalizers":[`, 10000) + strings.Repeat("]}", 10000)
	for name, c := range map[string]struct{ file, want string }{
		"empty":              {"", "want '{'"},
		"truncated":          {good[:len(good)/2], "byte"},
		"no model":           {`{"version":"1.0"}`, "model is missing"},
		"two values":         {good + "{}", "text after the end"},
		"model type":         {swap(t, good, `"type": "BPE"`, `"type": "WordGuess"`), `type "WordGuess" is not supported`},
		"duplicate token":    {swap(t, good, vocab, vocab+`"!": 7777,`), `token "!" has ids`},
		"duplicate id":       {swap(t, good, vocab, vocab+`"zzz": 5,`), "belongs to"},
		"negative id":        {swap(t, good, vocab, vocab+`"zzz": -5,`), `"-5" is no token id`},
		"huge id":            {swap(t, good, vocab, vocab+`"zzz": 2147483647,`), "far beyond"},
		"id over 31 bits":    {swap(t, good, vocab, vocab+`"zzz": 2147483648,`), "is no token id"},
		"fraction":           {swap(t, good, vocab, vocab+`"zzz": 1.5,`), "is no token id"},
		"merge of nothing":   {swap(t, good, `"merges": [`, `"merges": ["zz q",`), `token "zz" is not in the vocabulary`},
		"merge of one":       {swap(t, good, `"merges": [`, `"merges": ["abc",`), "is no pair"},
		"merge of three":     {swap(t, good, `"merges": [`, `"merges": [["a","b","c"],`), "has 3 parts"},
		"lone surrogate":     {swap(t, good, vocab, vocab+`"\ud800": 300,`), "lone surrogate"},
		"deep":               {swap(t, good, `"normalizer": null`, `"normalizer": `+deep), "nested deeper"},
		"unknown normalizer": {swap(t, good, `"normalizer": null`, `"normalizer": {"type":"Mystery"}`), `normalizer: type "Mystery" is not supported`},
		"unknown pre":        {swap(t, good, pre, `"pre_tokenizer": {"type":"Mystery"}`), `pre_tokenizer: type "Mystery" is not supported`},
		"unknown post":       {swap(t, good, `"post_processor": null`, `"post_processor": {"type":"Mystery"}`), `post_processor: type "Mystery" is not supported`},
		"unknown decoder":    {swap(t, good, `"decoder": `+byteLevelJSON, `"decoder": {"type":"Mystery"}`), `decoder type "Mystery" is not supported`},
		"unknown behavior":   {swap(t, good, pre, `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"a"},"behavior":"Mystery","invert":false}`), `split behavior "Mystery" is unknown`},
		"bad pattern":        {swap(t, good, pre, `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated","invert":false}`), "pattern"},
		"set in a set":       {swap(t, good, pre, `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"[a[bc]]"},"behavior":"Isolated","invert":false}`), "a set inside a set"},
		"intersection":       {swap(t, good, pre, `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"[a&&b]"},"behavior":"Isolated","invert":false}`), "an intersection of sets"},
		"long pattern":       {swap(t, good, pre, `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"`+strings.Repeat("a", 1<<20)+`"},"behavior":"Isolated","invert":false}`), "is longer than"},
		"empty added":        {swap(t, good, `"content": "<s>"`, `"content": ""`), "is empty"},
		"added elsewhere":    {swap(t, good, `"content": "<s>"`, `"content": "<new>"`), "has id 0 here, and 266 for Hugging Face's library"},
		"added moves":        {swap(t, good, `"id": 1, "content": "</s>"`, `"id": 0, "content": "</s>"`), "has id 0 here and 1"},
		"template id":        {swap(t, good, `"post_processor": null`, `"post_processor": {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[99999],"tokens":["<s>"]}}}`), "lies outside the vocabulary"},
		"dropout":            {swap(t, good, `"dropout": null`, `"dropout": 0.1`), "dropout"},
		"prefix":             {swap(t, good, `"continuing_subword_prefix": null`, `"continuing_subword_prefix": "##"`), "shorter than continuing_subword_prefix"},
		"two processors":     {swap(t, good, `"post_processor": null`, `"post_processor": {"type":"Sequence","processors":[{"type":"BertProcessing","sep":["a",0],"cls":["a",0]},{"type":"BertProcessing","sep":["a",0],"cls":["a",0]}]}`), "behind another that adds tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.file), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if !errors.Is(err, ErrFormat) || fail.Code(err) != 3 {
				t.Errorf("%T: exit %d", err, fail.Code(err))
			}
		})
	}
}

func TestTokenizerConfig(t *testing.T) {
	good := tinyJSON(t)
	tok, err := Parse([]byte(good), []byte(`{"bos_token":{"content":"<s>"},"eos_token":"</s>","pad_token":"<none>","chat_template":[{"name":"tool_use","template":"x"},{"name":"default","template":"y"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if tok.BOS() != 0 || tok.EOS() != 1 || tok.PAD() != -1 || tok.ChatTemplate() != "y" {
		t.Errorf("bos %d eos %d pad %d template %q", tok.BOS(), tok.EOS(), tok.PAD(), tok.ChatTemplate())
	}
	for config, want := range map[string]string{
		`{"eos_token":"<gone>"}`: `eos_token "<gone>" is not in the vocabulary`,
		`[]`:                     "is no JSON object",
		`{`:                      "tokenizer_config.json",
	} {
		if _, err := Parse([]byte(good), []byte(config)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
	}
}

// A gap in the ids is allowed; both spellings of merges are read.
func TestTokenizerGaps(t *testing.T) {
	good := tinyJSON(t)
	a, err := Parse([]byte(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse([]byte(swap(t, swap(t, good, `"vocab": {`, `"vocab": {"zz\u00e9\ud83e\udd99": 300,`), `"h e"`, `["h","e"]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Size() != 301 || b.Token(290) != "" || b.Token(300) != "zzé🦙" || b.Token(-1) != "" || b.Token(301) != "" {
		t.Errorf("%d tokens, %q", b.Size(), b.Token(300))
	}
	if x, y := a.Encode("the cat", false), b.Encode("the cat", false); !slices.Equal(x, y) {
		t.Errorf("%v and %v", x, y)
	}
	if a.Hash() == b.Hash() || len(a.Hash()) != 64 {
		t.Errorf("hashes %s and %s", a.Hash(), b.Hash())
	}
}

// A pattern that backtracks without end is an error of the limit kind, not a
// hang.
func TestRunawayPattern(t *testing.T) {
	pre := `"pre_tokenizer": {"type":"Split","pattern":{"Regex":"(a+)+\\z"},"behavior":"Isolated","invert":false}`
	tok, err := Parse([]byte(swap(t, tinyJSON(t), `"pre_tokenizer": `+smollmPre, pre)), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tok.TryEncode(strings.Repeat("a", 100)+"b", false)
	if fail.Code(err) != int(fail.Limit) {
		t.Errorf("got %v", err)
	}
	if ids := tok.Encode("aaa", false); len(ids) == 0 {
		t.Error("no ids after the failure")
	}
}

func TestSpecialText(t *testing.T) {
	tok, err := Parse([]byte(tinyJSON(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	const text = "the <|x|> end"
	if ids := tok.Encode(text, false); !slices.Contains(ids, 2) || tok.Decode(ids, true) != "the  end" {
		t.Errorf("Encode: %v", ids)
	}
	if ids, err := tok.EncodePlain(text); err != nil || slices.Contains(ids, 2) || tok.Decode(ids, true) != text {
		t.Errorf("EncodePlain: %v, %v", ids, err)
	}
}

// TestForgedControl: a control token that stands in a vocabulary is no piece of a text,
// whatever the model.
func TestForgedControl(t *testing.T) {
	const added = `"added_tokens":[{"id":1,"content":"</s>","special":true}]`
	for _, c := range []struct{ name, model, text string }{
		{"Unigram", `{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["</s>",0],["<",-2],["/",-2],["s",-2],[">",-2],["a",-1]]}`, "</s>a"},
		{"WordLevel", `{"type":"WordLevel","unk_token":"<unk>","vocab":{"<unk>":0,"</s>":1,"a":2}}`, "</s>"},
		{"WordPiece", `{"type":"WordPiece","unk_token":"<unk>","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"<unk>":0,"</s>":1,"a":2}}`, "</s>"},
	} {
		tok, err := Parse([]byte(`{"model":`+c.model+`,`+added+`}`), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if ids := tok.Encode(c.text, false); !slices.Contains(ids, 1) {
			t.Errorf("%s: Encode: %v", c.name, ids)
		}
		if ids, err := tok.EncodePlain(c.text); err != nil || len(ids) == 0 || slices.Contains(ids, 1) {
			t.Errorf("%s: EncodePlain: %v, %v", c.name, ids, err)
		}
	}
}

// Flags of added tokens: white space they take along, words they must be.
func TestAddedTokenFlags(t *testing.T) {
	trie := newAddedTrie()
	for i, a := range []addedToken{
		{Content: "<l>", LStrip: true}, {Content: "<r>", RStrip: true}, {Content: "yes", SingleWord: true}, {Content: "<r>x"},
	} {
		a.ID = int32(i)
		trie.add(a.Content, a)
	}
	for text, want := range map[string]string{
		"a  <l> b":       "a|0| b",
		"a <r>  b":       "a |1|b",
		"<r>xy":          "3|y",
		"yes yesterday":  "2| yesterday",
		"ayes, yes":      "ayes, |2",
		"<r> <l>":        "1|0",
		"<l<l>":          "<l|0",
		"no token":       "no token",
		"<l>":            "0",
		"é yes\u0301 <r": "é yes\u0301 <r",
	} {
		var got []string
		trie.split(text, false, func(s string, _ bool) { got = append(got, s) }, func(id int32) { got = append(got, fmt.Sprint(id)) })
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("%q: %q, want %q", text, s, want)
		}
	}
}

// One tokenizer serves many goroutines.
func TestConcurrentEncode(t *testing.T) {
	tok, err := Parse([]byte(tinyJSON(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{"the cat in the hat <|x|>", "ende", strings.Repeat("hat and end ", 50), ""}
	var want [][]int32
	for _, s := range texts {
		want = append(want, tok.Encode(s, false))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				k := i % len(texts)
				if got := tok.Encode(texts[k], false); !slices.Equal(got, want[k]) {
					t.Errorf("%q: %v, want %v", texts[k], got, want[k])
				}
			}
		})
	}
	wg.Wait()
}

// A megabyte without a break takes no quadratic time (the old linear search
// would take hours).
func TestLongWord(t *testing.T) {
	tok, err := Parse([]byte(tinyJSON(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("the", 1<<18)
	if ids := tok.Encode(text, false); tok.Decode(ids, false) != text {
		t.Error("the text came back changed")
	}
}

// The hand-written splitters cut as the regular expressions they stand for.
func FuzzSplitters(f *testing.F) {
	for _, s := range []string{
		"I'M here, don't \r\n\n  worry 12345 ½", " ' 's'S 'll 'Ve\u017f '\u017fx", "a\u0301b 漢字\t\tx  ", "\n \n x\r\r", "  \u00a0\u2003x", "🦙🦙 ok!\n\n!",
	} {
		f.Add(s)
	}
	pairs := map[string]splitter{}
	for _, p := range []string{gpt2Pattern, llama3Pattern, qwen2Pattern, digitPattern, digits3, digitsPattern} {
		re, err := newRegexSplitter(p, "Isolated", false)
		if err != nil {
			f.Fatal(err)
		}
		pairs[p] = re
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		for p, slow := range pairs {
			fast, err := newPatternSplitter(p)
			if err != nil {
				t.Fatal(err)
			}
			var a, b []string
			fast.split(s, true, func(w string, _ bool) { a = append(a, w) })
			slow.split(s, true, func(w string, _ bool) { b = append(b, w) })
			if !slices.Equal(a, b) {
				t.Errorf("%q by %q: %q, want %q", s, p, a, b)
			}
		}
	})
}

// FuzzTokenizerJSON: any bytes give a tokenizer that works or a typed error.
func FuzzTokenizerJSON(f *testing.F) {
	f.Add([]byte(tinyJSON(f)))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"],"unk_token":"a","byte_fallback":true},"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"NFKC"}]},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"},"decoder":{"type":"ByteFallback"}}`))
	f.Add([]byte(`{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1],["ab",-1.5],["▁",-2]]},"added_tokens":[{"id":1,"content":"a","special":true,"normalized":true,"lstrip":true}],"decoder":{"type":"Metaspace","replacement":"▁"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Parse(data, nil)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		ids, err := tok.TryEncode("ab <s> aé\xff1", true)
		if err == nil {
			tok.Decode(ids, false)
			tok.Hash()
		}
	})
}

// FuzzEncodeDecode: a byte-level tokenizer gives back the text, all at once and
// as a stream.
func FuzzEncodeDecode(f *testing.F) {
	tok, err := Parse([]byte(tinyJSON(f)), nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"the cat", "<|x|></s>", "é🦙\u200d\x00\n", "12 the\tend", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		plain, err := tok.EncodePlain(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, ids := range [][]int32{tok.Encode(s, true), plain} {
			if got := tok.Decode(ids, false); got != s {
				t.Errorf("%q became %q", s, got)
			}
			st := tok.Stream(false)
			var b strings.Builder
			for _, id := range ids {
				piece := st.Push(id)
				if !utf8.ValidString(piece) {
					t.Errorf("%q: the piece %q is no text", s, piece)
				}
				b.WriteString(piece)
			}
			b.WriteString(st.Flush())
			if b.String() != s {
				t.Errorf("%q streamed as %q", s, b.String())
			}
		}
	})
}

// FuzzTokenizerConfig: the small files beside tokenizer.json give a tokenizer
// that works, or a typed error.
func FuzzTokenizerConfig(f *testing.F) {
	tokenizer := []byte(tinyJSON(f))
	f.Add([]byte(`{"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"add_bos_token":true,"chat_template":[{"name":"default","template":"{{ messages }}"}],"added_tokens_decoder":{"1":{"content":"a","special":true}}}`),
		[]byte(`{"bos_token":"<s>","additional_special_tokens":["<|x|>"]}`), []byte(`{"eos_token_id":[1,2]}`))
	f.Add([]byte(`{"chat_template":"{{ bos_token }}","clean_up_tokenization_spaces":true}`), []byte(`{"eos_token":{"content":"</s>"}}`), []byte(`{"eos_token_id":3}`))
	f.Fuzz(func(t *testing.T, config, special, generation []byte) {
		tok, err := parseHF(tokenizer, config, map[string][]byte{"special_tokens_map.json": special, "generation_config.json": generation})
		if err != nil {
			var e *fail.Error
			if !errors.As(err, &e) && !errors.Is(err, ErrFormat) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		if ids, err := tok.TryEncode("ab <s> a", true); err == nil {
			tok.Decode(ids, true)
		}
		for _, id := range tok.EOSIDs() {
			if id < 0 || int(id) >= tok.Size() {
				t.Errorf("end %d of %d tokens", id, tok.Size())
			}
		}
	})
}

// FuzzGGUFKeys: any tokenizer keys of a GGUF give a tokenizer that works, or an
// error.
func FuzzGGUFKeys(f *testing.F) {
	f.Add("gpt2", "qwen2", "a|b|ab|<s>", "a b", []byte{1, 1, 1, 3}, []byte{0, 0, 0, 0}, uint32(3), "{{ messages }}")
	f.Add("llama", "default", "<unk>|<s>|\u2581a|<0x41>|a", "", []byte{2, 3, 1, 6, 1}, []byte{0, 0, 9, 0, 1}, uint32(1), "")
	f.Fuzz(func(t *testing.T, model, pre, tokens, merges string, types, scores []byte, bos uint32, template string) {
		list := strings.Split(tokens, "|")
		kinds, weights := make([]int32, len(types)), make([]float32, len(scores))
		for i, b := range types {
			kinds[i] = int32(b)
		}
		for i, b := range scores {
			weights[i] = -float32(b)
		}
		tok, err := FromGGUF([]formats.KV{{Key: "tokenizer.ggml.model", Value: model}, {Key: "tokenizer.ggml.pre", Value: pre}, {Key: "tokenizer.ggml.tokens", Value: list},
			{Key: "tokenizer.ggml.merges", Value: strings.Split(merges, "|")}, {Key: "tokenizer.ggml.token_type", Value: kinds}, {Key: "tokenizer.ggml.scores", Value: weights},
			{Key: "tokenizer.ggml.bos_token_id", Value: bos}, {Key: "tokenizer.chat_template", Value: template}})
		if err != nil {
			return
		}
		ids, err := tok.TryEncode("ab <s> a\u00e9", true)
		if err != nil {
			return
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Size() {
				t.Errorf("id %d of %d tokens", id, tok.Size())
			}
		}
		tok.Decode(ids, false)
	})
}

// Normalizers that make a text longer and longer are an error of the limit kind,
// where the text is encoded or where the file is read.
func TestRunawayNormalizer(t *testing.T) {
	double := strings.TrimSuffix(strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"aa"},`, 40), ",")
	long := `{"type":"Replace","pattern":{"String":"a"},"content":"` + strings.Repeat("b", 1<<21) + `"}`
	pattern := `{"type":"Replace","pattern":{"Regex":"a"},"content":"` + strings.Repeat("b", 1<<21) + `"}`
	for _, list := range []string{double, long, pattern} {
		tok, err := Parse([]byte(swap(t, tinyJSON(t), `"normalizer": null`, `"normalizer": {"type":"Sequence","normalizers":[`+list+`]}`)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tok.TryEncode("a", false); fail.Code(err) != int(fail.Limit) {
			t.Errorf("%.60s: got %v", list, err)
		}
		if ids := tok.Encode("z", false); len(ids) == 0 {
			t.Errorf("%.60s: no ids after the failure", list)
		}
	}
}

// Very long pieces take a time that is bounded by the text's length, and are an error
// of the limit kind where that is not enough; a vocabulary of common ones never is.
func TestLongPieces(t *testing.T) {
	unigram := func(pieces ...int) *Tokenizer {
		vocab := `["<unk>",0]`
		for _, n := range pieces {
			vocab += fmt.Sprintf(`,["%s",%d]`, strings.Repeat("a", n), -n)
		}
		tok, err := Parse([]byte(`{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,`+
			`"model":{"type":"Unigram","unk_id":0,"vocab":[`+vocab+`]}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	tok := unigram(1, 2, 2000)
	for text, limit := range map[string]bool{strings.Repeat("a", 500): false, strings.Repeat("ab", 100_000): false, strings.Repeat("a", 100_000): true} {
		ids, err := tok.TryEncode(text, false)
		if (fail.Code(err) == int(fail.Limit)) != limit || !limit && len(ids) == 0 {
			t.Errorf("%d bytes: %d ids, %v", len(text), len(ids), err)
		}
	}
	if ids, err := unigram(1, 2, 16, 64).TryEncode(strings.Repeat("a", 1<<20), false); err != nil || len(ids) == 0 {
		t.Errorf("%d ids, %v", len(ids), err)
	}
}
