package recipes

import (
	"time"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Rates are what this machine does in a second, measured for about a tenth of
// one. Estimates of time are made from them.
type Rates struct {
	F32, BF16 float64 // floating point operations of products
	Moved     float64 // bytes of element-wise work
}

// overhead is how much longer real work takes than its counted work at the
// probe's rates: smaller shapes, host work between kernels. Processor time of
// QLoRA steps of SmolLM2-135M was 1.0 times the count; what does not run in
// parallel is the rest.
const overhead = 1.15

// probe measures the run's device, whatever its memory limit.
func (x *run) probe() (Rates, error) {
	_, threads := x.shares(1)
	dev, err := x.open(device.NoLimit, threads)
	if err != nil {
		return Rates{}, err
	}
	defer dev.Close()
	return probe(dev)
}

// probe measures dev with products of the shape of a small model's.
func probe(dev kernels.Backend) (r Rates, err error) {
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
		r.F32 = 2 * n * c * c / timed(func() { dev.Linear(kernels.To(y), &a) })
		r.BF16 = r.F32
		if dev.Info().FastBF16 {
			a.BF16 = true
			r.BF16 = 2 * n * c * c / timed(func() { dev.Linear(kernels.To(y), &a) })
		}
		r.Moved = 12 * n * c / timed(func() { dev.Add(kernels.To(y), &kernels.AddArgs{N: n * c, A: x, B: x, Alpha: 1, Beta: 1}) })
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

// Seconds is how long work takes.
func (r Rates) Seconds(w dry.Work, bf16 bool) float64 {
	if r.F32 == 0 {
		return 0
	}
	rate := r.F32
	if bf16 {
		rate = r.BF16
	}
	return overhead * (w.Matrix/rate + 2*w.Attention/r.F32 + w.Moved/r.Moved)
}
