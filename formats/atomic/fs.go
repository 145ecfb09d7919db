package atomic

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FS is every operation this package does on a file system, so that a test can
// fail any one of them. Real is the system's.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	Mkdir(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Lstat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
}

// File is an open file or folder of an FS.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	Sync() error
	Close() error
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Allocate reserves size bytes on disk and makes the file that long.
	Allocate(size int64) error
	// Map returns the file's first size bytes, which are there, as memory that is
	// written to the file; plain memory where files cannot be mapped.
	Map(size int64) ([]byte, error)
	// TryLock takes the file's lock until Close; false when another holds it.
	TryLock() (bool, error)
}

// Real is the file system of the machine.
var Real FS = osFS{}

type osFS struct{}

type osFile struct{ *os.File }

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error               { return os.Rename(from, to) }
func (osFS) Remove(name string) error                   { return os.Remove(name) }
func (osFS) RemoveAll(name string) error                { return os.RemoveAll(name) }
func (osFS) Mkdir(name string, perm fs.FileMode) error  { return os.Mkdir(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osFS) Lstat(name string) (fs.FileInfo, error)     { return os.Lstat(name) }
func (osFS) SyncDir(name string) error                  { return syncDir(filepath.Clean(name)) }
func (f osFile) Allocate(size int64) error              { return allocate(f.File, size) }
func (f osFile) Map(size int64) ([]byte, error)         { return mapShared(f.File, size) }
func (f osFile) TryLock() (bool, error)                 { return tryLock(f.File) }
