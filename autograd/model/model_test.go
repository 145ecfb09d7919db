package model

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// adapt gives every linear map of the blocks an adapter of rank r.
func adapt(t *testing.T, m *Model, r int, dropout float32, fill func(n int) []float32) []*autograd.Param {
	t.Helper()
	var all []*autograd.Param
	param := func(name string, rows, cols int) *autograd.Param {
		w, err := m.Dev.Load(kernels.Weights, dtype.Of(dtype.F32), rows, cols, kernels.Bytes(fill(rows*cols)), kernels.Copy)
		if err != nil {
			t.Fatal(err)
		}
		p := &autograd.Param{Name: name, Mat: w}
		trainable(t, m.Dev, p)
		all = append(all, p)
		return p
	}
	site := uint32(0)
	for l := range m.Linears() {
		l.Adapters = []*nn.LoRA{{A: param(l.Path+".A", r, l.In()), B: param(l.Path+".B", l.Out(), r), Scale: 2, Dropout: dropout, Site: site}}
		site++
	}
	return all
}

// smol has the sizes of SmolLM2-135M.
var smol = archtest.SmolLM2

// What a step of 4×512 tokens keeps is known from the sizes alone.
func TestMemory(t *testing.T) {
	for _, c := range []struct {
		checkpointing bool
		limit         int64 // bytes of activations and their gradients
	}{{false, 1_560e6}, {true, 300e6}} {
		t.Run(fmt.Sprint("checkpointing ", c.checkpointing), func(t *testing.T) {
			dev := dry.New(dry.Options{})
			zeros := func(n int) []float32 { return make([]float32, n) }
			m, err := Load(dev, sample(t, smol, zeros), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			params := adapt(t, m, 16, 0, zeros)
			own := int64(0)
			for _, p := range params {
				own += 4 * int64(p.Len())
			}
			m.GradientCheckpointing = c.checkpointing
			const n = 2048
			tape := &autograd.Tape{Dev: dev, Record: true}
			h := m.Hidden(tape, Pack(make([]int32, n/4), make([]int32, n/4), make([]int32, n/4), make([]int32, n/4)))
			m.LogProb(tape, h, make([]int32, n), make([]float32, n))
			tape.Done(h)
			if err := tape.Backward(); err != nil {
				t.Fatal(err)
			}
			tape.Free()
			info := dev.Info()
			peak := info.Mem.Peak[kernels.Activations] + info.Mem.Peak[kernels.Gradients] - own
			t.Logf("activations %d, gradients %d, scratch %d", info.Mem.Peak[kernels.Activations], info.Mem.Peak[kernels.Gradients]-own, info.Mem.Peak[kernels.Scratch])
			// A block is seven products and seven of adapters; its second pass
			// leaves out the last, whose result nobody reads.
			products := 14
			if c.checkpointing {
				products += 13
			}
			if got := dev.Calls()["Linear"]; got != smol.Layers*products {
				t.Errorf("%d forward products, want %d", got, smol.Layers*products)
			}
			if peak > c.limit {
				t.Errorf("%d bytes at the peak, allowed %d", peak, c.limit)
			}
			if info.Mem.Now[kernels.Activations] != 0 || info.Mem.Now[kernels.Gradients] != own {
				t.Errorf("left after the step: %v", info.Mem.Now)
			}
		})
	}
}

// A Llama block keeps its two residuals, the norms' statistics and the
// log-sum-exp in float32, and what lies between its products, in bf16 with bf16.
func TestKept(t *testing.T) {
	dev := dry.New(dry.Options{})
	zeros := func(n int) []float32 { return make([]float32, n) }
	m, err := Load(dev, sample(t, smol, zeros), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	adapt(t, m, 16, 0, zeros)
	for bf16, size := range map[bool]int{false: 4, true: 2} {
		kept, err := m.Kept(bf16, 2, 300)
		if err != nil || len(kept) != smol.Layers {
			t.Fatalf("%d blocks: %v", len(kept), err)
		}
		for i, got := range kept {
			if want := 600 * (4*(2*smol.C+smol.H+2) + size*(2*(smol.H+smol.K)*smol.D+2*smol.F+7*16)); got != int64(want) {
				t.Errorf("bf16 %v: block %d keeps %d bytes, want %d", bf16, i, got, want)
			}
		}
	}
}

// A step that does not fit fails with the limit's error and leaves nothing.
func TestMemoryLimit(t *testing.T) {
	src := sample(t, tiny, random(7))
	free := cpu.New(cpu.Options{})
	m, err := Load(free, src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(m *Model) error {
		return m.Dev.Run(func() error {
			tape := &autograd.Tape{Dev: m.Dev, Record: true}
			defer tape.Free()
			h := m.Hidden(tape, Inputs{IDs: tokens(1, 64, tiny.V)})
			m.LogProb(tape, h, tokens(2, 64, tiny.V), make([]float32, 64))
			return tape.Backward()
		})
	}
	adapt(t, m, 4, 0, random(3))
	before := kernels.Total(free.Info().Mem.Now)
	if err := run(m); err != nil {
		t.Fatal(err)
	}
	peak := free.Info().PeakTotal
	for part := int64(1); part < 20; part++ {
		dev := cpu.New(cpu.Options{MemoryLimit: before + (peak-before)*part/20})
		m, err := Load(dev, src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		adapt(t, m, 4, 0, random(3))
		held := dev.Info().Mem.Now
		if err := run(m); !errors.Is(err, kernels.ErrOutOfMemory) {
			t.Fatalf("limit at %d/20 of what is needed: %v", part, err)
		}
		if now := dev.Info().Mem.Now; now != held {
			t.Errorf("left after the failure: %v, before it %v", now, held)
		}
	}
}

// grads runs one recorded step over in and returns every gradient.
func grads(t *testing.T, m *Model, params []*autograd.Param, step uint32, ins ...Inputs) [][]float32 {
	t.Helper()
	for _, p := range params {
		m.Dev.Fill(p.Grad, 0)
	}
	for _, in := range ins {
		tape := &autograd.Tape{Dev: m.Dev, Record: true, Seed: 11, Step: step}
		h := m.Hidden(tape, in)
		n := len(in.IDs)
		coef := make([]float32, n)
		for i := range coef {
			coef[i] = 0.125
		}
		m.LogProb(tape, h, in.IDs, coef)
		tape.Done(h)
		if err := tape.Backward(); err != nil {
			t.Fatal(err)
		}
		tape.Free()
	}
	out := make([][]float32, len(params))
	for i, p := range params {
		out[i] = make([]float32, p.Len())
		if err := m.Dev.Download(kernels.Bytes(out[i]), p.Grad); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// keyed packs sequences with dropout keys sample<<32 | token.
func keyed(seqs [][]int32, samples ...int) Inputs {
	var pick [][]int32
	var key []int64
	for _, s := range samples {
		pick = append(pick, seqs[s])
		for i := range seqs[s] {
			key = append(key, int64(s)<<32|int64(i))
		}
	}
	in := Pack(pick...)
	in.Key = key
	return in
}

func TestDropout(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	params := adapt(t, m, 4, 0.3, random(3))
	seqs := [][]int32{tokens(1, 9, tiny.V), tokens(2, 5, tiny.V), tokens(3, 12, tiny.V)}
	want := grads(t, m, params, 1, keyed(seqs, 0, 1, 2))
	m.GradientCheckpointing = true
	same := grads(t, m, params, 1, keyed(seqs, 0, 1, 2))
	m.GradientCheckpointing = false
	split := grads(t, m, params, 1, keyed(seqs, 2), keyed(seqs, 1, 0))
	other := grads(t, m, params, 2, keyed(seqs, 0, 1, 2))
	differ := 0.0
	for i, p := range params {
		near(t, "checkpointed "+p.Name, same[i], want[i], 0)
		relative(t, "in other micro-batches "+p.Name, split[i], want[i], 2e-6)
		for j := range want[i] {
			differ = max(differ, math.Abs(float64(other[i][j]-want[i][j])))
		}
	}
	if differ < 1e-3 {
		t.Errorf("another step drops the same elements: gradients differ by %g", differ)
	}
}

// The gradient with dropout against central differences of the loss. The mask
// is a function of the keys, so it stays the same when a weight moves.
func TestDropoutGradient(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	params := adapt(t, m, 4, 0.3, random(3))
	in := keyed([][]int32{tokens(1, 9, tiny.V)}, 0)
	loss := func() float64 {
		tape := &autograd.Tape{Dev: m.Dev, Record: true, Seed: 11, Step: 1}
		defer tape.Free()
		lp := values(t, tape, m.LogProb(tape, m.Hidden(tape, in), in.IDs, nil).LogP)
		sum := 0.0
		for _, v := range lp {
			sum -= 0.125 * float64(v)
		}
		return sum
	}
	got := grads(t, m, params, 1, in)
	for _, i := range []int{0, 1, 8, 13, 20} {
		p, w := params[i], make([]float32, params[i].Len())
		if err := m.Dev.Download(kernels.Bytes(w), p.Buffer); err != nil {
			t.Fatal(err)
		}
		at := largest(got[i])
		move := func(d float32) float64 {
			v := slices.Clone(w)
			v[at] += d
			m.Dev.Upload(p.Buffer, kernels.Bytes(v))
			return loss()
		}
		const h = 1e-2
		want := (move(h) - move(-h)) / (2 * h)
		m.Dev.Upload(p.Buffer, kernels.Bytes(w))
		if d := math.Abs(float64(got[i][at]) - want); d > 2e-3*math.Abs(want) {
			t.Errorf("%s[%d]: gradient %g, central difference %g", p.Name, at, got[i][at], want)
		}
	}
}

// Gradients are the same bits at any number of threads.
func TestThreads(t *testing.T) {
	defer par.SetThreads(par.Threads())
	s := dims{C: 96, V: 300, Layers: 2, H: 6, K: 3, D: 16, F: 200}
	m := loadSample(t, s, Options{})
	params := adapt(t, m, 8, 0.1, random(3))
	in := keyed([][]int32{tokens(1, 130, s.V), tokens(2, 70, s.V)}, 0, 1)
	par.SetThreads(1)
	want := grads(t, m, params, 1, in)
	for _, n := range []int{2, 3, 7} {
		par.SetThreads(n)
		for i, g := range grads(t, m, params, 1, in) {
			near(t, fmt.Sprint(n, " threads: ", params[i].Name), g, want[i], 0)
		}
	}
}

// An adapter on the head is part of the fused log-probabilities as of the
// logits; that it has no gradient there is said instead of leaving it out.
func TestHeadAdapter(t *testing.T) {
	for _, tied := range []bool{false, true} {
		s := tiny
		s.Tied = tied
		headAdapter(t, loadSample(t, s, Options{}))
	}
}

func headAdapter(t *testing.T, m *Model) {
	fill := random(5)
	low := func(rows, cols int) *autograd.Param {
		p := &autograd.Param{Mat: kernels.Mat{Rows: rows, Cols: cols, Of: rows}}
		buf, err := m.Dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), rows*cols)
		if p.Buffer = buf; err == nil {
			err = setF32(m, p, fill(rows*cols))
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ids := tokens(1, 4, tiny.V)
	before := scores(t, m, ids)
	m.Head.Adapters = []*nn.LoRA{{A: low(3, tiny.C), B: low(tiny.V, 3), Scale: 0.5}}
	quiet := &autograd.Tape{Dev: m.Dev}
	defer quiet.Free()
	logits := values(t, quiet, m.Logits(quiet, m.Hidden(quiet, Inputs{IDs: ids})))
	got := scores(t, m, ids)
	for i, id := range ids {
		row, sum := logits[i*tiny.V:][:tiny.V], 0.0
		for _, z := range row {
			sum += math.Exp(float64(z))
		}
		if want := float64(row[id]) - math.Log(sum); math.Abs(float64(got[i])-want) > 1e-4 || got[i] == before[i] {
			t.Errorf("token %d: log p %g, the logits give %g, without the adapter %g", i, got[i], want, before[i])
		}
	}
}

// scores are the log-probabilities of ids after themselves.
func scores(t *testing.T, m *Model, ids []int32) []float32 {
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	return values(t, tape, m.LogProb(tape, m.Hidden(tape, Inputs{IDs: ids}), ids, nil).LogP)
}

func largest(v []float32) int {
	best := 0
	for i := range v {
		if math.Abs(float64(v[i])) > math.Abs(float64(v[best])) {
			best = i
		}
	}
	return best
}

// A sequence's results do not depend on what it is packed with.
func TestPacking(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	a, b := tokens(1, 9, tiny.V), tokens(2, 6, tiny.V)
	hidden := func(in Inputs) []float32 {
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		return values(t, tape, m.Hidden(tape, in))
	}
	both := hidden(Pack(a, b))
	near(t, "first", both[:9*tiny.C], hidden(Inputs{IDs: a}), 1e-6)
	near(t, "second", both[9*tiny.C:], hidden(Pack(b)), 1e-6)
}

func TestInputErrors(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	tape := &autograd.Tape{Dev: m.Dev, Record: true}
	h := m.Hidden(tape, Inputs{IDs: []int32{1, int32(tiny.V)}})
	m.LogProb(tape, h, []int32{1, 2}, []float32{1, 1})
	if err := tape.Backward(); fail.Code(err) != int(fail.Input) {
		t.Errorf("a token beyond the vocabulary: %v", err)
	}
	tape.Free()
	c, err := m.NewCache(2, 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Step(c, []Piece{{0, []int32{-1}}}); fail.Code(err) != int(fail.Input) {
		t.Errorf("a negative token: %v", err)
	}
	if _, err := m.Step(c, []Piece{{1, tokens(1, 9, tiny.V)}}); fail.Code(err) != int(fail.Limit) {
		t.Errorf("nine tokens into a slot of eight: %v", err)
	}
	if c.Len(0) != 0 || c.Len(1) != 0 {
		t.Error("a failed step changed the cache")
	}
	c.Close()
	if now := m.Dev.Info().Mem.Now; now[kernels.Activations] != 0 {
		t.Errorf("%d bytes of activations left", now[kernels.Activations])
	}
}

// Step after Reset continues as a fresh conversation would.
func TestCacheReuse(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	c, err := m.NewCache(1, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	step := func(ids ...int32) []float32 {
		out, err := m.Step(c, []Piece{{0, ids}})
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	want := step(3, 4, 5, 6)
	c.Reset(0)
	step(3, 4, 9, 9, 9)
	c.Reset(0)
	near(t, "after Reset", step(3, 4, 5, 6), want, 0)
	step(7, 8)
	if n := c.Truncate(0, 3); n != 3 || c.Len(0) != 3 || c.Truncate(0, 9) != 3 {
		t.Errorf("%d tokens are left of %d, want 3", n, c.Len(0))
	}
	near(t, "after Truncate", step(6), want, 1e-6)
}

// A cache that has grown holds what it held, and one that could not is as before.
func TestCacheGrow(t *testing.T) {
	m, err := Load(cpu.New(cpu.Options{MemoryLimit: 8 << 20}), sample(t, tiny, random(7)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	a, b := tokens(1, 20, tiny.V), tokens(2, 33, tiny.V)
	run := func(room int) [][]float32 {
		c, err := m.NewCache(3, room)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := m.Step(c, []Piece{{2, a[:19]}, {0, b[:32]}}); err != nil {
			t.Fatal(err)
		}
		if err := c.Grow(1 << 20); !errors.Is(err, kernels.ErrOutOfMemory) || c.Max != room {
			t.Errorf("room for 2^20 tokens: %v, then %d", err, c.Max)
		}
		if err := c.Grow(64); err != nil || c.Max != 64 || c.Len(2) != 19 {
			t.Fatalf("room for %d tokens, %d held, %v", c.Max, c.Len(2), err)
		}
		out, err := m.Step(c, []Piece{{0, b[32:]}, {1, b[:40-len(a)]}, {2, a[19:]}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := run(64)
	for i, y := range run(32) {
		near(t, fmt.Sprint("piece ", i, " in a cache that has grown"), y, want[i], 0)
	}
}

// A prompt leaves the same bits in the cache in any company and however it is
// cut, as long as every step has more than 16 tokens.
func TestPromptBits(t *testing.T) {
	m := loadSample(t, dims{C: 96, V: 300, Layers: 2, H: 6, K: 3, D: 16, F: 200}, Options{})
	ids := tokens(1, 240, 300)
	run := func(company int, cuts ...int) []float32 {
		c, err := m.NewCache(1+company, 256)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at := 0
		for _, n := range cuts {
			pieces := []Piece{{0, ids[at : at+n]}}
			for i := range company {
				pieces = append(pieces, Piece{1 + i, ids[i : 1+3*i]})
			}
			if _, err := m.Choose(c, pieces, make([]*kernels.SampleRow, len(pieces))); err != nil {
				t.Fatal(err)
			}
			at += n
		}
		out, err := m.Step(c, []Piece{{0, ids[at:]}})
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	want := run(0, 239)
	near(t, "cut in halves", run(0, 120, 119), want, 0)
	near(t, "cut anywhere", run(0, 17, 191, 31), want, 0)
	near(t, "in company", run(5, 239), want, 0)
	near(t, "cut in company", run(5, 33, 206), want, 0)
}

// Choose takes the tokens that the logits of Step say, of whole prompts only.
func TestChoose(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	pieces := []Piece{{0, tokens(1, 5, tiny.V)}, {1, tokens(2, 9, tiny.V)}, {2, tokens(3, 1, tiny.V)}}
	fresh := func() *Cache {
		c, err := m.NewCache(3, 16)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	logits, err := m.Step(fresh(), pieces)
	if err != nil {
		t.Fatal(err)
	}
	c := fresh()
	got, err := m.Choose(c, pieces, []*kernels.SampleRow{{}, nil, {RepetitionPenalty: 1e6, Seen: []int32{argmax(logits[2])}}})
	if err != nil || got[0] != argmax(logits[0]) || got[1] != -1 || got[2] == argmax(logits[2]) || c.Len(1) != 9 {
		t.Errorf("tokens %v, %d held, %v", got, c.Len(1), err)
	}
	if got, err = m.Choose(c, []Piece{{0, got[:1]}}, []*kernels.SampleRow{nil}); err != nil || got[0] != -1 || c.Len(0) != 6 {
		t.Errorf("tokens %v, %d held, %v", got, c.Len(0), err)
	}
}

// Tap sees every Linear once, in order, and layers that share an input share x.
func TestTap(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	var names []string
	var xs []*autograd.Tensor
	tape := &autograd.Tape{Dev: m.Dev, Tap: func(w *autograd.Param, x *autograd.Tensor, _ *autograd.Routed) {
		names, xs = append(names, strings.TrimSuffix(w.Name, ".weight")), append(xs, x)
		if x.Data == nil || x.Cols() != w.Cols || x.Rows() != 7 {
			t.Errorf("%s reads %v", w.Name, x.Shape)
		}
	}}
	defer tape.Free()
	m.Hidden(tape, Inputs{IDs: tokens(1, 7, tiny.V)})
	var want []string
	for l := range m.Linears() {
		want = append(want, l.Path)
	}
	if !slices.Equal(names, want) {
		t.Fatalf("seen %v, want %v", names, want)
	}
	if xs[0] != xs[1] || xs[1] != xs[2] || xs[2] == xs[3] || xs[4] != xs[5] || xs[5] == xs[6] {
		t.Error("q, k, v and gate, up do not share their inputs")
	}
}

// Blocks pushed one by one, and parts run alone, give what Hidden gives.
func TestBlocks(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	in := Pack(tokens(1, 7, tiny.V), tokens(2, 3, tiny.V))
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	want := values(t, tape, m.Hidden(tape, in))
	s := m.Prepare(tape, in)
	x := m.Begin(tape, s)
	for _, b := range m.Blocks {
		y := x
		for _, p := range b.Smooth() {
			if p.Norm != nil {
				y = tape.Add(y, p.Part.Forward(tape, p.Norm.Forward(tape, y), s), 1, 1)
			}
		}
		x = b.Forward(tape, tensors{x}, s)[0]
		near(t, b.Path, values(t, tape, y), values(t, tape, x), 1e-6)
	}
	near(t, "hidden", values(t, tape, m.Norm.ForwardWide(tape, x)), want, 0)
}

// In each step the linear maps that it names run, on its last tensor.
func TestSteps(t *testing.T) {
	for _, name := range archtest.Cases {
		m := openGolden(t, name).load(t, "config.json", Options{})
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		s := m.Prepare(tape, Pack(tokens(1, 7, m.Spec.V), tokens(2, 3, m.Spec.V)))
		x, lent := tensors{m.Begin(tape, s)}, 0
		for i, b := range m.Blocks {
			if m.Crosses(i) {
				var y *autograd.Tensor
				y, s = m.Cross(tape, stream(x), s)
				x = tensors{y}
			}
			state := x
			for _, step := range b.Steps() {
				state = step.Enter(tape, state, s)
				read, ran := state[len(state)-1], []*autograd.Param(nil)
				tape.Tap = func(w *autograd.Param, in *autograd.Tensor, r *autograd.Routed) {
					if in == read && (r != nil) == (step.Routed != nil) {
						ran = append(ran, w)
					}
				}
				state = step.Forward(tape, state, s)
				tape.Tap = nil
				for i, l := range step.Linears {
					if i >= len(ran) || ran[i] != l.W || len(ran) != len(step.Linears) {
						t.Fatalf("%s: %s: %d linear maps read the step's input", name, l.Path, len(ran))
					}
				}
			}
			for _, place := range b.Lends {
				lent = max(lent, place+1)
			}
			if x = state; len(x) != lent+1 {
				t.Fatalf("%s: %d tensors come out of %s", name, len(x), b.Path)
			}
		}
	}
}

// Every tensor of a state is among those that a checkpoint hands on.
func TestStateTensors(t *testing.T) {
	var s State
	n := 0
	typ := reflect.TypeFor[State]()
	for i := range typ.NumField() {
		switch typ.Field(i).Type {
		case reflect.TypeFor[*autograd.Tensor]():
			if typ.Field(i).Name == "noise" { // which Begin alone reads
				continue
			}
			n++
		case reflect.TypeFor[[]*autograd.Tensor]():
			n += 2
		}
	}
	one := func() *autograd.Tensor { return &autograd.Tensor{} }
	s = State{IDs: one(), Seq: one(), Ropes: tensors{one(), one()}, Places: one(), Rel: one(), near: one(), Temper: one(), Parts: one(), Key: one(), slot: one(), pos: one(), slots: one(), lent: tensors{one(), one()},
		Memory: one(), memorySeq: one(), memoryKey: one(), memorySlot: one(), memoryPos: one(), memoryLast: one(), bothKey: one(), apart: one(), others: one()}
	if got := s.Tensors(); len(got) != n {
		t.Errorf("%d tensors of %d", len(got), n)
	}
	var others tensors
	for range n {
		others = append(others, one())
	}
	other := s.with(others).Tensors()
	for i, x := range s.Tensors() {
		if x == other[i] || slices.Contains(other[:i], other[i]) {
			t.Errorf("tensor %d is not replaced", i)
		}
	}
}

// Moving scales across every pair leaves the model's function as it is.
func TestSmooth(t *testing.T) {
	for _, s := range []dims{tiny, {C: 32, V: 50, Layers: 2, H: 4, K: 4, D: 8, F: 40, Tied: true}} {
		m := loadSample(t, s, Options{})
		ids := tokens(1, 9, s.V)
		want := hiddenOf(t, m, ids)
		pairs := 0
		for _, b := range m.Blocks {
			for _, p := range b.Smooth() {
				smooth(t, m, p)
				pairs++
			}
		}
		if wantPairs := map[bool]int{true: 8, false: 6}[s.H == s.K]; pairs != wantPairs {
			t.Errorf("%d pairs, want %d", pairs, wantPairs)
		}
		relative(t, "hidden", hiddenOf(t, m, ids), want, 2e-6)
	}
}

func hiddenOf(t *testing.T, m *Model, ids []int32) []float32 {
	t.Helper()
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	return values(t, tape, m.Hidden(tape, Inputs{IDs: ids}))
}

// setF32 puts float32 values in the place of a weight.
func setF32(m *Model, p *autograd.Param, v []float32) error {
	w, err := m.Dev.Load(kernels.Weights, dtype.Of(dtype.F32), p.Rows, p.Cols, kernels.Bytes(v), kernels.Copy)
	if err != nil {
		return err
	}
	m.unbind(p)
	p.Mat, m.owned[p] = w, true
	return nil
}

// smooth scales one pair by powers of two that depend on the column.
func smooth(t *testing.T, m *Model, p Pair) {
	t.Helper()
	factor := func(c int) float32 { return float32(math.Ldexp(1, c%5-2)) }
	edit := func(w *autograd.Param, f func(row, col int) float32) {
		v, err := m.Decode(w)
		if err != nil {
			t.Fatal(err)
		}
		for i := range v {
			v[i] *= f(i/w.Cols, i%w.Cols)
		}
		if err := setF32(m, w, v); err != nil {
			t.Fatal(err)
		}
	}
	if p.Norm != nil {
		edit(p.Norm.W, func(_, c int) float32 { return 1 / factor(c) })
	} else {
		edit(p.Prev.W, func(r, _ int) float32 { return 1 / factor(r) })
	}
	for _, l := range p.Next {
		edit(l.W, func(_, c int) float32 { return factor(c) })
	}
}

// Hold quantizes the blocks' linear weights and nothing else.
func TestHold(t *testing.T) {
	nf4 := dtype.NF4Double
	m, plain := loadSample(t, tiny, Options{Hold: &nf4}), loadSample(t, tiny, Options{})
	held := map[*autograd.Param]bool{}
	for l := range m.Linears() {
		held[l.W] = true
	}
	for i, p := range m.Params() {
		full, err := plain.Decode(plain.Params()[i])
		if err != nil {
			t.Fatal(err)
		}
		want := full
		if held[p] {
			r := block.New(nf4, p.Rows, p.Cols)
			if err := block.Encode(r, full, nil); err != nil {
				t.Fatal(err)
			}
			want = make([]float32, len(full))
			block.DecodeAll(want, r)
		}
		if (p.Type() == nf4) != held[p] {
			t.Errorf("%s is held as %v", p.Name, p.Type())
		}
		got, err := m.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		near(t, p.Name, got, want, 0)
	}
}

// A quantized model trains its adapters, and the embedding's row length decides
// nothing for types that do not fit.
func TestHoldDoesNotFit(t *testing.T) {
	q4k := dtype.Of(dtype.Q4_K)
	_, err := Load(cpu.New(cpu.Options{}), sample(t, tiny, random(7)), Options{Hold: &q4k})
	if fail.Code(err) != int(fail.Input) {
		t.Errorf("rows of 32 as Q4_K: %v", err)
	}
}

func TestTrainableIsFlat(t *testing.T) {
	m := loadSample(t, tiny, Options{Trainable: true})
	total := 0
	for _, p := range m.Params() {
		total += p.Len()
	}
	if m.Flat == nil || m.Flat.Len() != total || int64(total) != m.Spec.Params() {
		t.Fatalf("flat buffer of %v, parameters %d, spec says %d", m.Flat, total, m.Spec.Params())
	}
	flat := make([]float32, total)
	if err := m.Dev.Download(kernels.Bytes(flat), m.Flat); err != nil {
		t.Fatal(err)
	}
	off := 0
	for _, p := range m.Params() {
		v, err := m.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		near(t, p.Name, v, flat[off:off+p.Len()], 0)
		off += p.Len()
	}
}

// LogProb is the log-softmax of Logits at the targets, and where it is largest.
func TestLogProb(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	ids := tokens(5, 9, tiny.V)
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	r := m.LogProb(tape, m.Hidden(tape, Inputs{IDs: ids[:8]}), ids[1:], nil)
	got := values(t, tape, r.LogP)
	for i := range got {
		logits := lastLogits(t, m, ids[:i+1])
		sum := 0.0
		for _, v := range logits {
			sum += math.Exp(float64(v))
		}
		want := float64(logits[ids[i+1]]) - math.Log(sum)
		if math.Abs(want-float64(got[i])) > 1e-5 {
			t.Errorf("token %d: %v, want %v", i, got[i], want)
		}
	}
}

func lastLogits(t *testing.T, m *Model, ids []int32) []float32 {
	t.Helper()
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	v := values(t, tape, m.Logits(tape, m.Hidden(tape, Inputs{IDs: ids})))
	return v[len(v)-m.Spec.V:]
}

// Ports are found by their paths on the hub, a tied head, too.
func TestPorts(t *testing.T) {
	for _, tied := range []bool{false, true} {
		s := tiny
		s.Tied = tied
		m := loadSample(t, s, Options{})
		seen := map[string]bool{}
		for port := range m.Ports() {
			if seen[port.Path] || (port.Linear == nil) == (port.Embed == nil) {
				t.Errorf("port %+v", port)
			}
			seen[port.Path] = true
		}
		if len(seen) != 7*2+2 || !seen["model.layers.1.mlp.down_proj"] || !seen["model.embed_tokens"] || !seen["lm_head"] {
			t.Errorf("tied %v: %v", tied, seen)
		}
	}
}

// Logits of some rows are rows of the logits.
func TestLogitsOfRows(t *testing.T) {
	m := loadSample(t, tiny, Options{})
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	h := m.Hidden(tape, Inputs{IDs: tokens(1, 9, tiny.V)})
	all := values(t, tape, m.Logits(tape, h))
	near(t, "rows 4 to 7", values(t, tape, m.Logits(tape, tape.View(h, 4, 3))), all[4*tiny.V:7*tiny.V], 1e-6)
}
