package arch

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// llama covers Llama 1 to 3.x, SmolLM2, Yi, SOLAR, TinyLlama and every other
// checkpoint that says LlamaForCausalLM, and InternLM 3.
var llama = Arch{
	Name: "llama", HF: []string{"LlamaForCausalLM", "InternLM3ForCausalLM"}, GGUF: "llama",
	Spec: func(c *Config) (Spec, error) {
		if c.String("", "model_type") == "internlm3" {
			c.assume(map[string]string{"num_key_value_heads": "2", "head_dim": "128", "max_position_embeddings": "32768", "rms_norm_eps": "1e-5"})
		}
		bias, mlp := c.Bool(false, "attention_bias"), c.Bool(false, "mlp_bias")
		return decoderSpec(c, "llama", func(a *Attention, m *MLP) { a.Bias, a.OutBias, m.Bias = bias, bias, mlp })
	},
	GGUFSpec: decoderGGUF,
	Rules:    func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:       func(s *Spec) []formats.KV { return decoderKV(s, "llama") },
	Config: func(s *Spec) []formats.KV {
		return append(decoderConfig(s, "LlamaForCausalLM", "llama"),
			formats.KV{Key: "attention_bias", Value: s.Attention().Bias},
			formats.KV{Key: "mlp_bias", Value: s.mlp().Bias})
	},
}

// decoder is a layer of the Llama family: attention, then a feed-forward part,
// each on the normed stream.
func decoder(mixer, feed Body) *LayerSpec {
	return &LayerSpec{Sublayers: []Sublayer{{Pre: AttnNorm, Body: mixer}, {Pre: MLPNorm, Body: feed}}}
}

// decoderSpec reads the keys that the Llama-shaped families share; more says
// what a family adds to its layers, which are all equal.
func decoderSpec(c *Config, name string, more func(*Attention, *MLP)) (Spec, error) {
	return rotatedSpec(c, name, func(d, maxPos int) []RopeSpec { return []RopeSpec{c.Rope(d, maxPos)} }, more)
}

// rotatedSpec is decoderSpec with tables of a family's own for heads of d elements.
func rotatedSpec(c *Config, name string, ropes func(d, maxPos int) []RopeSpec, more func(*Attention, *MLP)) (Spec, error) {
	s := Spec{
		Arch: name, C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(2048, "max_position_embeddings"),
		Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings"),
	}
	a := c.attention(s.C)
	m := &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")}
	s.Ropes = ropes(a.D, s.MaxPos)
	more(a, m)
	if n := c.Int(-1, "num_hidden_layers"); c.err == nil {
		c.err = s.repeat(n, decoder(a, m))
	}
	return s, c.err
}

// attention reads the heads of a model of width width.
func (c *Config) attention(width int) *Attention {
	a := &Attention{H: c.Int(-1, "num_attention_heads")}
	a.K = c.Int(a.H, "num_key_value_heads")
	if a.H > 0 {
		a.D = c.Int(width/a.H, "head_dim")
	}
	return a
}

// decoderGGUF reads <prefix>.* keys; biases, norms and tying follow from the
// tensors present.
func decoderGGUF(m *Metadata) (Spec, error) {
	s := Spec{
		Arch: m.prefix, C: m.Int(-1, "embedding_length"), MaxPos: m.Int(-1, "context_length"),
		Norm: NormSpec{Eps: m.eps()}, Tied: !m.Has("output.weight"),
	}
	if emb, ok := m.shapes["token_embd.weight"]; ok && len(emb) == 2 {
		s.V = int(emb[0])
	}
	a := m.attention(s.C)
	s.Ropes = []RopeSpec{m.Rope(a.D, s.MaxPos)}
	mlp := &MLP{F: m.feedLength(), Act: kernels.SiLU, Bias: m.Has("blk.0.ffn_up.bias")}
	if up := m.shapes["blk.0.ffn_up.weight"]; len(up) == 2 && up[0] == 2*int64(mlp.F) {
		mlp.Fused = true
	}
	err := s.repeat(m.Int(-1, "block_count"), decoder(a, mlp))
	return s, cmp.Or(m.err, err)
}

