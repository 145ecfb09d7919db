package tokenizer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

func openGGUF(t testing.TB, path string) *Tokenizer {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tok, err := Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

var ggufVocabs = []string{"deepseek-llm", "gpt-2", "llama-spm", "phi-3", "starcoder"}

// llama.cpp's own cases: 46 texts for each vocabulary, without special tokens.
func TestLlamaCppVocabs(t *testing.T) {
	dir := testdir.Shared(t, "llama.cpp-vocab")
	for _, name := range ggufVocabs {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "ggml-vocab-"+name+".gguf")
			tok := openGGUF(t, path)
			texts, ids := vocabCases(t, path)
			for i, text := range texts {
				if got := fmt.Sprint(tok.Encode(text, false)); got != "["+ids[i]+"]" {
					t.Errorf("Encode(%q)\n got %v\nwant %v", text, got, ids[i])
				}
			}
		})
	}
}

func vocabCases(t *testing.T, path string) (texts, ids []string) {
	t.Helper()
	in, err := os.ReadFile(path + ".inp")
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(path + ".out")
	if err != nil {
		t.Fatal(err)
	}
	texts = strings.Split(string(in), "\n__ggml_vocab_test__\n")
	for _, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		ids = append(ids, strings.Join(strings.Fields(line), " "))
	}
	texts = texts[:len(texts)-1]
	if len(texts) != 46 || len(ids) != 46 {
		t.Fatalf("%d texts, %d answers, want 46", len(texts), len(ids))
	}
	return texts, ids
}

func TestStories(t *testing.T) {
	tok := openGGUF(t, testdir.Shared(t, "stories260K/stories260K-f32.gguf"))
	golden, err := os.ReadFile(testdir.Shared(t, "stories260K/golden_greedy_llama2c.txt"))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(string(golden), true)
	if ids[0] != tok.BOS() || tok.BOS() != 1 || tok.EOS() != 2 || tok.PAD() != -1 {
		t.Errorf("bos %d eos %d pad %d, text begins with %d", tok.BOS(), tok.EOS(), tok.PAD(), ids[0])
	}
	if got := tok.Decode(ids, true); got != string(golden) {
		t.Errorf("decoded %q", clip(got))
	}
}

func TestUnknownPreTokenizer(t *testing.T) {
	kv := []formats.KV{
		{Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "mystery"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab"}}, {Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
	}
	check := func(want string) {
		t.Helper()
		if _, err := FromGGUF(kv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	check(`pre-tokenizer "mystery" is not known`)
	kv[1].Value = uint32(4)
	check("key tokenizer.ggml.pre holds uint32, want a string")
	kv[1].Value = "gpt-2"
	kv[3].Value = []string{"a c"}
	check(`token "c" is not in the vocabulary`)
	kv[3].Value = []string{"a b"}
	kv = append(kv, formats.KV{Key: "tokenizer.ggml.token_type", Value: []int32{1}})
	check("has 1 entries for 3 tokens")
	kv[4].Value = []uint8{1, 1, 1}
	check("holds []uint8, want []int32")
	kv[4].Value = []int32{6, 1, 1}
	check(`byte token 0 is "a"`)
	kv[4].Value = []int32{1, 1, 1}
	kv[2].Value = []string{"a", "a", "ab"}
	check(`"a" has ids 0 and 1`)
	kv[2].Value = []string{"a", "b", "ab"}
	kv = slices.Delete(kv, 1, 2)
	check("tokenizer.ggml.pre is missing")
}
