package stages

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestReadText: the first tokens of a text are those of the whole, and a text that is
// larger than what may be read is refused by name, be it one line.
func TestReadText(t *testing.T) {
	const limit = 1 << 18
	var all strings.Builder
	for i := range 2000 {
		all.WriteString(corpus.Text(1, i))
	}
	if all.Len() <= limit {
		t.Fatalf("a text of %d bytes is no large one", all.Len())
	}
	raw, err := tokenizer.TrainBPE(func(yield func(string) bool) { yield(all.String()[:1<<16]) }, 400, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.ReplaceAll(all.String(), "\n", " ")
	for name, text := range map[string]string{"lines": all.String(), "one line": line, "one word": strings.ReplaceAll(line, " ", ""), "short": "a b c"} {
		path := filepath.Join(t.TempDir(), "a.txt")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		want, err := tok.TryEncode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, most := range []int{1, 1000, 50000} {
			got, err := readText(path, tok, most, limit)
			if err != nil || !slices.Equal(got[:min(len(got), most)], want[:min(len(want), most)]) {
				t.Errorf("%s: other tokens than the first %d of the whole, error %v", name, most, err)
			}
		}
		_, err = readText(path, tok, 0, limit)
		if large := len(text) > limit; large != (fail.Code(err) == int(fail.Limit)) || large && !strings.Contains(err.Error(), path+": holds more than 256 KiB of text") {
			t.Errorf("%s: %d bytes, error %v", name, len(text), err)
		}
		if got, err := readText(path, tok, 0, int64(len(text))); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: other tokens than the whole, error %v", name, err)
		}
	}
}
