package model

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
)

// encoders are the cases with an encoder: attention to it by itself, and beside a
// decoder's own.
var encoders = []string{"flan-t5", "t5gemma2"}

// Texts that are packed together compute what each does alone, whatever the order, and
// a text that is parted what its halves do.
func TestPackedEncoders(t *testing.T) {
	for _, name := range encoders {
		m := openGolden(t, name).load(t, "config.json", Options{})
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		a, b := tokens(1, 33, m.Spec.V-4), tokens(2, 9, m.Spec.V-4)
		parted := func(seqs [][]int32, from ...int32) []float32 {
			in := Pack(seqs...)
			in.From = from
			return values(t, tape, m.Hidden(tape, in))
		}
		both := parted([][]int32{a, b}, 11, 2)
		alone := slices.Concat(parted([][]int32{a}, 11), parted([][]int32{b}, 2))
		near(t, name+" packed", both, alone, 1e-4)
		own := Pack(append([]int32{m.Spec.Start}, b[2:8]...))
		source := Pack(b[:2])
		own.Source = &source
		x := values(t, tape, m.Hidden(tape, own))
		c := m.Spec.C
		near(t, name+" parted", both[(len(a)+1)*c:(len(a)+8)*c], x, 1e-4)
		if border := values(t, tape, m.Hidden(tape, Pack(slices.Concat(b[:2], []int32{Border}, b[2:])))); !slices.Equal(border, parted([][]int32{b}, 2)) {
			t.Errorf("%s: a border parts otherwise", name)
		}
		m.Hidden(tape, Pack([]int32{5}))
		if fail.Code(tape.Err()) != int(fail.Input) {
			t.Errorf("%s: a text of one token: %v", name, tape.Err())
		}
	}
}

// A cache that grows, whose slots are used again, and into which prompts and single
// tokens go in one step, gives what is computed whole.
func TestEncoderCache(t *testing.T) {
	for _, name := range encoders {
		m := openGolden(t, name).load(t, "config.json", Options{})
		c, err := m.NewCache(2, 8)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		step := func(pieces ...Piece) [][]float32 {
			t.Helper()
			z, err := m.Step(c, pieces)
			if err != nil {
				t.Fatal(err)
			}
			return z
		}
		answer := append([]int32{m.Spec.Start}, tokens(4, 20, m.Spec.V-4)...)
		source := tokens(3, 7, m.Spec.V-4)
		c.Source(0, tokens(9, 8, m.Spec.V-4))
		step(Piece{0, answer[:3]})
		c.Source(1, source)
		step(Piece{1, answer[:2]}, Piece{0, []int32{7}})
		if err := c.Grow(40); err != nil {
			t.Fatal(err)
		}
		c.Reset(0)
		long := tokens(8, 30, m.Spec.V-4)
		c.Source(0, long)
		var got []float32
		for i := 2; i < len(answer); i++ {
			if i == 4 { // the other slot begins anew
				got = append(got, step(Piece{1, answer[i : i+1]}, Piece{0, answer[:5]})[0]...)
				continue
			}
			got = append(got, step(Piece{1, answer[i : i+1]})[0]...)
		}
		tape := &autograd.Tape{Dev: m.Dev}
		defer tape.Free()
		in, src := Pack(answer), Pack(source)
		in.Source = &src
		whole := values(t, tape, m.Logits(tape, m.Hidden(tape, in)))
		near(t, name, got, whole[2*m.Spec.V:], 1e-3)
	}
}

// Gradients with dropout are the same bits with and without checkpoints, of all blocks
// and of some: each half drops by its own tokens.
func TestEncoderDropout(t *testing.T) {
	for _, name := range encoders {
		m := openGolden(t, name).load(t, "config.json", Options{})
		r := rand.New(rand.NewPCG(1, 2))
		params := adapt(t, m, 2, 0.4, func(n int) []float32 {
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(0.2 * r.NormFloat64())
			}
			return v
		})
		in := Pack(tokens(1, 20, m.Spec.V-4), tokens(2, 12, m.Spec.V-4))
		in.From = []int32{6, 9}
		for i := range in.IDs {
			in.Key = append(in.Key, int64(i))
		}
		target := append(slices.Clone(in.IDs[1:]), -1)
		coef := make([]float32, len(target))
		for s, from := range in.From {
			for i := in.Seq[s]; i < in.Seq[s+1]; i++ {
				if coef[i] = 0.1; i < in.Seq[s]+from-1 || i == in.Seq[s+1]-1 {
					coef[i], target[i] = 0, -1
				}
			}
		}
		gradients := func() map[string][]float32 {
			for _, p := range params {
				m.Dev.Fill(p.Grad, 0)
			}
			tape := &autograd.Tape{Dev: m.Dev, Record: true, Seed: 3}
			defer tape.Free()
			h := m.Hidden(tape, in)
			m.LogProb(tape, h, target, coef)
			tape.Done(h)
			if err := tape.Backward(); err != nil {
				t.Fatal(err)
			}
			return m.gradients(t, params)
		}
		want := gradients()
		for _, n := range []int{1, 3, len(m.Blocks)} {
			m.RecomputeBlocks = n
			for key, v := range gradients() {
				near(t, name+" "+key, v, want[key], 0)
			}
		}
	}
}

// A token whose embedding lies apart has that, unscaled, in both halves.
func TestApart(t *testing.T) {
	m := openGolden(t, "t5gemma2").load(t, "config.json", Options{})
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	id := m.Spec.Apart[0]
	in, source := Pack([]int32{1, id}), Pack([]int32{id, 9, 8})
	in.Source = &source
	states := m.States(tape, in)
	apart, err := m.Decode(m.Apart.W)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Spec.C
	near(t, "encoder", values(t, tape, states[0])[:c], apart, 0)
	near(t, "decoder", values(t, tape, states[m.Spec.Encoder+2])[c:], apart, 0)
	row, err := m.Decode(m.Embed.W)
	if err != nil {
		t.Fatal(err)
	}
	scaled := make([]float32, c)
	for i := range scaled {
		scaled[i] = row[9*c+i] * m.Spec.EmbedScale
	}
	near(t, "others", values(t, tape, states[0])[c:2*c], scaled, 1e-6)
	if m.TensorOf(m.Apart.W).Role != arch.ApartEmbed {
		t.Error("another tensor lies apart")
	}
}
