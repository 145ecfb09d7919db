package merge

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// plan is a merge with every decision made: what is read, how it is combined, where
// it goes.
type plan struct {
	cfg    *Config
	method *method
	models map[Model]*arch.Source
	order  []Model // References
	vocab  *Vocabulary
	seed   uint64

	config  []byte
	tensors []planned
	whole   []formats.Tensor // the same as in memory
	notes   []string
}

// planned is one tensor of the result.
type planned struct {
	formats.TensorPlan
	in    []input
	base  int        // the place in in of a base that is apart from the models; -1
	named int        // the place in in of what is called base_model; -1
	table bool       // rows are tokens
	read  dtype.Type // what inputs are rounded to; the zero Type: nothing
	all   map[string]float64
}

// input is one model's tensor.
type input struct {
	model Model
	index int
	src   *arch.Source
	file  arch.FileTensor
	each  map[string]float64
}

// donor is the model whose config.json and tokenizer the result has.
func (p *plan) donor() *arch.Source { return p.models[p.order[0]] }

// make decides everything; it reads headers only.
func (p *plan) make() error {
	if err := p.checkModels(); err != nil {
		return err
	}
	var from []int // the layer of the first source of every layer of the result
	for i := range p.cfg.Slices {
		s := &p.cfg.Slices[i]
		for j := range s.Sources {
			in := &s.Sources[j]
			n := len(p.models[in.Model].Spec.Layers)
			if in.Layers == nil {
				if in.Layers = []int{0, n}; n != s.Sources[0].Layers[1] {
					return fail.Usagef("", "merge runs of layers with slices", "%s has %d layers, %s %d", s.Sources[0].Model, s.Sources[0].Layers[1], in.Model, n)
				}
			}
			if in.Layers[1] > n {
				return fail.Usagef("", "", "slices[%d]: layer_range of %s is %v, it has %d layers", i, in.Model, in.Layers, n)
			}
		}
		for l := s.Sources[0].Layers[0]; l < s.Sources[0].Layers[1]; l++ {
			from = append(from, l)
		}
		others := 0
		for _, in := range s.Sources {
			if in.Model != s.Base || p.method.base == alike {
				others++
			}
		}
		base := slices.ContainsFunc(s.Sources, func(in Input) bool { return in.Model == s.Base })
		if err := p.method.accepts(base, others); err != nil {
			return err
		}
	}
	spec, err := p.writeConfig(from)
	if err != nil {
		return err
	}
	list, err := spec.Rules()
	if err != nil {
		return err
	}
	for i := range list {
		if err := p.rule(&list[i]); err != nil {
			return err
		}
	}
	return p.cfg.unused()
}

// Whole refuses a model of whose parts some are not merged, as the first of a merge may
// have none.
func Whole(m Model, s *arch.Source) error {
	if n := len(s.Carried()); n > 0 {
		return fail.Usagef(string(m), "export the half that reads text as a model of its own first", "has %d tensors of parts that are not merged", n)
	}
	return nil
}

// checkModels refuses models that cannot be merged with the first, and unties heads
// where any model has one of its own.
func (p *plan) checkModels() error {
	first := p.donor()
	untied := false
	for _, m := range p.order {
		s := p.models[m]
		if s.Architecture() != first.Architecture() {
			return fail.Usagef("", "", "%s is of architecture %s, %s of %s: only models of one architecture are merged", p.order[0], first.Architecture(), m, s.Architecture())
		}
		untied = untied || !s.Spec.Tied
		if m == p.order[0] {
			if err := Whole(m, s); err != nil {
				return err
			}
		}
	}
	for _, m := range p.order {
		if untied {
			p.models[m].Untie()
		}
	}
	return nil
}

// writeConfig makes config.json and returns what it says.
func (p *plan) writeConfig(from []int) (*arch.Spec, error) {
	src := p.donor()
	kind := src.LinearType().Kind
	if t := p.outType(); t.Kind != 0 {
		kind = t.Kind
	} else if linear := p.firstLinear(); linear != nil {
		kind = linear.FloatType().Kind
	}
	text, spec, err := src.Restack(from, p.tokens(), arch.StoredAs(kind))
	p.config = text
	return spec, err
}

// firstLinear is a linear map of the first model of the first slice.
func (p *plan) firstLinear() *arch.Tensor {
	for _, t := range p.models[p.cfg.Slices[0].Sources[0].Model].Tensors() {
		if t.IsLinear() {
			return t
		}
	}
	return nil
}

// tokens is the number of rows of the result's tables: what the tokenizer asks for,
// or what all models have.
func (p *plan) tokens() int {
	if p.vocab != nil {
		return p.vocab.Rows
	}
	n := p.donor().Spec.V
	for _, m := range p.order {
		n = min(n, p.models[m].Spec.V)
	}
	for _, m := range p.order {
		if v := p.models[m].Spec.V; v != n && m != "" {
			note := fmt.Sprintf("%s has %d rows of tokens, the result %d: the further ones are left out (tokenizer_source keeps them)", m, v, n)
			if !slices.Contains(p.notes, note) {
				p.notes = append(p.notes, note)
			}
		}
	}
	return n
}

var floats = map[Float]dtype.Kind{"float32": dtype.F32, "float16": dtype.F16, "bfloat16": dtype.BF16}

func typeOf(name Float) dtype.Type {
	if k, ok := floats[name]; ok {
		return dtype.Of(k)
	}
	return dtype.Type{}
}

// outType is what tensors are stored as, the zero Type: as the inputs are.
func (p *plan) outType() dtype.Type {
	if p.cfg.OutDType != "" {
		return typeOf(p.cfg.OutDType)
	}
	return typeOf(p.cfg.DType)
}

