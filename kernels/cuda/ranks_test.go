//go:build !nodl

package cuda

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// withRanks is the interpreter beside the stand-in of NCCL, whose stream is never idle
// where busy is set.
type withRanks struct {
	*ptxsim.Sim
	lib  string
	busy bool
}

func (w *withRanks) Idle() (bool, error) { return !w.busy, nil }

func (w *withRanks) Ranks() (driver.Ranks, error) {
	lib, err := driver.OpenNccl(2, w.lib)
	if err != nil {
		return nil, err
	}
	return &copied{lib, w, 0}, nil
}

// copied gathers copies of what the interpreter's memory holds.
type copied struct {
	driver.Ranks
	w    *withRanks
	size int
}

func (c *copied) Join(id []byte, rank, size int) error {
	c.size = size
	return c.Ranks.Join(id, rank, size)
}

func (c *copied) AllGather(dst, src driver.Ptr, n int64) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	own, all := make([]byte, n), make([]byte, int64(c.size)*n)
	pin.Pin(&own[0])
	pin.Pin(&all[0])
	if err := c.w.ToHost(own, src); err != nil {
		return err
	}
	if err := c.Ranks.AllGather(driver.Ptr(uintptr(unsafe.Pointer(&all[0]))), driver.Ptr(uintptr(unsafe.Pointer(&own[0]))), n); err != nil {
		return err
	}
	return c.w.ToDevice(dst, all)
}

// fakeNccl builds the stand-in; set gives it words.
func fakeNccl(t *testing.T) (lib string, set func(string)) {
	t.Helper()
	return standIn(t, "fakenccl.c", "libnccl.so.2", "fakeNcclSet")
}

func (w *withRanks) open(t *testing.T) *CUDA {
	t.Helper()
	w.Sim = ptxsim.New(1 << 30)
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return w, nil }, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gatherOn connects the devices and gathers once; the errors are those of the ranks.
func gatherOn(t *testing.T, devices []*CUDA, alive func() error) []error {
	const n = 40
	errs := make([]error, len(devices))
	way, err := devices[0].RanksWay()
	if err != nil {
		t.Fatal(err)
	}
	if way != "nccl-2.27.3" {
		t.Errorf("the way is %s", way)
	}
	id, err := devices[0].RanksID()
	if err != nil {
		return []error{err}
	}
	var wg sync.WaitGroup
	for rank, c := range devices {
		wg.Go(func() {
			errs[rank] = func() error {
				if _, err := c.RanksWay(); err != nil {
					return err
				}
				if err := c.JoinRanks(id, rank, len(devices), alive); err != nil {
					return err
				}
				b, err := c.Alloc(kernels.Scratch, dtype.Of(dtype.F32), len(devices)*n)
				if err != nil {
					return err
				}
				defer c.Free(b)
				c.Fill(c.Slice(b, rank*n, n), float32(rank)+0.1)
				if err := c.GatherRanks(b, rank, n, alive); err != nil {
					return err
				}
				got := make([]float32, len(devices)*n)
				if err := c.Download(kernels.Bytes(got), b); err != nil {
					return err
				}
				for i, v := range got {
					if want := float32(i/n) + 0.1; v != want {
						t.Errorf("rank %d: element %d is %v, want %v", rank, i, v, want)
						break
					}
				}
				return c.LeaveRanks()
			}()
		})
	}
	wg.Wait()
	return errs
}

