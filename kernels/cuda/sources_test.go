package cuda

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sourcesOf adds a source and the headers that it includes to the texts by their names.
func sourcesOf(t *testing.T, texts map[string][]byte, name string) {
	if texts[name] != nil {
		return
	}
	b, err := os.ReadFile("src/" + name)
	if err != nil {
		t.Fatal(err)
	}
	texts[name] = b
	for line := range strings.Lines(string(b)) {
		if header, ok := strings.CutPrefix(strings.TrimSpace(line), "#include "); ok {
			sourcesOf(t, texts, strings.Trim(header, `"`))
		}
	}
}

// TestSources: the committed PTX is of the options, sources and headers as they are. (That
// NVRTC makes the same bytes again is make generate-cuda's to show.)
func TestSources(t *testing.T) {
	gen, err := os.ReadFile("gen/main.go")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^var options = \[\]string\{(.*)\}$`).FindSubmatch(gen)
	if list == nil {
		t.Fatal("gen/main.go has no options")
	}
	options := strings.ReplaceAll(strings.ReplaceAll(string(list[1]), `"`, ""), ", ", " ")
	files, err := filepath.Glob("src/*.cu")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	for _, f := range files {
		texts, name := map[string][]byte{}, filepath.Base(f)
		sourcesOf(t, texts, "common.h") // an option
		sourcesOf(t, texts, name)
		hash := sha256.New()
		if strings.HasSuffix(name, "_90a.cu") { // gen's optionsOf
			fmt.Fprintln(hash, strings.Replace(options, "compute_80", "compute_90a", 1))
		} else {
			fmt.Fprintln(hash, options)
		}
		for _, header := range slices.Sorted(maps.Keys(texts)) {
			if header != name {
				hash.Write(texts[header])
			}
		}
		hash.Write(texts[name])
		made := "ptx/" + strings.TrimSuffix(filepath.Base(f), ".cu") + ".ptx"
		text, err := os.ReadFile(made)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if want := fmt.Sprintf("Sources %x.", hash.Sum(nil)); !strings.HasSuffix(first, want) {
			t.Errorf("%s is not of these sources (make generate-cuda): %s, want %s", made, first, want)
		}
	}
	made, err := filepath.Glob("ptx/*.ptx")
	if err != nil || len(made) != len(files) {
		t.Errorf("%d files of PTX for %d sources", len(made), len(files))
	}
}
