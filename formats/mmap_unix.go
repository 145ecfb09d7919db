//go:build unix

package formats

import (
	"os"

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

func unmapFile(b []byte) { unix.Munmap(b) }
