package cuda

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// failing is a device of which call number n of one kind fails; with lost every
// later call fails, too.
type failing struct {
	*ptxsim.Sim
	kind  string
	n     int
	code  int
	lost  bool
	calls map[string]int
	gone  error
}

func (f *failing) call(kind string) error {
	f.calls[kind]++
	if f.gone != nil {
		return f.gone
	}
	if kind != f.kind || f.calls[kind] != f.n {
		return nil
	}
	err := driver.NewError(kind, f.code, "on purpose")
	if f.lost {
		f.gone = err
	}
	return err
}

func (f *failing) Load(ptx []byte) (driver.Module, error) {
	if err := f.call("Load"); err != nil {
		return 0, err
	}
	return f.Sim.Load(ptx)
}

func (f *failing) Function(m driver.Module, name string) (driver.Function, error) {
	if err := f.call("Function"); err != nil {
		return 0, err
	}
	return f.Sim.Function(m, name)
}

func (f *failing) Alloc(n int64) (driver.Ptr, error) {
	if err := f.call("Alloc"); err != nil {
		return 0, err
	}
	return f.Sim.Alloc(n)
}

func (f *failing) ToDevice(p driver.Ptr, b []byte) error {
	return errors.Join(f.call("ToDevice"), f.Sim.ToDevice(p, b))
}

func (f *failing) ToHost(b []byte, p driver.Ptr) error {
	return errors.Join(f.call("ToHost"), f.Sim.ToHost(b, p))
}

func (f *failing) Launch(fn driver.Function, blocks, block driver.Dim, shared uint32, params []byte) error {
	if err := f.call("Launch"); err != nil {
		return err
	}
	return f.Sim.Launch(fn, blocks, block, shared, params)
}

func (f *failing) Sync() error { return errors.Join(f.call("Sync"), f.Sim.Sync()) }

// step is what a training step does to a device: memory, bytes in, products, a
// loss with scratch memory, bytes out.
func step(c *CUDA) error {
	var bufs []kernels.Buffer
	defer func() {
		for _, b := range bufs {
			c.Free(b)
		}
	}()
	return c.Run(func() error {
		alloc := func(p kernels.Purpose, k dtype.Kind, n int) (kernels.Buffer, error) {
			b, err := c.Alloc(p, dtype.Of(k), n)
			if err == nil {
				bufs = append(bufs, b)
			}
			return b, err
		}
		w, err := c.Load(kernels.Weights, dtype.Of(dtype.F32), 4, 4, kernels.Bytes(make([]float32, 16)), kernels.Copy)
		if err != nil {
			return err
		}
		bufs = append(bufs, w.Buffer)
		x, err := alloc(kernels.Activations, dtype.F32, 600)
		if err != nil {
			return err
		}
		c.Upload(x, kernels.Bytes(make([]float32, 600)))
		y, err := alloc(kernels.Gradients, dtype.F32, 4000)
		if err != nil {
			return err
		}
		target, err := alloc(kernels.Optimizer, dtype.I32, 3)
		if err != nil {
			return err
		}
		c.Upload(target, kernels.Bytes([]int32{1, 2, 3}))
		c.Linear(kernels.To(c.Slice(y, 0, 12)), &kernels.LinearArgs{N: 3, X: x, W: w})
		c.LogProb(&kernels.LogProbOut{LogP: c.Slice(y, 12, 3)}, kernels.Dst{}, kernels.Dst{}, kernels.Dst{}, &kernels.LogProbArgs{N: 3, X: x, W: w, Target: target})
		return c.Download(make([]byte, 4*15), c.Slice(y, 0, 15))
	})
}

