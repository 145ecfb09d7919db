package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// protoBytes is a field of bytes, protoNumber one of a number.
func protoBytes(number uint64, b []byte) []byte {
	out := binary.AppendUvarint(nil, number<<3|wireBytes)
	return append(binary.AppendUvarint(out, uint64(len(b))), b...)
}

func protoNumber(number, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|wireVarint), v)
}

func protoPiece(text string, score float32, kind tokenKind) []byte {
	b := append(protoBytes(1, []byte(text)), byte(2<<3|wireFixed32))
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(score))
	return protoBytes(1, append(b, protoNumber(3, uint64(kind))...))
}

// bpeModel is a tokenizer.model of BPE with byte fallback and the identity normalizer.
func bpeModel(pieces []byte, dummyPrefix uint64) string {
	trainer := protoBytes(2, append(protoNumber(3, spmBPE), protoNumber(35, 1)...))
	norm := append(protoBytes(1, []byte("identity")), protoNumber(3, dummyPrefix)...)
	return string(slices.Concat(pieces, trainer, protoBytes(3, append(norm, protoNumber(4, 0)...))))
}

// llamaModel is Llama 2's tokenizer.model: the GGUF file has its pieces, scores and
// types as they are.
func llamaModel(t *testing.T) string {
	t.Helper()
	g := openGGUF(t, testdir.Shared(t, "llama.cpp-vocab/ggml-vocab-llama-spm.gguf"))
	var pieces []byte
	for i, s := range g.vocab {
		pieces = append(pieces, protoPiece(s, g.scores[i], g.kinds[i])...)
	}
	return bpeModel(pieces, 1)
}

func TestLlamaModel(t *testing.T) {
	files := map[string]string{"tokenizer.model": llamaModel(t), "config.json": `{"model_type":"llama"}`}
	tok, err := Open(folder{files: files})
	if err != nil {
		t.Fatal(err)
	}
	checkVectors(t, tok, "llama2")
	path := testdir.Shared(t, "llama.cpp-vocab/ggml-vocab-llama-spm.gguf")
	texts, ids := vocabCases(t, path)
	kv, err := tok.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	written, err := FromGGUF(kv)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		for _, tok := range []*Tokenizer{tok, written} {
			if got := fmt.Sprint(tok.Encode(text, false)); got != "["+ids[i]+"]" {
				t.Errorf("Encode(%q)\n got %v\nwant %v", text, got, ids[i])
			}
		}
	}
	if tok.BOS() != 1 || tok.EOS() != 2 || tok.UNK() != 0 || !tok.AddsBOS() || tok.AddsEOS() {
		t.Errorf("bos %d eos %d unk %d, adds %t %t", tok.BOS(), tok.EOS(), tok.UNK(), tok.AddsBOS(), tok.AddsEOS())
	}
	// Without the legacy flag no space follows an added token.
	files["tokenizer_config.json"] = `{"tokenizer_class":"LlamaTokenizer","legacy":false}`
	if tok, err = Open(folder{files: files}); err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("Hello</s>Hello", false); !slices.Equal(got, []int32{15043, 2, 10994}) {
		t.Errorf("ids %v", got)
	}
}

// Gemma 3's pieces, with scores in the order of their ids.
func TestGemmaModel(t *testing.T) {
	f, config := published(t, "gemma3")
	user := map[string]bool{}
	control := map[string]bool{"<pad>": true, "<eos>": true, "<bos>": true}
	for _, raw := range f.Added {
		var a addedToken
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatal(err)
		}
		user[a.Content] = true
	}
	vocab := make([]string, len(f.Model.Vocab))
	for s, id := range f.Model.Vocab {
		vocab[id] = s
	}
	var pieces []byte
	for id, s := range vocab {
		kind, score := kindNormal, -float32(id)
		if _, ok := byteToken(s); ok {
			kind, score = kindByte, 0
		} else if s == "<unk>" {
			kind, score = kindUnknown, 0
		} else if control[s] {
			kind, score = kindControl, 0
		} else if user[s] {
			kind, score = kindUser, 0
		}
		pieces = append(pieces, protoPiece(s, score, kind)...)
	}
	tok, err := Open(folder{files: map[string]string{"tokenizer.model": bpeModel(pieces, 0), "tokenizer_config.json": config}})
	if err != nil {
		t.Fatal(err)
	}
	checkVectors(t, tok, "gemma3")
}

