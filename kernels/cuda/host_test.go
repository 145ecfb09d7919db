package cuda

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// pinning counts waits and what is given back; room is what the host has, 0: enough.
type pinning struct {
	*ptxsim.Sim
	room          int64
	syncs, nulled int
}

func (p *pinning) AllocHost(n int64) (driver.Ptr, error) {
	if p.room > 0 && p.Leaks()+n > p.room {
		return 0, driver.NewError("cuMemAllocHost", driver.OutOfMemory, "on purpose")
	}
	return p.Sim.AllocHost(n)
}

func (p *pinning) FreeHost(at driver.Ptr) error {
	if at == 0 {
		p.nulled++
	}
	return p.Sim.FreeHost(at)
}

func (p *pinning) Sync() error { p.syncs++; return p.Sim.Sync() }

func openPinning(t *testing.T, staged, room int64) (*CUDA, *pinning) {
	sim := &pinning{Sim: ptxsim.New(1 << 24), room: room}
	c, err := OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, Options{Staged: staged})
	if err != nil {
		t.Fatal(err)
	}
	return c, sim
}

// TestHostLengths: inputs of blocks whose rows are others in every micro-batch fit into
// pinned memory that holds those of one; the same length again waits for nothing; an empty
// buffer takes none. The counting backend refuses what the device does.
func TestHostLengths(t *testing.T) {
	t.Setenv(Int8Variable, "0") // which launches nothing of its own
	const blocks = 4
	for _, room := range []int64{0, blocks * 120 << 10} {
		staged := int64(blocks * 120 << 10)
		if room > 0 {
			staged = 1 << 40 // and the driver refuses
		}
		c, sim := openPinning(t, staged, room)
		counting := dry.New(dry.Options{Copies: true, Staged: int64(blocks * 120 << 10)})
		batch := func(b kernels.Backend, rows int) error {
			var bufs []kernels.Buffer
			defer func() {
				for _, x := range bufs {
					b.Free(x)
				}
			}()
			for range blocks {
				x, err := b.Alloc(kernels.Host, dtype.Of(dtype.F32), 64*rows)
				if err != nil {
					return err
				}
				bufs = append(bufs, x)
			}
			return nil
		}
		for rows := 0; rows <= 440; rows += 11 {
			for _, b := range []kernels.Backend{c, counting} {
				if err := batch(b, rows); err != nil {
					t.Fatalf("room %d, %d rows: %v", room, rows, err)
				}
			}
			before := sim.syncs
			if err := batch(c, rows); err != nil || sim.syncs != before {
				t.Fatalf("room %d, %d rows again: %v, %d waits", room, rows, err, sim.syncs-before)
			}
			if n := sim.Leaks(); n > blocks*120<<10 {
				t.Fatalf("room %d, %d rows: %d bytes are pinned", room, rows, n)
			}
		}
		for _, b := range []kernels.Backend{c, counting} {
			var short *kernels.MemoryError
			if err := batch(b, 600); !errors.Is(err, kernels.ErrOutOfMemory) || (room == 0 || b != kernels.Backend(c)) && (!errors.As(err, &short) || !short.Pinned() || short.Least() != 4*64*4*600) {
				t.Errorf("room %d, %s: %v (least %v)", room, b.Info().Name, err, short)
			}
			if in := b.Info(); in.InUse() != 0 || in.PeakTotal != 0 || in.Mem.Now[kernels.Host] != 0 {
				t.Errorf("%s: %d bytes of the device's memory, at most %d, %d of the host's", in.Name, in.InUse(), in.PeakTotal, in.Mem.Now[kernels.Host])
			}
		}
		for _, b := range []kernels.Backend{c, counting} { // what the caller holds is not pinned
			if release, err := b.Host(1 << 30); err != nil || b.Info().Mem.Now[kernels.Host] != 0 {
				t.Errorf("%s: the caller's memory: %v", b.Info().Name, err)
			} else {
				release()
			}
		}
		c.Close()
		if sim.nulled > 0 || sim.Leaks() != 0 {
			t.Errorf("room %d: %d bytes left, address 0 was given back %d times", room, sim.Leaks(), sim.nulled)
		}
	}
}

// TestStagedGoes: copies of weights, which save time, make room for what must be in the
// host's memory, the latest first and while one of them is on its way; what is gone is
// marked, and its release does nothing. The counting backend has the same left.
func TestStagedGoes(t *testing.T) {
	const size = 4 << 10
	c, sim := openPinning(t, 4*size, 0)
	counting := dry.New(dry.Options{Copies: true, Staged: 4 * size})
	for _, b := range []kernels.Backend{c, counting} {
		dev := b.(kernels.Stager)
		var copies []*kernels.Staged
		data := bytes.Repeat([]byte{7, 1, 2, 3}, size/4)
		m, err := b.Load(kernels.Weights, dtype.Of(dtype.F32), 32, 32, data, kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		for {
			s := dev.Stage(size)
			if s == nil {
				break
			}
			dev.Save(s, m.Buffer)
			copies = append(copies, s)
		}
		w, err := dev.LoadStaged(kernels.Weights, dtype.Of(dtype.F32), 32, 32, copies[3])
		if err != nil || len(copies) != 4 {
			t.Fatalf("%d copies, %v", len(copies), err)
		}
		host, err := b.Alloc(kernels.Host, dtype.Of(dtype.U8), size+1) // of the size of five quarters
		if err != nil {
			t.Fatal(err)
		}
		if copies[0].Gone || copies[1].Gone || !copies[2].Gone || !copies[3].Gone {
			t.Errorf("%s: of four copies those gone are %v %v %v %v, want the last two", b.Info().Name, copies[0].Gone, copies[1].Gone, copies[2].Gone, copies[3].Gone)
		}
		got := make([]byte, size)
		if err := b.Download(got, w.Buffer); err != nil || b == kernels.Backend(c) && !bytes.Equal(got, data) {
			t.Errorf("the weight that was on its way: %v", err)
		}
		if dev.Stage(size) != nil {
			t.Errorf("%s: a copy took what is Host", b.Info().Name)
		}
		for _, s := range copies {
			s.Release()
		}
		b.Free(host)
		var again []*kernels.Staged
		for s := dev.Stage(size / 2); s != nil; s = dev.Stage(size / 2) {
			again = append(again, s)
		}
		if want := map[bool]int{true: 5, false: 8}[b == kernels.Backend(c)]; len(again) != want { // the device keeps the block
			t.Errorf("%s: %d copies afterwards, want %d", b.Info().Name, len(again), want)
		}
		b.Free(m.Buffer)
		b.Free(w.Buffer)
		if err := b.Run(func() error { return nil }); err != nil {
			t.Error(err)
		}
		for _, s := range again {
			s.Release()
		}
	}
	c.Close()
	if sim.Leaks() != 0 {
		t.Errorf("%d bytes are left", sim.Leaks())
	}
}
