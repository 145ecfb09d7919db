//go:build !nodl

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func (w *withLibrary) Factors() (driver.Factors, error) {
	lib, err := driver.OpenCusolver(2, w.solver)
	if err != nil {
		return nil, err
	}
	return &factors{lib, w}, nil
}

// factors inverts copies of the lower triangles in the interpreter's memory.
type factors struct {
	driver.Factors
	w *withLibrary
}

func (f *factors) Invert(a driver.Ptr, n int, room driver.Ptr, bytes int64, failed driver.Ptr) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	here := func(n int) ([]byte, driver.Ptr) {
		b := aligned(n)
		pin.Pin(&b[0])
		return b, driver.Ptr(uintptr(unsafe.Pointer(&b[0])))
	}
	matrix, at := here(4 * n * n)
	_, work := here(int(bytes))
	flags, says := here(8)
	row := func(i int) ([]byte, driver.Ptr) { return matrix[4*n*i:][:4*(i+1)], a + driver.Ptr(4*n*i) }
	for i := range n {
		if b, from := row(i); f.w.ToHost(b, from) != nil {
			return fmt.Errorf("row %d cannot be read", i)
		}
	}
	if err := f.Factors.Invert(at, n, work, bytes, says); err != nil {
		return err
	}
	f.w.solved++
	f.w.now += f.w.took
	for i := range n {
		if b, to := row(i); f.w.ToDevice(to, b) != nil {
			return fmt.Errorf("row %d cannot be written", i)
		}
	}
	return f.w.ToDevice(failed, flags)
}

func fakeSolver(t *testing.T) (lib string, set func(words string)) {
	t.Helper()
	return standIn(t, "fakecusolver.c", "libcusolver.so.12", "fakeSolverSet")
}

// TestSolverChosen: as for products, cuSOLVER is used where it is asked for, where the
// earlier run used it, or where it is clearly faster and computes right; what was chosen is
// part of the level; a library that fails while it is tried is nobody's loss.
func TestSolverChosen(t *testing.T) {
	lib, set := fakeSolver(t)
	products, _ := fakeLibrary(t)
	smallProbes(t)
	const with = "sm_80+cusolver-12.2.0"
	type chosen struct {
		env     string
		took    float32
		words   string
		lib     string
		earlier string
		level   string // "": an error of exit code code
		code    int
		says    string
	}
	list := []chosen{
		{"", 0, "", lib, "", with, 0, "GPTQ's factor by cusolver-12.2.0 of " + lib + " ("},
		{"auto", 1e6, "", lib, "", "sm_80", 0, "GPTQ's factor by our own kernels (cusolver-12.2.0 of " + lib + " is 0.00 times as fast, more than 1.1 is needed; TUNE_CUSOLVER=1 takes it)"},
		{"0", 0, "", lib, "", "sm_80", 0, "GPTQ's factor by our own kernels (TUNE_CUSOLVER=0)"},
		{"1", 1e6, "", lib, "", with, 0, "(TUNE_CUSOLVER=1)"},
		{"2", 0, "", lib, "", "", int(fail.Usage), "TUNE_CUSOLVER=2: known are 0, 1 and auto"},
		{"", 0, "", "/nowhere/libcusolver.so.12", "", "sm_80", 0, "cuSOLVER is not there: no library could be loaded; looked for /nowhere/"},
		{"1", 0, "", "/nowhere/libcusolver.so.12", "", "", int(fail.Limit), "TUNE_CUSOLVER=1, but cuSOLVER is not there: "},
		{"", 0, "wrong=1", lib, "", "sm_80", 0, "computes wrong: the factor times its matrix has "},
		{"1", 0, "wrong=1", lib, "", "", int(fail.Limit), "computes wrong"},
		{"", 0, "room=200000", lib, "", "sm_80", 0, "is 1.00 times as fast"}, // more than plans count: ours are taken
		{"", 1e6, "", lib, with, with, 0, "(this run was begun with it)"},
		{"", 0, "", lib, "sm_80", "sm_80", 0, "(this run was begun with our own kernels)"},
		{"", 0, "", lib, "sm_80+cublasLt-13.1.0", "sm_80+cublasLt-13.1.0", 0, "(this run was begun with our own kernels)"},
		{"", 1e6, "", lib, "sm_80+cublasLt-13.1.0+cusolver-12.2.0", "sm_80+cublasLt-13.1.0+cusolver-12.2.0", 0, "GPTQ's factor by cusolver-12.2.0"},
		{"", 0, "version=11701", lib, with, "", int(fail.Limit), "this run was begun with factors of cusolver-12.2.0, and " + lib + " is cusolver-11.7.1"},
		{"", 0, "", "/nowhere/libcusolver.so.12", with, "", int(fail.Limit), "this run was begun with factors of cusolver-12.2.0, and cuSOLVER is not there"},
	}
	for _, symbol := range []string{"cusolverGetVersion", "cusolverDnCreate", "cusolverDnSetStream", "cusolverDnSpotrf_bufferSize", "cusolverDnSpotrf", "cusolverDnXtrtri_bufferSize", "cusolverDnXtrtri"} {
		list = append(list, chosen{"", 0, "fail=" + symbol + ":1:7", lib, "", "sm_80", 0, symbol + " failed with CUSOLVER_STATUS_INTERNAL_ERROR (7)"},
			chosen{"1", 0, "fail=" + symbol + ":1:7", lib, "", "", int(fail.Limit), symbol + " failed with "})
	}
	for _, c := range list {
		what := fmt.Sprintf("%q, %v, %q, %q", c.env, c.took, c.words, c.earlier)
		t.Setenv(SolverVariable, c.env)
		set(c.words)
		measured.Clear()
		w := &withLibrary{lib: "/nowhere/libcublasLt.so.13", solver: c.lib, own: 1, took: c.took}
		if strings.Contains(c.earlier, "cublasLt") {
			w.lib = products
		}
		d, err := w.open(Options{Level: c.earlier})
		if c.level == "" {
			if fail.Code(err) != c.code || fail.Hint(err) == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v (exit %d), want %q", what, err, fail.Code(err), c.says)
			}
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		} else {
			if in := d.Info(); in.Level != c.level || in.Address != "cuda/"+c.level || !strings.Contains(d.Describe(), c.says) || in.PeakTotal != 0 {
				t.Errorf("%s: level %s, address %s, peak %d, %s; want %q", what, in.Level, in.Address, in.PeakTotal, d.Describe(), c.says)
			}
			d.Close()
		}
		if n := w.Leaks(); n != 0 {
			t.Errorf("%s: %d bytes are still allocated", what, n)
		}
	}
}

