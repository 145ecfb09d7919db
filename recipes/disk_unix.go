//go:build unix

package recipes

import "golang.org/x/sys/unix"

// DiskFree is the number of bytes free for this user where path lies; 0 when
// unknown.
func DiskFree(path string) uint64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize)
}
