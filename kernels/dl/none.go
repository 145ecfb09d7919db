//go:build !linux || !(amd64 || arm64) || nodl

package dl

import "errors"

const available = false

var errNone = errors.New("this build loads no libraries")

func open(string) (uintptr, error) { return 0, errNone }

func sym(uintptr, string) (uintptr, error) { return 0, errNone }

// Call panics: there is no function to call.
//
//go:uintptrescapes
func (f Func) Call(...uintptr) uintptr { panic("dl: this build loads no libraries") }

// CallStruct panics as Call does.
func (f Func) CallStruct([]uintptr, int, []byte) uintptr { return f.Call() }
