package arch

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Compressed is attention of H heads to one head of keys that are values, too, in a
// window of tokens and in entries into which all tokens are compressed
// (DeepSeek-AI 2026, DeepSeek-V4). The last Rot elements of heads rotate; the outputs
// are rotated back. What it makes leaves by way of Groups maps to ORank each.
type Compressed struct {
	H, D, QRank int
	Rot, Rope   int // Rope is an index in Spec.Ropes
	Window      int
	Groups      int
	ORank       int

	Rate    int     // tokens of an entry; 0: there are no entries
	Overlap bool    // an entry has a part of the tokens of the entry before it, too
	Index   Indexer // picks the entries that a token sees; P 0: it sees all that are complete
}

func (a *Compressed) check(s *Spec) error {
	err := checkSizes(size{"attention heads", a.H, maxHeads}, size{"head size", a.D, 1 << 14}, size{"rank of queries", a.QRank, maxWidth}, size{"rotating part", a.Rot, a.D},
		size{"attention window", a.Window, 1 << 28}, size{"groups of heads", a.Groups, a.H}, size{"rank of a group", a.ORank, maxWidth})
	if err != nil {
		return err
	}
	if a.H%a.Groups != 0 || a.Rate < 0 || a.Rate > 1<<20 {
		return fmt.Errorf("%d heads in %d groups, %d tokens an entry", a.H, a.Groups, a.Rate)
	}
	if rot := s.Ropes[a.Rope].Dim; rot != a.Rot {
		return fmt.Errorf("rotary size %d, but %d elements of a head rotate", rot, a.Rot)
	}
	if x := a.Index; x.P > 0 {
		if err := checkSizes(size{"heads of the indexer", x.H, maxHeads}, size{"head size of the indexer", x.D, 1 << 14}, size{"picked entries", x.P, 1 << 28}); err != nil {
			return err
		}
		if x.D < a.Rot {
			return fmt.Errorf("%d elements of the indexer's heads of %d rotate", a.Rot, x.D)
		}
	}
	return nil
}

// Hyper lets the sublayers of a layer read a mixture of N streams, and mix what they
// make into all of them (manifold-constrained hyper-connections, Xie et al. 2025,
// arXiv:2512.24880).
type Hyper struct {
	N, Iters int
	Eps      float32
}

func (h *Hyper) check() error {
	return checkSizes(size{"hc_mult", h.N, maxStreams}, size{"hc_sinkhorn_iters", h.Iters, 1000})
}

// size is the number of coefficients of a connection.
func (h *Hyper) size() int { return h.N * (h.N + 2) }

// Kinds of DeepSeek V4's layers.
const (
	v4Window = "sliding_attention"
	v4Sparse = "compressed_sparse_attention"
	v4Heavy  = "heavily_compressed_attention"
	v4Hash   = "hash_moe"
	v4MoE    = "moe"
)

