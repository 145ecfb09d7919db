package model

import (
	"fmt"
	"unsafe"

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
	m := &Model{Spec: src.Spec, Dev: dev, owned: map[*autograd.Param]bool{}}
	m.rope.spec, m.rope.rot = src.Spec.Rope, src.Spec.Rot
	l := &loader{m: m, src: src, o: o}
	l.build()
	err := dev.Run(l.read)
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// loader makes the modules first, then their weights.
type loader struct {
	m   *Model
	src *arch.Source
	o   Options

	copied []string // tensors that are not read where they are mapped
}

// build makes the modules with parameters that have names and shapes only.
func (l *loader) build() {
	m, s := l.m, &l.m.Spec
	m.Embed = &nn.Embedding{Path: "model.embed_tokens", W: l.param("model.embed_tokens.weight", s.V, s.C)}
	for i := range s.Layers {
		m.Stages = append(m.Stages, l.block(i))
	}
	m.Norm = l.norm("model.norm")
	if s.Tied {
		m.Head = &nn.Linear{Path: "lm_head", W: m.Embed.W}
	} else {
		m.Head = l.linear("lm_head", s.V, s.C, false)
	}
}

func (l *loader) block(i int) *Block {
	s := &l.m.Spec
	p := fmt.Sprintf("model.layers.%d.", i)
	b := &Block{Index: i, Path: p[:len(p)-1], spec: s, window: s.WindowOf(i)}
	b.AttnNorm = l.norm(p + "input_layernorm")
	b.Q = l.linear(p+"self_attn.q_proj", s.H*s.D, s.C, s.AttnBias)
	b.K = l.linear(p+"self_attn.k_proj", s.K*s.D, s.C, s.AttnBias)
	b.V = l.linear(p+"self_attn.v_proj", s.K*s.D, s.C, s.AttnBias)
	b.O = l.linear(p+"self_attn.o_proj", s.C, s.H*s.D, s.OutBias)
	b.MLPNorm = l.norm(p + "post_attention_layernorm")
	b.Gate = l.linear(p+"mlp.gate_proj", s.F, s.C, s.MLPBias)
	b.Up = l.linear(p+"mlp.up_proj", s.F, s.C, s.MLPBias)
	b.Down = l.linear(p+"mlp.down_proj", s.C, s.F, s.MLPBias)
	for _, n := range []*nn.Linear{b.Q, b.K, b.V, b.Gate, b.Up} {
		n.Inner = true
	}
	b.AttnNorm.Inner, b.MLPNorm.Inner = true, true
	return b
}

func (l *loader) param(name string, rows, cols int) *autograd.Param {
	p := &autograd.Param{Name: name, Mat: kernels.Mat{Rows: rows, Cols: cols, Of: rows}}
	l.m.params = append(l.m.params, p)
	return p
}

func (l *loader) linear(path string, out, in int, bias bool) *nn.Linear {
	n := &nn.Linear{Path: path, W: l.param(path+".weight", out, in)}
	if bias {
		n.Bias = l.param(path+".bias", 1, out)
	}
	return n
}

func (l *loader) norm(path string) *nn.Norm {
	return &nn.Norm{Path: path, Kind: kernels.RMSNorm, W: l.param(path+".weight", 1, l.m.Spec.C), Eps: l.m.Spec.Eps}
}

// read fills the parameters.
func (l *loader) read() error {
	if l.o.Trainable {
		return l.readFlat()
	}
	hold := map[*autograd.Param]bool{}
	for n := range l.m.Linears() {
		hold[n.W] = l.o.Hold != nil
	}
	for _, p := range l.m.params {
		if err := l.readParam(p, hold[p]); err != nil {
			return err
		}
		l.m.owned[p] = true
	}
	for _, name := range l.copied { // the system may have mapped them again beside what was read later
		l.src.Forget(name)
	}
	return nil
}

// raw returns a tensor's bytes after checking its shape.
func (l *loader) raw(p *autograd.Param) (block.Raw, bool, error) {
	n := 1
	for _, d := range l.src.Shape(p.Name) {
		n *= d
	}
	if !l.src.Has(p.Name) || n != p.Len() {
		return block.Raw{}, false, fail.Inputf(p.Name, "is the checkpoint complete, and its config its own?",
			"found shape %v, need [%d %d]", l.src.Shape(p.Name), p.Rows, p.Cols)
	}
	data, borrow, err := l.src.Read(p.Name)
	if err != nil {
		return block.Raw{}, false, err
	}
	r := block.Raw{Type: l.src.Type(p.Name), Rows: p.Rows, Cols: p.Cols, Data: data}
	if err := r.Check(); err != nil {
		return r, false, fail.Inputf(p.Name, "", "%w", err)
	}
	return r, borrow, nil
}

// readParam loads one weight as it is held: vectors as float32, linear weights
// as Hold, everything else as in the file. Matrices held as in the file are read
// where it is mapped; not so vectors, because a system with large pages maps
// megabytes around each.
func (l *loader) readParam(p *autograd.Param, hold bool) error {
	r, borrow, err := l.raw(p)
	if err != nil {
		return err
	}
	want := r.Type
	if p.Rows == 1 {
		want = dtype.Of(dtype.F32)
	} else if hold {
		want = *l.o.Hold
	}
	if want != r.Type {
		if r, err = convert(p.Name, r, want); err != nil {
			return err
		}
		borrow = false
	}
	if borrow && p.Rows > 1 {
		p.Mat, err = l.m.Dev.Load(kernels.Mapped, r.Type, r.Rows, r.Cols, r.Data, kernels.Borrow)
		return err
	}
	p.Mat, err = l.m.Dev.Load(kernels.Weights, r.Type, r.Rows, r.Cols, r.Data, kernels.Copy)
	l.src.Forget(p.Name)
	l.copied = append(l.copied, p.Name)
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
		return block.Raw{Type: t, Rows: r.Rows, Cols: r.Cols, Data: bytesOf(x)}, nil
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
		r, _, err := l.raw(p)
		if err != nil {
			return err
		}
		if r, err = convert(p.Name, r, dtype.Of(dtype.F32)); err != nil {
			return err
		}
		p.Buffer = l.m.Dev.Slice(l.m.Flat, off, p.Len())
		l.m.Dev.Upload(p.Buffer, r.Data)
		l.src.Forget(p.Name)
		off += p.Len()
	}
	return nil
}

// bytesOf views v as bytes.
func bytesOf[T float32 | int32](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*4)
}
