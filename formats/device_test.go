//go:build unix

package formats

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoRegularFile opens things that are no files; none may hang or be read.
func TestNoRegularFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"m.gguf", "m.safetensors"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o666); err != nil {
			t.Skip(err)
		}
		_, err := Open(filepath.Join(dir, name))
		rejects(t, err, "no regular file")
	}
	_, err := Open(dir) // the only weights are a pipe
	rejects(t, err, "no regular file")
	_, err = Open("/dev/zero")
	rejects(t, err, "no regular file")
	if os.Getuid() != 0 {
		path := filepath.Join(dir, "secret.gguf")
		os.WriteFile(path, []byte("GGUF"), 0)
		_, err = Open(path)
		rejects(t, err, "cannot open it")
	}
}