// attention reads the heads of a model of width width.
func (m *Metadata) attention(width int) *Attention {
	a := &Attention{H: m.Int(-1, "attention.head_count"), Bias: m.Has("blk.0.attn_q.bias") || m.Has("blk.0.attn_qkv.bias"), OutBias: m.Has("blk.0.attn_output.bias")}
	a.K = m.Int(a.H, "attention.head_count_kv")
	if a.H > 0 {
		a.D = m.Int(width/a.H, "attention.key_length")
	}
	switch norm := m.shapes["blk.0.attn_q_norm.weight"]; {
	case len(norm) == 2:
		a.QKNorm = OwnPerHead
	case len(norm) == 1 && norm[0] == int64(a.D):
		a.QKNorm = PerHead
	case len(norm) == 1:
		a.QKNorm = WholeWidth
	}
	return a
}

// layerNames are what families name differently.
type layerNames struct {
	norms   map[Role][2]string // of a layer, in Hugging Face files and in GGUF
	experts expertNames
	oneKVB  bool               // a GGUF has one tensor that makes keys and values of their latent
	modules map[Role][2]string // linear maps, tables and the final norm, where they are not called as usual
	layers  string             // what names of layer %d begin with in Hugging Face files; "": as usual
	// byHead: Hugging Face files hold the norms of heads one by one, norms.N.
	byHead bool
	// transposed: Hugging Face files hold the linear maps as [in, out].
	transposed bool
}

// with is n with further norms.
func (n layerNames) with(norms map[Role][2]string) layerNames {
	n.norms = maps.Clone(n.norms)
	maps.Copy(n.norms, norms)
	return n
}

// UsualHead is what most families call the output layer, and users who mean it.
const UsualHead = "lm_head"

// UsualEmbed is what most call the module of the table of tokens.
const UsualEmbed = "embed_tokens"

// usualModules are the usual names of what is no norm of a layer.
var usualModules = map[Role][2]string{
	Embed: {"model.embed_tokens", "token_embd"}, FinalNorm: {"model.norm", "output_norm"}, Head: {UsualHead, "output"},
	EmbedNorm: {"model.embed_norm", "token_embd_norm"}, Position: {"model.embed_positions", "position_embd"},
	Q: {"self_attn.q_proj", "attn_q"}, K: {"self_attn.k_proj", "attn_k"}, V: {"self_attn.v_proj", "attn_v"},
	QKV: {"self_attn.qkv_proj", "attn_qkv"}, O: {"self_attn.o_proj", "attn_output"},
	PartEmbed: {"model.embed_tokens_per_layer", "per_layer_token_embd"}, PartProject: {"model.per_layer_model_projection", "per_layer_model_proj"},
	StreamsIn: {"model.altup_projections", "altup_proj"}, StreamsOut: {"model.altup_unembed_projections", "altup_unembd_proj"},
	LaurelDown: {"laurel.linear_left", "laurel_l"}, LaurelUp: {"laurel.linear_right", "laurel_r"},
	AltRouter: {"altup.modality_router", "altup_router"}, AltPredict: {"altup.prediction_coefs", "altup_predict_coef"}, AltCorrect: {"altup.correction_coefs", "altup_correct_coef"},
	PartNorm: {"model.per_layer_projection_norm", "per_layer_proj_norm"}, PartGate: {"per_layer_input_gate", "inp_gate"}, PartBack: {"per_layer_projection", "proj"},
	QNorm: {"self_attn.q_norm", "attn_q_norm"}, KNorm: {"self_attn.k_norm", "attn_k_norm"},
	Gate: {"mlp.gate_proj", "ffn_gate"}, Up: {"mlp.up_proj", "ffn_up"}, GateUp: {"mlp.gate_up_proj", "ffn_up"}, Down: {"mlp.down_proj", "ffn_down"},
}

// of are the names of a module, in Hugging Face files and in GGUF.
func (n *layerNames) of(role Role) [2]string {
	if name, ok := n.modules[role]; ok {
		return name
	}
	return usualModules[role]
}

// usualNames are Llama's and those of most experts.
var usualNames = layerNames{
	norms:   map[Role][2]string{AttnNorm: {"input_layernorm", "attn_norm"}, MLPNorm: {"post_attention_layernorm", "ffn_norm"}},
	experts: hubExperts,
}

