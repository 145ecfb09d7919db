//go:build !linux

package atomic

import (
	"errors"
	"os"
)

func allocate(f *os.File, size int64) error { return f.Truncate(size) }

func exchange(a, b string) error { return errors.ErrUnsupported }
