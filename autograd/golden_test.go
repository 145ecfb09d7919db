package autograd_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// layers are layers of a model of shared/data/golden/arch, whose inputs and
// outputs Transformers computed. What the tape has no operation for is done on
// the host.
type layers struct {
	*testing.T
	*autograd.Tape
	dev    kernels.Backend
	arrays map[string][]float32
	shapes map[string][]int64
	at     string // prefix of the layer's names
	seq    *autograd.Tensor
}

func openLayers(t *testing.T, name, at string) *layers {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	l := &layers{T: t, Tape: &autograd.Tape{Dev: dev}, dev: dev, arrays: map[string][]float32{}, shapes: map[string][]int64{}, at: at}
	dir := testdir.Shared(t, "golden/arch/"+name)
	for _, file := range []string{"golden.safetensors", "model.safetensors"} {
		r, err := formats.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for _, a := range r.Tensors() {
			data, err := r.Read(&a)
			if err != nil {
				t.Fatal(err)
			}
			x := make([]float32, a.Rows()*a.Cols())
			if a.Type.Kind == dtype.I64 {
				for i := range x {
					x[i] = float32(int64(binary.LittleEndian.Uint64(data[8*i:])))
				}
				l.arrays[a.Name] = x
				continue
			}
			block.DecodeAll(x, block.Raw{Type: a.Type, Rows: a.Rows(), Cols: a.Cols(), Data: data})
			l.arrays[a.Name], l.shapes[a.Name] = x, a.Shape
		}
	}
	t.Cleanup(l.Free)
	return l
}

// array is a weight of the layer, or an array of the reference.
func (l *layers) array(name string) []float32 {
	for _, n := range []string{l.at + name, name} {
		if x, ok := l.arrays[n]; ok {
			return x
		}
	}
	l.Fatalf("no array %s", name)
	return nil
}

func (l *layers) param(name string, rows, cols int) *autograd.Param {
	return newParam(l.T, l.dev, name, rows, cols, double(l.array(name)))
}

