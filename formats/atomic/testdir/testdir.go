// Package testdir finds the reference data that lies beside a checkout.
package testdir

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Shared returns the path of name below shared/data, which lies beside the
// project's folder (or where TUNEKIT_SHARED points). Without it the test is
// skipped, or fails where TUNEKIT_REQUIRE_SHARED is 1.
func Shared(t testing.TB, name string) string {
	t.Helper()
	for _, root := range roots() {
		p := filepath.Join(root, name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("TUNEKIT_REQUIRE_SHARED") == "1" {
		t.Fatalf("reference data shared/data/%s not found beside the project", name)
	}
	t.Skipf("reference data shared/data/%s not found beside the project", name)
	return ""
}

func roots() []string {
	var out []string
	if env := os.Getenv("TUNEKIT_SHARED"); env != "" {
		out = append(out, env)
	}
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		out = append(out, filepath.Join(dir, "shared", "data"))
		dir = filepath.Dir(dir)
	}
	return out
}

// ReadFile reads a file of the reference data, or its .gz.
func ReadFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		return b
	}
	f, err := os.Open(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return b
}

// SmolLM2 is the SmolLM2-135M-Instruct GGUF file: where TUNEKIT_SMOLLM2 points,
// or in models/ of the project; "" without it.
func SmolLM2() string {
	if p := os.Getenv("TUNEKIT_SMOLLM2"); p != "" {
		return p
	}
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		p := filepath.Join(dir, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
		if _, err := os.Stat(p); err == nil {
			return p
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
