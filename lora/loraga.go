package lora

import (
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// LoRAGA are the settings of init_lora_weights: lora_ga, PEFT's lora_ga_config.
type LoRAGA struct {
	Direction string  `yaml:"direction" json:"direction" doc:"which of the first 2r singular vectors of the gradient A and B take: every second one each (ArBr), A the last r and B the first (A2rBr), or the other way round" default:"ArB2r" enum:"ArBr|A2rBr|ArB2r"`
	Scale     string  `yaml:"scale" json:"scale" doc:"of B: by the number of outputs (stable), to the largest singular value of the weight (weight_svd), both over the adapter's scale (gd_scale), or as it is (unit)" default:"stable" enum:"stable|weight_svd|gd_scale|unit"`
	Gamma     float64 `yaml:"stable_gamma" json:"stable_gamma" doc:"scale: stable divides by its root" default:"16" range:"(0,1e9]"`
}

// gradients makes A and B of the singular vectors of each layer's mean gradient over the
// samples, of which each has the mean loss of its learned tokens (LoRA-GA: Wang et al. 2024,
// arXiv:2407.05000, section 3). The gradients of all chosen layers are held at once.
func (c Config) gradients(m *model.Model, chosen map[*autograd.Param]*nn.Linear, paths map[*nn.Linear]string, samples []Sample) (first, error) {
	if m.Spec.Reward {
		return nil, fail.Usagef("lora.init_lora_weights", "init_lora_weights: true", "init_lora_weights: lora_ga follows the loss of words, and a reward model has none")
	}
	defer func() {
		for w := range chosen {
			m.Dev.Free(w.Grad)
			w.Grad = nil
		}
	}()
	for w := range chosen {
		grad, err := m.Dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), w.Len())
		if err != nil {
			return nil, err
		}
		w.Grad = grad
	}
	out := first{}
	return out, m.Dev.Run(func() error {
		for w := range chosen {
			m.Dev.Fill(w.Grad, 0)
		}
		learning := 0
		for _, s := range samples {
			target, n := s.targets()
			if n == 0 {
				continue
			}
			learning++
			coef := make([]float32, len(target))
			for i, t := range target {
				if t >= 0 {
					coef[i] = 1 / float32(n)
				}
			}
			if err := backward(m, s, target, coef); err != nil {
				return err
			}
		}
		if learning == 0 {
			return fail.Inputf("lora.init_lora_weights", "", "init_lora_weights: lora_ga follows the gradients of samples, and of %d none has a token to learn", len(samples))
		}
		for w, l := range chosen {
			r, alpha, err := c.rankAlpha(paths[l])
			if err != nil {
				return err
			}
			v := out[paths[l]]
			if v.a, v.b, err = c.alongGradient(m, l, 1/float64(learning), r, c.scale(r, alpha)); err != nil {
				return err
			}
			out[paths[l]] = v
			m.Dev.Free(w.Grad)
			w.Grad = nil
		}
		return nil
	})
}

// targets are the tokens that s learns, by the place of the one before: -1 is none.
func (s Sample) targets() (target []int32, n int) {
	target = make([]int32, len(s.IDs))
	for i := range target {
		if target[i] = -1; i+1 < len(s.IDs) && s.Learn[i+1] {
			target[i] = s.IDs[i+1]
			n++
		}
	}
	return target, n
}

// backward adds the gradients of one sample's loss.
func backward(m *model.Model, s Sample, target []int32, coef []float32) error {
	t := &autograd.Tape{Dev: m.Dev, Record: true, Still: true}
	defer t.Free()
	h := m.Hidden(t, model.Pack(s.IDs))
	if t.Err() != nil {
		return t.Err()
	}
	m.LogProb(t, h, target, coef)
	t.Done(h)
	return t.Backward()
}

// alongGradient returns the first A and B of a layer of the singular vectors of its summed gradient, by
// which a factor makes the mean.
func (c Config) alongGradient(m *model.Model, l *nn.Linear, mean float64, r int, scale float32) (a, b []float32, err error) {
	out, in := l.Out(), l.In()
	if 2*r > min(out, in) {
		return nil, nil, fail.Usagef("lora.r", "take a smaller rank", "init_lora_weights: lora_ga needs a rank of at most %d for %s, r is %d", min(out, in)/2, l.Path, r)
	}
	u, s, v, err := leading(m.Dev, l.W.Grad, out, in, 2*r, svdSteps)
	if err != nil {
		return nil, nil, err
	}
	atA, atB := func(k int) int { return k }, func(k int) int { return k + r } // ArB2r
	switch c.LoRAGA.Direction {
	case "ArBr":
		atA, atB = func(k int) int { return 2*k + 1 }, func(k int) int { return 2 * k }
	case "A2rBr":
		atA, atB = atB, atA
	}
	byA, byB := 1.0, mean
	switch c.LoRAGA.Scale {
	case "stable":
		byB *= math.Pow(float64(out), 0.25) / math.Sqrt(c.LoRAGA.Gamma)
	case "gd_scale":
		byA, byB = byA/float64(scale), byB/float64(scale)
	case "weight_svd":
		largest, err := largestOf(m, l)
		if err != nil {
			return nil, nil, err
		}
		if first := s[atB(0)]; first > 0 {
			byB = largest / first
		}
	}
	a, b = make([]float32, r*in), make([]float32, out*r)
	for k := range r {
		for j := range in {
			a[k*in+j] = float32(float64(v[j*2*r+atA(k)]) * byA)
		}
		for i := range out {
			b[i*r+k] = float32(float64(u[i*2*r+atB(k)]) * s[atB(k)] * byB)
		}
	}
	return a, b, nil
}

// largestOf is the largest singular value of l's weight.
func largestOf(m *model.Model, l *nn.Linear) (float64, error) {
	w, err := scratch(m.Dev, l.W.Len())
	if err != nil {
		return 0, err
	}
	defer m.Dev.Free(w)
	if err := m.With(l.W, func() error { m.Dev.Dequantize(w, l.W.Mat); return nil }); err != nil {
		return 0, err
	}
	_, s, _, err := leading(m.Dev, w, l.Out(), l.In(), 1, svdSteps)
	if err != nil {
		return 0, err
	}
	return s[0], nil
}
