// Package atomic is the only writer of files. A path it writes holds the
// complete file or folder, synced to disk, or nothing; never a part.
//
// The sequence is always: a temporary name in the same folder, preallocation
// where the size is known, a count of the bytes, fsync, close, rename, fsync of
// the folder. A failed fsync is never retried. Temporary files are locked while
// their writer lives; those of dead writers are removed by the next one.
package atomic

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
)

// Disk writes to one file system. The package's functions use the machine's;
// tests make a Disk of an FS that fails.
type Disk struct{ FS FS }

var machine = Disk{Real}

// Create starts a file that appears at path on Commit, replacing what is there.
func Create(path string) (*Writer, error) { return machine.Create(path, -1) }

// CreateSized is Create for a file whose size is known: its space is reserved
// now, and Commit refuses another number of bytes.
func CreateSized(path string, size int64) (*Writer, error) { return machine.Create(path, size) }

// WriteFile writes a whole file at path, replacing what is there.
func WriteFile(path string, data []byte) error { return machine.WriteFile(path, data) }

// Rename gives a finished file or folder its name, at which nothing is.
func Rename(from, to string) error {
	to = filepath.Clean(to)
	if err := machine.publish(from, to); err != nil {
		return failed(to, "renaming", err)
	}
	return failed(to, "syncing the folder", syncDir(filepath.Dir(to)))
}

// Append adds to the end of a file, or makes it, by writing the whole anew. Where
// path is a link, what it points to grows.
func Append(path string, data []byte) error {
	if err := Ordinary(path); err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(path, "reading", err)
	}
	return WriteFile(path, append(old, data...))
}

// Ordinary refuses a path that holds a device, a pipe or a socket, or a link to
// one: renamed to, it would become a file for everyone who uses it.
func Ordinary(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Mode().IsRegular() || st.IsDir() {
		return nil
	}
	return fail.Usagef(path, "name a file", "is a device, a pipe or a socket, and a file would take its place")
}

// Own refuses a path that holds something other than a command wrote there
// before: what is written beside a result replaces only its like. An empty file
// is anyone's.
func Own(path, what string, is func() bool) error {
	if err := Ordinary(path); err != nil {
		return err
	}
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && (st.Size() == 0 || is()) {
		return nil
	}
	if _, err := os.Lstat(path); err != nil { // a link to nothing is something
		return nil
	}
	return fail.Usagef(path, "name another file, or move this one away", "exists and is not %s: it would be lost", what)
}

// Writer is one file being written. It is not safe for concurrent use.
type Writer struct {
	d     Disk
	f     File
	path  string
	temp  string
	size  int64 // expected, -1 unknown
	n     int64
	err   error
	ended bool
}

// Create is the function Create on this Disk; size -1 means unknown.
func (d Disk) Create(path string, size int64) (*Writer, error) {
	path = filepath.Clean(path)
	if st, err := d.FS.Lstat(path); err == nil && st.IsDir() {
		return nil, failed(path, "creating", errors.New("a folder has this name"))
	}
	if err := Ordinary(path); err != nil {
		return nil, err
	}
	d.sweep(path)
	f, temp, err := d.temp(path)
	if err != nil {
		return nil, failed(path, "creating a temporary file", err)
	}
	w := &Writer{d: d, f: f, path: path, temp: temp, size: size}
	if size > 0 {
		if err := f.Allocate(size); err != nil {
			w.Abort()
			return nil, failed(path, fmt.Sprintf("reserving %d bytes", size), err)
		}
	}
	return w, nil
}

// WriteFile is the function WriteFile on this Disk.
func (d Disk) WriteFile(path string, data []byte) error {
	w, err := d.Create(path, int64(len(data)))
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

// Write appends to the file. The first error is kept and returned by Commit.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	w.n += int64(n)
	if err == nil && n != len(p) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(p))
	}
	w.err = failed(w.path, "writing", err)
	return n, w.err
}

