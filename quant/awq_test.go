package quant

import (
	"math"
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
