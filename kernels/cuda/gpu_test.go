package cuda

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

// gpuEnv names the GPU that tests are to run on: cuda:0.
const gpuEnv = "TUNEKIT_GPU"

// realGPU opens the GPU that the environment names.
func realGPU(t *testing.T) *CUDA {
	t.Helper()
	name := os.Getenv(gpuEnv)
	index, err := strconv.Atoi(strings.TrimPrefix(name, "cuda:"))
	if err != nil {
		t.Fatalf("%s is %q, want cuda:N", gpuEnv, name)
	}
	c, err := Open(index, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestGPU runs the whole conformance suite on a GPU.
func TestGPU(t *testing.T) {
	if os.Getenv(gpuEnv) == "" {
		t.Skip(gpuEnv + "=cuda:0 runs it on a GPU")
	}
	c := realGPU(t)
	defer c.Close()
	if c.lib.on { // whatever the size
		defer func(n int) { leastLibrary = n }(leastLibrary)
		leastLibrary = 0
	}
	if c.groups.on {
		anyGroup(t)
	}
	kerneltest.RunPart(t, c, there(kerneltest.Part{}))
}

// measure is one row: the time of a piece of work beside its floor. Without a time
// (the interpreter has none) the columns that need one are empty.
func measure(b *bench, w *work, size []int) string {
	run := w.make(b, size)
	moved, products := w.cost(size)
	first, err := b.c.elapsed(1, run) // the driver translates the kernels
	if err != nil {
		b.Fatalf("%s: %v", w.name, err)
	}
	once, n := first, 1
	if first > 0 {
		if once, err = b.c.elapsed(1, run); err == nil {
			n = int(min(max(200/max(once, 1e-3), 1), 200))
			once, err = b.c.elapsed(n, run)
		}
		if err != nil {
			b.Fatalf("%s: %v", w.name, err)
		}
	}
	b.free()
	ms := once / float64(n)
	cell := func(v float64) string {
		if ms == 0 || v == 0 {
			return ""
		}
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	tensor := products / gpuTensor / w.rate()
	floor := 1e3 * math.Max(moved/gpuBytes, tensor)
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |\n", b.c.info.Name, w.name, shape(w, size), cell(ms), cell(moved/ms/1e6), cell(2*products/ms/1e9), cell(floor/ms))
}

// TestGPUBench measures every piece of work on the GPU that TUNEKIT_GPU names, and
// prints rows of Markdown; else it goes through the same with small shapes on the
// interpreter, so that what a GPU is to be measured with is known to run.
func TestGPUBench(t *testing.T) {
	var c *CUDA
	real := os.Getenv(gpuEnv) != ""
	if real {
		c = withBoth(t)
	} else {
		var sim *ptxsim.Sim
		c, sim = interpreted(t)
		sim.Hopper, c.info.Major = true, 9
	}
	defer c.Close()
	b := &bench{T: t, c: c}
	n := map[bool]int{false: 4096, true: 1 << 30}[real]
	all := append([]work{{name: "copy", shape: "%d bytes", small: []int{n}, real: []int{n}, cost: elements(2), make: func(b *bench, s []int) func() {
		x, y := b.buffer(dtype.U8, s[0]), b.buffer(dtype.U8, s[0])
		return func() {
			b.c.post("copy", func(d driver.Driver) error { return d.Copy(ptr(y), ptr(x), int64(s[0])) })
		}
	}}}, works...)
	fmt.Printf("| GPU | work | size | ms | GB/s | TFLOP/s | of the least time on an %s |\n|---|---|---|---|---|---|---|\n", gpuName)
	for i := range all {
		c.tf32 = all[i].tf32()
		c.useInt8(all[i].int8())
		if c.groups.on = all[i].groups(); c.groups.on && !c.hasGroups() {
			continue
		}
		size := all[i].small
		if real {
			size = all[i].real
		}
		row := measure(b, &all[i], size)
		if real {
			fmt.Print(row)
		}
		if strings.Count(row, "|") != 8 || !strings.Contains(row, c.info.Name) {
			t.Errorf("no row: %q", row)
		}
	}
	if c.lib.Products != nil {
		for _, row := range libraryRows(b, real) {
			fmt.Print(row)
		}
	}
}

// withBoth is the GPU with the library of products, if there is one, that is not used.
func withBoth(t *testing.T) *CUDA {
	t.Helper()
	t.Setenv(LibraryVariable, "1")
	index, err := strconv.Atoi(strings.TrimPrefix(os.Getenv(gpuEnv), "cuda:"))
	if err == nil {
		var c *CUDA
		if c, err = Open(index, Options{}); err == nil {
			c.lib.on = false
			return c
		}
	}
	fmt.Printf("no rows of cuBLASLt: %v\n", err)
	t.Setenv(LibraryVariable, "0")
	return realGPU(t)
}

// libraryRows are the rows of products by the library.
func libraryRows(b *bench, real bool) (rows []string) {
	defer func(on bool) { b.c.lib.on = on }(b.c.lib.on)
	b.c.lib.on = true
	for _, w := range works {
		if !strings.Contains(w.name, "product") || w.groups() {
			continue
		}
		size := w.small
		if real {
			size = w.real
		}
		w.name += ", " + b.c.lib.Version()
		rows = append(rows, measure(b, &w, size))
	}
	return rows
}