// TestSolverFactor: the library's factor is that of our own kernels within rounding, also
// where it replaces its matrix; what is not positive definite is the same error and leaves
// the device as it was; what the library fails in is not.
func TestSolverFactor(t *testing.T) {
	lib, set := fakeSolver(t)
	smallProbes(t)
	t.Setenv(SolverVariable, "1")
	w := &withLibrary{lib: "/nowhere/libcublasLt.so.13", solver: lib}
	c, err := w.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{3, 5, 40, 65} {
		h := make([]float32, n*n)
		x := make([]float64, 2*n*n) // h = xᵀ·x / 2n
		for i := range x {
			x[i] = rng.NormFloat64()
		}
		for i := range n {
			for j := range n {
				s := 0.0
				for k := range 2 * n {
					s += x[k*n+i] * x[k*n+j]
				}
				h[i*n+j] = float32(s / float64(2*n))
			}
		}
		var results [2][]float32
		for which, words := range []string{fmt.Sprintf("room=%d", working{}.Factor(n)-8), ""} { // a number more than plans count
			set(words)
			for _, same := range []bool{true, false} {
				b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n*n)
				if err != nil {
					t.Fatal(err)
				}
				u := kernels.Buffer(b)
				if !same {
					if u, err = c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n*n); err != nil {
						t.Fatal(err)
					}
				}
				c.Upload(b, kernels.Bytes(h))
				before := w.solved
				if err := c.Factor(u, b, n, 0.25); err != nil {
					t.Fatal(err)
				}
				got := make([]float32, n*n)
				if err := c.Download(kernels.Bytes(got), u); err != nil {
					t.Fatal(err)
				}
				if by := w.solved - before; by != which {
					t.Fatalf("%d rows, %q: %d factors of the library", n, words, by)
				}
				if results[which] == nil {
					results[which] = got
				} else if string(kernels.Bytes(got)) != string(kernels.Bytes(results[which])) {
					t.Errorf("%d rows: another factor where the matrix stays", n)
				}
				c.Free(b)
				if !same {
					c.Free(u)
				}
			}
		}
		for i, v := range results[1] {
			if own := results[0][i]; !(math.Abs(float64(v-own)) <= 2e-5*(1+math.Abs(float64(own)))) {
				t.Fatalf("%d rows: element %d,%d is %v, of our own kernels %v", n, i/n, i%n, v, own)
			}
		}
	}
	bad, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Free(bad)
	nan := float32(math.NaN())
	for _, m := range [][]float32{{1, 2, 2, 1}, {nan, 0, 0, 1}, {1, 0, 0, nan}, {1, nan, nan, 1}, {1, 0, 0, float32(math.Inf(1))}} {
		c.Upload(bad, kernels.Bytes(m))
		if err := c.Factor(bad, bad, 2, 0); err != kernels.ErrNotPositive {
			t.Errorf("a matrix that is not positive definite, %v: %v", m, err)
		}
	}
	set("fail=cusolverDnXtrtri:1:6")
	err = c.Factor(bad, bad, 2, 9)
	if fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), "a factor of cusolver-12.2.0 (TUNE_CUSOLVER=0 computes without it): cusolverDnXtrtri failed with CUSOLVER_STATUS_EXECUTION_FAILED (6)") {
		t.Errorf("a library that fails: %v", err)
	}
	if next := c.Run(func() error { return nil }); !errors.Is(next, err) {
		t.Errorf("the device goes on: %v", next)
	}
}

// What the library says of its own arguments is no matrix's fault.
func TestSolverSays(t *testing.T) {
	lib, _ := fakeSolver(t)
	smallProbes(t)
	t.Setenv(SolverVariable, "1")
	w := &withLibrary{lib: "/nowhere/libcublasLt.so.13", solver: lib}
	c, err := w.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Free(b)
	c.Fill(b, 1)
	c.solver.Factors = &saying{c.solver.Factors, w, []int32{-3, 0}}
	if err := c.Factor(b, b, 2, 1); fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), "it says -3 and 0 of its two steps") {
		t.Errorf("%v", err)
	}
}

// saying is a library that does nothing but say how it ended.
type saying struct {
	driver.Factors
	w    *withLibrary
	says []int32
}

func (s *saying) Invert(_ driver.Ptr, _ int, _ driver.Ptr, _ int64, failed driver.Ptr) error {
	var raw []byte
	for _, v := range s.says {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(v))
	}
	return s.w.ToDevice(failed, raw)
}