// rule plans the tensors of the result that rule r is for. In the tensors outside the
// blocks the first slice decides, in what follows the blocks the last.
func (p *plan) rule(r *arch.Rule) error {
	if r.Tied {
		return nil
	}
	s, layer, t := &p.cfg.Slices[0], -1, 0.0
	if r.Role == arch.Head || r.Role == arch.FinalNorm || r.Role == arch.ProjectOut {
		s = &p.cfg.Slices[len(p.cfg.Slices)-1]
	}
	if r.Layer >= 0 {
		s, layer, t = p.sliceOf(r.Layer)
	}
	var ins []*arch.Tensor
	for _, in := range s.Sources {
		name := r.Name
		if layer >= 0 {
			name = r.InLayer(name, in.Layers[0]+layer)
		}
		ins = append(ins, p.models[in.Model].Named(name))
	}
	if missing := slices.Index(ins, nil); missing >= 0 {
		if r.Optional && !slices.ContainsFunc(ins, func(t *arch.Tensor) bool { return t != nil }) {
			return nil
		}
		return fail.Inputf(string(s.Sources[missing].Model), "only models with the same tensors are merged", "%s is missing, which another model has", r.Name)
	}
	out := &arch.Tensor{Rule: r}
	for k, f := range out.AsFolder() {
		if err := p.piece(s, t, out, f, k, ins); err != nil {
			return err
		}
	}
	p.whole = append(p.whole, formats.Tensor{Name: r.Name, Shape: r.Shape(), Type: p.tensors[len(p.tensors)-1].Type})
	return nil
}

// sliceOf is where a layer of the result comes from: its slice, its number there, and
// how far through the slice it is. A slice of one layer is at its end.
func (p *plan) sliceOf(layer int) (*Slice, int, float64) {
	for i := range p.cfg.Slices {
		s := &p.cfg.Slices[i]
		n := s.Sources[0].Layers[1] - s.Sources[0].Layers[0]
		if layer >= n {
			layer -= n
			continue
		}
		if n == 1 {
			return s, layer, 1
		}
		return s, layer, float64(layer) / float64(n-1)
	}
	panic("merge: a layer of no slice")
}

// piece plans one tensor of the result's file.
func (p *plan) piece(s *Slice, t float64, out *arch.Tensor, f arch.FileTensor, k int, ins []*arch.Tensor) error {
	one := planned{TensorPlan: formats.TensorPlan{Name: f.Name, Shape: f.Shape, Type: p.outType(), Linear: out.IsLinear()}, base: -1, named: -1,
		table: (out.Role == arch.Embed || out.Role == arch.Head) && !out.Bias, read: typeOf(p.cfg.DType), all: map[string]float64{}}
	for _, x := range p.method.all {
		v, err := p.value(x, f.Name, t, s, nil, true)
		if err != nil {
			return err
		}
		one.all[x.name] = v
	}
	for i, in := range s.Sources {
		pieces := ins[i].AsFolder()
		if k >= len(pieces) {
			return fail.Inputf(string(in.Model), "", "%s is made of other pieces than in %s", f.Name, p.order[0])
		}
		got := input{model: in.Model, index: slices.Index(p.order, in.Model), src: p.models[in.Model], file: pieces[k], each: map[string]float64{}}
		if err := p.checkShape(&one, in.Model, pieces[k]); err != nil {
			return err
		}
		isBase := in.Model == s.Base && p.method.base != alike
		if isBase {
			one.base = i
		}
		if in.Model == s.Base {
			one.named = i
		}
		for _, x := range p.method.each {
			v, err := p.value(x, pieces[k].Name, t, s, &s.Sources[i], x.required && !isBase)
			if err != nil {
				return err
			}
			got.each[x.name] = v
		}
		one.in = append(one.in, got)
	}
	if one.table && p.vocab != nil {
		if err := p.vocab.covers(one.in); err != nil {
			return err
		}
	}
	if one.Type.Kind == 0 {
		one.Type = one.in[max(one.base, 0)].file.Of.FloatType()
	}
	p.tensors = append(p.tensors, one)
	return nil
}

// checkShape refuses a tensor of another shape. Tables may have rows of their own.
func (p *plan) checkShape(one *planned, m Model, f arch.FileTensor) error {
	want, got := one.Shape, f.Shape
	if one.table {
		want, got = want[1:], got[1:]
	}
	if !slices.Equal(want, got) {
		return fail.Inputf(string(m), "only models of one shape are merged", "%s is %v, in %s %v", f.Name, f.Shape, p.order[0], one.Shape)
	}
	return nil
}

// value is a parameter for a tensor: what its model says, its slice, or all.
func (p *plan) value(x parameter, name string, t float64, s *Slice, in *Input, needed bool) (float64, error) {
	levels := []Parameters{s.Parameters, p.cfg.Parameters}
	if in != nil {
		levels = append([]Parameters{in.Parameters}, levels...)
	}
	for _, l := range levels {
		set := l[x.name]
		if set == nil {
			continue
		}
		if v, ok := set.at(name, t); ok {
			if v < x.lo || v > x.hi {
				return 0, fail.Usagef("", fmt.Sprintf("between %g and %g", x.lo, x.hi), "%s of %s is %g", x.name, name, v)
			}
			return v, nil
		}
	}
	if needed && x.required {
		of := ""
		if in != nil {
			of = " of " + string(in.Model)
		}
		return 0, fail.Usagef("", "give it under the model, the slice or parameters", "merge_method %s needs %s%s (for %s)", p.method.name, x.name, of, name)
	}
	return x.value, nil
}
