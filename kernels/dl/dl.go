// Package dl loads shared libraries into the running program without cgo: the
// driver of a GPU, and whatever else a machine has or has not. It is the only
// importer of purego, which makes the program a dynamically linked one; built
// with -tags nodl the program is static, and Open says so.
package dl

import (
	"fmt"
	"strings"
)

// Lib is a loaded library. It stays loaded until the process ends.
type Lib struct {
	Path   string // as it was asked for
	handle uintptr
}

// Func is the address of a function of a library.
type Func uintptr

// NotFound is the error of Open: no candidate could be loaded.
type NotFound struct {
	Built bool // false: this build can load none
	Tries []Try
}

// Try is one candidate and why it was not loaded.
type Try struct{ Path, Reason string }

func (e *NotFound) Error() string {
	if !e.Built {
		return "this build loads no libraries (it is static: built with -tags nodl, or for another system than linux)"
	}
	var s []string
	for _, t := range e.Tries {
		s = append(s, t.Path+" ("+t.Reason+")")
	}
	return "no library could be loaded; looked for " + strings.Join(s, ", ")
}

// Open loads the first of the candidates that can be: names are looked for where
// the system does (LD_LIBRARY_PATH, the linker's cache), paths are taken as they
// are. The error is a *NotFound that lists each with its reason.
func Open(candidates ...string) (*Lib, error) {
	missing := &NotFound{Built: available}
	for _, path := range candidates {
		h, err := open(path)
		if err == nil {
			return &Lib{Path: path, handle: h}, nil
		}
		// The linker repeats the name that it was given.
		reason := strings.TrimPrefix(err.Error(), path+": ")
		missing.Tries = append(missing.Tries, Try{path, reason})
	}
	return nil, missing
}

// Sym returns the address of an exported function.
func (l *Lib) Sym(name string) (Func, error) {
	f, err := sym(l.handle, name)
	if err != nil || f == 0 {
		return 0, fmt.Errorf("%s has no function %s", l.Path, name)
	}
	return Func(f), nil
}
