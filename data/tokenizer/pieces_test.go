package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// t5Folder is a folder with a unigram model that has nmt_nfkc rules, under T5's name of
// it (testdata/spm/make_pieces.py).
func t5Folder(t *testing.T) folder {
	t.Helper()
	return folder{files: map[string]string{"spiece.model": string(testdir.ReadFile(t, "testdata/spm/t5-nfkc.model")), "config.json": `{"model_type":"t5"}`, "tokenizer_config.json": `{"extra_ids":2}`}}
}

// TestPrecompiled: ids and texts of a model with compiled rules are those of Hugging
// Face's tokenizers; also by way of its tokenizer.json, and of a GGUF.
func TestPrecompiled(t *testing.T) {
	tok, err := Open(t5Folder(t))
	if err != nil {
		t.Fatal(err)
	}
	files, err := tok.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil {
		t.Fatal(err)
	}
	kv, err := tok.GGUFKeysFor(tok.Size() + 3)
	if err != nil {
		t.Fatal(err)
	}
	gguf, err := FromGGUF(kv)
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]*Tokenizer{"spiece.model": tok, "tokenizer.json": again, "gguf": gguf} {
		n := 0
		for sc := bufio.NewScanner(bytes.NewReader(testdir.ReadFile(t, "testdata/spm/t5-nfkc.jsonl"))); sc.Scan(); n++ {
			var want vectorCase
			if err := json.Unmarshal(sc.Bytes(), &want); err != nil {
				t.Fatal(err)
			}
			if name == "gguf" && strings.Contains(want.Text, "\u0085") { // white to Hugging Face's library, and not to SentencePiece
				continue
			}
			if got := tok.Encode(want.Text, false); !slices.Equal(got, want.IDs) {
				t.Errorf("%s: Encode(%q)\n got %v\nwant %v", name, want.Text, got, want.IDs)
			}
			if got := tok.Encode(want.Text, true); !slices.Equal(got, append(slices.Clone(want.IDs), 1)) {
				t.Errorf("%s: Encode(%q, special) ends with %v", name, want.Text, got)
			}
			if got := tok.Decode(want.IDs, false); got != want.Decoded {
				t.Errorf("%s: Decode(%v)\n got %q\nwant %q", name, want.IDs, got, want.Decoded)
			}
		}
		if n < 80 {
			t.Fatalf("%d cases", n)
		}
		if tok.EOS() != 1 || tok.UNK() != 2 || tok.PAD() != 0 {
			t.Errorf("%s: eos %d, unk %d, pad %d", name, tok.EOS(), tok.UNK(), tok.PAD())
		}
	}
}

// The keys of a Unigram model are those that llama.cpp's converter writes.
func TestUnigramKeys(t *testing.T) {
	tok, err := Open(t5Folder(t))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := tok.GGUFKeysFor(tok.Size() + 1)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, e := range kv {
		got[strings.TrimPrefix(e.Key, ggufTok)] = e.Value
	}
	tokens, types, scores := got["tokens"].([]string), got["token_type"].([]int32), got["scores"].([]float32)
	last := len(tokens) - 1
	if tokens[0] != "<pad>" || types[0] != 3 || tokens[2] != "<unk>" || types[2] != 2 || types[3] != 1 || !strings.HasPrefix(tokens[last], "[PAD") || types[last] != 5 || scores[last] != -10000 || scores[3] >= 0 {
		t.Errorf("tokens %q … types %v … scores %v …", tokens[:4], types[:4], scores[:4])
	}
	for key, want := range map[string]any{"model": "t5", "pre": "default", "add_space_prefix": true, "remove_extra_whitespaces": true, "add_eos_token": true, "add_bos_token": false, "eos_token_id": uint32(1), "unknown_token_id": uint32(2), "padding_token_id": uint32(0)} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if rules, _ := got["precompiled_charsmap"].([]uint8); len(rules) < 100_000 {
		t.Errorf("%d bytes of rules", len(rules))
	}
}

