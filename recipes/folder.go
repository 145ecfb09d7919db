package recipes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// folder is a run folder: a folder for each stage's artifact, and
//
//	.state/ID.json      the recorded result of a stage
//	.state/hashes.json  content hashes of files that were read
//	.state/timing.json  what differs from run to run
//	.state/kernels      the kernel level of the last run
//	.work/ID            the state of unfinished work
type folder string

func (f folder) stage(id string) string { return filepath.Join(string(f), id) }

func (f folder) work(id string) string { return filepath.Join(string(f), ".work", id) }

func (f folder) state(name string) string { return filepath.Join(string(f), ".state", name) }

func (f folder) result(id string) string { return f.state(id + ".json") }

// own refuses a folder with files in it that no run made.
func (f folder) own() error {
	if _, err := os.Lstat(f.state("")); err == nil {
		return nil
	}
	entries, err := os.ReadDir(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail.Usagef(string(f), "give this run another name: --set name=…", "%w", err)
	}
	for _, e := range entries {
		if e.Name()[0] != '.' {
			return fail.Usagef(string(f), "move it away, or give this run another name: --set name=…", "no run made this folder, and %s lies in it", e.Name())
		}
	}
	return nil
}

// lock takes the folder; a second run in it is refused.
func (f folder) lock() (unlock func(), err error) {
	if err := atomic.MkdirAll(f.state("")); err != nil {
		return nil, fail.Limitf(string(f), "", "%w", err)
	}
	l := flock.New(f.state("lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fail.Limitf(string(f), "", "%w", err)
	}
	if !ok {
		return nil, fail.Usagef(string(f), "wait for it, or give this run another name: --set name=…", "another run is working in this folder")
	}
	return func() { l.Unlock() }, nil
}

// sweep removes what killed runs left half done; the lock says none is alive.
func (f folder) sweep(ids []string) {
	for _, d := range append(ids, "", ".work", ".state") {
		atomic.Clean(filepath.Join(string(f), d))
	}
}
