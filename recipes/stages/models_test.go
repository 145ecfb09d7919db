package stages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestWithin follows links that stay in a model's folder, or in the cache of
// its repository, and no others.
func TestWithin(t *testing.T) {
	dir := t.TempDir()
	model, snapshot := filepath.Join(dir, "model"), filepath.Join(dir, "models--a--b", "snapshots", "0123")
	for _, d := range []string{model, snapshot, filepath.Join(dir, "models--a--b", "blobs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"secret", "model/text", "models--a--b/blobs/x"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dir, target string
		ok          bool
	}{
		{model, "text", true}, {model, filepath.Join(model, "text"), true}, {model, "../model/text", true},
		{model, "../secret", false}, {model, filepath.Join(dir, "secret"), false}, {model, "gone", false},
		{snapshot, "../../blobs/x", true}, {snapshot, "../../../secret", false},
	} {
		link := filepath.Join(c.dir, "LICENSE")
		if err := os.Symlink(c.target, link); err != nil {
			t.Fatal(err)
		}
		err := within(c.dir, "LICENSE")
		if (err == nil) != c.ok {
			t.Errorf("%s -> %s: %v", link, c.target, err)
		}
		if err != nil && !strings.Contains(err.Error(), link) {
			t.Errorf("%v does not name %s", err, link)
		}
		os.Remove(link)
	}
	if err := within(model, "absent"); err != nil {
		t.Error(err)
	}
}

// TestUnrounded: an evaluation says that a folder's inputs are rounded where it is served
// and not here.
func TestUnrounded(t *testing.T) {
	for name, want := range map[string]string{"ct-fp8-static": "8-bit float, by tensor, scales measured beforehand", "ct-nvfp4": "4-bit float, by tensor_group", "ct-w8a8-int8": "", "orig": ""} {
		dir := testdir.Shared(t, "golden/quant/"+name)
		dev := cpu.New(cpu.Options{})
		var notes []string
		m, err := LoadModel(dev, dir, ModelOptions{Note: func(s string) { notes = append(notes, s) }})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		dev.Close()
		if got := strings.Join(notes, "\n"); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: notes %q, want %q in them", name, got, want)
		}
	}
}
