package driver

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// cusolver is NVIDIA's library of decompositions (cusolverDn.h), version 11 or 12.
type cusolver struct {
	lib     *dl.Lib
	version int
	handle  uintptr

	getVersion, create, destroy, setStream   dl.Func
	factorSize, factor, inverseSize, inverse dl.Func

	// What C is given an address of: on the heap, where it stays.
	floats       int32  // that the factor works in
	device, host uint64 // bytes that the inverse works in
	room         []byte // of the host
	args         [12]uintptr
}

func (l *cusolver) symbols() map[string]*dl.Func {
	return map[string]*dl.Func{
		"cusolverGetVersion": &l.getVersion, "cusolverDnCreate": &l.create, "cusolverDnDestroy": &l.destroy, "cusolverDnSetStream": &l.setStream,
		"cusolverDnSpotrf_bufferSize": &l.factorSize, "cusolverDnSpotrf": &l.factor, "cusolverDnXtrtri_bufferSize": &l.inverseSize, "cusolverDnXtrtri": &l.inverse,
	}
}

// Numbers of cublas_api.h: a triangle by columns, and a diagonal that is stored.
const fillUpper, diagNonUnit = 1, 0

// cusolverNames are those of a cusolverStatus_t (cusolver_common.h), from 1.
var cusolverNames = []string{"NOT_INITIALIZED", "ALLOC_FAILED", "INVALID_VALUE", "ARCH_MISMATCH", "MAPPING_ERROR", "EXECUTION_FAILED", "INTERNAL_ERROR", "MATRIX_TYPE_NOT_SUPPORTED", "NOT_SUPPORTED"}

// Cusolver lists where cuSOLVER is looked for (places) under a driver for CUDA of that
// version (1000·major + 10·minor). The library of CUDA 13 comes first, and only where the
// driver runs it.
func Cusolver(version int) []string {
	names := []string{"libcusolver.so.11"}
	if version >= 13000 {
		names = []string{"libcusolver.so.12", "libcusolver.so.11"}
	}
	return places(names, "cu13", "cusolver")
}

// Factors loads cuSOLVER.
func (c *cuda) Factors() (Factors, error) {
	return OpenCusolver(c.stream, Cusolver(c.info.CUDA)...)
}

// OpenCusolver loads the first of libs that can be, which works in a stream of the driver's.
func OpenCusolver(stream uintptr, libs ...string) (Factors, error) {
	lib, err := dl.Open(libs...)
	if err != nil {
		return nil, fmt.Errorf("cuSOLVER is not there: %w", err)
	}
	l := &cusolver{lib: lib}
	if lacking := find(lib, l.symbols()); lacking != "" {
		return nil, fmt.Errorf("%s lacks %s", lib.Path, lacking)
	}
	var version int32
	if err := l.check("cusolverGetVersion", l.getVersion.Call(uintptr(unsafe.Pointer(&version)))); err != nil {
		return nil, fmt.Errorf("%s: %w", lib.Path, err)
	}
	if l.version = int(version); l.version < 11000 || l.version >= 13000 { // 11.x.y: 11000 + 100x + y
		return nil, fmt.Errorf("%s is cuSOLVER of version number %d, 11 or 12 is needed", lib.Path, l.version)
	}
	err = l.check("cusolverDnCreate", l.create.Call(uintptr(unsafe.Pointer(&l.handle))))
	runtime.KeepAlive(l)
	if err == nil {
		if err = l.check("cusolverDnSetStream", l.setStream.Call(l.handle, stream)); err != nil {
			l.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s (%s): %w", lib.Path, l.Version(), err)
	}
	return l, nil
}

// check makes an error of a cusolverStatus_t.
func (l *cusolver) check(call string, result uintptr) error {
	code := int(int32(result))
	if code == 0 {
		return nil
	}
	name := "CUSOLVER_STATUS"
	if code > 0 && code <= len(cusolverNames) {
		name += "_" + cusolverNames[code-1]
	}
	return &Error{Call: call, Code: code, Name: name}
}

// Version is cusolver-MAJOR.MINOR.PATCH.
func (l *cusolver) Version() string {
	return fmt.Sprintf("cusolver-%d.%d.%d", l.version/1000, l.version/100%10, l.version%100)
}

// Path is the name that it was found by.
func (l *cusolver) Path() string { return l.lib.Path }

// Room asks both steps.
func (l *cusolver) Room(a Ptr, n int) (int64, error) {
	err := l.check("cusolverDnSpotrf_bufferSize", l.factorSize.Call(l.handle, fillUpper, uintptr(n), uintptr(a), uintptr(n), uintptr(unsafe.Pointer(&l.floats))))
	if err == nil {
		l.args = [12]uintptr{l.handle, fillUpper, diagNonUnit, uintptr(n), cudaTypes[dtype.F32], uintptr(a), uintptr(n), uintptr(unsafe.Pointer(&l.device)), uintptr(unsafe.Pointer(&l.host))}
		err = l.check("cusolverDnXtrtri_bufferSize", l.inverseSize.Call(l.args[:9]...))
	}
	runtime.KeepAlive(l)
	return max(4*int64(l.floats), int64(l.device)), err
}

// Invert starts both steps. The library reads by columns what lies by rows: what is below
// the diagonal is above it, and L is Lᵀ.
func (l *cusolver) Invert(a Ptr, n int, room Ptr, bytes int64, failed Ptr) error {
	need, err := l.Room(a, n)
	if err != nil {
		return err
	}
	if need > bytes {
		return fmt.Errorf("cuSOLVER works in %d bytes for %d rows, where %d are there", need, n, bytes)
	}
	if err := l.check("cusolverDnSpotrf", l.factor.Call(l.handle, fillUpper, uintptr(n), uintptr(a), uintptr(n), uintptr(room), uintptr(l.floats), uintptr(failed))); err != nil {
		return err
	}
	if uint64(len(l.room)) < l.host {
		l.room = make([]byte, l.host)
	}
	var host uintptr
	if len(l.room) > 0 {
		host = uintptr(unsafe.Pointer(&l.room[0]))
	}
	l.args = [12]uintptr{l.handle, fillUpper, diagNonUnit, uintptr(n), cudaTypes[dtype.F32], uintptr(a), uintptr(n), uintptr(room), uintptr(l.device), host, uintptr(l.host), uintptr(failed + 4)}
	err = l.check("cusolverDnXtrtri", l.inverse.Call(l.args[:]...))
	runtime.KeepAlive(l)
	return err
}

// Close gives everything back.
func (l *cusolver) Close() (err error) {
	if l.handle != 0 {
		err = l.check("cusolverDnDestroy", l.destroy.Call(l.handle))
	}
	l.handle = 0
	return err
}
