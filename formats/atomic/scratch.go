package atomic

import "fmt"

// Scratch is a file for what one job cannot keep in memory. It has no name that
// anyone could find, and what it holds ends with Close or with the process. It
// is not for use by several goroutines.
type Scratch struct {
	f      File
	d      Disk
	path   string
	name   string // "": removed already
	n      int64  // where Write goes on
	mapped []byte
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

// Write appends p to what was written before.
func (s *Scratch) Write(p []byte) (int, error) {
	if err := s.WriteAt(p, s.n); err != nil {
		return 0, err
	}
	s.n += int64(len(p))
	return len(p), nil
}

// Map returns the first n bytes as memory, zeros where nothing was written, that
// the system moves to the file when it needs the room. The file takes that room now
// where the system can reserve it: writing to memory gives no error for a full disk.
// The memory can be used until Close. A file is mapped once.
func (s *Scratch) Map(n int64) ([]byte, error) {
	if s.mapped != nil {
		return nil, failed(s.path, "mapping", fmt.Errorf("mapped already"))
	}
	err := s.f.Allocate(n)
	if err == nil {
		s.mapped, err = s.f.Map(n)
	}
	return s.mapped, failed(s.path, "making room on disk", err)
}

// LetGo takes the mapped pages out of the process's memory; they are in the file
// when they are used again.
func (s *Scratch) LetGo() { LetGo(s.mapped) }

// LetGo does so for the whole pages of a part of mapped memory.
func LetGo(b []byte) { letGo(b) }

// Size is the number of bytes that Write appended.
func (s *Scratch) Size() int64 { return s.n }

// ReadAt fills p with what was written at an offset.
func (s *Scratch) ReadAt(p []byte, off int64) error {
	_, err := s.f.ReadAt(p, off)
	return failed(s.path, "reading what memory has no room for", err)
}

// Close gives the space back.
func (s *Scratch) Close() {
	if s.mapped != nil {
		unmap(s.mapped)
		s.mapped = nil
	}
	s.f.Close()
	if s.name != "" {
		s.d.FS.Remove(s.name)
	}
}
