//go:build linux && (amd64 || arm64) && !nodl

package dl

import "github.com/ebitengine/purego"

const available = true

func open(path string) (uintptr, error) {
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

func sym(lib uintptr, name string) (uintptr, error) { return purego.Dlsym(lib, name) }

// Call calls f with integers and pointers (converted in the call itself, which
// keeps what they point to where it is) and returns its result. C floats by
// value cannot be given.
//
//go:uintptrescapes
func (f Func) Call(args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(uintptr(f), args...)
	return r
}
