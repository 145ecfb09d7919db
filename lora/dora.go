package lora

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
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
	scale *autograd.Param // [1, out] m/‖V‖; its Grad is m's
	inv   kernels.Buffer  // [out] 1/‖V‖
	lin   *nn.Linear
}

func (d *dora) free(dev kernels.Backend) {
	if d == nil {
		return
	}
	d.lin.Scale = nil
	dev.Free(d.inv)
	for _, p := range []*autograd.Param{d.m, d.scale} {
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
	d := &dora{lin: l.Linear}
	l.dora = d
	if d.inv, err = ad.dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), out); err != nil {
		return err
	}
	if d.m, err = newParam(ad.dev, l.Path+".lora_magnitude_vector", 1, out, norms); err != nil {
		return err
	}
	if d.scale, err = newParam(ad.dev, l.Path+".scale", 1, out, norms); err != nil {
		return err
	}
	l.Linear.Scale = d.scale
	return ad.refresh(l)
}

// norms returns ‖W + s·B·A‖ of every row, decoding some rows at a time.
func (ad *Adapter) norms(l *Layer) ([]float32, error) {
	in, out := l.Linear.In(), l.Linear.Out()
	step := min(arch.ChunkRows(in), out)
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
		return ad.model.With(l.Linear.W, func() error {
			for r := 0; r < out; r += step {
				n := min(step, out-r)
				ad.dev.Dequantize(ad.dev.Slice(v, 0, n*in), l.Linear.W.RowsOf(r, n))
				ad.dev.Gemm(kernels.Into(v), &kernels.GemmArgs{A: ad.dev.Slice(l.LoRA.B.Buffer, r*l.R, n*l.R), B: l.LoRA.A.Buffer, M: n, N: in, K: l.R, Alpha: l.LoRA.Scale})
				ad.dev.RowStats(kernels.To(ad.dev.Slice(s, r, n)), &kernels.RowStatsArgs{Stat: kernels.SumSq, Rows: n, Cols: in, X: v})
			}
			return ad.dev.Download(kernels.Bytes(stats), s)
		})
	})
	for i, s := range stats { // by way of 1/√(mean of squares) in float32, as RMSNorm keeps it
		stats[i] = float32(math.Sqrt(float64(in)) / float64(float32(1/math.Sqrt(float64(s)/float64(in)))))
	}
	return stats, err
}

// Refresh brings what is derived from the adapter's values up to date. Call it
// after they were changed and before the next forward pass; plain LoRA has
// nothing derived.
func (ad *Adapter) Refresh() error {
	for i := range ad.Layers {
		if ad.Layers[i].dora == nil {
			continue
		}
		if err := ad.refresh(&ad.Layers[i]); err != nil {
			return err
		}
	}
	return ad.refreshKind()
}

func (ad *Adapter) refresh(l *Layer) error {
	d := l.dora
	norms, err := ad.norms(l)
	if err != nil {
		return err
	}
	m := make([]float32, len(norms))
	err = ad.dev.Run(func() error { return ad.dev.Download(kernels.Bytes(m), d.m.Buffer) })
	if err != nil {
		return err
	}
	for i, n := range norms {
		if n == 0 { // a row of zeros has no direction: nothing for a magnitude to scale
			m[i] = 0
			continue
		}
		m[i] /= n
		norms[i] = 1 / n
	}
	d.scale.Grad = d.m.Grad
	return ad.dev.Run(func() error {
		ad.dev.Upload(d.inv, kernels.Bytes(norms))
		ad.dev.Upload(d.scale.Buffer, kernels.Bytes(m))
		return nil
	})
}

// FinishGradients turns the gradients that backward passes left into those of
// Params. Call it once after a step's last backward pass; plain LoRA has nothing
// derived.
func (ad *Adapter) FinishGradients() error {
	return ad.dev.Run(func() error {
		for _, v := range ad.variants {
			if err := v.finish(ad.dev); err != nil {
				return err
			}
		}
		for _, l := range ad.Layers {
			if l.dora != nil && l.dora.m.Grad != nil {
				ad.dev.Mul(kernels.To(l.dora.m.Grad), &kernels.MulArgs{N: 1, C: l.dora.m.Len(), X: l.dora.m.Grad, S: l.dora.inv})
			}
		}
		return nil
	})
}

// Freeze forgets where gradients went. Call it when their memory is freed.
func (ad *Adapter) Freeze() {
	for _, l := range ad.Layers {
		if l.dora != nil {
			l.dora.scale.Grad = nil
		}
	}
	for _, v := range ad.variants {
		for _, p := range v.derived() {
			ad.dev.Free(p.Grad)
			p.Grad = nil
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
		if slices.ContainsFunc(v, func(x float32) bool { return x-x != 0 }) {
			return fail.Inputf(f.Dir, "", "tensor %s%s.lora_magnitude_vector holds a value that is not finite", prefix, l.Path)
		}
		if err := ad.dev.Run(func() error { ad.dev.Upload(l.dora.m.Buffer, kernels.Bytes(v)); return nil }); err != nil {
			return err
		}
		if err := ad.refresh(l); err != nil {
			return err
		}
	}
	return nil
}
