package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

// Options of a device.
type Options struct {
	MemoryLimit int64 // bytes over all purposes; 0: 0.95 of what is free
	Graphs      bool  // launches that repeat are started at once (graphs.go)
	Staged      int64 // bytes of the host's memory that may be pinned, for Stage and for what is Host; 0: none
	// Level of earlier results (kernels.Info.Level), to go on with: with the libraries
	// that it names, or without any. "": chosen anew.
	Level string
}

// CUDA computes on a GPU. It implements kernels.Backend. Its methods may be called
// from any goroutine.
type CUDA struct {
	name  string // cuda:0
	info  driver.Info
	queue chan task
	ended chan struct{}

	mu                 sync.Mutex
	mem                kernels.MemStats
	peak               int64
	limit              int64
	err                error // the first failure
	closed             bool
	kept               map[int64][]driver.Ptr // freed blocks by size
	keptHost           map[int64][]driver.Ptr // and those of the host
	held               int64                  // bytes of them
	staged, mostStaged int64                  // bytes of the host that are pinned
	copies             []*kernels.Staged      // of them, those of Stage
	tables             map[any]driver.Ptr     // see table
	lib                library                // see there
	groups             groupProducts          // see there
	tf32               bool                   // see TF32Variable
	int8               int8Products           // see there
	solver             solver                 // see there
	workspace          driver.Ptr             // of lib
	stuck              chan struct{}          // closed: the thread may not come back (leaveThread)

	// Of the device's thread alone.
	code   code
	graphs graphs
	link   ranks
}

// Open returns GPU number index. Errors are limit errors (exit 4).
func Open(index int, o Options) (*CUDA, error) {
	return OpenOn(fmt.Sprintf("cuda:%d", index), func() (driver.Driver, error) { return driver.Open(index) }, o)
}

// OpenOn returns the device that d opens, on the thread that will use it: for
// devices that are interpreted, or fail on purpose.
func OpenOn(name string, d func() (driver.Driver, error), o Options) (*CUDA, error) {
	c := &CUDA{name: name, queue: make(chan task, 1024), stuck: make(chan struct{}), graphs: graphs{on: o.Graphs}, ended: make(chan struct{}), kept: map[int64][]driver.Ptr{}, keptHost: map[int64][]driver.Ptr{}, tables: map[any]driver.Ptr{}}
	opened := make(chan error)
	go c.thread(d, opened)
	if err := <-opened; err != nil {
		return nil, err
	}
	c.limit, c.mostStaged = o.MemoryLimit, o.Staged
	if c.limit == 0 {
		var free int64
		err := c.wait(func(d driver.Driver) (err error) { free, err = d.FreeMemory(); return err })
		if err != nil {
			c.Close()
			return nil, fail.Limitf(name, "see what nvidia-smi lists, or use device: cpu", "its free memory cannot be asked for: %w", err)
		}
		c.limit = free / 100 * 95
	}
	if err := c.chooseTF32(); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.chooseGroups(o.Level); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.chooseLibrary(o.Level); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.chooseInt8(o.Level); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.chooseSolver(o.Level); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// thread owns the driver. It is never unlocked: the OS thread ends with it.
func (c *CUDA) thread(open func() (driver.Driver, error), opened chan<- error) {
	runtime.LockOSThread()
	defer close(c.ended)
	d, err := open()
	if err == nil {
		c.info = d.Info()
	}
	opened <- err
	if err != nil {
		return
	}
	for t := range c.queue {
		if t.kernel != "" && c.graphs.on {
			c.graph(d, t)
			continue
		}
		c.cut(d)
		t.run(d)
	}
	c.cut(d)
	c.dropGraphs(d)
	if c.link.Ranks != nil {
		c.link.Abort() // what LeaveRanks has not ended has failed
	}
	if c.lib.Products != nil {
		d.Sync() // what these could say has no reader any more
		c.lib.Close()
		d.Free(c.workspace)
	}
	if c.solver.Factors != nil {
		d.Sync()
		c.solver.Close()
	}
	d.Close()
}

// failed keeps the first error.
func (c *CUDA) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *CUDA) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// task is what the device's thread is to do; kernel names one launch.
type task struct {
	run    func(driver.Driver)
	kernel string
	work   driver.Work // of kernel, without its function
}