// deepseek4 is DeepSeek V4: attention to compressed entries, several streams around
// it, and experts of which the first layers have a token's in a table.
var deepseek4 = Arch{
	Name: "deepseek_v4", HF: []string{"DeepseekV4ForCausalLM"}, Tables: ".tid2eid", Drops: []string{"mtp."},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "1048576", "hidden_size": "4096", "vocab_size": "129280", "num_hidden_layers": "43", "num_attention_heads": "64", "head_dim": "512",
			"q_lora_rank": "1024", "num_experts_per_tok": "6", "n_routed_experts": "256", "moe_intermediate_size": "2048", "routed_scaling_factor": "1.5", "rope_theta": "10000.0", "compress_rope_theta": "160000.0",
			"hc_mult": "4", "hc_sinkhorn_iters": "20", "hc_eps": "1e-6", "swiglu_limit": "10.0", "sliding_window": "128", "o_groups": "8", "o_lora_rank": "1024",
			"index_n_heads": "64", "index_head_dim": "128", "index_topk": "512"})
		for key, value := range map[string]string{"hidden_act": `"silu"`, "attention_bias": "false", "mlp_bias": "false", "num_key_value_heads": "1", "n_shared_experts": "1", "norm_topk_prob": "true"} {
			c.only(key, value)
		}
		s := Spec{Arch: "deepseek_v4", C: c.Int(-1, "hidden_size"), V: c.Int(-1, "vocab_size"), MaxPos: c.Int(-1, "max_position_embeddings"),
			Norm: NormSpec{Eps: float32(c.Float(1e-6, "rms_norm_eps"))}, Tied: c.Bool(false, "tie_word_embeddings")}
		h := &Hyper{N: c.Int(-1, "hc_mult"), Iters: c.Int(-1, "hc_sinkhorn_iters"), Eps: float32(c.Float(1e-6, "hc_eps"))}
		s.Streams, s.Hyper = h.N, h
		a := Compressed{H: c.Int(-1, "num_attention_heads"), D: c.Int(-1, "head_dim"), QRank: c.Int(-1, "q_lora_rank"), Window: c.Int(-1, "sliding_window"), Groups: c.Int(-1, "o_groups"), ORank: c.Int(-1, "o_lora_rank")}
		s.Ropes = c.v4Ropes(a.D, s.MaxPos)
		a.Rot = s.rope().Dim
		n := c.Int(-1, "num_hidden_layers")
		if err := checkSizes(size{"layers", n, maxLayers}); err != nil || c.err != nil {
			return s, cmp.Or(c.err, err)
		}
		kinds, rates, hashed := c.v4Kinds(n)
		for i := range n {
			own, m := a, c.v4Experts()
			if kinds[i] != v4Window {
				own.Rope, own.Rate = 1, rates[kinds[i]]
				if own.Rate < 1 {
					c.fail("compress_rates", "%s has %d, want 1 or more", kinds[i], own.Rate)
				}
			}
			if kinds[i] == v4Sparse {
				own.Overlap, own.Index = true, Indexer{H: c.Int(-1, "index_n_heads"), D: c.Int(-1, "index_head_dim"), P: c.Int(-1, "index_topk"), Pairs: kernels.Adjacent}
			}
			m.Select, m.Hashed = !hashed[i], hashed[i]
			l := decoder(&own, &m)
			l.Hyper = h
			s.Layers = append(s.Layers, l)
		}
		return s, c.err
	},
	Rules: func(s *Spec) []Rule {
		list := decoderRules(s, false)
		for i := range list {
			for j := range list[i].HF {
				list[i].HF[j].Name = v4Names.Replace(list[i].HF[j].Name)
			}
			if len(list[i].HF) > 0 {
				list[i].Also = [][]Piece{v4Saved(list[i].HF)}
			}
		}
		return list
	},
	Read: func(s *Source) error {
		for i, l := range s.Spec.Layers {
			if m, _ := bodyOf[*MoE](l); m != nil && m.Hashed {
				if err := s.readTable(i, m); err != nil {
					return err
				}
			}
		}
		return nil
	},
}

// v4Names are what files call what Transformers calls otherwise.
var v4Names = strings.NewReplacer("model.embed_tokens.", "embed.", "model.norm.", "norm.", "lm_head.", "head.", "model.hc_head.hc_", "hc_head_", "model.layers.", "layers.",
	".self_attn.q_a_proj.", ".attn.wq_a.", ".self_attn.q_b_proj.", ".attn.wq_b.", ".self_attn.kv_proj.", ".attn.wkv.", ".self_attn.o_a_proj.", ".attn.wo_a.", ".self_attn.o_b_proj.", ".attn.wo_b.",
	".self_attn.q_a_norm.", ".attn.q_norm.", ".self_attn.kv_norm.", ".attn.kv_norm.", ".self_attn.sinks", ".attn.attn_sink",
	".self_attn.compressor.indexer.q_b_proj.", ".attn.indexer.wq_b.", ".self_attn.compressor.indexer.scorer.", ".attn.indexer.",
	".self_attn.compressor.indexer.kv_proj.", ".attn.indexer.compressor.wkv.", ".self_attn.compressor.indexer.gate_proj.", ".attn.indexer.compressor.wgate.",
	".self_attn.compressor.indexer.kv_norm.", ".attn.indexer.compressor.norm.", ".self_attn.compressor.indexer.position_bias", ".attn.indexer.compressor.ape",
	".self_attn.compressor.kv_proj.", ".attn.compressor.wkv.", ".self_attn.compressor.gate_proj.", ".attn.compressor.wgate.",
	".self_attn.compressor.kv_norm.", ".attn.compressor.norm.", ".self_attn.compressor.position_bias", ".attn.compressor.ape",
	".input_layernorm.", ".attn_norm.", ".post_attention_layernorm.", ".ffn_norm.", ".attn_hc.", ".hc_attn_", ".ffn_hc.", ".hc_ffn_",
	".mlp.gate.e_score_correction_bias", ".ffn.gate.bias", ".mlp.gate.", ".ffn.gate.", ".mlp.", ".ffn.", ".gate_proj.", ".w1.", ".up_proj.", ".w3.", ".down_proj.", ".w2.")

