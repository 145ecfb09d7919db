// Package driver is what the CUDA backend needs of a GPU, and NVIDIA's driver
// library seen through it. Another implementation is kernels/cuda/ptxsim, which
// interprets the same kernels on the processor.
//
// A Driver has one stream: everything happens in the order of the calls, and
// Launch, Alloc and Free do not wait for it. Beside it there is one of copies that
// go on while kernels run (Ahead). It is used by one goroutine that is
// locked to its OS thread (kernels/cuda has it), because the driver keeps its
// current context by thread.
package driver

import "fmt"

// Ptr is an address in the memory of the device; 0: none.
type Ptr uint64

// Module is loaded code, Function an entry of it, Event a place in the stream.
type (
	Module   uintptr
	Function uintptr
	Event    uintptr
	Graph    uintptr // launches that are started at once
)

// Work is one launch: see Driver.Launch.
type Work struct {
	Function    Function
	Grid, Block Dim
	Shared      uint32
	Params      []byte
}

// Dim are the blocks of a grid or the threads of a block.
type Dim struct{ X, Y, Z uint32 }

// Info describes a device.
type Info struct {
	Name         string // as its maker calls it
	Major, Minor int    // compute capability
	Memory       int64  // bytes
	SMs          int    // multiprocessors
	CUDA         int    // version the driver supports: 1000·major + 10·minor
}

// Driver is one device.
type Driver interface {
	Info() Info
	// FreeMemory is the bytes that nobody uses.
	FreeMemory() (int64, error)
	// Load makes code of PTX text.
	Load(ptx []byte) (Module, error)
	Function(m Module, name string) (Function, error)
	Alloc(n int64) (Ptr, error)
	Free(p Ptr) error
	// ToDevice copies src, which may change afterwards; ToHost waits for
	// everything before it.
	ToDevice(dst Ptr, src []byte) error
	ToHost(dst []byte, src Ptr) error
	Copy(dst, src Ptr, n int64) error
	// Pin takes n bytes of the host's memory, zeros, that copies read and write where
	// they lie; Unpin gives them back, when no copy uses them any more.
	Pin(n int64) ([]byte, error)
	Unpin(b []byte) error
	// AllocHost takes n bytes of the host's memory that kernels read and write where
	// they lie; FreeHost waits for everything and gives them back.
	AllocHost(n int64) (Ptr, error)
	FreeHost(p Ptr) error
	// Ahead copies src, which is pinned and must stay as it is, once what was called
	// before is done, beside what is called next. What reads dst comes after Await of
	// the event, which the caller releases.
	Ahead(dst Ptr, src []byte) (Event, error)
	Await(e Event) error
	// Save copies to dst, which is pinned, and does not wait for it.
	Save(dst []byte, src Ptr) error
	// Launch starts f with params as the bytes of its one parameter, a structure.
	Launch(f Function, grid, block Dim, shared uint32, params []byte) error
	// Capture makes one piece of launches, and starts none; after an error nothing is
	// left of it. Replay starts them in their order. Drop gives a graph back.
	Capture(list []Work) (Graph, error)
	Replay(g Graph) error
	Drop(g Graph) error
	// Record marks this place in the stream; Elapsed waits for b and returns the
	// milliseconds from a to b. Release gives an event back.
	Record() (Event, error)
	Elapsed(a, b Event) (float32, error)
	Release(e Event) error
	// Sync waits for everything and returns what went wrong in it.
	Sync() error
	Close() error
}

// Error is a call that failed.
type Error struct {
	Call string // e.g. cuMemAllocAsync
	Code int    // a CUresult
	Name string // e.g. CUDA_ERROR_OUT_OF_MEMORY
	Text string // in the driver's words
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s failed with %s (%d)", e.Call, e.Name, e.Code)
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Codes of CUresult that callers tell apart.
const (
	InvalidValue   = 1
	OutOfMemory    = 2
	NoDevice       = 100
	InvalidDevice  = 101
	InvalidContext = 201
	InvalidPTX     = 218
	NotFound       = 500
	NotReady       = 600
	IllegalAddress = 700
	LaunchFailed   = 719
)

// names are those that cannot be asked of a library.
var names = map[int]string{
	InvalidValue: "CUDA_ERROR_INVALID_VALUE", OutOfMemory: "CUDA_ERROR_OUT_OF_MEMORY", NoDevice: "CUDA_ERROR_NO_DEVICE",
	InvalidDevice: "CUDA_ERROR_INVALID_DEVICE", InvalidContext: "CUDA_ERROR_INVALID_CONTEXT", InvalidPTX: "CUDA_ERROR_INVALID_PTX",
	NotFound: "CUDA_ERROR_NOT_FOUND", IllegalAddress: "CUDA_ERROR_ILLEGAL_ADDRESS", LaunchFailed: "CUDA_ERROR_LAUNCH_FAILED",
}

// NewError is the error of a call with its code's usual name.
func NewError(call string, code int, text string) *Error {
	name := names[code]
	if name == "" {
		name = "CUDA_ERROR_UNKNOWN"
	}
	return &Error{Call: call, Code: code, Name: name, Text: text}
}
