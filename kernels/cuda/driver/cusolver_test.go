//go:build !nodl

package driver

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
)

// solver is the stand-in of cuSOLVER beside that of the driver; set gives it words, and
// left says how many of its handles are not given back.
func solver(t *testing.T) (d Driver, lib string, set func(string), left func() int) {
	t.Helper()
	cudaLib, lib := fake(t), built(t, "fakecusolver.c", "libcusolver.so.12", "-O2", "-fno-math-errno")
	setenv(t, "")
	d, err := Open(0, cudaLib)
	if err != nil {
		t.Fatal(err)
	}
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
	give, handles := sym("fakeSolverSet"), sym("fakeSolverHandles")
	return d, lib, func(words string) {
		text := append([]byte(words), 0)
		give.Call(uintptr(unsafe.Pointer(&text[0])))
	}, func() int { return int(int32(handles.Call())) }
}

// inverted gives a, float32 [n, n] by rows, to the library, and returns what it made of it
// and what it says of failures.
func inverted(d Driver, l Factors, a []float32, n int) (out []float32, failed [2]int32, err error) {
	p, err := d.Alloc(int64(4 * n * n))
	if err != nil {
		return nil, failed, err
	}
	bytes, err := l.Room(p, n)
	if err != nil {
		return nil, failed, err
	}
	room, err := d.Alloc(bytes)
	if err != nil {
		return nil, failed, err
	}
	flags, err := d.Alloc(8)
	if err != nil {
		return nil, failed, err
	}
	raw := make([]byte, 4*n*n)
	for i, v := range a {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	if err := d.ToDevice(p, raw); err != nil {
		return nil, failed, err
	}
	if err := l.Invert(p, n, room, bytes, flags); err != nil {
		return nil, failed, err
	}
	if err := d.ToHost(raw, p); err != nil {
		return nil, failed, err
	}
	for i := range n * n {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	said := make([]byte, 8)
	err = d.ToHost(said, flags)
	return out, [2]int32{int32(binary.LittleEndian.Uint32(said)), int32(binary.LittleEndian.Uint32(said[4:]))}, err
}

// TestCusolver: the lower triangle by rows becomes that of the inverse of its factor, the
// upper is not touched, and what is not positive definite is said.
func TestCusolver(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, lib, _, left := solver(t)
	l, err := OpenCusolver(d.(*cuda).stream, "/nowhere/libcusolver.so.12", lib)
	if err != nil {
		t.Fatal(err)
	}
	if l.Version() != "cusolver-12.2.0" || l.Path() != lib {
		t.Errorf("%s of %s", l.Version(), l.Path())
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 7, 40} {
		low := make([]float64, n*n) // A = low·lowᵀ
		for i := range n {
			for j := range i {
				low[i*n+j] = rng.NormFloat64() / math.Sqrt(float64(n))
			}
			low[i*n+i] = 1 + rng.Float64()
		}
		a := make([]float32, n*n)
		for i := range n {
			for j := range n {
				a[i*n+j] = 99 // nobody reads it
				if j <= i {
					s := 0.0
					for k := range j + 1 {
						s += low[i*n+k] * low[j*n+k]
					}
					a[i*n+j] = float32(s)
				}
			}
		}
		got, failed, err := inverted(d, l, a, n)
		if err != nil || failed != [2]int32{} {
			t.Fatalf("%d rows: %v, %v", n, failed, err)
		}
		for i := range n {
			for j := range n {
				if j > i {
					if got[i*n+j] != 99 {
						t.Fatalf("%d rows: element %d,%d above the diagonal is written", n, i, j)
					}
					continue
				}
				s, want := 0.0, 0.0 // of low times the inverse
				for k := j; k <= i; k++ {
					s += low[i*n+k] * float64(got[k*n+j])
				}
				if i == j {
					want = 1
				}
				if math.Abs(s-want) > 1e-5 {
					t.Fatalf("%d rows: low times the inverse has %v at %d,%d, want %v", n, s, i, j, want)
				}
			}
		}
	}
	if _, failed, err := inverted(d, l, []float32{4, 0, 2, 1}, 2); err != nil || failed[0] != 2 {
		t.Errorf("of a matrix that is not positive definite: %v, %v", failed, err)
	}
	p, err := d.Alloc(64)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Invert(p, 4, p, 31, p); err == nil || !strings.Contains(err.Error(), "works in 32 bytes for 4 rows, where 31 are there") {
		t.Errorf("too little room: %v", err)
	}
	if err := l.Close(); err != nil || left() != 0 {
		t.Errorf("%v, and %d handles are left", err, left())
	}
}

// Every function fails once: the error says which, and nothing is left.
func TestCusolverFails(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, lib, set, left := solver(t)
	use := func() error {
		l, err := OpenCusolver(d.(*cuda).stream, lib)
		if err != nil {
			return err
		}
		_, _, err = inverted(d, l, []float32{4, 0, 2, 5}, 2)
		if cerr := l.Close(); err == nil {
			err = cerr
		}
		return err
	}
	for symbol := range new(cusolver).symbols() {
		set("fail=" + symbol + ":1:7")
		if err := use(); err == nil || !strings.Contains(err.Error(), symbol+" failed with CUSOLVER_STATUS_INTERNAL_ERROR (7)") {
			t.Errorf("%s fails: %v", symbol, err)
		}
		if want := map[string]int{"cusolverDnDestroy": 1}[symbol]; left() != want {
			t.Errorf("%s fails: %d handles are left", symbol, left())
		}
		if symbol == "cusolverDnDestroy" { // the one that it did not give back
			set("")
			loaded, err := dl.Open(lib)
			if err != nil {
				t.Fatal(err)
			}
			destroy, err := loaded.Sym("cusolverDnDestroy")
			if err != nil {
				t.Fatal(err)
			}
			destroy.Call(0)
		}
	}
	for words, says := range map[string]string{"version=10300": "version number 10300, 11 or 12 is needed", "version=13000": "version number 13000", "fail=cusolverDnCreate:1:99": "CUSOLVER_STATUS (99)"} {
		set(words)
		if err := use(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", words, err)
		}
	}
	set("")
	if _, err := OpenCusolver(2, fake(t)); err == nil || !strings.Contains(err.Error(), "lacks cusolverDnCreate, cusolverDnDestroy, ") {
		t.Errorf("another library: %v", err)
	}
	if _, err := OpenCusolver(2, "/nowhere/libcusolver.so.12"); err == nil || !strings.Contains(err.Error(), "cuSOLVER is not there: no library could be loaded; looked for /nowhere/") {
		t.Errorf("no library: %v", err)
	}
}
