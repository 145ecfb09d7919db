package rows

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seeds are small files of pyarrow, of many codecs, encodings and types
// (testdata/seeds/gen.py): a fuzzer that begins at them is past the header.
func seeds(t testing.TB, ext string) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/seeds/*" + ext)
	if err != nil || len(all) < 8 {
		t.Fatalf("%d seeds %s: %v", len(all), ext, err)
	}
	return all
}

func addSeeds(f *testing.F, ext string) {
	for _, path := range seeds(f, ext) {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// TestSeeds reads every seed; those of one table say the same.
func TestSeeds(t *testing.T) {
	want := map[string]string{
		"text":  `{"text":"a b c"} {"text":"d"} {"text":null}`,
		"chat":  `{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]} {"messages":[]} {"messages":null}`,
		"large": `{"text":"a","x":[1]} {"text":"b","x":[]} {"text":null,"x":null}`,
		"fixed": `{"text":"a","x":[1,2]} {"text":"b","x":[3,4]} {"text":"c","x":null}`,
	}
	for _, ext := range []string{".parquet", ".arrow"} {
		for _, path := range seeds(t, ext) {
			got := strings.Join(mustRead(t, path), " ")
			table, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ext), "-")
			if w, ok := want[table]; ok && got != w {
				t.Errorf("%s: %s", path, got)
			} else if !ok && !strings.Contains(got, `"i":-2,"l":0,"f":null,"b":null,"d":"y"`) {
				t.Errorf("%s: %s", path, got)
			}
		}
	}
}

// FuzzTextFiles: no panic for CSV, TSV, JSON and text of any bytes.
func FuzzTextFiles(f *testing.F) {
	for _, s := range []string{"a,b\n1,\"x\ny\"\n", "a\tb\n1\t2\n", "\xef\xbb\xbfa;b\n1;2", "a,a\n1,2\n", "[{\"a\":1},{\"a\":[1,{\"b\":null}]}]", "{\"a\":1}\n{\"a\":2}\n", "{\n\"a\": \"\\ud83d\\ude00\"\n}", "line\r\n\nline two"} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ext := range []string{".csv", ".tsv", ".json", ".txt"} {
			path := filepath.Join(dir, "a"+ext)
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Open(path)
			if err != nil {
				continue
			}
			if _, _, err := readAll(r); err != nil && strings.Contains(err.Error(), "panic") {
				t.Errorf("%s: %v", ext, err)
			}
			r.Close()
		}
	})
}
