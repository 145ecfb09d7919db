// Package device chooses a compute backend by name.
package device

import (
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// Options of a device.
type Options struct {
	Threads     int   // of the CPU; 0: as many as GOMAXPROCS allows
	MemoryLimit int64 // bytes; 0: none
}

// Open returns the backend called name: "cpu", "auto" or "" (the fastest there
// is), or "cuda:N". An unknown name is a usage error; a device that cannot be
// used here is a limit error that says why.
func Open(name string, o Options) (kernels.Backend, error) {
	switch name {
	case "", "auto", "cpu":
		if err := cpu.CheckLevel(); err != nil {
			return nil, fail.Usagef("device", "unset TUNE_KERNELS to let the program choose", "%w", err)
		}
		return cpu.New(cpu.Options{Threads: o.Threads, MemoryLimit: o.MemoryLimit}), nil
	}
	if n, ok := strings.CutPrefix(name, "cuda"); ok && (n == "" || isIndex(strings.TrimPrefix(n, ":"))) {
		return nil, fail.Limitf("device", "use device: cpu", "%s asked, but this build has no CUDA backend, so no GPU can be used", name)
	}
	return nil, fail.Usagef("device", "devices are auto, cpu and cuda:N", "no device is called %q", name)
}

func isIndex(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0
}

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
		{Name: "cuda", Detail: "this build has no CUDA backend"},
	}
}
