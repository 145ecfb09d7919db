package cpu

import "golang.org/x/sys/unix"

// largePages asks for them; a kernel without any does as before.
func largePages(p []byte) { _ = unix.Madvise(p, unix.MADV_HUGEPAGE) }
