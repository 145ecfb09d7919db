package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// flashCase is attention of bf16.
type flashCase struct {
	seq, seqKV    []int32 // seqKV nil: seq
	h, k, d, dv   int     // dv 0: d
	window, chunk int
	ahead, p      int
	softCap       float32
	full, sinks   bool
	odd           bool // heads at no multiple of 16 bytes
	size, grad    int  // of the heads that kernels on tensor cores are made for; 0: the others compute it
}

// attention computes o, lse and the gradients of it, in f32 where bf16 is false.
func (f *flashCase) attention(t *testing.T, c *CUDA, bf16 bool) (out [][]float32, err error) {
	t.Helper()
	rng := rand.New(rand.NewPCG(21, 22))
	seqKV := f.seqKV
	if seqKV == nil {
		seqKV = f.seq
	}
	dv := f.dv
	if dv == 0 {
		dv = f.d
	}
	n, keys := int(f.seq[len(f.seq)-1]), int(seqKV[len(seqKV)-1])
	ints := func(x []int32) kernels.Buffer {
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(x))
		if err != nil {
			t.Fatal(err)
		}
		c.Upload(b, kernels.Bytes(x))
		return b
	}
	heads := func(n, h, d int) kernels.Heads {
		off := 0
		if f.odd {
			off = 2
		}
		b, _ := halfBuffer(t, c, rng, dtype.BF16, n*h*d+off)
		return kernels.Heads{Buffer: b, Off: off, Tok: h * d, Head: d}
	}
	result := func(n, h, d int) kernels.Heads {
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n*h*d)
		if err != nil {
			t.Fatal(err)
		}
		c.Fill(b, 0.5)
		return kernels.Heads{Buffer: b, Tok: h * d, Head: d, Add: h == f.k}
	}
	a := &kernels.AttnArgs{N: n, NKV: keys, H: f.h, K: f.k, Dk: f.d, Dv: f.dv, Seq: ints(f.seq), SeqKV: ints(seqKV), Scale: float32(1.3 / math.Sqrt(float64(f.d))),
		Window: f.window, Chunk: f.chunk, Ahead: f.ahead, SoftCap: f.softCap, Full: f.full, BF16: bf16}
	if f.sinks {
		a.Sinks = upload(t, c, normals(rng, f.h))
	}
	if f.p > 0 {
		pick := make([]int32, n*f.p)
		for i := range pick {
			pick[i] = int32(i % f.p)
		}
		a.Pick, a.P = ints(pick), f.p
	}
	q, k, v, do := heads(n, f.h, f.d), heads(keys, f.k, f.d), heads(keys, f.k, dv), heads(n, f.h, dv)
	o, lse := result(n, f.h, dv), upload(t, c, make([]float32, n*f.h))
	g := &kernels.AttnGrads{Q: result(n, f.h, f.d), K: result(keys, f.k, f.d), V: result(keys, f.k, dv)}
	err = c.Run(func() error {
		c.Attention(o, lse, q, k, v, a)
		c.AttentionBackward(g, do, o, lse, q, k, v, a)
		for _, b := range []kernels.Buffer{o.Buffer, lse, g.Q.Buffer, g.K.Buffer, g.V.Buffer} {
			x := make([]float32, b.Len())
			if err := c.Download(kernels.Bytes(x), b); err != nil {
				return err
			}
			out = append(out, x)
		}
		return nil
	})
	return out, err
}

// compare returns where attention on tensor cores is not that of the plain kernels on the
// same numbers, but for the rounding of weights and gradients of scores.
func (f *flashCase) compare(t *testing.T, c *CUDA) error {
	t.Helper()
	got, err := f.attention(t, c, true)
	if err != nil {
		return err
	}
	want, err := f.attention(t, c, false)
	if err != nil {
		return err
	}
	for i, name := range []string{"o", "lse", "dq", "dk", "dv"} {
		var sq float64
		n := 0
		for _, x := range want[i] {
			if !math.IsInf(float64(x), 0) {
				sq, n = sq+float64(x)*float64(x), n+1
			}
		}
		rms, tol := math.Sqrt(sq/float64(max(n, 1))), 0x1p-5
		switch name {
		case "o":
			tol = 0x1p-6
		case "lse":
			tol = 1e-5
		}
		for j, x := range want[i] {
			if d := math.Abs(float64(got[i][j]) - float64(x)); x != got[i][j] && !(d <= tol*math.Max(math.Abs(float64(x)), rms)+1e-6) {
				return fmt.Errorf("wrong: %s: element %d is %v, want %v", name, j, got[i][j], x)
			}
		}
	}
	return nil
}

