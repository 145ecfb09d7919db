package arch

import (
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/kernels"
)

// ShortConv is a gated short convolution: of three equal parts b, c and x that
// one product makes, out(c·conv(b·x)).
type ShortConv struct {
	Taps int
	Bias bool // of both maps and the convolution
}

func (c *ShortConv) check(*Spec) error {
	return checkSizes(size{"taps of the convolution", c.Taps, maxTaps})
}

// maxTaps is a limit on what a file may claim, as those in spec.go.
const maxTaps = 64

// DeltaNet is a gated delta net (Yang et al. 2024, arXiv:2412.06464), or where In is
// LowRank, Kimi Delta Attention (Kimi Team 2025, arXiv:2510.26692), of which every
// channel of a key has a decay of its own.
type DeltaNet struct {
	H, K     int             // heads of values, and of queries and keys
	Dk, Dv   int             // size of a query and a key, and of a value
	Taps     int             // of the convolution
	Act      kernels.ActKind // behind it
	In       DeltaIn
	Gate     kernels.ActKind // of the output
	NormEps  float32         // of the output's norm
	NegEigen bool            // a token may write up to twice what is missing
}

// DeltaIn says which maps read the input of a gated delta net. H/K value heads
// are neighbours.
type DeltaIn uint8

const (
	ByKeyHead DeltaIn = iota // one for query, key, values and gates of each key head in turn, one for what is written and kept
	Joint                    // one for all queries, keys and values; the gates, what is written, what is kept
	Apart                    // queries, keys, values, gates, what is written, what is kept
	LowRank                  // the same, but gates and what is kept come of Dk elements each
)

// Roles are those of the maps, in the order in which they run.
func (i DeltaIn) Roles() []Role {
	switch i {
	case ByKeyHead:
		return []Role{MixIn, MixBeta}
	case Joint:
		return []Role{MixIn, MixGate, MixBeta, MixDecay}
	}
	return []Role{Q, K, V, MixGate, MixBeta, MixDecay}
}

// channels is the width of the convolution.
func (d *DeltaNet) channels() int { return 2*d.K*d.Dk + d.H*d.Dv }

func (d *DeltaNet) check(*Spec) error {
	err := checkSizes(size{"value heads of linear attention", d.H, maxHeads}, size{"key heads of linear attention", d.K, maxHeads},
		size{"key size of linear attention", d.Dk, 1 << 12}, size{"value size of linear attention", d.Dv, 1 << 12}, size{"taps of the convolution", d.Taps, maxTaps})
	if err == nil && d.H%d.K != 0 {
		err = fmt.Errorf("%d value heads of linear attention are no multiple of %d key heads", d.H, d.K)
	}
	if err == nil && d.In == LowRank && (d.H != d.K || d.Dv != d.Dk) {
		err = fmt.Errorf("%d heads of %d values and %d of %d elements of keys, where the decay of every channel needs the same", d.H, d.Dv, d.K, d.Dk)
	}
	return err
}

// Mamba2 is the mixer of Mamba-2 (Dao, Gu 2024, arXiv:2405.21060).
type Mamba2 struct {
	H, P     int             // heads and their width
	G, S     int             // groups of heads, and numbers that a row of the state has
	Taps     int             // of the convolution
	Act      kernels.ActKind // behind it
	Bias     bool            // of in
	OutBias  bool
	ConvBias bool
	Norm     MixNormKind
	NormEps  float32
	// DtMin and DtMax limit the time step; DtMax 0: it has no upper limit.
	DtMin, DtMax float32
	// Factors on what it reads and makes, and on the parts of what in makes: gate,
	// input, the two projections, time steps. 0: 1.
	InScale, OutScale float32
	PartScales        [5]float32
}

// MixNormKind says where a mixer's output is normalised, in G parts.
type MixNormKind uint8

