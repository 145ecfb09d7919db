package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// full checks how a run ends for which there is no space: its hint holds says.
func full(t *testing.T, what, says, dir string, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 {
		t.Fatalf("%s: ended with %v, want exit code 4\n%s", what, err, out)
	}
	text := string(out)
	if !strings.HasPrefix(text, "tune: ") || !regexp.MustCompile("\ntune: hint: .*"+says).MatchString(text) {
		t.Errorf("%s: says\n%s", what, text)
	}
	for _, p := range litter(dir) {
		t.Errorf("%s: left behind %s", what, p)
	}
}

// A file that cannot be written whole ends the run with exit code 4 wherever it
// happens; what lies under a final name is whole; with space again, the same
// command goes on to the same artifacts.
func TestFullDisk(t *testing.T) {
	dir := workplace(t)
	tune(t, dir, "run", "r.yaml", "--run-dir", "want", "--quiet")
	want := read(t, filepath.Join(dir, "want/r/manifest.json"))
	for _, kib := range []int{0, 4, 24, 60, 120, 200} { // largest file: in turn rows, state, adapter, GGUF and weights do not fit
		full(t, fmt.Sprint(kib, " KiB a file"), "ulimit -f", dir, exec.Command("bash", "-c", fmt.Sprintf("ulimit -f %d && exec tune run r.yaml --quiet --run-dir limited", kib)))
		complete(t, filepath.Join(dir, "limited/r"))
	}
	tune(t, dir, "run", "r.yaml", "--run-dir", "limited", "--quiet")
	if got := read(t, filepath.Join(dir, "limited/r/manifest.json")); got != want {
		t.Errorf("after the disk was full:\n%s\nwant\n%s", got, want)
	}

	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8k"); err != nil {
		t.Logf("small file systems are not tried: mount: %v", err)
		return
	}
	defer syscall.Unmount(disk, syscall.MNT_DETACH)
	for _, kib := range []int{8, 64, 300, 800} {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dk", kib)); err != nil {
			t.Fatal(err)
		}
		full(t, fmt.Sprint(kib, " KiB of disk"), "free (some )?space", dir, exec.Command("tune", "run", "r.yaml", "--quiet", "--run-dir", "disk"))
		complete(t, filepath.Join(disk, "r"))
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=128m"); err != nil {
		t.Fatal(err)
	}
	tune(t, dir, "run", "r.yaml", "--run-dir", "disk", "--quiet")
	if got := read(t, filepath.Join(disk, "r/manifest.json")); got != want {
		t.Errorf("after the file system was full:\n%s\nwant\n%s", got, want)
	}
}