// SentencePiece's own ids and texts for models that it trained
// (testdata/spm/make.py).
func TestSentencePieceModels(t *testing.T) {
	for _, c := range []struct{ name, config string }{
		{"bpe", `{"tokenizer_class":"LlamaTokenizer","add_bos_token":false}`},
		{"bpe-spaces", `{"tokenizer_class":"LlamaTokenizer","add_bos_token":false}`},
		{"bpe-noprefix", `{"tokenizer_class":"LlamaTokenizer","add_bos_token":false}`},
		{"unigram", `{"tokenizer_class":"LlamaTokenizer","add_bos_token":false}`},
		{"unigram-user", `{"tokenizer_class":"LlamaTokenizer","add_bos_token":false}`},
		{"t5", `{"tokenizer_class":"T5Tokenizer","extra_ids":2}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := os.ReadFile("testdata/spm/" + c.name + ".model")
			if err != nil {
				t.Fatal(err)
			}
			tok, err := Open(folder{files: map[string]string{"tokenizer.model": string(raw), "tokenizer_config.json": c.config}})
			if err != nil {
				t.Fatal(err)
			}
			files, err := tok.HFFiles()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(files["tokenizer_config.json"]), `"tokenizer_class": "PreTrainedTokenizerFast"`) {
				t.Errorf("Transformers would not take the tokenizer.json as it is: %s", files["tokenizer_config.json"])
			}
			golden, err := os.ReadFile("testdata/spm/" + c.name + ".jsonl")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for sc := bufio.NewScanner(bytes.NewReader(golden)); sc.Scan(); n++ {
				var want vectorCase
				if err := json.Unmarshal(sc.Bytes(), &want); err != nil {
					t.Fatal(err)
				}
				if got := tok.Encode(want.Text, false); !slices.Equal(got, want.IDs) {
					t.Errorf("Encode(%q)\n got %v\nwant %v", want.Text, got, want.IDs)
				}
				if got := tok.Decode(want.IDs, false); got != want.Decoded {
					t.Errorf("Decode(%v)\n got %q\nwant %q", want.IDs, got, want.Decoded)
				}
			}
			if n < 50 {
				t.Fatalf("%d cases", n)
			}
		})
	}
}

// A user-defined piece that a file beside the model names, too, is an added token of Transformers,
// behind which its legacy class puts a space. One of the model alone ends no text, and one with a
// space is found in none.
func TestUserDefinedPieces(t *testing.T) {
	var pieces []byte
	for i, p := range []string{"<unk>", "<s>", "</s>", "▁", "a", "▁a", "b", "[X]", "b a", "\n"} {
		kind := kindNormal
		switch {
		case i == 0:
			kind = kindUnknown
		case i < 3:
			kind = kindControl
		case i > 6:
			kind = kindUser
		}
		pieces = append(pieces, protoPiece(p, -float32(i), kind)...)
	}
	for config, want := range map[string]string{
		``: "[3 7 4 5 6 5 9 4 2 5]",
		`,"added_tokens_decoder":{"7":{"content":"[X]","special":true}}`: "[7 5 5 6 5 9 4 2 5]",
		`,"additional_special_tokens":["[X]","\n"]`:                      "[7 5 5 6 5 9 5 2 5]",
		`,"legacy":false`: "[7 4 5 6 5 9 4 2 4]",
	} {
		tok, err := Open(folder{files: map[string]string{"tokenizer.model": bpeModel(pieces, 1), "tokenizer_config.json": `{"tokenizer_class":"LlamaTokenizer"` + config + `}`}})
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		if got := fmt.Sprint(tok.Encode("[X]a ab a\na</s>a", false)); got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}

// A text that spells a byte becomes no piece of a byte; where pieces reach across each place
// where it could be cut, no tokenizer.json says so.
func TestSpelledByteAcross(t *testing.T) {
	trainer := protoBytes(2, append(protoNumber(3, spmUnigram), protoNumber(35, 1)...))
	norm := protoBytes(3, protoNumber(4, 0))
	for across, want := range map[string]string{"0x": "[2 3 4 0]", "<0": "[2 4 0]", "<0x": ""} {
		pieces := slices.Concat(protoPiece("<unk>", 0, kindUnknown), protoPiece("<0x41>", 0, kindByte), protoPiece("▁", -1, kindNormal), protoPiece("<", -1, kindNormal), protoPiece(across, -1, kindNormal))
		tok, err := Open(folder{files: map[string]string{"tokenizer.model": string(slices.Concat(pieces, trainer, norm)), "config.json": `{"model_type":"llama"}`}})
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "pieces with <0 and with 0x") {
				t.Errorf("%s: %v", across, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(tok.Encode("<0x41>", false)); got != want {
			t.Errorf("%s: %s, want %s", across, got, want)
		}
	}
}

func TestT5Model(t *testing.T) {
	raw, err := os.ReadFile("testdata/spm/t5.model")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Open(folder{files: map[string]string{"tokenizer.model": string(raw), "tokenizer_config.json": `{"tokenizer_class":"T5Tokenizer","extra_ids":3}`}})
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := tok.ID("<extra_id_0>"); id != 602 || tok.Size() != 603 || tok.EOS() != 1 || tok.PAD() != 0 || tok.UNK() != 2 {
		t.Errorf("<extra_id_0> %d of %d, eos %d pad %d unk %d", id, tok.Size(), tok.EOS(), tok.PAD(), tok.UNK())
	}
	ids := tok.Encode("the <extra_id_2>", true)
	if n := len(ids); n < 3 || ids[n-1] != 1 || ids[n-2] != 600 {
		t.Errorf("ids %v", ids)
	}
	if _, err := tok.HFFiles(); err != nil {
		t.Error(err)
	}
}

func TestSentencePieceErrors(t *testing.T) {
	unk := protoPiece("<unk>", 0, kindUnknown)
	a := protoPiece("a", -1, kindNormal)
	nfkc := protoBytes(3, append(protoBytes(1, []byte("nmt_nfkc")), protoBytes(2, make([]byte, 2000))...))
	join := func(parts ...[]byte) string { return string(slices.Concat(parts...)) }
	for name, c := range map[string]struct{ model, want string }{
		"charsmap":     {join(unk, a, nfkc), `normalizer_spec "nmt_nfkc" has a precompiled_charsmap`},
		"cut":          {string(nfkc[:1000]), "cut off"},
		"length":       {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut off"},
		"group":        {"\x0b", "wire type 3"},
		"number":       {join(protoNumber(1, 3)), "is no message"},
		"nothing":      {join(protoBytes(2, nil)), "no pieces"},
		"no unknown":   {join(a), "no piece is of type UNKNOWN"},
		"two unknown":  {join(unk, protoPiece("u", 0, kindUnknown)), "both of type UNKNOWN"},
		"twice":        {join(unk, a, a), `piece "a" has ids 1 and 2`},
		"type":         {join(unk, protoPiece("a", 0, 9)), "piece 1 has type 9"},
		"unused":       {join(unk, protoPiece("a", 0, kindUnused)), "UNUSED"},
		"byte":         {join(unk, protoPiece("a", 0, kindByte)), "stands for a byte"},
		"score":        {join(unk, protoPiece("a", float32(math.NaN()), kindNormal)), "has score NaN"},
		"no text":      {join(unk, protoPiece("\xff", 0, kindNormal)), "is no text"},
		"words":        {join(unk, a, protoBytes(2, protoNumber(3, 3))), "model_type is 3"},
		"suffix":       {join(unk, a, protoBytes(2, protoNumber(24, 1))), "treat_whitespace_as_suffix"},
		"escape":       {join(unk, a, protoBytes(3, protoNumber(5, 0))), "escape_whitespaces"},
		"denormalizer": {join(unk, a, protoBytes(5, protoBytes(2, []byte("x")))), "denormalizer_spec"},
		"spaces":       {join(unk, a, protoPiece("<u>", 0, kindUser), protoBytes(2, protoNumber(3, spmBPE))), `remove_extra_whitespaces is true and piece 2, "<u>", is USER_DEFINED`},
		"space within": {bpeModel(slices.Concat(unk, a, protoPiece("▁a▁", 0, kindUser)), 0), `piece 2, "▁a▁", is USER_DEFINED and has a space (▁)`},
		"special":      {join(unk, a, protoBytes(2, protoNumber(3, spmBPE))), ""},
		"not proto":    {"hello", "wire type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(folder{files: map[string]string{"tokenizer.model": c.model, "config.json": `{"model_type":"mistral"}`}})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "model/tokenizer.model") {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestNewSpaceBeforeDroppedOnes(t *testing.T) {
	files := map[string]string{"tokenizer_config.json": `{"tokenizer_class":"LlamaTokenizer","legacy":false}`}
	model, err := os.ReadFile("testdata/spm/bpe-spaces.model")
	if err != nil {
		t.Fatal(err)
	}
	files["tokenizer.model"] = string(model)
	if _, err := Open(folder{files: files}); err == nil || !strings.Contains(err.Error(), "remove_extra_whitespaces is true with legacy false") {
		t.Errorf("got %v", err)
	}
	files["tokenizer_config.json"] = `{"tokenizer_class":"LlamaTokenizer","legacy":false,"add_prefix_space":false}`
	if _, err := Open(folder{files: files}); err != nil {
		t.Error(err)
	}
}

func FuzzSentencePiece(f *testing.F) {
	f.Add([]byte(bpeModel(slices.Concat(protoPiece("<unk>", 0, kindUnknown), protoPiece("a", -1, kindNormal), protoPiece("aa", 0, kindNormal)), 1)))
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tok, err := Open(folder{files: map[string]string{"tokenizer.model": string(raw), "config.json": `{"model_type":"llama"}`}})
		if err != nil {
			return
		}
		const text = " aa b\n"
		if _, err := tok.TryEncode(text, true); err != nil {
			t.Skip()
		}
		files, err := tok.HFFiles()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(files["tokenizer.json"], files["tokenizer_config.json"])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(again.Encode(text, true), tok.Encode(text, true)) {
			t.Error("the tokenizer.json that is written gives other ids")
		}
	})
}
