package lora

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Sample is a text that an initialisation looks at.
type Sample struct {
	IDs   []int32
	Learn []bool // of each token: it is learned
}

// EVA are the settings of init_lora_weights: eva, PEFT's eva_config.
type EVA struct {
	Rho    *float64 `yaml:"rho" json:"rho" doc:"how far above r a layer's rank may go; 1 leaves all as they are" default:"2" range:"[1,1000]"`
	Whiten bool     `yaml:"whiten" json:"whiten" doc:"divide each direction by the root of its singular value" default:"false"`
	Adjust *bool    `yaml:"adjust_scaling_factors" json:"adjust_scaling_factors" doc:"keep alpha/r where the rank changes" default:"true"`
	Labels *bool    `yaml:"use_label_mask" json:"use_label_mask" doc:"look at the tokens that are learned alone" default:"true"`
}

// CorDA are the settings of init_lora_weights: corda, PEFT's corda_config.
type CorDA struct {
	Method string `yaml:"corda_method" json:"corda_method" doc:"ipm adapts what the samples use most of a weight, kpm what they use least" default:"ipm" enum:"ipm|kpm"`
}

// reads reports whether an initialisation looks at samples.
func (i Init) reads() bool { return i == InitEVA || i == InitCorDA || i == InitLoRAGA }

// Reads reports whether a new adapter of c looks at samples, and at how many.
func (c Config) Reads() (reads bool, samples int) {
	if !c.InitWeights.reads() || c.InitFrom != "" {
		return false, 0
	}
	return true, cmp.Or(c.InitSamples, 64)
}

// inputs are sums over what a layer reads: Σ xᵀx [in, in], Σ x and the number of rows.
type inputs struct {
	gram kernels.Buffer
	sum  []float64
	rows int
}

