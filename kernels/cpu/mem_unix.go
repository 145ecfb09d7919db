//go:build unix

package cpu

import "golang.org/x/sys/unix"

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
