package formats

import (
	"runtime"
	"runtime/debug"

	"github.com/tunekit/tunekit/formats/atomic"
)

// Mapped is a file that is read where it lies: the system brings its pages into
// memory when they are looked at and takes them back when it needs the room. On
// systems that cannot map, the file is read whole. It is let go of when nothing
// refers to it any more. Safe for concurrent use.
type Mapped struct{ b []byte }

// OpenMapped opens a regular file.
func OpenMapped(path string) (*Mapped, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer s.f.Close()
	if err := s.absent(); err != nil {
		return nil, err
	}
	m := &Mapped{}
	if m.b = mapFile(s.f, s.size); m.b != nil {
		runtime.AddCleanup(m, unmapFile, m.b)
		return m, nil
	}
	m.b, err = s.read(0, s.size)
	return m, err
}

// MapScratch is what was appended to a scratch file, until that is closed.
func MapScratch(s *atomic.Scratch) (*Mapped, error) {
	b, err := s.Map(s.Size())
	return &Mapped{b}, err
}

// Read gives f the bytes of the file, which must neither be changed nor kept. A
// page that cannot be had (the file was cut, the disk fails) ends f, and is an
// error of kind fail.Input that wraps ErrCorrupt.
func (m *Mapped) Read(f func(b []byte) error) (err error) {
	defer runtime.KeepAlive(m)
	defer CatchFaults(&err)()
	return f(m.b)
}

// CatchFaults begins a time in which pages of mapped files that cannot be had (a
// file was cut, the disk fails) are no end of the program: what it returns is to
// be deferred at once, and turns such a fault on this goroutine into an error of
// kind fail.Input that wraps ErrCorrupt and names the file. Other goroutines have
// to call it themselves.
func CatchFaults(err *error) (end func()) {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface{ Addr() uintptr })
		if !ok {
			panic(r)
		}
		path := mappedAt(fault.Addr())
		if path == "" {
			panic(r)
		}
		*err = corrupt(path, "it cannot be read: it was cut while it was in use, or the disk fails")
	}
}
