package driver

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
)

// nccl is NVIDIA's library of communication (nccl.h), version 2.
type nccl struct {
	lib     *dl.Lib
	version int
	stream  uintptr

	getVersion, errorString, lastError, uniqueID, initRank dl.Func
	allGather, asyncError, abort, destroy                  dl.Func

	// What C is given an address of: on the heap, where it stays.
	comm  uintptr
	id    [idBytes]byte
	async int32
}

func (l *nccl) symbols() map[string]*dl.Func {
	return map[string]*dl.Func{
		"ncclGetVersion": &l.getVersion, "ncclGetErrorString": &l.errorString, "ncclGetLastError": &l.lastError, "ncclGetUniqueId": &l.uniqueID, "ncclCommInitRank": &l.initRank,
		"ncclAllGather": &l.allGather, "ncclCommGetAsyncError": &l.asyncError, "ncclCommAbort": &l.abort, "ncclCommDestroy": &l.destroy,
	}
}

// Numbers of nccl.h.
const (
	idBytes        = 128 // NCCL_UNIQUE_ID_BYTES
	ncclInt8       = 0
	ncclInProgress = 7
	oldestNccl     = 21300 // as ncclGetVersion says 2.13, from which on errors have words of their own (ncclGetLastError)
)

// Nccl lists where NCCL is looked for (places).
func Nccl() []string { return places([]string{"libnccl.so.2"}, "nccl") }

// Ranks loads NCCL.
func (c *cuda) Ranks() (Ranks, error) { return OpenNccl(c.stream, Nccl()...) }

// OpenNccl loads the first of libs that can be, which gathers in a stream of the driver's.
func OpenNccl(stream uintptr, libs ...string) (Ranks, error) {
	lib, err := dl.Open(libs...)
	if err != nil {
		return nil, fmt.Errorf("NCCL is not there: %w", err)
	}
	l := &nccl{lib: lib, stream: stream}
	if lacking := find(lib, l.symbols()); lacking != "" {
		return nil, fmt.Errorf("%s lacks %s", lib.Path, lacking)
	}
	var version int32
	if err := l.check("ncclGetVersion", l.getVersion.Call(uintptr(unsafe.Pointer(&version)))); err != nil {
		return nil, fmt.Errorf("%s: %w", lib.Path, err)
	}
	l.version = int(version)
	if l.version < oldestNccl || l.version >= 30000 {
		return nil, fmt.Errorf("%s is NCCL of version number %d, 2.13 or a newer 2 is needed", lib.Path, l.version)
	}
	return l, nil
}

// check makes an error of an ncclResult_t, in the library's words.
func (l *nccl) check(call string, result uintptr) error {
	code := int(int32(result))
	if code == 0 {
		return nil
	}
	words := func(p uintptr) string { return goString(*(**[256]byte)(unsafe.Pointer(&p))) }
	e := &Error{Call: call, Code: code, Name: words(l.errorString.Call(uintptr(code))), Text: words(l.lastError.Call(0))}
	if e.Name == "" {
		e.Name = "an error of NCCL"
	}
	return e
}

// Version is nccl-MAJOR.MINOR.PATCH.
func (l *nccl) Version() string {
	return fmt.Sprintf("nccl-%d.%d.%d", l.version/10000, l.version/100%100, l.version%100)
}

// Path is the name that it was found by.
func (l *nccl) Path() string { return l.lib.Path }

// ID asks for one.
func (l *nccl) ID() ([]byte, error) {
	err := l.check("ncclGetUniqueId", l.uniqueID.Call(uintptr(unsafe.Pointer(&l.id[0]))))
	runtime.KeepAlive(l)
	return append([]byte(nil), l.id[:]...), err
}

// Join hands the id over by value.
func (l *nccl) Join(id []byte, rank, size int) error {
	if len(id) != idBytes {
		return fmt.Errorf("an id of NCCL has %d bytes, not %d", idBytes, len(id))
	}
	err := l.check("ncclCommInitRank", l.initRank.CallStruct([]uintptr{uintptr(unsafe.Pointer(&l.comm)), uintptr(size), uintptr(rank)}, 2, id))
	runtime.KeepAlive(l)
	if err != nil {
		l.comm = 0
	}
	return err
}

// AllGather gathers bytes, so that no value is touched.
func (l *nccl) AllGather(dst, src Ptr, n int64) error {
	return l.check("ncclAllGather", l.allGather.Call(uintptr(src), uintptr(dst), uintptr(n), ncclInt8, l.comm, l.stream))
}

// Failed asks for the communicator's own error.
func (l *nccl) Failed() error {
	l.async = 0
	err := l.check("ncclCommGetAsyncError", l.asyncError.Call(l.comm, uintptr(unsafe.Pointer(&l.async))))
	runtime.KeepAlive(l)
	if err != nil || l.async == ncclInProgress {
		return err
	}
	err = l.check("ncclAllGather", uintptr(l.async))
	if err != nil {
		err = fmt.Errorf("what was queued ended badly: %w", err)
	}
	return err
}

// Abort ends what is under way.
func (l *nccl) Abort() (err error) {
	if l.comm != 0 {
		err = l.check("ncclCommAbort", l.abort.Call(l.comm))
	}
	l.comm = 0
	return err
}

// Close leaves the others.
func (l *nccl) Close() (err error) {
	if l.comm != 0 {
		err = l.check("ncclCommDestroy", l.destroy.Call(l.comm))
	}
	l.comm = 0
	return err
}