// TestEveryFailure: whichever call fails, Run returns an error of exit code 4
// that says what, nothing hangs, and a device that only had no memory goes on.
func TestEveryFailure(t *testing.T) {
	t.Setenv(Int8Variable, "0") // which launches nothing of its own
	for _, c := range []struct {
		kind string
		code int
		lost bool
	}{{"Alloc", driver.OutOfMemory, false}, {"Alloc", driver.IllegalAddress, true}, {"Load", driver.InvalidPTX, false}, {"Function", driver.NotFound, false},
		{"ToDevice", driver.IllegalAddress, true}, {"Launch", driver.LaunchFailed, true}, {"ToHost", driver.IllegalAddress, true}, {"Sync", driver.LaunchFailed, true}} {
		n := 1
		for ; ; n++ {
			f := &failing{Sim: ptxsim.New(1 << 20), kind: c.kind, n: n, code: c.code, lost: c.lost, calls: map[string]int{}}
			dev, err := OpenOn("cuda:0", func() (driver.Driver, error) { return f, nil }, Options{})
			if err != nil {
				t.Fatal(err)
			}
			err = step(dev)
			if f.calls[c.kind] < n {
				if err != nil {
					t.Errorf("%s: nothing failed, and %v", c.kind, err)
				}
				dev.Close()
				break
			}
			what := fmt.Sprintf("%s %d of code %d", c.kind, n, c.code)
			var de *driver.Error
			if fail.Code(err) != int(fail.Limit) || fail.Hint(err) == "" || !errors.As(err, &de) || de.Code != c.code || !strings.Contains(err.Error(), "cuda:0: ") {
				t.Errorf("%s: %v (exit %d)", what, err, fail.Code(err))
			}
			memory := c.code == driver.OutOfMemory
			if errors.Is(err, kernels.ErrOutOfMemory) != memory {
				t.Errorf("%s: %v counts as out of memory: %v", what, err, !memory)
			}
			if c.kind == "Alloc" && !strings.Contains(err.Error(), " bytes for ") {
				t.Errorf("%s: %v does not say for what", what, err)
			}
			again := step(dev)
			switch {
			case memory && again != nil:
				t.Errorf("%s: afterwards %v", what, again)
			case !memory && (again == nil || again.Error() != err.Error()):
				t.Errorf("%s: afterwards %v, not the first error", what, again)
			}
			if in := dev.Info().Mem.Now; in != [kernels.NumPurposes]int64{} {
				t.Errorf("%s: still in use %v", what, in)
			}
			dev.Close()
		}
		if n < 2 {
			t.Errorf("%s is never called", c.kind)
		}
	}
}

// A limit refuses by itself, and names purpose and bytes.
func TestLimit(t *testing.T) {
	sim := ptxsim.New(1 << 20)
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, Options{MemoryLimit: 10000})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := c.Alloc(kernels.Weights, dtype.Of(dtype.F32), 2000)
	if err != nil {
		t.Fatal(err)
	}
	var me *kernels.MemoryError
	if _, err := c.Alloc(kernels.Gradients, dtype.Of(dtype.F32), 1000); !errors.As(err, &me) || me.Purpose != kernels.Gradients || me.Asked != 4000 || me.Limit != 10000 {
		t.Errorf("%v", err)
	}
	c.Free(a)
	if _, err := c.Alloc(kernels.Gradients, dtype.Of(dtype.F32), 1000); err != nil {
		t.Error(err)
	}
}

// Freed blocks of other sizes are given back where the device has no more.
func TestKeptMemoryGoesBack(t *testing.T) {
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 20), nil }, Options{MemoryLimit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := 100; n < 200000; n *= 2 {
		b, err := c.Alloc(kernels.Weights, dtype.Of(dtype.F32), n)
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		c.Free(b)
	}
}

// What is not there yet ends the step with an error that names it.
func TestLacking(t *testing.T) {
	c, _ := interpreted(t)
	defer c.Close()
	for name, call := range map[string]func(){
		"the gated delta rule with 300 numbers": func() {
			c.DeltaScan(kernels.Heads{}, kernels.Heads{}, kernels.Heads{}, kernels.Heads{}, &kernels.DeltaArgs{H: 1, K: 1, Dk: 300, Dv: 4})
		},
		"a selective scan with 257 numbers": func() {
			c.SSMScan(kernels.Heads{}, kernels.Heads{}, kernels.Heads{}, kernels.Heads{}, &kernels.SSMArgs{H: 1, G: 1, P: 1, S: 257})
		},
		"a matrix of F64": func() {
			m, err := c.Load(kernels.Weights, dtype.Of(dtype.F64), 1, 256, nil, kernels.Copy)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Free(m.Buffer)
			c.Dequantize(nil, m)
		},
	} {
		err := c.Run(func() error { call(); return nil })
		if fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "on a GPU yet") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
