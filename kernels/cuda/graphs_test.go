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
