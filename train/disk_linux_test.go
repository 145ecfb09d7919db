package train

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestSmallDisk is the process of TestDiskFull: no file can grow beyond a few
// bytes less than a checkpoint needs.
func TestSmallDisk(t *testing.T) {
	dir := os.Getenv("TUNEKIT_TRAIN_SMALL_DISK")
	if dir == "" {
		t.Skip("run by TestDiskFull")
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 100_000, Max: 100_000}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	_, err := Run(context.Background(), smallJob(t, dir))
	if fail.Code(err) != int(fail.Limit) {
		t.Fatalf("error %v", err)
	}
}

// TestDiskFull: a checkpoint that does not fit is an error of kind Limit and
// leaves nothing behind; with space again the run goes on and ends the same.
func TestDiskFull(t *testing.T) {
	want, curve := straight(t)
	for name, first := range map[string]int{"first save": 0, "later save": 5} {
		dir := filepath.Join(t.TempDir(), "state")
		if first > 0 {
			stopAt(t, dir, first)
		}
		before, _ := listStates(dir)
		cmd := exec.Command(os.Args[0], "-test.run=^TestSmallDisk$")
		cmd.Env = append(os.Environ(), "TUNEKIT_TRAIN_SMALL_DISK="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if after, _ := listStates(dir); len(after) != len(before) {
			t.Errorf("%s: checkpoints %v, before %v", name, after, before)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), "tmp") {
				t.Errorf("%s left %s", name, e.Name())
			}
		}
		j := smallJob(t, dir)
		res, err := Run(context.Background(), j)
		if err != nil {
			t.Fatal(name, err)
		}
		if res.Resumed != first || hash(t, j) != want || curveOf(t, dir) != curve {
			t.Errorf("%s: resumed at %d, adapter equal %v, curve\n%s\nwant\n%s", name, res.Resumed, hash(t, j) == want, curveOf(t, dir), curve)
		}
	}
}
