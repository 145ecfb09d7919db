package testdir

import (
	"io/fs"
	"sync"

	"github.com/tunekit/tunekit/formats/atomic"
)

// Faults is the machine's file system with one operation that fails: the K-th.
// With Crash every later one fails too, as for a process that was killed. Files
// are really closed all the same, so that locks end.
type Faults struct {
	K     int
	Err   error
	Crash bool
	Short bool // a failing write stores half of its bytes first

	mu  sync.Mutex
	n   int
	hit string
}

// Hit is the operation that failed, "" when there were fewer than K.
func (f *Faults) Hit() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

func (f *Faults) step(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	switch {
	case f.n == f.K:
		f.hit = op
		return &fs.PathError{Op: op, Path: "injected", Err: f.Err}
	case f.Crash && f.n > f.K:
		return &fs.PathError{Op: op, Path: "after a crash", Err: f.Err}
	}
	return nil
}

// OpenFile, Rename and the others are the methods of atomic.FS.
func (f *Faults) OpenFile(name string, flag int, perm fs.FileMode) (atomic.File, error) {
	if err := f.step("open"); err != nil {
		return nil, err
	}
	file, err := atomic.Real.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

func (f *Faults) Rename(from, to string) error {
	if err := f.step("rename"); err != nil {
		return err
	}
	return atomic.Real.Rename(from, to)
}

func (f *Faults) Remove(name string) error {
	if err := f.step("remove"); err != nil {
		return err
	}
	return atomic.Real.Remove(name)
}

func (f *Faults) RemoveAll(name string) error {
	if err := f.step("removeall"); err != nil {
		return err
	}
	return atomic.Real.RemoveAll(name)
}

func (f *Faults) Mkdir(name string, perm fs.FileMode) error {
	if err := f.step("mkdir"); err != nil {
		return err
	}
	return atomic.Real.Mkdir(name, perm)
}

func (f *Faults) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.step("readdir"); err != nil {
		return nil, err
	}
	return atomic.Real.ReadDir(name)
}

func (f *Faults) Lstat(name string) (fs.FileInfo, error) {
	if err := f.step("lstat"); err != nil {
		return nil, err
	}
	return atomic.Real.Lstat(name)
}

func (f *Faults) SyncDir(name string) error {
	if err := f.step("syncdir"); err != nil {
		return err
	}
	return atomic.Real.SyncDir(name)
}

type faultyFile struct {
	atomic.File
	f *Faults
}

func (x *faultyFile) Write(p []byte) (int, error) {
	if err := x.f.step("write"); err != nil {
		n := 0
		if x.f.Short {
			n, _ = x.File.Write(p[:len(p)/2])
		}
		return n, err
	}
	return x.File.Write(p)
}

func (x *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := x.f.step("writeat"); err != nil {
		n := 0
		if x.f.Short {
			n, _ = x.File.WriteAt(p[:len(p)/2], off)
		}
		return n, err
	}
	return x.File.WriteAt(p, off)
}

func (x *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := x.f.step("readat"); err != nil {
		return 0, err
	}
	return x.File.ReadAt(p, off)
}

func (x *faultyFile) Sync() error {
	if err := x.f.step("sync"); err != nil {
		return err
	}
	return x.File.Sync()
}

func (x *faultyFile) Close() error {
	err := x.f.step("close")
	if e := x.File.Close(); err == nil {
		err = e
	}
	return err
}

func (x *faultyFile) Stat() (fs.FileInfo, error) {
	if err := x.f.step("stat"); err != nil {
		return nil, err
	}
	return x.File.Stat()
}

func (x *faultyFile) Truncate(size int64) error {
	if err := x.f.step("truncate"); err != nil {
		return err
	}
	return x.File.Truncate(size)
}

func (x *faultyFile) Allocate(size int64) error {
	if err := x.f.step("allocate"); err != nil {
		return err
	}
	return x.File.Allocate(size)
}

func (x *faultyFile) TryLock() (bool, error) {
	if err := x.f.step("lock"); err != nil {
		return false, err
	}
	return x.File.TryLock()
}
