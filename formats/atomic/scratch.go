package atomic

import "fmt"

// Scratch is a file for what one job cannot keep in memory. It has no name that
// anyone could find, and what it holds ends with Close or with the process. It
// is not for use by several goroutines.
type Scratch struct {
	f    File
	d    Disk
	path string
	name string // "": removed already
}

// NewScratch makes a scratch file beside path.
func NewScratch(path string) (*Scratch, error) { return machine.scratch(path) }

func (d Disk) scratch(path string) (*Scratch, error) {
	f, name, err := d.temp(path)
	if err != nil {
		return nil, failed(path, "making room on disk", err)
	}
	s := &Scratch{f: f, d: d, path: path, name: name}
	if d.FS.Remove(name) == nil { // not where open files cannot be removed
		s.name = ""
	}
	return s, nil
}

// WriteAt writes p at an offset.
func (s *Scratch) WriteAt(p []byte, off int64) error {
	n, err := s.f.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = fmt.Errorf("%d of %d bytes", n, len(p))
	}
	return failed(s.path, "writing what memory has no room for", err)
}

// ReadAt fills p with what was written at an offset.
func (s *Scratch) ReadAt(p []byte, off int64) error {
	_, err := s.f.ReadAt(p, off)
	return failed(s.path, "reading what memory has no room for", err)
}

// Close gives the space back.
func (s *Scratch) Close() {
	s.f.Close()
	if s.name != "" {
		s.d.FS.Remove(s.name)
	}
}
