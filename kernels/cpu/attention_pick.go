package cpu

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// Attention to keys that were picked for every token: the keys of a token are
// copied side by side, once for the query heads that share them.

// picked is what a task needs for one token and key head.
type picked struct {
	*attn
	pos           int // of the token
	list          []int
	keys, values  []float32 // [P, dk], [P, dv]
	s, slope, ds  []float32 // [P]
	q1, out, more []float32 // rows of max(dk, dv)
	memory        []float32
}

func (a *attn) newPicked() *picked {
	t := &picked{attn: a}
	wide := max(a.dk, a.dv)
	t.memory = a.c.scratch.take(a.P*(a.dk+a.dv+3) + 3*wide)
	x := t.memory
	t.keys, t.values = cut(&x, a.P*a.dk), cut(&x, a.P*a.dv)
	t.s, t.slope, t.ds = cut(&x, a.P), cut(&x, a.P), cut(&x, a.P)
	t.q1, t.out, t.more = cut(&x, wide), cut(&x, wide), cut(&x, wide)
	return t
}

// load gathers the keys and values that token i of span s sees.
func (t *picked) load(s span, i, head int) {
	t.pos, t.list = s.pos+i, t.list[:0]
	lo, hi := t.Seen(t.pos, s.keys)
	for _, j := range i32(t.Pick)[(s.tok+i)*t.P:][:t.P] {
		if int(j) >= s.keys {
			panic(fmt.Sprintf("cpu: attention: token %d picks key %d of %d", s.tok+i, j, s.keys))
		}
		if j >= 0 && lo <= int(j) && int(j) < hi {
			t.list = append(t.list, int(j))
		}
	}
	for n, j := range t.list {
		at := t.rowOf(s.base, j)
		t.ks.copy(t.keys[n*t.dk:][:t.dk], t.kv.Off+at*t.kv.Tok+head*t.kv.Head)
		t.vs.copy(t.values[n*t.dv:][:t.dv], t.vv.Off+at*t.vv.Tok+head*t.vv.Head)
	}
}

// scores computes the shaped scores of query q of head h.
func (t *picked) scores(q []float32, h int) (s, slope []float32) {
	n := len(t.list)
	s, slope = t.s[:n], t.slope[:n]
	vec.DotRows(s, q, t.keys, t.dk, n)
	t.shape(s, slope, h, t.distance)
	return s, slope
}

// distance is from the token back to key i of its list.
func (t *picked) distance(i int) int { return t.pos - t.list[i] }

// singles are the spans cut into single tokens.
func singles(spans []span) []span {
	var one []span
	for _, s := range spans {
		for i := range s.n {
			one = append(one, span{s.tok + i, 1, s.pos + i, s.base, s.keys})
		}
	}
	return one
}

func (a *attn) forwardPicked(spans []span) {
	one := singles(spans)
	par.For(len(one)*a.K, rowGrain(a.P*(a.dk+a.dv)*a.g), func(lo, hi int) {
		t := a.newPicked()
		defer a.c.scratch.give(t.memory)
		for i := lo; i < hi; i++ {
			s, head := one[i/a.K], i%a.K
			t.load(s, 0, head)
			for h := head * a.g; h < (head+1)*a.g; h++ {
				t.attend(s.tok, h)
			}
		}
	})
}

func (t *picked) attend(tok, h int) {
	q := t.qs.get(t.q1[:t.dk], t.q.Off+tok*t.q.Tok+h*t.q.Head)
	s, _ := t.scores(q, h)
	out := t.out[:t.dv]
	clear(out)
	top := t.scale * vec.Max(s)
	sum := vec.ExpSum(s, s, t.scale, top)
	for i, p := range s {
		vec.Axpy(out, p, t.values[i*t.dv:][:t.dv])
	}
	factor, lse := t.settle(h, float64(top), float64(sum))
	t.write(tok, h, out, factor, lse)
}

// runPicked takes the tokens of a sequence in order, so that sums of gradients
// of keys and values have one: in float32, written at the end.
func (a *attnBack) runPicked(spans []span) {
	n, wide := a.Keys(), a.dk+a.dv
	w := a.c.workspace(n * a.K * wide)
	defer w.free()
	sums := w.take(n * a.K * wide)
	rel := a.newRelSums(len(spans))
	a.c.eachRow(n, a.K*wide, func(i int, _ []float32) { clear(sums[i*a.K*wide:][:a.K*wide]) })
	par.For(len(spans)*a.K, 1, func(lo, hi int) {
		t := a.newPicked()
		defer a.c.scratch.give(t.memory)
		for i := lo; i < hi; i++ {
			s, head := spans[i/a.K], i%a.K
			part := rel.part(i/a.K, head)
			for tok := range s.n {
				t.load(s, tok, head)
				for h := range a.g {
					var r []float64
					if part != nil {
						r = part[h*a.Span:][:a.Span]
					}
					a.backPicked(t, s, s.tok+tok, head, head*a.g+h, sums, r)
				}
			}
		}
	})
	rel.add()
	a.c.eachRow(n, max(a.dk, a.dv), func(i int, tmp []float32) {
		for head := range a.K {
			row := sums[(i*a.K+head)*wide:][:wide]
			if v := a.dkeys; !a.dks.absent() {
				a.dks.store(row[:a.dk], v.Off+i*v.Tok+head*v.Head, v.Add, tmp[:a.dk])
			}
			if v := a.dvalues; !a.dvs.absent() {
				a.dvs.store(row[a.dk:], v.Off+i*v.Tok+head*v.Head, v.Add, tmp[:a.dv])
			}
		}
	})
}

// backPicked adds the gradients of one query to sums [N, K, dk+dv] and rel
// [Span], and writes dq.
func (a *attnBack) backPicked(t *picked, s span, tok, head, h int, sums []float32, rel []float64) {
	q := t.qs.get(t.q1[:t.dk], t.q.Off+tok*t.q.Tok+h*t.q.Head)
	p, slope := t.scores(q, h)
	do := a.dos.get(t.out[:t.dv], a.do.Off+tok*a.do.Tok+h*a.do.Head)
	delta := vec.Dot(do, a.os.get(t.more[:t.dv], a.o.Off+tok*a.o.Tok+h*a.o.Head))
	vec.ExpSum(p, p, t.scale, a.lse[tok*a.H+h])
	ds := t.ds[:len(p)]
	vec.DotRows(ds, do, t.values, t.dv, len(p))
	a.unshape(ds, p, slope, delta, rel, t.distance)
	dq := t.more[:t.dk]
	clear(dq)
	for i, j := range t.list {
		sum := sums[(t.rowOf(s.base, j)*a.K+head)*(a.dk+a.dv):][:a.dk+a.dv]
		vec.Axpy(dq, ds[i], t.keys[i*t.dk:][:t.dk])
		vec.Axpy(sum[:a.dk], ds[i], q)
		vec.Axpy(sum[a.dk:], p[i], do)
	}
	if !a.dqs.absent() {
		a.dqs.store(dq, a.dq.Off+tok*a.dq.Tok+h*a.dq.Head, a.dq.Add, t.out[:t.dk])
	}
}
