package atomic

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// asideMark stands in the name of what was moved aside.
const asideMark = ".aside-"

// Aside moves what is at path out of the way under a temporary name beside it.
// restore puts it back, over anything that has appeared at path; drop removes
// it for good. Exactly one of them is to be called. After a crash between, the
// old file or folder still lies beside path, its name continued by .aside- and a
// number, until Recover.
func Aside(path string) (restore, drop func() error, err error) { return machine.aside(path) }

func (d Disk) aside(path string) (restore, drop func() error, err error) {
	path = filepath.Clean(path)
	if err := Ordinary(path); err != nil {
		return nil, nil, err
	}
	old := strings.Replace(tempName(path), tempMark, asideMark, 1) // no sweep of temporaries may take it
	unlock := d.hold(path)
	if err := d.FS.Rename(path, old); err != nil {
		unlock()
		return nil, nil, failed(path, "moving it aside", err)
	}
	restore = func() error {
		defer unlock()
		if err := d.FS.RemoveAll(path); err != nil {
			return failed(path, "removing a part", err)
		}
		if err := d.FS.Rename(old, path); err != nil {
			return failed(path, "putting it back from "+old, err)
		}
		return d.FS.SyncDir(filepath.Dir(path))
	}
	return restore, func() error { defer unlock(); return d.FS.RemoveAll(old) }, nil
}

// hold locks a file or folder, which says to Recover that its writer lives.
func (d Disk) hold(path string) (unlock func()) {
	if st, err := d.FS.Lstat(path); err != nil || !st.IsDir() && !st.Mode().IsRegular() {
		return func() {}
	}
	f, err := d.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return func() {}
	}
	_, _ = f.TryLock() // where it cannot be locked, Recover cannot either
	return func() { f.Close() }
}

// Recover ends what a process that was killed between Aside and its end left
// beside path: the newest of it goes back to path where nothing is there, the
// rest is removed, since something newer was written whole.
func Recover(path string) error { return machine.recover(filepath.Clean(path)) }

func (d Disk) recover(path string) error {
	dir, base := filepath.Split(path)
	entries, err := d.FS.ReadDir(cmp.Or(dir, "."))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed(path, "looking for what was moved aside", err)
	}
	type old struct {
		name string
		time int64
	}
	var all []old
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), base+asideMark); !ok || !isTemp(base+tempMark+rest, base) || e.Type()&fs.ModeSymlink != 0 {
			continue
		}
		st, err := e.Info()
		if err != nil {
			continue // gone in this moment: its writer lives
		}
		all = append(all, old{filepath.Join(dir, e.Name()), st.ModTime().UnixNano()})
	}
	slices.SortFunc(all, func(a, b old) int { return cmp.Compare(b.time, a.time) })
	for _, o := range all {
		if err := d.takeBack(o.name, path); err != nil {
			return failed(path, "putting back "+o.name, err)
		}
	}
	return nil
}

// takeBack moves old to path, or removes it where that is taken. What a living
// writer holds stays.
func (d Disk) takeBack(old, path string) error {
	lock, err := d.FS.OpenFile(old, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer lock.Close()
	if ok, err := lock.TryLock(); err != nil || !ok || !d.same(lock, old) {
		return nil
	}
	if _, err := d.FS.Lstat(path); err == nil {
		return d.FS.RemoveAll(old)
	}
	if err := d.FS.Rename(old, path); err != nil {
		return err
	}
	return d.FS.SyncDir(filepath.Dir(path))
}
