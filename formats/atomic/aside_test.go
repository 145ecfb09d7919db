package atomic

import (
	"os"
	"path/filepath"
	"testing"
)

// What was moved aside survives another writer at its path, comes back over a
// part of the new one, or is gone for good.
func TestAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	read := func() string { b, _ := os.ReadFile(path); return string(b) }
	for _, back := range []bool{true, false} {
		if err := WriteFile(path, []byte("old")); err != nil {
			t.Fatal(err)
		}
		restore, drop, err := Aside(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(path, []byte("new")); err != nil {
			t.Fatal(err)
		}
		want, end := "new", drop
		if back {
			want, end = "old", restore
		}
		if err := end(); err != nil || read() != want {
			t.Errorf("restore %v: %q, %v", back, read(), err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("restore %v leaves %v", back, left)
		}
	}
	if _, _, err := Aside(filepath.Join(dir, "absent")); err == nil {
		t.Error("moved aside what is not there")
	}
}
