package autograd_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
)

func rope64(x, cs []float64, n int, s autograd.RopeSpec) []float64 {
	y := slices.Clone(x)
	h := len(x) / n / s.D
	for t := range n {
		for hd := range h {
			for i := range s.Rot / 2 {
				a, b := i, i+s.Rot/2
				if s.Pairs == kernels.Adjacent {
					a, b = 2*i, 2*i+1
				}
				o := (t*h+hd)*s.D + s.Off
				c, sin := cs[(t*s.Rot/2+i)*2], cs[(t*s.Rot/2+i)*2+1]
				y[o+a], y[o+b] = x[o+a]*c-x[o+b]*sin, x[o+b]*c+x[o+a]*sin
			}
		}
	}
	return y
}

func ropeCase(pairs kernels.Pairs, rot, off int) gradCase {
	const n, h = 4, 2
	spec := autograd.RopeSpec{D: 6, Rot: rot, Off: off, Pairs: pairs}
	r := rand.New(rand.NewPCG(3, 4))
	var cs []float64
	for range n * rot / 2 {
		s, c := math.Sincos(3 * r.NormFloat64())
		cs = append(cs, float64(float32(c)), float64(float32(s)))
	}
	return gradCase{fmt.Sprint("rope ", pairs, " ", rot, " from ", off), [][2]int{{n, h * spec.D}}, []bool{false},
		func(in [][]float64) []float64 { return rope64(in[0], cs, n, spec) },
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			x0 := t.Scale(x[0], -1) // rope takes its input's memory
			y := t.Rope(x0, t.Upload(single(cs), n, rot/2, 2), spec)
			return t.Scale(y, -1)
		}}
}

// attnTest is a case of attention: inputs are q, k, v, sinks and rel.
type attnTest struct {
	name       string
	seq, seqKV []int32
	spec       autograd.AttnSpec
	sinks, rel bool
	pick       [][]int32 // of every token; nil: no choice
}

const relSpan, relZero = 4, 1 // of the cases with distances

// visible says whether token tok at position i sees key j.
func (c *attnTest) visible(tok, i, j int) bool {
	s := &c.spec
	return (s.Full || j <= i) && (s.Window == 0 || j > i-s.Window) && (s.Ahead == 0 || j <= i+s.Ahead) &&
		(s.Chunk == 0 || j/s.Chunk == i/s.Chunk) && (c.pick == nil || slices.Contains(c.pick[tok], int32(j)))
}

func (c *attnTest) keys() []int32 {
	if c.seqKV == nil {
		return c.seq
	}
	return c.seqKV
}

func (c *attnTest) forward(in [][]float64) []float64 {
	s, dv := c.spec, c.spec.Values()
	y := make([]float64, int(c.seq[len(c.seq)-1])*s.H*dv)
	for sq := range len(c.seq) - 1 {
		base, keys := int(c.keys()[sq]), int(c.keys()[sq+1]-c.keys()[sq])
		for tok := int(c.seq[sq]); tok < int(c.seq[sq+1]); tok++ {
			i := tok - int(c.seq[sq+1]) + keys
			for h := range s.H {
				q, kv := in[0][(tok*s.H+h)*s.Dk:][:s.Dk], h*s.K/s.H
				sum, o := 0.0, y[(tok*s.H+h)*dv:][:dv]
				if c.sinks {
					sum = math.Exp(in[3][h])
				}
				for j := range keys {
					if !c.visible(tok, i, j) {
						continue
					}
					x := float64(s.Scale) * dot(q, in[1][((base+j)*s.K+kv)*s.Dk:][:s.Dk])
					if s.SoftCap > 0 {
						x = float64(s.SoftCap) * math.Tanh(x/float64(s.SoftCap))
					}
					if c.rel {
						x += in[4][min(max(0, relZero+i-j), relSpan-1)*s.H+h]
					}
					e := math.Exp(x)
					sum += e
					for d := range dv {
						o[d] += e * in[2][((base+j)*s.K+kv)*dv+d]
					}
				}
				for d := range dv {
					o[d] /= sum
				}
			}
		}
	}
	return y
}

func (c *attnTest) gradCase() gradCase {
	s := c.spec
	n, keys := int(c.seq[len(c.seq)-1]), int(c.keys()[len(c.keys())-1])
	return gradCase{"attention " + c.name, [][2]int{{n, s.H * s.Dk}, {keys, s.K * s.Dk}, {keys, s.K * s.Values()}, {1, s.H}, {relSpan, s.H}},
		[]bool{false, false, false, true, false}, c.forward,
		func(t *autograd.Tape, x []*autograd.Tensor, p []*autograd.Param) *autograd.Tensor {
			s.Seq = t.Upload(c.seq, len(c.seq))
			if c.seqKV != nil {
				s.SeqKV = t.Upload(c.seqKV, len(c.seqKV))
			}
			if c.sinks {
				s.Sinks = p[3]
			}
			if c.rel {
				s.Rel, s.RelZero = x[4], relZero
			}
			if c.pick != nil {
				s.Pick = t.Upload(slices.Concat(c.pick...), n, len(c.pick[0]))
			}
			return t.Attention(x[0], x[1], x[2], s)
		}}
}

func attentionCases() []gradCase {
	seq := []int32{0, 5, 7}
	spec := func(f func(s *autograd.AttnSpec)) autograd.AttnSpec {
		s := autograd.AttnSpec{H: 4, K: 2, Dk: 3, Scale: 0.5}
		f(&s)
		return s
	}
	pick := [][]int32{{0, -1}, {1, 0}, {0, 2}, {3, 1}, {4, -1}, {0, -1}, {-1, 1}}
	var cases []gradCase
	for _, c := range []attnTest{
		{name: "window 0", seq: seq, spec: spec(func(s *autograd.AttnSpec) {})},
		{name: "window 3", seq: seq, spec: spec(func(s *autograd.AttnSpec) { s.Window = 3 })},
		{name: "values of another size", seq: seq, spec: spec(func(s *autograd.AttnSpec) { s.Dv = 2 })},
		{name: "sinks and chunks", seq: seq, sinks: true, spec: spec(func(s *autograd.AttnSpec) { s.Chunk = 2 })},
		{name: "both ways with distances", seq: seq, rel: true, spec: spec(func(s *autograd.AttnSpec) { s.Full, s.Ahead = true, 2 })},
		{name: "soft cap with distances", seq: seq, rel: true, spec: spec(func(s *autograd.AttnSpec) { s.SoftCap = 2 })},
		{name: "to other keys", seq: seq, seqKV: []int32{0, 2, 6}, spec: spec(func(s *autograd.AttnSpec) { s.Full = true })},
		{name: "behind other keys", seq: seq, seqKV: []int32{0, 6, 9}, sinks: true, spec: spec(func(s *autograd.AttnSpec) {})},
		{name: "to picked keys", seq: seq, rel: true, sinks: true, pick: pick, spec: spec(func(s *autograd.AttnSpec) { s.Dv = 5 })},
	} {
		cases = append(cases, c.gradCase())
	}
	return cases
}
