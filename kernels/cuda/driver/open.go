package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dl"
)

// Libraries are where NVIDIA's driver is looked for: as the system finds it,
// under WSL 2, and in containers.
var Libraries = []string{"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1"}

// MinCUDA is the oldest version whose driver reads our PTX (8.4), MinMajor the
// oldest compute capability that it is made for.
const (
	MinCUDA  = 12040
	MinMajor = 8
)

// Open returns device index of the driver library that the first of libs leads
// to (none: Libraries). The thread must be locked and stay the caller's. Every
// error is a limit error (exit 4) that says what was looked for or found.
func Open(index int, libs ...string) (Driver, error) {
	name := fmt.Sprintf("cuda:%d", index)
	if len(libs) == 0 {
		libs = Libraries
	}
	lib, err := dl.Open(libs...)
	var missing *dl.NotFound
	switch {
	case errors.As(err, &missing) && !missing.Built:
		return nil, fail.Limitf(name, "use the build of this program that can open libraries (make build), or device: cpu", "no GPU can be used: %v", err)
	case err != nil:
		return nil, fail.Limitf(name, "install NVIDIA's driver 550 or newer (in a container: start it with its GPUs), or use device: cpu",
			"NVIDIA's driver library is not there\n%v", err)
	}
	c := &cuda{lib: lib}
	if err := c.bind(); err != nil {
		return nil, fail.Limitf(name, "install NVIDIA's driver 550 or newer, or use device: cpu", "the driver cannot be used: %w", err)
	}
	if err := c.open(index); err != nil {
		return nil, err
	}
	return c, nil
}

// find sets functions to those of a library by their names, and returns the names of what it
// lacks; "" for nothing.
func find(lib *dl.Lib, symbols map[string]*dl.Func) string {
	var lacking []string
	for name, f := range symbols {
		var err error
		if *f, err = lib.Sym(name); err != nil {
			lacking = append(lacking, name)
		}
	}
	slices.Sort(lacking)
	return strings.Join(lacking, ", ")
}

// bind finds every function in the library.
func (c *cuda) bind() error {
	lacking := find(c.lib, c.symbols())
	if lacking == "" {
		return nil
	}
	version := "of unknown version"
	if c.driverGetVersion != 0 {
		if v, err := c.version(); err == nil {
			version = "for CUDA " + versionText(v)
		}
	}
	return fmt.Errorf("%s (a driver %s) lacks %s", c.lib.Path, version, lacking)
}

// open starts the driver and makes the device's primary context current.
func (c *cuda) open(index int) error {
	name, hint := fmt.Sprintf("cuda:%d", index), "see what nvidia-smi lists, or use device: cpu"
	if err := c.check("cuInit", c.init.Call(0)); err != nil {
		return fail.Limitf(name, hint, "the driver does not start: %w", err)
	}
	v, err := c.version()
	if err != nil {
		return fail.Limitf(name, hint, "the driver does not say its version: %w", err)
	}
	if v < MinCUDA {
		return fail.Limitf(name, "install NVIDIA's driver 550 or newer, or use device: cpu", "the driver is for CUDA %s, %s or newer is needed", versionText(v), versionText(MinCUDA))
	}
	n, err := c.count()
	if err != nil {
		return fail.Limitf(name, hint, "the driver lists no devices: %w", err)
	}
	if index >= n {
		return fail.Limitf(name, hint, "there is no such device: the driver lists %d (CUDA_VISIBLE_DEVICES may hide some)", n)
	}
	if err := c.describe(index, v); err != nil {
		return fail.Limitf(name, hint, "the device cannot be described: %w", err)
	}
	if c.info.Major < MinMajor {
		return fail.Limitf(name, "use a GPU of Ampere (2020) or later, or device: cpu", "%s has compute capability %d.%d, %d.0 is the least", c.info.Name, c.info.Major, c.info.Minor, MinMajor)
	}
	if err := c.start(); err != nil {
		return fail.Limitf(name, hint, "%s cannot be used: %w", c.info.Name, err)
	}
	return nil
}

func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }
