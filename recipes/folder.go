package recipes

import (
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
