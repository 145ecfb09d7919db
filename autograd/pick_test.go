package autograd_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// picked are the keys that token i picks of the first i+1, in ascending order.
func picked(q, k, w []float64, s autograd.PickSpec, i int) []int32 {
	sums := make([]float64, i+1)
	list := make([]int32, i+1)
	for j := range sums {
		list[j] = int32(j)
		for h := range s.H {
			sums[j] += w[h] * math.Max(0, dot(q[h*s.D:][:s.D], k[j*s.D:][:s.D]))
		}
	}
	slices.SortStableFunc(list, func(a, b int32) int {
		switch {
		case sums[a] > sums[b]:
			return -1
		case sums[a] < sums[b]:
			return 1
		}
		return 0
	})
	list = list[:min(s.P, len(list))]
	slices.Sort(list)
	return list
}

// agree compares what tokens from … of a sequence picked, [n, P], with its own scores.
// What a token may not see does not count.
func agree(t *testing.T, got []int32, q, k, w []float64, s autograd.PickSpec, from int) {
	t.Helper()
	for n := 0; n*s.P < len(got); n++ {
		i := from + n
		var own []int32
		for _, j := range got[n*s.P:][:s.P] {
			if j >= 0 && int(j) <= i {
				own = append(own, j)
			}
		}
		slices.Sort(own)
		if want := picked(q[i*s.H*s.D:], k, w[i*s.H:], s, i); !slices.Equal(own, want) {
			t.Fatalf("token %d picks %v, want %v", i, own, want)
		}
	}
}

func ints(t *testing.T, tape *autograd.Tape, x *autograd.Tensor) []int32 {
	t.Helper()
	v := make([]int32, x.Data.Len())
	if err := tape.Err(); err != nil {
		t.Fatal(err)
	}
	tape.Dev.Download(kernels.Bytes(v), x.Data)
	return v
}

// Tokens pick the keys with the largest sums: of two sequences in one call, one of
// them too long for its scores to be held at a time, and one that sees all it has.
func TestPick(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	const long, short = 600, 3
	const n = long + short
	s := autograd.PickSpec{H: 64, D: 2, P: 5}
	q, k, w := normal(r, n*s.H*s.D), normal(r, n*s.D), normal(r, n*s.H)
	tape := &autograd.Tape{Dev: cpu.New(cpu.Options{})}
	defer tape.Free()
	s.Runs = []autograd.PickRun{{To: short, Keys: short}, {From: short, To: n, First: short, Keys: long}}
	up := func(v []float64, from, to, cols int) *autograd.Tensor {
		return tape.Upload(single(v[from*cols:to*cols]), to-from, cols)
	}
	got := ints(t, tape, tape.Pick(up(q, 0, n, s.H*s.D), up(k, 0, n, s.D), up(w, 0, n, s.H), s))
	agree(t, got[:short*s.P], q, k, w, s, 0)
	lq, lk, lw := q[short*s.H*s.D:], k[short*s.D:], w[short*s.H:]
	agree(t, got[short*s.P:], lq, lk, lw, s, 0)

	// A cache, filled piece by piece, gives the same.
	const slot, most = 1, 40
	s.Keys = &kernels.KV{Keys: tape.New(2 * most * s.D).Data, Slots: 2, Max: most, K: 1, Dk: s.D}
	for at, size := 0, 0; at < most; at += size {
		size = min([]int{3, 7, 1, 12}[at%4], most-at)
		slots, pos := make([]int32, size), make([]int32, size)
		for i := range size {
			slots[i], pos[i] = slot, int32(at+i)
		}
		keys := up(lk, at, at+size, s.D)
		tape.CacheAppend(s.Keys, keys, nil, tape.Upload(slots, size), tape.Upload(pos, size))
		s.Runs = []autograd.PickRun{{To: size, First: slot, Keys: at + size}}
		pick := tape.Pick(up(lq, at, at+size, s.H*s.D), keys, up(lw, at, at+size, s.H), s)
		if pick == nil {
			if at+size > s.P {
				t.Errorf("nothing picked of %d keys", at+size)
			}
			continue
		}
		agree(t, ints(t, tape, pick), lq, lk, lw, s, at)
	}
}
