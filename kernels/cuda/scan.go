package cuda

import (
	"fmt"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// What heads.h and conv.cu fix: tokens of a chunk, the widest row of a state, rows
// and tokens of a warp's sums.
const (
	chunk    = 32
	widest   = 256
	convPart = 256
)

// chunksOf is how many first tokens of chunks there are, at most.
func chunksOf(n, seqs int) int { return n/chunk + seqs }

// seqOf is the bounds of the sequences, and how many there are.
func seqOf(what string, seq kernels.Buffer) (driver.Ptr, int) {
	if seq.Len() < 1 {
		panic("cuda: " + what + ": no bounds of sequences")
	}
	return i32(what, seq, 1), seq.Len() - 1
}

// stateOf checks a state of so many floats a slot and the slots of sequences.
func stateOf(what string, state, slot kernels.Buffer, seqs, size int) (at, slots driver.Ptr) {
	if state == nil {
		return 0, 0
	}
	return f32(what+": state", state, min(seqs, 1)*size), i32(what+": slot", slot, seqs)
}

// noState panics where a gradient is asked for with a state.
func noState(what string, state kernels.Buffer) {
	if state != nil {
		panic("cuda: " + what + ": a state has no gradient")
	}
}

// scratches is the memory of one method. What a method takes is written once, in its work function: without a device
// it is only counted, for plans (working.go).
type scratches struct {
	c     *CUDA
	bufs  []*Buf
	bytes int64
}

// floats takes n floats.
func (s *scratches) floats(n int) driver.Ptr { return s.take(dtype.F32, n) }

// take takes n elements; it is 0 where there is no device.
func (s *scratches) take(k dtype.Kind, n int) driver.Ptr {
	s.bytes += int64(n) * int64(k.Info().Bytes)
	if s.c == nil {
		return 0
	}
	b := s.c.scratch(k, n)
	s.bufs = append(s.bufs, b)
	return ptr(b)
}

func (s *scratches) free() {
	for _, b := range s.bufs {
		s.c.Free(b)
	}
}

// convArgs is ConvArgs of conv.cu.
type convArgs struct {
	y, dw, db           dest
	x, w, bias, g       elems
	state, sums         driver.Ptr
	seq, slot, parts    driver.Ptr
	n                   int64
	c, taps, seqs, silu int32
}

func convOf(what string, y kernels.Dst, a *kernels.ConvArgs) *convArgs {
	k := &convArgs{y: destOf(what+": y", y, a.N*a.C), x: elemsOf(what+": x", a.X, a.N*a.C), w: elemsOf(what+": w", a.W, a.C*a.Taps), bias: elemsOf(what+": bias", a.Bias, a.C),
		n: int64(a.N), c: int32(a.C), taps: int32(a.Taps), silu: flag(a.SiLU)}
	seq, seqs := seqOf(what+": seq", a.Seq)
	k.seq, k.seqs = seq, int32(seqs)
	k.state, k.slot = stateOf(what, a.State, a.Slot, seqs, (a.Taps-1)*a.C)
	return k
}

// work takes what Conv1DBackward works in: the gradients of the sums, and those of the weights by blocks of tokens.
func (k *convArgs) work(s *scratches, dw, db kernels.Dst, a *kernels.ConvArgs) {
	if a.SiLU {
		k.sums = s.floats(a.N * a.C)
	}
	if !dw.Skip() || !db.Skip() {
		k.parts = s.take(dtype.F64, max(1, (a.N+convPart-1)/convPart*(a.Taps+1)*a.C))
	}
}

// Conv1D convolves every channel along its sequence.
func (c *CUDA) Conv1D(y kernels.Dst, a *kernels.ConvArgs) {
	k := convOf("conv1d", y, a)
	if !y.Skip() {
		each(c, "conv", a.N*a.C, k)
	}
	if k.state != 0 {
		each(c, "conv_leave", int(k.seqs)*a.C, k)
	}
}

// Conv1DBackward makes the gradients of the sums, and of them those of x; those of
// the weights are added by blocks of tokens, and these in order.
func (c *CUDA) Conv1DBackward(dx, dw, db kernels.Dst, dy kernels.Buffer, a *kernels.ConvArgs) {
	noState("conv1d backward", a.State)
	k := convOf("conv1d backward", dx, a)
	k.g = elemsOf("conv1d backward: dy", dy, a.N*a.C)
	k.dw, k.db = destOf("conv1d backward: dw", dw, a.C*a.Taps), destOf("conv1d backward: db", db, a.C)
	s := scratches{c: c}
	defer s.free()
	k.work(&s, dw, db, a)
	if a.SiLU {
		each(c, "conv_slope", a.N*a.C, k)
		k.g = elems{p: k.sums}
	}
	if !dx.Skip() {
		each(c, "conv_dx", a.N*a.C, k)
	}
	if dw.Skip() && db.Skip() {
		return
	}
	blocks, rows := (a.N+convPart-1)/convPart, a.Taps+1
	launch(c, "conv_parts", driver.Dim{X: blocksOf(a.C, 64), Y: uint32(rows), Z: uint32(blocks)}, driver.Dim{X: 64, Y: 1, Z: 1}, 0, k)
	each(c, "conv_fold", rows*a.C, k)
}

// deltaArgs is DeltaArgs of delta.cu.
type deltaArgs struct {
	o, q, k, v                         heads
	dq, dk, dv                         heads
	gate, beta, alog, bias             elems
	seq, slot, state                   driver.Ptr
	decay, log, slope                  driver.Ptr
	err, grad                          driver.Ptr
	starts, rowQ, rowK, rowLog         driver.Ptr
	n                                  int64
	seqs, h, kv, dkSize, dvSize, width int32
	scale, keyScale                    float32
}

// narrow refuses rows of states that a warp cannot keep.
func (c *CUDA) narrow(what string, width int) {
	if width > widest {
		c.lacks(fmt.Sprintf("%s with %d numbers in a row of its state (%d is the most)", what, width, widest))
	}
}

func (c *CUDA) deltaOf(what string, q, k, v kernels.Heads, a *kernels.DeltaArgs) *deltaArgs {
	if a.H < 1 || a.K < 1 || a.H%a.K != 0 {
		panic(fmt.Sprintf("cuda: %s: %d heads over %d key heads", what, a.H, a.K))
	}
	c.narrow("the gated delta rule", max(a.Dk, a.Dv))
	width := widthOf(a)
	d := &deltaArgs{q: headsOf(what+": q", q, a.N, a.K, a.Dk), k: headsOf(what+": k", k, a.N, a.K, a.Dk), v: headsOf(what+": v", v, a.N, a.H, a.Dv),
		gate: elemsOf(what+": gate", a.Gate, a.N*a.H*width), beta: elemsOf(what+": beta", a.Beta, a.N*a.H),
		alog: elemsOf(what+": alog", a.ALog, a.H), bias: elemsOf(what+": dtbias", a.DtBias, a.H*width),
		n: int64(a.N), h: int32(a.H), kv: int32(a.K), dkSize: int32(a.Dk), dvSize: int32(a.Dv), width: int32(width), scale: alphaOf(a.Scale), keyScale: alphaOf(a.KeyScale)}
	seq, seqs := seqOf(what+": seq", a.Seq)
	d.seq, d.seqs = seq, int32(seqs)
	d.state, d.slot = stateOf(what, a.State, a.Slot, seqs, a.H*a.Dk*a.Dv)
	return d
}

// columns queues a kernel with one warp for each of n columns of y states of z sequences.
func columns[T any](c *CUDA, name string, n, y, z int32, a *T) {
	const warps = 8
	launch(c, name, driver.Dim{X: blocksOf(int(n), warps), Y: uint32(y), Z: uint32(z)}, driver.Dim{X: 32 * warps, Y: 1, Z: 1}, 0, a)
}

// widthOf is the decays of a head and token.
func widthOf(a *kernels.DeltaArgs) int {
	if a.PerChannel {
		return a.Dk
	}
	return 1
}

// work takes what DeltaScan works in: the decays.
func (d *deltaArgs) work(s *scratches, a *kernels.DeltaArgs) {
	d.decay = s.floats(a.N * a.H * widthOf(a))
}

// workBack takes what DeltaScanBackward works in: the decays, their logs and slopes, what each token changes and its
// gradients, three numbers for each row of a state and token, and the states at the first of every 32 tokens. sums is for
// the gradients of ALog, 0 where nobody wants them.
func (d *deltaArgs) workBack(s *scratches, g *kernels.DeltaGrads, a *kernels.DeltaArgs) (sums driver.Ptr) {
	tokens, width := a.N*a.H, widthOf(a)
	d.work(s, a)
	d.log, d.slope = s.floats(tokens*width), s.floats(tokens*width)
	d.err, d.grad = s.floats(tokens*a.Dv), s.floats(tokens*a.Dv)
	d.rowQ, d.rowK, d.rowLog = s.floats(tokens*a.Dk), s.floats(tokens*a.Dk), s.floats(tokens*a.Dk)
	d.starts = s.floats(chunksOf(a.N, a.Seq.Len()-1) * a.H * a.Dk * a.Dv)
	if a.ALog != nil && !g.ALog.Skip() {
		sums = s.floats(a.H * width)
	}
	return sums
}

// deltaColumns queues a kernel by columns of states: 32 of them in a block, the rows of each in eight lanes.
func (c *CUDA) deltaColumns(name string, d *deltaArgs) {
	wide := 64
	for wide < int(d.dkSize) {
		wide *= 2
	}
	launch(c, fmt.Sprintf("%s_%d", name, wide), driver.Dim{X: blocksOf(int(d.dvSize), 32), Y: uint32(d.h), Z: uint32(d.seqs)}, driver.Dim{X: 256, Y: 1, Z: 1}, 0, d)
}

// DeltaScan runs the gated delta rule.
func (c *CUDA) DeltaScan(o, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	d := c.deltaOf("delta scan", q, k, v, a)
	d.o = headsOf("delta scan: o", o, a.N, a.H, a.Dv)
	s := scratches{c: c}
	defer s.free()
	d.work(&s, a)
	each(c, "delta_gates", a.N*a.H*int(d.width), d)
	c.deltaColumns("delta_scan", d)
}

// DeltaScanBackward goes forward once for what each token changes, back by columns
// for the gradients of that, and forward and back by rows for the others.
func (c *CUDA) DeltaScanBackward(g *kernels.DeltaGrads, do, q, k, v kernels.Heads, a *kernels.DeltaArgs) {
	noState("delta scan backward", a.State)
	const what = "delta scan backward"
	d := c.deltaOf(what, q, k, v, a)
	s := scratches{c: c}
	defer s.free()
	width, tokens := int(d.width), a.N*a.H
	sums := d.workBack(&s, g, a)
	each(c, "delta_gates", tokens*width, d)
	c.deltaColumns("delta_scan", d)
	d.o = headsOf(what+": do", do, a.N, a.H, a.Dv)
	d.dq, d.dk, d.dv = headsOf(what+": dq", g.Q, a.N, a.K, a.Dk), headsOf(what+": dk", g.K, a.N, a.K, a.Dk), headsOf(what+": dv", g.V, a.N, a.H, a.Dv)
	c.deltaColumns("delta_back_cols", d)
	launch(c, "delta_back_rows", driver.Dim{X: uint32(a.Dk), Y: uint32(a.H), Z: uint32(d.seqs)}, driver.Dim{X: 32, Y: 1, Z: 1}, 4*chunk*a.Dv, d)
	if !g.Q.Skip() || !g.K.Skip() {
		each(c, "delta_fold", a.N*a.K*a.Dk, d)
	}
	if !g.Beta.Skip() {
		rows(c, "row_sum", tokens, a.Dv, 0, &rowSumArgs{y: destOf(what+": dbeta", g.Beta, tokens), x: elems{p: d.err}, z: elems{p: d.grad}, c: int32(a.Dv)})
	}
	dlog := d.rowLog
	if !a.PerChannel {
		dlog = d.decay // no longer read
		rows(c, "row_sum", tokens, a.Dk, 0, &rowSumArgs{y: dest{p: dlog}, x: elems{p: d.rowLog}, c: int32(a.Dk)})
	}
	if !g.Gate.Skip() {
		n := tokens * width
		each(c, "mul", n, &mulArgs{y: destOf(what+": dgate", g.Gate, n), x: elems{p: dlog}, s: elems{p: d.slope}, n: int64(n), c: int32(width)})
	}
	if a.ALog == nil {
		return
	}
	if !g.DtBias.Skip() {
		c.colSums(destOf(what+": ddtbias", g.DtBias, a.H*width), elems{p: dlog}, elems{p: d.slope}, 0, 1, a.N, a.H*width)
	}
	if !g.ALog.Skip() {
		c.colSums(dest{p: sums}, elems{p: dlog}, elems{p: d.log}, 0, 1, a.N, a.H*width)
		rows(c, "row_sum", a.H, width, 0, &rowSumArgs{y: destOf(what+": dalog", g.ALog, a.H), x: elems{p: sums}, c: d.width})
	}
}

// ssmArgs is SSMArgs of ssm.cu.
type ssmArgs struct {
	y, x, b, c                               heads
	dx, db, dc                               heads
	dt, bias, alog, skip                     elems
	dalog, dskip                             dest
	seq, slot, state                         driver.Ptr
	step, slope, decay                       driver.Ptr
	starts, rowDt, partB, partC              driver.Ptr
	sumA, sumD                               driver.Ptr
	n                                        int64
	seqs, h, p, g, s, perState, lanes, tiles int32
	low, high                                float32
	_                                        int32
}

func (c *CUDA) ssmOf(what string, x, b, cc kernels.Heads, a *kernels.SSMArgs) *ssmArgs {
	if a.H < 1 || a.G < 1 || a.H%a.G != 0 {
		panic(fmt.Sprintf("cuda: %s: %d heads in %d groups", what, a.H, a.G))
	}
	c.narrow("a selective scan", a.S)
	s := &ssmArgs{x: headsOf(what+": x", x, a.N, a.H, a.P), b: headsOf(what+": b", b, a.N, a.G, a.S), c: headsOf(what+": c", cc, a.N, a.G, a.S),
		dt: elemsOf(what+": dt", a.Dt, a.N*a.H), bias: elemsOf(what+": dtbias", a.DtBias, a.H), alog: elemsOf(what+": alog", a.ALog, a.H*ratesOf(a)), skip: elemsOf(what+": d", a.D, a.H),
		n: int64(a.N), h: int32(a.H), p: int32(a.P), g: int32(a.G), s: int32(a.S), perState: flag(a.PerState), lanes: 1, low: a.DtMin, high: a.DtMax}
	for s.lanes < 32 && int(s.lanes) < a.S {
		s.lanes *= 2
	}
	s.tiles = int32(tilesOf(a))
	seq, seqs := seqOf(what+": seq", a.Seq)
	s.seq, s.seqs = seq, int32(seqs)
	s.state, s.slot = stateOf(what, a.State, a.Slot, seqs, a.H*a.P*a.S)
	return s
}

// warpsOf is how many warps the rows of all heads take.
func (s *ssmArgs) warpsOf() int { return int(blocksOf(int(s.h*s.p), int(32/s.lanes))) }

// ratesOf is the decays of a head.
func ratesOf(a *kernels.SSMArgs) int {
	if a.PerState {
		return a.S
	}
	return 1
}

// work takes what SSMScan works in: the steps and decays.
func (s *ssmArgs) work(m *scratches, a *kernels.SSMArgs) {
	s.step, s.decay = m.floats(a.N*a.H), m.floats(a.N*a.H)
}

// tilesOf is the parts of a group's rows of states whose gradients of b and c are added.
func tilesOf(a *kernels.SSMArgs) int { return int(blocksOf(a.H/a.G*a.P, widest)) }

// workBack takes what SSMScanBackward works in: the steps, decays and slopes, the states at the first of every 32 tokens, a
// number for each row and token, the sums of the gradients of ALog and D, and of those of b and c over 256 rows.
func (s *ssmArgs) workBack(m *scratches, g *kernels.SSMGrads, a *kernels.SSMArgs) {
	states, seqs, tokens := a.H*a.P, a.Seq.Len()-1, a.N*a.H
	s.work(m, a)
	s.slope = m.floats(tokens)
	s.starts, s.rowDt = m.floats(chunksOf(a.N, seqs)*states*a.S), m.floats(tokens*a.P)
	s.sumA, s.sumD = m.take(dtype.F64, seqs*states*ratesOf(a)), m.take(dtype.F64, seqs*states)
	if !g.B.Skip() || !g.C.Skip() {
		part := tilesOf(a) * a.N * a.G * a.S
		s.partB, s.partC = m.floats(part), m.floats(part)
	}
}

// SSMScan runs the selective scan, a few rows of states in each warp.
func (c *CUDA) SSMScan(y, x, b, cc kernels.Heads, a *kernels.SSMArgs) {
	k := c.ssmOf("ssm scan", x, b, cc, a)
	k.y = headsOf("ssm scan: y", y, a.N, a.H, a.P)
	s := scratches{c: c}
	defer s.free()
	k.work(&s, a)
	each(c, "ssm_steps", a.N*a.H, k)
	columns(c, "ssm_scan", int32(k.warpsOf()), k.seqs, 1, k)
}

// SSMScanBackward goes forward and back by rows of states, and by columns where b
// or c has a gradient.
func (c *CUDA) SSMScanBackward(g *kernels.SSMGrads, dy, x, b, cc kernels.Heads, a *kernels.SSMArgs) {
	noState("ssm scan backward", a.State)
	const what = "ssm scan backward"
	k := c.ssmOf(what, x, b, cc, a)
	k.y, k.dx = headsOf(what+": dy", dy, a.N, a.H, a.P), headsOf(what+": dx", g.X, a.N, a.H, a.P)
	k.db, k.dc = headsOf(what+": db", g.B, a.N, a.G, a.S), headsOf(what+": dc", g.C, a.N, a.G, a.S)
	rates := ratesOf(a)
	k.dalog, k.dskip = destOf(what+": dalog", g.ALog, a.H*rates), destOf(what+": dd", g.D, a.H)
	s := scratches{c: c}
	defer s.free()
	tokens := a.N * a.H
	k.workBack(&s, g, a)
	each(c, "ssm_steps", tokens, k)
	kept := (a.S + int(k.lanes) - 1) / int(k.lanes)
	launch(c, "ssm_back_rows", driver.Dim{X: uint32(k.warpsOf()), Y: uint32(k.seqs), Z: 1}, driver.Dim{X: 32, Y: 1, Z: 1}, 4*chunk*kept*32, k)
	if !g.ALog.Skip() || !g.D.Skip() {
		each(c, "ssm_sums", a.H*rates, k)
	}
	if !g.Dt.Skip() || !g.DtBias.Skip() {
		each(c, "ssm_dt", tokens, k)
		ddt := elems{p: k.slope}
		if !g.Dt.Skip() {
			each(c, "add", tokens, &addArgs{y: destOf(what+": ddt", g.Dt, tokens), x: ddt, n: int64(tokens), alpha: 1})
		}
		if !g.DtBias.Skip() {
			c.colSums(destOf(what+": ddtbias", g.DtBias, a.H), ddt, elems{}, 0, 1, a.N, a.H)
		}
	}
	if g.B.Skip() && g.C.Skip() {
		return
	}
	columns(c, "ssm_back_cols", k.s, k.tiles*k.g, k.seqs, k)
	each(c, "ssm_fold", a.N*a.G*a.S, k)
}
