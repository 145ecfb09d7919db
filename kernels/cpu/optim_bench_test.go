package cpu_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
	"github.com/tunekit/tunekit/kernels/par"
)

// BenchmarkOptim is a step of 16 M parameters under the rules that have states of 8
// bits: ns of the step in 32 bits, and how many times that the one in 8 bits takes, turn
// about. Both are made in 16 parts, of each of which the fastest time counts, so that
// what else the machine does is left out.
func BenchmarkOptim(b *testing.B) {
	n := 16 << 20
	rules := []struct {
		name string
		rule kernels.OptimRule
	}{
		{"adamw", kernels.OptimRule{Kind: kernels.AdamW, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}},
		{"lion", kernels.OptimRule{Kind: kernels.Lion, Beta1: 0.9, Beta2: 0.99}},
		{"rmsprop", kernels.OptimRule{Kind: kernels.RMSprop, Beta2: 0.99, Eps: 1e-8}},
		{"ademamix", kernels.OptimRule{Kind: kernels.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, Eps: 1e-8}},
	}
	for _, l := range level.Supported() {
		for _, threads := range []int{1, runtime.NumCPU()} {
			for _, r := range rules {
				b.Run(fmt.Sprint(r.name, "/", l, "/", threads), func(b *testing.B) {
					defer level.Force(l)()
					defer par.SetThreads(par.Threads())
					par.SetThreads(threads)
					c := cpu.New(cpu.Options{})
					whole, codes := optimStep(b, c, r.rule, n), optimStep(b, c, eightBits(r.rule), n)
					var least [2][optimParts]float64
					for i := range b.N {
						for k, step := range []func(int){whole, codes} {
							for part := range optimParts {
								if t := clock(func() { step(part) }); i == 0 || t < least[k][part] {
									least[k][part] = t
								}
							}
						}
					}
					var took [2]float64
					for k := range took {
						for _, t := range least[k] {
							took[k] += t
						}
					}
					b.ReportMetric(took[0], "ns/32bit")
					b.ReportMetric(took[1]/took[0], "8bit/32bit")
				})
			}
		}
	}
}

func eightBits(r kernels.OptimRule) kernels.OptimRule {
	r.Bits8, r.MinBits8 = true, 4096
	return r
}

const optimParts = 16

// optimStep is a step of one of the parts of n parameters under r.
func optimStep(b *testing.B, c *cpu.CPU, r kernels.OptimRule, n int) func(part int) {
	rng := rand.New(rand.NewPCG(1, 2))
	alloc := func(t dtype.Type, n int) kernels.Buffer {
		x, err := c.Alloc(kernels.Optimizer, t, n)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Free(x) })
		return x
	}
	n /= optimParts
	v := make([]float32, n)
	random := func() kernels.Buffer {
		for i := range v {
			v[i] = float32(rng.NormFloat64()) / 100
		}
		x := alloc(dtype.Of(dtype.F32), n)
		c.Upload(x, kernels.Bytes(v))
		return x
	}
	var parts [optimParts]kernels.OptimArgs
	for i := range parts {
		s := kernels.OptimSpan{P: random(), G: random(), Rows: 1, Cols: n, LR: 1e-4, Decay: 0.01}
		for _, st := range r.State(1, n, 0) {
			x := alloc(st.Type, st.Len)
			if st.Type.Kind == dtype.F32 {
				c.Fill(x, 0)
			} else { // whatever the codes are, their scales are 0
				c.Upload(x, make([]byte, st.Len))
			}
			s.State = append(s.State, x)
		}
		parts[i] = kernels.OptimArgs{OptimRule: r, Spans: []kernels.OptimSpan{s}}
	}
	return func(i int) { parts[i].Step++; c.Optim(&parts[i]) }
}

func clock(f func()) float64 {
	from := time.Now()
	f()
	return float64(time.Since(from).Nanoseconds())
}
