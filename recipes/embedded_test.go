package recipes_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/recipes"
)

// TestUnpack: many first uses at once all succeed, and what lies in the cache is
// used only where it is what the program holds.
func TestUnpack(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for range 5 {
		var all sync.WaitGroup
		for range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				for _, name := range []string{"pocket/model", "pocket/train.parquet"} {
					if _, err := recipes.Unpack(name); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		all.Wait()
		dir, err := recipes.Unpack("pocket/model")
		must(t, err)
		if err := formats.Verify(dir); err != nil {
			t.Error(err)
		}
		must(t, os.RemoveAll(dir))
	}
	dir, err := recipes.Unpack("pocket/model")
	must(t, err)
	good, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	must(t, err)
	for what, change := range map[string]func() error{
		"another model": func() error {
			bad := append([]byte{}, good...)
			bad[len(bad)-1] ^= 1
			return os.WriteFile(filepath.Join(dir, "model.safetensors"), bad, 0o644)
		},
		"a file more": func() error { return os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte("x"), 0o644) },
		"a file less": func() error { return os.Remove(filepath.Join(dir, "tokenizer_config.json")) },
		"a link": func() error {
			return os.Rename(filepath.Join(dir, "config.json"), filepath.Join(dir, "other"))
		},
	} {
		must(t, change())
		again, err := recipes.Unpack("pocket/model")
		must(t, err)
		entries, err := os.ReadDir(again)
		must(t, err)
		got, err := os.ReadFile(filepath.Join(again, "model.safetensors"))
		must(t, err)
		if string(got) != string(good) || len(entries) != 5 {
			t.Errorf("%s is used: %v", what, entries)
		}
	}
}
