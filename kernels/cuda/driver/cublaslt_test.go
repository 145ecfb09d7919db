//go:build !nodl

package driver

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dl"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// products is the stand-in of cuBLASLt beside that of the driver; set gives it words,
// and left says how many of its objects are not given back.
func products(t *testing.T) (d Driver, open func() (Products, error), set func(string), left func() int) {
	t.Helper()
	cudaLib, lib := fake(t), built(t, "fakecublaslt.c", "libcublasLt.so.13", "-O2")
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
	fakeSet, objects := sym("fakeSet"), sym("fakeObjects")
	const room = 4096
	open = func() (Products, error) {
		p, err := d.Alloc(room)
		if err != nil {
			t.Fatal(err)
		}
		return OpenCublasLt(d.(*cuda).stream, p, room, "/nowhere/libcublasLt.so.13", lib)
	}
	set = func(words string) {
		text := append([]byte(words), 0)
		fakeSet.Call(uintptr(unsafe.Pointer(&text[0])))
	}
	return d, open, set, func() int { return int(int32(objects.Call())) }
}

// TestCublasLt: products through the library's interface are those in float64, in all
// orientations and types, with rows that lie apart, factors and sums that go on.
func TestCublasLt(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, open, _, left := products(t)
	lib, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if lib.Version() != "cublasLt-13.1.0" || !strings.HasSuffix(lib.Path(), "libcublasLt.so.13") {
		t.Errorf("%s of %s", lib.Version(), lib.Path())
	}
	rng := rand.New(rand.NewPCG(7, 8))
	encode := func(k dtype.Kind, v float32) []byte {
		switch k {
		case dtype.BF16:
			return binary.LittleEndian.AppendUint16(nil, block.BF16(v))
		case dtype.F16:
			return binary.LittleEndian.AppendUint16(nil, block.F16(v))
		}
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))
	}
	decode := func(k dtype.Kind, raw []byte, i int) float32 {
		switch k {
		case dtype.BF16:
			return block.FromBF16(binary.LittleEndian.Uint16(raw[2*i:]))
		case dtype.F16:
			return block.FromF16(binary.LittleEndian.Uint16(raw[2*i:]))
		}
		return math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	fill := func(k dtype.Kind, n int) (Ptr, []byte) {
		var raw []byte
		for range n {
			raw = append(raw, encode(k, float32(rng.NormFloat64()))...)
		}
		p, err := d.Alloc(int64(len(raw)))
		if err == nil {
			err = d.ToDevice(p, raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p, raw
	}
	const m, n, k = 5, 7, 11
	for i := range 64 {
		p := Product{Kind: dtype.BF16, Out: dtype.F32, TA: i&1 != 0, TB: i&2 != 0, M: m, N: n, K: k, LDA: 16, LDB: 24, LDC: n, Alpha: 0.75}
		if i&4 != 0 {
			p.Kind = dtype.F16
		}
		if i&8 != 0 {
			p.Out = p.Kind
		}
		if i&16 != 0 {
			p.Beta = -0.5
		}
		if i&32 != 0 {
			p.LDC = 9
		}
		var a, b, c []byte
		p.A, a = fill(p.Kind, 16*16)
		p.B, b = fill(p.Kind, 16*24)
		p.C, c = fill(p.Out, m*p.LDC)
		got := make([]byte, len(c))
		if err := lib.Multiply([]Product{p}); err != nil {
			t.Fatalf("%v: %v", &p, err)
		}
		if err := d.ToHost(got, p.C); err != nil {
			t.Fatal(err)
		}
		for at := range m * p.LDC {
			row, col := at/p.LDC, at%p.LDC
			want := float64(decode(p.Out, c, at))
			if col < n {
				sum := 0.0
				for x := range k {
					i, j := row*p.LDA+x, x*p.LDB+col
					if p.TA {
						i = x*p.LDA + row
					}
					if p.TB {
						j = col*p.LDB + x
					}
					sum += float64(decode(p.Kind, a, i)) * float64(decode(p.Kind, b, j))
				}
				want = float64(p.Alpha)*sum + float64(p.Beta)*want
			}
			tolerance := map[dtype.Kind]float64{dtype.F32: 1e-6, dtype.F16: 1e-3, dtype.BF16: 8e-3}[p.Out] * (1 + math.Abs(want))
			if have := float64(decode(p.Out, got, at)); math.Abs(have-want) > tolerance {
				t.Fatalf("%v, case %d: element %d,%d is %v, want %v", &p, i, row, col, have, want)
			}
		}
	}
	if err := errors.Join(lib.Close(), d.Close()); err != nil || left() != 0 {
		t.Errorf("%v, %d objects are left", err, left())
	}
}

// Every function of the library fails once: opening or a product says which, and what
// was made is given back.
func TestCublasLtFails(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, open, set, left := products(t)
	defer d.Close()
	at, err := d.Alloc(4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ToDevice(at, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	once := []Product{{A: at, B: at, C: at, Kind: dtype.BF16, Out: dtype.F32, M: 8, N: 8, K: 8, LDA: 8, LDB: 8, LDC: 8, Alpha: 1}}
	use := func() error {
		lib, err := open()
		if err != nil {
			return err
		}
		return errors.Join(lib.Multiply(once), lib.Multiply(once), lib.Close())
	}
	for symbol := range new(cublasLt).symbols() {
		if strings.HasPrefix(symbol, "cublasLtGet") {
			continue // asked for words only
		}
		set("fail=" + symbol + ":1:14")
		before := left()
		err := use()
		var e *Error
		if !errors.As(err, &e) || e.Call != symbol || e.Code != 14 || e.Name != "CUBLAS_STATUS_FAKE_14" || e.Text != "in the words of the library" {
			t.Errorf("%s fails: %v", symbol, err)
		}
		if n := left() - before; n != 0 && !strings.HasSuffix(symbol, "Destroy") { // what it refuses to take back stays
			t.Errorf("%s fails: %d objects are left", symbol, n)
		}
	}
	set("none=1")
	if err := use(); !errors.Is(err, ErrNoProduct) || !strings.Contains(err.Error(), "A·B of BF16, 8×8, sums of 8, to F32") {
		t.Errorf("without an algorithm: %v", err)
	}
	set("version=110500")
	if err := use(); err == nil || !strings.Contains(err.Error(), "version number 110500, 12 or newer") {
		t.Errorf("an old library: %v", err)
	}
	set("")
	_, err = OpenCublasLt(0, at, 4096, fake(t))
	if err == nil || !strings.Contains(err.Error(), "lacks cublasLtCreate, cublasLtDestroy, ") {
		t.Errorf("another library: %v", err)
	}
	if _, err = OpenCublasLt(0, at, 4096, "/nowhere/libcublasLt.so.13"); err == nil || !strings.Contains(err.Error(), "cuBLASLt is not there: no library could be loaded; looked for /nowhere/") {
		t.Errorf("no library: %v", err)
	}
}

// The library is looked for where the system, the toolkit and Python have it, and that
// of CUDA 13 under a driver that runs it only.
func TestCublasLtPlaces(t *testing.T) {
	root := t.TempDir()
	t.Setenv("CUDA_HOME", root)
	t.Setenv("CUDA_PATH", "")
	t.Setenv("VIRTUAL_ENV", root)
	t.Setenv("CONDA_PREFIX", "")
	var want [2][]string // of 12 and 13
	for i, name := range []string{"libcublasLt.so.12", "libcublasLt.so.13"} {
		want[i] = []string{name}
		for _, dir := range []string{"lib64", map[int]string{0: "lib/python3.12/site-packages/nvidia/cublas/lib", 1: "lib/python3.12/site-packages/nvidia/cu13/lib"}[i]} {
			path := filepath.Join(root, dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			want[i] = append(want[i], path)
		}
	}
	ours := func(list []string) []string { // without those of this machine
		return slices.DeleteFunc(list, func(s string) bool { return filepath.IsAbs(s) && !strings.HasPrefix(s, root) })
	}
	if got := ours(CublasLt(12080)); !slices.Equal(got, want[0]) {
		t.Errorf("for 12.8: %v, want %v", got, want[0])
	}
	if got := ours(CublasLt(13000)); !slices.Equal(got, append(want[1], want[0]...)) {
		t.Errorf("for 13.0: %v, want %v", got, append(want[1], want[0]...))
	}
}
