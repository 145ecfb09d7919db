package quant

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// store keeps tensors of every pass between two runs over the calibration text:
// on the device as far as it has room for them, else on disk. Where they lie
// changes no result.
type store struct {
	dev    kernels.Backend
	room   int64 // bytes that may still be taken on the device; below 0: any number
	disk   *spill
	passes map[int][]*held
}

// held is one tensor.
type held struct {
	rows, cols int
	kind       dtype.Kind     // float32, or int32
	buf        kernels.Buffer // on the device; nil:
	at         int64          // its place on disk
	loaded     *autograd.Tensor
}

func newStore(dev kernels.Backend, room int64, disk *spill) *store {
	return &store{dev: dev, room: room, disk: disk, passes: map[int][]*held{}}
}

// spill is the disk that stores share: memory may be the smaller of the two.
type spill struct {
	path  string // the file is beside it; "": a plan, which only counts
	f     *atomic.Scratch
	end   int64
	holes map[int][]int64 // places that are free again, by number of values
}

// take finds a place for n values.
func (d *spill) take(n int) (int64, error) {
	if list := d.holes[n]; len(list) > 0 {
		d.holes[n] = list[:len(list)-1]
		return list[len(list)-1], nil
	}
	if d.f == nil && d.path != "" {
		var err error
		if d.f, err = atomic.NewScratch(d.path); err != nil {
			return 0, err
		}
	}
	at := d.end
	d.end += int64(4 * n)
	return at, nil
}

// give takes a place of n values back.
func (d *spill) give(at int64, n int) {
	if d.holes == nil {
		d.holes = map[int][]int64{}
	}
	d.holes[n] = append(d.holes[n], at)
}

func (d *spill) write(x []float32, at int64) error {
	if d.f == nil {
		return nil
	}
	return d.f.WriteAt(kernels.Bytes(x), at)
}

func (d *spill) read(x []float32, at int64) error {
	if d.f == nil {
		return nil
	}
	return d.f.ReadAt(kernels.Bytes(x), at)
}

func (d *spill) close() {
	if d.f != nil {
		d.f.Close()
	}
}

// load puts the tensors of pass i on a tape. What lies on the device is not
// copied: it stays the store's until keep.
func (s *store) load(i int, t *autograd.Tape) []*autograd.Tensor {
	var out []*autograd.Tensor
	for _, h := range s.passes[i] {
		if h.buf != nil {
			h.loaded = t.Borrow(h.buf, h.rows, h.cols)
		} else {
			x := make([]float32, h.rows*h.cols)
			t.Fail(s.disk.read(x, h.at))
			h.loaded = onTape(t, h, x)
		}
		out = append(out, h.loaded)
	}
	return out
}

// onTape puts what was read on a tape.
func onTape(t *autograd.Tape, h *held, x []float32) *autograd.Tensor {
	if h.kind != dtype.I32 {
		return t.Upload(x, h.rows, h.cols)
	}
	ints := make([]int32, len(x))
	copy(kernels.Bytes(ints), kernels.Bytes(x))
	return t.Upload(ints, h.rows, h.cols)
}

// keep makes xs the tensors of pass i. Those that load gave for it stay as they
// are; the memory of the others is used again.
func (s *store) keep(i int, xs []*autograd.Tensor) error {
	old := s.passes[i]
	now := make([]*held, len(xs))
	for j, x := range xs {
		for k, h := range old {
			if h != nil && h.loaded == x {
				now[j], old[k] = h, nil
			}
		}
	}
	for j, x := range xs {
		if now[j] != nil {
			continue
		}
		h, err := s.place(x, old)
		if err != nil {
			return err
		}
		now[j] = h
		s.passes[i] = now // what is there is freed in the end, whatever happens
	}
	s.passes[i] = now
	for _, h := range old {
		s.drop(h)
	}
	return nil
}

// place copies x to memory of a tensor that is not needed any more, or to new.
func (s *store) place(x *autograd.Tensor, old []*held) (*held, error) {
	for k, h := range old {
		if h != nil && h.rows*h.cols == x.Len() && h.kind == x.Kind() {
			old[k] = nil
			h.rows, h.cols = x.Rows(), x.Cols()
			return h, s.fill(h, x)
		}
	}
	h := &held{rows: x.Rows(), cols: x.Cols(), kind: x.Kind()}
	if bytes := int64(4 * x.Len()); s.room < 0 || bytes <= s.room {
		var err error
		if h.buf, err = s.dev.Alloc(kernels.Activations, dtype.Of(h.kind), x.Len()); err != nil {
			return nil, err
		}
		if s.room >= 0 {
			s.room -= bytes
		}
	} else {
		var err error
		if h.at, err = s.disk.take(x.Len()); err != nil {
			return nil, err
		}
	}
	return h, s.fill(h, x)
}

// fill copies x to h. What both hold is four bytes an element.
func (s *store) fill(h *held, x *autograd.Tensor) error {
	if h.buf == nil || h.kind == dtype.I32 {
		v := make([]float32, x.Len())
		if err := down(s.dev, v, x.Data); err != nil {
			return err
		}
		if h.buf == nil {
			return s.disk.write(v, h.at)
		}
		s.dev.Upload(h.buf, kernels.Bytes(v))
		return nil
	}
	copyTo(s.dev, h.buf, x.Data, x.Len())
	return nil
}

// buffer is the only tensor of pass i on the device; in s where it must be
// brought there.
func (s *store) buffer(i int, m *scratch) kernels.Buffer {
	h := s.passes[i][0]
	if h.buf != nil {
		return h.buf
	}
	x := make([]float32, h.rows*h.cols)
	if err := s.disk.read(x, h.at); err != nil && m.err == nil {
		m.err = err
	}
	return m.up(x)
}

func (s *store) drop(h *held) {
	if h == nil {
		return
	}
	if h.buf == nil {
		s.disk.give(h.at, h.rows*h.cols)
		return
	}
	s.dev.Free(h.buf)
	if s.room >= 0 {
		s.room += int64(4 * h.rows * h.cols)
	}
	h.buf = nil
}

// free gives back all device memory.
func (s *store) free() {
	if s == nil {
		return
	}
	for _, list := range s.passes {
		for _, h := range list {
			s.drop(h)
		}
	}
	s.passes = nil
}

// replay runs the steps from … k-1 on the stored state of pass i and returns
// what step k's Forward takes.
func (s *stream) replay(i int, t *autograd.Tape, st *model.State, steps []model.Step, from, k int) (in []*autograd.Tensor) {
	in = s.states.load(i, t)
	for j := from; j < k; j++ {
		x := steps[j].Enter(t, in, st)
		y := steps[j].Forward(t, x, st)
		if j > from {
			finished(t, y, in, x)
		}
		in = y
	}
	return steps[k].Enter(t, in, st)
}

// finished gives back tensors that are not among the kept ones.
func finished(t *autograd.Tape, kept []*autograd.Tensor, groups ...[]*autograd.Tensor) {
	for _, g := range groups {
		for _, x := range g {
			again := false
			for _, k := range kept {
				again = again || k == x
			}
			if !again {
				t.Done(x)
			}
		}
	}
}
