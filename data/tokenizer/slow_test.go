package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// folder is a Hugging Face folder in memory.
type folder struct {
	formats.Reader
	files map[string]string
}

func (f folder) Path() string   { return "model" }
func (f folder) Format() string { return "hf" }
func (f folder) File(name string) ([]byte, error) {
	if s, ok := f.files[name]; ok {
		return []byte(s), nil
	}
	return nil, nil
}

// fastJSON is what these tests read of the published tokenizer.json.
type fastJSON struct {
	Added []json.RawMessage `json:"added_tokens"`
	Model struct {
		Vocab  map[string]int32
		Merges []json.RawMessage
	}
}

func published(t *testing.T, model string) (fastJSON, string) {
	t.Helper()
	dir := testdir.Shared(t, filepath.Join("tokenizer-json", model))
	var f fastJSON
	if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(dir, "tokenizer.json")), &f); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return f, string(config)
}

// vocabAndMerges are the two files that a byte-level tokenizer.json was made of.
func vocabAndMerges(t *testing.T, f fastJSON) map[string]string {
	t.Helper()
	vocab, err := json.Marshal(f.Model.Vocab)
	if err != nil {
		t.Fatal(err)
	}
	merges := "#version: 0.2\n"
	var b strings.Builder
	for _, raw := range f.Model.Merges {
		var pair string
		if json.Unmarshal(raw, &pair) != nil {
			var parts []string
			if err := json.Unmarshal(raw, &parts); err != nil {
				t.Fatal(err)
			}
			pair = strings.Join(parts, " ")
		}
		b.WriteString(pair + "\n")
	}
	return map[string]string{"vocab.json": string(vocab), "merges.txt": merges + b.String()}
}

// checkVectors compares a tokenizer with the ids and texts of the Rust tokenizers,
// and does so again with the tokenizer.json that it writes.
func checkVectors(t *testing.T, tok *Tokenizer, model string) {
	t.Helper()
	files, err := tok.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	if files["vocab.json"] == nil && files["tokenizer.model"] == nil {
		t.Error("the original vocabulary is not among the files")
	}
	again, err := Parse(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil {
		t.Fatal(err)
	}
	for i, tok := range []*Tokenizer{tok, again} {
		for _, c := range vectors(t, model) {
			if got := tok.Encode(c.Text, false); !slices.Equal(got, c.IDs) {
				t.Fatalf("%d: Encode(%q)\n got %v\nwant %v", i, clip(c.Text), got, c.IDs)
			}
			if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDsSpecial) {
				t.Fatalf("%d: Encode(%q, special)\n got %v\nwant %v", i, clip(c.Text), got, c.IDsSpecial)
			}
			if got := tok.Decode(c.IDs, false); got != c.Decoded {
				t.Fatalf("%d: Decode of %q\n got %q\nwant %q", i, clip(c.Text), got, c.Decoded)
			}
		}
	}
	if again.BOS() != tok.BOS() || again.EOS() != tok.EOS() || again.PAD() != tok.PAD() {
		t.Errorf("written: bos %d eos %d pad %d, read %d %d %d", tok.BOS(), tok.EOS(), tok.PAD(), again.BOS(), again.EOS(), again.PAD())
	}
}

func TestVocabAndMerges(t *testing.T) {
	f, config := published(t, "qwen3")
	files := vocabAndMerges(t, f)
	files["tokenizer_config.json"] = config
	tok, err := Open(folder{files: files})
	if err != nil {
		t.Fatal(err)
	}
	checkVectors(t, tok, "qwen3")
	want := sharedTokenizer(t, "qwen3")
	if tok.EOS() != want.EOS() || tok.PAD() != want.PAD() || tok.BOS() != want.BOS() || tok.Size() != want.Size() {
		t.Errorf("eos %d pad %d bos %d, %d tokens, want %d %d %d, %d", tok.EOS(), tok.PAD(), tok.BOS(), tok.Size(), want.EOS(), want.PAD(), want.BOS(), want.Size())
	}
	got, err := tok.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := want.GGUFKeys()
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(keys) {
		t.Error("the GGUF keys differ from those of the published tokenizer.json")
	}
}

// gpt2Folder is GPT-2's vocabulary as llama.cpp keeps it, in the two files of its
// publication.
func gpt2Folder(t *testing.T, name string) map[string]string {
	t.Helper()
	g := openGGUF(t, testdir.Shared(t, "llama.cpp-vocab/ggml-vocab-"+name+".gguf"))
	vocab := map[string]int32{}
	for id, s := range g.vocab {
		vocab[s] = int32(id)
	}
	raw, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"vocab.json": string(raw), "merges.txt": "#version: 0.2\n" + strings.Join(g.merges, "\n") + "\n"}
}

