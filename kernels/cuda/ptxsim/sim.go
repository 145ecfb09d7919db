// Package ptxsim interprets the PTX of kernels/cuda on the processor, as a
// kernels/cuda/driver.Driver: warps of 32 lanes that diverge and meet again,
// barriers, shuffles, shared, global and constant memory. It knows the part of
// PTX 8.4 that NVRTC makes of our sources, and refuses the rest by name.
//
// It is strict where a GPU is not. A launch fails that reads or writes outside of
// an allocation or unaligned, reads what was never written, lets threads meet in
// memory without a barrier between them or blocks in one launch, waits at a
// barrier with some threads only, or names lanes in a mask that do not come; that
// reads what an asynchronous copy has not brought yet, or takes a shuffle for a
// barrier. With Profile it counts what each kernel does: instructions, sectors of
// global memory, passes over the banks of shared memory, products on tensor cores.
// Not modelled: speed, caches, the last bit of ex2.approx and rcp.approx, which
// are rounded to nearest here, and the order of sums in mma, which PTX leaves open.
package ptxsim

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

// Sim is one device. Its counters may be read and set between calls.
type Sim struct {
	Reverse bool // blocks run last to first: no result may change
	Memory  int64
	Profile bool // count by kernel
	Hopper  bool // compute capability 9.0, with what sm_90a has

	Counts           map[string]*Count // by kernel, with Profile
	Instructions     int64             // of warps
	LaneInstructions int64
	Read, Written    int64 // bytes of global memory

	mem       memory
	used      int64
	modules   []*module
	functions []function
	events    int
	graphs    map[driver.Graph][]driver.Work
	ahead     map[driver.Event]func() error // copies that nobody has awaited yet; nil: made
	pinned    int                           // bytes
	launches  uint32
	dynamic   uint32
	limit     int64 // of Instructions
	perLaunch int64
	shared    *region
	registers [][]uint64
	lost      error
	count     *Count // of the running kernel
}

type function struct {
	module *module
	entry  *entry
}

var _ driver.Driver = (*Sim)(nil)

// New returns a device with so many bytes of memory.
func New(memory int64) *Sim { return &Sim{Memory: memory, perLaunch: 1 << 33} }

// Info describes the interpreter as a device of compute capability 8.0 or 9.0.
func (s *Sim) Info() driver.Info {
	major := 8
	if s.Hopper {
		major = 9
	}
	return driver.Info{Name: "PTX interpreter", Major: major, Memory: s.Memory, SMs: 1, CUDA: driver.MinCUDA}
}

// FreeMemory is what is not allocated.
func (s *Sim) FreeMemory() (int64, error) { return s.Memory - s.used, s.lost }

// Load parses PTX.
func (s *Sim) Load(ptx []byte) (driver.Module, error) {
	if s.lost != nil {
		return 0, s.lost
	}
	m, err := parse(string(ptx))
	if err != nil {
		return 0, driver.NewError("Load", driver.InvalidPTX, err.Error())
	}
	if m.target == "sm_90a" && !s.Hopper {
		return 0, driver.NewError("Load", driver.InvalidPTX, "it is for sm_90a, and the device has compute capability 8.0")
	}
	s.modules = append(s.modules, m)
	return driver.Module(len(s.modules)), nil
}

// Function finds a kernel.
func (s *Sim) Function(m driver.Module, name string) (driver.Function, error) {
	if int(m) < 1 || int(m) > len(s.modules) {
		return 0, driver.NewError("Function", driver.InvalidValue, "no such module")
	}
	e, err := s.modules[m-1].find(name)
	if err != nil {
		return 0, driver.NewError("Function", driver.InvalidPTX, err.Error())
	}
	if e == nil {
		return 0, driver.NewError("Function", driver.NotFound, "no kernel "+name)
	}
	s.functions = append(s.functions, function{s.modules[m-1], e})
	return driver.Function(len(s.functions)), nil
}

// Alloc takes memory that counts as never written.
func (s *Sim) Alloc(n int64) (driver.Ptr, error) {
	switch {
	case s.lost != nil:
		return 0, s.lost
	case n <= 0:
		return 0, driver.NewError("Alloc", driver.InvalidValue, fmt.Sprintf("%d bytes", n))
	case n > s.Memory-s.used:
		return 0, driver.NewError("Alloc", driver.OutOfMemory, fmt.Sprintf("%d bytes asked, %d are free", n, s.Memory-s.used))
	}
	s.used += n
	return driver.Ptr(s.mem.alloc(int(n), "").base), nil
}

