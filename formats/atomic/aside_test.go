package atomic

import (
	"os"
	"path/filepath"
	"testing"
	"time"
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

// What a killed writer moved aside comes back, or goes when its path was written
// whole; what a living one holds stays.
func TestRecover(t *testing.T) {
	for _, folder := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "x")
		write := func(path, text string) {
			t.Helper()
			if folder {
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
				path = filepath.Join(path, "file")
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what, want string, n int) {
			t.Helper()
			if err := Recover(path); err != nil {
				t.Fatal(err)
			}
			at := path
			if folder {
				at = filepath.Join(path, "file")
			}
			b, _ := os.ReadFile(at)
			if left, _ := os.ReadDir(dir); string(b) != want || len(left) != n {
				t.Errorf("%s, folder %v: %q in %v", what, folder, b, left)
			}
		}
		check("nothing", "", 0)
		write(path+".aside-000000000001", "older")
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path+".aside-000000000001", old, old); err != nil {
			t.Fatal(err)
		}
		write(path+".aside-000000000002", "old")
		check("killed before the new one", "old", 1)
		write(path+".aside-000000000003", "older still")
		check("killed after the new one", "old", 1)
		write(path+".aside-mine", "notes")
		check("a name like it", "old", 2)
		os.RemoveAll(path + ".aside-mine")

		restore, _, err := Aside(path)
		if err != nil {
			t.Fatal(err)
		}
		check("a living writer", "", 1)
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		check("restored", "old", 1)
	}
	if err := Recover(filepath.Join(t.TempDir(), "no", "x")); err != nil {
		t.Error(err)
	}
}