// v4Saved are pieces under the names that Transformers 5.23 saves them by, where some
// stay its own.
func v4Saved(list []Piece) []Piece {
	own := strings.NewReplacer("embed.", "embed_tokens.", "hc_head_", "hc_head.hc_", ".attn.kv_norm.", ".attn.norm.")
	out := slices.Clone(list)
	for i := range out {
		if !strings.HasPrefix(out[i].Name, "head.") {
			out[i].Name = "model." + own.Replace(out[i].Name)
		}
	}
	return out
}

// v4Experts reads the experts of a layer.
func (c *Config) v4Experts() MoE {
	m := MoE{E: c.Int(-1, "n_routed_experts"), K: c.Int(-1, "num_experts_per_tok"), F: c.Int(-1, "moe_intermediate_size"), Act: kernels.LimitedSwiGLU}
	m.Shared, m.ActParams.Limit = m.F, float32(c.Float(10, "swiglu_limit"))
	if !(m.ActParams.Limit > 0) {
		c.lack("swiglu_limit", "is %g, want more than 0", m.ActParams.Limit)
	}
	m.Route = kernels.RouteArgs{Kind: kernels.RouteSqrtSoftplus, Renorm: true, Eps: 1e-20, Scale: float32(c.Float(1.5, "routed_scaling_factor"))}
	switch how := c.String("sqrtsoftplus", "scoring_func"); how {
	case "sqrtsoftplus":
	case "sigmoid":
		m.Route.Kind = kernels.RouteSigmoid
	default:
		c.lack("scoring_func", "%q is not supported; known: sqrtsoftplus, sigmoid", how)
	}
	return m
}

// v4Kinds reads the kinds of n layers, how many tokens an entry of each kind has, and
// whose experts are in a table.
func (c *Config) v4Kinds(n int) (kinds []string, rates map[string]int, hashed []bool) {
	rates = map[string]int{v4Sparse: 4, v4Heavy: 128}
	if own, ok := get[map[string]int](c, "compress_rates"); ok {
		for kind, rate := range own {
			if _, known := rates[kind]; !known {
				c.lack("compress_rates", "%q is not supported; known: %s, %s", kind, v4Sparse, v4Heavy)
			}
			rates[kind] = rate
		}
	}
	rates[v4Sparse], rates[v4Heavy] = c.Int(rates[v4Sparse], "compress_rate_csa"), c.Int(rates[v4Heavy], "compress_rate_hca")
	kinds = c.layerTypes("layer_types", v4Window, v4Sparse, v4Heavy)
	if ratios, ok := get[[]int](c, "compress_ratios"); ok && kinds == nil {
		for i, r := range ratios[:min(n, len(ratios))] {
			kind := map[int]string{0: v4Window, 4: v4Sparse, 128: v4Heavy}[r]
			if kind == "" {
				c.lack("compress_ratios", "layer %d has %d; known: 0, 4, 128", i, r)
			}
			kinds = append(kinds, kind)
		}
		if len(kinds) < n {
			c.fail("compress_ratios", "has %d entries for %d layers", len(ratios), n)
		}
	}
	for i := len(kinds); i < n; i++ { // the class's default
		kinds = append(kinds, v4Heavy)
		if i > 2 && i%2 == 1 {
			kinds[i] = v4Sparse
		}
	}
	types, first := c.layerTypes("mlp_layer_types", v4Hash, v4MoE), c.Int(3, "num_hash_layers")
	for i := range n {
		hashed = append(hashed, i < first)
		if types != nil {
			hashed[i] = i < len(types) && types[i] == v4Hash
		}
	}
	return kinds, rates, hashed
}

