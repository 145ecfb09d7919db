package train

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// lockDir makes this process the only one that trains in dir. The lock is the
// kernel's and ends with the process, however that ends.
func lockDir(dir string) (unlock func(), err error) {
	if err := atomic.MkdirAll(dir); err != nil {
		return nil, err
	}
	owner := filepath.Join(dir, "owner")
	l := flock.New(filepath.Join(dir, "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fail.Inputf(dir, "", "cannot be locked: %w", err)
	}
	if !ok {
		who, _ := os.ReadFile(owner)
		return nil, fail.Inputf(dir, "wait for it, stop it, or choose another folder", "another run is writing here%s", who)
	}
	host, _ := os.Hostname()
	if err := atomic.WriteFile(owner, fmt.Appendf(nil, " (process %d on %s)", os.Getpid(), host)); err != nil {
		l.Unlock()
		return nil, err
	}
	return func() {
		os.Remove(owner)
		l.Unlock()
	}, nil
}
