// Package kerneltest is the conformance suite of compute backends: every method
// of kernels.Backend against a reference in float64, gradients against central
// differences of that reference. A backend's test calls Run and nothing else.
//
// Every result is computed into the middle of a larger buffer whose other
// elements must stay untouched, written over NaN, added to what is there, and
// alone with all other results skipped.
package kerneltest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Run checks every method of b. name-by-name subtests let a backend be brought
// up one operation at a time.
func Run(t *testing.T, b kernels.Backend) { RunPart(t, b, Part{}) }

// Part is what of the suite is run.
type Part struct {
	Only    []string     // groups of methods that run alone; nil: all do
	Without []string     // those that a backend lacks
	Kinds   []dtype.Kind // storage types that it lacks
	Rounds  []dtype.Kind // storage types that it cannot make of values
	// Rule says whether a backend has an update rule; nil: it has all.
	Rule func(r *kernels.OptimRule) bool
	Most int // cases of more elementary products are left out; 0: none are
	// MostBF16 is Most of products whose operands are rounded to bf16; 0: as Most.
	MostBF16 int
}

// RunPart is Run for a backend that is not complete, or much slower than a device.
func RunPart(t *testing.T, b kernels.Backend, p Part) {
	for _, name := range slices.Concat(p.Only, p.Without) {
		if !slices.ContainsFunc(groups, func(g group) bool { return g.name == name }) {
			t.Errorf("there is no group %s", name)
		}
	}
	for _, g := range groups {
		if slices.Contains(p.Without, g.name) || p.Only != nil && !slices.Contains(p.Only, g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			s := &suite{T: t, b: b, part: p, rng: rand.New(rand.NewPCG(1, 2))}
			defer s.free()
			if err := b.Run(func() error { g.run(s); return nil }); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// group is a part of the suite.
type group struct {
	name string
	run  func(s *suite)
}

// groups are the parts of the suite, by the methods they check.
var groups = []group{
	{"Memory", testMemory},
	{"Linear", testLinear},
	{"Experts", testExperts},
	{"Route", testRoute},
	{"Conv1D", testConv},
	{"DeltaScan", testDelta},
	{"SSMScan", testSSM},
	{"LogProb", testLogProb},
	{"Divergence", testDivergence},
	{"Gather", testGather},
	{"Norm", testNorm},
	{"Act", testAct},
	{"Sinkhorn", testSinkhorn},
	{"Add", testAdd},
	{"Mul", testMul},
	{"Copy2D", testCopy2D},
	{"Half", testHalf},
	{"HalfElementwise", testHalfElementwise},
	{"Rope", testRope},
	{"Attention", testAttention},
	{"KV", testKV},
	{"ColStats", testColStats},
	{"RowStats", testRowStats},
	{"Sum", testSum},
	{"Optim", testOptim},
	{"LogitStats", testLogitStats},
	{"Gemm", testGemm},
	{"Gram", testGram},
	{"Factor", testFactor},
	{"GPTQBlock", testGPTQ},
	{"Dequantize", testDequantize},
	{"Quantize", testQuantize},
	{"FakeQuant", testFakeQuant},
	{"Sample", testSample},
}

// suite is one running group.
type suite struct {
	*testing.T
	b    kernels.Backend
	part Part
	rng  *rand.Rand
	bufs []kernels.Buffer
}

func (s *suite) free() {
	for _, b := range s.bufs {
		s.b.Free(b)
	}
	s.bufs = nil
}

// in runs f as a named case and frees what it allocated.
func (s *suite) in(name string, f func(s *suite)) {
	s.Run(name, func(t *testing.T) {
		c := &suite{T: t, b: s.b, part: s.part, rng: s.rng}
		defer c.free()
		f(c)
	})
}

// large says whether a case of so many products is left out.
func (s *suite) large(products int) bool { return s.part.Most > 0 && products > s.part.Most }

// largeProduct is large of a product that may be one of bf16.
func (s *suite) largeProduct(bf16 bool, products int) bool {
	if bf16 && s.part.MostBF16 > 0 {
		return products > s.part.MostBF16
	}
	return s.large(products)
}

// lacks says whether the backend has not the storage type.
func (s *suite) lacks(t dtype.Type) bool { return slices.Contains(s.part.Kinds, t.Kind) }

func (s *suite) alloc(k dtype.Kind, n int) kernels.Buffer {
	s.Helper()
	b, err := s.b.Alloc(kernels.Activations, dtype.Of(k), n)
	if err != nil {
		s.Fatal(err)
	}
	s.bufs = append(s.bufs, b)
	return b
}

// up makes a float32 buffer of x rounded, and writes the rounded values back
// so that the reference sees what the backend sees.
func (s *suite) up(x []float64) kernels.Buffer {
	s.Helper()
	if x == nil {
		return nil
	}
	p := make([]byte, 4*len(x))
	for i, v := range x {
		f := float32(v)
		x[i] = float64(f)
		binary.LittleEndian.PutUint32(p[4*i:], math.Float32bits(f))
	}
	b := s.alloc(dtype.F32, len(x))
	s.b.Upload(b, p)
	return b
}

func (s *suite) ints(x []int32) kernels.Buffer {
	s.Helper()
	p := make([]byte, 4*len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint32(p[4*i:], uint32(v))
	}
	b := s.alloc(dtype.I32, len(x))
	s.b.Upload(b, p)
	return b
}

func (s *suite) get(b kernels.Buffer) []float32 {
	s.Helper()
	p := make([]byte, 4*b.Len())
	if err := s.b.Download(p, b); err != nil {
		s.Fatal(err)
	}
	x := make([]float32, b.Len())
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return x
}

func (s *suite) getInts(b kernels.Buffer) []int32 {
	s.Helper()
	p := make([]byte, 4*b.Len())
	if err := s.b.Download(p, b); err != nil {
		s.Fatal(err)
	}
	x := make([]int32, b.Len())
	for i := range x {
		x[i] = int32(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return x
}

// normal returns n random values of about the given size.
func (s *suite) normal(n int, size float64) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(float32(s.rng.NormFloat64() * size))
	}
	return x
}

// result is one destination of an operation and what must come out.
type result struct {
	name string
	n    int             // elements of the destination
	at   func(i int) int // where element i of want lies; nil: at i
	want []float64       // NaN: not checked
	tol  float64         // relative to |want| and to the root mean square of want
	abs  float64         // and so much in any case, for results that cancel
}

// guard is the number of untouched elements on both sides.
const guard = 19

// sentinel fills what must stay untouched.
const sentinel = float32(-12345.678)

// check runs op with its destinations in every way they can be given.
func (s *suite) check(results []result, op func(d []kernels.Dst)) {
	s.Helper()
	all := make([]mode, len(results))
	s.once("write", results, all, op)
	for i := range all {
		all[i] = adding
	}
	s.once("add", results, all, op)
	if len(results) == 1 {
		return
	}
	for i := range results {
		for j := range all {
			all[j] = skipped
		}
		all[i] = mode(i % 2)
		s.once("only "+results[i].name, results, all, op)
	}
}

type mode int

const (
	writing mode = iota
	adding
	skipped
)

// once runs op with one mode a destination and checks what it wrote.
func (s *suite) once(how string, results []result, modes []mode, op func(d []kernels.Dst)) {
	s.Helper()
	ds := make([]kernels.Dst, len(results))
	whole := make([]kernels.Buffer, len(results))
	before := make([][]float64, len(results))
	for i, r := range results {
		if modes[i] == skipped {
			continue
		}
		before[i] = s.before(r, modes[i])
		whole[i] = s.up(before[i])
		ds[i] = kernels.Dst{Buffer: s.b.Slice(whole[i], guard, r.n), Add: modes[i] == adding}
	}
	op(ds)
	for i, r := range results {
		if modes[i] != skipped {
			s.verify(fmt.Sprintf("%s (%s)", r.name, how), r, s.get(whole[i]), before[i], modes[i])
		}
	}
}

// before is what a destination holds at first: guards, then NaN where it is to
// be written, or values to add to.
func (s *suite) before(r result, m mode) []float64 {
	x := make([]float64, r.n+2*guard)
	for i := range x {
		x[i] = float64(sentinel)
	}
	for i := range r.want {
		v := math.NaN()
		if m == adding {
			v = s.rng.NormFloat64()
		}
		x[guard+r.place(i)] = v
	}
	return x
}

func (r result) place(i int) int {
	if r.at == nil {
		return i
	}
	return r.at(i)
}

func (s *suite) verify(name string, r result, got []float32, before []float64, m mode) {
	s.Helper()
	touched := make([]bool, len(got))
	for i := range r.want {
		touched[guard+r.place(i)] = true
	}
	for i, v := range got {
		if !touched[i] && v != sentinel {
			s.Errorf("%s: element %d, outside of the result, was changed to %v", name, i-guard, v)
			return
		}
	}
	have, want := make([]float32, len(r.want)), make([]float64, len(r.want))
	for i, w := range r.want {
		p := guard + r.place(i)
		have[i], want[i] = got[p], w
		if m == adding {
			want[i] += before[p]
		}
	}
	s.near(name, have, want, r.tol, r.abs)
}

// close compares got with want: the error of an element is taken relative to
// the larger of the element and the root mean square of all.
func (s *suite) close(name string, got []float32, want []float64, tol float64) {
	s.Helper()
	s.near(name, got, want, tol, 0)
}

// near is close that forgives an error of abs.
func (s *suite) near(name string, got []float32, want []float64, tol, abs float64) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%s: %d elements, want %d", name, len(got), len(want))
	}
	var sq float64
	var n int
	for _, w := range want {
		if !math.IsNaN(w) && !math.IsInf(w, 0) {
			sq, n = sq+w*w, n+1
		}
	}
	rms := math.Sqrt(sq / math.Max(1, float64(n)))
	worst, at := 0.0, -1
	for i, w := range want {
		if math.IsNaN(w) || float64(got[i]) == w || math.Abs(float64(got[i])-w) <= abs {
			continue
		}
		err := math.Abs(float64(got[i])-w) / math.Max(math.Max(math.Abs(w), rms), 1e-30)
		if !(err <= worst) {
			worst, at = err, i
		}
	}
	if at >= 0 && !(worst <= tol) {
		s.Errorf("%s: element %d of %d is %v, want %v (relative error %.2g, allowed %.2g)", name, at, len(want), got[at], want[at], worst, tol)
	}
}

// gradient is the central difference of f at x, for the coordinates in which
// (nil: all); the others are NaN. The step suits float64 and smooth functions
// of order one.
func gradient(f func() float64, x []float64, which []int) []float64 {
	out := make([]float64, len(x))
	if which == nil {
		which = make([]int, len(x))
		for i := range which {
			which[i] = i
		}
	} else {
		for i := range out {
			out[i] = math.NaN()
		}
	}
	for _, i := range which {
		old := x[i]
		h := 1e-5 * math.Max(1, math.Abs(old))
		x[i] = old + h
		up := f()
		x[i] = old - h
		down := f()
		x[i] = old
		out[i] = (up - down) / (2 * h)
	}
	return out
}

// some picks k of n coordinates, always the first and the last.
func (s *suite) some(n, k int) []int {
	if n <= k {
		return nil
	}
	out := []int{0, n - 1}
	for len(out) < k {
		out = append(out, s.rng.IntN(n))
	}
	return out
}

// dot is Σ a·b.
func dot(a, b []float64) float64 {
	var t float64
	for i, v := range a {
		t += v * b[i]
	}
	return t
}
