package recipes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

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
//	.state/began        when trainings began that other programs keep track of
//	.state/events.jsonl what the last run said while it worked
//	.work/ID            the state of unfinished work
type folder string

func (f folder) stage(id string) string { return filepath.Join(string(f), id) }

func (f folder) work(id string) string { return filepath.Join(string(f), ".work", id) }

func (f folder) state(name string) string { return filepath.Join(string(f), ".state", name) }

func (f folder) result(id string) string { return f.state(id + ".json") }

var idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// taken are names in a run folder, and in its .state, that are no stage's.
var taken = []string{"report.html", "summary.md", "summary.json", "manifest.json", "tensorboard", "mlruns", "wandb", "hashes", "timing"}

// badID says what keeps an id from being the name of a stage's folder, "" for
// nothing.
func badID(id string) string {
	switch {
	case !idRE.MatchString(id):
		return "cannot be a folder name"
	case len(id) > maxName:
		return tooLong
	case slices.ContainsFunc(taken, func(name string) bool { return strings.EqualFold(name, id) }):
		return "is what a run calls a file of its own"
	case atomic.Reserved(id):
		return "ends like the name of an unfinished artifact"
	}
	return ""
}

// badName says what keeps a recipe's name from being that of a folder right
// below the folder of runs, "" for nothing.
func badName(name string) string {
	switch {
	case name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, unicode.IsControl):
		return "cannot be a folder name"
	case len(name) > maxName:
		return tooLong
	case atomic.Reserved(name):
		return "ends like the name of an unfinished artifact"
	}
	return ""
}

// maxName leaves room for what file names add to the name of a run or a stage.
const (
	maxName = 150
	tooLong = "is longer than 150 bytes"
)

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

// lock takes the folder, for runs and for who removes parts of it; the hint is
// for those who find it taken.
func (f folder) lock(hint string) (unlock func(), err error) {
	if err := atomic.MkdirAll(f.state("")); err != nil {
		return nil, fail.Limitf(string(f), "", "%w", err)
	}
	l := flock.New(f.state("lock"))
	ok, err := l.TryLock()
	for range 20 { // who asks whether a run is at work holds it for a moment
		if ok || err != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
		ok, err = l.TryLock()
	}
	if err != nil {
		return nil, fail.Limitf(string(f), "", "%w", err)
	}
	if !ok {
		return nil, fail.Usagef(string(f), hint, "another run is working in this folder")
	}
	return func() { l.Unlock() }, nil
}

// sweep removes what killed runs left half done; the lock says none is alive.
func (f folder) sweep(ids []string) {
	for _, d := range append(ids, "", ".work", ".state") {
		atomic.Clean(filepath.Join(string(f), d))
	}
}
