package lora

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// dora is the magnitude of one layer (Liu et al. 2024, arXiv:2402.09353): with
// V = W + s·B·A the layer computes (m/‖V‖)·x·Vᵀ + bias, ‖V‖ by row. As in the
// paper (section 4.3) and PEFT, ‖V‖ is a constant for the gradient. It is
// computed once for each state of the weights, see Refresh.
type dora struct {
	m     *autograd.Param // [1, out], trained
	scale *nn.Scale       // m/‖V‖ and bias/scale; its Grad is m's
	inv   kernels.Buffer  // [out] 1/‖V‖
	lin   *nn.Linear
}

func (d *dora) free(dev kernels.Backend) {
	if d == nil {
		return
	}
	d.lin.Scale = nil
	dev.Free(d.inv)
	for _, p := range []*autograd.Param{d.m, d.scale.G, d.scale.Bias} {
		if p != nil {
			dev.Free(p.Buffer)
		}
	}
}

// addDoRA gives l a magnitude that changes nothing: ‖V‖ itself.
func (ad *Adapter) addDoRA(l *Layer) error {
	norms, err := ad.norms(l)
	if err != nil {
		return err
	}
	out := l.Linear.Out()
	d := &dora{lin: l.Linear, scale: &nn.Scale{}}
	l.dora = d
	if d.inv, err = ad.dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), out); err != nil {
		return err
	}
	if d.m, err = newParam(ad.dev, l.Path+".lora_magnitude_vector", 1, out, norms); err != nil {
		return err
	}
	if d.scale.G, err = newParam(ad.dev, l.Path+".scale", 1, out, norms); err != nil {
		return err
	}
	if l.Linear.Bias != nil {
		if d.scale.Bias, err = newParam(ad.dev, l.Path+".scaled_bias", 1, out, norms); err != nil {
			return err
		}
	}
	l.Linear.Scale = d.scale
	return ad.refresh(l)
}

// norms returns ‖W + s·B·A‖ of every row, decoding some rows at a time.
func (ad *Adapter) norms(l *Layer) ([]float32, error) {
	in, out := l.Linear.In(), l.Linear.Out()
	step := min(chunkRows(in), out)
	stats := make([]float32, out)
	err := ad.dev.Run(func() error {
		v, err := ad.dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), step*in)
		if err != nil {
			return err
		}
		defer ad.dev.Free(v)
		s, err := ad.dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), out)
		if err != nil {
			return err
		}
		defer ad.dev.Free(s)
		for r := 0; r < out; r += step {
			n := min(step, out-r)
			ad.dev.Dequantize(ad.dev.Slice(v, 0, n*in), l.Linear.W.RowsOf(r, n))
			ad.dev.Gemm(kernels.Into(v), ad.dev.Slice(l.LoRA.B.Buffer, r*l.R, n*l.R), l.LoRA.A.Buffer, false, false, n, in, l.R, l.LoRA.Scale)
			ad.dev.Norm(kernels.Dst{}, kernels.Dst{}, ad.dev.Slice(s, r, n), &kernels.NormArgs{Kind: kernels.RMSNorm, N: n, C: in, X: v})
		}
		return ad.dev.Download(f32bytes(stats), s)
	})
	for i, s := range stats { // 1/√(mean of squares)
		stats[i] = float32(math.Sqrt(float64(in)) / float64(s))
	}
	return stats, err
}

// Refresh brings what is derived from the adapter's values up to date. Call it
// after they were changed and before the next forward pass; without DoRA it
// does nothing.
func (ad *Adapter) Refresh() error {
	for i := range ad.Layers {
		if ad.Layers[i].dora == nil {
			continue
		}
		if err := ad.refresh(&ad.Layers[i]); err != nil {
			return err
		}
	}
	return nil
}

func (ad *Adapter) refresh(l *Layer) error {
	d := l.dora
	norms, err := ad.norms(l)
	if err != nil {
		return err
	}
	m := make([]float32, len(norms))
	bias := make([]float32, len(norms))
	err = ad.dev.Run(func() error {
		if d.scale.Bias != nil {
			if err := ad.dev.Download(f32bytes(bias), d.lin.Bias.Buffer); err != nil {
				return err
			}
		}
		return ad.dev.Download(f32bytes(m), d.m.Buffer)
	})
	if err != nil {
		return err
	}
	for i, n := range norms {
		m[i] /= n
		if !(m[i] > 0) && ad.dev.Info().Name != "dry" {
			return fail.Numericf(l.Path, "a lower learning_rate", "magnitude %d over its norm is %v, it must be above 0", i, m[i])
		}
		norms[i], bias[i] = 1/n, bias[i]/m[i]
	}
	d.scale.G.Grad = d.m.Grad
	return ad.dev.Run(func() error {
		ad.dev.Upload(d.inv, f32bytes(norms))
		ad.dev.Upload(d.scale.G.Buffer, f32bytes(m))
		if d.scale.Bias != nil {
			ad.dev.Upload(d.scale.Bias.Buffer, f32bytes(bias))
		}
		return nil
	})
}

// FinishGradients turns the gradients that backward passes left into those of
// Params. Call it once after a step's last backward pass; without DoRA it does
// nothing.
func (ad *Adapter) FinishGradients() error {
	return ad.dev.Run(func() error {
		for _, l := range ad.Layers {
			if l.dora != nil && l.dora.m.Grad != nil { // times 1/‖V‖, which is above 0
				ad.dev.Act(kernels.To(l.dora.m.Grad), &kernels.ActArgs{Kind: kernels.ReLU, N: 1, F: l.dora.m.Len(), Gate: l.dora.inv, Up: l.dora.m.Grad})
			}
		}
		return nil
	})
}

// Freeze forgets where gradients went. Call it when their memory is freed.
func (ad *Adapter) Freeze() {
	for _, l := range ad.Layers {
		if l.dora != nil {
			l.dora.scale.G.Grad = nil
		}
	}
}

// fillMagnitudes takes the magnitudes of a folder.
func (ad *Adapter) fillMagnitudes(f *Folder) error {
	for i := range ad.Layers {
		l := &ad.Layers[i]
		if l.dora == nil {
			continue
		}
		v, err := f.take(l.Path+".lora_magnitude_vector", int64(l.Linear.Out()))
		if err != nil {
			return err
		}
		if slices.ContainsFunc(v, func(x float32) bool { return !(x > 0) }) {
			return fail.Inputf(f.Dir, "", "tensor %s%s.lora_magnitude_vector holds a value that is not above 0", prefix, l.Path)
		}
		if err := ad.dev.Run(func() error { ad.dev.Upload(l.dora.m.Buffer, f32bytes(v)); return nil }); err != nil {
			return err
		}
		if err := ad.refresh(l); err != nil {
			return err
		}
	}
	return nil
}
