package model

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// benchModels loads every model that TUNE_BENCH_MODELS, a pattern of paths,
// matches, one after another.
func benchModels(b *testing.B, run func(b *testing.B, m *Model)) {
	paths, err := filepath.Glob(os.Getenv("TUNE_BENCH_MODELS"))
	if err != nil || len(paths) == 0 {
		b.Skip("TUNE_BENCH_MODELS names no model")
	}
	for _, p := range paths {
		b.Run(filepath.Base(p), func(b *testing.B) {
			src, err := arch.Open(p)
			if err != nil {
				b.Fatal(err)
			}
			defer src.Close()
			m, err := Load(cpu.New(cpu.Options{}), src, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			m.Fast = os.Getenv("TUNE_BENCH_DTYPE") != "f32"
			run(b, m)
		})
	}
}

// A prompt of 512 tokens.
func BenchmarkPrompt(b *testing.B) {
	benchModels(b, func(b *testing.B, m *Model) {
		c, err := m.NewCache(1, 512)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		prompt := make([]int32, 512)
		for i := range prompt {
			prompt[i] = int32((i*7919 + 13) % m.Spec.V)
		}
		for b.Loop() {
			c.Reset(0)
			if _, err := m.Step(c, []Piece{{Tokens: prompt}}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(prompt)*b.N)/b.Elapsed().Seconds(), "tokens/s")
	})
}

// The first 64 tokens of some answers side by side, one of each at a time.
func BenchmarkDecode(b *testing.B) {
	benchModels(b, func(b *testing.B, m *Model) {
		for _, slots := range []int{1, 4, 16} {
			b.Run(fmt.Sprint(slots), func(b *testing.B) {
				c, err := m.NewCache(slots, 64)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				pieces := make([]Piece, slots)
				for i := 0; b.Loop(); i++ {
					for s := range pieces {
						if c.Len(s) == c.Max {
							c.Reset(s)
						}
						pieces[s] = Piece{s, []int32{int32((i*31 + s*17 + 7) % m.Spec.V)}}
					}
					if _, err := m.Step(c, pieces); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(slots*b.N)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	})
}
