package quant

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestAWQLayers compares the search for scales over two layers that share an
// input, and the clipping of the first, with AutoAWQ's (its aliasing of CPU
// weights patched out): the loss of every exponent, the exponent chosen, the
// scales up to a common factor, the clipped ranges and the error in the end.
// AutoAWQ's symmetric grid is max/7, ours max/7.5, so there only the error is.
func TestAWQLayers(t *testing.T) {
	l := openLayers(t)
	for name, c := range l.cases["autoawq"] {
		t.Run(name, func(t *testing.T) { compareAWQ(t, l, "autoawq."+name, c) })
	}
}

func compareAWQ(t *testing.T, l *layers, name string, c layerCase) {
	dev := cpu.New(cpu.Options{})
	w, w2, x := l.in["W"], l.in["W2"], l.in["X"]
	cols := x.cols()
	h := hessianOf(t, dev, x)
	typ := gridOf(c.Bits, !c.Zero, c.Group)
	xMean := make([]float32, cols)
	for i, v := range x.values {
		xMean[i%cols] += float32(math.Abs(float64(v))) / float32(x.rows())
	}
	both := [][]float32{w.values, w2.values}
	var wMean []float32
	if c.Duo {
		m := newMeans(cols)
		for _, w := range both {
			m.add(w, c.Group)
		}
		wMean = m.values()
	}
	fake := func(w, scale, clip []float32) []float32 {
		a := &kernels.FakeQuantArgs{Type: typ, Rows: len(w) / cols, Cols: cols, X: upload(t, dev, w), ColScale: upload(t, dev, scale)}
		if clip != nil {
			a.Clip = upload(t, dev, clip)
		}
		y := upload(t, dev, w)
		dev.FakeQuant(kernels.To(y), a)
		out := make([]float32, len(w))
		if err := down(dev, out, y); err != nil {
			t.Fatal(err)
		}
		return out
	}
	loss := func(ratio float64) float64 {
		sum := 0.0
		for _, w := range both {
			d := fake(w, awqScales(ratio, xMean, wMean), nil)
			for j := range d {
				d[j] -= w[j]
			}
			e, err := h.energy(upload(t, dev, d), len(w)/cols)
			if err != nil {
				t.Fatal(err)
			}
			sum += e
		}
		return sum / float64(x.rows()*(w.rows()+w2.rows()))
	}
	var history []float64
	for i := range awqRatios {
		history = append(history, loss(float64(i)/awqRatios))
		if want := float64(l.gold[name+".history"].values[i]); c.Zero && math.Abs(history[i]-want) > 5e-3*want {
			t.Errorf("exponent %d/20: loss %g, want %g", i, history[i], want)
		}
	}
	ratio := float64(slices.Index(history, slices.Min(history))) / awqRatios
	if c.Zero && ratio != c.Ratio {
		t.Errorf("exponent %g, want %g", ratio, c.Ratio)
	}
	s := awqScales(ratio, xMean, wMean)
	if want := l.gold[name+".scales_x"].values; c.Zero {
		for i, v := range s {
			if r := float64(v/s[0]) / float64(want[i]/want[0]); i != deadColumn && math.Abs(r-1) > 1e-4 {
				t.Errorf("scale %d is %g, want %g", i, v/s[0], want[i]/want[0])
			}
		}
	}
	scaled := make([]float32, len(w.values))
	for i, v := range w.values {
		scaled[i] = v * s[i%cols]
	}
	if err := h.unscale(s); err != nil {
		t.Fatal(err)
	}
	clip, _, err := clipRanges(&layer{dev: dev, w: upload(t, dev, scaled), rows: w.rows(), cols: cols, typ: typ}, h.buf)
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for i, want := range l.gold[name+".clip"].values {
		if r := float64(clip[i]/s[0]) / float64(want/l.gold[name+".scales_x"].values[0]); math.Abs(r-1) > 1e-3 {
			differ++
		}
	}
	got := fake(w.values, s, clip)
	e := errorOf(got, w.values, x)
	t.Logf("exponent %g, %d of %d ranges differ, error %.6g, reference %.6g", ratio, differ, len(clip), e, c.Clip)
	if e > 1.005*c.Clip {
		t.Errorf("error %g, reference %g", e, c.Clip)
	}
	if c.Zero && differ > len(clip)/10 {
		t.Errorf("%d of %d ranges differ", differ, len(clip))
	}
}

