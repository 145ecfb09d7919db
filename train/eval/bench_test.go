package eval

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// BenchmarkFastKL is what Model.Fast costs: the divergence of its distributions
// from exact ones, token by token over the README of this project. It reads the
// models that TUNE_BENCH_MODELS, a pattern of paths, matches.
func BenchmarkFastKL(b *testing.B) {
	paths, err := filepath.Glob(os.Getenv("TUNE_BENCH_MODELS"))
	if err != nil || len(paths) == 0 {
		b.Skip("TUNE_BENCH_MODELS names no model")
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range paths {
		b.Run(filepath.Base(p), func(b *testing.B) {
			src, err := arch.Open(p)
			if err != nil {
				b.Fatal(err)
			}
			defer src.Close()
			m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			tok, err := tokenizer.Open(src.Reader)
			if err != nil {
				b.Fatal(err)
			}
			ids := tok.Encode(string(text), true)
			ids = ids[:min(len(ids), 512)]
			var kl, same float64
			for b.Loop() {
				kl, same = fastKL(b, m, ids)
			}
			b.ReportMetric(kl, "KL")
			b.ReportMetric(same, "top-1")
		})
	}
}

// fastKL is the mean divergence and the share of equal first choices.
func fastKL(b *testing.B, m *model.Model, ids []int32) (kl, same float64) {
	exact, fast := stepper(b, m, len(ids)), stepper(b, m, len(ids))
	for _, id := range ids {
		m.Fast = false
		p := softmax(exact(id))
		m.Fast = true
		q := softmax(fast(id))
		var best [2]int
		for i := range p {
			if p[i] > 0 {
				kl += p[i] * math.Log(p[i]/q[i])
			}
			if p[i] > p[best[0]] {
				best[0] = i
			}
			if q[i] > q[best[1]] {
				best[1] = i
			}
		}
		if best[0] == best[1] {
			same++
		}
	}
	n := float64(len(ids))
	return kl / n, same / n
}

func softmax(x []float64) []float64 {
	best := slices.Max(x)
	out, sum := make([]float64, len(x)), 0.0
	for i, v := range x {
		out[i] = math.Exp(v - best)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// stepper feeds tokens one by one and returns the logits after each.
func stepper(b *testing.B, m *model.Model, most int) func(id int32) []float64 {
	c, err := m.NewCache(1, most)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return func(id int32) []float64 {
		y, err := m.Step(c, []model.Piece{{Tokens: []int32{id}}})
		if err != nil {
			b.Fatal(err)
		}
		out := make([]float64, len(y[0]))
		for i, v := range y[0] {
			out[i] = float64(v)
		}
		return out
	}
}
