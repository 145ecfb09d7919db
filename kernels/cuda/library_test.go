//go:build !nodl

package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dl"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// withLibrary is the interpreter beside the stand-ins of cuBLASLt and cuSOLVER, with a
// clock by which one of our kernels takes own, a product of the library 1, and its factor
// took.
type withLibrary struct {
	*ptxsim.Sim
	lib        string
	solver     string
	took       float32
	solved     int
	own        float32
	now        float32
	events     map[driver.Event]float32
	multiplied int
	room       []byte // that the library works in
}

func (w *withLibrary) Launch(f driver.Function, grid, block driver.Dim, shared uint32, params []byte) error {
	w.now += w.own
	return w.Sim.Launch(f, grid, block, shared, params)
}

func (w *withLibrary) Record() (driver.Event, error) {
	e, err := w.Sim.Record()
	w.events[e] = w.now
	return e, err
}

func (w *withLibrary) Elapsed(a, b driver.Event) (float32, error) {
	return w.events[b] - w.events[a], nil
}

// products multiplies copies of what the interpreter's memory holds.
type products struct {
	driver.Products
	w *withLibrary
}

func (w *withLibrary) Products(_ driver.Ptr, n int64) (driver.Products, error) {
	w.room = aligned(int(n))
	lib, err := driver.OpenCublasLt(2, driver.Ptr(uintptr(unsafe.Pointer(&w.room[0]))), n, w.lib)
	if err != nil {
		return nil, err
	}
	return &products{lib, w}, nil
}

// aligned is n bytes that begin at a multiple of 16.
func aligned(n int) []byte {
	b := make([]byte, n+16)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & 15
	return b[skip : skip+n]
}

func (p *products) Multiply(list []driver.Product) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	mine := append([]driver.Product(nil), list...)
	backs := make([]func() error, len(list))
	for i := range mine {
		q := &mine[i]
		copied := func(at *driver.Ptr, rows, cols, ld, size int) ([]byte, error) {
			raw := aligned(((rows-1)*ld + cols) * size)
			pin.Pin(&raw[0])
			err := p.w.ToHost(raw, *at)
			*at = driver.Ptr(uintptr(unsafe.Pointer(&raw[0])))
			return raw, err
		}
		turn := func(rows, cols int, t bool) (int, int) {
			if t {
				return cols, rows
			}
			return rows, cols
		}
		rows, cols := turn(q.M, q.K, q.TA)
		_, errA := copied(&q.A, rows, cols, q.LDA, 2)
		rows, cols = turn(q.K, q.N, q.TB)
		_, errB := copied(&q.B, rows, cols, q.LDB, 2)
		to := q.C
		c, errC := copied(&q.C, q.M, q.N, q.LDC, q.Out.Info().Bytes)
		if err := errors.Join(errA, errB, errC); err != nil {
			return err
		}
		backs[i] = func() error { return p.w.ToDevice(to, c) }
		if i > 0 && to == list[0].C {
			q.C = mine[0].C // they go on with one sum
			backs[i] = func() error { return nil }
		}
	}
	if err := p.Products.Multiply(mine); err != nil {
		return err
	}
	p.w.multiplied += len(list)
	p.w.now += float32(len(list))
	for _, back := range backs {
		if err := back(); err != nil {
			return err
		}
	}
	return nil
}

// fakeLibrary builds the stand-in of cuBLASLt; set gives it words.
func fakeLibrary(t *testing.T) (lib string, set func(words string)) {
	t.Helper()
	return standIn(t, "fakecublaslt.c", "libcublasLt.so.13", "fakeSet")
}

// standIn builds one of a library, of which setter is the function that is given words.
func standIn(t *testing.T, source, name, setter string) (lib string, set func(words string)) {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not there to build the stand-in of " + name)
	}
	lib = filepath.Join(t.TempDir(), name)
	if out, err := exec.Command(gcc, "-shared", "-fPIC", "-O2", "-fno-math-errno", "-w", "-o", lib, "driver/testdata/"+source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	loaded, err := dl.Open(lib)
	if err != nil {
		t.Fatal(err)
	}
	f, err := loaded.Sym(setter)
	if err != nil {
		t.Fatal(err)
	}
	return lib, func(words string) {
		text := append([]byte(words), 0)
		f.Call(uintptr(unsafe.Pointer(&text[0])))
	}
}

