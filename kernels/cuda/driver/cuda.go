package driver

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/tunekit/tunekit/kernels/dl"
)

// cuda is a device of NVIDIA's driver library. Only functions whose arguments
// are handles, integers and pointers are bound, by the names of their frozen
// interfaces.
type cuda struct {
	lib     *dl.Lib
	info    Info
	device  int32
	context uintptr
	stream  uintptr
	copies  uintptr // the stream of Ahead

	init, driverGetVersion, getErrorName, getErrorString                         dl.Func
	deviceGetCount, deviceGet, deviceGetName, deviceGetAttribute, deviceTotalMem dl.Func
	primaryCtxRetain, primaryCtxRelease, ctxSetCurrent                           dl.Func
	streamCreate, streamDestroy, streamSynchronize, streamWaitEvent, streamQuery dl.Func
	memAllocHost, memFreeHost                                                    dl.Func
	streamBeginCapture, streamEndCapture                                         dl.Func
	graphInstantiate, graphDestroy, graphLaunch, graphExecDestroy                dl.Func
	moduleLoadDataEx, moduleGetFunction, funcSetAttribute, launchKernel          dl.Func
	memAllocAsync, memFreeAsync, memGetInfo, memcpyHtoD, memcpyDtoH, memcpyDtoD  dl.Func
	deviceGetDefaultMemPool, memPoolSetAttribute                                 dl.Func
	eventCreate, eventRecord, eventSynchronize, eventElapsedTime, eventDestroy   dl.Func

	// What C is given an address of inside other memory: on the heap, where it stays.
	log    [4096]byte // of Load
	params [4096]byte // of Launch, as are list and args
	list   [1]uintptr
	args   [11]uintptr
}

func (c *cuda) symbols() map[string]*dl.Func {
	return map[string]*dl.Func{
		"cuInit": &c.init, "cuDriverGetVersion": &c.driverGetVersion, "cuGetErrorName": &c.getErrorName, "cuGetErrorString": &c.getErrorString,
		"cuDeviceGetCount": &c.deviceGetCount, "cuDeviceGet": &c.deviceGet, "cuDeviceGetName": &c.deviceGetName,
		"cuDeviceGetAttribute": &c.deviceGetAttribute, "cuDeviceTotalMem_v2": &c.deviceTotalMem,
		"cuDevicePrimaryCtxRetain": &c.primaryCtxRetain, "cuDevicePrimaryCtxRelease_v2": &c.primaryCtxRelease, "cuCtxSetCurrent": &c.ctxSetCurrent,
		"cuStreamCreate": &c.streamCreate, "cuStreamDestroy_v2": &c.streamDestroy, "cuStreamSynchronize": &c.streamSynchronize,
		"cuStreamBeginCapture_v2": &c.streamBeginCapture, "cuStreamEndCapture": &c.streamEndCapture, "cuGraphInstantiateWithFlags": &c.graphInstantiate,
		"cuGraphDestroy": &c.graphDestroy, "cuGraphLaunch": &c.graphLaunch, "cuGraphExecDestroy": &c.graphExecDestroy,
		"cuStreamQuery": &c.streamQuery, "cuStreamWaitEvent": &c.streamWaitEvent, "cuMemAllocHost_v2": &c.memAllocHost, "cuMemFreeHost": &c.memFreeHost,
		"cuModuleLoadDataEx": &c.moduleLoadDataEx, "cuModuleGetFunction": &c.moduleGetFunction, "cuFuncSetAttribute": &c.funcSetAttribute, "cuLaunchKernel": &c.launchKernel,
		"cuMemAllocAsync": &c.memAllocAsync, "cuMemFreeAsync": &c.memFreeAsync, "cuMemGetInfo_v2": &c.memGetInfo,
		"cuMemcpyHtoDAsync_v2": &c.memcpyHtoD, "cuMemcpyDtoHAsync_v2": &c.memcpyDtoH, "cuMemcpyDtoDAsync_v2": &c.memcpyDtoD,
		"cuDeviceGetDefaultMemPool": &c.deviceGetDefaultMemPool, "cuMemPoolSetAttribute": &c.memPoolSetAttribute,
		"cuEventCreate": &c.eventCreate, "cuEventRecord": &c.eventRecord, "cuEventSynchronize": &c.eventSynchronize,
		"cuEventElapsedTime": &c.eventElapsedTime, "cuEventDestroy_v2": &c.eventDestroy,
	}
}

// check makes an error of a CUresult, in the driver's words.
func (c *cuda) check(call string, result uintptr) error {
	code := int(int32(result))
	if code == 0 {
		return nil
	}
	e := NewError(call, code, c.words(c.getErrorString, code))
	if name := c.words(c.getErrorName, code); name != "" {
		e.Name = name
	}
	return e
}

