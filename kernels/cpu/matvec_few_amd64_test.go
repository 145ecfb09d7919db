package cpu

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/internal/level"
)

// TestMatVecGathered: types whose points are looked up in registers have kernels for
// processors that cannot, too.
func TestMatVecGathered(t *testing.T) {
	if !mvTurns || level.Current() < level.AVX512 || !level.HasVNNI() {
		t.Skip("TestMatVec runs these kernels on this processor, or none")
	}
	mvTurns = false
	defer func() { mvTurns = true }()
	c := New(Options{})
	for k := range mvTurned {
		t.Run(k.String(), func(t *testing.T) { testMatVec(t, c, dtype.Of(k), 1792) })
	}
}

// TestMatVecLoaded: points that are loaded one by one are those that are gathered, to the last bit
// of the products.
func TestMatVecLoaded(t *testing.T) {
	if level.Current() < level.AVX512 || !level.HasVNNI() {
		t.Skip("no kernel at this level")
	}
	const rows, cols, most = 21, 1792, 8
	c := New(Options{})
	rng := rand.New(rand.NewPCG(4, 5))
	old := mvLoads
	defer func() { mvLoads = old }()
	for k := range mvLoaded {
		x := make([]float32, most*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		xb := upload(t, c, x)
		var got [2][]float32
		for i, loads := range []bool{false, true} {
			mvLoads = func() bool { return loads }
			w, _ := mvWeights(t, c, dtype.Of(k), rows, cols, rand.New(rand.NewPCG(6, 7)))
			for _, n := range []int{1, 2, 4, most} {
				y := upload(t, c, make([]float32, n*rows))
				c.Linear(kernels.To(y), &kernels.LinearArgs{N: n, X: xb, W: w, Fast: true})
				got[i] = append(got[i], f32(y)...)
			}
		}
		if !slices.Equal(got[0], got[1]) || slices.Max(got[0]) == 0 {
			t.Errorf("%v: loaded points give other products than gathered ones", k)
		}
	}
}