func (w *withLibrary) open(o Options) (*CUDA, error) {
	w.Sim, w.events, w.multiplied, w.solved = ptxsim.New(1<<30), map[driver.Event]float32{}, 0, 0
	return OpenOn("cuda:0", func() (driver.Driver, error) { return w, nil }, o)
}

// TestLibraryChosen: the library is used where it is asked for, where the earlier run
// used it, or where it is clearly faster and computes right; what was chosen is part of
// the level and the address; and what cannot be is said by name.
func TestLibraryChosen(t *testing.T) {
	lib, set := fakeLibrary(t)
	smallProbes(t)
	const with = "sm_80+cublasLt-13.1.0"
	for _, c := range []struct {
		env     string
		own     float32
		words   string
		lib     string
		earlier string
		limit   int64
		level   string // "": an error of exit code code
		code    int
		says    string
	}{
		{"", 2, "", lib, "", 0, with, 0, "large products by cublasLt-13.1.0 of " + lib + " (2.00 times as fast as our own kernels; TUNE_CUBLAS=0"},
		{"auto", 1.08, "", lib, "", 0, "sm_80", 0, "is 1.08 times as fast, more than 1.1 is needed; TUNE_CUBLAS=1 takes it"},
		{"0", 2, "", lib, "", 0, "sm_80", 0, "all products by our own kernels (TUNE_CUBLAS=0)"},
		{"1", 1, "", lib, "", 0, with, 0, "(TUNE_CUBLAS=1)"},
		{"2", 1, "", lib, "", 0, "", int(fail.Usage), "TUNE_CUBLAS=2: known are 0, 1 and auto"},
		{"", 0, "", lib, "", 0, "sm_80", 0, "could not be compared: the device has no clock"},
		{"", 2, "", "/nowhere/libcublasLt.so.13", "", 0, "sm_80", 0, "cuBLASLt is not there: "},
		{"1", 2, "", "/nowhere/libcublasLt.so.13", "", 0, "", int(fail.Limit), "TUNE_CUBLAS=1, but cuBLASLt is not there: "},
		{"", 2, "wrong=1", lib, "", 0, "sm_80", 0, "computes wrong: element 0,2 of A·B of BF16, 24×40"},
		{"1", 2, "wrong=1", lib, "", 0, "", int(fail.Limit), "computes wrong: element 0,2 of A·B of BF16"},
		{"", 2, "fail=cublasLtCreate:1:1", lib, "", 0, "sm_80", 0, "cublasLtCreate failed with CUBLAS_STATUS_FAKE_1 (1)"},
		{"", 2, "fail=cublasLtMatmul:3:13", lib, "", 0, "sm_80", 0, "cublasLtMatmul failed with CUBLAS_STATUS_FAKE_13 (13)"},
		{"", 2, "none=1", lib, "", 0, "sm_80", 0, "no algorithm for this product"},
		{"", 2, "", lib, "", 1 << 20, "sm_80", 0, "the device's limit is 1048576"},
		{"", 1, "", lib, with, 0, with, 0, "(this run was begun with it)"},
		{"", 2, "", lib, "sm_80", 0, "sm_80", 0, "(this run was begun with our own kernels)"},
		{"", 2, "", lib, "avx2", 0, with, 0, "2.00 times"},
		{"0", 2, "", lib, with, 0, "sm_80", 0, "(TUNE_CUBLAS=0)"},
		{"", 2, "version=130200", lib, with, 0, "", int(fail.Limit), "this run was begun with products of cublasLt-13.1.0, and " + lib + " is cublasLt-13.2.0"},
		{"", 2, "", "/nowhere/libcublasLt.so.13", with, 0, "", int(fail.Limit), "this run was begun with products of cublasLt-13.1.0, and cuBLASLt is not there"},
	} {
		what := fmt.Sprintf("%q, %v times, %q, %q", c.env, c.own, c.words, c.earlier)
		t.Setenv(LibraryVariable, c.env)
		set(c.words)
		measured.Clear()
		w := &withLibrary{lib: c.lib, own: c.own}
		d, err := w.open(Options{Level: c.earlier, MemoryLimit: c.limit})
		if c.level == "" {
			if fail.Code(err) != c.code || fail.Hint(err) == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v (exit %d), want %q", what, err, fail.Code(err), c.says)
			}
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		} else {
			in := d.Info()
			if in.Level != c.level || in.Address != "cuda/"+c.level || !strings.Contains(d.Describe(), c.says) {
				t.Errorf("%s: level %s, address %s, %s; want %q", what, in.Level, in.Address, d.Describe(), c.says)
			}
			limit := int64(1<<30) / 100 * 95
			if c.limit > 0 {
				limit = c.limit
			}
			if c.level == with {
				limit -= libraryWorkspace
			}
			if in.Limit != limit || in.PeakTotal != 0 {
				t.Errorf("%s: the limit is %d, want %d; the peak is %d", what, in.Limit, limit, in.PeakTotal)
			}
			d.Close()
		}
		if n := w.Leaks(); n != 0 {
			t.Errorf("%s: %d bytes are still allocated", what, n)
		}
	}
}

