//go:build unix

package recipes

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp reports whether nobody can write to what r reads any more, as far as the system
// says so of it.
func hungUp(r io.Reader) (gone bool) {
	c, ok := r.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(list, 0)
			gone = err == nil && n > 0 && list[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		})
	}
	return gone || err != nil // closed here
}
