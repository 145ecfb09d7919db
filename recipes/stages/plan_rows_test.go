package stages

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/data"
)

// A plan counts records of a CSV file, not its lines: quoted fields hold line ends.
func TestCountRows(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		want int64
	}{
		"a.csv":   {"q,a\n\"one\ntwo\",b\n\"say \"\"x\ny\"\"\",c\n", 2},
		"b.tsv":   {"q\ta\n1\t2\n3\t4\n", 2},
		"c.jsonl": {"{\"a\": \"\\\"\"}\n{\"a\": 1}\n{}\n", 3},
		"d.json":  {"[\n {\"a\":\n 1},\n {\"a\": 2}\n]\n", 2},
		"e.txt":   {"a\nb\nc\n", 1},
	} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(c.text), 0o666))
		if got, err := countRows(data.Source{Path: path}); err != nil || got != c.want {
			t.Errorf("%s: %d rows, want %d (%v)", name, got, c.want, err)
		}
	}
}
