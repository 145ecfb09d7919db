// Package autograd records what a forward pass did and runs it backwards.
//
// A Tape is one pass over one batch. Its operations are methods, coarse ones:
// a linear map with its adapters, a norm, attention, the loss. Each stands
// beside its gradient in one function. Memory is the point of the design:
//
//   - A result is kept only while something will read it. Done says that no
//     later operation of the forward pass does; what a gradient needs is known
//     from the operations themselves.
//   - Cheap results (norms, activations) are dropped after their last forward
//     reader and made again when a gradient first asks.
//   - A gradient exists from its first consumer's backward (which writes, the
//     others add) until its producer's backward has run.
//   - Checkpoint keeps only the inputs of a whole region.
//
// The first error sticks, as in bufio.Writer: later operations do nothing and
// Backward and Err return it. Wrong shapes are programmer errors and panic.
// Operations are called inside Dev.Run.
package autograd

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Param is a weight that outlives tapes. A vector is a Mat of one row. Its
// owner (the model or an adapter) frees it.
type Param struct {
	Name string // as in the checkpoint: model.layers.0.self_attn.q_proj.weight
	kernels.Mat
	// Grad [Rows·Cols] f32 is where gradients are added, a view of the
	// trainer's flat buffer, which the trainer clears before each step's first
	// forward pass. nil: frozen.
	Grad kernels.Buffer
}

// Len is the number of elements of p.
func (p *Param) Len() int { return p.Rows * p.Cols }

// trains reports whether p has a gradient; a nil p does not.
func (p *Param) trains() bool { return p != nil && p.Grad != nil }

// dst is where p's gradient is added; the zero Dst when p is frozen or absent.
func (p *Param) dst() kernels.Dst {
	if !p.trains() {
		return kernels.Dst{}
	}
	return kernels.Into(p.Grad)
}

// buffer is p's memory, or a nil interface when p is absent.
func (p *Param) buffer() kernels.Buffer {
	if p == nil {
		return nil
	}
	return p.Buffer
}

// Tensor is a result on a tape. The tape owns its memory: Data is nil after it
// was dropped.
type Tensor struct {
	Shape []int // [N, columns]; outermost first
	Data  kernels.Buffer
	kind  dtype.Kind // of Data
	slope dtype.Kind // of its gradient

	tape  *Tape    // owner of Data
	needs bool     // a gradient with respect to it is wanted
	grad  *gradBuf // while it exists
	of    *Tensor  // set for an input of a checkpointed region: the tensor outside
	saved int      // gradients that will read Data
	done  bool     // no operation of the forward pass will read Data
	own   bool     // Data is the tape's by itself, no view
	kept  bool     // Done does not apply
	again func(dst kernels.Buffer)
	deps  []*Tensor // what again reads
	late  bool      // Data was not made yet: again makes it once
	input bool      // of a checkpointed region, and read by nothing else
	aside kernels.Buffer
	dims  [3]int // of Shape, where it has no more
}

// Rows is the first dimension of x.
func (x *Tensor) Rows() int { return x.Shape[0] }

// Cols is the product of all dimensions but the first.
func (x *Tensor) Cols() int {
	n := 1
	for _, d := range x.Shape[1:] {
		n *= d
	}
	return n
}

// Len is the number of elements of x.
func (x *Tensor) Len() int { return x.Rows() * x.Cols() }

// Kind is the type of the elements of x.
func (x *Tensor) Kind() dtype.Kind { return x.kind }

// NeedsGrad reports whether a gradient with respect to x is wanted.
func (x *Tensor) NeedsGrad() bool { return x.needs }

// gradBuf is a gradient's memory. Tensors whose gradients are equal (the
// branches of a sum) share one until somebody adds to it.
type gradBuf struct {
	buf  kernels.Buffer
	refs int
}

// op is one recorded operation: its results, the tensors whose data its
// gradient reads, and the gradient.
type op struct {
	out, saves []*Tensor
	back       func()
}