// TestGatherRanks: every rank has the rows of all; each call of the library that fails is
// an error of exit 4 that names it, on the rank where it fails, and the device can be
// closed; a rank that is gone ends the wait of another.
func TestGatherRanks(t *testing.T) {
	lib, set := fakeNccl(t)
	t.Setenv(RanksVariable, "")
	living := func() error { return nil }
	for _, ranks := range []int{2, 3} {
		var devices []*CUDA
		for range ranks {
			devices = append(devices, (&withRanks{lib: lib}).open(t))
		}
		for range 2 { // it can be done again
			if err := errors.Join(gatherOn(t, devices, living)...); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range devices {
			c.Close()
			if n := c.Info().Mem.Now[kernels.Scratch]; n != 0 {
				t.Errorf("%d bytes are left", n)
			}
		}
	}
	for _, symbol := range []string{"ncclGetUniqueId", "ncclCommInitRank", "ncclAllGather", "ncclCommGetAsyncError", "ncclCommDestroy"} {
		devices := []*CUDA{(&withRanks{lib: lib}).open(t), (&withRanks{lib: lib}).open(t)}
		set("fail=" + symbol + ":1:5")
		for rank, err := range gatherOn(t, devices, living) {
			if fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), symbol+" failed with NCCL_FAKE_5 (5)") || !strings.Contains(fail.Hint(err), "TUNE_NCCL=0") {
				t.Errorf("%s fails: rank %d says %v", symbol, rank, err)
			}
		}
		set("")
		for _, c := range devices {
			c.Close()
		}
	}
	gone := errors.New("it is gone")
	devices := []*CUDA{(&withRanks{lib: lib, busy: true}).open(t), (&withRanks{lib: lib, busy: true}).open(t)}
	var mu sync.Mutex
	asked := 0
	for rank, err := range gatherOn(t, devices, func() error {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked > 10 {
			return gone
		}
		return nil
	}) {
		if err != gone {
			t.Errorf("a rank is gone: rank %d says %v", rank, err)
		}
		if err := devices[rank].Run(func() error { return nil }); !errors.Is(err, gone) {
			t.Errorf("a rank is gone: the device of rank %d goes on: %v", rank, err)
		}
		devices[rank].Close()
	}

	// One rank alone waits for the others, which never come.
	c := (&withRanks{lib: lib}).open(t)
	if _, err := c.RanksWay(); err != nil {
		t.Fatal(err)
	}
	id, err := c.RanksID()
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(strings.TrimRight(string(id[:120]), "\x00")) // by which the stand-in still waits
	if err := c.JoinRanks(id, 0, 2, func() error { return gone }); err != gone {
		t.Errorf("nobody comes: %v", err)
	}
	if err := c.Run(func() error { return nil }); err != gone {
		t.Errorf("nobody came: the device goes on: %v", err)
	}
	for range 2000 { // more than the queue holds
		c.post("nothing", func(driver.Driver) error { return nil })
	}
	c.Close()
}

// The environment decides, and doctor says what was found.
func TestRanksWay(t *testing.T) {
	lib, _ := fakeNccl(t)
	for _, x := range []struct {
		env, lib string
		code     int // 0: a way, or an error that does not matter
		says     string
	}{
		{"", lib, 0, "gradients of several GPUs by nccl-2.27.3 of " + lib},
		{"1", lib, 0, "gradients of several GPUs by nccl-2.27.3 of " + lib},
		{"0", lib, 0, "gradients of several GPUs in the host's memory (TUNE_NCCL=0)"},
		{"auto", "/nowhere/libnccl.so.2", 0, "gradients of several GPUs in the host's memory (NCCL is not there: no library could be loaded; looked for /nowhere/"},
		{"1", "/nowhere/libnccl.so.2", int(fail.Limit), "TUNE_NCCL=1, but NCCL is not there"},
		{"2", lib, int(fail.Usage), "TUNE_NCCL=2: known are 0, 1 and auto"},
	} {
		t.Setenv(RanksVariable, x.env)
		c := (&withRanks{lib: x.lib}).open(t)
		_, err := c.RanksWay()
		var told *fail.Error
		if errors.As(err, &told) != (x.code != 0) || x.code != 0 && fail.Code(err) != x.code || !strings.Contains(c.Describe(), x.says) {
			t.Errorf("%q, %s: %v; %s", x.env, x.lib, err, c.Describe())
		}
		c.Close()
	}
}
