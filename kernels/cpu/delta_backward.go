package cpu

import (
	"math"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu/internal/vec"
	"github.com/tunekit/tunekit/kernels/par"
)

// The gradient of a scan needs the state before every token. It runs forward
// once more and keeps the state at the first token of each block, then, from
// the last block to the first, makes the states inside of it again. With √n
// tokens a block that is 2·√n states of one head at a time.

// blockOf is the number of tokens of a block.
func blockOf(n int) int { return max(8, int(math.Ceil(math.Sqrt(float64(n))))) }

// longest is the length of the longest sequence.
func longest(seqs []span) int {
	most := 0
	for _, s := range seqs {
		most = max(most, s.n)
	}
	return most
}

// tapeOf is the memory of the states of one sequence of up to n tokens.
func tapeOf(n, size int) int {
	b := blockOf(n)
	return (ceilDiv(n, b) + b + 1) * size
}

// backThrough calls step for the tokens of a sequence of n from the last to the
// first, with the states before and after each; next makes a state from the one
// before, and may be asked twice. mem has tapeOf(n, size) floats.
func backThrough(n, size int, mem []float32, next func(i int, after, before []float32), step func(i int, before, after []float32)) {
	b := blockOf(n)
	blocks := ceilDiv(n, b)
	first := func(i int) []float32 { return mem[i*size:][:size] }
	inside := func(i int) []float32 { return mem[(blocks+i)*size:][:size] }
	if n == 0 {
		return
	}
	clear(first(0))
	for i := 1; i < blocks; i++ {
		m := first(i)
		copy(m, first(i-1))
		for j := (i - 1) * b; j < i*b; j++ {
			next(j, m, m)
		}
	}
	for i := blocks - 1; i >= 0; i-- {
		count := min(b, n-i*b)
		copy(inside(0), first(i))
		for j := range count {
			next(i*b+j, inside(j+1), inside(j))
		}
		for j := count - 1; j >= 0; j-- {
			step(i*b+j, inside(j), inside(j+1))
		}
	}
}

// deltaGrad is the gradient of one call.
type deltaGrad struct {
	*delta
	dq, dk, dv, do headRows
	dgate, dbeta   kernels.Dst
	sumA, sumB     []float64 // of ALog and DtBias, of every sequence apart
}

// DeltaScanBackward computes the gradients of a scan that began at zero, a key
// head of a sequence in each task.
func (c *CPU) DeltaScanBackward(g *kernels.DeltaGrads, do, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	noState("delta scan backward", a.State)
	d := &deltaGrad{delta: newDelta(q, k, v, a), dgate: g.Gate, dbeta: g.Beta}
	d.dq, d.dk = rowsOfHeads("delta scan backward: dq", g.Q, a.N, a.K, a.Dk), rowsOfHeads("delta scan backward: dk", g.K, a.N, a.K, a.Dk)
	d.dv, d.do = rowsOfHeads("delta scan backward: dv", g.V, a.N, a.H, a.Dv), rowsOfHeads("delta scan backward: do", do, a.N, a.H, a.Dv)
	want("delta scan backward: dgate", g.Gate.Buffer, a.N*a.H*d.width)
	want("delta scan backward: dbeta", g.Beta.Buffer, a.N*a.H)
	want("delta scan backward: dalog", g.ALog.Buffer, a.H)
	want("delta scan backward: ddtbias", g.DtBias.Buffer, a.H*d.width)
	d.sumA, d.sumB = make([]float64, len(d.seqs)*a.H), make([]float64, len(d.seqs)*a.H*d.width)
	most := longest(d.seqs)
	room := tapeOf(most, a.Dk*a.Dv) + a.Dk*a.Dv + 2*most*a.Dk + d.stepSize() + 2*a.Dv + a.Dk + d.width
	tasks := len(d.seqs) * a.K
	mem := c.newRooms(min(tasks, par.Threads()), room)
	defer mem.free()
	par.For(tasks, 1, func(lo, hi int) {
		room := mem.get()
		defer mem.put(room)
		for i := lo; i < hi; i++ {
			d.group(i/a.K, i%a.K, room)
		}
	})
	if a.ALog != nil {
		keepSums(g.ALog, d.sumA, a.H)
		keepSums(g.DtBias, d.sumB, a.H*d.width)
	}
}

// keepSums writes or adds the sum of parts of n numbers each, in order.
func keepSums(dst kernels.Dst, parts []float64, n int) {
	out := f32(dst.Buffer)
	if out == nil {
		return
	}
	for i := range n {
		var sum float64
		for j := i; j < len(parts); j += n {
			sum += parts[j]
		}
		keepSum(out, i, sum, dst.Add)
	}
}

