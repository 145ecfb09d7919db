package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// wordsJSON is a tokenizer of whole words with a decoder, whose tokens are a, b and so on.
func wordsJSON(decoder string, tokens ...string) string {
	vocab := ""
	for i, s := range tokens {
		vocab += comma(i) + quoteJSON(s) + ":" + string(rune('0'+i))
	}
	return `{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":` + decoder +
		`,"model":{"type":"WordLevel","unk_token":"<unk>","vocab":{` + vocab + `}}}`
}

// TestStreamAtOnce: where a token's text depends on whether it is the first or the last
// only, it is shown as soon as the token comes; a stream is what Decode gives in any case.
func TestStreamAtOnce(t *testing.T) {
	tokens := []string{"<unk>", "▁the", "##y", "end</w>", "▁", "x"}
	ids := []int32{1, 2, 3, 1, 4, 5, 5, 0, 3, 3, 2}
	for _, c := range []struct {
		decoder string
		tokens  []string
		late    bool
	}{
		{`null`, tokens, false},
		{`{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}`, tokens, false},
		{`{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":true}`, tokens, false},
		{`{"type":"WordPiece","prefix":"##","cleanup":true}`, tokens, false},
		{`{"type":"BPEDecoder","suffix":"</w>"}`, tokens, false},
		{`{"type":"BPEDecoder","suffix":"</w>"}`, []string{"<unk>", "a</w>b", "##y", "end</w>", "▁", "x"}, true},
		{`{"type":"Fuse"}`, tokens, false},
		{`{"type":"CTC","pad_token":"x","word_delimiter_token":"▁","cleanup":true}`, tokens, true},
		{`{"type":"Sequence","decoders":[{"type":"WordPiece","prefix":"##","cleanup":true},{"type":"Fuse"}]}`, tokens, true},
	} {
		tok, err := Parse([]byte(wordsJSON(c.decoder, c.tokens...)), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, got, late := tok.Stream(false), "", false
		for i, id := range ids {
			got += s.Push(id)
			late = late || got != tok.Decode(ids[:i+1], false)
		}
		if got += s.Flush(); got != tok.Decode(ids, false) || late != c.late {
			t.Errorf("%s: %q, want %q, late %t", c.decoder, got, tok.Decode(ids, false), late)
		}
		pieces := tok.Pieces(ids)
		if strings.Join(pieces, "") != got || pieces[len(ids)-1] != pieces[1] && !strings.Contains(c.decoder, "BPE") && !strings.Contains(c.decoder, "CTC") {
			t.Errorf("%s: pieces %q, want %q", c.decoder, pieces, got)
		}
		if n := tok.Pieces(ids[:1]); n[0] != tok.Decode(ids[:1], false) {
			t.Errorf("%s: one piece %q", c.decoder, n)
		}
	}
}

// TestHashOfModel: all that shapes ids shapes the hash.
func TestHashOfModel(t *testing.T) {
	pieces := `{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordPiece","unk_token":"<unk>","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"<unk>":0,"a":1,"##a":2}}}`
	bpe := `{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"continuing_subword_prefix":"","end_of_word_suffix":"","vocab":{"<unk>":0,"a":1,"##a":2},"merges":[]}}`
	all := []string{pieces, swap(t, pieces, ":100", ":2"), swap(t, pieces, `"##",`, `"#",`), swap(t, pieces, `"WordPiece"`, `"WordLevel"`),
		bpe, swap(t, bpe, `"fuse_unk":false`, `"fuse_unk":true`), swap(t, bpe, `"byte_fallback":false`, `"byte_fallback":true`), swap(t, bpe, `"ignore_merges":false`, `"ignore_merges":true`),
		swap(t, bpe, `prefix":""`, `prefix":"##"`), swap(t, bpe, `suffix":""`, `suffix":"##"`)}
	var seen []string
	for _, s := range all {
		tok, err := Parse([]byte(s), nil)
		if err != nil {
			t.Fatal(s, err)
		}
		if slices.Contains(seen, tok.Hash()) {
			t.Errorf("another tokenizer has the hash of %s", s)
		}
		seen = append(seen, tok.Hash())
		own, err := tok.hfTokenizer()
		if strings.Contains(s, "WordLevel") {
			if err == nil {
				t.Errorf("a tokenizer of words was written as %s", own)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(own, nil); err != nil || again.Hash() != tok.Hash() {
			t.Errorf("written as %s, %v", own, err)
		}
	}
}
