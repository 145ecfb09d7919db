package level

import "golang.org/x/sys/unix"

// permitTiles asks for leave to use tiles (Linux, Documentation/arch/x86/xstate.rst);
// a kernel that does not know or keep their state refuses.
func permitTiles() bool {
	const (
		requestPermission = 0x1023 // ARCH_REQ_XCOMP_PERM
		tileData          = 18     // XFEATURE_XTILE_DATA
	)
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, requestPermission, tileData, 0)
	return errno == 0
}
