package quant

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// exl2Mixed is the scheme whose widths are measured.
const exl2Mixed = "EXL2"

// exl2Method is GPTQ in the order of the inputs' squares, on the scales that EXL2
// has (ExLlamaV2's format), each matrix with the width that a measurement chose.
var exl2Method = Method{
	Name: "exl2", Title: "EXL2 for ExLlamaV2 on GPUs, widths by measured error, calibrated",
	Schemes: []string{exl2Mixed, "W2A16", "W3A16", "W4A16", "W5A16", "W6A16", "W8A16"}, Formats: []string{formats.EXL2},
	Options: func() any { return new(EXL2Options) },
	storage: exl2Storage, check: exl2Check, mix: exl2Mix,
	needs: needHessian, words: true, inOrder: true, round: roundEXL2,
	work: gptqWork,
}

// EXL2Options are what a job can say of EXL2.
type EXL2Options struct {
	Bits float64 `yaml:"bits,omitempty" doc:"EXL2: most bits a weight of what is quantized, scales counted, embedding and head not; whole matrices get 2, 3, 4, 5, 6 or 8 by measured error" unset:"4" range:"[2,8]"`
}

// average is Bits, 4 where it is not set.
func (o *EXL2Options) average() float64 { return cmp.Or(o.Bits, 4) }

// exl2Storage: columns have an order.
func exl2Storage(_ any, _ string, t dtype.Type) (dtype.Type, error) {
	if t.Group <= 0 || t.Group%32 != 0 {
		return t, fail.Usagef("group_size", "32, 64 or 128; layers whose columns 32 does not divide go into ignore", "EXL2 has groups of whole words of 32 columns, group_size is %d", t.Group)
	}
	t.Flags |= dtype.Perm
	return t, nil
}

// roundEXL2 rounds a layer by error feedback.
func roundEXL2(l *layer) (*matrixResult, error) {
	f, err := l.in.factored(orderGroup, int(l.typ.Group), 0.01)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	if f.u == nil {
		return nil, fail.Numericf(l.path, "give more calibration text, or add it to ignore", "the Hessian is not positive definite whatever is added to it")
	}
	return feedBack(f, l, gptqSpec{order: orderGroup, exl2: true})
}

// lattice moves the scales of a group, x [size, rows] its columns, to the nearest
// that EXL2 has: of those around a row's own the one with the least squared error.
func (g *gptqRun) lattice(x kernels.Buffer, scales, zeros []float32) error {
	all := make([]float32, g.size*g.rows)
	if err := down(g.s.dev, all, x); err != nil {
		return err
	}
	top := float32(0)
	for _, s := range scales {
		top = max(top, s)
	}
	has := formats.EXL2Scales(formats.EXL2Top(top))
	par.For(g.rows, 64, func(lo, hi int) {
		v := make([]float32, g.size)
		for r := lo; r < hi; r++ {
			for j := range v {
				v[j] = all[j*g.rows+r]
			}
			scales[r] = nearestScale(g.typ, v, has, scales[r], zeros[r])
		}
	})
	// The largest is in use: it is how the others are stored.
	r := 0
	for i, s := range scales {
		if s > scales[r] {
			r = i
		}
	}
	scales[r] = has[len(has)-1]
	return nil
}

// nearestScale is that of the sixteen scales around a row's own which has the least
// squared error on the values v of a group.
func nearestScale(t dtype.Type, v []float32, has [16]float32, own, zero float32) float32 {
	best, scale, most := math.Inf(1), own, float32(int(1)<<t.Bits()-1)
	for n, s := range has {
		if n < len(has)-1 && has[n+1] < own/2 || n > 0 && has[n-1] > own {
			continue
		}
		sum := 0.0
		for _, x := range v {
			d := float64(rounded(x, s, zero, most) - x)
			sum += d * d
		}
		if sum < best {
			best, scale = sum, s
		}
	}
	return scale
}

