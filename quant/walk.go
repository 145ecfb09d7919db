package quant

import (
	"context"
	"fmt"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// storeLimit is the most bytes of hidden states that are kept between two
// steps of a block; more are computed again where they are needed. It is a
// constant and changes no result.
const storeLimit = 1 << 30

// walk takes a model's blocks one after another and each stream through them.
type walk struct {
	ctx      context.Context
	dev      kernels.Backend
	src      *arch.Source
	m        *model.Model
	streams  []*stream
	progress func(done, total int64)
	room     int64 // bytes of device memory for one store of tensors; below 0: any number
	disk     *spill
	done     int64 // weights quantized
	total    int64
}

// stream is one job on its way through the blocks: the hidden states that its
// own quantized blocks made of the calibration text, and its output.
type stream struct {
	*walk
	*output
	passes [][][]int32
	tokens int
	states *store // the tensors of the state before the step in work
	made   *store // what an encoder made of the text, once the walk is behind it; else nil
	set    []replaced
}

// replaced is a weight that stands in for the model's own while a stream uses it.
type replaced struct {
	p   *autograd.Param
	old kernels.Mat
}

// start embeds the calibration text for all streams.
func (w *walk) start() error {
	w.room = w.roomFor(len(w.streams))
	for _, s := range w.streams {
		if err := s.begin(); err != nil {
			return err
		}
	}
	return nil
}

// run quantizes all blocks for all streams.
func (w *walk) run() error {
	if err := w.start(); err != nil {
		return err
	}
	for i, b := range w.m.Blocks {
		if err := w.cross(i); err != nil {
			return err
		}
		if err := w.block(b, i == len(w.m.Blocks)-1); err != nil {
			return err
		}
	}
	return nil
}

// cross takes all streams from the end of an encoder to what follows it, where block
// i is the first behind one.
func (w *walk) cross(i int) error {
	if !w.m.Crosses(i) {
		return nil
	}
	for _, s := range w.streams {
		if err := s.cross(); err != nil {
			return err
		}
	}
	return nil
}

// cross keeps what the encoder made and embeds the text that the decoder reads.
func (s *stream) cross() error {
	defer s.restore()
	if err := s.asWritten(s.m.Embed.W); err != nil {
		return err
	}
	made := s.newStore()
	defer func() { s.made = made }()
	for i := range s.passes {
		err := s.pass(i, func(t *autograd.Tape, st *model.State) error {
			x, behind := s.m.Cross(t, s.states.load(i, t)[0], st)
			if t.Err() != nil {
				return t.Err()
			}
			if err := made.keep(i, []*autograd.Tensor{behind.Memory}); err != nil {
				return err
			}
			return s.states.keep(i, []*autograd.Tensor{x})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// block quantizes one block for all streams.
func (w *walk) block(b *model.Block, last bool) error {
	if err := w.dev.Run(func() error { return w.m.Acquire(b) }); err != nil {
		return err
	}
	defer w.m.Release(b)
	for _, s := range w.streams {
		if err := s.block(b, last); err != nil {
			return fmt.Errorf("%s: %w", b.Path, err)
		}
	}
	return nil
}

// stores is how many stores of tensors a stream may hold at one moment, and one
// for all that is not in them.
const stores = 8

// roomFor shares what the device has left among n streams.
func (w *walk) roomFor(n int) int64 {
	info := w.dev.Info()
	if info.Limit == 0 {
		return -1
	}
	return max(info.Limit-info.InUse(), 0) / int64(stores*n)
}

// newStore has a stream's share of the device, and the disk for the rest.
func (w *walk) newStore() *store { return newStore(w.dev, w.room, w.disk) }

// free gives back what the streams hold between blocks.
func (w *walk) free() {
	for _, s := range w.streams {
		s.states.free()
		s.made.free()
	}
	w.disk.close()
}

// begin embeds the calibration text with the embedding as it is written.
func (s *stream) begin() error {
	defer s.restore()
	embed := s.m.Embed
	if e := s.m.Encoder; e != nil && e.Embed != nil {
		embed = e.Embed
	}
	if err := s.asWritten(embed.W); err != nil {
		return err
	}
	s.states = s.newStore()
	for i := range s.passes {
		err := s.pass(i, func(t *autograd.Tape, st *model.State) error {
			x := s.m.Begin(t, st)
			if t.Err() != nil {
				return t.Err()
			}
			return s.states.keep(i, []*autograd.Tensor{x})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pass calls f with a tape and what blocks need for pass i. Products use bf16
// where that is the faster arithmetic: the inputs of a layer are as exact as
// those of a model that is run in bf16, and sums over them are kept in f32.
func (s *stream) pass(i int, f func(t *autograd.Tape, st *model.State) error) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	return s.dev.Run(func() error {
		t := &autograd.Tape{Dev: s.dev, BF16: s.dev.Info().FastBF16}
		defer t.Free()
		st := s.m.Prepare(t, model.Pack(s.passes[i]...))
		if t.Err() != nil {
			return t.Err()
		}
		if s.made != nil {
			st = st.Behind(t, s.made.load(i, t)[0])
		}
		if err := f(t, st); err != nil {
			return err
		}
		return t.Err()
	})
}

// block quantizes one block, or takes it from an interrupted run, and moves the
// hidden states past it.
func (s *stream) block(b *model.Block, last bool) error {
	defer s.restore()
	if s.finished(b.Params) {
		if err := s.resume(b); err != nil {
			return err
		}
		return s.forward(b, last)
	}
	for _, p := range b.Params {
		if !s.plan.quantize[p.Name] {
			if err := s.asWritten(p); err != nil {
				return err
			}
		}
	}
	out := newBlockOutput()
	run := &blockRun{stream: s, b: b, w: map[*nn.Linear]kernels.Buffer{}}
	if err := run.quantize(out, last); err != nil {
		return err
	}
	if s.log != nil {
		if err := s.log.add(out.reports); err != nil {
			return err
		}
	}
	for _, p := range b.Params {
		if err := s.write(p, out); err != nil {
			return err
		}
	}
	if s.plan.method.inOrder {
		return nil // the states have moved already
	}
	return s.forward(b, last)
}

// finished reports whether an earlier run wrote all of these.
func (s *stream) finished(params []*autograd.Param) bool {
	for _, p := range params {
		if !s.has(s.m.TensorOf(p)) {
			return false
		}
	}
	return true
}

// resume puts what an earlier run wrote in place of a block's weights.
func (s *stream) resume(b *model.Block) error {
	for _, p := range b.Params {
		m, err := s.sink.Read(s.m.TensorOf(p), s.plan.typeOf[p.Name])
		if err != nil {
			return err
		}
		if err := s.replace(p, m); err != nil {
			return err
		}
		s.advance(p)
	}
	for _, l := range b.Linears() {
		if rep, ok := s.log.find(l.Path); ok {
			s.reports[l.Path] = rep
		} else if s.plan.quantize[l.W.Name] {
			s.reports[l.Path] = LayerReport{Layer: l.Path, Method: s.plan.method.Name}
		}
	}
	return nil
}

// advance counts a weight as quantized.
func (s *stream) advance(p *autograd.Param) {
	if s.plan.quantize[p.Name] {
		s.walk.done += int64(p.Len())
		if s.progress != nil {
			s.progress(s.walk.done, s.total)
		}
	}
}

// forward moves the states past a block whose weights are in place. Behind the
// last block nobody needs them.
func (s *stream) forward(b *model.Block, last bool) error {
	if last {
		return nil
	}
	for i := range s.passes {
		err := s.pass(i, func(t *autograd.Tape, st *model.State) error {
			y := b.Forward(t, s.states.load(i, t), st)
			if t.Err() != nil {
				return t.Err()
			}
			return s.states.keep(i, y)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replace puts a matrix in place of the model's until restore.
func (s *stream) replace(p *autograd.Param, m block.Raw) error {
	if s.m.TensorOf(p).Vector && m.Data != nil { // held as F32
		v := make([]float32, p.Cols)
		block.DecodeAll(v, m)
		m = block.Raw{Type: dtype.Of(dtype.F32), Rows: 1, Cols: p.Cols, Data: kernels.Bytes(v)}
	}
	w, err := s.dev.Load(kernels.Weights, m.Type, m.Rows, m.Cols, m.Data, kernels.Borrow)
	if err != nil {
		return err
	}
	s.put(p, w)
	return nil
}

// put makes w, which the stream then owns, the model's until restore.
func (s *stream) put(p *autograd.Param, w kernels.Mat) {
	for _, r := range s.set {
		if r.p == p { // a second replacement: the first goes
			s.dev.Free(p.Buffer)
			p.Mat = w
			return
		}
	}
	s.set = append(s.set, replaced{p, p.Mat})
	p.Mat = w
}

// restore puts the model's own weights back.
func (s *stream) restore() {
	for _, r := range s.set {
		s.dev.Free(r.p.Buffer)
		r.p.Mat = r.old
	}
	s.set = nil
}

// asWritten replaces a weight that is not quantized by what the folder will
// hold, where that differs.
func (s *stream) asWritten(p *autograd.Param) error {
	t := s.plan.typeOf[p.Name]
	if s.m.TensorOf(p).Type == t {
		return nil
	}
	m, err := s.readOut(arch.Out{Tensor: s.m.TensorOf(p), Type: t})
	if err != nil {
		return err
	}
	return s.replace(p, m)
}

// blockOutput collects what a method made of a block.
type blockOutput struct {
	raws    map[string]block.Raw // by tensor name
	reports []LayerReport
}

func newBlockOutput() *blockOutput { return &blockOutput{raws: map[string]block.Raw{}} }

// add takes a quantized matrix and puts it in place of the model's.
func (s *stream) add(out *blockOutput, l *nn.Linear, r *matrixResult) error {
	s.plan.label(&r.report, l.Path)
	out.raws[l.W.Name] = r.raw
	out.reports = append(out.reports, r.report)
	s.reports[l.Path] = r.report
	s.advance(l.W)
	return s.replace(l.W, r.raw)
}

// write stores one weight of a block.
func (s *stream) write(p *autograd.Param, out *blockOutput) error {
	t := s.m.TensorOf(p)
	if s.has(t) || s.sink == nil {
		return nil
	}
	m, ok := out.raws[p.Name]
	if !ok {
		var err error
		if m, err = s.readOut(arch.Out{Tensor: t, Type: s.plan.typeOf[p.Name]}); err != nil {
			return err
		}
		defer s.from.Forget(t)
	}
	return s.sink.Write(t, m)
}
