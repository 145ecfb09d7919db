//go:build !nodl

package driver

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
)

// connections is the stand-in of NCCL; set gives it words, and left says how many
// communicators are not given back.
func connections(t *testing.T) (lib string, set func(string), left func() int) {
	t.Helper()
	lib = built(t, "fakenccl.c", "libnccl.so.2", "-O2")
	loaded, err := dl.Open(lib)
	if err != nil {
		t.Fatal(err)
	}
	sym := func(name string) dl.Func {
		f, err := loaded.Sym(name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	give, comms := sym("fakeNcclSet"), sym("fakeNcclComms")
	return lib, func(words string) {
		text := append([]byte(words), 0)
		give.Call(uintptr(unsafe.Pointer(&text[0])))
	}, func() int { return int(int32(comms.Call())) }
}

// gathered connects size ranks, each on a thread of its own, and gathers turns times; the
// errors are those of the ranks.
func gathered(lib string, size, turns int) error {
	first, err := OpenNccl(2, lib)
	if err != nil {
		return err
	}
	id, err := first.ID()
	if err != nil {
		return err
	}
	errs := make([]error, size)
	var wg sync.WaitGroup
	for rank := range size {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs[rank] = func() error {
				l, err := OpenNccl(2, lib)
				if err != nil {
					return err
				}
				if err := l.Join(id, rank, size); err != nil {
					return err
				}
				const n = 1000
				to := make([]byte, size*n)
				var pin runtime.Pinner
				defer pin.Unpin()
				pin.Pin(&to[0])
				for turn := range turns {
					clear(to)
					own := to[rank*n:][:n]
					for i := range own {
						own[i] = byte(i*rank + i%5 + turn)
					}
					at := Ptr(uintptr(unsafe.Pointer(&to[0])))
					if err := errors.Join(l.AllGather(at, at+Ptr(rank*n), n), l.Failed()); err != nil {
						return errors.Join(err, l.Abort(), l.Close())
					}
					for i, b := range to {
						if want := byte(i%n*(i/n) + i%n%5 + turn); b != want {
							return fmt.Errorf("rank %d of %d: byte %d is %d, want %d", rank, size, i, b, want)
						}
					}
				}
				return l.Close()
			}()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TestNccl: the id arrives by value, whole, and every rank has what all sent.
func TestNccl(t *testing.T) {
	lib, _, left := connections(t)
	for size := 1; size <= 4; size++ {
		if err := gathered(lib, size, 3); err != nil {
			t.Errorf("%d ranks: %v", size, err)
		}
	}
	l, err := OpenNccl(2, "/nowhere/libnccl.so.2", lib)
	if err != nil || l.Version() != "nccl-2.27.3" || l.Path() != lib {
		t.Fatalf("%v, %v", l, err)
	}
	id, err := l.ID()
	if err != nil || len(id) != 128 || !bytes.HasSuffix(id, []byte("the end!")) {
		t.Fatalf("id %q, %v", id, err)
	}
	if err := l.Join(id[1:], 0, 1); err == nil || !strings.Contains(err.Error(), "128 bytes, not 127") {
		t.Errorf("a short id: %v", err)
	}
	id[127] = '?'
	if err := l.Join(id, 0, 1); err == nil || !strings.Contains(err.Error(), "ncclCommInitRank failed with NCCL_FAKE_4") {
		t.Errorf("an id whose last byte is another: %v", err)
	}
	if n := left(); n != 0 {
		t.Errorf("%d communicators are left", n)
	}
}

// Every function fails once, on both ranks: the error says which, in the library's words.
func TestNcclFails(t *testing.T) {
	lib, set, _ := connections(t)
	for symbol := range new(nccl).symbols() {
		if symbol == "ncclGetErrorString" || symbol == "ncclGetLastError" {
			continue // asked for words only
		}
		words := "fail=" + symbol + ":1:5"
		if symbol == "ncclCommAbort" {
			words += " lost=1"
		}
		set(words)
		err := gathered(lib, 2, 1)
		if err == nil || !strings.Contains(err.Error(), symbol+" failed with NCCL_FAKE_5 (5): in the words of NCCL") {
			t.Errorf("%s fails: %v", symbol, err)
		}
	}
	set("lost=2")
	if err := gathered(lib, 2, 3); err == nil || !strings.Contains(err.Error(), "what was queued ended badly: ncclAllGather failed with NCCL_FAKE_6 (6)") {
		t.Errorf("a rank is lost: %v", err)
	}
	set("version=20803")
	if _, err := OpenNccl(2, lib); err == nil || !strings.Contains(err.Error(), "version number 20803, 2.13 or a newer 2") {
		t.Errorf("an old library: %v", err)
	}
	set("")
	if _, err := OpenNccl(2, fake(t)); err == nil || !strings.Contains(err.Error(), "lacks ncclAllGather, ncclCommAbort, ") {
		t.Errorf("another library: %v", err)
	}
	if _, err := OpenNccl(2, "/nowhere/libnccl.so.2"); err == nil || !strings.Contains(err.Error(), "NCCL is not there: no library could be loaded; looked for /nowhere/") {
		t.Errorf("no library: %v", err)
	}
}