func double(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// hidden is the input of layer i, and makes the two rows of it the sequences.
func (l *layers) hidden(i string) *autograd.Tensor {
	s := l.shapes["hidden."+i]
	n, c := int(s[0]*s[1]), int(s[2])
	l.seq = l.Upload([]int32{0, int32(s[1]), int32(n)}, 3)
	return l.Upload(l.array("hidden."+i), n, c)
}

func (l *layers) values(x *autograd.Tensor) []float32 {
	v, err := l.Values(x)
	if err != nil {
		l.Fatal(err)
	}
	return v
}

// each computes f of the elements of tensors of one shape on the host.
func (l *layers) each(f func(x ...float64) float64, in ...*autograd.Tensor) *autograd.Tensor {
	var vs [][]float32
	for _, x := range in {
		vs = append(vs, l.values(x))
	}
	y, x := make([]float32, len(vs[0])), make([]float64, len(in))
	for i := range y {
		for j, v := range vs {
			x[j] = float64(v[i])
		}
		y[i] = float32(f(x...))
	}
	return l.Upload(y, in[0].Shape...)
}

// columns cuts the columns of x.
func (l *layers) columns(x *autograd.Tensor, widths ...int) []*autograd.Tensor {
	v, n, c := l.values(x), x.Rows(), x.Cols()
	var out []*autograd.Tensor
	from := 0
	for _, w := range widths {
		part := make([]float32, 0, n*w)
		for i := range n {
			part = append(part, v[i*c+from:][:w]...)
		}
		out = append(out, l.Upload(part, n, w))
		from += w
	}
	return out
}

// rows is x with rows of another width.
func (l *layers) rows(x *autograd.Tensor, w int) *autograd.Tensor {
	return l.Upload(l.values(x), x.Len()/w, w)
}

func (l *layers) linear(x *autograd.Tensor, name string) *autograd.Tensor {
	return l.Linear(x, l.param(name+".weight", len(l.array(name+".weight"))/x.Cols(), x.Cols()), nil)
}

// norm is RMSNorm with weights plus offset, or without a name none.
func (l *layers) norm(x *autograd.Tensor, name string, offset float64, eps float32) *autograd.Tensor {
	s := autograd.NormSpec{Eps: eps}
	if name != "" {
		w := double(l.array(name + ".weight"))
		for i := range w {
			w[i] += offset
		}
		s.W = newParam(l.T, l.dev, name, 1, len(w), w)
	}
	return l.Norm(x, s)
}

// conv convolves x with a weight [C, 1, taps].
func (l *layers) conv(x *autograd.Tensor, name string, bias bool) *autograd.Tensor {
	s := autograd.ConvSpec{W: l.param(name+".weight", x.Cols(), len(l.array(name+".weight"))/x.Cols()), Seq: l.seq, SiLU: true}
	if bias {
		s.Bias = l.param(name+".bias", 1, x.Cols())
	}
	return l.Conv1D(x, s)
}

func (l *layers) vector(name string) *autograd.Param {
	return l.param(name, 1, len(l.array(name)))
}

// mlp is x + down(silu(gate)·up) of the normalised x.
func (l *layers) mlp(x *autograd.Tensor, norm, mlp string, offset float64, eps float32) *autograd.Tensor {
	n := l.norm(x, norm, offset, eps)
	a := l.Act(autograd.ActSpec{}, l.linear(n, mlp+".gate_proj"), l.linear(n, mlp+".up_proj"))
	return l.Add(x, l.linear(a, mlp+".down_proj"), 1, 1)
}

// same compares a result with the input of layer i.
func (l *layers) same(got *autograd.Tensor, i string) {
	l.Helper()
	compare(l.T, "hidden."+i, l.values(got), double(l.array("hidden."+i)), 1e-5)
}

func sigmoid(x float64) float64  { return 1 / (1 + math.Exp(-x)) }
func swish(x ...float64) float64 { return x[0] * x[1] * sigmoid(x[1]) }

// Qwen 3.5: one convolution over q, k and v, a decay for every head.
func TestQwen35Layer(t *testing.T) {
	const k, h, d = 2, 4, 8
	l := openLayers(t, "qwen3-5", "model.layers.0.")
	x := l.hidden("0")
	n := l.norm(x, "input_layernorm", 1, 1e-6)
	qkv := l.columns(l.conv(l.linear(n, "linear_attn.in_proj_qkv"), "linear_attn.conv1d", false), k*d, k*d, h*d)
	// x/√(Σx²+eps) is RMSNorm with eps/d, over √d.
	unit := func(x *autograd.Tensor) *autograd.Tensor { return l.rows(l.norm(l.rows(x, d), "", 0, 1e-6/d), k*d) }
	beta := l.each(func(x ...float64) float64 { return sigmoid(x[0]) }, l.linear(n, "linear_attn.in_proj_b"))
	o := l.DeltaScan(unit(qkv[0]), unit(qkv[1]), qkv[2], l.linear(n, "linear_attn.in_proj_a"), beta, autograd.DeltaSpec{H: h, K: k, Dk: d, Dv: d, Seq: l.seq,
		ALog: l.vector("linear_attn.A_log"), DtBias: l.vector("linear_attn.dt_bias"), Scale: 1.0 / d, KeyScale: float32(1 / math.Sqrt(d))})
	o = l.rows(l.norm(l.rows(o, d), "linear_attn.norm", 0, 1e-6), h*d)
	o = l.each(swish, o, l.linear(n, "linear_attn.in_proj_z"))
	x = l.Add(x, l.linear(o, "linear_attn.out_proj"), 1, 1)
	l.same(l.mlp(x, "post_attention_layernorm", "mlp", 1, 1e-6), "1")
}

// Kimi: a convolution each for q, k and v, a decay for every channel of a key.
func TestKimiLayer(t *testing.T) {
	const h, d = 4, 8
	l := openLayers(t, "kimi-linear", "model.layers.0.")
	x := l.hidden("0")
	n := l.norm(x, "input_layernorm", 0, 1e-5)
	in := func(name string) *autograd.Tensor {
		return l.conv(l.linear(n, "self_attn."+name+"_proj"), "self_attn."+name+"_conv1d", false)
	}
	low := func(name string) *autograd.Tensor {
		return l.linear(l.linear(n, "self_attn."+name+"_a_proj"), "self_attn."+name+"_b_proj")
	}
	unit := func(x *autograd.Tensor) *autograd.Tensor { return l.rows(l.norm(l.rows(x, d), "", 0, 1e-6/d), h*d) }
	beta := l.each(func(x ...float64) float64 { return sigmoid(x[0]) }, l.linear(n, "self_attn.b_proj"))
	o := l.DeltaScan(unit(in("q")), unit(in("k")), in("v"), low("f"), beta, autograd.DeltaSpec{H: h, K: h, Dk: d, Dv: d, Seq: l.seq, PerChannel: true,
		ALog: l.vector("self_attn.A_log"), DtBias: l.vector("self_attn.dt_bias"), Scale: 1.0 / d, KeyScale: float32(1 / math.Sqrt(d))})
	o = l.rows(l.norm(l.rows(o, d), "self_attn.o_norm", 0, 1e-5), h*d)
	o = l.each(func(x ...float64) float64 { return x[0] * sigmoid(x[1]) }, o, low("g"))
	x = l.Add(x, l.linear(o, "self_attn.o_proj"), 1, 1)
	l.same(l.mlp(x, "post_attention_layernorm", "mlp", 0, 1e-5), "1")
}

// Jamba: Mamba-1, a head for every channel and a rate for every state.
func TestJambaLayer(t *testing.T) {
	const inner, rank, state = 96, 6, 8
	l := openLayers(t, "jamba", "model.layers.0.")
	x := l.hidden("0")
	xz := l.columns(l.linear(l.norm(x, "input_layernorm", 0, 1e-6), "mamba.in_proj"), inner, inner)
	u := l.conv(xz[0], "mamba.conv1d", true)
	tbc := l.columns(l.linear(u, "mamba.x_proj"), rank, state, state)
	dt := l.Linear(l.norm(tbc[0], "mamba.dt_layernorm", 0, 1e-6), l.param("mamba.dt_proj.weight", inner, rank), l.vector("mamba.dt_proj.bias"))
	y := l.SSMScan(u, l.norm(tbc[1], "mamba.b_layernorm", 0, 1e-6), l.norm(tbc[2], "mamba.c_layernorm", 0, 1e-6), dt,
		autograd.SSMSpec{H: inner, P: 1, G: 1, S: state, Seq: l.seq, PerState: true, ALog: l.param("mamba.A_log", inner, state), D: l.vector("mamba.D")})
	x = l.Add(x, l.linear(l.each(swish, y, xz[1]), "mamba.out_proj"), 1, 1)
	l.same(l.mlp(x, "pre_ff_layernorm", "feed_forward", 0, 1e-6), "1")
}

// Nemotron-H: Mamba-2 with two groups, then experts with sigmoid scores and a
// bias that only chooses.
func TestNemotronLayers(t *testing.T) {
	const h, p, g, s = 8, 16, 2, 8
	l := openLayers(t, "nemotron-h-moe", "backbone.layers.0.")
	x := l.hidden("0")
	in := l.columns(l.linear(l.norm(x, "norm", 0, 1e-5), "mixer.in_proj"), h*p, h*p+2*g*s, h)
	xbc := l.columns(l.conv(in[1], "mixer.conv1d", true), h*p, g*s, g*s)
	y := l.SSMScan(xbc[0], xbc[1], xbc[2], in[2], autograd.SSMSpec{H: h, P: p, G: g, S: s, Seq: l.seq,
		ALog: l.vector("mixer.A_log"), DtBias: l.vector("mixer.dt_bias"), D: l.vector("mixer.D")})
	y = l.rows(l.norm(l.rows(l.each(swish, y, in[0]), h*p/g), "", 0, 1e-5), h*p)
	w := l.array("mixer.norm.weight")
	i := -1
	y = l.each(func(x ...float64) float64 { i++; return x[0] * float64(w[i%len(w)]) }, y)
	l.same(l.Add(x, l.linear(y, "mixer.out_proj"), 1, 1), "1")

	l.at = "backbone.layers.1.mixer."
	x = l.hidden("1")
	n := l.norm(x, "backbone.layers.1.norm", 0, 1e-5)
	relu2 := func(x *autograd.Tensor) *autograd.Tensor {
		return l.each(func(x ...float64) float64 { return math.Pow(math.Max(x[0], 0), 2) }, x)
	}
	r := l.Route(l.linear(n, "gate"), kernels.RouteArgs{Kind: kernels.RouteSigmoid, K: 2, Bias: l.vector("gate.e_score_correction_bias").Buffer,
		Groups: 1, TopGroups: 1, Best2: true, Renorm: true, Eps: 1e-20, Scale: 2.5})
	out := l.experts(relu2(l.experts(l.Rows(n, r.Token), r, "up_proj")), r, "down_proj")
	shared := l.linear(relu2(l.linear(n, "shared_experts.up_proj")), "shared_experts.down_proj")
	l.same(l.Add(x, l.Add(l.Combine(out, r.Place, r.Weight), shared, 1, 1), 1, 1), "2")
}

// experts is a linear map whose four weights lie apart in the file.
func (l *layers) experts(x *autograd.Tensor, r *autograd.Routed, name string) *autograd.Tensor {
	var all []float32
	for _, e := range []string{"0", "1", "2", "3"} {
		all = append(all, l.array("experts."+e+"."+name+".weight")...)
	}
	return l.ExpertLinear(x, r, newParam(l.T, l.dev, name, len(all)/x.Cols(), x.Cols(), double(all)), nil)
}

// Phi-3.5-MoE: attention, then the router that chooses one expert after another.
func TestPhiMoELayer(t *testing.T) {
	const h, k, d = 4, 2, 12
	l := openLayers(t, "phimoe", "model.layers.0.")
	x := l.hidden("0")
	norm := func(x *autograd.Tensor, name string) *autograd.Tensor {
		return l.Norm(x, autograd.NormSpec{Kind: kernels.LayerNorm, W: l.vector(name + ".weight"), Bias: l.vector(name + ".bias"), Eps: 1e-5})
	}
	lin := func(x *autograd.Tensor, name string) *autograd.Tensor {
		return l.Linear(x, l.param(name+".weight", len(l.array(name+".bias")), x.Cols()), l.vector(name+".bias"))
	}
	n := norm(x, "input_layernorm")
	var cs []float32
	for i := range x.Rows() {
		for j := range d / 2 {
			sin, cos := math.Sincos(float64(i%(x.Rows()/2)) * math.Pow(10000, -2*float64(j)/d))
			cs = append(cs, float32(cos), float32(sin))
		}
	}
	rope := func(x *autograd.Tensor) *autograd.Tensor {
		return l.Tape.Rope(x, l.Upload(cs, x.Rows(), d/2, 2), autograd.RopeSpec{D: d, Rot: d})
	}
	o := l.Attention(rope(lin(n, "self_attn.q_proj")), rope(lin(n, "self_attn.k_proj")), lin(n, "self_attn.v_proj"), autograd.AttnSpec{H: h, K: k, Dk: d, Seq: l.seq})
	x = l.Add(x, lin(o, "self_attn.o_proj"), 1, 1)
	n = norm(x, "post_attention_layernorm")
	l.at += "block_sparse_moe."
	r := l.Route(l.linear(n, "gate"), kernels.RouteArgs{Kind: kernels.RouteSparsemixer, K: 2, Jitter: 0.2})
	in := l.Rows(n, r.Token)
	out := l.experts(l.Act(autograd.ActSpec{}, l.experts(in, r, "w1"), l.experts(in, r, "w3")), r, "w2")
	l.same(l.Add(x, l.Combine(out, r.Place, r.Weight), 1, 1), "1")
}

// Mamba-2, a whole model on the tape, packed: the gradients of what a state
// that leaks into the next sequence would get wrong.
func TestMamba2Packed(t *testing.T) {
	l := openLayers(t, "mamba2", "")
	l.Tape = &autograd.Tape{Dev: l.dev, Record: true}
	defer l.Tape.Free()
	ids, seq := l.packed()
	l.seq = l.Upload(seq, len(seq))
	grads := map[string]*autograd.Param{}
	x := l.Embed(l.param("backbone.embeddings.weight", 256, 48), l.Upload(ids, len(ids)))
	for i, at := range []string{"backbone.layers.0.", "backbone.layers.1.", "backbone.layers.2."} {
		l.at = at
		y := l.mamba2(x, func(name string, p *autograd.Param) {
			if i == 0 {
				grads[name] = p
			}
		})
		x = l.Add(x, y, 1, 1)
	}
	l.at = "backbone."
	x = l.Norm(x, autograd.NormSpec{W: l.vector("norm_f.weight"), Eps: 1e-5})
	head := l.param("lm_head.weight", 256, 48)
	compare(t, "packed logits", l.values(l.Linear(x, head, nil)), double(l.array("packed_logits")), 2e-5)

	target, coef := make([]int32, len(ids)), make([]float32, len(ids))
	for s := range len(seq) - 1 { // the mean of the sequences' means
		lo, hi := seq[s], seq[s+1]
		for n := lo; n < hi; n++ {
			target[n], coef[n] = -1, 0.5/float32(hi-lo-1)
			if n+1 < hi {
				target[n] = ids[n+1]
			}
		}
	}
	l.LogProb(x, autograd.HeadSpec{W: head}, l.Upload(target, len(ids)), l.Upload(coef, len(ids)))
	if err := l.Backward(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A_log", "D", "dt_bias", "conv1d.weight", "conv1d.bias"} {
		var got []float32
		for _, part := range []string{"", ".x0", ".x1", ".b0", ".b1", ".c0", ".c1", ".0", ".1"} {
			if p := grads[name+part]; p != nil {
				got = append(got, download(t, l.dev, p.Grad)...)
			}
		}
		compare(t, "gradient of "+name, got, double(l.array("packed_grad.backbone.layers.0.mixer."+name)), 5e-5)
	}
}

// packed are the tokens of the packed row and where its sequences begin.
func (l *layers) packed() (ids, seq []int32) {
	for _, v := range l.array("packed_input_ids") {
		ids = append(ids, int32(v))
	}
	of := l.array("packed_seq_idx")
	seq = []int32{0}
	for i := range of {
		if i > 0 && of[i] != of[i-1] {
			seq = append(seq, int32(i))
		}
	}
	return ids, append(seq, int32(len(ids)))
}

// mamba2 is a mixer, one group of heads after the other, so that its parts are
// rows of weights. keep gets the parameters.
func (l *layers) mamba2(x *autograd.Tensor, keep func(name string, p *autograd.Param)) *autograd.Tensor {
	const h, p, s, groups, width, taps = 3, 16, 8, 2, 48, 4 // h heads of a group
	n := l.Norm(x, autograd.NormSpec{W: l.vector("norm.weight"), Eps: 1e-5})
	rows := func(name, as string, from, count, cols int) *autograd.Param {
		part := l.array("mixer." + name)[from*cols : (from+count)*cols]
		q := newParam(l.T, l.dev, name, count, cols, double(part))
		keep(name+as, q)
		return q
	}
	vector := func(name, as string, from, count int) *autograd.Param {
		v := rows(name, as, from, count, 1)
		v.Rows, v.Cols, v.Of = 1, count, 1
		return v
	}
	in := func(from, count int) *autograd.Tensor {
		return l.Linear(n, rows("in_proj.weight", "", from, count, width), nil)
	}
	conv := func(as string, from, count int) *autograd.Tensor {
		return l.Conv1D(in(groups*h*p+from, count), autograd.ConvSpec{W: rows("conv1d.weight", as, from, count, taps), Bias: vector("conv1d.bias", as, from, count), Seq: l.seq, SiLU: true})
	}
	var sum *autograd.Tensor
	for g := range groups {
		as := string(rune('0' + g))
		inner := groups * h * p
		y := l.SSMScan(conv(".x"+as, g*h*p, h*p), conv(".b"+as, inner+g*s, s), conv(".c"+as, inner+(groups+g)*s, s), in(2*inner+2*groups*s+g*h, h),
			autograd.SSMSpec{H: h, P: p, G: 1, S: s, Seq: l.seq, ALog: vector("A_log", "."+as, g*h, h), DtBias: vector("dt_bias", "."+as, g*h, h), D: vector("D", "."+as, g*h, h)})
		y = l.Act(autograd.ActSpec{}, in(g*h*p, h*p), y)
		y = l.Norm(y, autograd.NormSpec{W: vector("norm.weight", as, g*h*p, h*p), Eps: 1e-5})
		var cols []float32
		for row := range slices.Chunk(l.array("mixer.out_proj.weight"), inner) {
			cols = append(cols, row[g*h*p:][:h*p]...)
		}
		y = l.Linear(y, newParam(l.T, l.dev, "out_proj", width, h*p, double(cols)), nil)
		if sum == nil {
			sum = y
			continue
		}
		sum = l.Add(sum, y, 1, 1)
	}
	return sum
}
