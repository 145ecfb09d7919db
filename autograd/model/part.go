package model

import (
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/kernels"
)

// Parts makes inputs of its own for every layer, P each: of a token's row in a
// table, and of its embedding.
type Parts struct {
	Table   *nn.Embedding // [V, layers·P]
	Project *nn.Linear    // to [layers·P]
	Norm    *nn.Norm      // of each layer's part
}

// parts returns what every layer gets of its own [N, layers·P], for tokens ids, which
// lie on the device, too.
func (m *Model) parts(t *autograd.Tape, there *autograd.Tensor, ids []int32) *autograd.Tensor {
	p := m.Parts
	rows := there // of the table
	if n := int32(m.Spec.PartRows); n > 0 {
		own := slices.Clone(ids)
		for i, id := range own {
			if id >= n {
				own[i] = 0
			}
		}
		rows = t.Upload(own, len(own))
	}
	x := scaled(t, m.Embed.Forward(t, there), m.Spec.EmbedScale)
	raw := scaled(t, p.Project.ForwardWide(t, x), float32(1/math.Sqrt(float64(m.Spec.C))))
	projected := p.Norm.ForwardWide(t, raw)
	looked := scaled(t, p.Table.Forward(t, rows), float32(math.Sqrt(float64(m.Spec.Part))))
	y := t.Add(projected, looked, math.Sqrt2/2, math.Sqrt2/2)
	t.Done(x, raw, projected, looked)
	return y
}

// part lets a layer read its own part: back(act(gate(x))·part).
type part struct {
	spec       *arch.Part
	layer      int
	gate, back *nn.Linear
}

func (l *loader) part(layer int, spec *arch.Part) *part {
	return &part{spec, layer, l.linear(layer, arch.PartGate), l.linear(layer, arch.PartBack)}
}

func (p *part) steps() []Step {
	return []Step{
		{Linears: p.readers(), In: unchanged, Forward: func(t *autograd.Tape, in tensors, s *State) tensors {
			g, own := p.gate.Forward(t, in[0]), t.Columns(s.Parts, p.layer*p.spec.P, p.spec.P)
			a := t.Act(autograd.ActSpec{Kind: p.spec.Act}, g, own)
			t.Done(g, own)
			return tensors{a}
		}},
		leave(p.back, 0),
	}
}

func (p *part) readers() []*nn.Linear { return []*nn.Linear{p.gate} }

func (p *part) smooth() []Pair { return nil }

// scaleBy multiplies what leaves the block by the one number in w, which is not
// trained.
func (b *Block) scaleBy(w *autograd.Param) {
	last := &b.steps[len(b.steps)-1]
	run := last.Forward
	last.Forward = func(t *autograd.Tape, in tensors, s *State) tensors {
		x := run(t, in, s)[0]
		row := t.Upload(make([]int32, x.Cols()), x.Cols())
		factor := t.Embed(&autograd.Param{Name: w.Name, Mat: w.Mat}, row) // the number for every column
		y := t.Mul(x, factor, kernels.ByCol)
		t.Done(x, row, factor)
		return tensors{y}
	}
}
