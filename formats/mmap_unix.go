//go:build unix

package formats

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nonblock keeps the opening of a pipe without writer from waiting forever.
const nonblock = unix.O_NONBLOCK

func mapFile(f *os.File, size int64) []byte {
	if size <= 0 || int64(int(size)) != size {
		return nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	mappings.Store(uintptr(unsafe.Pointer(unsafe.SliceData(b))), mapping{f.Name(), size, true})
	return b
}

// mappings are the files that are mapped, or were, by the address of their first
// byte: on its way up, a fault in one passes those who close it.
var mappings sync.Map // uintptr → mapping

type mapping struct {
	path string
	size int64
	held bool
}

// mappedAt is the file whose mapping holds an address, "" for none.
func mappedAt(addr uintptr) (path string) {
	mappings.Range(func(at, v any) bool {
		m := v.(mapping)
		if first := at.(uintptr); addr < first || addr-first >= uintptr(m.size) {
			return true
		}
		path = m.path
		return !m.held // one that is there goes before one that was
	})
	return path
}

// forgetPages lets go of the memory that holds whole pages of a mapped file.
// The bytes stay valid: they are read from the file again when they are used.
func forgetPages(b []byte) {
	page := uintptr(os.Getpagesize())
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	first := -at & (page - 1)
	if last := (at + uintptr(len(b))) &^ (page - 1); last > at+first {
		_ = unix.Madvise(b[first:last-at], unix.MADV_DONTNEED)
	}
}

func unmapFile(b []byte) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if m, ok := mappings.Load(at); ok {
		mappings.Store(at, mapping{m.(mapping).path, m.(mapping).size, false})
	}
	unix.Munmap(b)
}
