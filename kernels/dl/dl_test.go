package dl

import (
	"debug/elf"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestOpenSaysWhatItTried(t *testing.T) {
	_, err := Open("libtunekit-none.so.1", "/nowhere/libtunekit-none.so.1")
	var missing *NotFound
	if !errors.As(err, &missing) || missing.Built != available || len(missing.Tries) != 2 {
		t.Fatalf("%v", err)
	}
	if !available {
		if !strings.Contains(err.Error(), "nodl") {
			t.Errorf("%v", err)
		}
		return
	}
	for _, s := range []string{"libtunekit-none.so.1 (", "/nowhere/libtunekit-none.so.1 (", "No such file"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v: %q is not said", err, s)
		}
	}
}

func TestCall(t *testing.T) {
	if !available {
		t.Skip("this build loads no libraries")
	}
	lib, err := Open("libc.so.6", "libc.so")
	if err != nil {
		t.Fatal(err)
	}
	f, err := lib.Sym("strlen")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("seven..\x00")
	if n := f.Call(uintptr(unsafe.Pointer(&text[0]))); n != 7 {
		t.Errorf("strlen: %d", n)
	}
	if _, err := lib.Sym("tunekit_none"); err == nil || !strings.Contains(err.Error(), "tunekit_none") {
		t.Errorf("%v", err)
	}
}

// A build that loads nothing needs no linker either: it is static.
func TestStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into an ELF file")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dynamic := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if dynamic != available {
		t.Errorf("the program is dynamically linked: %v, loads libraries: %v", dynamic, available)
	}
}
