package model

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
)

// position uploads what a pass reads of its tokens ids and their positions pos, in
// sequences of lengths span; encoder says that an encoder reads them.
func (m *Model) position(t *autograd.Tape, s *State, ids, pos, span []int32, encoder bool) {
	s.Ropes, s.ids = m.angles(t, pos, span), ids
	if m.Parts != nil && t.Err() == nil {
		s.Parts = m.parts(t, s.IDs, ids)
	}
	if grow := m.Spec.Temperature; grow.Every > 0 {
		by := make([]float32, len(pos))
		for i, p := range pos {
			by[i] = float32(grow.At(int(p)))
		}
		s.Temper = t.Upload(by, len(by))
	}
	if m.Spec.Positions > 0 {
		rows := make([]int32, len(pos))
		for i, p := range pos {
			rows[i] = p + int32(m.Spec.PosOffset)
		}
		s.Places = t.Upload(rows, len(rows))
	}
	if m.Spec.Distances.Buckets > 0 && t.Err() == nil {
		s.near, s.relZero = m.near(t, int(slices.Max(span)), encoder)
		table := m.Near
		if encoder {
			table = m.Encoder.Near
		}
		if table != nil {
			s.Rel = table.Forward(t, s.near)
		}
	}
	if h := len(m.Spec.Slopes); h > 0 {
		n := int(slices.Max(span))
		rel := make([]float32, 0, n*h)
		for distance := range n {
			for _, slope := range m.Spec.Slopes {
				rel = append(rel, -slope*float32(distance))
			}
		}
		s.Rel = t.Upload(rel, n, h)
	}
}

// angles uploads the model's tables of angles for tokens at positions pos of
// sequences of lengths span.
func (m *Model) angles(t *autograd.Tape, pos, span []int32) []*autograd.Tensor {
	out := make([]*autograd.Tensor, len(m.ropes))
	for i := range m.ropes {
		r := &m.ropes[i]
		out[i] = t.Upload(r.rows(pos, span), len(pos), r.spec.Dim/2, 2)
	}
	return out
}

// ropeTable makes cosines and sines on the host in float64 and keeps those
// that depend on the position alone.
type ropeTable struct {
	spec arch.RopeSpec
	freq []float64
	mag  float64
	kept []float32 // [positions, Dim/2, 2]
}

// rows returns [N, Dim/2, 2] for tokens at positions pos of sequences of
// lengths span. Rules that go by lengths see each sequence as if it were alone.
func (r *ropeTable) rows(pos, span []int32) []float32 {
	out, dim := make([]float32, 0, len(pos)*r.spec.Dim), r.spec.Dim
	if r.spec.BySpan() {
		for i, p := range pos {
			if i == 0 || span[i] != span[i-1] {
				r.freq, r.mag = r.spec.Angles(int(span[i]))
			}
			out = r.append(out, int(p))
		}
		return out
	}
	if r.freq == nil {
		r.freq, r.mag = r.spec.Angles(0)
	}
	for _, p := range pos {
		for len(r.kept) < (int(p)+1)*dim {
			r.kept = r.append(r.kept, len(r.kept)/dim)
		}
		out = append(out, r.kept[int(p)*dim:(int(p)+1)*dim]...)
	}
	return out
}

func (r *ropeTable) append(out []float32, pos int) []float32 {
	for _, f := range r.freq {
		sin, cos := math.Sincos(float64(pos) * f)
		out = append(out, float32(cos*r.mag), float32(sin*r.mag))
	}
	return out
}
