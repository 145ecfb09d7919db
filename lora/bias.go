package lora

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// biasB is the bias of an adapter's B (lora_bias): the layer adds scale·(B·A·x + b), so
// scale·b to each of its rows. It is added to the layer's own bias once for each state
// of the values.
type biasB struct {
	ps    []Param         // b, [out]
	shift *autograd.Param // [1, out] bias + scale·b
	scale float32
	lin   *nn.Linear
}

// biasOf is the name of that bias in PEFT's files.
const biasOf = ".lora_B.bias"

// addBias gives l the bias of its B: zero as PEFT begins, that of the folder, or with
// init_lora_weights: false as uniform as B.
func (ad *Adapter) addBias(l *Layer) error {
	if l.Linear.Experts > 0 {
		return fail.Usagef("lora.lora_bias", "leave them out of the target modules, or use lora_bias: false", "lora_bias is not supported for experts (%s)", l.Path)
	}
	if l.Linear.Shift != nil {
		return fail.Usagef("lora.lora_bias", "merge one of them first", "%s has an adapter with lora_bias already", l.Path)
	}
	out := l.Linear.Out()
	m := &maker{ad: ad, from: ad.from, seed: ad.seed}
	var fill func(s stream, n int) []float32
	if ad.Config.InitWeights == InitNonZero {
		fill = func(s stream, n int) []float32 { return s.uniform(n, 1/math.Sqrt(float64(l.R))) }
	}
	p, err := m.param(l.stored, biasOf[1:], []int{out}, fill)
	if err != nil {
		return err
	}
	p.Group, p.Decay = "B", false
	v := &biasB{ps: []Param{p}, scale: l.LoRA.Scale, lin: l.Linear}
	if v.shift, err = m.hold(l.stored+".shift", 1, out, nil); err != nil {
		return err
	}
	l.Linear.Shift = v.shift
	ad.variants = append(ad.variants, v)
	return ad.dev.Run(func() error { return v.refresh(ad.dev) })
}

// takeBias adds the bias of a stored adapter's B to the layer's own.
func (m *merger) takeBias(w Weighted, path, stored string, scale float32) error {
	f := w.Folder
	bias := m.src.Named(path + ".bias")
	if bias == nil {
		return fail.Inputf(f.Dir, "use the adapter beside its base", "lora_bias: %s has no bias that the adapter's could be merged into", path)
	}
	v, err := f.take(stored+biasOf, int64(bias.Len()))
	if err != nil {
		return err
	}
	before := m.edits[bias.Name].rows
	m.edits[bias.Name] = edit{rows: func(row0 int, b []float32) {
		if before != nil {
			before(row0, b)
		}
		for i := range b {
			b[i] += float32(scale * v[i])
		}
	}}
	return nil
}

func (v *biasB) params() []Param { return v.ps }

func (v *biasB) derived() []*autograd.Param { return []*autograd.Param{v.shift} }

func (v *biasB) detach() { v.lin.Shift = nil }

func (v *biasB) refresh(dev kernels.Backend) error {
	to, own := v.shift.Buffer, v.ps[0].Buffer
	if v.lin.Bias == nil {
		dev.Add(kernels.To(to), &kernels.AddArgs{N: own.Len(), A: own, B: own, Alpha: v.scale})
		return nil
	}
	dev.Dequantize(to, v.lin.Bias.Mat)
	dev.Add(kernels.To(to), &kernels.AddArgs{N: own.Len(), A: to, B: own, Alpha: 1, Beta: v.scale})
	return nil
}

func (v *biasB) finish(dev kernels.Backend) error {
	g, n := v.shift.Grad, v.shift.Len()
	if own := v.ps[0].Grad; own != nil {
		dev.Add(kernels.Into(own), &kernels.AddArgs{N: n, A: g, B: g, Alpha: v.scale})
	}
	if b := v.lin.Bias; b != nil && b.Grad != nil { // of bias: all and lora_only
		dev.Add(kernels.Into(b.Grad), &kernels.AddArgs{N: n, A: g, B: g, Alpha: 1})
	}
	return nil
}
