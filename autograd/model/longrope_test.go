package model

import (
	"testing"

	"github.com/tunekit/tunekit/autograd"
)

// A text that grows past the length at which longrope changes its angles is what
// it would be from its first token on, as Transformers computes it again, too.
func TestOutgrown(t *testing.T) {
	m := openGolden(t, "phi3-longrope").load(t, "config.json", Options{})
	turn := m.Spec.Turn()
	ids := tokens(1, turn+6, m.Spec.V)
	c, err := m.NewCache(2, turn+6)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	whole := func(n int) []float32 {
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		all := values(t, tape, m.Logits(tape, m.Hidden(tape, Pack(ids[:n]))))
		return all[(n-1)*m.Spec.V:]
	}
	for n := turn - 2; n <= len(ids); n++ {
		piece := []Piece{{1, ids[n-1 : n]}, {0, ids[:1]}} // beside a text that stays short
		if c.Reset(0); c.Len(1) == 0 {
			piece[0].Tokens = ids[:n]
		}
		got, err := m.Step(c, piece)
		if err != nil {
			t.Fatal(err)
		}
		relative(t, "logits of the long text", got[0], whole(n), 1e-5)
		relative(t, "logits of the short one", got[1], whole(1), 1e-5)
	}
	if n := c.Truncate(1, turn+2); n != turn+2 {
		t.Errorf("%d tokens are left of %d", n, turn+2)
	}
	if n := c.Truncate(1, turn-2); n != 0 {
		t.Errorf("%d tokens are left whose angles are those of a longer text", n)
	}
	got, err := m.Step(c, []Piece{{1, ids[:turn+1]}})
	if err != nil {
		t.Fatal(err)
	}
	relative(t, "logits after that", got[0], whole(turn+1), 1e-5)
}