// look runs samples through m block by block and calls done with what each chosen
// linear map of a block reads, before the next block. Layers that share an input share
// its sums.
func look(m *model.Model, c Config, chosen map[*autograd.Param]*nn.Linear, samples []Sample, done func(l *nn.Linear, in *inputs) error) error {
	if len(samples) == 0 {
		return fail.Inputf("lora.init_lora_weights", "", "init_lora_weights: %s looks at samples, and there is none", string(c.InitWeights))
	}
	type run struct {
		t *autograd.Tape
		s *model.State
		x []*autograd.Tensor
	}
	var runs []run
	return m.Dev.Run(func() error {
		defer func() {
			for _, r := range runs {
				r.t.Free()
			}
		}()
		for _, s := range samples {
			r := run{t: &autograd.Tape{Dev: m.Dev}}
			r.s = m.Prepare(r.t, model.Pack(s.IDs))
			r.x = []*autograd.Tensor{m.Begin(r.t, r.s)}
			if runs = append(runs, r); r.t.Err() != nil {
				return r.t.Err()
			}
		}
		for _, b := range m.Blocks {
			seen, leader := map[*autograd.Param]*inputs{}, map[*autograd.Param]*autograd.Param{}
			err := func() error {
				if err := m.Acquire(b); err != nil {
					return err
				}
				defer m.Release(b)
				for i := range runs {
					r := &runs[i]
					by := map[*autograd.Tensor]*autograd.Param{}
					r.t.Tap = func(w *autograd.Param, x *autograd.Tensor, routed *autograd.Routed) {
						if chosen[w] == nil {
							return
						}
						if leader[w] == nil {
							if leader[w] = by[x]; leader[w] == nil {
								leader[w] = w
							}
						}
						if by[x] != nil {
							return
						}
						by[x] = w
						if seen[leader[w]] == nil {
							seen[leader[w]] = &inputs{sum: make([]float64, w.Cols)}
						}
						r.t.Fail(c.add(r.t, seen[leader[w]], x, samples[i]))
					}
					y := b.Forward(r.t, r.x, r.s)
					for _, x := range r.x {
						if !slices.Contains(y, x) {
							r.t.Done(x)
						}
					}
					if r.x = y; r.t.Err() != nil {
						return r.t.Err()
					}
				}
				return nil
			}()
			for _, l := range b.Linears() {
				if err == nil && chosen[l.W] != nil {
					err = done(l, seen[leader[l.W]])
				}
			}
			for _, in := range seen {
				m.Dev.Free(in.gram)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// add counts what one sample's tokens are at a layer, as c's initialisation wants them.
func (c Config) add(t *autograd.Tape, in *inputs, x *autograd.Tensor, s Sample) error {
	var rows []int32
	for i := range s.IDs {
		if c.InitWeights != InitEVA || !*c.EVA.Labels || s.Learn[i] {
			rows = append(rows, int32(i))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	idx := t.Upload(rows, len(rows))
	part := t.Rows(x, idx)
	t.Done(idx)
	defer t.Done(part)
	v, err := t.Values(part)
	if err != nil {
		return err
	}
	cols := x.Cols()
	scale := float32(1)
	if c.InitWeights == InitCorDA { // PEFT divides by |max x|, not by max |x|
		scale = 1 / float32(math.Abs(float64(slices.Max(v))))
	}
	for i := range v {
		v[i] *= scale
		in.sum[i%cols] += float64(v[i])
	}
	in.rows += len(rows)
	scaled, err := scratch(t.Dev, len(v))
	if err != nil {
		return err
	}
	defer t.Dev.Free(scaled)
	t.Dev.Upload(scaled, kernels.Bytes(v))
	dst := kernels.Dst{Add: in.gram != nil}
	if in.gram == nil {
		if in.gram, err = t.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), cols*cols); err != nil {
			return err
		}
	}
	dst.Buffer = in.gram
	t.Dev.Gram(dst, &kernels.GramArgs{Rows: len(rows), Cols: cols, X: scaled})
	return nil
}

// first are the first values of a layer's adapter, by its path.
type first map[string]struct{ a, b []float32 }

// fromData returns the first values of a new adapter for the chosen modules, and the
// settings that they lead to.
func fromData(m *model.Model, c Config, mods []Module, ports []nn.Port, samples []Sample) (Config, first, error) {
	chosen, paths := map[*autograd.Param]*nn.Linear{}, map[*nn.Linear]string{}
	inBlocks := map[*nn.Linear]bool{}
	for l := range m.Linears() {
		inBlocks[l] = true
	}
	for _, mod := range mods {
		l := ports[mod.index].Linear
		if l == nil || l.Experts > 0 || !inBlocks[l] {
			return c, nil, fail.Usagef("lora.init_lora_weights", "name linear layers of the blocks in target_modules", "init_lora_weights: %s is for linear layers of the blocks, %s is none", string(c.InitWeights), mod.name())
		}
		chosen[l.W], paths[l] = l, ports[mod.index].Path
	}
	if c.InitWeights == InitCorDA {
		out := first{}
		err := look(m, c, chosen, samples, func(l *nn.Linear, in *inputs) error {
			r, alpha, err := c.rankAlpha(paths[l])
			if err != nil {
				return err
			}
			v := out[paths[l]]
			v.a, v.b, err = c.corda(m, l, in, len(samples), r, c.scale(r, alpha))
			out[paths[l]] = v
			return err
		})
		return c, out, err
	}
	if c.InitWeights == InitLoRAGA {
		out, err := c.gradients(m, chosen, paths, samples)
		return c, out, err
	}
	return c.eva(m, chosen, paths, samples)
}

// corda returns the first A and B of a layer (Yang et al. 2024, arXiv:2406.05223): of
// W·C with the inputs' covariance C the leading singular vectors (ipm, instruction
// previewed) or the last ones (kpm, knowledge preserved), C taken out of the right ones
// again.
func (c Config) corda(m *model.Model, l *nn.Linear, in *inputs, samples, r int, scale float32) (a, b []float32, err error) {
	dev, out, n := m.Dev, l.Out(), l.In()
	if r > min(out, n) {
		return nil, nil, fail.Usagef("lora.r", "take a smaller rank", "init_lora_weights: corda needs a rank of at most %d for %s, r is %d", min(out, n), l.Path, r)
	}
	var made []kernels.Buffer
	defer func() {
		for _, b := range made {
			dev.Free(b)
		}
	}()
	alloc := func(n int) kernels.Buffer {
		b, e := scratch(dev, n)
		if e != nil {
			err = errors.Join(err, e)
			return nil
		}
		made = append(made, b)
		return b
	}
	w, wc, spread, inv, low, half := alloc(out*n), alloc(out*n), alloc(n*n), alloc(n*n), alloc(r*n), alloc(r*n)
	if err != nil {
		return nil, nil, err
	}
	cov, err := values(dev, in.gram)
	if err != nil {
		return nil, nil, err
	}
	mean := 0.0
	for i := range cov {
		cov[i] /= float32(samples)
		if i%(n+1) == 0 {
			mean += float64(cov[i]) / float64(n)
		}
	}
	plain := slices.Clone(cov)
	for damp := 0.01; ; damp *= 2 {
		for i := 0; i < len(cov); i += n + 1 {
			cov[i] = plain[i] + float32(damp*mean)
		}
		dev.Upload(spread, kernels.Bytes(cov))
		if err = dev.Factor(inv, spread, n, 0); err == nil {
			break
		}
		if !errors.Is(err, kernels.ErrNotPositive) || damp > 1e6 || mean == 0 {
			return nil, nil, fmt.Errorf("%s: covariance of the inputs: %w", l.Path, err)
		}
	}
	if err := m.With(l.W, func() error { dev.Dequantize(w, l.W.Mat); return nil }); err != nil {
		return nil, nil, err
	}
	dev.Gemm(kernels.To(wc), &kernels.GemmArgs{A: w, B: spread, M: out, N: n, K: n, Alpha: 1})
	if c.CorDA.Method == "kpm" {
		return leastUsed(dev, w, wc, out, n, r, scale)
	}
	a, b, err = InitPiSSA.decomposed(dev, wc, out, n, r, scale)
	if err != nil {
		return nil, nil, err
	}
	dev.Upload(low, kernels.Bytes(a)) // A·C⁻¹ = A·uᵀ·u
	dev.Gemm(kernels.To(half), &kernels.GemmArgs{A: low, B: inv, TB: true, M: r, N: n, K: n, Alpha: 1})
	dev.Gemm(kernels.To(low), &kernels.GemmArgs{A: half, B: inv, M: r, N: n, K: n, Alpha: 1})
	a, err = values(dev, low)
	return a, b, err
}

// leastUsed returns A and B of the r last singular vectors of wc = w·C, both [out, in]
// f32: with the left vectors U and values S, B is U·√S and A the rest of U·Uᵀ·w, which
// is U·S·Vᵀ·C⁻¹.
func leastUsed(dev kernels.Backend, w, wc kernels.Buffer, out, in, r int, scale float32) (a, b []float32, err error) {
	release, err := dev.Host(trailingMemory(out, in))
	if err != nil {
		return nil, nil, err
	}
	v, err := values(dev, wc)
	if err != nil {
		release()
		return nil, nil, err
	}
	u, s, err := trailing(v, out, in, r)
	release()
	if err != nil {
		return nil, nil, err
	}
	left, err := upload(dev, u)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Free(left)
	rest, err := scratch(dev, r*in)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Free(rest)
	dev.Gemm(kernels.To(rest), &kernels.GemmArgs{A: left, TA: true, B: w, M: r, N: in, K: out, Alpha: 1})
	if a, err = values(dev, rest); err != nil {
		return nil, nil, err
	}
	for k := range r {
		root := math.Sqrt(s[k] / float64(scale))
		inverse := 0.0
		if root > 0 {
			inverse = 1 / (root * float64(scale))
		}
		for j := range in {
			a[k*in+j] *= float32(inverse)
		}
		for i := range out {
			u[i*r+k] *= float32(root)
		}
	}
	return a, u, nil
}

// eva makes A the principal components of each layer's inputs, B zero, and deals the
// ranks of all layers to the components that explain the largest shares of variance
// (Paischer et al. 2024, arXiv:2410.07170, sections 3.1 and 3.2).
func (c Config) eva(m *model.Model, chosen map[*autograd.Param]*nn.Linear, paths map[*nn.Linear]string, samples []Sample) (Config, first, error) {
	most := int(math.Round(float64(c.R) * *c.EVA.Rho))
	type parts struct {
		layer  *nn.Linear
		share  []float64 // of the variance, by component
		values []float64 // singular values of the centred inputs
		v      []float32 // [in, components]
	}
	var all []*parts
	err := look(m, c, chosen, samples, func(l *nn.Linear, in *inputs) error {
		if in == nil || in.rows < 2 {
			return fail.Inputf("lora.init_lora_weights", "give more samples", "init_lora_weights: eva saw %s read fewer than two tokens", l.Path)
		}
		n := l.In()
		g, err := values(m.Dev, in.gram)
		if err != nil {
			return err
		}
		total := 0.0
		for i := range g {
			g[i] = float32(float64(g[i]) - in.sum[i/n]*in.sum[i%n]/float64(in.rows))
			if i%(n+1) == 0 {
				total += float64(g[i])
			}
		}
		centred, err := scratch(m.Dev, len(g))
		if err != nil {
			return err
		}
		defer m.Dev.Free(centred)
		m.Dev.Upload(centred, kernels.Bytes(g))
		_, s, v, err := leading(m.Dev, centred, n, n, min(most, n), svdSteps)
		p := &parts{layer: l, v: v}
		for _, x := range s {
			p.values = append(p.values, math.Sqrt(x))
			p.share = append(p.share, x/max(total, math.SmallestNonzeroFloat32))
		}
		all = append(all, p)
		return err
	})
	if err != nil {
		return c, nil, err
	}
	type component struct{ of, i int }
	var order []component
	for of, p := range all {
		for i := range p.share {
			order = append(order, component{of, i})
		}
	}
	slices.SortStableFunc(order, func(x, y component) int {
		a, b := all[x.of].share[x.i], all[y.of].share[y.i]
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	ranks := make([]int, len(all))
	for _, x := range order[:min(c.R*len(all), len(order))] {
		ranks[x.of]++
	}
	out, made := c, first{}
	out.TargetModules = Targets{}
	for i, p := range all {
		path, r := paths[p.layer], ranks[i]
		if r == 0 {
			continue
		}
		out.TargetModules.Names = append(out.TargetModules.Names, path)
		if r != c.R {
			out.RankPattern = append(out.RankPattern, PatternEntry{path, float64(r)})
			if *c.EVA.Adjust {
				out.AlphaPattern = append(out.AlphaPattern, PatternEntry{path, c.Alpha * float64(r) / float64(c.R)})
			}
		}
		in, k := p.layer.In(), len(p.share)
		a := make([]float32, r*in)
		for j := range a {
			if a[j] = p.v[j%in*k+j/in]; c.EVA.Whiten {
				a[j] /= float32(math.Sqrt(p.values[j/in]))
			}
		}
		v := made[path]
		v.a, v.b = a, make([]float32, p.layer.Out()*r)
		made[path] = v
	}
	return out, made, nil
}