// decoderRules lists the tensors under their usual names; pairs says that GGUF
// holds the rows of q and k in rotation pairs.
func decoderRules(s *Spec, pairs bool) []Rule { return namedRules(s, pairs, usualNames) }

// namedRules is decoderRules with names of a family's own.
func namedRules(s *Spec, pairs bool, names layerNames) []Rule {
	b := &rules{layer: -1, addOne: s.Norm.Offset == 1, bare: s.Norm.Bare, bias: s.Norm.Bias, names: names}
	b.embedding(s)
	for i, l := range s.Layers {
		b.enter(i, fmt.Sprintf(cmp.Or(names.layers, "model.layers.%d."), i), fmt.Sprintf("blk.%d.", i))
		seen := map[Role]bool{None: true}
		norm := func(role Role) { // once where two parts share it
			if !seen[role] {
				seen[role] = true
				b.norm(role, names.norms[role][0], names.norms[role][1], s.C)
			}
		}
		if l.Hyper != nil {
			b.hyper(l.Hyper, s.C)
		}
		if l.AltUp != nil {
			b.altUp(l.AltUp, s.C)
		}
		for _, sub := range l.Sublayers {
			norm(sub.Pre)
			for _, role := range norms(sub.Body) {
				norm(role)
			}
			for _, part := range parts(sub.Body) {
				switch m := part.(type) {
				case *Attention:
					b.attention(m, s.C, pairs)
				case *Compressed:
					b.compressed(m, s.C)
				case *MLA:
					b.mla(m, s.C, names.oneKVB)
				case *MLP:
					b.mlp(m, s.C)
				case *MoE:
					b.experts(m, s.C, names.experts)
				case *Part:
					b.part(PartGate, m.P, s.C, false, 0)
					b.part(PartBack, s.C, m.P, false, 0)
				case *Laurel:
					b.part(LaurelDown, m.R, s.C, false, 0)
					b.part(LaurelUp, s.C, m.R, false, 0)
					norm(LaurelNorm)
				case *ShortConv:
					b.shortConv(m, s.C)
				case *DeltaNet:
					b.deltaNet(m, s.C)
				case *Mamba2:
					b.mamba2(m, s.C)
				case *Mamba1:
					b.mamba1(m, s.C)
				}
			}
			norm(sub.Post)
		}
		if l.Scaled {
			b.vector(LayerScale, "layer_scalar", "layer_output_scale.weight", 1)
		}
	}
	b.enter(-1, "", "")
	b.head(s)
	return b.list
}

// embedding adds what comes before the blocks.
func (b *rules) embedding(s *Spec) {
	embed, norm, pos, in := b.names.of(Embed), b.names.of(EmbedNorm), b.names.of(Position), b.names.of(ProjectIn)
	b.matrix(Embed, embed[0], embed[1], s.V, s.embedWidth())
	if s.EmbedNorm {
		b.norm(EmbedNorm, norm[0], norm[1], s.C)
	}
	if s.Positions > 0 {
		b.matrix(Position, pos[0], pos[1], s.Positions, s.C)
	}
	if wide := s.Part * len(s.Layers); wide > 0 {
		table, project, partNorm := b.names.of(PartEmbed), b.names.of(PartProject), b.names.of(PartNorm)
		b.matrix(PartEmbed, table[0], table[1], cmp.Or(s.PartRows, s.V), wide)
		b.matrix(PartProject, project[0], project[1], wide, s.C)
		b.norm(PartNorm, partNorm[0], partNorm[1], s.Part)
	}
	if s.Hyper == nil {
		b.streams(s, StreamsIn)
		b.streams(s, StreamsOut)
	}
	if s.EmbedWidth > 0 {
		b.matrix(ProjectIn, in[0], in[1], s.C, s.EmbedWidth)
	}
}

