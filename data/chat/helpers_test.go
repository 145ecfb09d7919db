package chat

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// sharedTokenizer is a tokenizer.json of the reference data.
func sharedTokenizer(t testing.TB, model string) *tokenizer.Tokenizer {
	t.Helper()
	if tok, ok := loaded.Load(model); ok {
		return tok.(*tokenizer.Tokenizer)
	}
	dir := testdir.Shared(t, filepath.Join("tokenizer-json", model))
	tok, err := tokenizer.Parse(testdir.ReadFile(t, filepath.Join(dir, "tokenizer.json")), testdir.ReadFile(t, filepath.Join(dir, "tokenizer_config.json")))
	if err != nil {
		t.Fatal(err)
	}
	loaded.Store(model, tok)
	return tok
}

var loaded sync.Map // model → *Tokenizer

// openGGUF is the tokenizer of a GGUF file.
func openGGUF(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tok, err := tokenizer.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}