// Free gives memory back.
func (s *Sim) Free(p driver.Ptr) error {
	r := s.mem.find(uint64(p), 0)
	if r == nil || !s.mem.free(uint64(p)) {
		return driver.NewError("Free", driver.InvalidValue, "not an allocation")
	}
	s.used -= int64(len(r.data))
	return s.lost
}

// Leaks is the bytes that are allocated, pinned ones of the host included.
func (s *Sim) Leaks() int64 { return s.used + int64(s.pinned) }

func (s *Sim) at(call string, p driver.Ptr, n int64) (*region, int, error) {
	if s.lost != nil {
		return nil, 0, s.lost
	}
	r := s.mem.find(uint64(p), int(n))
	if r == nil {
		return nil, 0, driver.NewError(call, driver.InvalidValue, fmt.Sprintf("%d bytes outside of an allocation", n))
	}
	return r, int(uint64(p) - r.base), nil
}

// ToDevice copies from the host.
func (s *Sim) ToDevice(dst driver.Ptr, src []byte) error {
	r, off, err := s.at("ToDevice", dst, int64(len(src)))
	if err != nil {
		return err
	}
	copy(r.data[off:], src)
	r.setKnown(off, len(src))
	return nil
}

// ToHost copies to the host. Bytes that were never written come as they are: a
// caller may look at a buffer that nobody filled.
func (s *Sim) ToHost(dst []byte, src driver.Ptr) error {
	r, off, err := s.at("ToHost", src, int64(len(dst)))
	if err != nil {
		return err
	}
	copy(dst, r.data[off:])
	return nil
}

// Copy copies inside the device, and what is known of the bytes.
func (s *Sim) Copy(dst, src driver.Ptr, n int64) error {
	to, d, err := s.at("Copy", dst, n)
	if err != nil {
		return err
	}
	from, o, err := s.at("Copy", src, n)
	if err != nil {
		return err
	}
	copy(to.data[d:d+int(n)], from.data[o:])
	copy(to.written[d:d+int(n)], from.written[o:])
	return nil
}

// Pin is memory of Go.
func (s *Sim) Pin(n int64) ([]byte, error) {
	if s.lost != nil {
		return nil, s.lost
	}
	s.pinned += int(n)
	return make([]byte, n), nil
}

// Unpin refuses what a copy may still read.
func (s *Sim) Unpin(b []byte) error {
	for _, f := range s.ahead {
		if f != nil {
			return driver.NewError("Unpin", driver.InvalidValue, "a copy is on its way")
		}
	}
	s.pinned -= len(b)
	return s.lost
}

// AllocHost is memory that does not count as the device's.
func (s *Sim) AllocHost(n int64) (driver.Ptr, error) {
	if s.lost != nil {
		return 0, s.lost
	}
	s.pinned += int(n)
	return driver.Ptr(s.mem.alloc(int(n), "").base), nil
}

// FreeHost gives it back.
func (s *Sim) FreeHost(p driver.Ptr) error {
	r := s.mem.find(uint64(p), 0)
	if r == nil || !s.mem.free(uint64(p)) {
		return driver.NewError("FreeHost", driver.InvalidValue, "not an allocation")
	}
	s.pinned -= len(r.data)
	return s.lost
}

// Ahead copies when it is awaited; until then what is there was never written.
func (s *Sim) Ahead(dst driver.Ptr, src []byte) (driver.Event, error) {
	r, off, err := s.at("Ahead", dst, int64(len(src)))
	if err != nil {
		return 0, err
	}
	clear(r.written[off : off+len(src)])
	s.events++
	if s.ahead == nil {
		s.ahead = map[driver.Event]func() error{}
	}
	s.ahead[driver.Event(s.events)] = func() error { return s.ToDevice(dst, src) }
	return driver.Event(s.events), nil
}

// Await makes the copy.
func (s *Sim) Await(e driver.Event) error {
	f, ok := s.ahead[e]
	if !ok {
		return driver.NewError("Await", driver.InvalidValue, "no copy has this event")
	}
	delete(s.ahead, e)
	if f == nil {
		return s.lost
	}
	return f()
}

