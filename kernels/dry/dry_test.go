package dry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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

// ints uploads values to d.
func ints(d *Dry, v ...int32) kernels.Buffer {
	p := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(p[4*i:], uint32(x))
	}
	b, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(v))
	d.Upload(b, p)
	return b
}

// TestAttentionWork counts visible pairs by brute force.
func TestAttentionWork(t *testing.T) {
	for _, a := range []kernels.AttnArgs{{}, {Window: 1}, {Window: 5}, {Window: 100}, {Full: true}, {Full: true, Window: 3, Ahead: 2}, {Chunk: 4}, {NKV: 25}, {NKV: 25, Full: true, Dv: 3}} {
		d := New(Options{})
		seq, keys := []int32{0, 7, 7, 30}, []int32{0, 7, 7, 30}
		if a.NKV > 0 {
			keys = []int32{0, 2, 4, 25}
			a.SeqKV = ints(d, keys...)
		}
		a.N, a.H, a.K, a.Dk, a.Seq = 30, 4, 4, 8, ints(d, seq...)
		q, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.F32), 30*4*8)
		h := kernels.Heads{Buffer: q, Tok: 32, Head: 8}
		d.Attention(h, nil, h, h, h, &a)
		pairs := 0
		for s := 1; s < len(seq); s++ {
			n, of := int(seq[s]-seq[s-1]), int(keys[s]-keys[s-1])
			for i := of - n; i < of; i++ {
				for j := range of {
					if (j <= i || a.Full) && (a.Window == 0 || i-j < a.Window) && (a.Ahead == 0 || j-i <= a.Ahead) && (a.Chunk == 0 || i/a.Chunk == j/a.Chunk) {
						pairs++
					}
				}
			}
		}
		want := float64(2 * 4 * (8 + a.Values()) * pairs)
		if got := d.Work().Attention; got != want {
			t.Errorf("%+v: %v operations, want %v", a, got, want)
		}
		d.AttentionBackward(&kernels.AttnGrads{Q: h, K: h, V: h}, h, h, nil, h, h, h, &a)
		if got, back := d.Work().Attention-want, float64(2*4*(3*8+2*a.Values())*pairs); got != back {
			t.Errorf("%+v: %v operations back, want %v", a, got, back)
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

// TestScratchAsCPU: what products and the loss take on the CPU while they run is what
// is counted: with a second pair, a bias, dropout, sums in bf16, and rows without a target.
func TestScratchAsCPU(t *testing.T) {
	real := cpu.New(cpu.Options{})
	counting := New(Options{Working: real.Info().Working})
	same := func(what string, op func(b kernels.Backend)) {
		t.Helper()
		var peaks [2]int64
		for i, b := range []kernels.Backend{counting, real} {
			b.ResetCounters()
			op(b)
			peaks[i] = b.Info().Mem.Peak[kernels.Scratch]
		}
		if peaks[0] != peaks[1] {
			t.Errorf("%s: %d bytes of scratch are counted, %d are taken", what, peaks[0], peaks[1])
		}
	}
	take := func(b kernels.Backend, k dtype.Kind, n int) kernels.Buffer {
		x, err := b.Alloc(kernels.Activations, dtype.Of(k), n)
		if err != nil {
			t.Fatal(err)
		}
		b.Upload(x, make([]byte, n*k.Info().Bytes))
		return x
	}
	mat := func(b kernels.Backend, rows, cols int) kernels.Mat {
		return kernels.Mat{Buffer: take(b, dtype.F32, rows*cols), Rows: rows, Cols: cols, Of: rows}
	}
	for _, s := range []struct{ n, in, out, rank int }{{512, 576, 576, 16}, {40, 5000, 33, 8}, {300, 70, 1536, 0}, {1100, 64, 40, 4}} {
		for _, bf16 := range []bool{false, true} {
			for _, kind := range []dtype.Kind{dtype.F32, dtype.BF16} {
				for _, add := range []bool{false, true} {
					what := fmt.Sprintf("%+v bf16 %v, result %v added %v", s, bf16, kind, add)
					same(what, func(b kernels.Backend) {
						a := &kernels.LinearArgs{N: s.n, X: take(b, dtype.F32, s.n*s.in), W: mat(b, s.out, s.in), BF16: bf16}
						if s.rank > 0 {
							a.U, a.B = take(b, dtype.F32, s.n*s.rank), mat(b, s.out, s.rank)
						} else {
							a.Bias = take(b, dtype.F32, s.out)
						}
						b.Linear(kernels.Dst{Buffer: take(b, kind, s.n*s.out), Add: add}, a)
					})
					for _, drop := range []*kernels.Drop{nil, {P: 0.5}} {
						same(fmt.Sprint("gradients of ", what, " dropped ", drop != nil), func(b kernels.Backend) {
							a := &kernels.LinearArgs{N: s.n, W: mat(b, s.out, s.in), BF16: bf16}
							if s.rank > 0 {
								a.U, a.B = take(b, dtype.F32, s.n*s.rank), mat(b, s.rank, s.in)
							}
							if drop != nil {
								a.Drop = &kernels.Drop{P: drop.P, Key: take(b, dtype.I64, s.n)}
							}
							b.LinearBackward(kernels.Dst{Buffer: take(b, kind, s.n*s.in), Add: add}, kernels.Dst{}, kernels.Dst{}, take(b, dtype.F32, s.n*s.out), a)
						})
					}
				}
			}
		}
	}
	for _, s := range []struct{ n, answered, v, c int }{{512, 512, 8192, 64}, {512, 256, 8192, 64}, {700, 650, 300, 40}, {20, 0, 50, 8}, {530, 530, 40, 3000}} {
		for i := range 8 {
			bf16, dx, dw := i&1 != 0, i&2 != 0, i&4 != 0
			same(fmt.Sprintf("loss %+v bf16 %v dx %v dw %v", s, bf16, dx, dw), func(b kernels.Backend) {
				target := make([]byte, 4*s.n)
				for i := s.answered; i < s.n; i++ {
					binary.LittleEndian.PutUint32(target[4*i:], math.MaxUint32)
				}
				a := &kernels.LogProbArgs{N: s.n, X: take(b, dtype.F32, s.n*s.c), W: mat(b, s.v, s.c), Target: take(b, dtype.I32, s.n), Coef: take(b, dtype.F32, s.n), BF16: bf16}
				b.Upload(a.Target, target)
				var to [2]kernels.Dst
				if dx {
					to[0] = kernels.To(take(b, dtype.F32, s.n*s.c))
				}
				if dw {
					to[1] = kernels.To(take(b, dtype.F32, s.v*s.c))
				}
				b.LogProb(&kernels.LogProbOut{LogP: take(b, dtype.F32, s.n)}, to[0], to[1], kernels.Dst{}, a)
			})
		}
	}
}
