package atomic

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// A scratch file gives back what was written, and nothing of it is to be seen.
func TestScratch(t *testing.T) {
	dir := t.TempDir()
	s, err := NewScratch(filepath.Join(dir, "model"))
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{1 << 20, 0} {
		if err := s.WriteAt(bytes.Repeat([]byte{byte(off>>20) + 7}, 100), off); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 100)
	if err := s.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{8}, 100)) {
		t.Errorf("%v, error %v", got[:3], err)
	}
	if err := s.ReadAt(got, 1<<20+50); err == nil {
		t.Error("more than there is was read")
	}
	s.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if _, err := NewScratch(filepath.Join(dir, "none", "model")); fail.Code(err) != 3 {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// A scratch file is memory too: what was written is there, and zeros behind it.
func TestScratchMap(t *testing.T) {
	dir := t.TempDir()
	s, err := NewScratch(filepath.Join(dir, "model"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, part := range []string{"abc", "defg"} {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Size() != 7 {
		t.Errorf("%d bytes", s.Size())
	}
	b, err := s.Map(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("abcdefg"), make([]byte, 1<<16-7)...); !bytes.Equal(b, want) {
		t.Errorf("begins with %q", b[:10])
	}
	b[1<<16-1] = 5 // it can be written
	if _, err := s.Map(1 << 16); err == nil {
		t.Error("mapped twice")
	}
	large, err := NewScratch(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	if _, err := large.Map(1 << 60); fail.Code(err) != 4 {
		t.Errorf("an exabyte: %v", err)
	}
}