// streams adds the maps of a role for every stream but the first, which belong to no
// layer, each to another: -1-i for stream i. A GGUF has them in one tensor.
func (b *rules) streams(s *Spec, role Role) {
	name := b.names.of(role)
	var all []string
	for i := 1; i < s.Streams; i++ {
		all = append(all, fmt.Sprintf("%s.%d.weight", name[0], i-1))
	}
	for i := 1; i < s.Streams; i++ {
		b.enter(-1-i, "", "")
		b.matrix(role, strings.TrimSuffix(all[i-1], ".weight"), name[1], s.C, s.C).GGUF[0].Slab = Slab{i - 1, all}
	}
	b.enter(-1, "", "")
}

// altUp adds what mixes streams around a layer.
func (b *rules) altUp(a *AltUp, width int) {
	norm := b.names.norms[AltNorm]
	b.norm(AltNorm, norm[0], norm[1], width)
	b.part(AltRouter, a.N, width, false, 0)
	b.part(AltPredict, a.N*a.N, a.N, false, 0)
	b.part(AltCorrect, a.N, a.N, false, 0)
	b.vector(AltScale, "altup.correct_output_scale", "altup_correct_scale.weight", width)
}

// head adds what comes behind the blocks.
func (b *rules) head(s *Spec) {
	norm, out, head := b.names.of(FinalNorm), b.names.of(ProjectOut), b.names.of(Head)
	if s.Hyper != nil {
		b.hyperHead(s.Hyper, s.C)
	}
	if !s.NoFinalNorm {
		b.norm(FinalNorm, norm[0], norm[1], s.C)
	}
	if s.EmbedWidth > 0 {
		b.matrix(ProjectOut, out[0], out[1], s.EmbedWidth, s.C)
	}
	b.matrix(Head, head[0], head[1], s.V, s.embedWidth()).Tied = s.Tied
	if s.HeadBias {
		b.vector(Head, head[0]+".bias", head[1]+".bias", s.V).Bias = true
	}
}

// attention adds the linear maps of attention and its norms.
func (b *rules) attention(a *Attention, width int, pairs bool) {
	q, kv := a.H*a.D, a.K*a.D
	made := q
	if a.QGate {
		made = 2 * q
	}
	qPairs, kPairs := 0, 0
	if pairs {
		qPairs, kPairs = a.H, a.K
	}
	switch {
	case a.Borrows > 0:
		b.part(Q, made, width, a.Bias, qPairs)
	case !a.Fused:
		b.part(Q, made, width, a.Bias, qPairs)
		b.part(K, kv, width, a.Bias, kPairs)
		if !a.KeyValue {
			b.part(V, kv, width, a.Bias, 0)
		}
	default:
		b.fused(a, width)
	}
	b.part(O, width, q, a.OutBias, 0)
	if a.Gate {
		b.matrix(AttnGate, "self_attn.gate_proj", "attn_gate", q, width)
	}
	if a.Sinks {
		b.vector(Sinks, "self_attn.sinks", "attn_sinks.weight", a.H)
	}
	qn, kn := b.names.of(QNorm), b.names.of(KNorm)
	switch a.QKNorm {
	case PerHead:
		b.norm(QNorm, qn[0], qn[1], a.D)
		if a.Borrows == 0 {
			b.norm(KNorm, kn[0], kn[1], a.D)
		}
	case WholeWidth:
		b.norm(QNorm, qn[0], qn[1], q)
		b.norm(KNorm, kn[0], kn[1], kv)
	case OwnPerHead:
		b.headNorms(QNorm, qn, a.H, a.D)
		b.headNorms(KNorm, kn, a.K, a.D)
	}
}

// fused adds the map of queries, keys and values.
func (b *rules) fused(a *Attention, width int) {
	first := len(b.list)
	b.part(QKV, (a.H+2*a.K)*a.D, width, a.Bias, 0)
	for i := first; i < len(b.list) && a.ByKey; i++ {
		b.list[i].GGUF[0].Parts = []int{a.H / a.K * a.D, a.D, a.D}
	}
}

