package cpu

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Tokens of many slots have the bits of each alone, whose tasks take one key head.
func TestCachedTogether(t *testing.T) {
	const slots, most, h, k, d = 9, 20, 6, 3, 16
	c := New(Options{})
	rng := rand.New(rand.NewPCG(7, 8))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	kv := &kernels.KV{Slots: slots, Max: most, K: k, Dk: d, Keys: upload(t, c, random(slots*most*k*d)), Values: upload(t, c, random(slots*most*k*d))}
	q := upload(t, c, random(slots*h*d))
	attend := func(first, n int) []float32 {
		var slot, pos []int32
		for i := first; i < first+n; i++ {
			slot, pos = append(slot, int32(i)), append(pos, int32(2*i+1))
		}
		o := upload(t, c, make([]float32, n*h*d))
		c.KVAttention(kernels.Heads{Buffer: o, Tok: h * d, Head: d}, kernels.Heads{Buffer: q, Off: first * h * d, Tok: h * d, Head: d}, kv,
			&kernels.KVAttnArgs{N: n, H: h, Scale: 0.25, Slot: tokens(t, c, slot), Pos: tokens(t, c, pos)})
		return f32(o)
	}
	all := attend(0, slots)
	for i := range slots {
		if alone := attend(i, 1); !slices.Equal(alone, all[i*h*d:][:h*d]) {
			t.Errorf("slot %d has other values in company", i)
		}
	}
}

// tokens is ids as a buffer.
func tokens(t testing.TB, c *CPU, v []int32) kernels.Buffer {
	t.Helper()
	x, err := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), len(v))
	if err != nil {
		t.Fatal(err)
	}
	copy(i32(x), v)
	return x
}

// BenchmarkCached attends from 16 single tokens to 200 positions each of 30 caches, which
// are not near: a step of SmolLM2's answers side by side.
func BenchmarkCached(b *testing.B) {
	const slots, most, layers, h, k, d = 16, 256, 30, 9, 3, 64
	c := New(Options{})
	var kvs []*kernels.KV
	for range layers {
		kvs = append(kvs, &kernels.KV{Slots: slots, Max: most, K: k, Dk: d, Keys: benchBuffer(b, c, slots*most*k*d), Values: benchBuffer(b, c, slots*most*k*d)})
	}
	var slot, pos []int32
	for i := range slots {
		slot, pos = append(slot, int32(i)), append(pos, 199)
	}
	heads := func() kernels.Heads {
		return kernels.Heads{Buffer: benchBuffer(b, c, slots*h*d), Tok: h * d, Head: d}
	}
	q, o := heads(), heads()
	args := &kernels.KVAttnArgs{N: slots, H: h, Scale: 0.125, Slot: tokens(b, c, slot), Pos: tokens(b, c, pos)}
	bytes := float64(layers * slots * 200 * k * d * 2 * 4)
	best := time.Hour
	for b.Loop() {
		t := time.Now()
		for _, kv := range kvs {
			c.KVAttention(o, q, kv, args)
		}
		best = min(best, time.Since(t))
	}
	b.ReportMetric(bytes/best.Seconds()/1e9, "GB/s")
}
