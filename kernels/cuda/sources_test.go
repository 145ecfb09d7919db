package cuda

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSources: the committed PTX is of the sources and options as they are. (That
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
	headers, err := filepath.Glob("src/*.h")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		hash := sha256.New()
		fmt.Fprintln(hash, options)
		for _, name := range append(append([]string{}, headers...), f) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			hash.Write(b)
		}
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
