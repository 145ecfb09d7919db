package tokenizer

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// strangeTexts are at least n texts of many kinds: words and lines of a corpus,
// the vectors' texts, and cuts through all of them.
func strangeTexts(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for _, c := range vectors(t, "llama3") {
		out = append(out, c.Text)
	}
	corpus, err := os.ReadFile(testdir.Shared(t, "wikitext-2/valid.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(corpus), "\n")
	for i := 0; len(out) < n; i++ {
		line := lines[i%len(lines)]
		r := []rune(line)
		cut := (i * 7919) % (len(r) + 1)
		out = append(out, string(r[cut:]), string(r[:cut])+"  \t\n"+line)
	}
	return out
}

func sameIDs(t *testing.T, a, b *Tokenizer, texts []string) {
	t.Helper()
	wrong := 0
	for _, s := range texts {
		x, y := a.Encode(s, true), b.Encode(s, true)
		if !slices.Equal(x, y) {
			if wrong++; wrong < 4 {
				t.Errorf("%q\n  %v\n  %v", clip(s), x, y)
			}
		} else if p, q := a.Decode(x, false), b.Decode(x, false); p != q {
			t.Errorf("%q decodes to %q and %q", clip(s), clip(p), clip(q))
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d texts differ", wrong, len(texts))
	}
}

// GGUF → tokenizer.json gives the same ids on 10,000 texts with SmolLM2, on
// 2,000 with other vocabularies.
func TestGGUFToHF(t *testing.T) {
	paths := map[string]string{}
	dir := testdir.Shared(t, "llama.cpp-vocab")
	for _, name := range ggufVocabs {
		paths[name] = filepath.Join(dir, "ggml-vocab-"+name+".gguf")
	}
	paths["stories"] = testdir.Shared(t, "stories260K/stories260K-f32.gguf")
	if smol := testdir.SmolLM2(); smol != "" {
		paths["smollm2"] = smol
	} else {
		t.Log("without SmolLM2: make smollm2 fetches it")
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			a := openGGUF(t, path)
			files, err := a.HFFiles()
			if err != nil {
				t.Fatal(err)
			}
			b, err := parseHF(files["tokenizer.json"], files["tokenizer_config.json"], files)
			if err != nil {
				t.Fatal(err)
			}
			n := 2000
			if name == "smollm2" {
				n = 10000
			}
			sameIDs(t, a, b, strangeTexts(t, n))
			sameSpecial(t, a, b)
		})
	}
}

func sameSpecial(t *testing.T, a, b *Tokenizer) {
	t.Helper()
	if a.BOS() != b.BOS() || a.EOS() != b.EOS() || a.PAD() != b.PAD() || a.UNK() != b.UNK() {
		t.Errorf("special ids %d %d %d %d became %d %d %d %d", a.BOS(), a.EOS(), a.PAD(), a.UNK(), b.BOS(), b.EOS(), b.PAD(), b.UNK())
	}
	if !slices.Equal(a.EOSIDs(), b.EOSIDs()) {
		t.Errorf("end ids %v became %v", a.EOSIDs(), b.EOSIDs())
	}
	if a.ChatTemplate() != b.ChatTemplate() {
		t.Error("the chat template changed")
	}
	if a.Size() != b.Size() {
		t.Errorf("%d tokens became %d", a.Size(), b.Size())
	}
}

// GGUF → GGUF keys gives the file's own tokens, types, merges, scores and ids.
func TestGGUFToGGUF(t *testing.T) {
	dir := testdir.Shared(t, "llama.cpp-vocab")
	paths := []string{testdir.Shared(t, "stories260K/stories260K-f32.gguf")}
	for _, name := range ggufVocabs {
		paths = append(paths, filepath.Join(dir, "ggml-vocab-"+name+".gguf"))
	}
	if smol := testdir.SmolLM2(); smol != "" {
		paths = append(paths, smol)
	}
	for _, path := range paths {
		r, err := formats.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		tok, err := Open(r)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := tok.GGUFKeys()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{}
		for _, e := range r.KV() {
			want[e.Key] = e.Value
		}
		for _, e := range kv {
			if w, ok := want[e.Key]; ok && !reflect.DeepEqual(w, e.Value) {
				t.Errorf("%s: %s changed", filepath.Base(path), e.Key)
			}
		}
	}
}

// tokenizer.json → GGUF keys gives the same ids on 3,000 texts.
func TestHFToGGUF(t *testing.T) {
	for _, model := range vectorModels {
		t.Run(model, func(t *testing.T) {
			a := sharedTokenizer(t, model)
			kv, err := a.GGUFKeysFor(a.Size() + 7)
			if err != nil {
				t.Fatal(err)
			}
			b, err := FromGGUF(kv)
			if err != nil {
				t.Fatal(err)
			}
			if b.Size() != a.Size()+7 || b.Token(int32(a.Size())) != "[PAD"+fmt.Sprint(a.Size())+"]" {
				t.Errorf("%d tokens, the first filler is %q", b.Size(), b.Token(int32(a.Size())))
			}
			sameIDs(t, a, b, strangeTexts(t, 3000))
			if a.BOS() != b.BOS() || a.EOS() != b.EOS() || a.PAD() != b.PAD() {
				t.Errorf("special ids %d %d %d became %d %d %d", a.BOS(), a.EOS(), a.PAD(), b.BOS(), b.EOS(), b.PAD())
			}
		})
	}
}
