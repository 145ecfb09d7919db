package autograd_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
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

// A cache, filled piece by piece, gives what attention over the whole gives.
func TestCache(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	r := rand.New(rand.NewPCG(3, 5))
	const n, h, k, dk = 40, 4, 2, 6
	sinks := newParam(t, dev, "sinks", 1, h, normal(r, h))
	q, keys, rel := normal(r, n*h*dk), normal(r, n*k*dk), normal(r, relSpan*h)
	for name, s := range map[string]autograd.AttnSpec{
		"plain":      {},
		"sinks":      {Sinks: sinks, Scale: 0.7, Chunk: 16},
		"soft cap":   {SoftCap: 2, Window: 12},
		"of latents": {Dv: 4},
	} {
		t.Run(name, func(t *testing.T) {
			s.H, s.K, s.Dk = h, k, dk
			tape := &autograd.Tape{Dev: dev}
			defer tape.Free()
			s.Rel, s.RelZero = tape.Upload(single(rel), relSpan, h), relZero
			s.Seq = tape.Upload([]int32{0, n}, 2)
			var values []float32
			for i := range n * k {
				values = append(values, single(keys)[i*dk:][:s.Values()]...)
			}
			want, err := tape.Values(tape.Attention(tape.Upload(single(q), n, h*dk), tape.Upload(single(keys), n, k*dk), tape.Upload(values, n, k*s.Values()), s))
			if err != nil {
				t.Fatal(err)
			}
			kv := &kernels.KV{Keys: tape.New(2 * 30 * k * dk).Data, Slots: 2, Max: 30, K: k, Dk: dk, Dv: s.Dv, Ring: s.Window > 0}
			if s.Window == 0 {
				kv.Keys, kv.Max = tape.New(2*n*k*dk).Data, n
			}
			if s.Dv == 0 {
				kv.Values = tape.New(2 * kv.Max * k * dk).Data
			}
			var got []float32
			for at, size := 0, 0; at < n; at += size {
				size = min([]int{7, 1, 12}[at%3], n-at)
				slot, pos := make([]int32, size), make([]int32, size)
				for i := range size {
					slot[i], pos[i] = 1, int32(at+i)
				}
				part := func(v []float32, cols int) *autograd.Tensor { return tape.Upload(v[at*cols:][:size*cols], size, cols) }
				st, pt := tape.Upload(slot, size), tape.Upload(pos, size)
				var v *autograd.Tensor
				if kv.Values != nil {
					v = part(values, k*dk)
				}
				tape.CacheAppend(kv, part(single(keys), k*dk), v, st, pt)
				o, err := tape.Values(tape.CacheAttention(part(single(q), h*dk), kv, st, pt, s))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, o...)
			}
			w64 := make([]float64, len(want))
			for i, x := range want {
				w64[i] = float64(x)
			}
			compare(t, name, got, w64, tolerance)
		})
	}
}
