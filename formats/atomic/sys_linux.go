package atomic

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate uses fallocate, and extends the file where the file system has none.
func allocate(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}
