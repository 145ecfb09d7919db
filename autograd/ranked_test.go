package autograd

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels/cpu"
)

// The gradient of groups of one row and of several, of a larger and a smaller teacher,
// by differences.
func TestRankedGradient(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	const n, v = 6, 11
	for _, tv := range []int{7, 11, 19} {
		rng := rand.New(rand.NewPCG(1, uint64(tv)))
		random := func(n int) []float32 {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			return x
		}
		z, teacher := random(n*v), random(n*tv)
		groups, tokens := [][2]int32{{0, 1}, {1, 4}, {5, 6}}, []int32{3, 2, 10, 0, 5, 1}
		coef := []float32{0.5, 2, 1}
		spec := RankedSpec{Groups: groups, Tokens: tokens, Scale: 0.7, Teacher: Ranks(teacher, tv, [][2]int32{{0, 2}, {2, 3}, {3, 6}}, make([]int32, n), 1)}
		for _, p := range spec.Teacher {
			if !slices.IsSortedFunc(p, func(a, b float32) int { return int(math.Copysign(1, float64(b-a))) }) {
				t.Fatalf("ranks %v", p)
			}
		}
		var got []float32
		at := func(z []float32, record bool) (sum float64) {
			err := dev.Run(func() (err error) {
				tape := &Tape{Dev: dev, Record: record}
				defer tape.Free()
				x := tape.Input(z, n, v)
				for i, l := range tape.Ranked(x, spec, coef) {
					sum += float64(coef[i]) * float64(l)
				}
				if record {
					got, err = tape.GradOf(x)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return sum
		}
		at(z, true)
		for i := range z {
			const h = 2e-3
			up, down := slices.Clone(z), slices.Clone(z)
			up[i] += h
			down[i] -= h
			if want := (at(up, false) - at(down, false)) / (2 * h); math.Abs(float64(got[i])-want) > 2e-3 {
				t.Errorf("teacher of %d tokens: gradient %d is %g, want %g", tv, i, got[i], want)
			}
		}
	}
}
