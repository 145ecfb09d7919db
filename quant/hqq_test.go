package quant

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// referenceGrid is the solver written from the paper: errors in the weights' own
// units, one array a formula, the shrinking operator by its definition.
func referenceGrid(w []float64, s, z, top float64) (scale, zero, err float64) {
	beta, err := 10.0, math.Inf(1)
	for range 20 {
		norm, mean := 0.0, 0.0
		q, we := make([]float64, len(w)), make([]float64, len(w))
		for i := range w {
			q[i] = math.Max(0, math.Min(top, math.RoundToEven(w[i]/s)+z))
			d := w[i] - s*(q[i]-z)
			norm += math.Exp(0.7 * math.Log(math.Max(math.Abs(d), 1e-300)))
			u := math.Abs(d) / s
			shrunk := math.Max(0, u-math.Exp(-0.3*math.Log(math.Max(u, 1e-300)))/beta)
			if d < 0 {
				shrunk = -shrunk
			}
			we[i] = shrunk * s
			mean += (q[i] - (w[i]-we[i])/s) / float64(len(w))
		}
		if norm >= err {
			return scale, zero, err
		}
		scale, zero, err = s, z, norm
		z = math.Max(0, math.Min(top, math.RoundToEven(mean)))
		a, b := 0.0, 0.0
		for i := range w {
			a += (w[i] - we[i]) * (q[i] - z)
			b += (q[i] - z) * (q[i] - z)
		}
		s = a / b
		beta *= 1.01
	}
	return scale, zero, err
}

// TestFitGrid compares grids with an implementation in float64 that shares no
// line: the same zero point, the same scale, and an error that is never above
// that of rounding to nearest on the whole range.
func TestFitGrid(t *testing.T) {
	for _, bits := range []dtype.Kind{dtype.Int2, dtype.Int3, dtype.Int4, dtype.Int8} {
		typ := dtype.Type{Kind: bits, Group: 64, Flags: dtype.Zero}
		top := float64(int(1)<<typ.Bits() - 1)
		gained, differ := 0, 0
		for seed := range uint64(200) {
			w := normal(seed, 64)
			w[3] *= float32(1 + seed%9) // an outlier
			exact := make([]float64, len(w))
			lo, hi := float32(0), float32(0)
			for i, v := range w {
				exact[i], lo, hi = float64(v), min(lo, v), max(hi, v)
			}
			s0, z0 := block.IntGrid(typ, lo, hi)
			s, z := fitGrid(w, typ)
			rs, rz, err := referenceGrid(exact, float64(s0), float64(z0), top)
			if float64(z) != rz || math.Abs(float64(s)/rs-1) > 1e-5 {
				differ++
			}
			norm := func(s, z float64) (sum float64) {
				for _, v := range exact {
					sum += math.Pow(math.Abs(v-s*(math.Max(0, math.Min(top, math.RoundToEven(v/s)+z))-z)), 0.7)
				}
				return sum
			}
			near, got := norm(float64(s0), float64(z0)), norm(float64(s), float64(z))
			if got > near*(1+1e-6) || math.Abs(got/err-1) > 0.02 {
				t.Errorf("%v, seed %d: error %g, reference %g, nearest %g", bits, seed, got, err, near)
			}
			if got < 0.999*near {
				gained++
			}
		}
		t.Logf("%v: %d of 200 grids are better than the nearest, %d differ from the reference", bits, gained, differ)
		if differ > 10 || gained < 100 {
			t.Errorf("%v: %d grids differ from the reference, %d gain", bits, differ, gained)
		}
	}
}

// TestHQQBeatsNearest: the weights of every layer lose less than by rounding to
// nearest in the same type; the first model is a trained one.
func TestHQQBeatsNearest(t *testing.T) {
	stories, orig := "stories260K/stories260K-f32.gguf", "golden/quant/orig"
	for _, c := range []struct{ model, scheme, format, ignore string }{
		{stories, "W4A16_ASYM", "compressed-tensors", "down_proj"}, // rows of 172
		{orig, "W4A16_ASYM", "gptq", "lm_head"},
		{orig, "W3A16_ASYM", "gptq", "lm_head"},
		{orig, "W2A16_ASYM", "gptq", "lm_head"},
	} {
		src, err := arch.Open(testdir.Shared(t, c.model))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		dir := t.TempDir()
		job := func(method string) FolderJob {
			return FolderJob{Path: filepath.Join(dir, method), Method: method, Scheme: c.scheme, Format: c.format, Group: 32, Ignore: []string{c.ignore}, For: []string{}}
		}
		reps := folder(t, src, nil, job("hqq"), job("rtn"))
		for i, l := range reps[0].Layers {
			near := reps[1].Layers[i]
			if !(l.Weight < near.Weight) {
				t.Errorf("%s %s: %s has an error of %g, nearest %g", c.model, c.scheme, l.Layer, l.Weight, near.Weight)
			}
			if i == 0 {
				t.Logf("%s %s %s: %.4f, nearest %.4f", c.model, c.scheme, l.Layer, l.Weight, near.Weight)
			}
		}
	}
}