// Aside is memory for what is idle for long.
type Aside interface {
	Take(t dtype.Type, n int) (kernels.Buffer, error) // n elements
	Filled(kernels.Buffer)                            // will not be read soon
	Give(kernels.Buffer)                              // back
}

// Tape is one forward pass and its gradient. Set the fields before the first
// operation. A Tape is used by one goroutine.
type Tape struct {
	Dev    kernels.Backend
	Record bool // keep what Backward needs; also turns dropout on
	Base   bool // leave adapters out
	Still  bool // leave dropout out, though it records: a pass that only rounds as in training
	// BF16 rounds both operands of products with base weights and adapters to
	// bf16. While training, what lies between two products is held so, too; what
	// leaves them for a sum, a loss or a choice stays float32 (LinearWide).
	BF16 bool
	F16  bool // rounds them to half precision instead, and holds nothing so
	Fast bool // or as far as kernels.LinearArgs.Fast allows; evaluation only

	// Tap, when set, sees the input of every Linear before it runs, with that
	// layer's weight; r says which rows are whose where w is of experts, and is
	// nil elsewhere. Layers that share an input pass the same x. Not called while
	// recording.
	Tap func(w *Param, x *Tensor, r *Routed)

	// Spare, when set, is where a pass that does not record takes tensors and memory
	// from, and leaves them for the next one. A pass that records leaves it alone.
	Spare *Spare

	// Aside, when set, keeps the inputs of checkpointed regions from Done on until
	// their gradient runs. They come back as the same bits.
	Aside Aside

	// Balance, when set, adds a loss over what the routers do.
	Balance *Balance

	// Dropout masks are a function of (Seed, Step, the adapter's site, Key, column).
	Seed uint64
	Step uint32
	Key  *Tensor // [N] int64: sample<<32 | token, of the rows of what products read next; needed when an adapter has dropout

	ops  []op
	all  []*Tensor
	redo bool   // first pass of a checkpointed region: dropout is on though nothing is recorded
	lazy bool   // second pass: results are made when they are first read
	once linear // of a pass that does not record, which is through with each before the next
	free []func()
	err  error
}

// Err is the first error of any operation, nil when there was none.
func (t *Tape) Err() error { return t.err }

// Fail makes err the tape's error unless it already has one. nil is ignored.
func (t *Tape) Fail(err error) {
	if t.err == nil && err != nil {
		t.err = err
	}
}

// New returns a tensor of float32 with undefined contents.
func (t *Tape) New(shape ...int) *Tensor { return t.alloc(kernels.Activations, dtype.F32, shape...) }

// between is the type of what one product writes and another reads.
func (t *Tape) between() dtype.Kind {
	if t.BF16 && (t.Record || t.redo) {
		return dtype.BF16
	}
	return dtype.F32
}

// spare is the Spare that this pass takes from and gives to: nil, which holds nothing,
// where it records, as what is kept for Backward outlives its use in the pass.
func (t *Tape) spare() *Spare {
	if t.Record {
		return nil
	}
	return t.Spare
}

func (t *Tape) alloc(p kernels.Purpose, k dtype.Kind, shape ...int) *Tensor {
	x := t.tensor(k, shape)
	if t.err != nil {
		return x
	}
	x.own = true
	if x.Data = t.spare().take(k, x.Len()); x.Data == nil {
		x.Data, t.err = t.Dev.Alloc(p, dtype.Of(k), x.Len())
	}
	if t.err != nil {
		x.Data = nil
	}
	t.all = append(t.all, x)
	return x
}

// tensor is a tensor of the tape's without data.
func (t *Tape) tensor(k dtype.Kind, shape []int) *Tensor {
	x := t.spare().tensor()
	x.tape, x.kind = t, k
	x.Shape = append(x.dims[:0], shape...)
	return x
}