// Commit checks the byte count, syncs and publishes the file. After an error
// the path holds what it held before (or, when only the sync of the folder
// failed, the new file whole), and the temporary file is gone.
func (w *Writer) Commit() error {
	if w.ended {
		return failed(w.path, "committing", fs.ErrClosed)
	}
	defer w.Abort()
	if w.err != nil {
		return w.err
	}
	if err := w.count(); err != nil {
		return failed(w.path, "checking the size", err)
	}
	if err := w.f.Sync(); err != nil {
		return failed(w.path, "syncing", err)
	}
	if err := w.d.FS.Rename(w.temp, w.path); err != nil {
		return failed(w.path, "renaming", err)
	}
	w.ended = true
	err := errors.Join(w.d.FS.SyncDir(filepath.Dir(w.path)), w.f.Close())
	return failed(w.path, "syncing the folder", err)
}

func (w *Writer) count() error {
	st, err := w.f.Stat()
	switch {
	case err != nil:
		return err
	case w.size >= 0 && w.n != w.size:
		return fmt.Errorf("%d bytes were written, %d were announced", w.n, w.size)
	case st.Size() != w.n:
		return fmt.Errorf("the file has %d bytes, %d were written", st.Size(), w.n)
	}
	return nil
}

// Abort removes the unfinished file; after Commit it does nothing.
func (w *Writer) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	w.d.FS.Remove(w.temp)
	w.f.Close()
}

// temp makes and locks a new file path.tmp-XXXXXXXXXXXX. It retries when a
// sweeper of another process took it between creation and lock.
func (d Disk) temp(path string) (File, string, error) {
	for range 100 {
		name := tempName(path)
		f, err := d.FS.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		ok, err := f.TryLock()
		if err != nil {
			f.Close()
			d.FS.Remove(name)
			return nil, "", err
		}
		if ok && d.same(f, name) {
			return f, name, nil
		}
		f.Close()
	}
	return nil, "", errors.New("no free temporary name")
}

// same reports whether name still is the open file f.
func (d Disk) same(f File, name string) bool {
	a, err1 := f.Stat()
	b, err2 := d.FS.Lstat(name)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

const tempMark = ".tmp-"

func tempName(path string) string {
	var b [6]byte
	rand.Read(b[:])
	return path + tempMark + hex.EncodeToString(b[:])
}

// isTemp reports whether name is a temporary of this package, of base when that
// is not empty.
func isTemp(name, base string) bool {
	i := strings.LastIndex(name, tempMark)
	if i < 0 || len(name)-i-len(tempMark) != 12 {
		return false
	}
	_, err := hex.DecodeString(name[i+len(tempMark):])
	return err == nil && (base == "" || name[:i] == base)
}

// Reserved reports whether this package gives such a name to what is unfinished:
// the end of the name would make it remove the file or folder.
func Reserved(name string) bool {
	return strings.HasSuffix(name, partSuffix) || isTemp(name, "") || isTemp(strings.Replace(name, asideMark, tempMark, 1), "")
}

// sweep removes temporaries of path whose writers are dead.
func (d Disk) sweep(path string) { d.clean(filepath.Dir(path), filepath.Base(path)) }

// Clean removes what dead writers left in dir: temporary files and folders, and
// the remains of partial artifacts that were published. Unfinished partial
// artifacts stay: the command that made them goes on with them.
func Clean(dir string) { machine.clean(dir, "") }

func (d Disk) clean(dir, base string) {
	entries, err := d.FS.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		full := filepath.Join(dir, e.Name())
		switch {
		case isTemp(e.Name(), base) && e.Type()&fs.ModeSymlink == 0:
			d.removeDead(full, full)
		case base == "" && e.IsDir() && strings.HasSuffix(e.Name(), partSuffix) && d.published(full):
			d.removeDead(full, filepath.Join(full, journalName))
		}
	}
}

// removeDead removes name when no living writer holds the lock of lockFile.
func (d Disk) removeDead(name, lockFile string) {
	f, err := d.FS.OpenFile(lockFile, os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if ok, err := f.TryLock(); ok && err == nil {
		d.FS.RemoveAll(name)
	}
}
