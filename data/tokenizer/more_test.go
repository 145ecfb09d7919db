package tokenizer

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestWith: tokens that are added have the next ids, are found whole, and stay when
// the tokenizer is read again.
func TestWith(t *testing.T) {
	r, err := formats.Open(filepath.Join("..", "..", "recipes", "pocket", "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tok, err := Open(r)
	if err != nil {
		t.Fatal(err)
	}
	more, err := tok.With([]Added{{"<|new|>", true}, {"quux", false}})
	if err != nil {
		t.Fatal(err)
	}
	n := int32(tok.Size())
	if more.Size() != int(n)+2 || more.Token(n) != "<|new|>" || !more.Special(n) || more.Special(n+1) {
		t.Fatalf("%d tokens, %q", more.Size(), more.Token(n))
	}
	ids := more.Encode("a quux<|new|>", false)
	if k := len(ids); k < 2 || ids[k-1] != n || ids[k-2] != n+1 {
		t.Errorf("found %v", ids)
	}
	if text := more.Decode(ids, true); text != "a quux" {
		t.Errorf("decoded %q", text)
	}
	files, err := more.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil || again.Hash() != more.Hash() {
		t.Errorf("%v: read again it is another", err)
	}
}

// TestWithout: what cannot be added is refused, and nothing is half added.
func TestWithout(t *testing.T) {
	r, err := formats.Open(filepath.Join("..", "..", "recipes", "pocket", "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tok, err := Open(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]Added{{{"", false}}, {{"a", false}}, {{"<|end|>", true}}, {{"new", false}, {"new", true}}, {{"\xff", false}}} {
		if _, err := tok.With(list); fail.Code(err) != int(fail.Usage) {
			t.Errorf("%+v: %v", list, err)
		}
	}
	more, err := tok.With([]Added{{"<|new|>", true}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := more.With([]Added{{"<|newer|>", true}})
	if err != nil || again.Size() != tok.Size()+2 {
		t.Fatal(err)
	}
	files, err := again.HFFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"<|new|>", "<|newer|>", "<|end|>"} { // where llama.cpp's converter looks
		if !strings.Contains(string(files["tokenizer_config.json"]), name) {
			t.Errorf("tokenizer_config.json does not list %s", name)
		}
	}
}