// group is the gradient of the heads of one key head in one sequence.
func (d *deltaGrad) group(seq, group int, mem []float32) {
	s, heads := d.seqs[seq], d.H/d.K
	dq, dk := cut(&mem, s.n*d.Dk), cut(&mem, s.n*d.Dk)
	clear(dq)
	clear(dk)
	for h := group * heads; h < (group+1)*heads; h++ {
		d.head(seq, h, dq, dk, mem)
	}
	tmp := mem[:d.Dk]
	for n := range s.n {
		row := dq[n*d.Dk:][:d.Dk]
		vec.MulScale(row, row, nil, d.scale)
		d.dq.keep(row, s.tok+n, group, tmp)
		row = dk[n*d.Dk:][:d.Dk]
		vec.MulScale(row, row, nil, d.scaleK)
		d.dk.keep(row, s.tok+n, group, tmp)
	}
}

// head adds a head's gradients of the scaled q and k to dq and dk.
func (d *deltaGrad) head(seq, h int, dq, dk, mem []float32) {
	size, first := d.Dk*d.Dv, d.seqs[seq].tok
	s := d.newStep(&mem)
	dm, grad, tmp := cut(&mem, size), cut(&mem, d.Dv), cut(&mem, max(d.Dv, d.width))
	dgate := cut(&mem, d.width)
	clear(dm)
	backThrough(d.seqs[seq].n, size, mem, func(i int, after, before []float32) {
		d.read(s, first+i, h)
		s.advance(after, before)
	}, func(i int, before, after []float32) {
		n := first + i
		d.read(s, n, h)
		s.advance(after, before)
		d.do.copy(s.out, d.do.at(n, h))
		dbeta := s.back(dm, before, after, dq[i*d.Dk:][:d.Dk], dk[i*d.Dk:][:d.Dk], dgate, grad)
		d.dv.keep(s.v, n, h, tmp[:d.Dv])
		keepOne(d.dbeta, n*d.H+h, dbeta)
		if d.aLog != nil {
			for j, g := range dgate {
				d.sumA[seq*d.H+h] += float64(g) * s.g.log[j]
				d.sumB[(seq*d.H+h)*d.width+j] += float64(g) * s.g.slope[j]
			}
		}
		for j := range dgate {
			dgate[j] *= float32(s.g.slope[j])
		}
		if !d.dgate.Skip() {
			plainOf(d.dgate.Buffer).store(dgate, (n*d.H+h)*d.width, d.dgate.Add, tmp[:d.width])
		}
	})
}

// keepOne writes or adds one element of an operand that somebody wants.
func keepOne(dst kernels.Dst, i int, v float32) {
	if !dst.Skip() {
		var x, tmp [1]float32
		x[0] = v
		plainOf(dst.Buffer).store(x[:], i, dst.Add, tmp[:])
	}
}

// back goes back through a token whose out holds the gradient of its result. dm
// is the gradient of the state after it and becomes that of the state before.
// It adds to dq and dk, writes the gradient of v to v and those of the logs of
// the decays to dlog, and returns that of beta. grad is memory for Dv floats.
func (s *deltaStep) back(dm, before, after, dq, dk, dlog, grad []float32) (dbeta float32) {
	dv := len(s.v)
	clear(grad) // of change
	for i := range s.dk {
		row := dm[i*dv:][:dv]
		dq[i] += vec.Dot(after[i*dv:][:dv], s.out)
		vec.Axpy(row, s.q[i], s.out)
		vec.Axpy(grad, s.k[i], row)
		dk[i] += vec.Dot(row, s.change)
	}
	dbeta = vec.Dot(grad, s.v) - vec.Dot(grad, s.mem)
	vec.MulScale(s.v, grad, nil, s.beta)
	clear(dlog)
	for i := range s.dk {
		row, old, decay := dm[i*dv:][:dv], before[i*dv:][:dv], s.decayOf(i)
		dk[i] -= decay * vec.Dot(old, s.v)
		vec.Axpy(row, -s.k[i], s.v)
		dlog[min(i, len(dlog)-1)] += decay * vec.Dot(row, old)
		vec.MulScale(row, row, nil, decay)
	}
	return dbeta
}

// rooms lends pieces of counted scratch to the tasks of a method.
type rooms struct {
	*workspace
	idle chan []float32
}

// newRooms makes n pieces of so many floats.
func (c *CPU) newRooms(n, size int) rooms {
	r := rooms{c.workspace(n * roundUp(size, 16)), make(chan []float32, max(n, 1))}
	for range n {
		r.idle <- r.take(size)
	}
	return r
}

func (r rooms) get() []float32  { return <-r.idle }
func (r rooms) put(p []float32) { r.idle <- p }
