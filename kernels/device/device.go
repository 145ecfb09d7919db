// Package device opens a compute backend by name. It is the only package above
// the backends that knows which there are; everybody else holds a
// kernels.Backend.
package device

import (
	"math"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/cuda"
)

// NoLimit as a MemoryLimit lets a backend take all the memory there is.
const NoLimit = math.MaxInt64

// Options of a device. A field that a backend has no use for is ignored.
type Options struct {
	Threads     int   // of the CPU; 0: as many as GOMAXPROCS allows
	MemoryLimit int64 // bytes of the host's memory; 0: the backend decides (on the CPU 0.9 of the memory that is available)
	// DeviceMemoryLimit is bytes of a GPU's own memory; 0: 0.95 of what is free.
	DeviceMemoryLimit int64
	// Level of earlier results (kernels.Info.Level), to go on with: taken where
	// the processor has it and TUNE_KERNELS forces none; on a GPU of the same
	// architecture with the libraries that it names, whose lack is an error, where
	// TUNE_CUBLAS and TUNE_CUSOLVER force nothing. "": the backend's choice.
	Level string
}

// Open returns the backend called name: "cpu", "auto" or "" (the CPU, until the
// backend of GPUs has been tried on one), or "cuda:N". The caller closes it. An unknown name is a usage error; a
// device that cannot be used here is a limit error that says why. No kernel may
// be running: threads and kernel level of the CPU belong to the process.
func Open(name string, o Options) (kernels.Backend, error) {
	switch name {
	case "", "auto", "cpu":
		if err := cpu.CheckLevel(); err != nil {
			return nil, fail.Usagef("device", "unset TUNE_KERNELS to let the program choose", "%w", err)
		}
		cpu.PreferLevel(o.Level)
		if o.MemoryLimit == 0 {
			o.MemoryLimit = cpu.DefaultLimit()
		}
		return cpu.New(cpu.Options{Threads: o.Threads, MemoryLimit: o.MemoryLimit, Process: true}), nil
	}
	if index, ok := gpuIndex(name); ok {
		heap, pinned := hostShares(o.MemoryLimit, cpu.AvailableMemory())
		if heap > 0 {
			debug.SetMemoryLimit(heap)
		}
		c, err := cuda.Open(index, cuda.Options{MemoryLimit: o.DeviceMemoryLimit, Staged: pinned, Graphs: true, Level: o.Level})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, fail.Usagef("device", "devices are auto, cpu and cuda:N", "no device is called %q", name)
}

// hostShares is what of the host's memory the program beside a GPU keeps to, 0 where
// nothing limits it, and what may be pinned: half of the limit, or of what is available,
// each in bytes and 0 where there is none or it is unknown. Of what is unknown the driver
// refuses what it has not.
func hostShares(limit, available int64) (heap, pinned int64) {
	if limit > 0 && limit != NoLimit {
		return limit - limit/2, limit / 2
	}
	if available > 0 {
		return 0, available / 2
	}
	return 0, NoLimit
}

// gpuIndex is the number of cuda:N; cuda is cuda:0.
func gpuIndex(name string) (int, bool) {
	if name == "cuda" {
		return 0, true
	}
	digits, ok := strings.CutPrefix(name, "cuda:")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0
}

// OfRank is the name of a rank's device, where that of rank 0 is called name: GPUs follow
// each other, the CPU is for all.
func OfRank(name string, rank int) string {
	if index, ok := gpuIndex(name); ok {
		return "cuda:" + strconv.Itoa(index+rank)
	}
	return name
}

// HostMemory is what this process may still take of the host's memory, in
// bytes; 0 when unknown.
func HostMemory() int64 { return cpu.AvailableMemory() }

// Entry is one device that Open knows.
type Entry struct {
	Name   string
	Usable bool
	Detail string // kernel level and threads, or why it is not usable
}

// List describes the devices of this machine.
func List() []Entry {
	in := cpu.New(cpu.Options{}).Info()
	return []Entry{
		{Name: "cpu", Usable: true, Detail: "kernels " + in.Level + ", " + strconv.Itoa(in.Threads) + " threads"},
		gpu(),
	}
}

// GPUTypes lists the names of the storage types that the backend of GPUs reads, and
// of those that it makes of values; whether there is a GPU does not matter.
func GPUTypes() (read, made []string) {
	r, m := cuda.Types()
	for _, k := range r {
		read = append(read, k.String())
	}
	for _, k := range m {
		made = append(made, k.String())
	}
	return read, made
}

// gpu describes the first GPU, or says why there is none.
func gpu() Entry {
	c, err := cuda.Open(0, cuda.Options{})
	if err != nil {
		return Entry{Name: "cuda:0", Detail: strings.TrimPrefix(err.Error(), "cuda:0: ")}
	}
	defer c.Close()
	return Entry{Name: "cuda:0", Usable: true, Detail: c.Describe() + "; this backend has not been tried on a GPU yet"}
}
