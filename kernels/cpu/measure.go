package cpu

import (
	"fmt"
	"runtime"
	"time"

	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// Rates are what this machine reaches, all threads together unless said.
type Rates struct {
	F32      float64 `json:"f32_gflops"`    // fused multiply-adds of one core, on registers
	BF16     float64 `json:"bf16_gflops"`   // bf16 dot products of one core; 0: the level has none
	ReadGBps float64 `json:"read_gb_per_s"` // streaming from memory
	Threads  int     `json:"threads"`
}

// Measure takes about half a second. Without AVX-512 only the bandwidth is
// measured.
func Measure() Rates {
	r := Rates{Threads: par.Threads()}
	if level.Current() >= level.AVX512 {
		r.F32 = bestPeak(false)
	}
	if level.Current() == level.AVX512BF16 {
		r.BF16 = bestPeak(true)
	}
	const n = 64 << 20 / 4
	buf := make([]float32, n*max(1, r.Threads))
	for i := range buf {
		buf[i] = 1
	}
	runtime.GC()
	best := time.Duration(0)
	for range 4 {
		t := time.Now()
		par.For(len(buf)/(1<<16), 16, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				sink(vec.Sum(buf[i<<16 : (i+1)<<16]))
			}
		})
		if d := time.Since(t); best == 0 || d < best {
			best = d
		}
	}
	r.ReadGBps = float64(4*len(buf)) / best.Seconds() / 1e9
	return r
}

//go:noinline
func sink(float32) {}

// bestPeak is the best of a few short runs, in GFLOP/s.
func bestPeak(bf16 bool) (best float64) {
	for range 8 {
		t := time.Now()
		flops := level.Peak(100_000, bf16)
		best = max(best, flops/time.Since(t).Seconds()/1e9)
	}
	return best
}

// String is the rates for a person.
func (r Rates) String() string {
	s := fmt.Sprintf("%.0f GB/s read on %d threads", r.ReadGBps, r.Threads)
	if r.F32 > 0 {
		s = fmt.Sprintf("%.0f GFLOP/s f32 a core, ", r.F32) + s
	}
	if r.BF16 > 0 {
		s = fmt.Sprintf("%.0f GFLOP/s bf16, ", r.BF16) + s
	}
	return s
}
