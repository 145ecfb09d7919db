package model

import (
	"errors"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// packed are the sequences of a case's packed row, nil where it has none.
func (g *golden) packed(t *testing.T) [][]int32 {
	t.Helper()
	if g.arrays["packed_input_ids"].shape == nil {
		return nil
	}
	ids, of := g.rows(t, "packed_input_ids")[0], g.rows(t, "packed_seq_idx")[0]
	var out [][]int32
	for i, id := range ids {
		if i == 0 || of[i] != of[i-1] {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], id)
	}
	return out
}

// Sequences that are packed together compute what each does alone: logits, loss
// and gradients of what a state that leaks into the next would get wrong.
func TestPacked(t *testing.T) {
	cases := 0
	for _, name := range archtest.Cases {
		g := openGolden(t, name)
		seqs := g.packed(t)
		if seqs == nil {
			continue
		}
		cases++
		t.Run(name, func(t *testing.T) {
			m := g.load(t, "config.json", Options{Trainable: true})
			for _, p := range m.Params() {
				trainable(t, m.Dev, p)
			}
			target, coef := targets(seqs)
			tape := &autograd.Tape{Dev: m.Dev, Record: true}
			defer tape.Free()
			h := m.Hidden(tape, Pack(seqs...))
			near(t, "packed_logits", values(t, tape, m.Logits(tape, h)), g.floats(t, "packed_logits"), 10*g.noise)
			logp := values(t, tape, m.LogProb(tape, h, target, coef).LogP)
			loss := make([]float32, len(seqs))
			i := 0
			for s, ids := range seqs {
				for range ids {
					loss[s] -= logp[i] * coef[i] * float32(len(seqs))
					i++
				}
			}
			near(t, "packed_loss", loss, g.floats(t, "packed_loss"), 2e-5)
			if name == "deepseek4" || name == "deepseek32" || name == "glm-moe-dsa" { // keep no state, and have no gradients of their packed rows
				return
			}
			if err := tape.Backward(); err != nil {
				t.Fatal(err)
			}
			g.checkGrads(t, m, m.Params(), "packed_grad.", 2e-4) // the reference scans in chunks, in float32
		})
	}
	if cases == 0 {
		t.Error("no case is packed")
	}
}

// short is a device that gives so many buffers for activations, then none.
type short struct {
	kernels.Backend
	left int // below 0: no end
}

var errShort = errors.New("no more buffers")

func (d *short) Alloc(p kernels.Purpose, t dtype.Type, n int) (kernels.Buffer, error) {
	if p == kernels.Activations && d.left == 0 {
		return nil, errShort
	}
	if p == kernels.Activations && d.left > 0 {
		d.left--
	}
	return d.Backend.Alloc(p, t, n)
}

// States of a cache go on where a step left them. They cannot go back: what is
// shortened, or was in a step that failed, is empty, and computed again it is
// what it was.
func TestStates(t *testing.T) {
	for _, name := range []string{"lfm2", "qwen3-5", "mamba2", "jamba"} {
		g := openGolden(t, name)
		m := g.load(t, "config.json", Options{})
		dev := &short{m.Dev, -1}
		m.Dev = dev
		c, err := m.NewCache(2, 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		step := func(slot int, ids []int32) []float32 {
			t.Helper()
			out, err := m.Step(c, []Piece{{slot, ids}})
			if err != nil {
				t.Fatal(err)
			}
			return out[0]
		}
		rows := g.rows(t, "input_ids")
		ids, n := rows[0], len(rows[0])
		want := step(0, ids)
		step(1, rows[1][:4])

		if got := c.Truncate(0, n-1); got != 0 || c.Len(0) != 0 || c.Kept(0, n) != 0 {
			t.Errorf("%s: %d of %d tokens are left", name, got, n)
		}
		step(0, ids[:5])
		step(0, ids[5:6])
		near(t, name+" in parts", step(0, ids[6:]), want, 10*g.noise)

		c.Reset(0)
		step(0, ids[:5])
		dev.left = 60
		if _, err := m.Step(c, []Piece{{0, ids[5:]}}); !errors.Is(err, errShort) {
			t.Fatalf("%s: a step without memory: %v", name, err)
		}
		dev.left = -1
		if c.Len(0) != 0 || c.Len(1) != 4 {
			t.Errorf("%s: after a step that failed the slots hold %d and %d tokens", name, c.Len(0), c.Len(1))
		}
		near(t, name+" after a step that failed", step(0, ids), want, 0)
	}
}