// View returns rows row … row+n of x, sharing its memory. It has no gradient
// and must not be read after x is Done.
func (t *Tape) View(x *Tensor, row, n int) *Tensor {
	y := t.tensor(x.kind, x.Shape)
	y.Shape[0] = n
	if v := t.value(x); t.err == nil {
		y.Data = t.Dev.Slice(v, row*x.Cols(), n*x.Cols())
	}
	return y
}

// Borrow returns a tensor over values that are the caller's, float32 or int32. The
// tape does not free them; they must stay as they are until it is freed.
func (t *Tape) Borrow(b kernels.Buffer, shape ...int) *Tensor {
	x := t.tensor(b.Type().Kind, shape)
	x.Data = t.Dev.Slice(b, 0, x.Len())
	return x
}

// Upload returns a tensor with a copy of v, which is []float32, []int32 or []int64.
func (t *Tape) Upload(v any, shape ...int) *Tensor {
	var k dtype.Kind
	var b []byte
	switch v := v.(type) {
	case []float32:
		k, b = dtype.F32, kernels.Bytes(v)
	case []int32:
		k, b = dtype.I32, kernels.Bytes(v)
	case []int64:
		k, b = dtype.I64, kernels.Bytes(v)
	default:
		panic(fmt.Sprintf("autograd: upload: %T is not []float32, []int32 or []int64", v))
	}
	x := t.alloc(kernels.Activations, k, shape...)
	if want := x.Len() * k.Info().Bytes; want != len(b) {
		panic(fmt.Sprintf("autograd: upload: %d bytes for shape %v of %v (%d bytes)", len(b), shape, k, want))
	}
	if t.err == nil && len(b) > 0 {
		t.Dev.Upload(x.Data, b)
	}
	return x
}

// Input is Upload of float32 values that a gradient is wanted for; GradOf
// returns it after Backward.
func (t *Tape) Input(v []float32, shape ...int) *Tensor {
	x := t.Upload(v, shape...)
	x.needs = true
	return x
}

// Values downloads x, which must be float32.
func (t *Tape) Values(x *Tensor) ([]float32, error) {
	return download[float32](t, t.value(x), x.Len())
}

// Ints downloads x, which must be int32.
func (t *Tape) Ints(x *Tensor) ([]int32, error) {
	return download[int32](t, t.value(x), x.Len())
}

// GradOf downloads the gradient of an Input; zeros when nothing flowed there.
func (t *Tape) GradOf(x *Tensor) ([]float32, error) {
	if x.grad == nil {
		return make([]float32, x.Len()), t.err
	}
	return download[float32](t, x.grad.buf, x.Len())
}

func download[T float32 | int32](t *Tape, b kernels.Buffer, n int) ([]T, error) {
	v := make([]T, n)
	if t.err != nil {
		return nil, t.err
	}
	return v, t.Dev.Download(kernels.Bytes(v), b)
}

// value returns x's data, made again where it was dropped.
func (t *Tape) value(x *Tensor) kernels.Buffer {
	if x.Data != nil || t.err != nil {
		return x.Data
	}
	if x.again == nil {
		panic(fmt.Sprintf("autograd: tensor %v was read after Done", x.Shape))
	}
	x.Data, t.err = t.Dev.Alloc(kernels.Activations, dtype.Of(x.kind), x.Len())
	if t.err != nil {
		x.Data = nil
		return nil
	}
	x.again(x.Data)
	if x.late {
		x.late, x.again = false, nil
		deps := x.deps
		x.deps = nil
		t.unhold(deps)
	}
	return x.Data
}

// made returns a tensor that run fills from deps: now, or in the second pass of
// a region when somebody reads it. (Nobody reads the region's last results
// there.)
func (t *Tape) made(run func(dst kernels.Buffer), deps []*Tensor, k dtype.Kind, shape ...int) *Tensor {
	if !t.lazy {
		y := t.alloc(kernels.Activations, k, shape...)
		if t.err == nil {
			run(y.Data)
		}
		return y
	}
	y := t.tensor(k, shape)
	y.again, y.deps, y.late, y.own = run, deps, true, true
	t.hold(deps)
	t.all = append(t.all, y)
	return y
}

