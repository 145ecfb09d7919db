//go:build unix

package cpu

import "golang.org/x/sys/unix"

// mapMemory takes n zeroed bytes from the operating system.
func mapMemory(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

func unmapMemory(p []byte) {
	if err := unix.Munmap(p); err != nil {
		panic("cpu: unmap: " + err.Error()) // not one of our mappings
	}
}
