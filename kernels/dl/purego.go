//go:build linux && (amd64 || arm64) && !nodl

package dl

import (
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

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

// CallStruct calls f with integers and pointers, of which those from the at-th on come
// behind a structure that C takes by value: s, of 24 to 208 bytes in whole words, without
// alignment of its own above that of a word. What args point to must lie on the heap, and
// be kept there by the caller. At most 6 args; on amd64 such a structure lies on the
// stack behind all that is in registers (System V ABI, 3.2.3), on arm64 the callee is
// given the address of a copy (AAPCS64, 6.8.2).
func (f Func) CallStruct(args []uintptr, at int, s []byte) uintptr {
	const inRegisters = 6
	if len(args) > inRegisters || at > len(args) || len(s)%8 != 0 || len(s) < 24 || len(s) > 208 {
		panic("dl: no such call with a structure")
	}
	words := make([]uintptr, len(s)/8)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(s)), s)
	var list []uintptr
	if runtime.GOARCH == "amd64" {
		list = make([]uintptr, inRegisters, inRegisters+len(words))
		copy(list, args)
		list = append(list, words...)
	} else {
		list = append(append(append(list, args[:at]...), uintptr(unsafe.Pointer(&words[0]))), args[at:]...)
	}
	r, _, _ := purego.SyscallN(uintptr(f), list...)
	runtime.KeepAlive(words)
	return r
}
