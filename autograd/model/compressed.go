package model

import (
	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// compressed is attention to one head of keys that are values, too: the last tokens,
// and entries into which all are compressed.
type compressed struct {
	spec           *arch.Compressed
	qa, qb, kv     *nn.Linear
	oa, o          *nn.Linear // oa has a map for every group of heads
	qaNorm, kvNorm *nn.Norm
	qNorm          *nn.Norm // of each head, without weights
	sinks          *autograd.Param
	entries, index *compressor // nil: none; index is of the keys of what picks entries
	indexQ, indexW *nn.Linear
	ropes          []ropeTable // the model's
	seat           int
}

// compressor makes entries of d elements of rate tokens each: sums of what kv makes,
// weighted channel by channel by a softmax over what gate makes.
type compressor struct {
	kv, gate *nn.Linear
	bias     *autograd.Param // [rate, parts·d], of the gates by place in an entry
	norm     *nn.Norm
	d, rate  int
	overlap  bool // an entry's first half are the first d columns of the tokens of the one before
}

func (l *loader) compressed(layer int, spec *arch.Compressed) *compressed {
	norm := l.m.Spec.Norm
	a := &compressed{spec: spec, qa: l.linear(layer, arch.QA), qb: l.linear(layer, arch.QB), kv: l.linear(layer, arch.KVA), oa: l.linear(layer, arch.OA), o: l.linear(layer, arch.O),
		qaNorm: l.norm(layer, arch.QANorm), kvNorm: l.norm(layer, arch.KVANorm), qNorm: &nn.Norm{Kind: norm.Kind, Eps: norm.Eps, Width: spec.D},
		sinks: l.take(l.src.At(layer, arch.Sinks)), ropes: l.m.ropes, seat: len(l.m.mixers)}
	of := func(kv, gate, bias, norm arch.Role, d int) *compressor {
		return &compressor{l.linear(layer, kv), l.linear(layer, gate), l.take(l.src.At(layer, bias)), l.norm(layer, norm), d, spec.Rate, spec.Overlap}
	}
	if spec.Rate > 0 {
		a.entries = of(arch.CompressKV, arch.CompressGate, arch.CompressBias, arch.CompressNorm, spec.D)
	}
	if spec.Index.P > 0 {
		a.index = of(arch.IndexK, arch.IndexGate, arch.IndexBias, arch.IndexNorm, spec.Index.D)
		a.indexQ, a.indexW = l.linear(layer, arch.IndexQ), l.linear(layer, arch.IndexW)
	}
	l.m.mixers = append(l.m.mixers, a)
	return a
}

// steps: the state between them is keys, what entries are made of, and the latent of
// the queries; then what attention makes, by heads.
func (a *compressed) steps() []Step {
	queries := []*nn.Linear{a.qb}
	if a.index != nil {
		queries = append(queries, a.indexQ)
	}
	return []Step{
		{Linears: a.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			qa := a.qa.Forward(t, in[0])
			raw := a.kv.ForwardWide(t, in[0])
			key := a.rotated(t, a.kvNorm.ForwardWide(t, raw), a.spec.D, s, false)
			t.Done(raw)
			out := tensors{key}
			for _, c := range []*compressor{a.entries, a.index} {
				if c != nil {
					out = append(out, c.kv.ForwardWide(t, in[0]), c.gate.ForwardWide(t, in[0]))
				}
			}
			if a.index != nil {
				out = append(out, a.indexW.ForwardWide(t, in[0]))
			}
			return append(out, qa)
		}},
		{Linears: queries, In: func(t *autograd.Tape, in tensors) tensors {
			last := len(in) - 1
			return join(in[:last], tensors{a.qaNorm.Forward(t, in[last])})
		}, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			last := len(in) - 1
			raw := a.qb.ForwardWide(t, in[last])
			q := a.rotated(t, a.qNorm.ForwardWide(t, raw), a.spec.D, s, false)
			t.Done(raw)
			var iq *autograd.Tensor
			if a.index != nil {
				iq = a.rotated(t, a.indexQ.ForwardWide(t, in[last]), a.spec.Index.D, s, false)
			}
			o := a.attend(t, q, iq, in[:last], s)
			t.Done(q, iq)
			own := t.Reshape(o, o.Rows(), o.Cols()) // attention keeps its own for the gradient
			t.Done(o)
			return tensors{a.rotated(t, own, a.spec.D, s, true)}
		}},
		{Linears: []*nn.Linear{a.oa}, Routed: func(in tensors) *autograd.Routed { return autograd.RoutedOf(in[:len(in)-1]) }, In: a.grouped, Forward: func(t *autograd.Tape, in tensors, _ *State) tensors {
			last, g := len(in)-1, a.spec.Groups
			y := a.oa.ForwardExperts(t, in[last], autograd.RoutedOf(in[:last]))
			n := y.Rows() / g
			back := t.Rows(y, t.Upload(byGroup(n, g, true), n*g))
			out := t.Reshape(back, n, g*y.Cols())
			t.Done(y, back)
			return tensors{out}
		}},
		leave(a.o, 0),
	}
}

