package stages

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes"
)

// dryModel loads src on dev. The caller closes it.
func dryModel(dev *dry.Dry, src *arch.Source) (*model.Model, error) {
	return dryModelAs(dev, src, model.Options{})
}

// dryModelAs loads src on dev as o says. The caller closes it.
func dryModelAs(dev *dry.Dry, src *arch.Source, o model.Options) (*model.Model, error) {
	src, err := shapesOf(src)
	if err != nil {
		return nil, err
	}
	return model.Load(dev, src, o)
}

// shapesOf is src without what has to be put together or decoded on reading: a
// plan reads headers.
func shapesOf(src *arch.Source) (*arch.Source, error) {
	if !slices.ContainsFunc(src.Tensors(), func(t *arch.Tensor) bool { return !src.Mapped(t) }) {
		return src, nil
	}
	return asHeld(src)
}

// asHeld is src as it lies in memory.
func asHeld(src *arch.Source) (*arch.Source, error) {
	return recipes.NewGhost(src, src.Reader.Path(), func(t *arch.Tensor) recipes.Held {
		return recipes.Held{Type: t.Type, Act: t.Act, Mapped: src.Mapped(t)}
	})
}

// rewardShapes is shapesOf for the reward model that training makes of src.
func rewardShapes(src *arch.Source) (*arch.Source, error) {
	g, err := asHeld(src)
	if err != nil {
		return nil, err
	}
	return g, g.Reward(func(n int) []float32 { return make([]float32, n) })
}

// counted runs a stage's code on a backend that only counts, under the planner's limit.
func counted(p *recipes.Planner, s *recipes.StagePlan, work func(dev *dry.Dry) error) error {
	o := dryAs(p.Env.Device().Info(), p.Limit)
	return dryRun(&o, s, work)
}

// countHost counts memory that a stage takes beside the device's.
func countHost(s *recipes.StagePlan, n int64) {
	var m kernels.MemStats
	m.Peak[kernels.Host] = n
	s.CountMemory(n, m)
}

// zeroRows are n rows of a number of tokens, all learned but the first half.
func zeroRows(n, tokens int) []data.Example {
	out := make([]data.Example, n)
	for i := range out {
		out[i] = data.Example{ID: uint64(i), IDs: make([]int32, max(tokens, 2)), Loss: [][2]int32{{int32(max(tokens, 2) / 2), int32(max(tokens, 2))}}}
	}
	return out
}

// InTable is a number of tokens, as many at most as a model that adds its positions from
// a table takes of one text: no text that it is given is longer.
func InTable(spec *arch.Spec, tokens int) int {
	if spec.Positions > 0 {
		return min(tokens, spec.Positions-spec.PosOffset)
	}
	return tokens
}

// times is k times w.
func times(w dry.Work, k float64) dry.Work {
	return dry.Work{Matrix: k * w.Matrix, Attention: k * w.Attention, Moved: k * w.Moved}
}

// less is the work a beyond b.
func less(a, b dry.Work) dry.Work {
	return dry.Work{Matrix: a.Matrix - b.Matrix, Attention: a.Attention - b.Attention, Moved: a.Moved - b.Moved}
}

// typesOf lists the types of the tensors that an output of from will have.
func typesOf(from *arch.Source, o arch.Dense) map[string]dtype.Type {
	out := map[string]dtype.Type{}
	for _, t := range o.Plan(from) {
		out[t.Name] = t.Type
	}
	return out
}

// typed are tensors of these types, whose inputs are not rounded.
func typed(types map[string]dtype.Type) map[string]recipes.Held {
	out := map[string]recipes.Held{}
	for name, t := range types {
		out[name] = recipes.Held{Type: t}
	}
	return out
}

// sizeAs is the number of bytes of a model's tensors in the given types.
func sizeAs(src *arch.Source, types map[string]dtype.Type) (bytes int64) {
	for _, t := range src.Tensors() {
		bytes += int64(dtype.Size(types[t.Name], t.Rows, t.Cols))
	}
	return bytes
}

// heldBytes is the size of a model's tensors as it stores them.
func heldBytes(src *arch.Source) (bytes int64) {
	for _, t := range src.Tensors() {
		bytes += int64(dtype.Size(t.Type, t.Rows, t.Cols))
	}
	return bytes
}

// checkNF4 refuses a model whose linear weights cannot be held as NF4.
func checkNF4(src *arch.Source) error {
	for _, t := range src.Tensors() {
		if t.IsLinear() && !dtype.Fits(dtype.NF4Double, t.Cols) {
			return fail.Usagef("train.adapter", "adapter: lora", "rows of %d values (%s) cannot be held as NF4", t.Cols, t.Name)
		}
	}
	return nil
}

func bitsOf(bytes, params int64) string {
	return fmt.Sprintf("%.2f bits a weight", 8*float64(bytes)/float64(max(params, 1)))
}
