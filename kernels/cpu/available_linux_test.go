package cpu

import (
	"os"
	"path/filepath"
	"testing"
)

// TestGroupLimit: the least of the limits from a process's group up to the root counts,
// in both versions of control groups, and in a container that sees its own root alone.
func TestGroupLimit(t *testing.T) {
	for name, c := range map[string]struct {
		groups string
		files  map[string]string
		want   int64
	}{
		"job":     {"0::/slurm/job_7/step_0\n", map[string]string{"slurm/job_7/memory.max": "314572800\n", "slurm/job_7/step_0/memory.max": "max\n"}, 314572800},
		"nested":  {"0::/a/b\n", map[string]string{"a/memory.max": "200\n", "a/b/memory.max": "300\n"}, 200},
		"another": {"0::/a/b\n", map[string]string{"a/c/memory.max": "100\n"}, 0},
		"version 1": {"5:cpu,cpuacct:/x\n9:memory:/u/s\n", map[string]string{"memory/u/memory.limit_in_bytes": "400\n",
			"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/x/memory.limit_in_bytes": "1\n"}, 400},
		"container": {"0::/../outside\n", map[string]string{"memory.max": "500\n"}, 500},
		"none":      {"", nil, 0},
	} {
		root, groups := t.TempDir(), filepath.Join(t.TempDir(), "cgroup")
		files := map[string]string{groups: c.groups}
		for f, text := range c.files {
			files[filepath.Join(root, f)] = text
		}
		for f, text := range files {
			if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := groupLimit(groups, root); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
