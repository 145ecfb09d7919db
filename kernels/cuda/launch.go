package cuda

import (
	"embed"
	"fmt"
	"regexp"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

//go:embed ptx/*.ptx
var ptx embed.FS

// code is what the driver has loaded: a module when a kernel of it is first used.
type code struct {
	modules   map[string]driver.Module // by file
	functions map[string]driver.Function
}

var entries = regexp.MustCompile(`\.visible \.entry (\w+)\(`)

// files are the files of PTX by the kernels that they hold.
var files = func() map[string]string {
	out := map[string]string{}
	list, err := ptx.ReadDir("ptx")
	if err != nil {
		panic(err)
	}
	for _, f := range list {
		text, err := ptx.ReadFile("ptx/" + f.Name())
		if err != nil {
			panic(err)
		}
		for _, m := range entries.FindAllSubmatch(text, -1) {
			out[string(m[1])] = "ptx/" + f.Name()
		}
	}
	return out
}()

// function loads a kernel.
func (k *code) function(d driver.Driver, name string) (driver.Function, error) {
	if f, ok := k.functions[name]; ok {
		return f, nil
	}
	file, ok := files[name]
	if !ok {
		return 0, fmt.Errorf("there is no kernel %s", name)
	}
	if k.modules == nil {
		k.modules, k.functions = map[string]driver.Module{}, map[string]driver.Function{}
	}
	m, ok := k.modules[file]
	if !ok {
		text, err := ptx.ReadFile(file)
		if err != nil {
			return 0, err
		}
		if m, err = d.Load(text); err != nil {
			return 0, err
		}
		k.modules[file] = m
	}
	f, err := d.Function(m, name)
	if err == nil {
		k.functions[name] = f
	}
	return f, err
}

// launch queues a kernel. a is the twin of its structure: fields in the same
// order, integers and floats of the same size, which lie in the same places.
func launch[T any](c *CUDA, name string, blocks, threads driver.Dim, shared int, a *T) {
	if blocks.X == 0 || blocks.Y == 0 || blocks.Z == 0 {
		return
	}
	c.queue <- launchOf(c, name, blocks, threads, shared, a)
}

// launchOf is what launch queues.
func launchOf[T any](c *CUDA, name string, blocks, threads driver.Dim, shared int, a *T) task {
	params := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(a)), unsafe.Sizeof(*a))...)
	t := task{kernel: name, work: driver.Work{Grid: blocks, Block: threads, Shared: uint32(shared), Params: params}}
	t.run = func(d driver.Driver) { c.start(d, t) }
	return t
}

// start starts a kernel.
func (c *CUDA) start(d driver.Driver, t task) {
	c.attempt("kernel "+t.kernel, func() error {
		f, err := c.code.function(d, t.kernel)
		if err != nil {
			return err
		}
		return d.Launch(f, t.work.Grid, t.work.Block, t.work.Shared, t.work.Params)
	})
}

// elementThreads is the threads of a block of work on elements by themselves.
const elementThreads = 256

// each queues a kernel with one thread for each of n elements.
func each[T any](c *CUDA, name string, n int, a *T) {
	launch(c, name, driver.Dim{X: blocksOf(n, elementThreads), Y: 1, Z: 1}, driver.Dim{X: elementThreads, Y: 1, Z: 1}, 0, a)
}

// rows queues a kernel with one block for each of n rows of width.
func rows[T any](c *CUDA, name string, n, width, shared int, a *T) {
	launch(c, name, driver.Dim{X: uint32(n), Y: 1, Z: 1}, driver.Dim{X: uint32(min(max(roundUp(width, 32), 32), 256)), Y: 1, Z: 1}, shared, a)
}

func blocksOf(n, threads int) uint32 { return uint32((n + threads - 1) / threads) }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// The types of elements, as common.h numbers them.
var elementTypes = map[dtype.Kind]int32{dtype.F32: 0, dtype.BF16: 1, dtype.F16: 2}

func elementType(b kernels.Buffer) int32 {
	t, ok := elementTypes[b.Type().Kind]
	if !ok || b.Type().Quantized() {
		panic(fmt.Sprintf("cuda: operand of %v", b.Type()))
	}
	return t
}

// elems and dest are Elems and Dst of common.h.
type elems struct {
	p      driver.Ptr
	typ, _ int32
}

type dest struct {
	p        driver.Ptr
	typ, add int32
}

// elemsOf checks that b has n elements; nil: none.
func elemsOf(what string, b kernels.Buffer, n int) elems {
	if b == nil {
		return elems{}
	}
	want(what, b, n)
	return elems{p: ptr(b), typ: elementType(b)}
}

func destOf(what string, d kernels.Dst, n int) dest {
	if d.Skip() {
		return dest{}
	}
	want(what, d.Buffer, n)
	return dest{p: ptr(d.Buffer), typ: elementType(d.Buffer), add: flag(d.Add)}
}

// f32 is the address of a float32 buffer of n elements; 0 for nil.
func f32(what string, b kernels.Buffer, n int) driver.Ptr {
	want(what, b, n)
	return typed(b, dtype.F32)
}

func i32(what string, b kernels.Buffer, n int) driver.Ptr {
	want(what, b, n)
	return typed(b, dtype.I32)
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
