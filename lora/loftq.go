package lora

import (
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LoftQ are the settings of init_lora_weights: loftq, PEFT's loftq_config, and of a file.
type LoftQ struct {
	Bits int `yaml:"loftq_bits" json:"loftq_bits,omitempty" doc:"of the base: NF4" default:"4" range:"[4,4]"`
	Iter int `yaml:"loftq_iter" json:"loftq_iter,omitempty" doc:"how often quantizing what the adapter leaves of the weight, and making the adapter of what that loses, follow each other" default:"1" range:"[1,100]"`
}

// turns is how often an adapter of c alternates with its base.
func (c Config) turns() int {
	if c.InitWeights != InitLoftQ || c.LoftQ == nil {
		return 1
	}
	return max(1, c.LoftQ.Iter)
}

// alternate is algorithm 1 of Li et al. 2023 (arXiv:2310.08659): the first A [r, in] and
// B [out, r] are the leading singular vectors of what holding the weight lost, then what
// they leave of the weight is held instead, and so on for so many turns. whole and w are
// the weight and what it is held as, [out, in] f32; hold makes w of another weight. In
// the end w is what A and B belong on. Call it inside Run.
func alternate(dev kernels.Backend, whole, w kernels.Buffer, out, in, r int, scale float32, turns int, hold func(x kernels.Buffer) error) (a, b []float32, err error) {
	n := out * in
	rest, err := scratch(dev, n)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Free(rest)
	for turn := 1; ; turn++ {
		dev.Add(kernels.To(rest), &kernels.AddArgs{N: n, A: whole, B: w, Alpha: 1, Beta: -1})
		if a, b, err = InitLoftQ.decomposed(dev, rest, out, in, r, scale); err != nil || turn >= turns {
			return a, b, err
		}
		dev.Add(kernels.To(rest), &kernels.AddArgs{N: n, A: whole, Alpha: 1})
		if err = scaledProduct(dev, kernels.Into(rest), a, b, r, in, -scale); err == nil {
			err = hold(rest)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// loftQ returns the first A and B of l, whose weight as it is held is w. After more than
// one turn another matrix lies in its place.
func (ad *Adapter) loftQ(l *Layer, w kernels.Buffer) (a, b []float32, err error) {
	p := l.Linear.W
	t := ad.model.TensorOf(p)
	if t == nil || t.Type.Quantized() && !t.Type.ScaledFloat8() || ad.model.HeldType(p) == t.Type || !ad.model.HeldType(p).Quantized() {
		return nil, nil, fail.Usagef("lora.init_lora_weights", "use adapter: qlora on a base of floats", "init_lora_weights: loftq makes up for what quantization loses, and %s is not quantized in memory alone", l.Path)
	}
	whole, err := original(ad.dev, ad.model.Source(), t)
	if err != nil {
		return nil, nil, err
	}
	defer ad.dev.Free(whole)
	turns := ad.Config.turns()
	var mat kernels.Mat
	if turns > 1 {
		if mat, err = ad.dev.Load(kernels.Weights, ad.model.HeldType(p), p.Rows, p.Cols, nil, kernels.Copy); err != nil {
			return nil, nil, err
		}
		if err = hold(ad.dev, mat, whole, w); err != nil { // another adapter may have put its own in place
			ad.dev.Free(mat.Buffer)
			return nil, nil, err
		}
	}
	a, b, err = alternate(ad.dev, whole, w, l.Linear.Out(), l.Linear.In(), l.R, ad.Config.scale(l.R, l.Alpha), turns, func(x kernels.Buffer) error { return hold(ad.dev, mat, x, w) })
	if turns > 1 {
		if err != nil {
			ad.dev.Free(mat.Buffer)
			return nil, nil, err
		}
		restore := ad.model.Cover(p, mat)
		ad.covers = append(ad.covers, func() { restore(); ad.dev.Free(mat.Buffer) })
	}
	return a, b, err
}

// hold makes mat, of another type, of x, and w what mat says.
func hold(dev kernels.Backend, mat kernels.Mat, x, w kernels.Buffer) error {
	err := dev.Quantize(mat, x, nil)
	if err == nil {
		dev.Dequantize(w, mat)
	}
	return err
}

// original are the values of a tensor of src in a buffer of dev, which the caller frees.
func original(dev kernels.Backend, src *arch.Source, t *arch.Tensor) (kernels.Buffer, error) {
	raw, _, err := src.Read(t)
	if err != nil {
		return nil, err
	}
	v := make([]float32, t.Len())
	block.DecodeAll(v, raw)
	return upload(dev, v)
}

// alternated makes v, a weight of the base as it is held, what an adapter of rank r
// belongs on after turns of LoftQ.
func (m *merger) alternated(t *arch.Tensor, typ dtype.Type, v []float32, r int, turns int) error {
	return m.dev.Run(func() error {
		whole, err := original(m.dev, m.src, t)
		if err != nil {
			return err
		}
		defer m.dev.Free(whole)
		w, err := upload(m.dev, v)
		if err != nil {
			return err
		}
		defer m.dev.Free(w)
		mat, err := m.dev.Load(kernels.Weights, typ, t.Rows, t.Cols, nil, kernels.Copy)
		if err != nil {
			return err
		}
		defer m.dev.Free(mat.Buffer)
		if _, _, err = alternate(m.dev, whole, w, t.Rows, t.Cols, r, 1, turns, func(x kernels.Buffer) error { return hold(m.dev, mat, x, w) }); err != nil {
			return err
		}
		return m.dev.Download(kernels.Bytes(v), w)
	})
}
