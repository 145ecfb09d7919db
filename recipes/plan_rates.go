package recipes

import (
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// rates are what this machine does in a second, measured for about a tenth of
// one. Estimates of time are made from them.
type rates struct {
	f32, bf16 float64 // floating point operations of products
	moved     float64 // bytes of element-wise work
}

// overhead is how much longer real work takes than its counted work at the
// probe's rates: smaller shapes, host work between kernels. Processor time of
// QLoRA steps of SmolLM2-135M was 1.0 times the count; what does not run in
// parallel is the rest.
const overhead = 1.15

// probe measures the run's device, whatever its memory limit.
func (x *run) probe() (rates, error) {
	dev, err := x.open(device.NoLimit)
	if err != nil {
		return rates{}, err
	}
	defer dev.Close()
	return probe(dev)
}

// probe measures dev with products of the shape of a small model's.
func probe(dev kernels.Backend) (r rates, err error) {
	const n, c = 512, 1024
	w := block.New(dtype.Of(dtype.F32), c, c)
	err = dev.Run(func() error {
		mat, err := dev.Load(kernels.Weights, w.Type, c, c, w.Data, kernels.Copy)
		if err != nil {
			return err
		}
		defer dev.Free(mat.Buffer)
		x, err := dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*c)
		if err != nil {
			return err
		}
		defer dev.Free(x)
		y, err := dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n*c)
		if err != nil {
			return err
		}
		defer dev.Free(y)
		dev.Fill(x, 0.5)
		a := kernels.LinearArgs{N: n, X: x, W: mat}
		r.f32 = 2 * n * c * c / timed(func() { dev.Linear(kernels.To(y), &a) })
		r.bf16 = r.f32
		if dev.Info().FastBF16 {
			a.BF16 = true
			r.bf16 = 2 * n * c * c / timed(func() { dev.Linear(kernels.To(y), &a) })
		}
		r.moved = 12 * n * c / timed(func() { dev.Add(kernels.To(y), &kernels.AddArgs{N: n * c, A: x, B: x, Alpha: 1, Beta: 1}) })
		return nil
	})
	return r, err
}

// timed is the shortest of a few runs of f, in seconds, after one to warm up.
func timed(f func()) float64 {
	f()
	best := time.Duration(0)
	for began, i := time.Now(), 0; i < 3 || time.Since(began) < 25*time.Millisecond; i++ {
		t := time.Now()
		f()
		if d := time.Since(t); best == 0 || d < best {
			best = d
		}
	}
	return max(best.Seconds(), 1e-9)
}

// seconds is how long work takes.
func (r rates) seconds(w dry.Work, bf16 bool) float64 {
	if r.f32 == 0 {
		return 0
	}
	rate := r.f32
	if bf16 {
		rate = r.bf16
	}
	return overhead * (w.Matrix/rate + 2*w.Attention/r.f32 + w.Moved/r.moved)
}

// times is k times w.
func times(w dry.Work, k float64) dry.Work {
	return dry.Work{Matrix: k * w.Matrix, Attention: k * w.Attention, Moved: k * w.Moved}
}

// less is the work a beyond b.
func less(a, b dry.Work) dry.Work {
	return dry.Work{Matrix: a.Matrix - b.Matrix, Attention: a.Attention - b.Attention, Moved: a.Moved - b.Moved}
}

// encodeRate is how many values a second are quantized to t.
func encodeRate(t dtype.Type) float64 {
	const rows, cols = 64, 1024
	if !dtype.Fits(t, cols) {
		return 0
	}
	if t == dtype.Of(dtype.F32) || t == dtype.Of(dtype.F16) || t == dtype.Of(dtype.BF16) {
		return 4e8
	}
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(i%977)/977 - 0.5
	}
	m := block.New(t, rows, cols)
	began := time.Now()
	if block.Encode(m, x, nil) != nil {
		return 0
	}
	return rows * cols / max(time.Since(began).Seconds(), 1e-9)
}
