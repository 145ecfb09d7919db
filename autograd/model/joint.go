package model

import (
	"maps"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// joint is what attention reads that sees the encoder's keys beside its own: of every
// text the encoder's rows without a rotation, then its own.
type joint struct {
	order *autograd.Tensor // [N+M] int32: rows of what is joined, its own N before Memory's M; nil with a cache
	seq   *autograd.Tensor // [S+1] int32: texts of both; nil with a cache
	ropes tensors          // [N+M, Dim/2, 2] each
	// pick [N, P] are the keys that a token sees where a window leaves some of its own
	// out, by window; nil where none does.
	pick map[int]*autograd.Tensor
	// With a cache: where both lie, [N+M] int32 each, and the place of each token [N].
	slot, pos, at *autograd.Tensor
}

// visit calls f with every tensor of j.
func (j *joint) visit(f func(x **autograd.Tensor)) {
	for _, x := range []**autograd.Tensor{&j.order, &j.seq, &j.slot, &j.pos, &j.at} {
		if *x != nil {
			f(x)
		}
	}
	for i := range j.ropes {
		f(&j.ropes[i])
	}
	for _, w := range slices.Sorted(maps.Keys(j.pick)) {
		x := j.pick[w]
		f(&x)
		j.pick[w] = x
	}
}

// clone is j with tables of its own to replace.
func (j *joint) clone() *joint {
	if j == nil {
		return nil
	}
	c := *j
	c.ropes, c.pick = slices.Clone(j.ropes), maps.Clone(j.pick)
	return &c
}

// windowsOf are the windows of attention that sees an encoder's keys beside its own,
// and whether there is such attention.
func (m *Model) windowsOf() (windows []int, any bool) {
	for _, x := range m.mixers {
		if a, ok := x.(*attention); ok && a.spec.Memory {
			any = true
			if w := a.spec.Window; w > 0 && !slices.Contains(windows, w) {
				windows = append(windows, w)
			}
		}
	}
	return windows, any
}

// join uploads what joint attention reads of texts into the state d of the blocks that
// have it: own are a decoder's, source an encoder's.
func (m *Model) join(t *autograd.Tape, d *State, own, source *Inputs) {
	windows, any := m.windowsOf()
	if !any {
		return
	}
	n := int32(len(own.IDs))
	var order, read []int32 // read: how many keys of the encoder each of its own tokens has before it
	seq := []int32{0}
	for s := 1; s < len(own.Seq); s++ {
		lo, hi := source.Seq[s-1], source.Seq[s]
		for i := lo; i < hi; i++ {
			order = append(order, n+i)
		}
		for i := own.Seq[s-1]; i < own.Seq[s]; i++ {
			order, read = append(order, i), append(read, hi-lo)
		}
		seq = append(seq, int32(len(order)))
	}
	d.joint = &joint{order: t.Upload(order, len(order)), seq: t.Upload(seq, len(seq))}
	d.joint.ropes = m.jointAngles(t, order, own.Pos, spans(own.Pos, own.Seq))
	d.joint.pick = picks(t, windows, own.Pos, read)
	if own.Key != nil {
		keys := slices.Concat(own.Key, source.Key)
		both := make([]int64, len(order))
		for i, row := range order {
			both[i] = keys[row]
		}
		d.bothKey = t.Upload(both, len(both))
	}
}

// jointAngles are the tables of angles for rows in an order: those below len(pos) are at
// positions, others stay as they are.
func (m *Model) jointAngles(t *autograd.Tape, order, pos, span []int32) tensors {
	out := make(tensors, len(m.ropes))
	for i := range m.ropes {
		r := &m.ropes[i]
		own, dim := r.rows(pos, span), r.spec.Dim
		all := make([]float32, 0, len(order)*dim)
		for _, row := range order {
			if int(row) < len(pos) {
				all = append(all, own[int(row)*dim:(int(row)+1)*dim]...)
				continue
			}
			for range dim / 2 {
				all = append(all, 1, 0)
			}
		}
		out[i] = t.Upload(all, len(order), dim/2, 2)
	}
	return out
}

// picks are the keys that tokens at positions pos see behind read keys of an encoder
// each, by window; a window that leaves out none has none.
func picks(t *autograd.Tape, windows []int, pos, read []int32) map[int]*autograd.Tensor {
	out := map[int]*autograd.Tensor{}
	for _, w := range windows {
		most := 0
		for i, p := range pos {
			if int(p) >= w {
				most = max(most, int(read[i])+w)
			}
		}
		if most == 0 {
			continue
		}
		for i, p := range pos { // those that see all they have
			most = max(most, int(read[i])+min(int(p)+1, w))
		}
		list := make([]int32, 0, most*len(pos))
		for i, p := range pos {
			row := make([]int32, 0, most)
			for k := range read[i] {
				row = append(row, k)
			}
			for k := max(p-int32(w)+1, 0); k <= p; k++ {
				row = append(row, read[i]+k)
			}
			for len(row) < most {
				row = append(row, -1)
			}
			list = append(list, row...)
		}
		out[w] = t.Upload(list, len(pos), most)
	}
	return out
}

// joinCached is join for a step with a cache, whose slots hold what was read before.
func (m *Model) joinCached(t *autograd.Tape, c *Cache, b placed, s *State) {
	windows, any := m.windowsOf()
	if !any {
		return
	}
	var order, at, read []int32
	for i, slot := range b.slot {
		order, read = append(order, int32(i)), append(read, int32(c.read[slot]))
		at = append(at, int32(c.read[slot])+b.pos[i])
	}
	for i := range b.source {
		order = append(order, int32(len(b.slot)+i))
	}
	j := &joint{ropes: m.jointAngles(t, order, b.pos, b.span), pick: picks(t, windows, b.pos, read)}
	j.slot, j.pos = t.Upload(slices.Concat(b.slot, b.sourceSlot), len(order)), t.Upload(slices.Concat(at, b.sourcePos), len(order))
	j.at = t.Upload(at, len(at))
	s.joint = j
}

// jointSteps are those of attention that sees the encoder's keys beside its own: the
// state between them is the queries and the input, then what attention makes.
func (a *attention) jointSteps() []Step {
	return []Step{
		{Linears: []*nn.Linear{a.q}, In: scaledBy(a.spec.InScale), Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{a.placed(t, a.q.Forward(t, in[0]), a.qNorm, s), in[0]}
		}},
		{Linears: []*nn.Linear{a.k, a.v}, In: unchanged, Memory: func(t *autograd.Tape, in tensors, s *State) tensors {
			both := t.Stack(in[1], s.Memory)
			if s.joint.order != nil {
				rows := both
				both = t.Rows(rows, s.joint.order)
				t.Done(rows)
			}
			return tensors{in[0], both}
		}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			return tensors{a.attendBoth(t, in[0], in[1], s)}
		}},
		leave(a.o, a.spec.OutScale),
	}
}