// TestAWQLooksAtSomeRows holds that the exponent with the least error of a linear
// map with many rows is among the finalists that its bands of rows give.
func TestAWQLooksAtSomeRows(t *testing.T) {
	const rows, cols, tokens = 2*awqRows + 40, 64, 96
	dev := cpu.New(cpu.Options{})
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w, x := make([]float32, rows*cols), make([]float32, tokens*cols)
		for i := range w {
			w[i] = float32(rng.NormFloat64() * math.Exp(rng.NormFloat64()*float64(i/cols)/rows)) // rows differ
		}
		xMean := make([]float32, cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * math.Exp(2*math.Sin(float64(7*(i%cols))))) // as do columns
			xMean[i%cols] += float32(math.Abs(float64(x[i]))) / tokens
		}
		h := hessianOf(t, dev, layerArray{shape: []int64{tokens, cols}, values: x})
		typ := gridOf(4, false, 32)
		loss := func(ratio float64, all bool) (sum float64) {
			first, n := bands(rows, all)
			for _, r := range first {
				band := w[r*cols : (r+n)*cols]
				y := upload(t, dev, band)
				dev.FakeQuant(kernels.To(y), &kernels.FakeQuantArgs{Type: typ, Rows: n, Cols: cols, X: upload(t, dev, band), ColScale: upload(t, dev, awqScales(ratio, xMean, nil))})
				subtract(dev, y, upload(t, dev, band), len(band))
				e, err := h.energy(y, n)
				if err != nil {
					t.Fatal(err)
				}
				sum += e
			}
			return sum
		}
		whole, some := make([]float64, awqRatios), make([]float64, awqRatios)
		for i := range awqRatios {
			whole[i], some[i] = loss(float64(i)/awqRatios, true), loss(float64(i)/awqRatios, false)
		}
		best := slices.Index(whole, slices.Min(whole))
		if best == 0 || slices.Equal(whole, some) {
			t.Errorf("seed %d: exponent %d is the best, of which losses? the test shows nothing", seed, best)
		}
		tried := 0
		if err := finalists(some, func(i int) error { tried++; some[i] = whole[i]; return nil }); err != nil {
			t.Fatal(err)
		}
		if got := slices.Index(some, slices.Min(some)); got != best || tried != awqFinal {
			t.Errorf("seed %d: exponent %d of %d finalists, want %d", seed, got, tried, best)
		}
	}
	if first, n := bands(2*awqRows-1, false); len(first) != 1 || n != 2*awqRows-1 {
		t.Errorf("bands of few rows: %v, %d each", first, n)
	}
}

// The energy of rows w under XᵀX is ‖X·wᵀ‖², also where the matrix is taken in blocks
// of columns.
func TestEnergy(t *testing.T) {
	const samples, rows = 20, 5
	dev := cpu.New(cpu.Options{})
	for _, n := range []int{1, 300, 2 * energyBlock, 2*energyBlock + 552} {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		x, w := make([]float32, samples*n), make([]float32, rows*n)
		for _, v := range [][]float32{x, w} {
			for i := range v {
				v[i] = float32(r.NormFloat64())
			}
		}
		want := 0.0
		for i := range samples {
			for j := range rows {
				dot := 0.0
				for k := range n {
					dot += float64(x[i*n+k]) * float64(w[j*n+k])
				}
				want += dot * dot
			}
		}
		h, err := newHessian(dev, n)
		if err != nil {
			t.Fatal(err)
		}
		h.add(upload(t, dev, x), samples)
		got, err := h.energy(upload(t, dev, w), rows)
		if err != nil || math.Abs(got-want) > 1e-5*want {
			t.Errorf("%d columns: energy %v, want %v (%v)", n, got, want, err)
		}
		h.free()
	}
}