// byGroup says which row of n tokens with g groups each is which of g groups of n
// tokens, or the other way.
func byGroup(n, g int, back bool) []int32 {
	out := make([]int32, n*g)
	for i := range n {
		for j := range g {
			if back {
				out[i*g+j] = int32(j*n + i)
			} else {
				out[j*n+i] = int32(i*g + j)
			}
		}
	}
	return out
}

// grouped are the rows of heads by group, as those of experts.
func (a *compressed) grouped(t *autograd.Tape, in tensors) tensors {
	n, g := in[0].Rows(), a.spec.Groups
	token, bounds := make([]int32, n*g), make([]int32, g+1)
	for i := range token {
		token[i] = int32(i % n)
	}
	for j := range bounds {
		bounds[j] = int32(j * n)
	}
	r := &autograd.Routed{Token: t.Upload(token, n*g), Group: t.Upload(bounds, g+1)}
	parts := t.Reshape(in[0], n*g, in[0].Cols()/g)
	rows := t.Rows(parts, t.Upload(byGroup(n, g, false), n*g))
	t.Done(parts)
	return append(r.Tensors(), rows)
}

func (a *compressed) readers() []*nn.Linear {
	list := []*nn.Linear{a.qa, a.kv}
	for _, c := range []*compressor{a.entries, a.index} {
		if c != nil {
			list = append(list, c.kv, c.gate)
		}
	}
	if a.index != nil {
		list = append(list, a.indexW)
	}
	return list
}

// smooth: the latent's norm is read by two maps, of which one stays as it is.
func (a *compressed) smooth() []Pair {
	if a.index != nil {
		return nil
	}
	next := []*nn.Linear{a.qb}
	return []Pair{{Norm: a.qaNorm, Next: next, Part: alone(a.qb)}}
}

// rotated gives heads of d elements the position of their token, or takes it back.
// It takes x over.
func (a *compressed) rotated(t *autograd.Tape, x *autograd.Tensor, d int, s *State, back bool) *autograd.Tensor {
	return t.Rope(x, s.Ropes[a.spec.Rope], a.rope(d, back))
}

func (a *compressed) rope(d int, back bool) autograd.RopeSpec {
	return autograd.RopeSpec{D: d, Rot: a.spec.Rot, Off: d - a.spec.Rot, Pairs: kernels.Adjacent, Back: back}
}

// window is where the tokens of an entry and of the one before it begin, and the
// position of the first.
type window struct{ from, before, pos int }

// made makes entries [W, d] of rows of kv and gate [R, parts·d] of tokens at positions
// pos.
func (a *compressed) made(t *autograd.Tape, c *compressor, kv, gate *autograd.Tensor, pos []int32, windows []window) *autograd.Tensor {
	place := make([]int32, len(pos))
	for i, p := range pos {
		place[i] = p % int32(c.rate)
	}
	at := t.Upload(place, len(place))
	bias := t.Embed(c.bias, at)
	gates := t.Add(gate, bias, 1, 1)
	parts := 1
	if c.overlap {
		parts = 2
	}
	v, k := t.Reshape(kv, parts*len(pos), c.d), t.Reshape(gates, parts*len(pos), c.d)
	var rows []int32
	seq, bounds, where := []int32{0}, []int32{0}, []int32(nil)
	for i, w := range windows {
		if c.overlap && w.before >= 0 {
			for j := range c.rate {
				rows = append(rows, int32(2*(w.before+j)))
			}
		}
		for j := range c.rate {
			rows = append(rows, int32(parts*(w.from+j)+parts-1))
		}
		seq, bounds, where = append(seq, int32(i+1)), append(bounds, int32(len(rows))), append(where, int32(w.pos))
	}
	idx := t.Upload(rows, len(rows))
	vs, ks := t.Rows(v, idx), t.Rows(k, idx)
	n := len(windows)
	one := t.Upload(slicesOf(n, c.d, func(int) float32 { return 1 }), n, c.d)
	// A softmax over the tokens of an entry, channel by channel: attention of heads of
	// one element, from 1 to the gates.
	sum := t.Attention(one, ks, vs, autograd.AttnSpec{H: c.d, K: c.d, Dk: 1, Seq: t.Upload(seq, n+1), SeqKV: t.Upload(bounds, n+1), Full: true, Scale: 1})
	y := c.norm.ForwardWide(t, sum)
	t.Done(at, bias, gates, v, k, idx, vs, ks, one, sum)
	table := &a.ropes[a.spec.Rope]
	return t.Rope(y, t.Upload(table.rows(where, where), n, table.spec.Dim/2, 2), a.rope(c.d, false))
}

