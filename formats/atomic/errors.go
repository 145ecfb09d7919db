package atomic

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/tunekit/tunekit/formats/fail"
)

// failed turns an error of the file system into one for people: a full disk or
// an exhausted quota is fail.Limit, everything else fail.Input.
func failed(path, doing string, err error) error {
	if err == nil {
		return nil
	}
	var done *fail.Error
	if errors.As(err, &done) {
		return err
	}
	if errors.Is(err, syscall.EFBIG) {
		return fail.Limitf(path, "raise the limit of a file's size (ulimit -f), or write to a file system that holds larger files", "%s: %w", doing, err)
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) {
			return fail.Limitf(path, "free some space, then run the same command again", "%s: no space left: %w", doing, err)
		}
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return fail.Limitf(path, "raise the limit of open files (ulimit -n)", "%s: %w", doing, err)
	}
	hint := ""
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		hint = "choose a folder you may write to"
	case errors.Is(err, fs.ErrNotExist):
		hint = "does the folder above it exist?"
	}
	return fail.Inputf(path, hint, "%s: %w", doing, err)
}