// words asks for a text of the driver's.
func (c *cuda) words(f dl.Func, code int) string {
	var text *[256]byte
	if f == 0 || f.Call(uintptr(code), uintptr(unsafe.Pointer(&text))) != 0 {
		return ""
	}
	return goString(text)
}

// goString is a text of C's; "" for nil.
func goString(text *[256]byte) string {
	if text == nil {
		return ""
	}
	for i, b := range text {
		if b == 0 {
			return string(text[:i])
		}
	}
	return ""
}

func (c *cuda) version() (int, error) {
	var v int32
	err := c.check("cuDriverGetVersion", c.driverGetVersion.Call(uintptr(unsafe.Pointer(&v))))
	return int(v), err
}

func (c *cuda) count() (int, error) {
	var n int32
	err := c.check("cuDeviceGetCount", c.deviceGetCount.Call(uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// Attributes of a device, as cuda.h numbers them.
const (
	attrSMs   = 16
	attrMajor = 75
	attrMinor = 76
	attrPools = 115 // it has memory pools
)

func (c *cuda) attribute(a int) (int, error) {
	var v int32
	err := c.check("cuDeviceGetAttribute", c.deviceGetAttribute.Call(uintptr(unsafe.Pointer(&v)), uintptr(a), uintptr(c.device)))
	return int(v), err
}

func (c *cuda) describe(index, version int) error {
	if err := c.check("cuDeviceGet", c.deviceGet.Call(uintptr(unsafe.Pointer(&c.device)), uintptr(index))); err != nil {
		return err
	}
	name := make([]byte, 256)
	if err := c.check("cuDeviceGetName", c.deviceGetName.Call(uintptr(unsafe.Pointer(&name[0])), uintptr(len(name)), uintptr(c.device))); err != nil {
		return err
	}
	name, _, _ = bytes.Cut(name, []byte{0})
	c.info = Info{Name: string(name), CUDA: version}
	if err := c.check("cuDeviceTotalMem", c.deviceTotalMem.Call(uintptr(unsafe.Pointer(&c.info.Memory)), uintptr(c.device))); err != nil {
		return err
	}
	for _, a := range []struct {
		to *int
		at int
	}{{&c.info.Major, attrMajor}, {&c.info.Minor, attrMinor}, {&c.info.SMs, attrSMs}} {
		var err error
		if *a.to, err = c.attribute(a.at); err != nil {
			return err
		}
	}
	return nil
}

// start makes the primary context current, a stream of its own, and lets the
// memory pool keep what is freed.
func (c *cuda) start() error {
	if has, err := c.attribute(attrPools); err != nil || has == 0 {
		return fmt.Errorf("it has no memory pools (%v)", err)
	}
	if err := c.check("cuDevicePrimaryCtxRetain", c.primaryCtxRetain.Call(uintptr(unsafe.Pointer(&c.context)), uintptr(c.device))); err != nil {
		return err
	}
	if err := c.check("cuCtxSetCurrent", c.ctxSetCurrent.Call(c.context)); err != nil {
		return err
	}
	const nonBlocking = 1
	for _, s := range []*uintptr{&c.stream, &c.copies} {
		if err := c.check("cuStreamCreate", c.streamCreate.Call(uintptr(unsafe.Pointer(s)), nonBlocking)); err != nil {
			return err
		}
	}
	var pool uintptr
	if err := c.check("cuDeviceGetDefaultMemPool", c.deviceGetDefaultMemPool.Call(uintptr(unsafe.Pointer(&pool)), uintptr(c.device))); err != nil {
		return err
	}
	const releaseThreshold = 4
	keep := ^uint64(0)
	return c.check("cuMemPoolSetAttribute", c.memPoolSetAttribute.Call(pool, releaseThreshold, uintptr(unsafe.Pointer(&keep))))
}

// Info describes the device.
func (c *cuda) Info() Info { return c.info }

// FreeMemory is the bytes that nobody uses.
func (c *cuda) FreeMemory() (int64, error) {
	var free, total uint64
	err := c.check("cuMemGetInfo", c.memGetInfo.Call(uintptr(unsafe.Pointer(&free)), uintptr(unsafe.Pointer(&total))))
	return int64(free), err
}

// Load makes code of PTX. The error holds what the compiler of the driver says.
func (c *cuda) Load(ptx []byte) (Module, error) {
	const errorLog, errorLogSize = 5, 6
	text := append(bytes.Clone(ptx), 0)
	options := []int32{errorLog, errorLogSize}
	c.log[0] = 0
	values := []uintptr{uintptr(unsafe.Pointer(&c.log[0])), uintptr(len(c.log))}
	var m Module
	err := c.check("cuModuleLoadDataEx", c.moduleLoadDataEx.Call(uintptr(unsafe.Pointer(&m)), uintptr(unsafe.Pointer(&text[0])),
		uintptr(len(options)), uintptr(unsafe.Pointer(&options[0])), uintptr(unsafe.Pointer(&values[0]))))
	runtime.KeepAlive(c)
	if said, _, _ := bytes.Cut(c.log[:], []byte{0}); err != nil && len(said) > 0 {
		return 0, fmt.Errorf("%w: %s", err, said)
	}
	return m, err
}

// Function finds an entry of a module.
func (c *cuda) Function(m Module, name string) (Function, error) {
	text := append([]byte(name), 0)
	var f Function
	err := c.check("cuModuleGetFunction", c.moduleGetFunction.Call(uintptr(unsafe.Pointer(&f)), uintptr(m), uintptr(unsafe.Pointer(&text[0]))))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Alloc takes n bytes, in the order of the stream.
func (c *cuda) Alloc(n int64) (Ptr, error) {
	var p Ptr
	err := c.check("cuMemAllocAsync", c.memAllocAsync.Call(uintptr(unsafe.Pointer(&p)), uintptr(n), c.stream))
	return p, err
}

// Free gives them back once everything before is done.
func (c *cuda) Free(p Ptr) error {
	return c.check("cuMemFreeAsync", c.memFreeAsync.Call(uintptr(p), c.stream))
}

// ToDevice copies from memory of Go, which is pageable: the driver has read it
// when the call returns.
func (c *cuda) ToDevice(dst Ptr, src []byte) error {
	if len(src) == 0 {
		return nil
	}
	return c.check("cuMemcpyHtoDAsync", c.memcpyHtoD.Call(uintptr(dst), uintptr(unsafe.Pointer(&src[0])), uintptr(len(src)), c.stream))
}

// ToHost waits for everything before it and copies.
func (c *cuda) ToHost(dst []byte, src Ptr) error {
	if len(dst) == 0 {
		return c.Sync()
	}
	if err := c.check("cuMemcpyDtoHAsync", c.memcpyDtoH.Call(uintptr(unsafe.Pointer(&dst[0])), uintptr(src), uintptr(len(dst)), c.stream)); err != nil {
		return err
	}
	return c.Sync()
}

// Copy copies inside the device.
func (c *cuda) Copy(dst, src Ptr, n int64) error {
	return c.check("cuMemcpyDtoDAsync", c.memcpyDtoD.Call(uintptr(dst), uintptr(src), uintptr(n), c.stream))
}

// Pin takes memory that the driver copies from and to without its help.
func (c *cuda) Pin(n int64) ([]byte, error) {
	var p *byte
	if err := c.check("cuMemAllocHost", c.memAllocHost.Call(uintptr(unsafe.Pointer(&p)), uintptr(n))); err != nil {
		return nil, err
	}
	b := unsafe.Slice(p, n)
	clear(b)
	return b, nil
}

// Unpin gives it back.
func (c *cuda) Unpin(b []byte) error {
	return c.check("cuMemFreeHost", c.memFreeHost.Call(uintptr(unsafe.Pointer(unsafe.SliceData(b)))))
}

// AllocHost is memory as Pin's, whose address is the same for kernels (unified
// addressing, which every 64-bit system has).
func (c *cuda) AllocHost(n int64) (Ptr, error) {
	var p Ptr
	err := c.check("cuMemAllocHost", c.memAllocHost.Call(uintptr(unsafe.Pointer(&p)), uintptr(n)))
	return p, err
}

// FreeHost gives it back.
func (c *cuda) FreeHost(p Ptr) error {
	if err := c.Sync(); err != nil {
		return err
	}
	return c.check("cuMemFreeHost", c.memFreeHost.Call(uintptr(p)))
}

// Ahead copies in the other stream.
func (c *cuda) Ahead(dst Ptr, src []byte) (Event, error) {
	before, err := c.Record()
	if err != nil {
		return 0, err
	}
	defer c.Release(before) // which the stream goes on to wait for
	if err := c.check("cuStreamWaitEvent", c.streamWaitEvent.Call(c.copies, uintptr(before), 0)); err != nil {
		return 0, err
	}
	if err := c.check("cuMemcpyHtoDAsync", c.memcpyHtoD.Call(uintptr(dst), uintptr(unsafe.Pointer(unsafe.SliceData(src))), uintptr(len(src)), c.copies)); err != nil {
		return 0, err
	}
	return c.record(c.copies)
}

// Await has the stream wait for an event of the other.
func (c *cuda) Await(e Event) error {
	return c.check("cuStreamWaitEvent", c.streamWaitEvent.Call(c.stream, uintptr(e), 0))
}

// Save copies to pinned memory in the order of the stream.
func (c *cuda) Save(dst []byte, src Ptr) error {
	return c.check("cuMemcpyDtoHAsync", c.memcpyDtoH.Call(uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(src), uintptr(len(dst)), c.stream))
}

// Launch starts a kernel; the driver has copied params when it returns.
func (c *cuda) Launch(f Function, grid, block Dim, shared uint32, params []byte) error {
	if len(params) > len(c.params) {
		return NewError("cuLaunchKernel", InvalidValue, fmt.Sprintf("%d bytes of parameters", len(params)))
	}
	// 48 KiB are allowed without asking, the kernel's own shared memory included.
	const unasked, maxDynamicShared = 40 << 10, 8
	if shared > unasked {
		if err := c.check("cuFuncSetAttribute", c.funcSetAttribute.Call(uintptr(f), maxDynamicShared, uintptr(shared))); err != nil {
			return err
		}
	}
	copy(c.params[:], params)
	c.list[0] = uintptr(unsafe.Pointer(&c.params[0]))
	c.args = [11]uintptr{uintptr(f), uintptr(grid.X), uintptr(grid.Y), uintptr(grid.Z), uintptr(block.X), uintptr(block.Y), uintptr(block.Z),
		uintptr(shared), c.stream, uintptr(unsafe.Pointer(&c.list[0])), 0}
	err := c.check("cuLaunchKernel", c.launchKernel.Call(c.args[:]...))
	runtime.KeepAlive(c)
	return err
}

// Capture has the stream note launches instead of starting them.
func (c *cuda) Capture(list []Work) (Graph, error) {
	const relaxed = 2
	if err := c.check("cuStreamBeginCapture", c.streamBeginCapture.Call(c.stream, relaxed)); err != nil {
		return 0, err
	}
	var failed error
	for i := range list {
		w := &list[i]
		if failed = c.Launch(w.Function, w.Grid, w.Block, w.Shared, w.Params); failed != nil {
			break
		}
	}
	var g uintptr
	err := c.check("cuStreamEndCapture", c.streamEndCapture.Call(c.stream, uintptr(unsafe.Pointer(&g))))
	if g != 0 {
		defer func() { c.graphDestroy.Call(g) }() // what was made of it has its own
	}
	if failed != nil {
		return 0, failed
	}
	if err != nil {
		return 0, err
	}
	var made Graph
	err = c.check("cuGraphInstantiateWithFlags", c.graphInstantiate.Call(uintptr(unsafe.Pointer(&made)), g, 0))
	return made, err
}

// Replay starts what was captured.
func (c *cuda) Replay(g Graph) error {
	return c.check("cuGraphLaunch", c.graphLaunch.Call(uintptr(g), c.stream))
}

// Drop gives a graph back.
func (c *cuda) Drop(g Graph) error {
	return c.check("cuGraphExecDestroy", c.graphExecDestroy.Call(uintptr(g)))
}

// Record makes an event here.
func (c *cuda) Record() (Event, error) { return c.record(c.stream) }

func (c *cuda) record(stream uintptr) (Event, error) {
	var e Event
	if err := c.check("cuEventCreate", c.eventCreate.Call(uintptr(unsafe.Pointer(&e)), 0)); err != nil {
		return 0, err
	}
	return e, c.check("cuEventRecord", c.eventRecord.Call(uintptr(e), stream))
}

// Elapsed waits for b.
func (c *cuda) Elapsed(a, b Event) (float32, error) {
	if err := c.check("cuEventSynchronize", c.eventSynchronize.Call(uintptr(b))); err != nil {
		return 0, err
	}
	var ms float32
	err := c.check("cuEventElapsedTime", c.eventElapsedTime.Call(uintptr(unsafe.Pointer(&ms)), uintptr(a), uintptr(b)))
	return ms, err
}

// Release gives an event back.
func (c *cuda) Release(e Event) error {
	return c.check("cuEventDestroy", c.eventDestroy.Call(uintptr(e)))
}

// Sync waits for both streams.
func (c *cuda) Sync() error {
	for _, s := range []uintptr{c.copies, c.stream} {
		if err := c.check("cuStreamSynchronize", c.streamSynchronize.Call(s)); err != nil {
			return err
		}
	}
	return nil
}

// Idle asks both streams.
func (c *cuda) Idle() (bool, error) {
	for _, s := range []uintptr{c.copies, c.stream} {
		result := c.streamQuery.Call(s)
		if int32(result) == NotReady {
			return false, nil
		}
		if err := c.check("cuStreamQuery", result); err != nil {
			return false, err
		}
	}
	return true, nil
}

// Close gives the streams and the context back.
func (c *cuda) Close() error {
	err := c.check("cuStreamDestroy", c.streamDestroy.Call(c.stream))
	if e := c.check("cuStreamDestroy", c.streamDestroy.Call(c.copies)); err == nil {
		err = e
	}
	if e := c.check("cuDevicePrimaryCtxRelease", c.primaryCtxRelease.Call(uintptr(c.device))); err == nil {
		err = e
	}
	return err
}