const (
	NoMixNorm    MixNormKind = iota // there is only a gate
	GateThenNorm                    // behind the gate
	NormThenGate                    // before it
)

// inner is the width of the mixer.
func (m *Mamba2) inner() int { return m.H * m.P }

// channels is the width of the convolution.
func (m *Mamba2) channels() int { return m.inner() + 2*m.G*m.S }

func (m *Mamba2) check(*Spec) error {
	err := checkSizes(size{"heads of Mamba", m.H, maxHeads}, size{"head size of Mamba", m.P, 1 << 14}, size{"groups of Mamba", m.G, maxHeads},
		size{"state size of Mamba", m.S, 1 << 14}, size{"taps of the convolution", m.Taps, maxTaps})
	if err == nil && m.H%m.G != 0 {
		err = fmt.Errorf("%d heads of Mamba are no multiple of %d groups", m.H, m.G)
	}
	if err == nil && m.DtMax != 0 && !(m.DtMax >= m.DtMin) {
		err = fmt.Errorf("time steps of Mamba lie between %g and %g", m.DtMin, m.DtMax)
	}
	return err
}

// Mamba1 is the mixer of Mamba (Gu, Dao 2023, arXiv:2312.00752) with norms of what
// controls its scan, as Jamba has it.
type Mamba1 struct {
	I, S     int             // channels, and numbers that each has for a state
	R        int             // rank of the time steps
	Taps     int             // of the convolution
	Act      kernels.ActKind // behind it
	Bias     bool            // of in and out
	ConvBias bool
}

func (m *Mamba1) check(*Spec) error {
	return checkSizes(size{"channels of Mamba", m.I, maxWidth}, size{"state size of Mamba", m.S, 1 << 14}, size{"rank of Mamba's time steps", m.R, maxWidth},
		size{"taps of the convolution", m.Taps, maxTaps})
}

// mamba1 adds the weights of a Mamba mixer.
func (b *rules) mamba1(m *Mamba1, width int) {
	b.linear(MixIn, "mamba.in_proj", "ssm_in", 2*m.I, width, m.Bias, 0)
	b.convolution("mamba.conv1d", "ssm_conv1d", m.I, m.Taps, m.ConvBias)
	b.linear(StepParts, "mamba.x_proj", "ssm_x", m.R+2*m.S, m.I, false, 0)
	b.linear(StepUp, "mamba.dt_proj", "ssm_dt", m.I, m.R, true, 0)
	b.norm(StepNorm, "mamba.dt_layernorm", "ssm_dt_norm", m.R)
	b.norm(BNorm, "mamba.b_layernorm", "ssm_b_norm", m.S)
	b.norm(CNorm, "mamba.c_layernorm", "ssm_c_norm", m.S)
	b.add(Rule{Role: ALog, Rows: m.I, Cols: m.S}, "mamba.A_log", "ssm_a").GGUF[0].NegExp = true
	b.vector(Skip, "mamba.D", "ssm_d", m.I)
	b.linear(MixOut, "mamba.out_proj", "ssm_out", width, m.I, m.Bias, 0)
}

// convolution adds the weight of a convolution [channels, taps], and its bias.
func (b *rules) convolution(hf, gguf string, channels, taps int, bias bool) *Rule {
	if bias {
		b.vector(Conv, hf+".bias", gguf+".bias", channels).Bias = true
	}
	w := b.matrix(Conv, hf, gguf, channels, taps)
	w.HF[0].Shape = []int64{int64(channels), 1, int64(taps)}
	return w
}

// shortConv adds the maps of a short convolution.
func (b *rules) shortConv(c *ShortConv, width int) {
	b.linear(MixIn, "conv.in_proj", "shortconv.in_proj", 3*width, width, c.Bias, 0)
	b.convolution("conv.conv", "shortconv.conv", width, c.Taps, c.Bias)
	b.linear(MixOut, "conv.out_proj", "shortconv.out_proj", width, width, c.Bias, 0)
}