// nearestEXL2 rounds a layer to nearest on the scales that EXL2 has, columns in
// their own order. Rows are looked at twice: for the largest scale of each group,
// which the others of it are parts of, and to be rounded.
func nearestEXL2(l *layer) (*matrixResult, error) {
	m := block.New(l.typ, l.rows, l.cols)
	size, groups, step := int(l.typ.Group), l.typ.Groups(l.cols), min(arch.ChunkRows(l.cols), l.rows)
	w := make([]float32, step*l.cols)
	top, where := make([]float32, groups), make([]int, groups)
	each := func(do func(row int, w []float32)) error {
		for at := 0; at < l.rows; at += step {
			n := min(step, l.rows-at)
			if err := down(l.dev, w[:n*l.cols], l.dev.Slice(l.w, at*l.cols, n*l.cols)); err != nil {
				return err
			}
			for r := range n {
				do(at+r, w[r*l.cols:][:l.cols])
			}
		}
		return nil
	}
	grid := func(w []float32, g int) (v []float32, scale, zero float32) {
		v = w[g*size:][:size]
		scale, zero = block.IntGrid(l.typ, slices.Min(v), slices.Max(v))
		return v, scale, zero
	}
	err := each(func(row int, w []float32) {
		for g := range groups {
			if _, s, _ := grid(w, g); s > top[g] {
				top[g], where[g] = s, row
			}
		}
	})
	if err != nil {
		return nil, err
	}
	codes, scales, zeros, most := make([]uint8, l.cols), make([]float32, groups), make([]float32, groups), float32(int(1)<<l.typ.Bits()-1)
	err = each(func(row int, w []float32) {
		for g := range groups {
			has := formats.EXL2Scales(formats.EXL2Top(top[g]))
			v, s, z := grid(w, g)
			if scales[g], zeros[g] = has[len(has)-1], z; where[g] != row {
				scales[g] = nearestScale(l.typ, v, has, s, z)
			}
			for j, x := range v {
				codes[g*size+j] = uint8(min(max(float32(math.RoundToEven(float64(x/scales[g])))+z, 0), most))
			}
		}
		block.SetInt(m, row, codes, scales, zeros)
	})
	if err != nil {
		return nil, err
	}
	index := m.Plane(dtype.PermIndex)
	for c := range l.cols {
		binary.LittleEndian.PutUint32(index[4*c:], uint32(c/size))
	}
	rep, err := measure(l, m)
	return &matrixResult{m, rep}, err
}

// exl2Widths are the types that a matrix may have, narrow ones first.
var exl2Widths = []dtype.Kind{dtype.Int2, dtype.Int3, dtype.Int4, dtype.Int5, dtype.Int6, dtype.Int8}

// exl2Choice is a matrix whose width is to be chosen.
type exl2Choice struct {
	t    *arch.Tensor
	typ  dtype.Type // but for its width
	bits []float64  // by candidate
	errs []float64  // relative, of outputs where inputs are taken for independent
	at   int        // the one chosen
}

// exl2Choices are the matrices that no override names, each as narrow as can be,
// and the bits that are left for them.
func exl2Choices(src *arch.Source, p *FolderPlan) (list []*exl2Choice, left float64, err error) {
	bits, total, spent := p.options.(*EXL2Options).average(), 0.0, 0.0
	for _, t := range src.Tensors() {
		if !p.quantize[t.Name] {
			continue
		}
		total += float64(t.Len())
		typ := p.Types[t.Path()]
		if p.own[t.Path()] {
			spent += formats.EXL2Bits(typ, t.Rows, t.Cols)
			continue
		}
		c := &exl2Choice{t: t, typ: typ}
		for _, k := range exl2Widths {
			typ.Kind = k
			c.bits = append(c.bits, formats.EXL2Bits(typ, t.Rows, t.Cols))
		}
		spent += c.bits[0]
		list = append(list, c)
	}
	if least := spent / total; least > bits {
		return nil, 0, fail.Usagef("bits", fmt.Sprintf("bits: %.2f", math.Ceil(100*least)/100), "bits is %g; the narrowest folder takes %.3f a weight, scales and order of columns counted", bits, least)
	}
	return list, bits*total - spent, nil
}

// exl2Check refuses what exl2Parts does, and numbers of bits that say nothing or
// cannot be kept.
func exl2Check(src *arch.Source, p *FolderPlan) error {
	if err := exl2Parts(src, p); err != nil {
		return err
	}
	if p.Scheme == exl2Mixed {
		_, _, err := exl2Choices(src, p)
		return err
	}
	if bits := p.options.(*EXL2Options).Bits; bits != 0 {
		return fail.Usagef("bits", "leave out scheme, or bits", "bits is %g, and scheme %s has as many as its name says", bits, p.Scheme)
	}
	return nil
}

// exl2Parts refuses matrices that ExLlamaV2 has in other parts.
func exl2Parts(src *arch.Source, p *FolderPlan) error {
	for _, t := range src.Tensors() {
		bad := ""
		switch {
		case !p.quantize[t.Name]:
			continue
		case t.Experts > 0 || len(t.HF) != 1:
			bad = "is several matrices in one, and a width is that of one"
		case t.Role == arch.QKV || t.Role == arch.GateUp:
			bad = "is one matrix here and several in the EXL2 folders that ExLlamaV2 reads"
		}
		if bad != "" {
			return fail.Usagef("ignore", "add it to ignore, so that it stays as it is, or choose another method", "%s %s", t.Path(), bad)
		}
	}
	return nil
}

