package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// rankedTokens are the tokens of a byte-level tokenizer.json as bytes, by rank.
func rankedTokens(t *testing.T, f fastJSON) [][]byte {
	t.Helper()
	out := make([][]byte, len(f.Model.Vocab))
	for s, id := range f.Model.Vocab {
		b := appendBytes(nil, s)
		if int(id) >= len(out) || b == nil {
			t.Fatalf("token %q has id %d", s, id)
		}
		out[id] = b
	}
	return out
}

func TestTiktokenModel(t *testing.T) {
	f, config := published(t, "llama3")
	var b strings.Builder
	for rank, tok := range rankedTokens(t, f) {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString(tok), rank)
	}
	config = swap(t, config, "{", `{"add_bos_token":false,`) // as the file that made the vectors
	files := map[string]string{"tokenizer.model": b.String(), "tokenizer_config.json": config, "config.json": `{"model_type":"llama"}`}
	tok, err := Open(folder{files: files})
	if err != nil {
		t.Fatal(err)
	}
	checkVectors(t, tok, "llama3")
	got, err := tok.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	if got[1].Value != "llama-bpe" {
		t.Errorf("pre-tokenizer %v", got[1].Value)
	}
	delete(files, "tokenizer_config.json")
	if _, err := Open(folder{files: files}); err == nil || !strings.Contains(err.Error(), "has no special tokens") {
		t.Errorf("without special tokens: %v", err)
	}
}

// Llama 3's tokens in Mistral's file: special tokens come first, so that all other ids
// move, and one of the fillers is past the named ones.
func TestTekken(t *testing.T) {
	f, _ := published(t, "llama3")
	type entry struct {
		Rank  int    `json:"rank"`
		Bytes []byte `json:"token_bytes,omitempty"`
		Text  string `json:"token_str,omitempty"`
	}
	var vocab []entry
	for i, tok := range rankedTokens(t, f) {
		vocab = append(vocab, entry{Rank: i, Bytes: tok})
	}
	vocab = append(vocab, entry{Rank: len(vocab), Bytes: []byte("a token beyond the size")})
	raw, err := json.Marshal(map[string]any{
		"config":         map[string]any{"pattern": llama3Pattern, "default_vocab_size": len(vocab) - 1 + 5, "default_num_special_tokens": 5, "version": "v3"},
		"vocab":          vocab,
		"special_tokens": []entry{{Text: "<unk>"}, {Rank: 1, Text: "<s>"}, {Rank: 2, Text: "</s>"}, {Rank: 3, Text: "[INST]"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Open(folder{files: map[string]string{"tekken.json": string(raw), "config.json": `{"model_type":"mistral"}`}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range vectors(t, "llama3") {
		if strings.Contains(c.Text, "<") || strings.Contains(c.Text, "[INST]") {
			continue // names of special tokens, which differ
		}
		got := tok.Encode(c.Text, false)
		want := fmt.Sprint(c.IDs)
		for i := range got {
			got[i] -= 5
		}
		if fmt.Sprint(got) != want {
			t.Fatalf("Encode(%q)\n got %v\nwant %v", clip(c.Text), got, want)
		}
	}
	if got := fmt.Sprint(tok.Encode("[INST]<SPECIAL_4></s>", true)); got != "[1 3 4 2]" {
		t.Errorf("special tokens are %s", got)
	}
	if tok.BOS() != 1 || tok.EOS() != 2 || tok.UNK() != 0 || tok.PAD() != -1 || tok.Size() != len(vocab)-1+5 {
		t.Errorf("bos %d eos %d unk %d pad %d, %d tokens", tok.BOS(), tok.EOS(), tok.UNK(), tok.PAD(), tok.Size())
	}
}

func TestRankedErrors(t *testing.T) {
	good := `{"config":{"pattern":"a","default_num_special_tokens":1,"default_vocab_size":3},"vocab":[{"rank":0,"token_bytes":"YQ=="},{"rank":1,"token_bytes":"Yg=="}],"special_tokens":[{"rank":0,"token_str":"<s>"}]}`
	for _, c := range []struct{ old, with, want string }{
		{`"pattern":"a"`, `"pattern":""`, "config.pattern is missing"},
		{`,"special_tokens":[{"rank":0,"token_str":"<s>"}]`, "", "special_tokens is missing"},
		{`"default_num_special_tokens":1`, `"default_num_special_tokens":0`, "default_num_special_tokens is 0"},
		{`"default_num_special_tokens":1`, `"default_num_special_tokens":1000000000`, "default_num_special_tokens is 1000000000"},
		{`"default_vocab_size":3`, `"default_vocab_size":0`, "is less than the 1 special tokens"},
		{`{"rank":1,`, `{"rank":2,`, "entry 1 has rank 2"},
		{`"Yg=="`, `"YQ=="`, "has ranks 0 and 1"},
		{`"Yg=="`, `"PHM+"`, "is the special token 0"},
		{`{"rank":0,"token_str":"<s>"}`, `{"rank":3,"token_str":"<s>"}`, "has rank 3"},
	} {
		_, err := Open(folder{files: map[string]string{"tekken.json": swap(t, good, c.old, c.with)}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "model/tekken.json") {
			t.Errorf("%s: got %v, want %q", c.with, err, c.want)
		}
	}
	for _, c := range []struct{ file, want string }{
		{"YQ== 0\nYg== 2\n", `line 2: the rank is "2", want 1`}, {"YQ== 0\n?? 1\n", "line 2: \"??\" is no token"},
		{"YQ== 0\nYQ== 1\n", "has ranks 0 and 1"}, {"", "it has no tokens"},
	} {
		_, err := Open(folder{files: map[string]string{"qwen.tiktoken": c.file, "config.json": `{"model_type":"qwen"}`}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.file, err, c.want)
		}
	}
	long := base64.StdEncoding.EncodeToString(make([]byte, 70<<10)) + " 0\n"
	if _, err := Open(folder{files: map[string]string{"qwen.tiktoken": long, "config.json": `{"model_type":"qwen"}`}}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a token of 70 kB: %v", err)
	}
}

func FuzzTekken(f *testing.F) {
	f.Add([]byte(`{"config":{"pattern":"a+","default_vocab_size":4},"vocab":[{"rank":0,"token_bytes":"YQ=="},{"rank":1,"token_bytes":"YWE="}],"special_tokens":[{"rank":0,"token_str":"<s>"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tok, err := Open(folder{files: map[string]string{"tekken.json": string(raw)}})
		if err != nil {
			return
		}
		if _, err := tok.TryEncode("aaa <s>", true); err != nil {
			t.Skip()
		}
		if _, err := tok.HFFiles(); err != nil {
			t.Fatal(err)
		}
	})
}
