package recipes

import (
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// ghost is a model that does not exist yet, or a held form of one that does:
// names, shapes and types without values. A stage's own code runs over it on
// kernels/dry.
type ghost struct {
	path    string
	config  []byte
	tensors []formats.Tensor
	mapped  map[string]bool
}

func (g *ghost) Path() string                { return g.path }
func (g *ghost) Format() string              { return arch.InMemory }
func (g *ghost) Config() []byte              { return g.config }
func (g *ghost) KV() []formats.KV            { return nil }
func (g *ghost) File(string) ([]byte, error) { return nil, nil }
func (g *ghost) Tensors() []formats.Tensor   { return g.tensors }
func (g *ghost) Warnings() []string          { return nil }
func (g *ghost) Close() error                { return nil }

// No tensor has bytes: see arch.InMemory.
func (g *ghost) Read(*formats.Tensor) ([]byte, error)               { return nil, nil }
func (g *ghost) ReadRows(*formats.Tensor, int, int) ([]byte, error) { return nil, nil }
func (g *ghost) Map(t *formats.Tensor) ([]byte, bool)               { return nil, g.mapped[t.Name] }

// Held is how a ghost holds one tensor.
type Held struct {
	Type   dtype.Type
	Act    dtype.Type // what inputs of the product with it are rounded to; the zero Type: not at all
	Mapped bool       // used where the file is mapped, not copied into memory
}

// NewGhost is src, lying at path, with other types and without values: what a
// stage has yet to make, or a held form of a model. src may be closed afterwards.
func NewGhost(src *arch.Source, path string, pick func(t *arch.Tensor) Held) (*arch.Source, error) {
	config, err := src.ConfigJSON(map[string]any{"quantization_config": nil})
	if err != nil {
		return nil, err
	}
	g := &ghost{path: path, config: config, mapped: map[string]bool{}}
	for _, t := range src.Tensors() {
		h := pick(t)
		g.tensors = append(g.tensors, formats.Tensor{Name: t.Name, Shape: t.Shape(), Type: h.Type, Act: h.Act})
		g.mapped[t.Name] = h.Mapped
	}
	return arch.FromReader(g)
}

// Mappable reports whether a type lies in files as it lies in memory.
func Mappable(t dtype.Type) bool {
	return !t.HasPlanes()
}

// Source opens the model a reference stands for: its file where it exists, a
// ghost where a stage has yet to make it. The planner closes it.
func (p *Planner) Source(ref Ref) (*arch.Source, error) {
	key := ref.Key()
	if s, ok := p.models[key]; ok {
		return s, nil
	}
	s, err := p.open(ref)
	if err == nil {
		p.models[key] = s
	}
	return s, err
}

func (p *Planner) open(ref Ref) (*arch.Source, error) {
	if ref.Stage == "" || p.x.done[ref.Stage] != nil {
		path, err := ResolvePath(p.Env.Path(ref))
		if err != nil {
			return nil, err
		}
		return arch.Open(OnlyModelIn(path))
	}
	j := p.Env.Job(ref.Stage)
	if j.Kind.Shapes != nil {
		return j.Kind.Shapes(p, j)
	}
	in, _ := j.In("model")
	from, err := p.Source(in)
	if err != nil {
		return nil, err
	}
	held, err := j.Kind.Held(p, j, from, ref.Member)
	if err != nil {
		return nil, err
	}
	g, err := NewGhost(from, ref.String(), func(t *arch.Tensor) Held {
		h := held[t.Name]
		h.Mapped = Mappable(h.Type)
		return h
	})
	if err == nil && j.Kind.Grows != nil {
		var v int
		if v, err = j.Kind.Grows(p, j, from); err == nil {
			err = g.Grow(v)
		}
	}
	if err == nil && slices.ContainsFunc(j.makes(), func(m Made) bool { return m.Reward && !m.Adapter && m.Member == ref.Member }) {
		err = g.Reward(func(n int) []float32 { return make([]float32, n) })
	}
	return g, err
}
