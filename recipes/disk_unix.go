//go:build unix

package recipes

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// DiskFree is the number of bytes free for this user where path lies; 0 when
// unknown.
func DiskFree(path string) uint64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize)
}

// inode is the number of a file on its file system.
func inode(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Ino)
	}
	return 0
}