// The library is measured once in a process.
func TestLibraryMeasuredOnce(t *testing.T) {
	lib, _ := fakeLibrary(t)
	smallProbes(t)
	t.Setenv(LibraryVariable, "")
	for _, own := range []float32{2, 1} {
		w := &withLibrary{lib: lib, own: own}
		c, err := w.open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if says := c.Describe(); !strings.Contains(says, "(2.00 times as fast") {
			t.Errorf("where ours take %v: %s", own, says)
		}
		c.Close()
	}
}

// TestLibraryProducts: what goes to the library is what our own kernels compute but for
// the order of sums, and what it cannot do as they do does not go there.
func TestLibraryProducts(t *testing.T) {
	lib, _ := fakeLibrary(t)
	smallProbes(t)
	t.Setenv(LibraryVariable, "1")
	w := &withLibrary{lib: lib}
	c, err := w.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const m, n, k, r = 24, 40, 56, 8
	rng := rand.New(rand.NewPCG(3, 4))
	half := func(kind dtype.Kind, count int) kernels.Buffer {
		b, _ := halfBuffer(t, c, rng, kind, count)
		return b
	}
	single := func(count int) kernels.Buffer {
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), count)
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, count)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		c.Upload(b, kernels.Bytes(v))
		return b
	}
	ints := func(v ...int32) kernels.Buffer {
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(v))
		if err != nil {
			t.Fatal(err)
		}
		c.Upload(b, kernels.Bytes(v))
		return b
	}
	mat := func(b kernels.Buffer, rows, cols int) kernels.Mat {
		return kernels.Mat{Buffer: b, Rows: rows, Cols: cols, Of: rows}
	}
	nf4 := func() kernels.Mat {
		raw := make([]byte, dtype.Size(nf4, n, 64))
		for i := range raw {
			raw[i] = byte(rng.IntN(64)) // scales that are finite
		}
		x, err := c.Load(kernels.Weights, nf4, n, 64, raw, kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}()
	x, dy, weight, wide := single(m*64), single(m*n), mat(half(dtype.BF16, n*k), n, k), mat(half(dtype.BF16, 2*n*k), 2*n, k)
	u, b, bias, x16, xh := single(m*r), mat(single(n*r), n, r), single(n), half(dtype.BF16, m*k), half(dtype.F16, m*k)
	below := wide
	below.Row0, below.Rows = n, n
	odd := weight
	odd.Rows = n - 3
	key, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I64), m)
	if err != nil {
		t.Fatal(err)
	}
	places := make([]int64, m)
	for i := range places {
		places[i] = int64(i / 5)
	}
	c.Upload(key, kernels.Bytes(places))
	drop := &kernels.Drop{P: 0.25, Seed: 5, Key: key}
	linear := func(a kernels.LinearArgs) func(kernels.Dst) {
		a.N = m
		return func(y kernels.Dst) { c.Linear(y, &a) }
	}
	dx := func(a kernels.LinearArgs) func(kernels.Dst) {
		a.N = m
		return func(y kernels.Dst) { c.LinearBackward(y, kernels.Dst{}, kernels.Dst{}, dy, &a) }
	}
	dw := func(a kernels.LinearArgs) func(kernels.Dst) {
		a.N = m
		return func(y kernels.Dst) { c.LinearBackward(kernels.Dst{}, y, kernels.Dst{}, dy, &a) }
	}
	for _, s := range []struct {
		name  string
		count int // of the result
		out   dtype.Kind
		add   bool
		by    int // products of the library
		op    func(kernels.Dst)
	}{
		{"linear", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: weight, BF16: true, Alpha: 0.5})},
		{"linear, added", m * n, dtype.F32, true, 1, linear(kernels.LinearArgs{X: x, W: weight, BF16: true})},
		{"linear in f16", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: weight, F16: true})},
		{"linear, of f32 that may be rounded", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: weight, Fast: true})},
		{"linear to bf16", m * n, dtype.BF16, false, 1, linear(kernels.LinearArgs{X: x16, W: weight, BF16: true})},
		{"linear to bf16, added", m * n, dtype.BF16, true, 1, linear(kernels.LinearArgs{X: x16, W: weight, BF16: true})},
		{"linear of bf16 to f16", m * n, dtype.F16, false, 0, linear(kernels.LinearArgs{X: x16, W: weight, BF16: true})},
		{"linear in f32", m * n, dtype.F32, false, 0, linear(kernels.LinearArgs{X: x, W: weight})},
		{"rows of a matrix", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: below, BF16: true})},
		{"NF4", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: nf4, BF16: true})},
		{"LoRA", m * n, dtype.F32, true, 2, linear(kernels.LinearArgs{X: x, W: weight, BF16: true, U: u, B: b, Alpha: 0.25})},
		{"LoRA to bf16", m * n, dtype.BF16, false, 0, linear(kernels.LinearArgs{X: x, W: weight, BF16: true, U: u, B: b})},
		{"a bias", m * n, dtype.F32, false, 0, linear(kernels.LinearArgs{X: x, W: weight, BF16: true, Bias: bias})},
		{"37 columns", m * (n - 3), dtype.F32, false, 0, linear(kernels.LinearArgs{X: x, W: odd, BF16: true})},
		{"experts", m * n, dtype.F32, false, 0, linear(kernels.LinearArgs{X: x, W: wide, BF16: true, Experts: 2, Group: ints(0, 10, m)})},
		{"dropout", m * n, dtype.F32, false, 1, linear(kernels.LinearArgs{X: x, W: weight, BF16: true, Drop: drop})},
		{"dx", m * k, dtype.F32, true, 1, dx(kernels.LinearArgs{X: x, W: weight, BF16: true, Alpha: 2})},
		{"dx with dropout", m * k, dtype.F32, false, 0, dx(kernels.LinearArgs{X: x, W: weight, BF16: true, Drop: drop})},
		{"dw", n * k, dtype.F32, true, 1, dw(kernels.LinearArgs{X: x, W: weight, BF16: true})},
		{"dw with dropout", n * k, dtype.F32, false, 1, dw(kernels.LinearArgs{X: x, W: weight, BF16: true, Drop: drop})},
		{"Gram", k * k, dtype.F32, true, 1, func(y kernels.Dst) { c.Gram(y, &kernels.GramArgs{X: xh, Rows: m, Cols: k}) }},
		{"the loss", m, dtype.F32, false, 1, func(y kernels.Dst) {
			c.LogProb(&kernels.LogProbOut{LogP: y.Buffer}, kernels.Dst{}, kernels.Dst{}, kernels.Dst{}, &kernels.LogProbArgs{N: m, X: x, W: weight, BF16: true, Target: ints(slices.Repeat([]int32{3, 7}, m/2)...)})
		}},
	} {
		var results [2][]float32
		for i, on := range []bool{true, false} {
			c.lib.on = on
			y, err := c.Alloc(kernels.Activations, dtype.Of(s.out), s.count)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), s.count)
			if err != nil {
				t.Fatal(err)
			}
			results[i] = make([]float32, s.count)
			before := w.multiplied
			err = c.Run(func() error {
				c.Fill(y, 3)
				s.op(kernels.Dst{Buffer: y, Add: s.add})
				c.Add(kernels.To(plain), &kernels.AddArgs{N: s.count, A: y, Alpha: 1})
				return c.Download(kernels.Bytes(results[i]), plain)
			})
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			by := s.by
			if !on {
				by = 0
			}
			if got := w.multiplied - before; got != by {
				t.Errorf("%s, library %v: %d products by it, want %d", s.name, on, got, by)
			}
			c.Free(y)
			c.Free(plain)
		}
		for i, v := range results[0] {
			if own := results[1][i]; math.Abs(float64(v-own)) > 1e-5+map[dtype.Kind]float64{dtype.F32: 1e-5, dtype.BF16: 8e-3, dtype.F16: 1e-3}[s.out]*math.Abs(float64(own))*2 || v != v {
				t.Errorf("%s: element %d is %v, by our own kernels %v", s.name, i, v, own)
				break
			}
		}
	}
}

