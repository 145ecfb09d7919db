//go:build !nodl

package driver

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dl"
)

// fake builds the stand-in of the driver library.
func fake(t *testing.T, flags ...string) string {
	t.Helper()
	return built(t, "fakecuda.c", "libcuda.so.1", flags...)
}

// built makes a library called name of a source.
func built(t *testing.T, source, name string, flags ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not there to build the stand-in of " + name)
	}
	lib := filepath.Join(t.TempDir(), name)
	args := append(append([]string{"-shared", "-fPIC", "-O1", "-w"}, flags...), "-o", lib, "testdata/"+source)
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return lib
}

// setenv changes the environment that C sees, which Go's own copy is not.
func setenv(t *testing.T, value string) {
	t.Helper()
	libc, err := dl.Open("libc.so.6")
	if err != nil {
		t.Fatal(err)
	}
	f, err := libc.Sym("setenv")
	if err != nil {
		t.Fatal(err)
	}
	key, text := []byte("FAKECUDA\x00"), append([]byte(value), 0)
	if f.Call(uintptr(unsafe.Pointer(&key[0])), uintptr(unsafe.Pointer(&text[0])), 1) != 0 {
		t.Fatal("setenv failed")
	}
}

const ptx = ".version 8.4 // with a function f"

// use makes every call once and returns the first error.
func use(d Driver) (err error) {
	defer func() { err = errors.Join(err, d.Close()) }()
	m, err := d.Load([]byte(ptx))
	if err != nil {
		return err
	}
	f, err := d.Function(m, "function f")
	if err != nil {
		return err
	}
	p, err := d.Alloc(64)
	if err != nil {
		return err
	}
	q, err := d.Alloc(64)
	if err != nil {
		return err
	}
	src, dst := bytes.Repeat([]byte("tunekit."), 8), make([]byte, 64)
	a, err := d.Record()
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { _, err := d.FreeMemory(); return err },
		func() error {
			idle, err := d.(Linker).Idle()
			if err == nil && !idle {
				err = errors.New("nothing goes on, and it is not idle")
			}
			return err
		},
		func() error { return d.ToDevice(p, src) },
		func() error { return d.Copy(q, p, 64) },
		func() error { return d.Launch(f, Dim{1, 2, 3}, Dim{32, 4, 1}, 64<<10, []byte{1, 2, 3, 4}) },
		func() error { return d.ToHost(dst, q) },
		func() error {
			b, err := d.Record()
			if err != nil {
				return err
			}
			ms, err := d.Elapsed(a, b)
			if err == nil && ms != 2.5 {
				err = errors.New("a float by pointer did not arrive")
			}
			return errors.Join(err, d.Release(b))
		},
		func() error {
			g, err := d.Capture([]Work{{f, Dim{1, 2, 3}, Dim{32, 4, 1}, 0, []byte{1, 2, 3, 4}}})
			if err != nil {
				return err
			}
			return errors.Join(d.Replay(g), d.Drop(g))
		},
		func() error {
			h, err := d.AllocHost(64)
			if err != nil {
				return err
			}
			return errors.Join(d.ToDevice(h, src), d.Copy(q, h, 64), d.FreeHost(h))
		},
		func() error {
			pinned, err := d.Pin(64)
			if err != nil {
				return err
			}
			copy(pinned, src)
			e, err := d.Ahead(p, pinned)
			if err != nil {
				return err
			}
			return errors.Join(d.Await(e), d.Release(e), d.Save(pinned, p), d.Unpin(pinned))
		},
		func() error { return d.Release(a) },
		func() error { return d.Free(p) },
		func() error { return d.Free(q) },
		d.Sync,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if !bytes.Equal(src, dst) {
		return errors.New("the bytes did not come back")
	}
	return nil
}

func TestCalls(t *testing.T) {
	lib := fake(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setenv(t, "")
	d, err := Open(0, "/nowhere/libcuda.so.1", lib)
	if err != nil {
		t.Fatal(err)
	}
	if in := d.Info(); in != (Info{Name: "Fake GPU", Major: 9, Memory: 1 << 30, SMs: 4, CUDA: 12040}) {
		t.Errorf("%+v", in)
	}
	if _, err := d.Load([]byte("nonsense")); err == nil || !strings.Contains(err.Error(), "no .version in nonsense") {
		t.Errorf("what the driver's compiler says is not in %v", err)
	}
	if err := use(d); err != nil {
		t.Error(err)
	}
}

// Every function fails once, and Open or use says which.
func TestEveryFailure(t *testing.T) {
	lib := fake(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for symbol := range new(cuda).symbols() {
		name := strings.TrimSuffix(strings.TrimSuffix(symbol, "_v2"), "_v3")
		if strings.HasPrefix(name, "cuGetError") || name == "cuGraphDestroy" {
			continue // asked for words only; what it could say has no reader
		}
		setenv(t, "fail="+name+":0:2")
		d, err := Open(0, lib)
		if err != nil && fail.Code(err) != int(fail.Limit) {
			t.Errorf("%s: Open fails with exit code %d", name, fail.Code(err))
		}
		if err == nil {
			err = use(d)
		}
		var e *Error
		if !errors.As(err, &e) || e.Call != name || e.Code != OutOfMemory || e.Name != "CUDA_ERROR_FAKE_2" || e.Text != "in the words of the driver" {
			t.Errorf("%s fails: %v", name, err)
		}
	}
}

func TestUnusable(t *testing.T) {
	lib, old := fake(t), fake(t, "-DOLD")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, c := range []struct {
		lib, env string
		index    int
		says     string
	}{
		{lib, "devices=0", 0, "CUDA_ERROR_FAKE_100 (100)"},
		{lib, "devices=2", 2, "the driver lists 2"},
		{lib, "cuda=11080", 0, "the driver is for CUDA 11.8, 12.4 or newer is needed"},
		{lib, "major=7", 0, "compute capability 7.0, 8.0 is the least"},
		{old, "cuda=11010", 0, "(a driver for CUDA 11.1) lacks cuMemAllocAsync"},
		{"/nowhere/libcuda.so.1", "", 0, "looked for /nowhere/libcuda.so.1 ("},
	} {
		setenv(t, c.env)
		_, err := Open(c.index, c.lib)
		if fail.Code(err) != int(fail.Limit) || fail.Hint(err) == "" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v (exit %d), want %q", c.env, err, fail.Code(err), c.says)
		}
	}
}