// post queues f; what it returns becomes the device's error.
func (c *CUDA) post(what string, f func(driver.Driver) error) {
	c.queue <- task{run: func(d driver.Driver) { c.attempt(what, func() error { return f(d) }) }}
}

// attempt calls f unless the device has failed; its error becomes the device's.
func (c *CUDA) attempt(what string, f func() error) {
	if c.lost() != nil {
		return
	}
	if err := f(); err != nil {
		c.failed(c.explain(what, err))
	}
}

// explain makes the error that the user reads of one that ends the device.
func (c *CUDA) explain(what string, err error) error {
	return fail.Limitf(c.name, "start again: the run goes on from its last checkpoint. If it happens again, see what nvidia-smi and dmesg say of the GPU", "%s: %w", what, err)
}

// wait queues f and waits for it.
func (c *CUDA) wait(f func(driver.Driver) error) error {
	done := make(chan error, 1)
	c.queue <- task{run: func(d driver.Driver) { done <- f(d) }}
	select {
	case err := <-done:
		return err
	case <-c.stuck:
		return c.lost()
	}
}

// Info describes the device. Level is the GPU's architecture, which the kernels
// were translated for, with an a where products are those of warpgroups, tf32
// where products of f32 are rounded so, int8few and int8 where few and many rows of x are rounded to 8 bits for quantized weights,
// and the libraries of products and of factors, if they are used: sm_90, sm_90a, sm_90+tf32, sm_89+int8few+int8 or sm_90a+cublasLt-13.1.0+cusolver-12.0.4.
func (c *CUDA) Info() kernels.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	level := c.level()
	return kernels.Info{Name: c.name, Level: level, Address: "cuda/" + level, Threads: 1, Limit: c.limit, Copies: true, Staged: c.mostStaged, FastBF16: true, Mem: c.mem, PeakTotal: c.peak, Working: working{tf32: c.tf32, int8: c.int8}}
}

// Describe says what GPU it is.
func (c *CUDA) Describe() string {
	s := fmt.Sprintf("%s, compute capability %d.%d, driver for CUDA %d.%d", c.info.Name, c.info.Major, c.info.Minor, c.info.CUDA/1000, c.info.CUDA%1000/10)
	s += ", " + c.describeLibrary() + c.describeGroups() + c.describeTF32() + c.describeInt8() + ", " + c.describeSolver() + ", " + c.describeRanks()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.graphs.reason; err != nil {
		s += ", which makes no graphs of kernels: " + err.Error()
	}
	return s
}

// ResetCounters makes what is in use now the peak.
func (c *CUDA) ResetCounters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mem.Peak, c.peak = c.mem.Now, c.inUse()
}

// Close ends the device's thread; its memory goes with it. Closing twice is
// allowed.
func (c *CUDA) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	kept := c.kept
	for _, p := range c.tables {
		kept[0] = append(kept[0], p)
	}
	c.kept, c.mem.Now = nil, [kernels.NumPurposes]int64{}
	var host []driver.Ptr
	for _, list := range c.keptHost {
		host = append(host, list...)
	}
	c.mu.Unlock()
	c.release(kept)
	c.unpin(host, nil)
	close(c.queue)
	select {
	case <-c.ended:
	case <-c.stuck:
	}
}

// release gives kept blocks back to the driver.
func (c *CUDA) release(kept map[int64][]driver.Ptr) {
	c.post("memory cannot be given back", func(d driver.Driver) error {
		var errs []error
		for _, list := range kept {
			for _, p := range list {
				errs = append(errs, d.Free(p))
			}
		}
		return errors.Join(errs...)
	})
}

// Run calls step and waits for what it queued. It returns step's error, or the
// first that the device met.
func (c *CUDA) Run(step func() error) error {
	err := kernels.Step(step)
	if err != nil {
		return err
	}
	sync := c.wait(func(d driver.Driver) error {
		if c.lost() != nil {
			return nil
		}
		return d.Sync()
	})
	if sync != nil {
		c.failed(c.explain("what was started did not end", sync))
	}
	return c.lost()
}

// lacks ends a step that needs a method, or a part of one, that is not there.
func (c *CUDA) lacks(what string) {
	panic(kernels.Failed{Err: c.lacking(what)})
}

func (c *CUDA) lacking(what string) error {
	return fail.Limitf(c.name, "use device: cpu", "%s cannot be computed on a GPU yet", what)
}
