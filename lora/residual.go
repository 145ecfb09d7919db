package lora

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
)

// onResidual reports whether an adapter of this initialisation trains on
// W - s·B0·A0 with its first B and A in place of W. Here W stays as it is: a second
// adapter that is not trained takes -s·B0·A0, and what is saved is both as one of
// rank 2r, which belongs on W.
func (i Init) onResidual() bool {
	return i == InitPiSSA || i == InitOLoRA || i == InitCorDA || i == InitLoRAGA || i.rounds() < svdSteps
}

// pissaRounds begins the name of PiSSA by a number of rounds, which follows.
const pissaRounds = InitPiSSA + "_niter_"

// rounds is how many rounds leading may take: those that pissa_niter_N names, or as many
// as it takes.
func (i Init) rounds() int {
	text, ok := strings.CutPrefix(string(i), string(pissaRounds))
	if n, err := strconv.ParseUint(text, 10, 32); ok && err == nil && n < svdSteps {
		return int(n)
	}
	return svdSteps
}

// decomposed returns the first A [r, in] and B [out, r] of a layer whose weight is w
// [out, in] f32, a buffer of dev; inside Run. PiSSA (Meng et al. 2024,
// arXiv:2404.02948) and LoftQ (Li et al. 2023, arXiv:2310.08659), whose w is what
// quantization lost, take the leading singular vectors, each side with the root of the
// value over the scale; OLoRA (Büyükakyüz 2024, arXiv:2406.01775) the first columns of
// Q and rows of R.
func (i Init) decomposed(dev kernels.Backend, w kernels.Buffer, out, in, r int, scale float32) (a, b []float32, err error) {
	if r > min(out, in) {
		return nil, nil, fail.Usagef("lora.r", "take a smaller rank", "init_lora_weights: %s needs a rank of at most %d for a layer of %d×%d, r is %d", string(i), min(out, in), out, in, r)
	}
	if i == InitOLoRA {
		return orthogonal(dev, w, out, in, r)
	}
	u, s, v, err := leading(dev, w, out, in, r, i.rounds())
	if err != nil {
		return nil, nil, err
	}
	a, b = make([]float32, r*in), u
	for k := range r {
		root := math.Sqrt(s[k] / float64(scale))
		for j := range in {
			a[k*in+j] = float32(float64(v[j*r+k]) * root)
		}
		for j := range out {
			b[j*r+k] = float32(float64(u[j*r+k]) * root)
		}
	}
	return a, b, nil
}

// orthogonal returns the first r columns of Q as B and rows of R as A of w = Q·R, with
// the signs of Householder's reflections.
func orthogonal(dev kernels.Backend, w kernels.Buffer, out, in, r int) (a, b []float32, err error) {
	first, err := scratch(dev, out*r)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Free(first)
	dev.Copy2D(kernels.To(first), &kernels.Copy2DArgs{Rows: out, Cols: r, X: w, XStride: in, YStride: r})
	v, err := values(dev, first)
	if err != nil {
		return nil, nil, err
	}
	columns := make([][]float64, r)
	for j := range columns {
		columns[j] = make([]float64, out)
		for i := range columns[j] {
			columns[j][i] = float64(v[i*r+j])
		}
	}
	signs := reflections(columns)
	orthonormal(columns)
	for j, c := range columns {
		for i := range c {
			c[i] *= signs[j]
		}
	}
	b = rowsOf(columns)
	dev.Upload(first, kernels.Bytes(b))
	rest, err := scratch(dev, r*in)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Free(rest)
	dev.Gemm(kernels.To(rest), &kernels.GemmArgs{A: first, TA: true, B: w, M: r, N: in, K: out, Alpha: 1})
	a, err = values(dev, rest)
	return a, b, err
}

// reflections are the signs that Householder's method gives the columns of Q: the
// diagonal of R has the sign that the reflected column had not.
func reflections(columns [][]float64) []float64 {
	work := make([][]float64, len(columns))
	for j, c := range columns {
		work[j] = slices.Clone(c)
	}
	signs := make([]float64, len(columns))
	for j, c := range work {
		norm := math.Sqrt(dot(c[j:], c[j:]))
		signs[j] = -1                    // R's diagonal is -sign·norm, Gram and Schmidt's is norm
		if c[j] < 0 != (j == len(c)-1) { // of the last row nothing is left to reflect
			signs[j] = 1
		}
		if j == len(c)-1 {
			break
		}
		h := slices.Clone(c[j:])
		h[0] -= float64(signs[j] * norm)
		length := dot(h, h)
		if length == 0 {
			continue
		}
		for _, d := range work[j:] {
			f := 2 * dot(h, d[j:]) / length
			for i := range h {
				d[j+i] -= float64(f * h[i])
			}
		}
	}
	return signs
}

