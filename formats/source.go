package formats

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
)

// source is one open file. Reads never go past the size it had when opened.
type source struct {
	name    string // within its folder
	path    string
	r       io.ReaderAt
	f       *os.File // nil for bytes in memory
	size    int64
	missing int64  // bytes at its end that are not here: it is a header file
	of      string // reference of what a header file is the header of

	mapOnce sync.Once
	mapped  []byte
}

// openSource opens a regular file. Pipes, sockets and devices are refused
// without waiting on them.
func openSource(path string) (*source, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		f.Close()
		return nil, openError(path, err)
	}
	s := &source{name: filepath.Base(path), path: path, r: f, f: f, size: st.Size()}
	if err := s.beheaded(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// held is how many bytes of the file can be read.
func (s *source) held() int64 { return s.size - s.missing }

// hubName is how the hub calls a model.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*$`)

func openError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	hint := "check the path"
	if hubName.MatchString(path) && errors.Is(err, fs.ErrNotExist) {
		hint += fmt.Sprintf("; a model of the hub is hf://%[1]s after tune pull hf://%[1]s", path)
	}
	if errors.Is(err, fs.ErrPermission) {
		hint = "you may not read it; check its permissions"
	}
	return fail.Inputf(path, hint, "cannot open it: %w", err)
}

// inside reports whether n bytes at off lie in a file of size bytes. No sum is
// formed, so nothing can wrap.
func inside(off, n, size int64) bool { return off >= 0 && n >= 0 && n <= size && off <= size-n }

// read returns n bytes at off in new memory.
func (s *source) read(off, n int64) ([]byte, error) {
	if !inside(off, n, s.size) {
		return nil, corrupt(s.path, "%d bytes at %d lie outside its %d bytes", n, off, s.size)
	}
	if !inside(off, n, s.held()) {
		return nil, s.absent()
	}
	b := make([]byte, n)
	if got, err := s.r.ReadAt(b, off); int64(got) < n {
		if errors.Is(err, io.EOF) {
			return nil, corrupt(s.path, "it became shorter while it was read")
		}
		return nil, fail.Inputf(s.path, "", "reading %d bytes at %d: %w", n, off, err)
	}
	return b, nil
}

// bytes returns a mapped range, false where the system cannot map.
func (s *source) bytes(off, n int64) ([]byte, bool) {
	s.mapOnce.Do(func() {
		if s.f != nil && s.missing == 0 {
			s.mapped = mapFile(s.f, s.size)
		}
	})
	if s.mapped == nil || !inside(off, n, int64(len(s.mapped))) {
		return nil, false
	}
	return s.mapped[off : off+n : off+n], true
}

func (s *source) close() error {
	s.mapOnce.Do(func() {})
	if s.mapped != nil {
		unmapFile(s.mapped)
		s.mapped = nil
	}
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// smallFile reads a whole file of at most limit bytes.
func smallFile(path string, limit int64) ([]byte, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.size > limit {
		return nil, tooBig(path, "it has %d bytes, the limit for this kind of file is %d", s.size, limit)
	}
	return s.read(0, s.size)
}

// TextFile reads a small file that was named, of at most 256 MiB.
func TextFile(path string) ([]byte, error) { return smallFile(path, maxSmall) }

// plainName reports whether name is a file name and nothing else, under the
// rules of every system.
func plainName(name string) bool {
	if name == "" || len(name) > 255 || name == "." || name == ".." {
		return false
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == '/' || r == '\\' || r == ':' || r == '\u2215' || r == '\u2044' || r == '\uff0f' || r == '\ufffd' {
			return false
		}
	}
	last := name[len(name)-1]
	return last != '.' && last != ' ' && filepath.IsLocal(name)
}
