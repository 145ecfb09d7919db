package driver

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// cublasLt is NVIDIA's library of matrix products. Its objects are handles, its
// attributes numbers and pointers (cublasLt.h); the one structure that is laid out
// here is that of a heuristic's result, which is the same in versions 12 and 13.
type cublasLt struct {
	lib       *dl.Lib
	version   int
	stream    uintptr
	handle    uintptr
	prefer    uintptr // what heuristics are asked for
	workspace Ptr
	bytes     int64
	plans     map[shape]*plan

	create, destroy, getVersion, statusName, statusString dl.Func
	descCreate, descDestroy, descSet                      dl.Func
	layoutCreate, layoutDestroy                           dl.Func
	preferCreate, preferDestroy, preferSet                dl.Func
	heuristic, matmul                                     dl.Func

	// What C is given an address of: on the heap, where it stays.
	alpha, beta float32
	args        [16]uintptr
}

func (l *cublasLt) symbols() map[string]*dl.Func {
	return map[string]*dl.Func{
		"cublasLtCreate": &l.create, "cublasLtDestroy": &l.destroy, "cublasLtGetVersion": &l.getVersion,
		"cublasLtGetStatusName": &l.statusName, "cublasLtGetStatusString": &l.statusString,
		"cublasLtMatmulDescCreate": &l.descCreate, "cublasLtMatmulDescDestroy": &l.descDestroy, "cublasLtMatmulDescSetAttribute": &l.descSet,
		"cublasLtMatrixLayoutCreate": &l.layoutCreate, "cublasLtMatrixLayoutDestroy": &l.layoutDestroy,
		"cublasLtMatmulPreferenceCreate": &l.preferCreate, "cublasLtMatmulPreferenceDestroy": &l.preferDestroy, "cublasLtMatmulPreferenceSetAttribute": &l.preferSet,
		"cublasLtMatmulAlgoGetHeuristic": &l.heuristic, "cublasLtMatmul": &l.matmul,
	}
}

// shape is what an algorithm is chosen by: all of a Product but where it lies and its
// factors. Addresses have no say, so that equal programs take equal algorithms.
type shape struct {
	kind, out     dtype.Kind
	ta, tb        bool
	m, n, k       int
	lda, ldb, ldc int
}

// plan is a shape as the library describes it, and the algorithm.
type plan struct {
	desc    uintptr
	a, b, c uintptr // layouts
	result  heuristicResult
	none    bool // there is none
}

// heuristicResult is cublasLtMatmulHeuristicResult_t.
type heuristicResult struct {
	algo      [8]uint64
	workspace uint64
	state     int32
	waves     float32
	_         [4]int32
}

// Numbers of cublasLt.h, cublas_api.h and library_types.h.
const (
	compute32F = 68 // sums in f32; no operand is rounded (that would be 77, TF32)

	descTransA, descTransB = 3, 4
	opN, opT               = int32(0), int32(1)

	preferWorkspace, preferReduction                                       = 1, 3
	preferAlignmentA, preferAlignmentB, preferAlignmentC, preferAlignmentD = 5, 6, 7, 8

	reduceComputeType = uint32(2) // parts of a sum are added in f32

	statusNotSupported = 15
)

var cudaTypes = map[dtype.Kind]uintptr{dtype.F32: 0, dtype.F16: 2, dtype.BF16: 14}

// mostPlans bounds what is kept of shapes.
const mostPlans = 4096

// CublasLt lists where cuBLASLt is looked for (places) under a driver for CUDA of that
// version (1000·major + 10·minor). The library of CUDA 13 comes first, and only where the
// driver runs it.
func CublasLt(version int) []string {
	names := []string{"libcublasLt.so.12"}
	if version >= 13000 {
		names = []string{"libcublasLt.so.13", "libcublasLt.so.12"}
	}
	return places(names, "cu13", "cublas")
}

// Products loads cuBLASLt.
func (c *cuda) Products(workspace Ptr, n int64) (Products, error) {
	return OpenCublasLt(c.stream, workspace, n, CublasLt(c.info.CUDA)...)
}

