package model

import (
	"reflect"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// copying counts the weights that come beside what is computed.
type copying struct {
	*ptxsim.Sim
	ahead int
}

func (c *copying) Ahead(p driver.Ptr, b []byte) (driver.Event, error) {
	c.ahead++
	return c.Sim.Ahead(p, b)
}

// TestStaged: of a GPU whose memory the model does not fit into, blocks come from a
// copy in the host's memory once they were made twice, and before they are asked for.
// Gradients are the same bits as without a limit, which holds, one pass of the counting
// backend sees the peak of several to a few in a hundred, and nothing is left. Without memory of the host the file serves. (On
// the interpreter: no GPU has run it.)
func TestStaged(t *testing.T) {
	nf4, d := dtype.NF4Double, dims{C: 64, V: 64, Layers: 3, H: 2, K: 1, D: 32, F: 64, Tied: true}
	for _, hold := range []*dtype.Type{nil, &nf4} {
		load := func(dev kernels.Backend) *Model {
			m, err := Load(dev, sample(t, d, random(7)), Options{Hold: hold})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		passes := func(m *Model, n int) (out [][][]float32) {
			in := keyed([][]int32{tokens(1, 4, d.V)}, 0)
			params := adapt(t, m, 2, 0.1, random(3))
			m.Dev.ResetCounters()
			for range n {
				out = append(out, grads(t, m, params, 3, in))
			}
			for _, p := range params {
				m.Dev.Free(p.Buffer)
				m.Dev.Free(p.Grad)
			}
			return out
		}
		open := func(limit, staged int64) (*cuda.CUDA, *copying) {
			sim := &copying{Sim: ptxsim.New(1 << 30)}
			dev, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, cuda.Options{MemoryLimit: limit, Staged: staged})
			if err != nil {
				t.Fatal(err)
			}
			return dev, sim
		}
		dev, _ := open(0, 1<<30)
		all := load(dev)
		size := weights(all)
		want := passes(all, 3)
		all.Close()
		dev.Close()
		limit, hosts := size, []int64{1 << 30, size / 3, 0}
		if hold != nil {
			limit, hosts = size*17/10, hosts[:1] // adapters and what lies between products are as large
		}
		for _, host := range hosts {
			dev, sim := open(limit, host)
			counting := dry.New(dry.Options{MemoryLimit: limit, Copies: true, Staged: host, Working: dev.Info().Working})
			var peaks []int64
			for _, b := range []kernels.Backend{counting, dev} {
				m := load(b)
				if !m.Streamed() {
					t.Fatalf("hold %v: the model fits into %d bytes", hold, limit)
				}
				n := 3
				if b == kernels.Backend(counting) {
					n = 1 // as a plan
				}
				if got := passes(m, n); b == kernels.Backend(dev) && !reflect.DeepEqual(got, want) {
					t.Errorf("hold %v, %d bytes of the host: other gradients than without a limit", hold, host)
				}
				peaks = append(peaks, b.Info().PeakTotal)
				m.Close()
				if left := kernels.Total(b.Info().Mem.Now); left != 0 {
					t.Errorf("hold %v, %d bytes of the host: %d bytes are left", hold, host, left)
				}
			}
			if (sim.ahead > 0) != (host > 0) {
				t.Errorf("hold %v, %d bytes of the host: %d weights were brought ahead", hold, host, sim.ahead)
			}
			if near := float64(peaks[0]) / float64(peaks[1]); peaks[1] > limit || near < 0.95 || near > 1.05 {
				t.Errorf("hold %v, %d bytes of the host: the peak is %d, %d are planned, the limit is %d", hold, host, peaks[1], peaks[0], limit)
			}
			t.Logf("hold %v, %d bytes of the host, limit %d: peak %d, planned %d, %d copies ahead", hold, host, limit, peaks[1], peaks[0], sim.ahead)
			dev.Close()
			if n := sim.Leaks(); n != 0 {
				t.Errorf("hold %v, %d bytes of the host: %d bytes are still allocated", hold, host, n)
			}
		}
	}
}

// unpinned has no memory of the host, whatever was promised.
type unpinned struct{ *ptxsim.Sim }

func (unpinned) Pin(int64) ([]byte, error) {
	return nil, driver.NewError("cuMemAllocHost", driver.OutOfMemory, "on purpose")
}

// TestLeaveRoom: blocks that stay make way for those that are brought ahead where two of
// these then fit and their copies have memory of the host; else they stay, and where the
// host has none after all they come back.
func TestLeaveRoom(t *testing.T) {
	d := dims{C: 64, V: 64, Layers: 6, H: 2, K: 1, D: 32, F: 64, Tied: true}
	load := func(sim driver.Driver, limit, staged int64) *Model {
		dev, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return sim, nil }, cuda.Options{MemoryLimit: limit, Staged: staged})
		if err != nil {
			t.Fatal(err)
		}
		m, err := Load(dev, sample(t, d, random(7)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	done := func(m *Model) { m.Close(); m.Dev.Close() }
	all := load(ptxsim.New(1<<30), 0, 0)
	size := weights(all)
	var block int64
	for _, p := range all.Blocks[0].Params {
		block += int64(dtype.Size(all.HeldType(p), p.Rows, p.Cols))
	}
	rest := size - int64(d.Layers)*block
	done(all)
	for _, c := range []struct {
		limit, staged int64
		kept          int
		ahead         bool
	}{
		{rest + 9*block, 1 << 30, 2, true},      // half of what is left holds four
		{rest + 9*block, 4 * block, 2, true},    // copies of those that do not stay
		{rest + 9*block, 4*block - 1, 4, false}, // not of all
		{rest + 9*block, 0, 4, false},           // of none
		{rest + 3*block, 1 << 30, 1, false},     // two never fit
		{rest + 5*block, 1 << 30, 0, true},      // two fit instead of those that stay
	} {
		m := load(ptxsim.New(1<<30), c.limit, c.staged)
		if m.stay.kept != c.kept || m.stay.ahead != c.ahead {
			t.Errorf("%d bytes of the host, a limit of %.1f blocks: %d stay, ahead %v, want %d and %v", c.staged, float64(c.limit-rest)/float64(block), m.stay.kept, m.stay.ahead, c.kept, c.ahead)
		}
		done(m)
	}
	m := load(unpinned{ptxsim.New(1 << 30)}, rest+9*block, 1<<30)
	for range 4 {
		for _, b := range m.Blocks {
			if err := m.Dev.Run(func() error { return m.Acquire(b) }); err != nil {
				t.Fatal(err)
			}
			m.Release(b)
		}
	}
	if n := m.Dev.Info().InUse(); m.stay.kept != 4 || m.stay.ahead || n != rest+4*block {
		t.Errorf("no memory of the host: %d blocks stay, ahead %v, %d bytes in use, want 4 and %d", m.stay.kept, m.stay.ahead, n, rest+4*block)
	}
	done(m)
}
