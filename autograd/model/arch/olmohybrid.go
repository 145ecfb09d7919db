package arch

import (
	"cmp"
	"strings"
)

// olmoHybrid has gated delta nets with norms before their parts in most layers,
// and OLMo's layers with norms behind their parts in the others.
var olmoHybrid = Arch{
	Name: "olmo_hybrid", HF: []string{"OlmoHybridForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"vocab_size": "100352", "hidden_size": "3840", "intermediate_size": "11008", "num_hidden_layers": "32", "num_attention_heads": "30",
			"max_position_embeddings": "65536"})
		s := Spec{Arch: "olmo_hybrid", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings")}
		s.emptyLayers(c)
		a := c.attention(s.C)
		a.QKNorm, a.Bias = WholeWidth, c.Bool(false, "attention_bias")
		a.OutBias = a.Bias
		rotates := c.has("rope_theta") || !c.stated("rope_theta")
		if rule := c.ropeRule(); rule != nil && rule.stated("rope_theta") {
			rotates = rule.has("rope_theta")
		}
		if rotates { // a base that is stated as null is none
			s.Ropes = []RopeSpec{c.Rope(a.D, s.MaxPos)}
		} else {
			a.Rope = NoRope
		}
		s.olmoLayers(c.olmoFull(len(s.Layers)), a, c.olmoDelta(s.C), &MLP{F: c.Int(-1, "intermediate_size"), Act: c.Act("hidden_act")})
		return s, c.err
	},
	Rules: func(s *Spec) []Rule {
		list := namedRules(s, false, layerNames{norms: map[Role][2]string{
			AttnNorm: {"attention_layer_norm", ""}, MLPNorm: {"feedforward_layer_norm", ""},
			PostAttnNorm: {"post_attention_layernorm", ""}, PostMLPNorm: {"post_feedforward_layernorm", ""}}})
		for i := range list { // as Transformers 5 writes it
			r := &list[i]
			r.GGUF = nil
			if r.Role == PostAttnNorm {
				r.Also = [][]Piece{{{Name: strings.Replace(r.Name, "post_attention_layernorm", "feedforward_layer_norm", 1)}}}
			}
		}
		return list
	},
}

// olmoFull says which of n layers have attention: as layer_types lists, or every
// fourth, at least the last.
func (c *Config) olmoFull(n int) []bool {
	if c.has("layer_types") {
		return c.layerKinds(n, map[string]bool{"full_attention": true, "linear_attention": false})
	}
	full := every(4, n)
	if n > 0 && n < 4 {
		full[n-1] = true
	}
	return full
}

// olmoDelta reads the heads of the delta nets of a model of width width.
func (c *Config) olmoDelta(width int) *DeltaNet {
	heads := c.Int(-1, "num_attention_heads")
	d := &DeltaNet{In: Apart, K: c.Int(heads, "linear_num_key_heads"), H: c.Int(heads, "linear_num_value_heads"), Taps: c.Int(4, "linear_conv_kernel_dim"),
		Act: c.Act("hidden_act"), NormEps: 1e-5, NegEigen: c.Bool(true, "linear_allow_neg_eigval")}
	d.Dk = c.Int(int(0.75*float64(width)/float64(cmp.Or(d.K, 1))), "linear_key_head_dim")
	d.Dv = c.Int(2*d.Dk, "linear_value_head_dim")
	return d
}

// olmoLayers makes the layers: attention where full says so, else a delta net.
func (s *Spec) olmoLayers(full []bool, a *Attention, d *DeltaNet, mlp *MLP) {
	behind := &LayerSpec{Sublayers: []Sublayer{{Body: a, Post: PostAttnNorm}, {Body: mlp, Post: PostMLPNorm}}}
	before := decoder(d, mlp)
	for i := range s.Layers {
		if s.Layers[i] = before; i < len(full) && full[i] {
			s.Layers[i] = behind
		}
	}
}
