package autograd

// Checkpoint runs f on in and keeps nothing of its inside for the gradient but
// the inputs: Backward runs f a second time (Chen et al. 2016,
// arXiv:1604.06174). f must be a pure function of the tape, its inputs,
// parameters, and tensors that stay until Backward (never Done). The gradients are the same bits as without.
func (t *Tape) Checkpoint(in []*Tensor, f func(*Tape, []*Tensor) []*Tensor) []*Tensor {
	if !t.Record || t.err != nil {
		return f(t, in)
	}
	for _, x := range in {
		t.value(x)
	}
	c := t.child(false)
	defer c.Free()
	inner := f(c, leaves(in))
	out := make([]*Tensor, len(inner))
	r := &region{in: in, made: make([]*Tensor, len(inner)), f: f}
	needs := false
	for i, y := range inner {
		out[i] = y.of
		if y.of == nil {
			r.made[i] = t.adopt(y)
			out[i] = r.made[i]
			needs = needs || y.needs
		}
	}
	t.Fail(c.err)
	if needs && t.err == nil {
		for _, x := range in {
			x.input = x.tape == t && x.saved == 0 && x.kind.IsFloat()
		}
		t.hold(in)
		t.ops = append(t.ops, op{compact(r.made), in, func() { r.back(t) }})
	}
	return out
}

// region is a checkpointed part of a pass.
type region struct {
	in   []*Tensor
	made []*Tensor // its results; nil where it returned an input as it is
	f    func(*Tape, []*Tensor) []*Tensor
}

// child is a tape for the inside of a region.
func (t *Tape) child(record bool) *Tape {
	c := *t
	c.Record, c.redo, c.lazy = record, !record, record
	c.ops, c.all, c.free, c.Tap, c.Spare = nil, nil, nil, nil, nil
	return &c
}

// leaves are in as a region's inside sees them: same data, gradients go outside.
func leaves(in []*Tensor) []*Tensor {
	out := make([]*Tensor, len(in))
	for i, x := range in {
		out[i] = &Tensor{Shape: x.Shape, Data: x.Data, kind: x.kind, needs: x.needs, of: x}
	}
	return out
}

// adopt moves a result of a region's inside to t.
func (t *Tape) adopt(y *Tensor) *Tensor {
	z := &Tensor{Shape: y.Shape, Data: y.Data, kind: y.kind, slope: y.slope, tape: t, needs: y.needs}
	y.Data = nil
	t.all = append(t.all, z)
	return z
}

func compact(xs []*Tensor) []*Tensor {
	var out []*Tensor
	for _, x := range xs {
		if x != nil {
			out = append(out, x)
		}
	}
	return out
}

// back runs the region again, recording, and then backwards.
func (r *region) back(t *Tape) {
	c := t.child(true)
	defer c.Free()
	for _, x := range r.in {
		t.value(x)
	}
	for i, y := range r.f(c, leaves(r.in)) {
		if z := r.made[i]; z != nil && y.of == nil {
			y.grad, z.grad = z.grad, nil // the inside owns it now
		}
	}
	t.Fail(c.Backward())
}
