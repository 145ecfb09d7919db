package model

import (
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Load reads a model. Weights whose file layout is the memory layout are used
// where the file is mapped, so src must stay open until Close.
func Load(dev kernels.Backend, src *arch.Source, o Options) (*Model, error) {
	if o.Hold != nil && o.Trainable {
		panic("model: Hold and Trainable exclude each other")
	}
	m := newModel(dev, src)
	l := &loader{m: m, src: src, o: o}
	l.build()
	err := dev.Run(l.read)
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// newModel is a model without weights.
func newModel(dev kernels.Backend, src *arch.Source) *Model {
	m := &Model{Spec: src.Spec, Dev: dev, src: src, tensors: map[*autograd.Param]*arch.Tensor{}, owned: map[*autograd.Param]bool{}}
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
	copied []*arch.Tensor                   // not read where they are mapped
}

// build makes the modules with parameters that have names and shapes only.
func (l *loader) build() {
	m, s := l.m, &l.m.Spec
	l.params = map[*arch.Tensor]*autograd.Param{}
	for _, t := range l.src.Tensors() {
		p := &autograd.Param{Name: t.Name, Mat: kernels.Mat{Rows: t.Rows, Cols: t.Cols, Of: t.Rows}}
		m.params, m.tensors[p], l.params[t] = append(m.params, p), t, p
	}
	embed := l.src.At(-1, arch.Embed)
	m.Embed = &nn.Embedding{Path: embed.Path(), W: l.take(embed)}
	for i := range s.Layers {
		m.Blocks = append(m.Blocks, l.block(i))
	}
	m.Norm = l.norm(-1, arch.FinalNorm)
	if s.Tied {
		m.Head = &nn.Linear{Path: l.src.HeadPath(), W: m.Embed.W}
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
	norms := map[arch.Role]*nn.Norm{arch.None: nil}
	norm := func(role arch.Role) *nn.Norm { // the same one where two parts share it
		if _, ok := norms[role]; !ok {
			norms[role] = l.norm(i, role)
		}
		return norms[role]
	}
	var subs []sublayer
	for _, s := range b.spec.Sublayers {
		subs = append(subs, sublayer{norm(s.Pre), norm(s.Post), l.body(i, s.Body)})
	}
	b.wire(subs)
	return b
}

// body makes a mixer or a feed-forward part. Each kind is one line here, a file
// beside this one, and its spec in package arch.
func (l *loader) body(layer int, spec arch.Body) body {
	switch s := spec.(type) {
	case *arch.Attention:
		return l.attention(layer, s)
	case *arch.MLP:
		return l.mlp(layer, s)
	case *arch.MoE:
		return l.moe(layer, s)
	}
	panic(fmt.Sprintf("model: no module for %T", spec))
}

// take gives a tensor's parameter to a module; nil for no tensor.
func (l *loader) take(t *arch.Tensor) *autograd.Param {
	p := l.params[t]
	delete(l.params, t)
	return p
}

func (l *loader) linear(layer int, role arch.Role) *nn.Linear {
	t := l.src.At(layer, role)
	n := &nn.Linear{Path: t.Path(), W: l.take(t), Bias: l.take(l.src.BiasAt(layer, role)), Experts: t.Experts}
	if !l.o.Trainable && l.o.Hold == nil { // a weight of another type has other inputs
		n.Act = t.Act
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

// read fills the parameters.
func (l *loader) read() error {
	if l.o.Trainable {
		return l.readFlat()
	}
	for _, p := range l.m.params {
		if err := l.readParam(p); err != nil {
			return err
		}
		l.m.owned[p] = true
	}
	for _, t := range l.copied { // the system may have mapped them again beside what was read later
		l.src.Forget(t)
	}
	return nil
}

// readParam loads one weight as it is held: vectors as float32, linear weights
// as Hold, everything else as in the file. Matrices held as in the file are read
// where it is mapped; not so vectors, because a system with large pages maps
// megabytes around each.
func (l *loader) readParam(p *autograd.Param) error {
	t := l.m.tensors[p]
	r, borrow, err := l.src.Read(t)
	if err != nil {
		return err
	}
	want := r.Type
	if t.Vector {
		want = dtype.Of(dtype.F32)
	} else if t.IsLinear() && l.o.Hold != nil {
		want = *l.o.Hold
	}
	if want != r.Type {
		if r, err = convert(p.Name, r, want); err != nil {
			return err
		}
		borrow = false
	}
	if borrow && !t.Vector {
		p.Mat, err = l.m.Dev.Load(kernels.Mapped, r.Type, r.Rows, r.Cols, r.Data, kernels.Borrow)
		return err
	}
	p.Mat, err = l.m.Dev.Load(kernels.Weights, r.Type, r.Rows, r.Cols, r.Data, kernels.Copy)
	l.src.Forget(t)
	l.copied = append(l.copied, t)
	return err
}

// convert decodes r and encodes it as t.
func convert(name string, r block.Raw, t dtype.Type) (block.Raw, error) {
	if r.Type == t {
		return r, nil
	}
	if !dtype.Fits(t, r.Cols) {
		return r, fail.Inputf(name, "choose a type whose blocks divide the rows", "rows of %d elements cannot be held as %v", r.Cols, t)
	}
	x := make([]float32, r.Rows*r.Cols)
	block.DecodeAll(x, r)
	if t == dtype.Of(dtype.F32) {
		return block.Raw{Type: t, Rows: r.Rows, Cols: r.Cols, Data: kernels.Bytes(x)}, nil
	}
	out := block.New(t, r.Rows, r.Cols)
	if err := block.Encode(out, x, nil); err != nil {
		return r, fail.Inputf(name, "", "held as %v: %w", t, err)
	}
	return out, nil
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
		if r, err = convert(p.Name, r, dtype.Of(dtype.F32)); err != nil {
			return err
		}
		p.Buffer = l.m.Dev.Slice(l.m.Flat, off, p.Len())
		l.m.Dev.Upload(p.Buffer, r.Data)
		l.src.Forget(t)
		off += p.Len()
	}
	return nil
}
