package model

import (
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/kernels/cpu"
)

type dims = archtest.Dims

var tiny = dims{C: 32, V: 50, Layers: 2, H: 4, K: 2, D: 8, F: 40}

// sample is a checkpoint of the given sizes; weights come from fill.
func sample(t testing.TB, s dims, fill func(n int) []float32) *arch.Source {
	t.Helper()
	src, err := archtest.Llama(s, fill)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// random fills weights so that activations stay of order one.
func random(seed uint64) func(n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(0.2 * r.NormFloat64())
		}
		return v
	}
}

// loadSample loads a made-up model on a fresh CPU backend.
func loadSample(t testing.TB, s dims, o Options) *Model {
	t.Helper()
	m, err := Load(cpu.New(cpu.Options{}), sample(t, s, random(7)), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// tokens draws n token ids.
func tokens(seed uint64, n, v int) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(v))
	}
	return ids
}
