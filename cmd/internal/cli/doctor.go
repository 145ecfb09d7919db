package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/reference"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/recipes"
)

type doctorReport struct {
	Version  string            `json:"version"`
	Go       string            `json:"go"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Level    string            `json:"kernel_level"`
	Features []string          `json:"kernel_levels"`
	Peak     cpu.Rates         `json:"peak"`
	Memory   uint64            `json:"memory_bytes"`
	Disk     uint64            `json:"disk_free_bytes"`
	Devices  []device.Entry    `json:"devices"`
	GPUReads []string          `json:"gpu_types_read"`
	GPUMakes []string          `json:"gpu_types_made"`
	Gradient string            `json:"gradient_check"`
	Warnings []string          `json:"warnings,omitempty"`
	Paths    map[string]string `json:"paths"`
}

func doctorCommand() *ucli.Command {
	return &ucli.Command{
		Name: "doctor", Usage: "the machine: kernel level, measured peak and bandwidth, memory, disk, devices, gradient self-check",
		Description: examples("tune doctor", "tune doctor --json | jq .kernel_level"),
		Flags:       []ucli.Flag{jsonFlag()},
		Action: func(c *ucli.Context) error {
			r, err := diagnose(c)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return writeJSON(c, r)
			}
			w := c.App.Writer
			fmt.Fprintf(w, "tune %s (%s)\n%s, %d cores, kernels %s (TUNE_KERNELS chooses)\n", r.Version, r.Go, r.CPU, r.Cores, r.Level)
			fmt.Fprintf(w, "peak %s\n", r.Peak)
			fmt.Fprintf(w, "memory %s available, disk %s free here\n", humanize.IBytes(r.Memory), humanize.Bytes(r.Disk))
			for _, d := range r.Devices {
				state := "usable"
				if !d.Usable {
					state = "not usable"
				}
				fmt.Fprintf(w, "device %s: %s, %s\n", d.Name, state, strings.ReplaceAll(d.Detail, "\n", "; "))
			}
			fmt.Fprintf(w, "on GPUs every method is there; weights may be %s; quantize makes %s\n", strings.Join(r.GPUReads, " "), strings.Join(r.GPUMakes, " "))
			fmt.Fprintf(w, "gradients against the reference engine: %s\n", r.Gradient)
			for _, warn := range r.Warnings {
				fmt.Fprintln(w, "warning: "+warn)
			}
			return nil
		},
	}
}

func diagnose(c *ucli.Context) (*doctorReport, error) {
	dev, err := device.Open("cpu", device.Options{})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	r := &doctorReport{Version: Version, Go: runtime.Version(), CPU: cpuName(), Cores: runtime.NumCPU(), Level: dev.Info().Level, Features: cpu.Supported(),
		Peak: cpu.Measure(), Memory: uint64(device.HostMemory()), Disk: recipes.DiskFree(wd), Devices: device.List(), Paths: map[string]string{}}
	r.GPUReads, r.GPUMakes = device.GPUTypes()
	found, err := reference.Check(dev)
	if err != nil {
		return nil, err
	}
	worst := reference.Finding{}
	for _, f := range found {
		if f.Diff >= worst.Diff {
			worst = f
		}
		if !f.OK() {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s of %s differs by %.1e: results of this machine cannot be trusted", f.Array, f.Layer, f.Diff))
		}
	}
	r.Gradient = fmt.Sprintf("%d arrays, worst relative difference %.1e (%s of %s)", len(found), worst.Diff, worst.Array, worst.Layer)
	if p, err := exec.LookPath("tune"); err == nil {
		r.Paths["tune"] = p
		self, _ := os.Executable()
		a, _ := filepath.EvalSymlinks(p)
		if b, _ := filepath.EvalSymlinks(self); a != b {
			r.Warnings = append(r.Warnings, p+" comes first on PATH and is another program; this one is also installed as tunekit")
		}
	}
	return r, nil
}

func cpuName() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