// TestFlash: attention of bf16 on tensor cores is that of the plain kernels on the same
// numbers, but for the rounding of weights and gradients of scores, whatever a token sees;
// without bank conflicts, and by the kernels that are meant.
func TestFlash(t *testing.T) {
	for _, f := range []flashCase{
		{seq: []int32{0, 100}, h: 2, k: 1, d: 64, size: 64, grad: 64},
		{seq: []int32{0, 20, 20, 21, 100}, h: 2, k: 2, d: 32, size: 64, grad: 64},
		{seq: []int32{0, 140}, h: 1, k: 1, d: 128, window: 40, size: 128, grad: 128},
		{seq: []int32{0, 66}, h: 2, k: 1, d: 112, dv: 40, size: 128, grad: 128},
		{seq: []int32{0, 30, 80}, h: 2, k: 1, d: 48, softCap: 2, sinks: true, size: 64, grad: 64},
		{seq: []int32{0, 120}, h: 1, k: 1, d: 64, chunk: 50, window: 30, size: 64, grad: 64},
		{seq: []int32{0, 70}, h: 2, k: 2, d: 64, full: true, size: 64, grad: 64},
		{seq: []int32{0, 100}, h: 1, k: 1, d: 64, full: true, ahead: 9, window: 20, size: 64, grad: 64},
		{seq: []int32{0, 2, 20}, seqKV: []int32{0, 70, 79}, h: 2, k: 1, d: 64, full: true, size: 64, grad: 64},
		{seq: []int32{0, 7, 30}, seqKV: []int32{0, 80, 89}, h: 2, k: 1, d: 64, size: 64, grad: 64},
		{seq: []int32{0, 9, 70}, seqKV: []int32{0, 5, 8}, h: 2, k: 1, d: 64, sinks: true, size: 64, grad: 64},
		{seq: []int32{0, 66}, h: 1, k: 1, d: 256, size: 256},
		{seq: []int32{0, 40}, h: 1, k: 1, d: 192, dv: 128, size: 256},
		{seq: []int32{0, 20}, h: 1, k: 1, d: 264},
		{seq: []int32{0, 20}, h: 1, k: 1, d: 20},
		{seq: []int32{0, 20}, h: 1, k: 1, d: 32, odd: true},
		{seq: []int32{0, 20}, h: 1, k: 1, d: 32, p: 5},
	} {
		c, sim := interpreted(t)
		sim.Profile, sim.Reverse = true, f.h > 1
		if err := f.compare(t, c); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		c.Close()
		wanted := []string{"attention"}
		if f.size > 0 {
			wanted = []string{fmt.Sprintf("flash_%d", f.size), "attn_rows"}
		}
		if f.grad > 0 {
			wanted = append(wanted, fmt.Sprintf("flash_grad_q_%d", f.grad), fmt.Sprintf("flash_grad_kv_%d", f.grad))
		} else {
			wanted = append(wanted, "attn_grad_q", "attn_grad_kv")
		}
		var ran []string // beside the plain kernels, which run for the comparison
		for name, n := range sim.Counts {
			if strings.HasPrefix(name, "flash") || name == "attn_rows" || n.Launches == 2 && strings.HasPrefix(name, "attention") || n.Launches == 2 && strings.HasPrefix(name, "attn_grad") {
				ran = append(ran, name)
			}
			if strings.HasPrefix(name, "flash") && (n.SharedPasses != n.SharedLeast || n.Tensor == 0) {
				t.Errorf("%+v: %s: %d passes over banks, %d are enough; %d products", f, name, n.SharedPasses, n.SharedLeast, n.Tensor)
			}
		}
		slices.Sort(ran)
		slices.Sort(wanted)
		if !slices.Equal(ran, wanted) {
			t.Errorf("%+v: ran %v, want %v", f, ran, wanted)
		}
	}
}
