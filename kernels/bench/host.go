package bench

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// evenly are weights of columns for types that cannot be encoded without.
func evenly(t dtype.Type, cols int) []float32 {
	if !block.NeedsImportance(t.Kind) {
		return nil
	}
	return slices.Repeat([]float32{1}, cols)
}

// encoders are the quantizers, by the bytes of f32 they take in.
func encoders() []row {
	const n, cols = 512, 2048
	var out []row
	for _, t := range []dtype.Type{dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), dtype.Of(dtype.Q4_K), dtype.Of(dtype.Q6_K), dtype.Of(dtype.IQ4_XS),
		dtype.Of(dtype.IQ3_S), dtype.Of(dtype.IQ2_XS), dtype.Of(dtype.IQ1_M), dtype.Of(dtype.TQ2_0), dtype.Of(dtype.NVFP4), dtype.NF4Double, int4(128)} {
		out = append(out, row{"encode", fmt.Sprint(t), func(x *env) op {
			m, v, w := block.New(t, n, cols), noise(n*cols), evenly(t, cols)
			return op{work: 4 * n * cols / 1e6, unit: "MB/s", call: func() {
				if err := block.Encode(m, v, w); err != nil && x.err == nil {
					x.err = err
				}
			}}
		}})
	}
	return out
}

// threads are the cost of handing out work, and what all threads make of it
// against one.
func threads(dev kernels.Backend) []row {
	all := par.Threads()
	if all < 2 {
		return nil
	}
	out := []row{handOut(all, "a job and back, one after another", 0), handOut(all, "a job and back, 2 ms after the last", 2*time.Millisecond)}
	list := append([]row{}, attend("forward and backward", false, true, true), matvecs()[0])
	for _, bf16 := range arithmetics(dev) {
		t := dtype.Of(dtype.F32)
		if bf16 {
			t = dtype.Of(dtype.BF16)
		}
		list = append(list, linear(t, bf16, 512, 1536, 576))
	}
	for _, r := range list {
		out = append(out, row{"threads", fmt.Sprintf("%d against 1: %s", all, r.name), func(x *env) op {
			p := r.setup(x)
			return op{unit: "×", raw: true, call: func() { x.rate = against(x, p, all) }}
		}})
	}
	return out
}

// handOut is the time from handing out a job to having all threads at work on
// it and done.
func handOut(all int, name string, pause time.Duration) row {
	return row{"threads", name, func(x *env) op {
		return op{unit: "µs", raw: true, call: func() {
			best := time.Hour
			for began := time.Now(); time.Since(began) < x.time; {
				time.Sleep(pause)
				var here atomic.Int32
				t := time.Now()
				par.For(all, 1, func(_, _ int) {
					here.Add(1)
					for here.Load() < int32(all) && time.Since(t) < time.Millisecond {
					}
				})
				best = min(best, time.Since(t))
			}
			x.rate = float64(best.Nanoseconds()) / 1e3
		}}
	}}
}

// against is how many times as fast all threads are as one: the best calls of
// alternating rounds.
func against(x *env, p op, all int) float64 {
	defer par.SetThreads(all)
	var best [2]time.Duration
	p.call()
	for began, i := time.Now(), 0; i < 6 || time.Since(began) < 2*x.time; i++ {
		par.SetThreads([]int{1, all}[i%2])
		for range 3 { // the first call after a change wakes new workers
			t := time.Now()
			p.call()
			if d := time.Since(t); best[i%2] == 0 || d < best[i%2] {
				best[i%2] = d
			}
		}
	}
	return best[0].Seconds() / best[1].Seconds()
}