// attendBoth is attention of queries q to the keys and values of both.
func (a *attention) attendBoth(t *autograd.Tape, q, both *autograd.Tensor, s *State) *autograd.Tensor {
	key := t.Key
	t.Key = s.bothKey
	k, v := a.k.Forward(t, both), a.v.Forward(t, both)
	t.Key = key
	turned := *s
	turned.Ropes = s.joint.ropes
	k = a.placed(t, k, a.kNorm, &turned)
	at := autograd.AttnSpec{H: a.spec.H, K: a.spec.K, Dk: a.spec.D, Seq: s.Seq, SeqKV: s.joint.seq, Scale: a.spec.Scale, SoftCap: a.spec.SoftCap, Pick: s.joint.pick[a.spec.Window]}
	if s.cache == nil {
		o := t.Attention(q, k, v, at)
		t.Done(q, k, v)
		return o
	}
	kept := &s.cache.kept[a.seat].(*jointKeys).KV
	t.CacheAppend(kept, k, v, s.joint.slot, s.joint.pos)
	o := t.CacheAttention(q, kept, s.slot, s.joint.at, at)
	t.Done(q, k, v)
	return o
}

// jointKeys are the keys and values of both, those of the encoder first.
type jointKeys struct{ *keysValues }

// newJointKeys has room for as many tokens of an encoder as of the text behind it.
func newJointKeys(dev kernels.Backend, of kernels.KV) (memory, error) {
	of.Max *= 2
	kv, err := newKeysValues(dev, of, true)
	if err != nil {
		return nil, err
	}
	return &jointKeys{kv}, nil
}

func (j *jointKeys) grow(max int, held []int) error { return j.keysValues.grow(2*max, held) }

// apart replaces rows of x [N, C] that are of a token whose embedding lies apart.
func (m *Model) apart(t *autograd.Tape, x *autograd.Tensor, s *State) *autograd.Tensor {
	if s.others == nil {
		return x
	}
	zeros := t.Upload(make([]int32, x.Rows()), x.Rows())
	raw, own := x, m.Apart.Forward(t, zeros)
	kept, put := t.Mul(raw, s.others, kernels.ByRow), t.Mul(own, s.apart, kernels.ByRow)
	y := t.Add(kept, put, 1, 1)
	t.Done(raw, own, kept, put, zeros)
	return y
}

// markApart uploads which of ids are of a token whose embedding lies apart, if any is.
func (m *Model) markApart(t *autograd.Tape, s *State, ids []int32) {
	if len(m.Spec.Apart) == 0 || !slices.Contains(ids, m.Spec.Apart[0]) {
		return
	}
	others, apart := make([]float32, len(ids)), make([]float32, len(ids))
	for i, id := range ids {
		if others[i] = 1; id == m.Spec.Apart[0] {
			others[i], apart[i] = 0, 1
		}
	}
	s.others, s.apart = t.Upload(others, len(ids)), t.Upload(apart, len(ids))
}