// mamba2 adds the weights of a Mamba-2 mixer.
func (b *rules) mamba2(m *Mamba2, width int) {
	b.linear(MixIn, "mamba.in_proj", "ssm_in", m.inner()+m.channels()+m.H, width, m.Bias, 0)
	b.convolution("mamba.conv1d", "ssm_conv1d", m.channels(), m.Taps, m.ConvBias)
	column := []int64{int64(m.H), 1}
	a := b.vector(ALog, "mamba.A_log", "ssm_a", m.H)
	a.GGUF[0].NegExp, a.GGUF[0].Shape = true, column
	b.vector(Skip, "mamba.D", "ssm_d", m.H).GGUF[0].Shape = column
	b.vector(DtBias, "mamba.dt_bias", "ssm_dt.bias", m.H)
	if m.Norm != NoMixNorm {
		b.vector(MixNorm, "mamba.norm.weight", "ssm_norm.weight", m.inner()).GGUF[0].Shape = []int64{int64(m.G), int64(m.inner() / m.G)}
	}
	b.linear(MixOut, "mamba.out_proj", "ssm_out", width, m.inner(), m.OutBias, 0)
}

// respell gives parts of names other spellings: memory of the names in memory and
// in Hugging Face files, hf of the latter alone, gguf of those in GGUF. Each is
// a list of old and new parts.
func respell(list []Rule, memory, hf, gguf []string) []Rule {
	in, out, other := strings.NewReplacer(memory...), strings.NewReplacer(hf...), strings.NewReplacer(gguf...)
	for i := range list {
		r := &list[i]
		r.Name, r.layerPath = in.Replace(r.Name), in.Replace(r.layerPath)
		for _, form := range append([][]Piece{r.HF, r.Other}, r.Also...) {
			for j := range form {
				form[j].Name = out.Replace(in.Replace(form[j].Name))
			}
		}
		for j := range r.GGUF {
			r.GGUF[j].Name = other.Replace(r.GGUF[j].Name)
		}
	}
	return list
}

// deltaNet adds the weights of a gated delta net. GGUF has each kind of map by
// itself, and where they are apart in Hugging Face files, value heads in another
// order: the first of every key head, then the second.
func (b *rules) deltaNet(d *DeltaNet, width int) {
	q, v := d.K*d.Dk, d.H*d.Dv
	switch d.In {
	case ByKeyHead:
		r := d.H / d.K
		all := 2*d.Dk + 2*r*d.Dv // rows of a key head
		w := b.matrix(MixIn, "linear_attn.in_proj_qkvz", "", 2*q+2*v, width)
		part := func(first, n int) Rows { return Rows{first, n, all, d.K} }
		w.GGUF = []Piece{
			{Name: b.gguf + "attn_qkv.weight", Rows: part(0, d.Dk), Then: []Rows{part(d.Dk, d.Dk), part(2*d.Dk, r*d.Dv)}},
			{Name: b.gguf + "attn_gate.weight", Rows: part(2*d.Dk+r*d.Dv, r*d.Dv), Shape: []int64{int64(v), int64(width)}}}
		b.matrix(MixBeta, "linear_attn.in_proj_ba", "ssm_ba", 2*d.H, width)
	case Joint:
		d.byTurns(b.matrix(MixIn, "linear_attn.in_proj_qkv", "attn_qkv", 2*q+v, width), 2*q, d.Dv)
		d.byTurns(b.matrix(MixGate, "linear_attn.in_proj_z", "attn_gate", v, width), 0, d.Dv)
		d.byTurns(b.matrix(MixBeta, "linear_attn.in_proj_b", "ssm_beta", d.H, width), 0, 1)
		d.byTurns(b.matrix(MixDecay, "linear_attn.in_proj_a", "ssm_alpha", d.H, width), 0, 1)
	case Apart:
		b.deltaApart(d, width)
		return
	case LowRank:
		b.deltaLowRank(d, width)
		return
	}
	b.deltaState(d)
	out := b.matrix(MixOut, "linear_attn.out_proj", "ssm_out", width, v)
	if d.In == Joint && d.H > d.K {
		first, then := d.turns(0, d.Dv)
		out.GGUF[0].Columns = append([]Rows{first}, then...)
	}
}