// The class comes from model_type where the tokenizer's own files are silent, and
// the class knows its special tokens.
func TestGPT2Folder(t *testing.T) {
	files := gpt2Folder(t, "gpt-2")
	files["config.json"] = `{"model_type":"gpt2"}`
	tok, err := Open(folder{files: files})
	if err != nil {
		t.Fatal(err)
	}
	texts, ids := vocabCases(t, testdir.Shared(t, "llama.cpp-vocab/ggml-vocab-gpt-2.gguf"))
	for i, text := range texts {
		if got := fmt.Sprint(tok.Encode(text, false)); got != "["+ids[i]+"]" {
			t.Errorf("Encode(%q)\n got %v\nwant %v", text, got, ids[i])
		}
	}
	if tok.BOS() != 50256 || tok.EOS() != 50256 || tok.AddsBOS() {
		t.Errorf("bos %d eos %d, adds %t", tok.BOS(), tok.EOS(), tok.AddsBOS())
	}
	files["tokenizer_config.json"] = `{"tokenizer_class":"GPT2Tokenizer","add_bos_token":true,"add_prefix_space":true,"pad_token":"[PAD]","bos_token":{"__type":"AddedToken","content":"<|endoftext|>","lstrip":false,"normalized":true,"rstrip":false,"single_word":false}}`
	files["added_tokens.json"] = `{"<new>":50257}`
	if tok, err = Open(folder{files: files}); err != nil {
		t.Fatal(err)
	}
	// Transformers 5.24: GPT2Tokenizer.from_pretrained of this folder.
	if got := tok.Encode("Hello<new> world[PAD]", true); !slices.Equal(got, []int32{50256, 18435, 50257, 995, 50258}) {
		t.Errorf("ids %v", got)
	}
	if tok.PAD() != 50258 {
		t.Errorf("pad %d", tok.PAD())
	}
}

func TestSlowFolderErrors(t *testing.T) {
	good := map[string]string{
		"vocab.json": `{"a":0,"b":1,"ab":2,"<|endoftext|>":3}`, "merges.txt": "a b\n",
		"tokenizer_config.json": `{"tokenizer_class":"GPT2Tokenizer"}`,
	}
	if _, err := Open(folder{files: good}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, text, want string }{
		{"tokenizer_config.json", `{"tokenizer_class":"MysteryTokenizer"}`, `tokenizer_class "MysteryTokenizer" is not supported`},
		{"tokenizer_config.json", `{}`, "neither tokenizer_class"},
		{"tokenizer_config.json", `{"tokenizer_class":"GPT2Tokenizer","add_bos_token":1}`, "add_bos_token is 1"},
		{"tokenizer_config.json", `{"tokenizer_class":"GPT2Tokenizer","added_tokens_decoder":{"0":{"content":"z"}}}`, `id 0 is "z" here and "a" in vocab.json`},
		{"tokenizer_config.json", `{"tokenizer_class":"GPT2Tokenizer","added_tokens_decoder":{"2000000000":{"content":"z"}}}`, "far from the vocabulary"},
		{"tokenizer_config.json", `{"tokenizer_class":"GPT2Tokenizer","split_special_tokens":true}`, "split_special_tokens true"},
		{"tokenizer_config.json", `{"tokenizer_class":"GPT2Tokenizer","sp_model_kwargs":{"enable_sampling":true}}`, "sp_model_kwargs is not empty"},
		{"added_tokens.json", `{"z":"y"}`, "want an id"},
		{"merges.txt", "", "no merges.txt"},
		{"merges.txt", "#version: 0.2\nab\n", `line 2: "ab" is no pair`},
		{"merges.txt", "a c\n", `token "c" is not in the vocabulary`},
		{"vocab.json", "", "has no tokenizer.json"},
		{"tokenizer_config.json", `{"tokenizer_class":"LlamaTokenizer"}`, "the tokenizer class LlamaTokenizer needs one of them"},
	} {
		files := maps.Clone(good)
		if files[c.file] = c.text; c.text == "" {
			delete(files, c.file)
		}
		if _, err := Open(folder{files: files}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "model") {
			t.Errorf("%s %q: got %v, want %q", c.file, c.text, err, c.want)
		}
	}
}
