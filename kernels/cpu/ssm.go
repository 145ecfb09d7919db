package cpu

import (
	"fmt"
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// ssm is one SSMScan or its gradient. Neighbouring heads of a group make a run,
// which one task takes: a Mamba-1 head is a single channel.
type ssm struct {
	*kernels.SSMArgs
	x, b, c            headRows
	dt                 plain
	dtBias, aLog, skip []float32
	a                  []float32 // A, [H] or [H, S]
	seqs               []span
	state              states
	runs, run, size    int // runs of a group, heads of one, floats of a head's state
}

// groupRuns is how many runs all groups together have, about. The gradients of
// b and c are summed by runs, so it is a part of the result.
const groupRuns = 16

func newSSM(x, b, c kernels.Heads, a *kernels.SSMArgs) *ssm {
	if a.H < 1 || a.G < 1 || a.H%a.G != 0 {
		panic(fmt.Sprintf("cpu: ssm scan: %d heads in %d groups", a.H, a.G))
	}
	s := &ssm{SSMArgs: a, size: a.P * a.S}
	s.x, s.b, s.c = rowsOfHeads("ssm scan: x", x, a.N, a.H, a.P), rowsOfHeads("ssm scan: b", b, a.N, a.G, a.S), rowsOfHeads("ssm scan: c", c, a.N, a.G, a.S)
	rates := a.H
	if a.PerState {
		rates *= a.S
	}
	want("ssm scan: dt", a.Dt, a.N*a.H)
	want("ssm scan: dtbias", a.DtBias, a.H)
	want("ssm scan: alog", a.ALog, rates)
	want("ssm scan: d", a.D, a.H)
	s.dt, s.dtBias, s.aLog, s.skip = plainOf(a.Dt), weights(a.DtBias), weights(a.ALog)[:rates], weights(a.D)
	s.a = make([]float32, rates)
	for i, l := range s.aLog {
		s.a[i] = float32(-math.Exp(float64(l)))
	}
	heads := a.H / a.G
	s.run = ceilDiv(heads, min(heads, max(1, groupRuns/a.G)))
	s.runs = ceilDiv(heads, s.run)
	s.seqs = spansOf("ssm scan", a.Seq, a.N)
	s.state = newStates("ssm scan", a.State, a.Slot, len(s.seqs), a.H*s.size)
	return s
}

// heads are the heads [first, end) of run i of all groups' runs, and their group.
func (s *ssm) heads(i int) (first, end, group int) {
	group = i / s.runs
	first = group*(s.H/s.G) + i%s.runs*s.run
	return first, min(first+s.run, (group+1)*(s.H/s.G)), group
}

// ssmStep is a token as the heads of a run see it.
type ssmStep struct {
	b, c  []float32 // [S]
	x, y  []float32 // [P] of one head
	decay []float32 // [S] of one head, all the same without PerState
	dt    float32
	slope float32 // of dt, with respect to Dt
}

func (s *ssm) newStep(mem *[]float32) *ssmStep {
	return &ssmStep{b: cut(mem, s.S), c: cut(mem, s.S), x: cut(mem, s.P), y: cut(mem, s.P), decay: cut(mem, s.S)}
}

// stepSize is the memory of a step.
func (s *ssm) stepSize() int { return 3*s.S + 2*s.P }

// read fetches what the group has at token n.
func (s *ssm) read(t *ssmStep, n, group int) {
	s.b.copy(t.b, s.b.at(n, group))
	s.c.copy(t.c, s.c.at(n, group))
}

// readHead fetches what head h has at token n.
func (s *ssm) readHead(t *ssmStep, n, h int) {
	s.x.copy(t.x, s.x.at(n, h))
	z := float64(s.dt.one(n*s.H + h))
	if s.dtBias != nil {
		z += float64(s.dtBias[h])
	}
	dt, slope := softplus64(z), sigmoid64(z)
	if low := float64(s.DtMin); dt < low {
		dt, slope = low, 0
	}
	if high := float64(s.DtMax); high > 0 && dt > high {
		dt, slope = high, 0
	}
	t.dt, t.slope = float32(dt), float32(slope)
	if s.PerState {
		vec.ExpSum(t.decay, s.a[h*s.S:][:s.S], t.dt, 0)
		return
	}
	same := float32(math.Exp(float64(t.dt) * float64(s.a[h])))
	for i := range t.decay {
		t.decay[i] = same
	}
}

// advance makes a head's state after the token from that before it, which may
// be the same memory.
func (s *ssm) advance(t *ssmStep, next, m []float32) {
	for p, x := range t.x {
		row, old := next[p*s.S:][:s.S], m[p*s.S:][:s.S]
		if !s.PerState && s.S > 0 {
			vec.Lin2(row, t.decay[0], old, t.dt*x, t.b)
			continue
		}
		vec.MulScale(row, old, t.decay, 1)
		vec.Axpy(row, t.dt*x, t.b)
	}
}

// SSMScan runs the selective scan, a run of heads of a sequence in each task.
func (c *CPU) SSMScan(y, x, b, cc kernels.Heads, a *kernels.SSMArgs) {
	s := newSSM(x, b, cc, a)
	out := rowsOfHeads("ssm scan: y", y, a.N, a.H, a.P)
	tasks := a.G * s.runs
	par.For(len(s.seqs)*tasks, 1, func(lo, hi int) {
		mem := c.scratch.take(s.run*s.size + s.stepSize() + a.P)
		defer c.scratch.give(mem)
		rest := mem
		tmp, t := cut(&rest, a.P), s.newStep(&rest)
		for i := lo; i < hi; i++ {
			seq := i / tasks
			first, end, group := s.heads(i % tasks)
			m := rest[:(end-first)*s.size]
			if old := s.state.of(seq); old != nil {
				m = old[first*s.size : end*s.size]
			} else {
				clear(m)
			}
			for n := s.seqs[seq].tok; n < s.seqs[seq].tok+s.seqs[seq].n; n++ {
				s.read(t, n, group)
				for h := first; h < end; h++ {
					own := m[(h-first)*s.size:][:s.size]
					s.readHead(t, n, h)
					s.advance(t, own, own)
					for p, x := range t.x {
						t.y[p] = vec.Dot(own[p*s.S:][:s.S], t.c)
						if s.skip != nil {
							t.y[p] += s.skip[h] * x
						}
					}
					out.keep(t.y, n, h, tmp)
				}
			}
		}
	})
}

// ssmGrad is the gradient of one call.
type ssmGrad struct {
	*ssm
	dx, dy            headRows
	ddt               kernels.Dst
	db, dc            []float32 // [runs, N, G, S]
	sumDt, sumA, sumD []float64 // of DtBias, ALog and D, of every sequence apart
}

// SSMScanBackward computes the gradients of a scan that began at zero.
func (c *CPU) SSMScanBackward(g *kernels.SSMGrads, dy, x, b, cc kernels.Heads, a *kernels.SSMArgs) {
	noState("ssm scan backward", a.State)
	s := &ssmGrad{ssm: newSSM(x, b, cc, a), ddt: g.Dt}
	s.dx, s.dy = rowsOfHeads("ssm scan backward: dx", g.X, a.N, a.H, a.P), rowsOfHeads("ssm scan backward: dy", dy, a.N, a.H, a.P)
	db, dc := rowsOfHeads("ssm scan backward: db", g.B, a.N, a.G, a.S), rowsOfHeads("ssm scan backward: dc", g.C, a.N, a.G, a.S)
	want("ssm scan backward: ddt", g.Dt.Buffer, a.N*a.H)
	want("ssm scan backward: ddtbias", g.DtBias.Buffer, a.H)
	want("ssm scan backward: dalog", g.ALog.Buffer, len(s.a))
	want("ssm scan backward: dd", g.D.Buffer, a.H)
	part := s.runs * a.N * a.G * a.S
	sums := c.workspace(2 * part)
	defer sums.free()
	s.db, s.dc = sums.take(part), sums.take(part)
	s.sumDt, s.sumA, s.sumD = make([]float64, len(s.seqs)*a.H), make([]float64, len(s.seqs)*len(s.a)), make([]float64, len(s.seqs)*a.H)
	tasks := a.G * s.runs
	room := tapeOf(longest(s.seqs), s.run*s.size) + s.run*s.size + s.stepSize() + 2*a.P + 2*a.S
	mem := c.newRooms(min(len(s.seqs)*tasks, par.Threads()), room)
	defer mem.free()
	par.For(len(s.seqs)*tasks, 1, func(lo, hi int) {
		room := mem.get()
		defer mem.put(room)
		for i := lo; i < hi; i++ {
			s.heads(i/tasks, i%tasks, room)
		}
	})
	s.fold(c, db, s.db)
	s.fold(c, dc, s.dc)
	keepSums(g.DtBias, s.sumDt, a.H)
	keepSums(g.ALog, s.sumA, len(s.a))
	keepSums(g.D, s.sumD, a.H)
}

// fold adds the parts of all runs, in order.
func (s *ssmGrad) fold(c *CPU, dst headRows, parts []float32) {
	if dst.Skip() {
		return
	}
	each := s.N * s.G * s.S
	c.eachRow(s.N*s.G, s.S, func(i int, tmp []float32) {
		sum := parts[i*s.S:][:s.S]
		for r := 1; r < s.runs; r++ {
			vec.Axpy(sum, 1, parts[r*each+i*s.S:][:s.S])
		}
		dst.keep(sum, i/s.G, i%s.G, tmp)
	})
}

// heads is the gradient of a run of heads in one sequence.
func (s *ssmGrad) heads(seq, i int, mem []float32) {
	first, end, group := s.ssm.heads(i)
	part, tok, size := i%s.runs, s.seqs[seq].tok, (end-first)*s.size
	t := s.newStep(&mem)
	dm, tmp := cut(&mem, size), cut(&mem, s.P)
	b := &ssmBack{dx: cut(&mem, s.P), u: cut(&mem, s.S), w: cut(&mem, s.S)}
	clear(dm)
	each := func(m []float32, h int) []float32 { return m[(h-first)*s.size:][:s.size] }
	backThrough(s.seqs[seq].n, size, mem, func(i int, after, before []float32) {
		s.read(t, tok+i, group)
		for h := first; h < end; h++ {
			s.readHead(t, tok+i, h)
			s.advance(t, each(after, h), each(before, h))
		}
	}, func(i int, before, after []float32) {
		n := tok + i
		s.read(t, n, group)
		at := ((part*s.N+n)*s.G + group) * s.S
		b.db, b.dc = s.db[at:][:s.S], s.dc[at:][:s.S]
		clear(b.db)
		clear(b.dc)
		for h := first; h < end; h++ {
			s.readHead(t, n, h)
			s.dy.copy(t.y, s.dy.at(n, h))
			s.back(t, b, seq, h, each(dm, h), each(before, h), each(after, h))
			s.dx.keep(b.dx, n, h, tmp)
			keepOne(s.ddt, n*s.H+h, b.ddt)
		}
	})
}

// ssmBack is what going back through a token makes: of the run of heads db and
// dc, of one head the rest.
type ssmBack struct {
	db, dc []float32 // [S]
	dx     []float32 // [P]
	ddt    float32
	u, w   []float32 // [S] memory
}

// back goes back through a token at head h. dm is the gradient of the state
// after it and becomes that of the state before; t.y is that of the result.
func (s *ssmGrad) back(t *ssmStep, b *ssmBack, seq, h int, dm, before, after []float32) {
	var skip float32
	if s.skip != nil {
		skip = s.skip[h]
	}
	clear(b.u) // Σ x·dm
	clear(b.w) // gradients of the decays
	for p, dy := range t.y {
		row := dm[p*s.S:][:s.S]
		vec.Axpy(row, dy, t.c)
		vec.Axpy(b.dc, dy, after[p*s.S:][:s.S])
		vec.Axpy(b.u, t.x[p], row)
		b.dx[p] = skip*dy + t.dt*vec.Dot(row, t.b)
		vec.MulAcc(b.w, row, before[p*s.S:][:s.S], 1)
		vec.MulScale(row, row, t.decay, 1)
	}
	vec.Axpy(b.db, t.dt, b.u)
	vec.MulScale(b.w, b.w, t.decay, 1) // of dt·A
	ddt := vec.Dot(b.u, t.b)
	if s.PerState {
		a, sums := s.a[h*s.S:][:s.S], s.sumA[(seq*s.H+h)*s.S:][:s.S]
		ddt += vec.Dot(b.w, a)
		for i, w := range b.w {
			sums[i] += float64(w) * float64(t.dt) * float64(a[i])
		}
	} else {
		w, a := vec.Sum(b.w), s.a[h]
		ddt += w * a
		s.sumA[seq*s.H+h] += float64(w) * float64(t.dt) * float64(a)
	}
	b.ddt = ddt * t.slope
	s.sumDt[seq*s.H+h] += float64(b.ddt)
	s.sumD[seq*s.H+h] += float64(vec.Dot(t.y, t.x))
}
