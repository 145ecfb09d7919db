package cpu

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Buf is memory of a CPU: plain elements, or the planes of one matrix.
type Buf struct {
	dev        *CPU
	t          dtype.Type
	n          int // elements
	rows, cols int // as loaded; 0 for Alloc and Slice
	purpose    kernels.Purpose
	mem        []byte // nil once freed
	freed      bool
	block      piece // where mem came from; zero for borrowed bytes and slices
	owner      bool  // false: a slice
	few        atomic.Pointer[mvCached]
	root       *Buf // of a slice: the buffer whose memory it is
}

// Type is the element type.
func (b *Buf) Type() dtype.Type { return b.t }

// Len is the number of elements.
func (b *Buf) Len() int { return b.n }

// live returns the bytes, or panics when they were given back.
func (b *Buf) live() []byte {
	if b.freed || b.root != nil && b.root.freed {
		panic("cpu: buffer used after it was freed")
	}
	if b.dev.closed {
		panic("cpu: buffer used after its device was closed")
	}
	return b.mem
}

// raw returns the bytes of b; nil for nil.
func raw(b kernels.Buffer) []byte {
	if b == nil {
		return nil
	}
	return b.(*Buf).live()
}

// f32 returns the elements of a float32 buffer; nil for nil.
func f32(b kernels.Buffer) []float32 { return elems[float32](b, dtype.F32) }

// i32 returns the elements of an int32 buffer; nil for nil.
func i32(b kernels.Buffer) []int32 { return elems[int32](b, dtype.I32) }

// i64 returns the elements of an int64 buffer; nil for nil.
func i64(b kernels.Buffer) []int64 { return elems[int64](b, dtype.I64) }

// u8 returns the elements of a uint8 buffer; nil for nil.
func u8(b kernels.Buffer) []byte { return elems[byte](b, dtype.U8) }

// elems views the bytes of a buffer of kind k as its elements.
func elems[T any](b kernels.Buffer, k dtype.Kind) []T {
	if b == nil {
		return nil
	}
	x := b.(*Buf)
	if x.t.Kind != k {
		panic(fmt.Sprintf("cpu: buffer of %v where %v is needed", x.t, k))
	}
	return view[T](x.live())
}

// view reinterprets bytes as elements of T. They must be aligned for it.
func view[T any](p []byte) []T {
	if len(p) == 0 {
		return []T{}
	}
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(&p[0])), len(p)/int(unsafe.Sizeof(t)))
}

// aligned reports whether p may be read in place as type t.
func aligned(p []byte, t dtype.Type) bool {
	if len(p) == 0 {
		return true
	}
	a := 4 // planes of scales and indices
	switch {
	case !t.Quantized():
		a = t.Kind.Info().Bytes
	case !t.HasPlanes():
		a = 1 // GGUF blocks are read as bytes
	}
	return uintptr(unsafe.Pointer(&p[0]))%uintptr(a) == 0
}

// want panics unless b holds at least n elements: a wrong shape.
func want(what string, b kernels.Buffer, n int) {
	if b != nil && b.Len() < n {
		panic(fmt.Sprintf("cpu: %s: buffer of %d elements, needs %d", what, b.Len(), n))
	}
}