// llama.cpp's ids (b11549, a vocabulary alone with these keys, llama_tokenize): the space before a text goes before another one, too, not
// before spaces alone, and pieces reach over words.
func TestUnigramOfGGUF(t *testing.T) {
	kv := []formats.KV{
		{Key: ggufTok + "model", Value: "t5"}, {Key: ggufTok + "pre", Value: "default"},
		{Key: ggufTok + "tokens", Value: []string{"<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "a▁b", "▁▁"}},
		{Key: ggufTok + "scores", Value: []float32{0, 0, 0, -2, -3, -3, -2.5, -1, -1.5}},
		{Key: ggufTok + "token_type", Value: []int32{3, 3, 2, 1, 1, 1, 1, 1, 1}},
		{Key: spacePrefixKey, Value: true}, {Key: dropSpacesKey, Value: false},
		{Key: ggufTok + "eos_token_id", Value: uint32(1)}, {Key: ggufTok + "unknown_token_id", Value: uint32(2)}, {Key: ggufTok + "add_eos_token", Value: true},
	}
	tok, err := FromGGUF(kv)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]int32{
		"a b": {3, 7, 1}, " a": {3, 6, 1}, "a": {6, 1}, "  a b ": {3, 8, 7, 3, 1}, "</s> a": {1, 3, 6, 1}, " ": {3, 1}, "▁a": {3, 6, 1},
	} {
		if got := tok.Encode(text, true); !slices.Equal(got, want) {
			t.Errorf("Encode(%q)\n got %v\nwant %v", text, got, want)
		}
	}
	again, err := tok.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	if tok, err = FromGGUF(again); err != nil || !slices.Equal(tok.Encode("  a b ", true), []int32{3, 8, 7, 3, 1}) {
		t.Errorf("its own keys give %v, %v", tok.Encode("  a b ", true), err)
	}
	// A pipeline that cuts words finds no piece over two.
	files, err := tok.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	cuts := bytes.Replace(files["tokenizer.json"], []byte(`"split":false`), []byte(`"split":true`), 1)
	if tok, err = Parse(cuts, files["tokenizer_config.json"]); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.GGUFKeys(); err == nil || !strings.Contains(err.Error(), `piece 7, "a▁b", reaches beyond one`) {
		t.Errorf("got %v", err)
	}
}

// TestPieces: small tokenizers of WordPiece, and with compiled rules, give what Hugging
// Face's tokenizers give (testdata/spm/make_pieces.py); so do those that go by way of
// the keys of a GGUF, where it can say what they do.
func TestPieces(t *testing.T) {
	written := 0
	for line := range bytes.Lines(testdir.ReadFile(t, "testdata/spm/pieces.jsonl")) {
		var p struct {
			Name      string
			Tokenizer json.RawMessage
			Cases     []struct {
				vectorCase
				Skipped string
			}
		}
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		t.Run(p.Name, func(t *testing.T) {
			tok, err := Parse(p.Tokenizer, nil)
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]*Tokenizer{"tokenizer.json": tok}
			if kv, err := tok.GGUFKeys(); err == nil {
				written++
				if all["gguf"], err = FromGGUF(kv); err != nil {
					t.Fatal(err)
				}
				own, err := all["gguf"].hfTokenizer()
				if err != nil {
					t.Fatal(err)
				}
				if all["made"], err = Parse(own, nil); err != nil {
					t.Fatal(err)
				}
			} else {
				t.Log(err)
			}
			for name, tok := range all {
				for _, c := range p.Cases {
					if got := tok.Encode(c.Text, false); !slices.Equal(got, c.IDs) {
						t.Errorf("%s: Encode(%q)\n got %v\nwant %v", name, c.Text, got, c.IDs)
					}
					if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDsSpecial) {
						t.Errorf("%s: Encode(%q, special)\n got %v\nwant %v", name, c.Text, got, c.IDsSpecial)
					}
					if got := tok.Decode(c.IDsSpecial, false); got != c.Decoded {
						t.Errorf("%s: Decode of %q\n got %q\nwant %q", name, c.Text, got, c.Decoded)
					}
					if got := tok.Decode(c.IDsSpecial, true); got != c.Skipped {
						t.Errorf("%s: Decode of %q without special tokens\n got %q\nwant %q", name, c.Text, got, c.Skipped)
					}
					s, parts := tok.Stream(true), ""
					for _, id := range c.IDsSpecial {
						parts += s.Push(id)
					}
					if parts += s.Flush(); parts != c.Skipped {
						t.Errorf("%s: stream of %q\n got %q\nwant %q", name, c.Text, parts, c.Skipped)
					}
				}
			}
		})
	}
	if written < 1 {
		t.Errorf("%d of them became a GGUF", written)
	}
}