// OpenCublasLt loads the first of libs that can be, which starts its products in a
// stream of the driver's and works in n bytes at workspace.
func OpenCublasLt(stream uintptr, workspace Ptr, n int64, libs ...string) (Products, error) {
	lib, err := dl.Open(libs...)
	if err != nil {
		return nil, fmt.Errorf("cuBLASLt is not there: %w", err)
	}
	l := &cublasLt{lib: lib, stream: stream, workspace: workspace, bytes: n, plans: map[shape]*plan{}}
	if lacking := find(lib, l.symbols()); lacking != "" {
		return nil, fmt.Errorf("%s lacks %s", lib.Path, lacking)
	}
	if l.version = int(l.getVersion.Call()); l.version < 120000 { // 12.x.y: 12xxyy; 13.x.y: 13xxyy
		return nil, fmt.Errorf("%s is cuBLASLt of version number %d, 12 or newer is needed", lib.Path, l.version)
	}
	if err := l.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s (%s): %w", lib.Path, l.Version(), err), l.Close())
	}
	return l, nil
}

func (l *cublasLt) start() error {
	if err := l.check("cublasLtCreate", l.create.Call(uintptr(unsafe.Pointer(&l.handle)))); err != nil {
		return err
	}
	if err := l.check("cublasLtMatmulPreferenceCreate", l.preferCreate.Call(uintptr(unsafe.Pointer(&l.prefer)))); err != nil {
		return err
	}
	set := func(attribute uintptr, p unsafe.Pointer, size uintptr) error {
		return l.check("cublasLtMatmulPreferenceSetAttribute", l.preferSet.Call(l.prefer, attribute, uintptr(p), size))
	}
	most, reduction, aligned := uint64(l.bytes), reduceComputeType, uint32(16)
	err := errors.Join(set(preferWorkspace, unsafe.Pointer(&most), 8), set(preferReduction, unsafe.Pointer(&reduction), 4))
	for _, a := range []uintptr{preferAlignmentA, preferAlignmentB, preferAlignmentC, preferAlignmentD} {
		err = errors.Join(err, set(a, unsafe.Pointer(&aligned), 4))
	}
	return err
}

// check makes an error of a cublasStatus_t, in the library's words.
func (l *cublasLt) check(call string, result uintptr) error {
	code := int(int32(result))
	if code == 0 {
		return nil
	}
	words := func(f dl.Func) string {
		p := f.Call(uintptr(code))
		return goString(*(**[256]byte)(unsafe.Pointer(&p)))
	}
	e := &Error{Call: call, Code: code, Name: words(l.statusName), Text: words(l.statusString)}
	if e.Name == "" {
		e.Name = "CUBLAS_STATUS"
	}
	return e
}

// Version is cublasLt-MAJOR.MINOR.PATCH.
func (l *cublasLt) Version() string {
	return fmt.Sprintf("cublasLt-%d.%d.%d", l.version/10000, l.version/100%100, l.version%100)
}

// Path is the name that it was found by.
func (l *cublasLt) Path() string { return l.lib.Path }

// Multiply starts products.
func (l *cublasLt) Multiply(list []Product) error {
	plans := make([]*plan, len(list))
	for i := range list {
		var err error
		if plans[i], err = l.plan(&list[i]); err != nil {
			return fmt.Errorf("%v: %w", &list[i], err)
		}
	}
	for i := range list {
		if err := l.run(&list[i], plans[i]); err != nil {
			return fmt.Errorf("%v: %w", &list[i], err)
		}
	}
	return nil
}

// run starts a product. The library reads by columns what lies by rows, which is the
// transposed matrix: it is told Cᵀ = op(B)ᵀ·op(A)ᵀ.
func (l *cublasLt) run(p *Product, k *plan) error {
	l.alpha, l.beta = p.Alpha, p.Beta
	l.args = [16]uintptr{l.handle, k.desc, uintptr(unsafe.Pointer(&l.alpha)), uintptr(p.B), k.b, uintptr(p.A), k.a, uintptr(unsafe.Pointer(&l.beta)),
		uintptr(p.C), k.c, uintptr(p.C), k.c, uintptr(unsafe.Pointer(&k.result.algo)), uintptr(l.workspace), uintptr(l.bytes), l.stream}
	err := l.check("cublasLtMatmul", l.matmul.Call(l.args[:]...))
	runtime.KeepAlive(l)
	runtime.KeepAlive(k)
	return err
}

