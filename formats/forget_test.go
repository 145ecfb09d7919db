package formats

import (
	"bytes"
	"os"
	"testing"
)

// Forgotten bytes are those of the file again.
func TestForget(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/pages")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := bytes.Repeat([]byte("seven b"), 10_000)
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	b := mapFile(f, int64(len(want)))
	if b == nil {
		t.Skip("nothing can be mapped here")
	}
	defer unmapFile(b)
	for _, r := range [][2]int{{0, len(b)}, {1, 4097}, {4095, 8193}, {4096, 4096}, {5000, 5001}, {100, len(b) - 3}, {8192, 12288}} {
		forgetPages(b[r[0]:r[1]])
		if !bytes.Equal(b, want) {
			t.Fatalf("bytes differ after %v were forgotten", r)
		}
	}
}
