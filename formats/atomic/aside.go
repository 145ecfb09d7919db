package atomic

import (
	"path/filepath"
	"strings"
)

// asideMark stands in the name of what was moved aside.
const asideMark = ".aside-"

// Aside moves what is at path out of the way under a temporary name beside it.
// restore puts it back, over anything that has appeared at path; drop removes
// it for good. Exactly one of them is to be called. After a crash between, the
// old file or folder still lies beside path, its name continued by .aside- and a number.
func Aside(path string) (restore, drop func() error, err error) { return machine.aside(path) }

func (d Disk) aside(path string) (restore, drop func() error, err error) {
	path = filepath.Clean(path)
	if err := Ordinary(path); err != nil {
		return nil, nil, err
	}
	old := strings.Replace(tempName(path), tempMark, asideMark, 1) // no sweep of temporaries may take it
	if err := d.FS.Rename(path, old); err != nil {
		return nil, nil, failed(path, "moving it aside", err)
	}
	restore = func() error {
		if err := d.FS.RemoveAll(path); err != nil {
			return failed(path, "removing a part", err)
		}
		if err := d.FS.Rename(old, path); err != nil {
			return failed(path, "putting it back from "+old, err)
		}
		return d.FS.SyncDir(filepath.Dir(path))
	}
	return restore, func() error { return d.FS.RemoveAll(old) }, nil
}
