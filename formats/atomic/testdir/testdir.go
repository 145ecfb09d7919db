// Package testdir finds the reference data that lies beside a checkout.
package testdir

import (
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