// A folder with vocab.txt is read by the rules of BertTokenizer.
func TestVocabTxt(t *testing.T) {
	files := map[string]string{"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##able\n,\nA\n", "config.json": `{"model_type":"bert"}`}
	encode := func(config, text string) []int32 {
		t.Helper()
		files["tokenizer_config.json"] = config
		tok, err := Open(folder{files: maps.Clone(files)})
		if err != nil {
			t.Fatal(err)
		}
		return tok.Encode(text, true)
	}
	for _, c := range []struct {
		config, text string
		want         []int32
	}{
		{`{}`, "Unable, [MASK] A", []int32{2, 5, 6, 7, 4, 1, 3}},
		{`{"do_lower_case":false}`, "Unable A", []int32{2, 1, 8, 3}},
		{`{"cls_token":"A","sep_token":{"content":"[PAD]"}}`, "un", []int32{8, 5, 0}},
	} {
		if got := encode(c.config, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, want %v", c.config, c.text, got, c.want)
		}
	}
	for vocab, want := range map[string]string{"[UNK]\na\na\n": "line 3", "a\nb\n": "[UNK]", "[UNK]\n": "cls_token"} {
		_, err := Open(folder{files: map[string]string{"vocab.txt": vocab, "config.json": `{"model_type":"bert"}`}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", vocab, err, want)
		}
	}
}

// FuzzCharsmap: compiled rules of any bytes are refused, or leave texts texts.
func FuzzCharsmap(f *testing.F) {
	f.Add([]byte(nil), "x")
	f.Add([]byte("\x04\x00\x00\x00\xff\xff\xff\xffa\x00"), "ab")
	unit := func(v ...uint32) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(4*len(v)))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, x)
		}
		return b
	}
	f.Add(append(unit(1<<10, 'a'|1<<8|1<<10, 0), "z\x00"...), "aéa\r\n")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		m, err := parseCharsmap(raw)
		if err != nil {
			return
		}
		n := m.normalizer()
		if got := n.apply(text); len(got) != n.most(text) {
			t.Errorf("%d bytes of %q, foretold were %d", len(got), text, n.most(text))
		}
		config := `{"normalizer":{"type":"Precompiled","precompiled_charsmap":"` + base64.StdEncoding.EncodeToString(raw) + `"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1]]}}`
		tok, err := Parse([]byte(config), nil)
		if err == nil {
			_, _ = tok.TryEncode(text, true)
		}
	})
}

// FuzzPieceKeys: keys of a Unigram or WordPiece vocabulary are refused, or make a
// tokenizer that takes any text.
func FuzzPieceKeys(f *testing.F) {
	f.Add("t5", "<pad>\n</s>\n<unk>\n▁a\nb", "a b", []byte(nil), uint32(2))
	f.Add("bert", "[UNK]\n[CLS]\n[SEP]\n▁a\nb", "ab", []byte(nil), uint32(0))
	f.Add("t5", "a", "a", []byte("\x04\x00\x00\x00\xff\xff\xff\xff"), uint32(9))
	f.Fuzz(func(t *testing.T, model, tokens, text string, rules []byte, unk uint32) {
		list := strings.Split(tokens, "\n")
		kv := []formats.KV{{Key: ggufTok + "model", Value: model}, {Key: ggufTok + "tokens", Value: list}, {Key: ggufTok + "scores", Value: make([]float32, len(list))}, {Key: ggufTok + "unknown_token_id", Value: unk}}
		if rules != nil {
			kv = append(kv, formats.KV{Key: charsmapKey, Value: rules})
		}
		tok, err := FromGGUF(kv)
		if err != nil {
			return
		}
		ids, err := tok.TryEncode(text, true)
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Size() {
				t.Fatalf("id %d of %d (%v)", id, tok.Size(), err)
			}
		}
		tok.Decode(ids, false)
	})
}

// Rules that are compiled drop a mark here, as T5Tokenizer does, which llama.cpp keeps: a note says so.
func TestCompiledNote(t *testing.T) {
	for name, note := range map[string]bool{"t5-nfkc": true, "t5": false} {
		tok, err := Open(folder{files: map[string]string{"spiece.model": string(testdir.ReadFile(t, "testdata/spm/"+name+".model")), "config.json": `{"model_type":"t5"}`}})
		if err != nil {
			t.Fatal(err)
		}
		if dropped := slices.Equal(tok.Encode("the \uff41\u0301", false), tok.Encode("the a", false)); dropped != note {
			t.Errorf("%s drops the mark: %t", name, dropped)
		}
		if got := tok.GGUFNote(); strings.Contains(got, "precompiled_charsmap") != note {
			t.Errorf("%s: note %q", name, got)
		}
	}
}