// v4Ropes reads the table of layers with a window alone and that of the others: each
// by itself below rope_parameters, or a rule that is of the latter.
func (c *Config) v4Ropes(d, maxPos int) []RopeSpec {
	share := 64.0 / 512
	if rot := c.Int(0, "qk_rope_head_dim"); rot != 0 && d > 0 {
		share = float64(rot) / float64(d)
	}
	share = c.Float(share, "partial_rotary_factor")
	rules := map[string]map[string]json.RawMessage{"main": {}, "compress": {}}
	raw, _ := get[map[string]json.RawMessage](c, "rope_parameters")
	if raw["main"] != nil && raw["compress"] != nil {
		rules, _ = get[map[string]map[string]json.RawMessage](c, "rope_parameters")
	} else {
		for _, key := range []string{"rope_scaling", "rope_parameters"} {
			own, _ := get[map[string]json.RawMessage](c, key)
			for k, v := range own {
				rules["compress"][k] = v
			}
		}
	}
	read := func(kind string, base float64) RopeSpec {
		rule := c.within(rules[kind])
		if c.err != nil || rule.raw == nil {
			return RopeSpec{}
		}
		if part := rule.Float(share, "partial_rotary_factor"); part != share {
			c.lack("rope_parameters", "%g of a head rotates in %s, but %g elsewhere, which is not supported", part, kind, share)
		}
		if !rule.has("rope_theta") || len(raw) == 0 || raw["main"] == nil {
			rule.raw["rope_theta"] = fmt.Append(nil, base)
		}
		all, err := json.Marshal(rule.raw)
		if err != nil {
			c.fail("rope_parameters", "%v", err)
		}
		k := c.within(map[string]json.RawMessage{"rope_parameters": all})
		r := k.rope(int(float64(d)*share), maxPos)
		if r.Type == "yarn" && r.AttnFactor == 0 {
			r.AttnFactor = 1
		}
		return r
	}
	main := read("main", c.Float(10000, "rope_theta"))
	if main.Type != "" {
		c.lack("rope_parameters", "%s in layers with a window alone is not supported", main.Type)
	}
	return []RopeSpec{main, read("compress", c.Float(160000, "compress_rope_theta"))}
}

// compressed adds the linear maps of attention to compressed entries and its norms.
func (b *rules) compressed(a *Compressed, width int) {
	b.matrix(QA, "self_attn.q_a_proj", "attn_q_a", a.QRank, width)
	b.norm(QANorm, "self_attn.q_a_norm", "attn_q_a_norm", a.QRank)
	b.matrix(QB, "self_attn.q_b_proj", "attn_q_b", a.H*a.D, a.QRank)
	b.matrix(KVA, "self_attn.kv_proj", "attn_kv", a.D, width)
	b.norm(KVANorm, "self_attn.kv_norm", "attn_kv_a_norm", a.D)
	b.add(Rule{Role: OA, Experts: a.Groups, Rows: a.Groups * a.ORank, Cols: a.H * a.D / a.Groups}, "self_attn.o_a_proj.weight", "attn_output_a.weight")
	b.matrix(O, "self_attn.o_b_proj", "attn_output_b", width, a.Groups*a.ORank)
	b.vector(Sinks, "self_attn.sinks", "attn_sinks.weight", a.H)
	if a.Rate == 0 {
		return
	}
	parts := 1
	if a.Overlap {
		parts = 2
	}
	b.matrix(CompressKV, "self_attn.compressor.kv_proj", "attn_compressor_kv", parts*a.D, width)
	b.matrix(CompressGate, "self_attn.compressor.gate_proj", "attn_compressor_gate", parts*a.D, width)
	b.add(Rule{Role: CompressBias, Rows: a.Rate, Cols: parts * a.D}, "self_attn.compressor.position_bias", "attn_compressor_ape.weight")
	b.norm(CompressNorm, "self_attn.compressor.kv_norm", "attn_compressor_norm", a.D)
	if x := a.Index; x.P > 0 {
		b.matrix(IndexK, "self_attn.compressor.indexer.kv_proj", "indexer_compressor_kv", parts*x.D, width)
		b.matrix(IndexGate, "self_attn.compressor.indexer.gate_proj", "indexer_compressor_gate", parts*x.D, width)
		b.add(Rule{Role: IndexBias, Rows: a.Rate, Cols: parts * x.D}, "self_attn.compressor.indexer.position_bias", "indexer_compressor_ape.weight")
		b.norm(IndexNorm, "self_attn.compressor.indexer.kv_norm", "indexer_compressor_norm", x.D)
		b.matrix(IndexQ, "self_attn.compressor.indexer.q_b_proj", "indexer.attn_q_b", x.H*x.D, a.QRank)
		b.matrix(IndexW, "self_attn.compressor.indexer.scorer.weights_proj", "indexer.proj", x.H, width)
	}
}

