package formats

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// sharedFiles lists the files below a folder of the reference data by ending.
func sharedFiles(t *testing.T, name, ext string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(testdir.Shared(t, name), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ext) {
			out = append(out, path)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("no %s below %s: %v", ext, name, err)
	}
	return out
}

// TestOpenShared opens every safetensors and GGUF file that other programs
// wrote, and reads each tensor in three ways that must agree.
func TestOpenShared(t *testing.T) {
	var files []string
	for _, f := range [][2]string{
		{"safetensors", ".safetensors"}, {"peft-adapter", ".safetensors"}, {"golden/arch", ".safetensors"}, {"golden/arch", ".gguf"},
		{"golden/blocks", ".safetensors"}, {"golden/blocks", ".gguf"}, {"golden/quant", ".safetensors"}, {"golden/train/lora", ".safetensors"},
		{"llama.cpp-vocab", ".gguf"}, {"stories260K", ".gguf"},
	} {
		files = append(files, sharedFiles(t, f[0], f[1])...)
	}
	for _, path := range files {
		r, err := Open(path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if w := r.Warnings(); len(w) > 0 {
			t.Errorf("%s: %q", path, w)
		}
		readThreeWays(t, r)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func readThreeWays(t *testing.T, r Reader) {
	t.Helper()
	for i := range r.Tensors() {
		ten := &r.Tensors()[i]
		if ten.Unsupported != "" {
			if _, err := r.Read(ten); err == nil {
				t.Errorf("%s: %s of %s was read", r.Path(), ten.Name, ten.Unsupported)
			}
			continue
		}
		whole, err := r.Read(ten)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if want := dtype.Size(ten.Type, ten.Rows(), ten.Cols()); len(whole) != want {
			t.Errorf("%s: %s has %d bytes, its type takes %d", r.Path(), ten.Name, len(whole), want)
		}
		if m, ok := r.Map(ten); ok && string(m) != string(whole) {
			t.Errorf("%s: %s: mapped and read bytes differ", r.Path(), ten.Name)
		}
		half := ten.Rows() / 2
		a, err1 := r.ReadRows(ten, 0, half)
		b, err2 := r.ReadRows(ten, half, ten.Rows()-half)
		if err1 != nil || err2 != nil || string(a)+string(b) != string(whole) {
			t.Errorf("%s: %s: rows and whole differ: %v %v", r.Path(), ten.Name, err1, err2)
		}
	}
}

// TestOpenFolders opens every model folder of the reference data.
func TestOpenFolders(t *testing.T) {
	for _, path := range sharedFiles(t, "golden", "/config.json") {
		dir := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(dir, "model.safetensors")); err != nil {
			continue
		}
		r, err := Open(dir)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if r.Format() != "hf" || len(r.Config()) == 0 || len(r.Tensors()) == 0 {
			t.Errorf("%s: format %s, %d bytes of config, %d tensors", dir, r.Format(), len(r.Config()), len(r.Tensors()))
		}
		if b, err := r.File("generation_config.json"); err != nil || b != nil && len(b) == 0 {
			t.Errorf("%s: empty generation_config.json", dir)
		}
		for _, bad := range []string{"../config.json", "/etc/passwd", "..", "", "a/b", `a\b`} {
			if b, err := r.File(bad); b != nil || err != nil {
				t.Errorf("%s: File(%q) was read", dir, bad)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
