package quant

import (
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// fused are the matrices of a layer that vLLM joins, and that llm-compressor therefore gives one number for the whole in
// NVFP4 (llmcompressor.modifiers.utils.fused_modules): projections to queries, keys and values, or to the latents of
// these, and gates with what they gate.
var fused = [][]arch.Role{{arch.Q, arch.K, arch.V, arch.QA, arch.KVA}, {arch.Gate, arch.Up}, {arch.SharedGate, arch.SharedUp}}

// numbered reports a type with a number for the whole matrix: NVFP4.
func numbered(t dtype.Type) bool { return t.ScaledFloat() && t.Flags&dtype.Nested != 0 }

// checkNumbers refuses a search where matrices share a number, which is taken from the model as it is.
func (p *FolderPlan) checkNumbers() error {
	for _, l := range p.Layers {
		if p.search != nil && numbered(p.Types[l]) {
			return fail.Usagef("search", "leave it out", "%s becomes %v, whose number for the whole is taken from the weights before a search moves scales", l, p.Types[l])
		}
	}
	return nil
}

// sharers are the matrices that have one number with x: those of its part in fused, where all of them get one.
func (o *output) sharers(x *arch.Tensor) []*arch.Tensor {
	for _, roles := range fused {
		if !slices.Contains(roles, x.Role) {
			continue
		}
		var all []*arch.Tensor
		for _, role := range roles {
			switch t := o.from.At(x.Layer, role); {
			case t == nil:
			case !numbered(o.plan.typeOf[t.Name]):
				return []*arch.Tensor{x}
			default:
				all = append(all, t)
			}
		}
		return all
	}
	return []*arch.Tensor{x}
}

// topsOf are the largest magnitudes of a weight that becomes NVFP4, and of those that share its number: one, or one an
// expert; nil of other types.
func (o *output) topsOf(x *arch.Tensor, t dtype.Type) ([]float32, error) {
	if !numbered(t) {
		return nil, nil
	}
	tops := make([]float32, max(x.Experts, 1))
	for _, s := range o.sharers(x) {
		own, ok := o.tops[s.Name]
		if !ok {
			var err error
			if own, err = o.largest(s, len(tops)); err != nil {
				return nil, err
			}
			if o.tops == nil {
				o.tops = map[string][]float32{}
			}
			o.tops[s.Name] = own
		}
		for i, v := range own {
			tops[i] = max(tops[i], v)
		}
	}
	return tops, nil
}

// largest are the largest magnitudes in n parts of the rows of a weight; in a plan, which has no values, 0.
func (o *output) largest(x *arch.Tensor, n int) ([]float32, error) {
	tops := make([]float32, n)
	if o.sink == nil {
		return tops, nil
	}
	m, _, err := o.from.Read(x)
	if err != nil {
		return nil, err
	}
	row := make([]float32, x.Cols)
	for r := range x.Rows {
		block.Decode(row, m, r, 0, x.Cols)
		top := &tops[r/(x.Rows/n)]
		for _, v := range row {
			*top = max(*top, v, -v)
		}
	}
	o.from.Forget(x)
	return tops, nil
}
