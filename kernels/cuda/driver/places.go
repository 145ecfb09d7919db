package driver

import (
	"os"
	"path/filepath"
	"slices"
)

// places lists where a library of NVIDIA's is looked for, under names, the first
// preferred: as the system finds it (LD_LIBRARY_PATH), in the toolkit of CUDA_HOME,
// CUDA_PATH or /usr/local/cuda, and in those packages (folders of nvidia) where pip and
// conda put it: VIRTUAL_ENV, CONDA_PREFIX, the user's and the system's packages of Python.
func places(names []string, packages ...string) []string {
	var dirs []string
	for _, env := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if dir := os.Getenv(env); dir != "" {
			dirs = append(dirs, filepath.Join(dir, "lib64"))
		}
	}
	dirs = append(dirs, "/usr/local/cuda/lib64")
	python := func(root string) {
		for _, name := range packages {
			found, _ := filepath.Glob(filepath.Join(root, "nvidia", name, "lib")) // the pattern is well formed
			dirs = append(dirs, found...)
		}
	}
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if dir := os.Getenv(env); dir != "" {
			dirs = append(dirs, filepath.Join(dir, "lib"))
			python(filepath.Join(dir, "lib/python3*/site-packages"))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		python(filepath.Join(home, ".local/lib/python3*/site-packages"))
	}
	python("/usr/local/lib/python3*/*-packages")
	python("/usr/lib/python3*/*-packages")
	var out []string
	for _, name := range names {
		out = append(out, name)
		for _, dir := range dirs {
			if path := filepath.Join(dir, name); exists(path) && !slices.Contains(out, path) {
				out = append(out, path)
			}
		}
	}
	return out
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }
