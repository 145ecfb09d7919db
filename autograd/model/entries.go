package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
)

// entryMemory is what attention to entries remembers: behind room for entries the keys
// of tokens; of all tokens what entries are made of; and the same of what picks them.
type entryMemory struct {
	*keysValues
	raw, indexRaw, index *keysValues // the last two nil where nothing picks
	rate                 int
}

// room is the number of entries that max tokens can have.
func (a *compressed) room(max int) int { return max/a.spec.Rate + 1 }

// remember makes the mixer's part of a cache.
func (a *compressed) remember(dev kernels.Backend, slots, max int) (memory, error) {
	if a.entries == nil {
		return newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: 1, Dk: a.spec.D}, false)
	}
	m := &entryMemory{rate: a.spec.Rate}
	var err error
	kept := func(to **keysValues, max, d int, values bool) {
		if err == nil {
			*to, err = newKeysValues(dev, kernels.KV{Slots: slots, Max: max, K: 1, Dk: d, Dv: d}, values)
		}
	}
	kept(&m.keysValues, a.room(max)+max, a.spec.D, false)
	kept(&m.raw, max, a.entries.bias.Cols, true)
	if a.index != nil {
		kept(&m.indexRaw, max, a.index.bias.Cols, true)
		kept(&m.index, a.room(max), a.spec.Index.D, false)
	}
	if err != nil {
		m.free()
		return nil, err
	}
	return m, nil
}

func (m *entryMemory) parts() []*keysValues {
	var out []*keysValues
	for _, kv := range []*keysValues{m.keysValues, m.raw, m.indexRaw, m.index} {
		if kv != nil {
			out = append(out, kv)
		}
	}
	return out
}

func (m *entryMemory) free() {
	for _, kv := range m.parts() {
		kv.free()
	}
}

func (m *entryMemory) grow(max int, held []int) error {
	entries := make([]int, len(held))
	for i, n := range held {
		entries[i] = n / m.rate
	}
	for _, kv := range []*keysValues{m.raw, m.indexRaw} {
		if kv != nil {
			if err := kv.grow(max, held); err != nil {
				return err
			}
		}
	}
	room := max/m.rate + 1
	if m.index != nil {
		if err := m.index.grow(room, entries); err != nil {
			return err
		}
	}
	old := m.keysValues
	if room+max <= old.Max {
		return nil
	}
	of := old.KV
	of.Max = room + max
	wide, err := newKeysValues(old.dev, of, false)
	if err != nil {
		return err
	}
	before := firstToken(old.Max, m.rate)
	for slot, n := range held {
		move := func(from, to, rows int) {
			old.dev.Copy2D(kernels.To(wide.Keys), &kernels.Copy2DArgs{Rows: rows, Cols: of.Dk, X: old.Keys, XOff: (slot*old.Max + from) * of.Dk, XStride: of.Dk, YOff: (slot*of.Max + to) * of.Dk, YStride: of.Dk})
		}
		move(0, 0, entries[slot])
		move(before, room, n)
	}
	old.free()
	m.keysValues = wide
	return nil
}

// firstToken is the row of the first token where entries and tokens have so many rows.
func firstToken(rows, rate int) int {
	for room := 1; ; room++ {
		if max := rows - room; max/rate+1 == room {
			return room
		}
	}
}

// recall is attend with a cache. Entries that the step's tokens complete are made of
// what is remembered of all.
func (a *compressed) recall(t *autograd.Tape, q, iq *autograd.Tensor, in tensors, at autograd.AttnSpec, s *State) *autograd.Tensor {
	kept := s.cache.kept[a.seat].(*entryMemory)
	t.CacheAppend(&kept.raw.KV, in[1], in[2], s.slot, s.pos)
	if a.index != nil {
		t.CacheAppend(&kept.indexRaw.KV, in[3], in[4], s.slot, s.pos)
	}
	first := int32(firstToken(kept.Max, a.spec.Rate))
	by := autograd.PickSpec{H: a.spec.Index.H, D: a.spec.Index.D, P: a.spec.Index.P, Every: a.spec.Rate}
	pos, rows, last := make([]int32, s.N), make([]int32, s.N), make([]int32, s.N)
	most := 0
	for _, r := range s.runs {
		start := r.Keys - (r.To - r.From)
		for i := r.From; i < r.To; i++ {
			pos[i] = int32(start + i - r.From)
			rows[i], last[i] = first+pos[i], int32(kept.Max-1)
		}
		n := r.Keys / a.spec.Rate
		a.complete(t, a.entries, kept.raw, &kept.KV, r.First, start/a.spec.Rate, n)
		if a.index != nil {
			a.complete(t, a.index, kept.indexRaw, &kept.index.KV, r.First, start/a.spec.Rate, n)
		}
		by.Runs = append(by.Runs, autograd.PickRun{From: r.From, To: r.To, First: r.First, Keys: n, At: start})
		most = max(most, n)
	}
	t.CacheAppend(&kept.KV, in[0], nil, s.slot, t.Upload(rows, s.N))
	var picked []int32
	if a.index != nil {
		by.Keys = &kept.index.KV
		picked = a.ints(t, t.Pick(iq, nil, in[5], by))
	}
	seen := a.list(by, pos, picked, most, func(_ int, entry int32) int32 { return entry }, first)
	at.Window, at.Pick = 0, t.Upload(seen, s.N, len(seen)/s.N)
	return t.CacheAttention(q, &kept.KV, s.slot, t.Upload(last, s.N), at)
}

// complete makes entries from … to-1 of a slot of what raw has of its tokens, and keeps
// them in kv.
func (a *compressed) complete(t *autograd.Tape, c *compressor, raw *keysValues, kv *kernels.KV, slot, from, to int) {
	if from >= to || t.Err() != nil {
		return
	}
	begin := max(from-1, 0) * c.rate
	n := to*c.rate - begin
	rows := func(b kernels.Buffer, d int) *autograd.Tensor {
		return t.Borrow(raw.dev.Slice(b, (slot*raw.Max+begin)*d, n*d), n, d)
	}
	pos := make([]int32, n)
	for i := range pos {
		pos[i] = int32(begin + i)
	}
	var windows []window
	slots, places := []int32(nil), []int32(nil)
	for w := from; w < to; w++ {
		windows = append(windows, window{w*c.rate - begin, (w-1)*c.rate - begin, w * c.rate})
		slots, places = append(slots, int32(slot)), append(places, int32(w))
	}
	e := a.made(t, c, rows(raw.Keys, raw.Dk), rows(raw.Values, raw.ValueSize()), pos, windows)
	t.CacheAppend(kv, e, nil, t.Upload(slots, len(slots)), t.Upload(places, len(places)))
	t.Done(e)
}