// headNorms adds the weights of norms of h heads of d elements: a vector to
// whoever asks what the tensor is, a matrix in files, or a vector a head.
func (b *rules) headNorms(role Role, name [2]string, h, d int) {
	r := b.vector(role, name[0]+".weight", name[1]+".weight", h*d)
	r.GGUF[0].Shape = []int64{int64(h), int64(d)}
	if r.HF[0].Shape = r.GGUF[0].Shape; !b.names.byHead {
		return
	}
	r.HF = nil
	for i := range h {
		r.HF = append(r.HF, Piece{Name: fmt.Sprintf("%s%s.norms.%d.weight", b.hf, name[0], i), Rows: Rows{i * d, d, d, 1}})
	}
}

// mlp adds the linear maps of a feed-forward part.
func (b *rules) mlp(m *MLP, width int) {
	switch {
	case m.Fused:
		b.part(GateUp, 2*m.F, width, m.Bias, 0)
	case m.Ungated:
		b.part(Up, m.F, width, m.Bias, 0)
	default:
		b.part(Gate, m.F, width, m.Bias, 0)
		b.part(Up, m.F, width, m.Bias, 0)
	}
	b.part(Down, width, m.F, m.Bias, 0)
	if x := m.XIELU; x != nil {
		b.number(ActPos, "mlp.act_fn.alpha_p", x.Pos, []int64{1})
		b.number(ActNeg, "mlp.act_fn.alpha_n", x.Neg, []int64{1})
		b.number(ActBeta, "mlp.act_fn.beta", x.Beta, []int64{})
		b.number(ActEps, "mlp.act_fn.eps", x.Eps, []int64{})
	}
}

// decoderKV is the metadata in the order llama.cpp's converter writes it.
func decoderKV(s *Spec, p string) []formats.KV {
	u := func(k string, v int) formats.KV { return formats.KV{Key: p + "." + k, Value: uint32(v)} }
	f := func(k string, v float64) formats.KV { return formats.KV{Key: p + "." + k, Value: float32(v)} }
	a, r := s.Attention(), s.rope()
	inner, _ := s.feed()
	kv := []formats.KV{
		u("block_count", len(s.Layers)), u("context_length", s.MaxPos), u("embedding_length", s.C),
		u("feed_forward_length", inner), u("attention.head_count", a.H), u("attention.head_count_kv", a.K),
	}
	kv = append(kv, r.ggufScaling(p)...)
	if m := s.moe(); m != nil {
		kv = append(kv, expertKV(m, p)...)
	}
	eps := "attention.layer_norm_rms_epsilon"
	if s.Norm.Kind == kernels.LayerNorm {
		eps = "attention.layer_norm_epsilon"
	}
	return append(kv, f("rope.freq_base", r.Base), f(eps, float64(s.Norm.Eps)),
		u("attention.key_length", a.D), u("attention.value_length", a.D), u("vocab_size", s.V), u("rope.dimension_count", r.Dim))
}

// epsKey is what config.json calls the norms' epsilon.
func epsKey(n NormSpec) string {
	if n.Kind == kernels.LayerNorm {
		return "layer_norm_eps"
	}
	return "rms_norm_eps"
}

// actNames are config.json's names of activations.
var actNames = map[kernels.ActKind]string{kernels.SiLU: "silu", kernels.GELU: "gelu", kernels.GELUTanh: "gelu_pytorch_tanh", kernels.ReLU: "relu", kernels.ReLU2: "relu2"}

// decoderConfig is config.json in the form that both generations of
// Transformers and the servers read.
func decoderConfig(s *Spec, class, modelType string) []formats.KV {
	a := s.Attention()
	inner, kind := s.feed()
	kv := []formats.KV{
		{Key: "architectures", Value: []string{class}}, {Key: "model_type", Value: modelType},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: inner}, {Key: "num_hidden_layers", Value: len(s.Layers)},
		{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K}, {Key: "head_dim", Value: a.D},
		{Key: "hidden_act", Value: actNames[kind]}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: epsKey(s.Norm), Value: shortFloat(s.Norm.Eps)},
		{Key: "rope_theta", Value: s.rope().Base}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
	}
	return append(kv, s.scalingConfig()...)
}

// scalingConfig is the scaling rule of config.json, where there is one.
func (s *Spec) scalingConfig() []formats.KV {
	if r := ropeScaling(s.rope()); r != nil {
		return []formats.KV{{Key: "rope_scaling", Value: r}}
	}
	return nil
}