// The rows that a GPU is to be measured with are made, and the library is in them.
func TestLibraryRows(t *testing.T) {
	lib, _ := fakeLibrary(t)
	smallProbes(t)
	t.Setenv(LibraryVariable, "1")
	w := &withLibrary{lib: lib, own: 2}
	c, err := w.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := w.multiplied
	rows := libraryRows(&bench{T: t, c: c}, false)
	if len(rows) != 4 || w.multiplied == before || !strings.HasPrefix(rows[0], "| PTX interpreter | product bf16, A·Bᵀ, cublasLt-13.1.0 | 128×256×512 | ") {
		t.Errorf("%q, %d products", rows, w.multiplied-before)
	}
}

// TestLibraryFails: a call that fails in the middle ends the device with an error that
// names it and the way around it; a shape without an algorithm is computed by our own
// kernel.
func TestLibraryFails(t *testing.T) {
	lib, set := fakeLibrary(t)
	smallProbes(t)
	t.Setenv(LibraryVariable, "1")
	const m, n, k = 24, 32, 40
	multiply := func(c *CUDA) ([]float32, []float64, error) {
		rng := rand.New(rand.NewPCG(9, 9))
		a, av := halfBuffer(t, c, rng, dtype.BF16, m*k)
		b, bv := halfBuffer(t, c, rng, dtype.BF16, k*n)
		y, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), m*n)
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]float32, m*n), make([]float64, m*n)
		for i := range want {
			for j := range k {
				want[i] += float64(av[i/n*k+j]) * float64(bv[j*n+i%n])
			}
		}
		return got, want, c.Run(func() error {
			c.Gemm(kernels.To(y), &kernels.GemmArgs{A: a, B: b, M: m, N: n, K: k, Alpha: 1})
			return c.Download(kernels.Bytes(got), y)
		})
	}
	for _, words := range []string{"", "none=1", "fail=cublasLtMatmul:1:13", "fail=cublasLtMatmulAlgoGetHeuristic:1:14", "fail=cublasLtMatrixLayoutCreate:2:3"} {
		set("")
		w := &withLibrary{lib: lib}
		c, err := w.open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		before := w.multiplied
		set(words)
		got, want, err := multiply(c)
		if strings.HasPrefix(words, "fail") {
			var de *driver.Error
			if fail.Code(err) != int(fail.Limit) || !errors.As(err, &de) || !strings.Contains(err.Error(), "a product of cublasLt-13.1.0 (TUNE_CUBLAS=0 computes without it): A·B of BF16, 24×32") {
				t.Errorf("%s: %v", words, err)
			}
		} else {
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range got {
				if math.Abs(float64(v)-want[i]) > 1e-4 {
					t.Fatalf("%q: element %d is %v, want %v", words, i, v, want[i])
				}
			}
			if n := w.multiplied - before; n != 1-len(words)/6 {
				t.Errorf("%q: the library multiplied %d times", words, n)
			}
		}
		c.Close()
	}
}
