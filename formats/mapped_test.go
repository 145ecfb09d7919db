package formats

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestMapped: the bytes are the file's; what is not there any more is an error,
// and other panics pass.
func TestMapped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pages")
	want := bytes.Repeat([]byte("seven b"), 10_000)
	if err := os.WriteFile(path, want, 0o666); err != nil {
		t.Fatal(err)
	}
	m, err := OpenMapped(path)
	if err != nil {
		t.Fatal(err)
	}
	same := func(b []byte) error {
		if !bytes.Equal(b, want) {
			return errors.New("other bytes")
		}
		return nil
	}
	if err := m.Read(same); err != nil {
		t.Error(err)
	}
	func() {
		defer func() {
			if recover() != "mine" {
				t.Error("a panic was kept")
			}
		}()
		_ = m.Read(func([]byte) error { panic("mine") })
	}()
	if _, err := OpenMapped(filepath.Dir(path)); err == nil {
		t.Error("a folder was opened")
	}
	if runtime.GOOS != "linux" {
		return // others may not let a file in use be cut
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if err := m.Read(func(b []byte) error { return same(b[:b[len(b)-1]]) }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a file cut in use: %v", err)
	}
}
