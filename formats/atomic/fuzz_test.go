package atomic

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzJournal: whatever a journal says, only pieces whose bytes bear it out are
// taken for written, and the rest can be written.
func FuzzJournal(f *testing.F) {
	plan := Plan{ID: "x", Files: []PlanFile{{Size: 6}}}
	const head = `{"tunekit_partial":1,"id":"x"}` + "\n"
	f.Add([]byte(head+`{"key":"k","sha256":"bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721","pieces":[[0,0,6]]}`+"\n"), []byte("abcdef"))
	f.Add([]byte(head+`{"key":"k","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","pieces":[[0,9223372036854775807,9],[-1,0,0]]}`+"\n"), []byte(""))
	f.Add([]byte(head+`{"key":"k","pieces":null}`), []byte("abcdefghi"))
	dir := f.TempDir()
	path := filepath.Join(dir, "a")
	f.Fuzz(func(t *testing.T, journal, data []byte) {
		os.RemoveAll(path + ".part")
		os.Remove(path)
		if err := os.Mkdir(path+".part", 0o755); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{journalName: journal, dataName: data} {
			if err := os.WriteFile(filepath.Join(path+".part", name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p, err := Resume(path, plan)
		if err != nil {
			return
		}
		defer p.Abort()
		if err := p.Write("all", Piece{Data: []byte("123456")}); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); string(b) != "123456" {
			t.Errorf("%q", b)
		}
	})
}
