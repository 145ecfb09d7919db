package model

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// deep is a model of several blocks.
var deep = dims{C: 64, V: 96, Layers: 6, H: 4, K: 2, D: 16, F: 128, Tied: true}

// loadDeep loads deep with its linear weights as NF4.
func loadDeep(t *testing.T, dev kernels.Backend, stream bool) *Model {
	t.Helper()
	hold := dtype.NF4Double
	m, err := Load(dev, sample(t, deep, random(7)), Options{Hold: &hold, Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// weights are the bytes of weights that m's device holds now.
func weights(m *Model) int64 { return m.Dev.Info().Mem.Now[kernels.Weights] }

// Where weights lie changes no bit of hidden states, logits or gradients.
func TestStreamedBits(t *testing.T) {
	results := func(m *Model) []any {
		in := keyed([][]int32{tokens(1, 20, deep.V), tokens(2, 13, deep.V)}, 0, 1)
		params := adapt(t, m, 4, 0.1, random(3))
		c, err := m.NewCache(1, 16)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		logits, err := m.Step(c, []Piece{{0, tokens(5, 9, deep.V)}})
		if err != nil {
			t.Fatal(err)
		}
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		return []any{values(t, tape, m.Hidden(tape, in)), logits, grads(t, m, params, 3, in, in)}
	}
	all := loadDeep(t, cpu.New(cpu.Options{}), false)
	if all.Streamed() {
		t.Fatal("blocks do not stay, though there is no limit")
	}
	full := weights(all)
	want := results(all)
	for _, stay := range []int{3, 1, 0} {
		m := loadDeep(t, cpu.New(cpu.Options{}), stay == 0)
		for m.stay.kept > stay {
			m.Evict()
		}
		held := weights(m)
		if got := results(m); !reflect.DeepEqual(got, want) {
			t.Errorf("%d blocks stay: other values", stay)
		}
		if stay == 0 && m.Evict() {
			t.Error("blocks went though none stayed")
		}
		if m.stay.kept != stay || held >= full {
			t.Errorf("%d blocks stay, want %d; %d bytes held of %d", m.stay.kept, stay, held, full)
		}
	}
}

// Blocks that lend to others can be streamed: wherever their weights lie, gradients
// are the same bits.
func TestStreamedLenders(t *testing.T) {
	lending := 0
	for _, name := range archtest.Cases {
		g := openGolden(t, name)
		m := g.load(t, "config.json", Options{})
		if !slices.ContainsFunc(m.Blocks, func(b *Block) bool { return len(b.Lends) > 0 }) {
			continue
		}
		lending++
		want := g.adapterGrads(t, m)
		for _, evict := range []int{1, 8} {
			s := g.load(t, "config.json", Options{})
			for range evict {
				s.Evict()
			}
			if got := g.adapterGrads(t, s); !s.Streamed() || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %d blocks stay (streamed: %v): other gradients", name, s.stay.kept, s.Streamed())
			}
		}
	}
	if lending == 0 {
		t.Error("no case lends")
	}
}

// adapterGrads are the gradients of the case's adapter.
func (g *golden) adapterGrads(t *testing.T, m *Model) map[string][]float32 {
	params := g.adapt(t, m)
	g.backward(t, m, false)
	return m.gradients(t, params)
}

// A pass over streamed weights holds those of one block at a time.
func TestStreamedPeak(t *testing.T) {
	all := loadDeep(t, cpu.New(cpu.Options{}), false)
	m := loadDeep(t, cpu.New(cpu.Options{}), true)
	outside := weights(m)
	block := (weights(all) - outside) / int64(deep.Layers)
	adapt(t, m, 4, 0, random(3))
	before := weights(m)
	m.Dev.ResetCounters()
	tape := &autograd.Tape{Dev: m.Dev, Record: true}
	h := m.Hidden(tape, Inputs{IDs: tokens(1, 16, deep.V)})
	m.LogProb(tape, h, tokens(2, 16, deep.V), make([]float32, 16))
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	tape.Free()
	if got := m.Dev.Info().Mem.Peak[kernels.Weights] - before; got != block {
		t.Errorf("at most %d bytes of streamed weights, a block has %d", got, block)
	}
	if weights(m) != before {
		t.Errorf("%d bytes are left behind", weights(m)-before)
	}
}

// As many blocks stay as fit in half of what the limit leaves.
func TestLimitStreams(t *testing.T) {
	all := loadDeep(t, cpu.New(cpu.Options{}), false)
	outside := weights(loadDeep(t, cpu.New(cpu.Options{}), true))
	block := (weights(all) - outside) / int64(deep.Layers)
	for _, want := range []int{0, 2, 5} {
		m := loadDeep(t, cpu.New(cpu.Options{MemoryLimit: outside + 2*int64(want)*block + block}), false)
		if got := m.stay.kept; got != want {
			t.Errorf("%d blocks stay, want %d", got, want)
		}
		if got := weights(m) - outside; got != int64(want)*block {
			t.Errorf("%d bytes of blocks, %d stay", got, want)
		}
	}
}

// A block that does not fit is the tape's error, and leaves nothing.
func TestStreamedLimit(t *testing.T) {
	outside := weights(loadDeep(t, cpu.New(cpu.Options{}), true))
	m := loadDeep(t, cpu.New(cpu.Options{MemoryLimit: outside + 100_000}), true)
	tape := &autograd.Tape{Dev: m.Dev}
	m.Hidden(tape, Inputs{IDs: tokens(1, 256, deep.V)})
	tape.Free()
	if err := tape.Err(); !errors.Is(err, kernels.ErrOutOfMemory) {
		t.Errorf("error %v", err)
	}
	if weights(m) != outside {
		t.Errorf("%d bytes are left behind", weights(m)-outside)
	}
}

// What covers a weight is used wherever the weight itself lies, also after its
// block has left memory, and goes with restore alone.
func TestCoverStays(t *testing.T) {
	hidden := func(m *Model) []float32 {
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		return values(t, tape, m.Hidden(tape, Inputs{IDs: tokens(1, 20, deep.V)}))
	}
	var base, covered []float32
	for _, stay := range []int{6, 3, 0} {
		dev := cpu.New(cpu.Options{})
		m := loadDeep(t, dev, false)
		if base == nil {
			base = hidden(m)
		}
		p := m.Blocks[4].Linears()[0].W
		x, err := dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), p.Len())
		if err != nil {
			t.Fatal(err)
		}
		dev.Upload(x, kernels.Bytes(random(11)(p.Len())))
		restore := m.Cover(p, kernels.Mat{Buffer: x, Rows: p.Rows, Cols: p.Cols, Of: p.Rows})
		again := m.Cover(p, kernels.Mat{Buffer: x, Rows: p.Rows, Cols: p.Cols, Of: p.Rows})
		for m.stay.kept > stay {
			m.Evict()
		}
		again()
		got := hidden(m)
		if covered == nil {
			covered = got
		}
		if !reflect.DeepEqual(got, covered) || reflect.DeepEqual(got, base) {
			t.Errorf("%d blocks stay: not the values with what covers a weight", stay)
		}
		restore()
		if !reflect.DeepEqual(hidden(m), base) {
			t.Errorf("%d blocks stay: restored, other values than before", stay)
		}
		m.Close()
		dev.Free(x)
		if left := kernels.Total(dev.Info().Mem.Now); left != 0 {
			t.Errorf("%d blocks stay: %d bytes are left", stay, left)
		}
	}
}