// hyper adds what mixes streams around the two sublayers of a layer.
func (b *rules) hyper(h *Hyper, width int) {
	for _, x := range []struct {
		fn, base, scale Role
		name, gguf      string
	}{{MixFn, MixBase, MixScale, "attn_hc.", "hc_attn_"}, {MLPMixFn, MLPMixBase, MLPMixScale, "ffn_hc.", "hc_ffn_"}} {
		b.add(Rule{Role: x.fn, Rows: h.size(), Cols: h.N * width}, x.name+"fn", x.gguf+"fn.weight")
		b.vector(x.base, x.name+"base", x.gguf+"base.weight", h.size())
		b.vector(x.scale, x.name+"scale", x.gguf+"scale.weight", 3)
	}
}

// hyperHead adds what makes one stream of several.
func (b *rules) hyperHead(h *Hyper, width int) {
	b.add(Rule{Role: MixFn, Rows: h.N, Cols: h.N * width}, "model.hc_head.hc_fn", "output_hc_fn.weight")
	b.vector(MixBase, "model.hc_head.hc_base", "output_hc_base.weight", h.N)
	b.vector(MixScale, "model.hc_head.hc_scale", "output_hc_scale.weight", 1)
}

// readTable reads which experts the tokens have in a layer.
func (s *Source) readTable(layer int, m *MoE) error {
	if s.tables == nil {
		s.tables = map[int][]int32{}
	}
	if s.Reader.Format() == InMemory { // a plan: the first ones
		for range s.Spec.V {
			for k := range m.K {
				s.tables[layer] = append(s.tables[layer], int32(k))
			}
		}
		return nil
	}
	name := fmt.Sprintf("layers.%d.ffn.gate%s", layer, s.arch.Tables)
	at := slices.IndexFunc(s.carried, func(t *Tensor) bool { return t.Name == name })
	if at < 0 {
		return fmt.Errorf("tensor %s is missing, which has the experts of the tokens", name)
	}
	f := s.carried[at].stored[0]
	if f.Type.Kind != dtype.I64 || !slices.Equal(f.Shape, []int64{int64(s.Spec.V), int64(m.K)}) {
		return fmt.Errorf("tensor %s is %v %v, want I64 [%d %d]", name, f.Type, f.Shape, s.Spec.V, m.K)
	}
	data, _, err := s.bytes(f)
	if err != nil {
		return err
	}
	list := make([]int32, s.Spec.V*m.K)
	for i := range list {
		e := binary.LittleEndian.Uint64(data[8*i:])
		own := list[i/m.K*m.K : i]
		if e >= uint64(m.E) || slices.Contains(own, int32(e)) {
			return fmt.Errorf("tensor %s: token %d has expert %d of %d, or twice", name, i/m.K, int64(e), m.E)
		}
		list[i] = int32(e)
	}
	s.tables[layer] = list
	return nil
}

// Table are the experts that each token has in a layer, K of V tokens; nil where a
// router chooses them.
func (s *Source) Table(layer int) []int32 { return s.tables[layer] }
