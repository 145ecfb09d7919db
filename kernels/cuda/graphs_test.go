package cuda

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// counting counts what starts kernels; with broken it captures none.
type counting struct {
	*ptxsim.Sim
	broken                     bool
	launches, captured, replay int
	dropped                    int
}

func (c *counting) Launch(f driver.Function, grid, block driver.Dim, shared uint32, params []byte) error {
	c.launches++
	return c.Sim.Launch(f, grid, block, shared, params)
}

func (c *counting) Capture(list []driver.Work) (driver.Graph, error) {
	if c.captured++; c.broken {
		return 0, driver.NewError("cuStreamEndCapture", 901, "on purpose")
	}
	return c.Sim.Capture(list)
}

func (c *counting) Replay(g driver.Graph) error { c.replay++; return c.Sim.Replay(g) }

func (c *counting) Drop(g driver.Graph) error { c.dropped++; return c.Sim.Drop(g) }

// TestGraphs: launches that repeat are captured when they come a second time and started
// at once from then on; others, that begin as those do or end before them, are started
// one by one; and where nothing can be captured all are, and the device says so. The
// numbers are the same.
func TestGraphs(t *testing.T) {
	t.Setenv(Int8Variable, "0") // which launches nothing of its own
	const n = 10
	run := func(on, broken bool) ([][]float32, *counting, string) {
		sim := &counting{Sim: ptxsim.New(1 << 24), broken: broken}
		c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, Options{Graphs: on})
		if err != nil {
			t.Fatal(err)
		}
		x, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n)
		if err != nil {
			t.Fatal(err)
		}
		var out [][]float32
		for _, step := range []struct {
			value float32 // of x before
			adds  int     // x += x
			last  float32 // what is added in the end; 0: nothing
		}{{1, 9, 0}, {2, 9, 0}, {3, 9, 0}, {4, 9, 0}, {5, 9, 1}, {6, 8, 0}, {7, 9, 0}, {8, 12, 0}, {9, 12, 0}, {10, 12, 0}, {11, 9, 0}, {12, 2, 0}} {
			got := make([]float32, n)
			if err := c.Run(func() error {
				c.Upload(x, kernels.Bytes(slices.Repeat([]float32{step.value}, n)))
				for range step.adds {
					c.Add(kernels.Into(x), &kernels.AddArgs{N: n, A: x, Alpha: 1})
				}
				if step.last != 0 {
					c.Add(kernels.Into(x), &kernels.AddArgs{N: n, A: x, Alpha: step.last / 2})
				}
				return c.Download(kernels.Bytes(got), x)
			}); err != nil {
				t.Fatal(err)
			}
			out = append(out, got)
		}
		says := c.Describe()
		c.Close()
		return out, sim, says
	}
	want, plain, _ := run(false, false)
	if want[2][0] != 3*512 || plain.captured != 0 || plain.launches != 9*6+10+8+12*3+2 {
		t.Fatalf("without graphs: %v, %d launches", want[2], plain.launches)
	}
	got, sim, says := run(true, false)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("with graphs: %v, want %v", got, want)
	}
	// Steps 3, 4, 7 and 11 are the run of 9, step 10 that of 12; all others are started.
	if sim.captured != 2 || sim.replay != 5 || sim.dropped != 2 || sim.launches != plain.launches-4*9-12 || strings.Contains(says, "graphs") {
		t.Errorf("%d captured, %d replayed, %d given back, %d launches, %q", sim.captured, sim.replay, sim.dropped, sim.launches, says)
	}
	got, sim, says = run(true, true)
	if fmt.Sprint(got) != fmt.Sprint(want) || sim.captured != 1 || sim.launches != plain.launches {
		t.Errorf("that cannot be captured: %v, %d launches", got, sim.launches)
	}
	if !strings.Contains(says, "which makes no graphs of kernels: cuStreamEndCapture failed with") {
		t.Errorf("the device says %q", says)
	}
}

// TestGraphsBounded: a run of many launches is several graphs; where the graphs have too
// many launches together those that were not replayed for longest make room for others,
// but work that repeats, and is more than all may be, keeps those it has; the numbers are
// those of single launches.
func TestGraphsBounded(t *testing.T) {
	t.Setenv(Int8Variable, "0") // which launches nothing of its own
	const n, steps = 10, mostLaunches + 40
	sim := &counting{Sim: ptxsim.New(1 << 24)}
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, Options{Graphs: true})
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n)
	if err != nil {
		t.Fatal(err)
	}
	pass := func(adds int, by float32) {
		t.Helper()
		got := make([]float32, n)
		if err := c.Run(func() error {
			c.Upload(x, kernels.Bytes(slices.Repeat([]float32{1}, n)))
			for range adds {
				c.Add(kernels.To(x), &kernels.AddArgs{N: n, A: x, Alpha: by})
			}
			return c.Download(kernels.Bytes(got), x)
		}); err != nil {
			t.Fatal(err)
		}
		want := float32(1)
		for range adds {
			want *= by
		}
		if got[0] != want {
			t.Fatalf("%d times %v: %v, want %v", adds, by, got[0], want)
		}
	}
	for range 3 {
		pass(steps, -1)
	}
	if sim.captured != 2 || sim.replay != 2 || sim.launches != 2*steps {
		t.Errorf("a run of %d launches: %d captured, %d replayed, %d launches", steps, sim.captured, sim.replay, sim.launches)
	}
	// Graphs of so many launches take long to make: they are said to be there.
	room := allLaunches - 20
	c.wait(func(driver.Driver) error { c.graphs.size += room - steps; return nil })
	for range 3 {
		pass(10, 1)
	}
	for range 3 {
		pass(10, -2)
	}
	if sim.captured != 4 || sim.dropped != 0 {
		t.Fatalf("up to the bound: %d captured, %d given back", sim.captured, sim.dropped)
	}
	for range 3 { // the two of -1 were not replayed since
		pass(10, 2)
	}
	if sim.captured != 5 || sim.dropped != 1 {
		t.Errorf("beyond the bound: %d captured, %d given back, want 5 and 1", sim.captured, sim.dropped)
	}
	sim.captured, sim.dropped = 0, 0
	c.wait(func(driver.Driver) error { c.graphs.size = allLaunches; return nil })
	before := sim.launches
	for range 4 {
		pass(40, -1) // the first part of the run was given back, this one was not
		pass(10, 1)
		pass(10, -2)
		pass(10, 2)
		pass(10, 3)
	}
	if started := sim.launches - before; started != 4*10 || sim.captured != 0 || sim.dropped != 0 {
		t.Errorf("more work than graphs: %d launches, %d captured, %d given back, want 40 and none", started, sim.captured, sim.dropped)
	}
	c.Free(x)
	c.Close()
	if sim.Leaks() != 0 {
		t.Errorf("%d bytes are left", sim.Leaks())
	}
}