// attend is attention up to the rotation back: in has the keys, and what entries are
// made of.
func (a *compressed) attend(t *autograd.Tape, q, iq *autograd.Tensor, in tensors, s *State) *autograd.Tensor {
	at := autograd.AttnSpec{H: a.spec.H, K: 1, Dk: a.spec.D, Seq: s.Seq, Window: a.spec.Window, Sinks: a.sinks}
	switch {
	case s.cache != nil && a.entries != nil:
		return a.recall(t, q, iq, in, at, s)
	case s.cache != nil:
		kept := s.cache.kept[a.seat].(*keysValues)
		t.CacheAppend(&kept.KV, in[0], nil, s.slot, s.pos)
		return t.CacheAttention(q, &kept.KV, s.slot, s.pos, at)
	}
	var windows []window
	if a.entries != nil {
		for _, r := range s.runs {
			for w := range (r.To - r.From) / a.spec.Rate {
				windows = append(windows, window{r.From + w*a.spec.Rate, r.From + (w-1)*a.spec.Rate, w * a.spec.Rate})
				if w == 0 {
					windows[len(windows)-1].before = -1
				}
			}
		}
	}
	keys := in[0]
	if len(windows) > 0 {
		pos := make([]int32, s.N)
		for _, r := range s.runs {
			for i := r.From; i < r.To; i++ {
				pos[i] = int32(i - r.From)
			}
		}
		entries := a.made(t, a.entries, in[1], in[2], pos, windows)
		seen := a.seen(t, iq, in, pos, windows, s)
		both := t.Stack(in[0], entries)
		keys = a.ordered(t, both, s, &at)
		at.Window, at.Full = 0, true
		p := len(seen) / s.N
		at.Pick = t.Upload(seen, s.N, p)
		t.Done(entries, both)
	}
	values := t.Reshape(keys, keys.Rows(), a.spec.D) // with a gradient of its own
	o := t.Attention(q, keys, values, at)
	if t.Done(values, at.Pick); keys != in[0] {
		t.Done(keys, at.SeqKV)
	}
	return o
}

// ordered are the rows of tokens and entries by sequence: its tokens, then its entries.
func (a *compressed) ordered(t *autograd.Tape, both *autograd.Tensor, s *State, at *autograd.AttnSpec) *autograd.Tensor {
	rows, bounds, entry := []int32(nil), []int32{0}, int32(s.N)
	for _, r := range s.runs {
		for i := r.From; i < r.To; i++ {
			rows = append(rows, int32(i))
		}
		for range (r.To - r.From) / a.spec.Rate {
			rows, entry = append(rows, entry), entry+1
		}
		bounds = append(bounds, int32(len(rows)))
	}
	at.SeqKV = t.Upload(bounds, len(bounds))
	return t.Rows(both, t.Upload(rows, len(rows)))
}

// seen lists the keys that each token sees: tokens in the window by position, and
// entries behind the tokens of the sequence.
func (a *compressed) seen(t *autograd.Tape, iq *autograd.Tensor, in tensors, pos []int32, windows []window, s *State) []int32 {
	var picked []int32
	most := 0
	by := autograd.PickSpec{H: a.spec.Index.H, D: a.spec.Index.D, P: a.spec.Index.P, Every: a.spec.Rate}
	first := 0
	for _, r := range s.runs {
		n := (r.To - r.From) / a.spec.Rate
		by.Runs = append(by.Runs, autograd.PickRun{From: r.From, To: r.To, First: first, Keys: n})
		first, most = first+n, max(most, n)
	}
	if a.index != nil {
		keys := a.made(t, a.index, in[3], in[4], pos, windows)
		picked = a.ints(t, t.Pick(iq, keys, in[5], by))
		t.Done(keys)
	}
	return a.list(by, pos, picked, most, func(run int, entry int32) int32 { return int32(s.runs[run].To-s.runs[run].From) + entry }, 0)
}

// ints are numbers on the device, nil of nil.
func (a *compressed) ints(t *autograd.Tape, x *autograd.Tensor) []int32 {
	if x == nil {
		return nil
	}
	v, err := t.Ints(x)
	t.Fail(err)
	t.Done(x)
	return v
}

// list is what tokens see, as many places for each: those of the window at first+position,
// and of the entries that are complete before them those in picked [N, P], or all of at
// most most, at the rows that row gives them.
func (a *compressed) list(by autograd.PickSpec, pos, picked []int32, most int, row func(run int, entry int32) int32, first int32) []int32 {
	wide := a.spec.Window + most
	if picked != nil {
		wide = a.spec.Window + by.P
	}
	out := make([]int32, len(pos)*wide)
	for i := range out {
		out[i] = -1
	}
	for run, r := range by.Runs {
		for i := r.From; i < r.To; i++ {
			own := out[i*wide : i*wide][:0:wide]
			for p := max(0, pos[i]-int32(a.spec.Window)+1); p <= pos[i]; p++ {
				own = append(own, first+p)
			}
			ready := (pos[i] + 1) / int32(a.spec.Rate)
			if picked == nil {
				for e := range ready {
					own = append(own, row(run, e))
				}
				continue
			}
			for _, e := range picked[i*by.P : (i+1)*by.P] {
				if e >= 0 && e < ready {
					own = append(own, row(run, e))
				}
			}
		}
	}
	return out
}