// Keep has x stay, whatever Done says, until the tape is freed or its last gradient
// has run: something that several parts of a pass read.
func (t *Tape) Keep(x *Tensor) { x.kept = true }

// Done says that no later operation of the forward pass reads the tensors.
// Their memory goes now, or when the last gradient that reads it has run. A
// nil tensor is ignored.
func (t *Tape) Done(xs ...*Tensor) {
	for _, x := range xs {
		if x == nil || x.of != nil || x.kept {
			continue
		}
		x.done = true
		if x.saved == 0 {
			t.drop(x)
		} else if x.again != nil {
			t.freeData(x)
		} else if x.input && t.Aside != nil {
			t.putAside(x)
		}
	}
}

// putAside moves x's data away until it is read again.
func (t *Tape) putAside(x *Tensor) {
	if t.err != nil || x.Data == nil || x.aside != nil {
		return
	}
	b, err := t.Aside.Take(dtype.Of(x.kind), x.Len())
	if err != nil {
		t.Fail(err)
		return
	}
	t.Dev.Add(kernels.To(b), &kernels.AddArgs{N: x.Len(), A: x.Data, Alpha: 1})
	t.Aside.Filled(b)
	x.aside = b
	t.freeData(x)
	x.late, x.again = true, func(dst kernels.Buffer) {
		t.Dev.Add(kernels.To(dst), &kernels.AddArgs{N: x.Len(), A: b, Alpha: 1})
		t.giveAside(x)
	}
}

func (t *Tape) giveAside(x *Tensor) {
	if x.aside != nil {
		t.Aside.Give(x.aside)
		x.aside = nil
	}
}

// Cheap marks y as a result that again can make from deps: after Done its
// memory goes although gradients read it, and comes back when one does.
func (t *Tape) Cheap(y *Tensor, again func(dst kernels.Buffer), deps ...*Tensor) *Tensor {
	if !t.Record || t.err != nil {
		return y
	}
	y.again, y.deps = again, deps
	t.hold(deps)
	return y
}

func (t *Tape) hold(xs []*Tensor) {
	for _, x := range xs {
		x.saved++
	}
}

// unhold ends one reader of each tensor.
func (t *Tape) unhold(xs []*Tensor) {
	for _, x := range xs {
		if x.saved--; x.saved == 0 && x.done {
			t.drop(x)
		}
	}
}

// drop frees x's data for good.
func (t *Tape) drop(x *Tensor) {
	t.freeData(x)
	t.giveAside(x)
	x.again, x.late = nil, false
	deps := x.deps
	x.deps = nil
	t.unhold(deps)
}

func (t *Tape) freeData(x *Tensor) {
	if x.Data != nil && x.of == nil && !(x.own && t.spare().give(x)) {
		t.Dev.Free(x.Data)
	}
	if x.of == nil {
		x.Data = nil
	}
}

// record keeps an operation for Backward when its result needs a gradient.
// saves are the tensors whose data back reads.
func (t *Tape) record(y *Tensor, saves []*Tensor, back func()) {
	t.recordAll([]*Tensor{y}, saves, back)
}

// recordAll is record of an operation with several results, which need
// gradients together. back runs when one of them has a gradient.
func (t *Tape) recordAll(made, saves []*Tensor, back func()) {
	if !t.Record || !made[0].needs || t.err != nil {
		return
	}
	t.hold(saves)
	t.ops = append(t.ops, op{made, saves, back})
}