// exl2Mix chooses the width of every matrix that no override names: the text goes
// through the model once for the squares of the inputs, and what rounding to nearest
// at each width would do to the outputs is weighed against the bits it takes. A plan
// counts the memory and chooses nothing.
func exl2Mix(ctx context.Context, dev kernels.Backend, src *arch.Source, p *FolderPlan, calibration [][]int32, plan bool) error {
	list, left, err := exl2Choices(src, p)
	if err != nil {
		return err
	}
	squares, err := columnSquares(ctx, dev, src, calibration)
	if err != nil {
		return err
	}
	for _, c := range list {
		if len(squares[c.t.Name]) != c.t.Cols {
			return fail.Usagef("ignore", "add it to ignore: it stays as it is", "nothing is known of the inputs of %s", c.t.Path())
		}
		if c.errs, err = exl2Errors(ctx, dev, src, c, squares[c.t.Name], plan); err != nil {
			return err
		}
	}
	if plan {
		return nil
	}
	widen(list, left)
	p.mixed = true
	for _, c := range list {
		c.typ.Kind = exl2Widths[c.at]
		p.Types[c.t.Path()] = c.typ
	}
	return nil
}

// widen spends bits where they take away most error for each, until none fit.
func widen(list []*exl2Choice, left float64) {
	for {
		var best *exl2Choice
		to, gain := 0, 0.0
		for _, c := range list {
			for n := c.at + 1; n < len(c.bits); n++ {
				more := c.bits[n] - c.bits[c.at]
				if g := (c.errs[c.at] - c.errs[n]) / more; more <= left && g > gain {
					best, to, gain = c, n, g
				}
			}
		}
		if best == nil {
			return
		}
		left -= best.bits[to] - best.bits[best.at]
		best.at = to
	}
}

// exl2Errors is Σ squares·(w-ŵ)² over Σ squares·w² for each width; of a plan nothing.
func exl2Errors(ctx context.Context, dev kernels.Backend, src *arch.Source, c *exl2Choice, squares []float64, plan bool) ([]float64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, typ := c.t, c.typ
	step := min(arch.ChunkRows(t.Cols), t.Rows)
	release, err := dev.Host(int64(dtype.Size(t.Type, t.Rows, t.Cols)) + int64(10*step*t.Cols))
	if err != nil {
		return nil, err
	}
	defer release()
	if plan {
		return nil, nil
	}
	in, _, err := src.Read(t)
	if err != nil {
		return nil, err
	}
	defer src.Forget(t)
	errs, all := make([]float64, len(exl2Widths)), 0.0
	typ.Flags = 0
	for at := 0; at < t.Rows; at += step {
		n := min(step, t.Rows-at)
		w, v := make([]float32, n*t.Cols), make([]float32, n*t.Cols)
		block.DecodeRows(w, in, at)
		all += weighed(w, nil, squares)
		for k, kind := range exl2Widths {
			typ.Kind = kind
			m := block.New(typ, n, t.Cols)
			if err := block.Encode(m, w, nil); err != nil {
				return nil, fail.Inputf(t.Path(), "tune verify looks at the whole model", "%w", err)
			}
			block.DecodeAll(v, m)
			errs[k] += weighed(w, v, squares)
		}
	}
	for k := range errs {
		errs[k] = ratio(errs[k], all)
	}
	return errs, nil
}

// weighed is Σ by·(w-v)² over rows of as many columns as by has, in the order of
// rows; v may be nil for nothing.
func weighed(w, v []float32, by []float64) (sum float64) {
	rows := make([]float64, len(w)/len(by))
	par.For(len(rows), 64, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			x := w[r*len(by):][:len(by)]
			for c, d := range x {
				if v != nil {
					d -= v[r*len(by)+c]
				}
				rows[r] += by[c] * float64(d) * float64(d)
			}
		}
	})
	for _, s := range rows {
		sum += s
	}
	return sum
}

// columnSquares are Σx² of the input columns of every linear map of the blocks
// that are no experts, by tensor name.
func columnSquares(ctx context.Context, dev kernels.Backend, src *arch.Source, calibration [][]int32) (map[string][]float64, error) {
	m, err := model.Load(dev, src, model.Options{Stream: true})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	c := &collector{m: m, sums: map[*autograd.Param][]*columnSums{}}
	for _, pass := range passes(calibration) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := dev.Run(func() error { return c.pass(pass) }); err != nil {
			return nil, err
		}
	}
	out := map[string][]float64{}
	for w, s := range c.sums {
		if len(s) == 1 {
			out[w.Name] = s[0].v
		}
	}
	return out, nil
}
