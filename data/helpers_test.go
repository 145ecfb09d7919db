package data

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// readGolden decodes a .json or .json.gz below shared/data/golden.
func readGolden(t *testing.T, name string, v any) {
	t.Helper()
	path := filepath.Join(testdir.Shared(t, "golden"), name)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if filepath.Ext(name) == ".gz" {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		t.Fatal(err)
	}
}

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

// parseRow is a row written as JSON.
func parseRow(t testing.TB, b []byte) *jinja.Dict {
	t.Helper()
	v, err := rows.ParseJSON(b)
	row, ok := v.(*jinja.Dict)
	if err != nil || !ok {
		t.Fatalf("%s is no row: %v", b, err)
	}
	return row
}

// readAll reads a list of samples.
func readAll(t testing.TB, ex Examples) []Example {
	t.Helper()
	out, err := ex.Read(ex.Len())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func stepOf(t testing.TB, l *Loader, i int) Step {
	t.Helper()
	s, err := l.Step(i)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}