// Save copies at once.
func (s *Sim) Save(dst []byte, src driver.Ptr) error { return s.ToHost(dst, src) }

// Launch runs a kernel to its end. What goes wrong in it is returned at once, and
// by every call from then on, as a device does that is lost.
func (s *Sim) Launch(f driver.Function, blocks, block driver.Dim, shared uint32, params []byte) error {
	if s.lost != nil {
		return s.lost
	}
	if int(f) < 1 || int(f) > len(s.functions) {
		return driver.NewError("Launch", driver.InvalidValue, "no such function")
	}
	fn := s.functions[f-1]
	threads, most := int(block.X)*int(block.Y)*int(block.Z), 163<<10
	if s.Hopper {
		most = 227 << 10
	}
	switch {
	case threads < 1 || threads > 1024 || blocks.X < 1 || blocks.Y < 1 || blocks.Z < 1 || blocks.X > 1<<31-1 || blocks.Y > 65535 || blocks.Z > 65535:
		return driver.NewError("Launch", driver.InvalidValue, fmt.Sprintf("%s: a grid of %v blocks of %v threads", fn.entry.name, blocks, block))
	case fn.entry.most > 0 && threads > fn.entry.most:
		return driver.NewError("Launch", driver.InvalidValue, fmt.Sprintf("%s: %d threads, it was made for %d", fn.entry.name, threads, fn.entry.most))
	case len(params) != fn.entry.params:
		return driver.NewError("Launch", driver.InvalidValue, fmt.Sprintf("%s: %d bytes of parameters, it has %d", fn.entry.name, len(params), fn.entry.params))
	case fn.entry.shared+int(shared) > most:
		return driver.NewError("Launch", driver.InvalidValue, fmt.Sprintf("%s: %d bytes of shared memory", fn.entry.name, fn.entry.shared+int(shared)))
	}
	s.launches++
	s.dynamic = shared
	if s.count = nil; s.Profile {
		if s.Counts == nil {
			s.Counts = map[string]*Count{}
		}
		if s.count = s.Counts[fn.entry.name]; s.count == nil {
			s.count = &Count{}
			s.Counts[fn.entry.name] = s.count
		}
		s.count.Launches++
		s.count.Blocks += int64(blocks.X) * int64(blocks.Y) * int64(blocks.Z)
		s.count.Threads = int64(threads)
	}
	s.limit = s.Instructions + s.perLaunch
	g := &grid{sim: s, entry: fn.entry, module: fn.module, params: params, blocks: blocks, block: block, threads: threads, launch: s.launches}
	if err := g.run(); err != nil {
		s.lost = driver.NewError("Launch", driver.LaunchFailed, err.Error())
		return s.lost
	}
	return nil
}

// Capture notes launches.
func (s *Sim) Capture(list []driver.Work) (driver.Graph, error) {
	if s.lost != nil {
		return 0, s.lost
	}
	s.events++
	if s.graphs == nil {
		s.graphs = map[driver.Graph][]driver.Work{}
	}
	s.graphs[driver.Graph(s.events)] = append([]driver.Work(nil), list...)
	return driver.Graph(s.events), nil
}

// Replay runs them.
func (s *Sim) Replay(g driver.Graph) error {
	list, ok := s.graphs[g]
	if !ok {
		return driver.NewError("Replay", driver.InvalidValue, "no such graph")
	}
	for _, w := range list {
		if err := s.Launch(w.Function, w.Grid, w.Block, w.Shared, w.Params); err != nil {
			return err
		}
	}
	return nil
}

// Drop forgets them.
func (s *Sim) Drop(g driver.Graph) error { delete(s.graphs, g); return s.lost }

// Record, Elapsed and Release know no time: the interpreter counts instead.
func (s *Sim) Record() (driver.Event, error) {
	s.events++
	return driver.Event(s.events), s.lost
}

// Elapsed is 0.
func (s *Sim) Elapsed(_, _ driver.Event) (float32, error) { return 0, s.lost }

// Release does nothing.
func (s *Sim) Release(driver.Event) error { return s.lost }

// Sync makes the copies that are on their way.
func (s *Sim) Sync() error {
	for e, f := range s.ahead {
		if f == nil {
			continue
		}
		if err := f(); err != nil {
			return err
		}
		s.ahead[e] = nil
	}
	return s.lost
}

// Close gives nothing back: Leaks can still be read.
func (s *Sim) Close() error { return nil }