// plan describes a product's shape, and asks for its algorithm once.
func (l *cublasLt) plan(p *Product) (*plan, error) {
	s := shape{kind: p.Kind, out: p.Out, ta: p.TA, tb: p.TB, m: p.M, n: p.N, k: p.K, lda: p.LDA, ldb: p.LDB, ldc: p.LDC}
	k := l.plans[s]
	if k == nil {
		if len(l.plans) >= mostPlans {
			if err := l.drop(); err != nil {
				return nil, err
			}
		}
		k = new(plan)
		l.plans[s] = k // so that what was made of it is given back
		if err := l.describe(s, k); err != nil {
			return nil, errors.Join(err, l.forget(s))
		}
	}
	if k.none {
		return nil, ErrNoProduct
	}
	return k, nil
}

func (l *cublasLt) describe(s shape, k *plan) error {
	if err := l.check("cublasLtMatmulDescCreate", l.descCreate.Call(uintptr(unsafe.Pointer(&k.desc)), compute32F, cudaTypes[dtype.F32])); err != nil {
		return err
	}
	// Their first operand is our B, their second our A; one that lies as it is to be
	// multiplied by rows is transposed by columns, as it shall be.
	for _, o := range []struct {
		attribute uintptr
		turned    bool
	}{{descTransA, s.tb}, {descTransB, s.ta}} {
		op := opN
		if o.turned {
			op = opT
		}
		if err := l.check("cublasLtMatmulDescSetAttribute", l.descSet.Call(k.desc, o.attribute, uintptr(unsafe.Pointer(&op)), 4)); err != nil {
			return err
		}
	}
	turn := func(rows, cols int, turned bool) (int, int) {
		if turned {
			return cols, rows
		}
		return rows, cols
	}
	aRows, aCols := turn(s.m, s.k, s.ta)
	bRows, bCols := turn(s.k, s.n, s.tb)
	for _, m := range []struct {
		to             *uintptr
		kind           dtype.Kind
		rows, cols, ld int // by rows
	}{{&k.a, s.kind, aRows, aCols, s.lda}, {&k.b, s.kind, bRows, bCols, s.ldb}, {&k.c, s.out, s.m, s.n, s.ldc}} {
		if err := l.check("cublasLtMatrixLayoutCreate", l.layoutCreate.Call(uintptr(unsafe.Pointer(m.to)), cudaTypes[m.kind], uintptr(m.cols), uintptr(m.rows), uintptr(m.ld))); err != nil {
			return err
		}
	}
	var found int32
	result := l.heuristic.Call(l.handle, k.desc, k.b, k.a, k.c, k.c, l.prefer, 1, uintptr(unsafe.Pointer(&k.result)), uintptr(unsafe.Pointer(&found)))
	if int32(result) == statusNotSupported || result == 0 && (found == 0 || k.result.state == statusNotSupported) {
		k.none = true
		return nil
	}
	if err := l.check("cublasLtMatmulAlgoGetHeuristic", result); err != nil {
		return err
	}
	if err := l.check("cublasLtMatmulAlgoGetHeuristic", uintptr(k.result.state)); err != nil {
		return err
	}
	if k.result.workspace > uint64(l.bytes) {
		return fmt.Errorf("cublasLtMatmulAlgoGetHeuristic: an algorithm that works in %d bytes, where %d are there", k.result.workspace, l.bytes)
	}
	return nil
}

// forget gives a plan back, as far as it was made.
func (l *cublasLt) forget(s shape) (err error) {
	k := l.plans[s]
	delete(l.plans, s)
	for _, x := range []uintptr{k.a, k.b, k.c} {
		if x != 0 {
			err = errors.Join(err, l.check("cublasLtMatrixLayoutDestroy", l.layoutDestroy.Call(x)))
		}
	}
	if k.desc != 0 {
		err = errors.Join(err, l.check("cublasLtMatmulDescDestroy", l.descDestroy.Call(k.desc)))
	}
	return err
}

func (l *cublasLt) drop() (err error) {
	for s := range l.plans {
		err = errors.Join(err, l.forget(s))
	}
	return err
}

// Close gives everything back.
func (l *cublasLt) Close() error {
	err := l.drop()
	if l.prefer != 0 {
		err = errors.Join(err, l.check("cublasLtMatmulPreferenceDestroy", l.preferDestroy.Call(l.prefer)))
	}
	if l.handle != 0 {
		err = errors.Join(err, l.check("cublasLtDestroy", l.destroy.Call(l.handle)))
	}
	l.prefer, l.handle = 0, 0
	return err
}
