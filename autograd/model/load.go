package model

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Load reads a model, or so much of it as the device's limit allows: see
// Acquire. Weights whose file layout is the memory layout are used where the
// file is mapped, and others are read again, so src must stay open until Close.
func Load(dev kernels.Backend, src *arch.Source, o Options) (*Model, error) {
	if o.Hold != nil && o.Trainable {
		panic("model: Hold and Trainable exclude each other")
	}
	if src.Spec.Reward != o.Reward {
		return nil, rewardError(src)
	}
	m := newModel(dev, src, o)
	l := &loader{m: m, src: src, o: o}
	l.build()
	if err := l.read(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// newModel is a model without weights.
func newModel(dev kernels.Backend, src *arch.Source, o Options) *Model {
	m := &Model{Spec: src.Spec, Dev: dev, src: src, options: o, stay: newResidency(dev, len(src.Spec.Layers)), tensors: map[*autograd.Param]*arch.Tensor{}, owned: map[*autograd.Param]bool{}, covered: map[*autograd.Param]*cover{}}
	for _, r := range src.Spec.Ropes {
		m.ropes = append(m.ropes, ropeTable{spec: r})
	}
	return m
}

// loader makes the parameters first, then the modules that use them, then reads
// the weights.
type loader struct {
	m   *Model
	src *arch.Source
	o   Options

	params map[*arch.Tensor]*autograd.Param // not yet in a module

	lent    int          // tensors that the blocks so far hand on
	lenders []*attention // those of other layers' keys and values
	picks   *int         // the place of picked keys; nil: none are lent
}

// build makes the modules with parameters that have names and shapes only.
func (l *loader) build() {
	m, s := l.m, &l.m.Spec
	l.params = map[*arch.Tensor]*autograd.Param{}
	for _, t := range l.src.Tensors() {
		p := &autograd.Param{Name: t.Name, Mat: kernels.Mat{Rows: t.Rows, Cols: t.Cols, Of: t.Rows}}
		m.params, m.tensors[p], l.params[t] = append(m.params, p), t, p
	}
	m.Embed = l.table(arch.Embed)
	for i := range s.Layers {
		m.Blocks = append(m.Blocks, l.block(i))
	}
	if s.Part > 0 {
		m.Parts = &Parts{l.table(arch.PartEmbed), l.linear(-1, arch.PartProject), l.norm(-1, arch.PartNorm)}
	}
	if s.Hyper != nil {
		m.hyper = l.hyper(-1, s.Hyper, arch.MixFn, arch.MixBase, arch.MixScale)
	} else if s.Streams > 0 {
		m.Streams = l.streams(s.Streams)
	}
	if s.EmbedNorm {
		m.EmbedNorm = l.norm(-1, arch.EmbedNorm)
	}
	if len(s.Apart) > 0 {
		m.Apart = l.table(arch.ApartEmbed)
	}
	if l.src.At(-1, arch.Near) != nil {
		m.Near = l.table(arch.Near)
	}
	if s.Encoder > 0 {
		m.Encoder = &Encoder{Norm: l.norm(-1, arch.EncoderNorm)}
		if m.Near != nil {
			m.Encoder.Near = l.table(arch.EncoderNear)
		}
		if s.EncoderEmbed {
			m.Encoder.Embed = l.table(arch.EncoderEmbed)
		}
	}
	if s.Positions > 0 {
		m.Positions = l.table(arch.Position)
	}
	if s.EmbedWidth > 0 {
		m.ProjectIn, m.ProjectOut = l.linear(-1, arch.ProjectIn), l.linear(-1, arch.ProjectOut)
	}
	if !s.NoFinalNorm {
		m.Norm = l.norm(-1, arch.FinalNorm)
	}
	if s.Tied {
		m.Head = &nn.Linear{Path: l.src.HeadPath(), W: m.Embed.W, Bias: l.take(l.src.BiasAt(-1, arch.Head))}
	} else {
		m.Head = l.linear(-1, arch.Head)
	}
	for t := range l.params {
		panic(fmt.Sprintf("model: no module uses %s", t.Name))
	}
}

// block makes layer i of its spec.
func (l *loader) block(i int) *Block {
	b := &Block{Index: i, Path: l.src.LayerPath(i), spec: l.m.Spec.Layers[i]}
	for _, p := range l.m.params {
		if l.m.tensors[p].Layer == i {
			b.Params = append(b.Params, p)
		}
	}
	norms := map[arch.Role]*nn.Norm{}
	norm := func(role arch.Role) *nn.Norm { // the same one where two parts share it
		if _, ok := norms[role]; !ok {
			norms[role] = l.normOrNone(i, role)
		}
		return norms[role]
	}
	var subs []sublayer
	for _, s := range b.spec.Sublayers {
		subs = append(subs, sublayer{norm(s.Pre), norm(s.Post), l.body(i, s.Body)})
	}
	if h := b.spec.Hyper; h != nil {
		b.hyper = []*hyper{l.hyper(i, h, arch.MixFn, arch.MixBase, arch.MixScale), l.hyper(i, h, arch.MLPMixFn, arch.MLPMixBase, arch.MLPMixScale)}
	}
	if b.spec.AltUp != nil {
		b.alt = l.altUp(i, b.spec.AltUp)
	}
	b.wire(subs)
	if b.spec.Scaled {
		b.scaleBy(l.take(l.src.At(i, arch.LayerScale)))
	}
	l.lent = b.carry(l.lent)
	return b
}

// body makes a mixer or a feed-forward part. Each kind is one line here, a file
// beside this one, and its spec in package arch.
func (l *loader) body(layer int, spec arch.Body) body {
	switch s := spec.(type) {
	case *arch.Attention:
		return l.attention(layer, s)
	case *arch.MLA:
		return l.mla(layer, s)
	case *arch.Compressed:
		return l.compressed(layer, s)
	case *arch.MLP:
		return l.mlp(layer, s)
	case *arch.MoE:
		return l.moe(layer, s)
	case *arch.Normed:
		return l.normed(layer, s)
	case *arch.Beside:
		return l.beside(layer, s)
	case *arch.ShortConv:
		return l.shortConv(layer, s)
	case *arch.DeltaNet:
		return l.deltaNet(layer, s)
	case *arch.Mamba2:
		return l.mamba2(layer, s)
	case *arch.Mamba1:
		return l.mamba1(layer, s)
	case *arch.Laurel:
		return l.laurel(layer)
	case *arch.Part:
		return l.part(layer, s)
	case *arch.Cross:
		return l.cross(layer, s)
	}
	panic(fmt.Sprintf("model: no module for %T", spec))
}

// take gives a tensor's parameter to a module; nil for no tensor.
func (l *loader) take(t *arch.Tensor) *autograd.Param {
	p := l.params[t]
	delete(l.params, t)
	return p
}

// table is a table outside the blocks.
func (l *loader) table(role arch.Role) *nn.Embedding {
	t := l.src.At(-1, role)
	return &nn.Embedding{Path: t.Path(), W: l.take(t)}
}

func (l *loader) linear(layer int, role arch.Role) *nn.Linear {
	t := l.src.At(layer, role)
	n := &nn.Linear{Path: t.Path(), W: l.take(t), Bias: l.take(l.src.BiasAt(layer, role)), Experts: t.Experts}
	if !l.o.Trainable && !l.o.Exact && l.o.Hold == nil { // a weight of another type has other inputs
		n.Act, n.Grid = t.Act, t.Grid
	}
	return n
}

// norm is the norm of a role; without weights where the model has none for it.
func (l *loader) norm(layer int, role arch.Role) *nn.Norm {
	spec := &l.m.Spec.Norm
	n := &nn.Norm{Kind: spec.Kind, Eps: spec.Eps, Offset: spec.Offset}
	if t := l.src.At(layer, role); t != nil {
		n.Path, n.W, n.Bias = t.Path(), l.take(t), l.take(l.src.BiasAt(layer, role))
	}
	return n
}

// normOrNone is the norm of a role, nil of None.
func (l *loader) normOrNone(layer int, role arch.Role) *nn.Norm {
	if role == arch.None {
		return nil
	}
	return l.norm(layer, role)
}

// read fills the parameters.
func (l *loader) read() error {
	m := l.m
	if !l.o.Trainable {
		err := m.settle()
		for _, p := range m.params { // the system may have mapped what was copied beside what was read later
			if m.owned[p] && (m.tensors[p].Vector || p.Type() != m.tensors[p].Type) {
				m.src.Forget(m.tensors[p])
			}
		}
		return err
	}
	m.stay.kept = len(m.Blocks)
	return m.Dev.Run(l.readFlat)
}

// readFlat loads every weight as float32 into one buffer.
func (l *loader) readFlat() error {
	total := 0
	for _, p := range l.m.params {
		total += p.Len()
	}
	var err error
	if l.m.Flat, err = l.m.Dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), total); err != nil {
		return err
	}
	off := 0
	for _, p := range l.m.params {
		t := l.m.tensors[p]
		r, _, err := l.src.Read(t)
		if err != nil {
			return err
		}
		p.Buffer = l.m.Dev.Slice(l.m.Flat, off, p.Len())
		if err := l.m.decode(p.Buffer, r); err != nil {
			return err
		}
		l.src.Forget(t)
		off += p.Len()
	}
	return nil
}