// grad is where a consumer of x puts its share of x's gradient: written by the
// first, added by the others. The zero Dst when none is wanted.
func (t *Tape) grad(x *Tensor) kernels.Dst {
	if x == nil || !x.needs || t.err != nil {
		return kernels.Dst{}
	}
	for x.of != nil {
		x = x.of
	}
	if x.grad == nil {
		x.grad = t.newGrad(x)
		if x.grad == nil {
			return kernels.Dst{}
		}
		return kernels.To(x.grad.buf)
	}
	if x.grad.refs > 1 {
		own, shared := t.newGrad(x), x.grad
		if own == nil {
			return kernels.Dst{}
		}
		x.grad = own
		shared.refs--
		t.Dev.Add(kernels.To(own.buf), &kernels.AddArgs{N: x.Len(), A: shared.buf, Alpha: 1})
	}
	return kernels.Into(x.grad.buf)
}

func (t *Tape) newGrad(x *Tensor) *gradBuf {
	b, err := t.Dev.Alloc(kernels.Gradients, dtype.Of(x.slope), x.Len())
	if err != nil {
		t.Fail(err)
		return nil
	}
	return &gradBuf{b, 1}
}

// pass adds alpha times y's gradient to x's, sharing memory where it can.
func (t *Tape) pass(x, y *Tensor, alpha float32) {
	if x == nil || !x.needs || t.err != nil {
		return
	}
	for x.of != nil {
		x = x.of
	}
	if x.grad == nil && alpha == 1 {
		y.grad.refs++
		x.grad = y.grad
		return
	}
	if d := t.grad(x); !d.Skip() {
		t.Dev.Add(d, &kernels.AddArgs{N: x.Len(), A: y.grad.buf, Alpha: alpha})
	}
}

func (t *Tape) freeGrad(x *Tensor) {
	if x.grad == nil || x.of != nil {
		return
	}
	if x.grad.refs--; x.grad.refs == 0 {
		t.Dev.Free(x.grad.buf)
	}
	x.grad = nil
}

// scratch is memory for the inside of one gradient; free it with Dev.Free.
func (t *Tape) scratch(n int) kernels.Buffer {
	if t.err != nil {
		return nil
	}
	b, err := t.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), n)
	if err != nil {
		t.Fail(err)
		return nil
	}
	return b
}

// SetGrad starts the backward pass at y with the gradient dy; a loss starts it
// by itself.
func (t *Tape) SetGrad(y *Tensor, dy []float32) {
	if d := t.grad(y); !d.Skip() {
		t.Dev.Upload(d.Buffer, kernels.Bytes(dy))
	}
}

// Backward adds the gradients of everything recorded to the parameters, from
// the last operation to the first, and frees results and gradients as it goes.
// It returns the tape's first error. A tape runs backwards once.
func (t *Tape) Backward() error {
	for i := len(t.ops) - 1; i >= 0 && t.err == nil; i-- {
		o := t.ops[i]
		if hasGrad(o.out) {
			o.back()
		}
		t.ops[i] = op{}
		for _, x := range o.saves {
			if x.tape == t { // a region's inside also reads what lies outside
				x.done = true
			}
		}
		t.unhold(o.saves)
		for _, y := range o.out {
			t.freeGrad(y)
			t.drop(y)
		}
	}
	t.ops = nil
	return t.err
}

func hasGrad(out []*Tensor) bool {
	for _, y := range out {
		if y.grad != nil {
			return true
		}
	}
	return false
}

// OnFree has f called by Free. In a checkpointed region the tape is freed when
// the region has run, and again when its gradient has.
func (t *Tape) OnFree(f func()) { t.free = append(t.free, f) }

// Free gives back everything the tape still holds. It may be called at any
// time, also after an error, and more than once.
func (t *Tape) Free() {
	for _, f := range t.free {
		f()
	}
	t.free = nil
	for _, x := range t.all {
		t.freeGrad(x)
		t.freeData(x)
		t.giveAside(x)
		x.again, x.deps = nil, nil
	}
	t.spare().end(t.all)
	t.all, t.ops = nil, nil
}
