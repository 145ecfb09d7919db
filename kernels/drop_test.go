package kernels

import (
	"math"
	"testing"
)

// The words are SplitMix64: seeded with 1234567 it begins with these (the test
// vector of Vigna's splitmix64.c as used by Java's SplittableRandom ports).
func TestDropWordIsSplitMix64(t *testing.T) {
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821} {
		got := uint64(DropWord(1234567, 2*i)) | uint64(DropWord(1234567, 2*i+1))<<32
		if got != want {
			t.Fatalf("word %d: %d, want %d", i, got, want)
		}
	}
}

// What is dropped depends on the element alone, not on how rows are cut.
func TestDropApply(t *testing.T) {
	d := &Drop{P: 0.3, Seed: 7, Step: 2, Site: 11}
	const n = 1000
	whole := ones(n)
	d.Apply(whole, 5<<32|9, 0)
	for cut := 1; cut < 40; cut += 13 {
		parts := ones(n)
		d.Apply(parts[:cut], 5<<32|9, 0)
		d.Apply(parts[cut:], 5<<32|9, cut)
		for i := range parts {
			if parts[i] != whole[i] {
				t.Fatalf("cut at %d: element %d is %g, %g in one piece", cut, i, parts[i], whole[i])
			}
		}
	}
	for _, v := range whole {
		if v != 0 && v != 1/(1-d.P) {
			t.Fatalf("kept element is %g, want %g", v, 1/(1-d.P))
		}
	}
}

func ones(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 1
	}
	return x
}

// Every part of the key matters, and the rate of kept elements is 1-P.
func TestDropRateAndIndependence(t *testing.T) {
	base := Drop{P: 0.25, Seed: 1, Step: 1, Site: 1}
	keep := func(d Drop, key int64) []float32 {
		x := ones(40000)
		d.Apply(x, key, 0)
		return x
	}
	first := keep(base, 1<<32)
	seed, step, site := base, base, base
	seed.Seed, step.Step, site.Site = 2, 2, 2
	others := map[string][]float32{"token": keep(base, 1<<32|1), "sample": keep(base, 2<<32), "seed": keep(seed, 1<<32), "step": keep(step, 1<<32), "site": keep(site, 1<<32)}
	kept := 0
	for _, v := range first {
		if v != 0 {
			kept++
		}
	}
	if rate := float64(kept) / 40000; math.Abs(rate-0.75) > 0.01 {
		t.Errorf("kept %g, want 0.75", rate)
	}
	for name, x := range others {
		same := 0
		for i, v := range x {
			if v == first[i] {
				same++
			}
		}
		if rate := float64(same) / 40000; math.Abs(rate-0.625) > 0.015 { // 0.75² + 0.25²
			t.Errorf("another %s: %g of the elements agree, want 0.625", name, rate)
		}
	}
}

func TestDropProbability(t *testing.T) {
	for _, p := range []float32{-0.1, 1, 2, float32(math.NaN())} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("P = %g: no panic", p)
				}
			}()
			(&Drop{P: p}).DropThreshold()
		}()
	}
}
