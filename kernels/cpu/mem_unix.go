//go:build unix

package cpu

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapMemory takes n zeroed bytes from the operating system, in large pages
// where it has them.
func mapMemory(n int) ([]byte, error) {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		largePages(p)
	}
	return p, err
}

// unmapMemory gives back what mapMemory took.
func unmapMemory(p []byte) { _ = unix.Munmap(p) } // fails for a range that was not mapped only

// forgetMemory lets the system have the whole pages of p, whose contents are
// not needed any more.
func forgetMemory(p []byte) {
	page := os.Getpagesize()
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(p))) & uintptr(page-1))
	if n := (len(p) - skip) &^ (page - 1); n > 0 {
		_ = unix.Madvise(p[skip:skip+n], unix.MADV_DONTNEED) // without it they stay
	}
}