// deltaState adds what a gated delta net has beside its maps.
func (b *rules) deltaState(d *DeltaNet) {
	turned := func(r *Rule, first, n int) *Rule {
		if d.In == Joint {
			d.byTurns(r, first, n)
		}
		return r
	}
	turned(b.convolution("linear_attn.conv1d", "ssm_conv1d", d.channels(), d.Taps, false), 2*d.K*d.Dk, d.Dv)
	turned(b.vector(DtBias, "linear_attn.dt_bias", "ssm_dt.bias", d.H), 0, 1)
	turned(b.vector(ALog, "linear_attn.A_log", "ssm_a", d.H), 0, 1).GGUF[0].NegExp = true
	b.vector(MixNorm, "linear_attn.norm.weight", "ssm_norm.weight", d.Dv)
}

// byTurns lets GGUF have the value heads of n rows each, from row first on, in
// its own order.
func (d *DeltaNet) byTurns(r *Rule, first, n int) {
	if d.H == d.K {
		return
	}
	p := &r.GGUF[0]
	turn, then := d.turns(first, n)
	if first > 0 {
		turn, then = Rows{0, first, first, 1}, append([]Rows{turn}, then...)
	}
	p.Rows, p.Then = turn, then
}

// turns are the value heads, of n rows each from row first on, in the order in
// which one of every key head comes first, then another of every key head.
func (d *DeltaNet) turns(first, n int) (Rows, []Rows) {
	r := d.H / d.K
	var out []Rows
	for i := range r {
		out = append(out, Rows{first + i*n, n, r * n, d.K})
	}
	return out[0], out[1:]
}

// deltaApart adds the weights of a gated delta net whose maps are all apart, and
// whose convolution files have in three tensors: of queries, keys and values, or,
// as Transformers 5 writes them, in three of about equal size.
func (b *rules) deltaApart(d *DeltaNet, width int) {
	q, v := d.K*d.Dk, d.H*d.Dv
	b.matrix(Q, "linear_attn.q_proj", "", q, width)
	b.matrix(K, "linear_attn.k_proj", "", q, width)
	b.matrix(V, "linear_attn.v_proj", "", v, width)
	b.matrix(MixDecay, "linear_attn.a_proj", "", d.H, width)
	b.matrix(MixBeta, "linear_attn.b_proj", "", d.H, width)
	b.matrix(MixGate, "linear_attn.g_proj", "", v, width)
	conv := b.convolution("linear_attn.conv1d", "", d.channels(), d.Taps, false)
	third := (d.channels() + 2) / 3
	conv.HF = b.cutConv(d.Taps, q, q, v)
	conv.Also = [][]Piece{b.cutConv(d.Taps, third, third, d.channels()-2*third)}
	b.vector(DtBias, "linear_attn.dt_bias", "", d.H)
	b.vector(ALog, "linear_attn.A_log", "", d.H)
	b.vector(MixNorm, "linear_attn.o_norm.weight", "", d.Dv)
	b.matrix(MixOut, "linear_attn.o_proj", "", width, v)
}

// cutConv are the tensors of a convolution cut after so many channels each.
func (b *rules) cutConv(taps int, channels ...int) []Piece {
	var out []Piece
	first := 0
	for i, n := range channels {
		name := b.hf + "linear_attn." + []string{"q", "k", "v"}[i] + "_conv1d.weight"
		out = append(out, Piece{Name: name, Rows: Rows{first, n, n, 1}, Shape: []int64{int64(n), 1, int64(taps)}})
		first += n
	}
	return out
}