// A space before the beginning of a text only becomes the one that GGUF has, with a note, and so
// do those beside user-defined pieces.
func TestFirstSpace(t *testing.T) {
	for legacy, note := range map[string]string{"true": `no space goes behind user-defined pieces ("<user>" is one)`, "false": "the beginning of a text only (legacy: false)"} {
		tok, err := Open(folder{files: map[string]string{"tokenizer.model": string(testdir.ReadFile(t, "testdata/spm/bpe.model")), "tokenizer_config.json": `{"tokenizer_class":"LlamaTokenizer","legacy":` + legacy + `}`}})
		if err != nil {
			t.Fatal(err)
		}
		kv, err := tok.GGUFKeys()
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.GGUFNote(); !strings.HasPrefix(strings.TrimPrefix(got, "a space goes before "), note) {
			t.Errorf("legacy %s: %q", legacy, got)
		}
		back, err := FromGGUF(kv)
		if err != nil {
			t.Fatal(err)
		}
		if text := "To be, or not"; !slices.Equal(tok.Encode(text, true), back.Encode(text, true)) {
			t.Errorf("legacy %s: %v, from a GGUF %v", legacy, tok.Encode(text, true), back.Encode(text, true))
		}
	}
}

// The unknown token spelled beside unknown characters is one piece with them. The ids are those of
// tokenizers 0.23: Tokenizer.from_str(config).encode(text).ids.
func TestUnknownSpelled(t *testing.T) {
	bytes := ""
	for b := range 256 {
		bytes += fmt.Sprintf(`,["<0x%02X>",-9]`, b)
	}
	for _, c := range []struct {
		more, text string
		want       []int32
	}{
		{"", "a<unk>b", []int32{1, 0, 2}},
		{"", "é<unk>b", []int32{0, 2}},
		{"", "a<unk>éé<unk>", []int32{1, 0}},
		{"", "<unk><unk>", []int32{0}},
		{bytes, "a<unk>b", []int32{1, 0, 2}},
		{bytes, "é<unk>b", []int32{198, 172, 63, 120, 113, 110, 65, 2}},
		{bytes, "<unk><unk>", []int32{63, 120, 113, 110, 65, 63, 120, 113, 110, 65}},
	} {
		tok, err := Parse([]byte(`{"model":{"type":"Unigram","unk_id":0,"byte_fallback":`+fmt.Sprint(c.more != "")+`,"vocab":[["<unk>",0],["a",-1],["b",-2]`+c.more+`]}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(c.text, false); !slices.Equal(got, c.want) {
			t.Errorf("%q, %d bytes: %v, want %v", c.text, len(c.more), got, c.want)
		}
	}
}

// A text whose first character a normalizer takes gets no ▁ from Metaspace's scheme first; what it
// would take of that character alone says nothing. The ids are those of tokenizers 0.23, with this config.
func TestHeadlessText(t *testing.T) {
	for _, c := range []struct {
		normalizer, text string
		want             []int32
	}{
		{`{"type": "Strip", "strip_left": false, "strip_right": true}`, "\u3000a", []int32{1, 0, 2}},
		{`{"type": "Strip", "strip_left": false, "strip_right": true}`, "a\u3000", []int32{1, 2}},
		{`{"type": "Strip", "strip_left": true, "strip_right": false}`, "\u3000a", []int32{2}},
		{`{"type": "Strip", "strip_left": true, "strip_right": false}`, "a", []int32{1, 2}},
		{`{"type": "Replace", "pattern": {"String": "ab"}, "content": ""}`, "aba", []int32{2}},
		{`{"type": "Replace", "pattern": {"String": "ab"}, "content": ""}`, "aab", []int32{1, 2}},
		{`{"type": "Replace", "pattern": {"String": "ab"}, "content": "x"}`, "aba", []int32{4, 2}},
		{`{"type": "Replace", "pattern": {"String": "ab"}, "content": "x"}`, "aab", []int32{1, 2, 4}},
		{`{"type": "Replace", "pattern": {"String": "a"}, "content": "x"}`, "ab", []int32{1, 4, 3}},
		{`{"type": "Replace", "pattern": {"Regex": "^a+$"}, "content": ""}`, "ab", []int32{1, 2, 3}},
		{`{"type": "Replace", "pattern": {"Regex": "^a+$"}, "content": ""}`, "a", []int32{}},
		{`{"type": "Replace", "pattern": {"Regex": "^a+"}, "content": "x"}`, "ab", []int32{1, 4, 3}},
		{`{"type": "Replace", "pattern": {"Regex": "^a+"}, "content": "x"}`, "aab", []int32{4, 3}},
	} {
		tok, err := Parse([]byte(`{"normalizer":`+c.normalizer+`,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false},`+
			`"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["▁",-3],["a",-4],["b",-4],["x",-4]]}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(c.text, false); !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, want %v", c.normalizer, c.text, got, c.want)
		}
	}
}
