package train

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
)

// BenchmarkStep is a whole optimizer step of SmolLM2-135M's shape on 2,048
// tokens: tokens/s, its counted products as a share of the peak of its
// arithmetic, and the memory of the device without the base's own.
func BenchmarkStep(b *testing.B) {
	src := benchModel(b)
	for _, adapter := range []string{"lora", "qlora", "none"} {
		for _, dt := range []string{"f32", "bf16"} {
			for _, s := range []struct {
				length    int
				recompute Auto
			}{{512, "false"}, {512, "true"}, {2048, "false"}} {
				name := fmt.Sprintf("%s/%s/%dx%d/recompute=%s", adapter, dt, benchTokens/s.length, s.length, s.recompute)
				b.Run(name, func(b *testing.B) { benchStep(b, src, adapter, dt, 16, s.length, s.recompute) })
			}
		}
	}
}

// BenchmarkRank is the step of LoRA in bf16 by rank.
func BenchmarkRank(b *testing.B) {
	src := benchModel(b)
	for _, r := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(r), func(b *testing.B) { benchStep(b, src, "lora", "bf16", r, 512, "false") })
	}
}

const benchTokens = 2048

// benchModel has SmolLM2-135M's shape and random weights.
func benchModel(b *testing.B) *arch.Source {
	weights := rand.New(rand.NewPCG(1, 1))
	src, err := archtest.Llama(archtest.SmolLM2, func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = 0.07 * (weights.Float32() - 0.5)
		}
		return v
	})
	if err != nil {
		b.Fatal(err)
	}
	return src
}

func benchStep(b *testing.B, src *arch.Source, adapter, dt string, rank, length int, recompute Auto) {
	dev := cpu.New(cpu.Options{})
	o := model.Options{Trainable: adapter == "none"}
	if adapter == "qlora" {
		o.Hold = &dtype.NF4Double
	}
	m, err := model.Load(dev, src, o)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	c := Config{Adapter: AdapterName(adapter), DType: dt, MaxSteps: 1e9, MicroBatchSize: benchTokens / length,
		GradientAccumulationSteps: 1, GradientCheckpointing: recompute}
	if adapter != "none" {
		c.LoRA.R = rank
	}
	if c, err = c.Resolve(7); err != nil {
		b.Fatal(err)
	}
	j := Job{Config: c, Model: m, MaxLength: length, Packing: "bfd", Dir: b.TempDir(), Identity: "bench"}
	if adapter != "none" {
		if j.Adapter, err = lora.Apply(m, c.LoRA, 7); err != nil {
			b.Fatal(err)
		}
		defer j.Adapter.Close()
	}
	var ex []data.Example
	for i := range 8 {
		ex = append(ex, fullExample(uint64(i), length))
	}
	j.Train = data.InMemory(ex...)
	r, err := begin(j)
	if err != nil {
		b.Fatal(err)
	}
	defer r.end()
	benchSteps(b, r, stepFlops(m, j.Adapter, length), dt == "bf16")
}

// fullExample is a row of n tokens that are all supervised.
func fullExample(id uint64, n int) data.Example {
	r := rand.New(rand.NewPCG(id, 3))
	e := data.Example{ID: id, Loss: [][2]int32{{0, int32(n)}}}
	for range n {
		e.IDs = append(e.IDs, int32(r.IntN(archtest.SmolLM2.V)))
	}
	return e
}

// stepFlops counts the products of one token of a step: those of weights, of
// adapters and of scores that the mask lets through.
func stepFlops(m *model.Model, ad *lora.Adapter, length int) float64 {
	s, a := &m.Spec, m.Spec.Attention()
	f := float64(len(s.Layers)) * 7 * float64(length+1) * float64(a.H*a.D)
	base := 4.0
	if ad == nil {
		base = 6
	} else {
		for _, p := range ad.Params() {
			f += 6 * float64(p.Len())
		}
		f -= 2 * float64(s.C*(a.H+2*a.K)*a.D) // of the tokens' own gradient
	}
	for l := range m.Linears() {
		f += base * float64(l.W.Len())
	}
	return f + base*float64(s.V*s.C)
}

// benchSteps measures steps of r; the best one counts.
func benchSteps(b *testing.B, r *run, flops float64, bf16 bool) {
	step := func() float64 {
		m, err := r.next(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		return float64(m.Tokens)
	}
	step()
	best, tokens := time.Duration(1<<62), 0.0
	for b.Loop() {
		t := time.Now()
		tokens = step()
		best = min(best, time.Since(t))
	}
	rate := tokens / best.Seconds()
	b.ReportMetric(rate, "tokens/s")
	if p := cpu.Measure(); p.F32 > 0 && !bf16 {
		b.ReportMetric(100*flops*rate/(1e9*p.F32*float64(p.Threads)), "%peak")
	} else if p.BF16 > 0 {
		b.ReportMetric(100*flops*rate/(1e9*p.BF16*float64(p.Threads)), "%peak")
	}
	info := r.dev.Info()
	b.ReportMetric(float64(info.PeakTotal-info.Mem.Now[kernels.Weights])/(1<<20), "MB")
}
