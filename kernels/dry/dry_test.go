package dry

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestSameCountAsCPU: the dry backend counts what the CPU counts, allocation by
// allocation, and refuses what it refuses.
func TestSameCountAsCPU(t *testing.T) {
	const limit = 100_000
	both := []kernels.Backend{New(Options{MemoryLimit: limit}), cpu.New(cpu.Options{MemoryLimit: limit})}
	var infos [2]kernels.Info
	var errs [2]error
	for i, b := range both {
		a, _ := b.Alloc(kernels.Activations, dtype.Of(dtype.F32), 1001)
		w, err := b.Load(kernels.Weights, dtype.NF4Double, 70, 64, make([]byte, dtype.Size(dtype.NF4Double, 70, 64)), kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.Load(kernels.Mapped, dtype.Of(dtype.Q4_K), 1000, 256, make([]byte, 144_000), kernels.Borrow)
		if err != nil {
			t.Fatal(err)
		}
		b.Free(a)
		b.Free(b.Slice(mustAlloc(t, b), 3, 4))
		_, errs[i] = b.Alloc(kernels.Gradients, dtype.Of(dtype.F32), 30_000)
		infos[i] = b.Info()
		b.Free(w.Buffer)
		b.Free(m.Buffer)
	}
	if infos[0].Mem != infos[1].Mem || infos[0].PeakTotal != infos[1].PeakTotal {
		t.Errorf("dry %+v peak %d, cpu %+v peak %d", infos[0].Mem, infos[0].PeakTotal, infos[1].Mem, infos[1].PeakTotal)
	}
	for i, err := range errs {
		var e *kernels.MemoryError
		if !errors.As(err, &e) || !errors.Is(err, kernels.ErrOutOfMemory) || e.Asked != 120_000 || e.Limit != limit || e.Purpose != kernels.Gradients {
			t.Errorf("backend %d: %v", i, err)
		}
	}
}

func mustAlloc(t *testing.T, b kernels.Backend) kernels.Buffer {
	x, err := b.Alloc(kernels.Optimizer, dtype.Of(dtype.I64), 100)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestAttentionWork counts visible pairs by brute force.
func TestAttentionWork(t *testing.T) {
	for _, window := range []int{0, 1, 5, 100} {
		d := New(Options{})
		seq := []int32{0, 7, 7, 30}
		p := make([]byte, 16)
		for i, v := range seq {
			binary.LittleEndian.PutUint32(p[4*i:], uint32(v))
		}
		sb, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.I32), 4)
		d.Upload(sb, p)
		q, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.F32), 30*4*8)
		h := kernels.Heads{Buffer: q, Tok: 32, Head: 8}
		d.Attention(h, nil, h, h, h, &kernels.AttnArgs{N: 30, H: 4, K: 4, Dk: 8, Seq: sb, Window: window})
		pairs := 0
		for s := 1; s < len(seq); s++ {
			for i := range seq[s] - seq[s-1] {
				for j := range i + 1 {
					if window == 0 || int(i-j) < window {
						pairs++
					}
				}
			}
		}
		if got, want := d.Work().Attention, float64(4*4*8*pairs); got != want {
			t.Errorf("window %d: %v operations, want %v", window, got, want)
		}
	}
}

// TestLinearWork: skipped gradients cost nothing.
func TestLinearWork(t *testing.T) {
	d := New(Options{})
	w, _ := d.Load(kernels.Weights, dtype.Of(dtype.Q4_0), 64, 32, nil, kernels.Copy)
	x, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.F32), 10*64)
	d.LinearBackward(kernels.To(x), kernels.Dst{}, kernels.Dst{}, x, &kernels.LinearArgs{N: 10, X: x, W: w})
	if got := d.Work().Matrix; got != 2*10*64*32 {
		t.Errorf("%v operations", got)
	}
	// Two experts of 32 rows: each row of x meets one of them.
	group, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.I32), 3)
	d.Linear(kernels.To(x), &kernels.LinearArgs{N: 10, X: x, W: w, Group: group, Experts: 2})
	if got := d.Work().Matrix; got != 3*10*64*32 {
		t.Errorf("%v operations with those of experts", got)
	}
	if d.Calls()["LinearBackward"] != 1 {
		t.Errorf("calls %v", d.Calls())
	}
	defer func() {
		if recover() == nil {
			t.Error("a buffer too small was accepted")
		}
	}()
	d.Linear(kernels.To(x), &kernels.LinearArgs{N: 11, X: x, W: w})
}
