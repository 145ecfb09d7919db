//go:build unix

package formats

import (
	"os"
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
	return b
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

func unmapFile(b []byte) { unix.Munmap(b) }
