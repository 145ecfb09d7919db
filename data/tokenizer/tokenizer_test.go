package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

var loaded sync.Map // model → *Tokenizer

func sharedTokenizer(t testing.TB, model string) *Tokenizer {
	t.Helper()
	if tok, ok := loaded.Load(model); ok {
		return tok.(*Tokenizer)
	}
	dir := testdir.Shared(t, filepath.Join("tokenizer-json", model))
	config, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Parse(testdir.ReadFile(t, filepath.Join(dir, "tokenizer.json")), config)
	if err != nil {
		t.Fatal(err)
	}
	loaded.Store(model, tok)
	return tok
}

type vectorCase struct {
	Text       string
	IDs        []int32 `json:"ids"`
	IDsSpecial []int32 `json:"ids_special"`
	Decoded    string
}

// vectors are 574 texts encoded by the Hugging Face Rust tokenizers.
func vectors(t testing.TB, model string) []vectorCase {
	t.Helper()
	data := testdir.ReadFile(t, testdir.Shared(t, "tokenizer-vectors/"+model+".jsonl"))
	var out []vectorCase
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var c vectorCase
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	if len(out) != 574 {
		t.Fatalf("%d cases, want 574", len(out))
	}
	return out
}

var vectorModels = []string{"llama2", "llama3", "qwen3", "gemma3"}

func TestTokenizerVectors(t *testing.T) {
	for _, model := range vectorModels {
		t.Run(model, func(t *testing.T) {
			tok := sharedTokenizer(t, model)
			for _, c := range vectors(t, model) {
				if got := tok.Encode(c.Text, false); !slices.Equal(got, c.IDs) {
					t.Errorf("Encode(%q)\n got %v\nwant %v", clip(c.Text), got, c.IDs)
				}
				if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDsSpecial) {
					t.Errorf("Encode(%q, special)\n got %v\nwant %v", clip(c.Text), got, c.IDsSpecial)
				}
				if got := tok.Decode(c.IDs, false); got != c.Decoded {
					t.Errorf("Decode of %q\n got %q\nwant %q", clip(c.Text), got, c.Decoded)
				}
			}
		})
	}
}

func TestStreamIsDecode(t *testing.T) {
	for _, model := range vectorModels {
		tok := sharedTokenizer(t, model)
		for _, c := range vectors(t, model) {
			s := tok.Stream(false)
			var got strings.Builder
			for _, id := range c.IDs {
				piece := s.Push(id)
				if strings.Contains(piece, "\uFFFD") && !strings.Contains(c.Decoded, "\uFFFD") {
					t.Errorf("%s: %q was cut inside a character", model, clip(c.Text))
				}
				got.WriteString(piece)
			}
			got.WriteString(s.Flush())
			if got.String() != c.Decoded {
				t.Errorf("%s: streamed %q, want %q", model, clip(got.String()), clip(c.Decoded))
			}
		}
	}
}
