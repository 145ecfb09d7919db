package model

import (
	"errors"
	"math"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// residency says which weights of a model are in memory. What lies outside the
// blocks is always there; so are the first blocks, as many as fit into half of
// what the device's limit leaves. The weights of the others are there between
// Acquire and Release only and are made from the file again each time; of a device
// with memory of its own, from a copy in the host's memory once they were made twice,
// and, where there is room, while the block before computes. Where weights lie never
// changes a result.
type residency struct {
	kept  int   // blocks that stay
	users []int // by block: calls of Acquire without their Release

	stager kernels.Stager                      // nil: the device reads the host's memory
	staged map[*autograd.Param]*kernels.Staged // what was made of the file
	made   []int                               // by block: how often it was made
	copied int                                 // how often until a copy is kept: twice; of a plan, which stands for many steps, once
	ahead  bool                                // there is room for one block more
	given  int                                 // blocks that stayed but for what is brought ahead
	back   int                                 // of them, those that are to stay again
	next   int                                 // block that was brought before it is asked for; -1: none
	last   int                                 // block that was acquired last
	step   int                                 // where the next one lies from it
}

func newResidency(dev kernels.Backend, blocks int) residency {
	s := residency{users: make([]int, blocks), made: make([]int, blocks), staged: map[*autograd.Param]*kernels.Staged{}, next: -1, last: -1}
	info := dev.Info()
	if info.Copies {
		s.stager, _ = dev.(kernels.Stager)
	}
	if s.copied = 2; info.Level == "dry" {
		s.copied = 1
	}
	return s
}

// Streamed reports whether some blocks are in memory only while they run.
func (m *Model) Streamed() bool { return m.stay.kept < len(m.Blocks) }

// Acquire brings a block's weights into memory. Every call that returns nil
// needs a Release.
func (m *Model) Acquire(b *Block) error {
	i := b.Index
	if i < m.stay.kept {
		return nil
	}
	if m.stay.next != i {
		m.dropNext()
	}
	if m.stay.users[i] == 0 {
		if err := m.bindAll(b); err != nil {
			m.unbindAll(b)
			return err
		}
		if m.stay.back > 0 && i == m.stay.kept {
			m.stay.back--
			m.stay.kept++
			m.stay.next = -1
			return nil
		}
		m.keepCopy(b)
	}
	m.stay.next = -1
	m.stay.users[i]++
	m.bringNext(i)
	return nil
}

// keepCopy leaves a copy of b's weights in the host's memory when they were made a
// second time: who reads a model once is spared it.
func (m *Model) keepCopy(b *Block) {
	s := &m.stay
	if s.made[b.Index]++; s.stager == nil || s.made[b.Index] != s.copied {
		return
	}
	for _, p := range b.Params {
		own := m.place(p)
		t := own.Type()
		if !m.owned[p] || s.staged[p] != nil {
			continue
		}
		h := s.stager.Stage(int64(dtype.Size(t, p.Rows, p.Cols)))
		if h == nil { // the file serves as well
			if len(s.staged) == 0 && s.ahead && s.given > 0 {
				s.ahead, s.back, s.given = false, s.given, 0
			}
			return
		}
		s.stager.Save(h, own.Buffer)
		s.staged[p] = h
	}
}

// bringNext starts to bring the block that is likely to be acquired after i: blocks
// run forward, and backward beginning with the last.
func (m *Model) bringNext(i int) {
	s := &m.stay
	switch d := i - s.last; {
	case d == 1 || d == -1:
		s.step = d
	case d == 0:
		s.step = -s.step
	}
	s.last = i
	n := i + s.step
	if !s.ahead || s.step == 0 || n < s.kept || n >= len(m.Blocks) || s.users[n] > 0 {
		return
	}
	for _, p := range m.Blocks[n].Params {
		if h := s.staged[p]; (h == nil || h.Gone) && m.covered[p] == nil {
			return
		}
	}
	if err := m.bindAll(m.Blocks[n]); err != nil {
		m.unbindAll(m.Blocks[n]) // it will be met again, or there is room by then
		return
	}
	s.next = n
}

// dropNext gives back what was brought and is not asked for.
func (m *Model) dropNext() {
	if n := m.stay.next; n >= 0 {
		m.stay.next = -1
		m.unbindAll(m.Blocks[n])
	}
}

// Release ends a use of a block's weights. With the last one they go, and so
// does the system's copy of the part of the file that was read.
func (m *Model) Release(b *Block) {
	i := b.Index
	if i < m.stay.kept {
		return
	}
	if m.stay.users[i]--; m.stay.users[i] == 0 {
		m.unbindAll(b)
	}
}

// With calls f while p, a weight of the model, is in memory.
func (m *Model) With(p *autograd.Param, f func() error) error {
	if m.tensors[p] != nil && p.Buffer == nil {
		defer m.unbind(p)
		if err := m.bind(p); err != nil {
			return err
		}
	}
	return f()
}

// cover is what others have put in place of a weight.
type cover struct {
	own    kernels.Mat // the model's; without a buffer where it is not in memory
	layers int
}

// Cover puts w, which the caller owns, in place of a weight until restore, which is
// to be called in the reverse order of Cover.
func (m *Model) Cover(p *autograd.Param, w kernels.Mat) (restore func()) {
	c := m.covered[p]
	if c == nil {
		c = &cover{own: p.Mat}
		m.covered[p] = c
	}
	c.layers++
	under := p.Mat
	p.Mat = w
	return func() {
		if c.layers--; c.layers > 0 {
			p.Mat = under
			return
		}
		p.Mat = c.own
		delete(m.covered, p)
	}
}

// Evict halves the number of blocks that stay in memory, for a caller who met
// the limit, and in the end no longer brings blocks ahead; false when nothing is left
// to give. No block may be in use.
func (m *Model) Evict() bool {
	m.dropNext()
	m.stay.back = 0
	n := m.stay.kept / 2
	if m.Flat != nil {
		return false
	}
	if m.stay.kept == 0 {
		ahead := m.stay.ahead
		m.stay.ahead = false
		return ahead
	}
	for _, b := range m.Blocks[n:m.stay.kept] {
		m.unbindAll(b)
	}
	m.stay.kept = n
	return true
}

// settle brings into memory what stays there.
func (m *Model) settle() error {
	err := m.Dev.Run(func() error {
		for _, p := range m.params {
			if m.tensors[p].Layer < 0 {
				if err := m.bind(p); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || m.options.Stream {
		return err
	}
	info := m.Dev.Info()
	room := int64(math.MaxInt64)
	if info.Limit > 0 {
		now := info.InUse()
		room = now + (info.Limit-now)/2
	}
	for _, b := range m.Blocks {
		err := m.Dev.Run(func() error { return m.bindAll(b) })
		over := errors.Is(err, kernels.ErrOutOfMemory)
		if err != nil && !over {
			return err
		}
		if over || m.Dev.Info().InUse() > room {
			m.unbindAll(b)
			m.leaveRoom(room)
			return nil
		}
		m.stay.kept++
	}
	return nil
}

// leaveRoom has blocks brought ahead where two fit beside what stays into room, which
// as many blocks are given up for as it takes: one that stays saves less than one that is
// there in time. None is where the copies would not all have memory of the host.
func (m *Model) leaveRoom(room int64) {
	s := &m.stay
	if s.stager == nil {
		return
	}
	size := func(b *Block) (n int64) {
		for _, p := range b.Params {
			n += int64(dtype.Size(m.HeldType(p), p.Rows, p.Cols))
		}
		return n
	}
	var most, copies int64
	for _, b := range m.Blocks[s.kept:] {
		n := size(b)
		most, copies = max(most, n), copies+n
	}
	info := m.Dev.Info()
	kept, now := s.kept, info.InUse()
	for kept > 0 && now+2*most > room {
		kept--
		n := size(m.Blocks[kept])
		most, copies, now = max(most, n), copies+n, now-n
	}
	if now+2*most > room || kept < s.kept && copies > info.Staged {
		return
	}
	for s.given = s.kept - kept; s.kept > kept; {
		s.kept--
		m.unbindAll(m.Blocks[s.kept])
	}
	s.ahead = true
}

// HeldType is the type that a weight has in memory: vectors and weights of
// convolutions and scans are float32, linear weights as Options.Hold says,
// everything else as in the file.
func (m *Model) HeldType(p *autograd.Param) dtype.Type {
	t := m.tensors[p]
	switch {
	case t.Vector || t.Role.IsState() || m.options.Trainable:
		return dtype.Of(dtype.F32)
	case t.IsLinear() && m.options.Hold != nil:
		return *m.options.Hold
	}
	return t.Type
}

// bind reads a weight as it is held. A matrix held as in the file is read where
// the file is mapped; not so a vector, because a system with large pages maps
// megabytes around each. What covers the weight stays, and needs none of it.
func (m *Model) bind(p *autograd.Param) error {
	if p.Buffer != nil {
		return nil
	}
	t := m.tensors[p]
	if h := m.stay.staged[p]; h != nil && !h.Gone {
		w, err := m.stay.stager.LoadStaged(kernels.Weights, m.HeldType(p), p.Rows, p.Cols, h)
		if err == nil {
			p.Mat, m.owned[p] = w, true
		}
		return err
	}
	r, borrow, err := m.src.Read(t)
	if err != nil {
		return err
	}
	if want := m.HeldType(p); want != r.Type {
		defer m.src.Forget(t)
		return m.convert(p, r, want)
	}
	if borrow && !t.Vector {
		return m.load(p, kernels.Mapped, r.Type, r.Data, kernels.Borrow)
	}
	defer m.src.Forget(t)
	return m.load(p, kernels.Weights, r.Type, r.Data, kernels.Copy)
}

// load gives p memory.
func (m *Model) load(p *autograd.Param, purpose kernels.Purpose, t dtype.Type, data []byte, use kernels.Use) error {
	w, err := m.Dev.Load(purpose, t, p.Rows, p.Cols, data, use)
	if err == nil {
		p.Mat, m.owned[p] = w, true
	}
	return err
}

// convert makes p of r, held as t, by way of float32.
func (m *Model) convert(p *autograd.Param, r block.Raw, t dtype.Type) error {
	if !dtype.Fits(t, r.Cols) {
		return fail.Inputf(p.Name, "choose a type whose blocks divide the rows", "rows of %d elements cannot be held as %v", r.Cols, t)
	}
	if err := m.load(p, kernels.Weights, t, nil, kernels.Copy); err != nil {
		return err
	}
	if t == dtype.Of(dtype.F32) {
		return m.decode(p.Buffer, r)
	}
	x, err := m.Dev.Alloc(kernels.Scratch, dtype.Of(dtype.F32), p.Len())
	if err != nil {
		return err
	}
	defer m.Dev.Free(x)
	if err := m.decode(x, r); err != nil {
		return err
	}
	if err := m.Dev.Quantize(p.Mat, x, nil); err != nil {
		return fail.Inputf(p.Name, "", "held as %v: %w", t, err)
	}
	return nil
}

// decode writes the values of r to x.
func (m *Model) decode(x kernels.Buffer, r block.Raw) error {
	w, err := m.Dev.Load(kernels.Mapped, r.Type, r.Rows, r.Cols, r.Data, kernels.Borrow)
	if err == nil {
		m.Dev.Dequantize(x, w)
		m.Dev.Free(w.Buffer)
	}
	return err
}

// unbind gives a weight's memory back, not that of what covers it.
func (m *Model) unbind(p *autograd.Param) {
	if !m.owned[p] {
		return
	}
	own := m.place(p)
	m.Dev.Free(own.Buffer)
	m.src.Forget(m.tensors[p])
	delete(m.owned, p)
	own.Buffer = nil
}

// place is where the model keeps its own matrix of a weight.
func (m *Model) place(p *autograd.Param) *kernels.Mat {
	if c := m.covered[p]; c != nil {
		return &c.own
	}
	return &p.Mat
}

// bindAll binds the weights of a block; after an error call unbindAll.
func (m *Model) bindAll(b *Block) error {
	for _, p := range b.Params {
		if err := m.bind(p); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) unbindAll(b *Block) {
	for _, p := range b.Params {
		m.unbind(p)
	}
}
