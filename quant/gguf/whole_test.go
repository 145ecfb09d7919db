package gguf

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/kernels/dry"
)

// TestGGUFWhole writes whole files and compares their hash.
func TestGGUFWhole(t *testing.T) {
	dir, g := golden(t)
	for _, r := range g.Runs {
		if r.Tied {
			continue // a file of its own, which is not kept
		}
		out := filepath.Join(t.TempDir(), "out.gguf")
		var last, total int64
		rep, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), out, runOptions(t, dir, r), func(d, n int64) {
			if d <= last {
				t.Errorf("progress goes from %d to %d", last, d)
			}
			last, total = d, n
		})
		if len(r.Error) > 0 {
			if err == nil {
				t.Errorf("%s %s: no error, want %v", r.FType, r.Imatrix, r.Error)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s %s: %v", r.FType, r.Imatrix, err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != r.Bytes || hash(b) != r.SHA {
			t.Errorf("%s %s: the file differs (%d bytes, want %d)", r.FType, r.Imatrix, len(b), r.Bytes)
		}
		if last != total || total != rep.Elements {
			t.Errorf("progress ends at %d of %d, %d elements", last, total, rep.Elements)
		}
	}
}

// TestWriteImatrix: what is written reads back, byte for byte llama-imatrix's file.
func TestWriteImatrix(t *testing.T) {
	dir, _ := golden(t)
	a, err := ReadImatrix(filepath.Join(dir, "imatrix.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "im.gguf")
	if err := WriteImatrix(path, a); err != nil {
		t.Fatal(err)
	}
	c, err := ReadImatrix(path)
	if err != nil {
		t.Fatal(err)
	}
	c.File = a.File
	if !reflect.DeepEqual(a, c) {
		t.Error("the written matrix reads back as another")
	}
	if x, y := readFile(t, path), readFile(t, filepath.Join(dir, "imatrix.gguf")); string(x) != string(y) {
		t.Errorf("the written file has %d bytes and differs from llama-imatrix's %d", len(x), len(y))
	}
}
