package atomic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/fail"
)

// Folder is a folder being written under a temporary name; it appears whole at
// its path on Commit. It is not safe for concurrent use.
type Folder struct {
	d     Disk
	path  string
	temp  string
	lock  File
	open  map[*FolderFile]bool
	err   error
	ended bool
}

// Dir starts a folder that appears at path on Commit.
func Dir(path string) (*Folder, error) { return machine.Dir(path) }

// MkdirAll makes a folder and those above it, and syncs the names.
func MkdirAll(path string) error { return machine.MkdirAll(path) }

// RemoveAll removes a file or folder so that its path never holds a part of
// it: it is renamed first.
func RemoveAll(path string) error { return machine.RemoveAll(path) }

// Dir is the function Dir on this Disk.
func (d Disk) Dir(path string) (*Folder, error) {
	path = filepath.Clean(path)
	d.sweep(path)
	for range 100 {
		temp := tempName(path)
		err := d.FS.Mkdir(temp, 0o777)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, failed(path, "creating a temporary folder", err)
		}
		lock, err := d.FS.OpenFile(temp, os.O_RDONLY, 0)
		if err == nil {
			var ok bool
			if ok, err = lock.TryLock(); ok && d.same(lock, temp) {
				return &Folder{d: d, path: path, temp: temp, lock: lock, open: map[*FolderFile]bool{}}, nil
			}
			lock.Close()
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken for a dead writer's before it was locked
		}
		if err != nil {
			d.FS.RemoveAll(temp)
			return nil, failed(path, "locking a temporary folder", err)
		}
	}
	return nil, failed(path, "creating a temporary folder", errors.New("no free name"))
}

// FolderFile is one file of a Folder. Close syncs it.
type FolderFile struct {
	dir  *Folder
	name string
	f    File
	n    int64
}

// Create starts a file in the folder. name is plain or a relative path whose
// folders were made by Mkdir. It must be closed before Commit.
func (t *Folder) Create(name string) (*FolderFile, error) {
	if !filepath.IsLocal(name) {
		return nil, t.keep(failed(t.path, "creating", fmt.Errorf("%q is no name within the folder", name)))
	}
	f, err := t.d.FS.OpenFile(filepath.Join(t.temp, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, t.keep(failed(filepath.Join(t.path, name), "creating", err))
	}
	w := &FolderFile{dir: t, name: name, f: f}
	t.open[w] = true
	return w, nil
}

// Mkdir makes a folder within the folder.
func (t *Folder) Mkdir(name string) error {
	if !filepath.IsLocal(name) {
		return t.keep(failed(t.path, "creating", fmt.Errorf("%q is no name within the folder", name)))
	}
	return t.keep(failed(filepath.Join(t.path, name), "creating", t.d.FS.Mkdir(filepath.Join(t.temp, name), 0o777)))
}

// WriteFile writes one whole file of the folder.
func (t *Folder) WriteFile(name string, data []byte) error {
	w, err := t.Create(name)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return errors.Join(err, w.Close())
}

// Temp is the folder's present path, for programs that must be given one. Files
// made there by others are not synced by Commit.
func (t *Folder) Temp() string { return t.temp }

func (t *Folder) keep(err error) error {
	if t.err == nil {
		t.err = err
	}
	return err
}

// Write appends to the file.
func (w *FolderFile) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.n += int64(n)
	if err == nil && n != len(p) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(p))
	}
	return n, w.dir.keep(failed(filepath.Join(w.dir.path, w.name), "writing", err))
}

// Close checks the byte count, syncs and closes the file.
func (w *FolderFile) Close() error {
	if !w.dir.open[w] {
		return nil
	}
	delete(w.dir.open, w)
	st, err := w.f.Stat()
	if err == nil && st.Size() != w.n {
		err = fmt.Errorf("the file has %d bytes, %d were written", st.Size(), w.n)
	}
	if err == nil {
		err = w.f.Sync()
	}
	err = errors.Join(err, w.f.Close())
	return w.dir.keep(failed(filepath.Join(w.dir.path, w.name), "closing", err))
}

// Commit publishes the folder. A path that already holds something other than
// an empty folder is refused.
func (t *Folder) Commit() error {
	if t.ended {
		return failed(t.path, "committing", fs.ErrClosed)
	}
	defer t.Abort()
	if t.err != nil {
		return t.err
	}
	if len(t.open) > 0 {
		return failed(t.path, "committing", errors.New("a file of the folder is still open"))
	}
	if err := t.d.syncTree(t.temp); err != nil {
		return failed(t.path, "syncing", err)
	}
	if err := t.d.publish(t.temp, t.path); err != nil {
		return failed(t.path, "renaming", err)
	}
	t.ended = true
	t.lock.Close()
	return failed(t.path, "syncing the folder above", t.d.FS.SyncDir(filepath.Dir(t.path)))
}

// Abort removes the unfinished folder; after Commit it does nothing.
func (t *Folder) Abort() {
	if t.ended {
		return
	}
	t.ended = true
	for w := range t.open {
		w.f.Close()
	}
	t.d.FS.RemoveAll(t.temp)
	t.lock.Close()
}

// syncTree syncs the folders of a tree, the deepest first.
func (d Disk) syncTree(dir string) error {
	entries, err := d.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := d.syncTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return d.FS.SyncDir(dir)
}

// publish renames temp to path.
func (d Disk) publish(temp, path string) error {
	if d.occupied(path) {
		return fmt.Errorf("%w and is not an empty folder", fs.ErrExist)
	}
	return d.FS.Rename(temp, path)
}

// occupied reports whether path holds something other than an empty folder.
func (d Disk) occupied(path string) bool {
	st, err := d.FS.Lstat(path)
	if err != nil {
		return false
	}
	if !st.IsDir() {
		return true
	}
	entries, err := d.FS.ReadDir(path)
	return err != nil || len(entries) > 0
}

// MkdirAll is the function MkdirAll on this Disk.
func (d Disk) MkdirAll(path string) error {
	path = filepath.Clean(path)
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return failed(path, "creating the folder", errors.New("a file has this name"))
		}
		return nil
	}
	if up := filepath.Dir(path); up != path {
		if err := d.MkdirAll(up); err != nil {
			return err
		}
	}
	err := d.FS.Mkdir(path, 0o777)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = d.FS.SyncDir(filepath.Dir(path))
	}
	return failed(path, "creating the folder", err)
}

// RemoveAll is the function RemoveAll on this Disk.
func (d Disk) RemoveAll(path string) error {
	path = filepath.Clean(path)
	temp := tempName(path)
	err := d.FS.Rename(path, temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.FS.RemoveAll(temp)
	}
	return failed(path, "removing", err)
}

// Symlink makes path a symbolic link to target, replacing what is there. Callers
// that were not told to replace a file ask OnlyLink first.
func Symlink(target, path string) error {
	path = filepath.Clean(path)
	temp := tempName(path)
	err := os.Symlink(target, temp)
	if err == nil {
		if err = os.Rename(temp, path); err != nil {
			os.Remove(temp)
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return failed(path, "linking", err)
}

// OnlyLink refuses a path that holds something other than a symbolic link.
func OnlyLink(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSymlink == 0 {
		return fail.Usagef(path, "name another path, or move this away", "exists and is not a link: it would be lost")
	}
	return nil
}
