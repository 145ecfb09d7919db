package cuda

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/kerneltest"
)

// timed is a device with a clock, on which a launch takes so many times as long as one of a kernel whose
// name has own in it, and is not of those of few rows.
type timed struct {
	*ptxsim.Sim
	own         string
	times, now  float32
	events      map[driver.Event]float32
	quick       map[driver.Function]bool
	from, other string // a change in the code of these kernels
}

// newTimed is one; times 0: its clock goes back.
func newTimed(own string, times float32) *timed {
	d := &timed{Sim: ptxsim.New(1 << 30), own: own, times: times, events: map[driver.Event]float32{}, quick: map[driver.Function]bool{}}
	if times == 0 {
		d.times = -1
	}
	return d
}

func (d *timed) Load(ptx []byte) (driver.Module, error) {
	if d.from != "" && bytes.Contains(ptx, []byte(".entry "+d.own)) {
		ptx = bytes.ReplaceAll(ptx, []byte(d.from), []byte(d.other))
	}
	return d.Sim.Load(ptx)
}

func (d *timed) Function(m driver.Module, name string) (driver.Function, error) {
	f, err := d.Sim.Function(m, name)
	d.quick[f] = strings.Contains(name, d.own) && !strings.HasPrefix(name, "thin_")
	return f, err
}

func (d *timed) Launch(f driver.Function, grid, block driver.Dim, shared uint32, params []byte) error {
	if d.quick[f] {
		d.now++
	} else {
		d.now += d.times
	}
	return d.Sim.Launch(f, grid, block, shared, params)
}

func (d *timed) Record() (driver.Event, error) {
	e, err := d.Sim.Record()
	d.events[e] = d.now
	return e, err
}

func (d *timed) Elapsed(a, b driver.Event) (float32, error) { return d.events[b] - d.events[a], nil }

// TestGroupsChosen: products of warpgroups are used where they are asked for, where the earlier run used them, or where they
// are clearly faster and compute right; what was chosen is part of the level; and what cannot be is said by name.
func TestGroupsChosen(t *testing.T) {
	smallProbes(t)
	anyGroup(t)
	t.Setenv(LibraryVariable, "0")
	t.Setenv(Int8Variable, "0")
	for _, c := range []struct {
		env         string
		times       float32
		from, other string
		earlier     string
		level       string // "": an error of exit code code
		code        int
		says        string
	}{
		{"", 2, "", "", "", "sm_90a", 0, "our own large products by warpgroups (2.00 times as fast as mma; TUNE_WGMMA=0"},
		{"auto", 1.05, "", "", "", "sm_90", 0, "1.05 times as fast as mma, more than 1.1 is needed; TUNE_WGMMA=1 takes them"},
		{"0", 2, "", "", "", "sm_90", 0, "no products of warpgroups (TUNE_WGMMA=0)"},
		{"1", 1, "", "", "sm_90", "sm_90a", 0, "(TUNE_WGMMA=1)"},
		{"2", 1, "", "", "", "", int(fail.Usage), "TUNE_WGMMA=2: known are 0, 1 and auto"},
		{"", 0, "", "", "", "sm_90", 0, "could not be compared: the device has no clock"},
		{"", 1, "", "", "sm_90a", "sm_90a", 0, "(this run was begun with them)"},
		{"", 2, "", "", "sm_90+cublasLt-13.1.0", "sm_90", 0, "(this run was begun without them)"},
		{"", 2, "setp.ne.b32 %on, 1, 0;", "setp.ne.b32 %on, 0, 0;", "", "sm_90", 0, "wgmma computes wrong: element "},
		{"1", 2, "setp.ne.b32 %on, 1, 0;", "setp.ne.b32 %on, 0, 0;", "", "", int(fail.Limit), "wgmma computes wrong: element "},
		{"", 2, "setp.ne.b32 %on, 1, 0;", "setp.ne.b32 %on, 0, 0;", "sm_90a", "", int(fail.Limit), "wgmma computes wrong: element "},
		{"", 2, "fence.proxy.async;", "", "", "", int(fail.Limit), "products of warpgroups were tried: "},
	} {
		what := fmt.Sprintf("%q, %v times, %q, %q", c.env, c.times, c.from, c.earlier)
		t.Setenv(GroupsVariable, c.env)
		measured.Clear()
		d := newTimed("wgmma", c.times)
		d.Hopper, d.from, d.other = true, c.from, c.other
		b, err := OpenOn("cuda:0", func() (driver.Driver, error) { return d, nil }, Options{Level: c.earlier})
		switch {
		case c.level == "":
			if fail.Code(err) != c.code || !strings.Contains(fail.Hint(err), "TUNE_WGMMA") && c.code != int(fail.Usage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v (exit %d, hint %q), want %q", what, err, fail.Code(err), fail.Hint(err), c.says)
			}
		case err != nil:
			t.Errorf("%s: %v", what, err)
		default:
			if in := b.Info(); in.Level != c.level || in.Address != "cuda/"+c.level || !strings.Contains(b.Describe(), c.says) {
				t.Errorf("%s: level %q, %q, want %q with %q", what, in.Level, b.Describe(), c.level, c.says)
			}
			b.Close()
		}
		if n := d.Leaks(); err == nil && n != 0 {
			t.Errorf("%s: %d bytes are still allocated", what, n)
		}
	}
	t.Setenv(GroupsVariable, "1")
	if _, err := OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, Options{}); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "has compute capability 8.0") {
		t.Errorf("on a device of 8.0: %v", err)
	}
}

// anyGroup gives products of any size to warpgroups.
func anyGroup(t *testing.T) {
	b, l := busy, leastGroups
	t.Cleanup(func() { busy, leastGroups = b, l })
	busy, leastGroups.m, leastGroups.n = 1, 0, 0
}

// TestGroups runs the methods that multiply on interpreted kernels, all by warpgroups.
func TestGroups(t *testing.T) {
	anyGroup(t)
	c, sim := interpreted(t)
	sim.Hopper, sim.Profile, c.groups.on = true, true, true
	kerneltest.RunPart(t, c, there(kerneltest.Part{Most: 6000, MostBF16: 1 << 18, Only: []string{"Linear", "Experts", "Half", "Gemm", "Gram", "LogProb"}}))
	c.Close()
	n := 0
	for name, k := range sim.Counts {
		if strings.HasPrefix(name, "wgmma_") {
			n += int(k.Launches)
		}
		if strings.HasPrefix(name, "mma_") {
			t.Errorf("%d launches of %s", k.Launches, name)
		}
	}
	if n < 40 {
		t.Errorf("%d products by warpgroups", n)
	}
}

// smallProbes compares the library by products that the interpreter has time for, and
// gives it products of any size.
func smallProbes(t *testing.T) {
	p, n, rows, probe, int8 := probes, leastLibrary, leastSolver, probeSolver, probeInt8
	t.Cleanup(func() {
		probes, leastLibrary, leastSolver, probeSolver, probeInt8 = p, n, rows, probe, int8
		measured.Clear()
	})
	probeInt8.m, probeInt8.n, probeInt8.k = 24, 32, 64
	leastLibrary, leastSolver, probeSolver = 0, 0, 24
	for _, s := range probes {
		s.m, s.n, s.k = 24, 32, 40
		probes = append(probes[:0:0], s, s, s)
	}
	measured.Clear()
}
