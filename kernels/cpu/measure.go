package cpu

import (
	"fmt"
	"time"

	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// Rates are what this machine reaches.
type Rates struct {
	F32      float64 `json:"f32_gflops"`             // fused multiply-adds of one core, on registers; 0: the level has no loop for it
	BF16     float64 `json:"bf16_gflops"`            // bf16 dot products of one core; 0: the level has none
	ReadGBps float64 `json:"read_gb_per_s"`          // streaming from memory, all threads at once
	F32All   float64 `json:"f32_gflops_all_threads"` // as F32, all threads at once
	BF16All  float64 `json:"bf16_gflops_all_threads"`
	ReadOne  float64 `json:"read_gb_per_s_one_core"`
	Threads  int     `json:"threads"`
}

// Measure takes about half a second.
func Measure() Rates {
	m := NewMeter()
	r := Rates{Threads: par.Threads()}
	for range 4 {
		r.F32, r.F32All = max(r.F32, m.Peak(false, 1)), max(r.F32All, m.Peak(false, r.Threads))
		r.BF16, r.BF16All = max(r.BF16, m.Peak(true, 1)), max(r.BF16All, m.Peak(true, r.Threads))
		r.ReadOne, r.ReadGBps = max(r.ReadOne, m.Read(1)), max(r.ReadGBps, m.Read(r.Threads))
	}
	return r
}

// Meter measures the machine's limits at the moment it is asked: clocks drift,
// so a share is only fair beside a peak of the same moment.
type Meter struct{ stream []float32 }

// streamBlock is what one chunk of the streaming measurement reads.
const streamBlock = 1 << 16

// NewMeter makes a meter; it holds 64 MiB a thread, more than a core's share of
// any cache.
func NewMeter() *Meter {
	m := &Meter{stream: make([]float32, (64<<20/4)*max(2, par.Threads()))}
	for i := range m.stream {
		m.stream[i] = 1
	}
	return m
}

// Peak is the rate of independent multiply-adds on registers in GFLOP/s, of f32
// or of bf16 pairs, by one thread or by all of them: the best of a few runs of
// half a millisecond. It is 0 where the level in use has no such instruction.
func (m *Meter) Peak(bf16 bool, threads int) float64 {
	if bf16 && !fastBF16() {
		return 0
	}
	const n, slices = 20_000, 8 // slices a thread: one that wakes up late still takes its part
	best := time.Duration(0)
	var each [slices]float64
	for range 8 {
		t := time.Now()
		if threads == 1 {
			for i := range each {
				each[i] = level.Peak(n, bf16)
			}
		} else {
			par.For(threads*slices, 1, func(lo, _ int) {
				if f := level.Peak(n, bf16); lo < slices {
					each[lo] = f * float64(threads)
				}
			})
		}
		if d := time.Since(t); best == 0 || d < best {
			best = d
		}
	}
	var flops float64
	for _, f := range each {
		flops += f
	}
	return flops / best.Seconds() / 1e9
}

// Stream is the rate in GB/s at which all threads read two arrays and write one,
// y += x, in bytes read and written.
func (m *Meter) Stream() float64 {
	blocks := len(m.stream) / streamBlock / 2
	t := time.Now()
	par.For(blocks, 8, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			vec.Axpy(m.stream[i*streamBlock:(i+1)*streamBlock], 1e-30, m.stream[(blocks+i)*streamBlock:(blocks+i+1)*streamBlock])
		}
	})
	return float64(3*4*blocks*streamBlock) / time.Since(t).Seconds() / 1e9
}

// Read is the rate of one pass over memory in GB/s, by one thread or by all.
func (m *Meter) Read(threads int) float64 {
	pass := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			sink(vec.Sum(m.stream[i*streamBlock : (i+1)*streamBlock]))
		}
	}
	blocks := len(m.stream) / streamBlock
	t := time.Now()
	if threads == 1 {
		pass(0, blocks)
	} else {
		par.For(blocks, 16, pass)
	}
	return float64(4*len(m.stream)) / time.Since(t).Seconds() / 1e9
}

//go:noinline
func sink(float32) {}

// String is the rates for a person.
func (r Rates) String() string {
	s := fmt.Sprintf("%.0f GB/s read by one core, %.0f by %d threads", r.ReadOne, r.ReadGBps, r.Threads)
	if r.BF16 > 0 {
		s = fmt.Sprintf("%.0f GFLOP/s bf16 a core, %.0f all; ", r.BF16, r.BF16All) + s
	}
	if r.F32 > 0 {
		s = fmt.Sprintf("%.0f GFLOP/s f32 a core, %.0f all; ", r.F32, r.F32All) + s
	}
	return s
}