// fromWeight returns the first A and B of l, made of its weight.
func (ad *Adapter) fromWeight(l *Layer) (a, b []float32, err error) {
	lin := l.Linear
	if lin.Experts > 0 {
		return nil, nil, fail.Usagef("lora.init_lora_weights", "true", "init_lora_weights: %s is not supported for experts (%s)", string(ad.Config.InitWeights), l.Path)
	}
	err = ad.dev.Run(func() error {
		w, err := scratch(ad.dev, lin.W.Len())
		if err != nil {
			return err
		}
		defer ad.dev.Free(w)
		if err := ad.model.With(lin.W, func() error { ad.dev.Dequantize(w, lin.W.Mat); return nil }); err != nil {
			return err
		}
		if ad.Config.InitWeights == InitLoftQ {
			a, b, err = ad.loftQ(l, w)
			return err
		}
		a, b, err = ad.Config.InitWeights.decomposed(ad.dev, w, lin.Out(), lin.In(), l.R, ad.Config.scale(l.R, l.Alpha))
		return err
	})
	return a, b, err
}

// subtract attaches the adapter that takes the first a and b of l away.
func (ad *Adapter) subtract(l *Layer, a, b []float32) error {
	l.minus = &nn.LoRA{Scale: -l.LoRA.Scale}
	var err error
	if l.minus.A, err = newParam(ad.dev, l.stored+".first_A", l.R, l.Linear.In(), a); err != nil {
		return err
	}
	if l.minus.B, err = newParam(ad.dev, l.stored+".first_B", l.Linear.Out(), l.R, b); err != nil {
		return err
	}
	l.Linear.Adapters = append(l.Linear.Adapters, l.minus)
	return nil
}

// free takes l's adapters off and frees them.
func (l *Layer) free(dev kernels.Backend) {
	for _, low := range []*nn.LoRA{l.LoRA, l.minus} {
		if low == nil {
			continue
		}
		removeLoRA(l.Linear, low)
		for _, p := range []*autograd.Param{low.A, low.B} {
			if p != nil {
				dev.Free(p.Buffer)
			}
		}
	}
	l.dora.free(dev)
}

// joined is the values v of an A [r, in] or a B [out, r] with those of the adapter
// that is taken away: one of rank 2r, of which the second half of B changes its sign
// (peft/tuners/lora/model.py, subtract_mutated_init).
func (p Param) joined(dev kernels.Backend, v []float32) ([]float32, []int, error) {
	first, err := values(dev, p.first.Buffer)
	if err != nil {
		return nil, nil, err
	}
	if p.Group == "A" {
		return append(v, first...), []int{2 * p.Rows, p.Cols}, nil
	}
	var out []float32
	for r := range p.Rows {
		out = append(out, v[r*p.Cols:(r+1)*p.Cols]...)
		for _, x := range first[r*p.Cols : (r+1)*p.Cols] {
			out = append(out, -x)
		}
	}
	return out, []int{p.Rows, 2 * p.Cols}, nil
}

// converted is c for what joined makes, with the same scale.
func (c Config) converted() Config {
	if !c.InitWeights.onResidual() {
		return c
	}
	factor := 2.0
	if c.UseRSLoRA {
		factor = math.Sqrt2
	}
	scaled := func(p Pattern, f float64) Pattern {
		out := slices.Clone(p)
		for i := range out {
			out[i].Value *= f
		}
		return out
	}
	c.R, c.Alpha, c.InitWeights, c.CorDA = 2*c.R, factor*c.Alpha, InitKaiming, nil
	c.LoRAGA = nil
	c.RankPattern, c.AlphaPattern = scaled(c.RankPattern, 2), scaled(c.AlphaPattern, factor)
	return c
}

// residualOf is what an adapter of f on the residual takes from the weight t.
func (m *merger) residualOf(f *Folder, t *arch.Tensor, r int, scale float32) (factor, error) {
	release, err := m.dev.Host(int64(4 * t.Len()))
	if err != nil {
		return factor{}, err
	}
	defer release()
	raw, _, err := m.src.Read(t)
	if err != nil {
		return factor{}, err
	}
	v := make([]float32, t.Len())
	block.DecodeAll(v, raw)
	out := factor{r: r, parts: 1}
	err = m.dev.Run(func() error {
		w, err := upload(m.dev, v)
		if err != nil {
			return err
		}
		defer m.dev.Free(w)
		out.a, out.b, err = f.Config.InitWeights.decomposed(m.dev, w, t.Rows, t.Cols, r, scale)
		return err
	})
	return out, err
}
