package arch

import (
	"cmp"
	"fmt"
	"math"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// AltUp lets the sublayers of a layer work on one of N streams, which are predicted
// before it and corrected behind it (Baykal et al. 2023, arXiv:2301.13310). The layer
// has a mixer, a feed-forward part and a Part, which adds to all streams but the
// first.
type AltUp struct {
	N, Active int
	Unscaled  bool // the Part reads the active stream as it is; else times weights
}

// Laurel is a low-rank map with a norm, and what it reads: a learned residual
// connection (LAuReL, Menghani et al. 2024, arXiv:2411.07501).
type Laurel struct{ R int }

func (l *Laurel) check(*Spec) error { return checkSizes(size{"laurel_rank", l.R, maxWidth}) }

func (a *AltUp) check(l *LayerSpec) error {
	if err := checkSizes(size{"altup_num_inputs", a.N, maxStreams}); err != nil {
		return err
	}
	if a.Active < 0 || a.Active >= a.N || len(l.Sublayers) != 3 {
		return fmt.Errorf("stream %d of %d around %d sublayers", a.Active, a.N, len(l.Sublayers))
	}
	return nil
}

// maxStreams is far above what models have, and keeps the roles of their maps apart.
const maxStreams = 16

// gemma3n is Gemma 3 with several streams of which a layer works on one, a low-rank
// connection around attention, inputs of its own for every layer, gates of which few
// are open, and layers that see the keys of earlier ones; alone, or as the half of a
// larger model that reads text.
var gemma3n = Arch{
	Name: "gemma3n_text", HF: []string{"Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"}, GGUF: "gemma3n",
	Carried: []string{"model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."},
	Spec: func(c *Config) (Spec, error) {
		half := c.has("text_config")
		c = c.text()
		c.assume(map[string]string{"max_position_embeddings": "32768", "num_attention_heads": "8", "num_key_value_heads": "2", "head_dim": "256", "vocab_size": "262400", "hidden_size": "2048",
			"num_hidden_layers": "35", "intermediate_size": "16384", "tie_word_embeddings": "true", "sliding_window": "512", "default_theta": "1e6", "final_logit_softcapping": "30",
			"vocab_size_per_layer_input": "262144", "hidden_size_per_layer_input": "256", "altup_num_inputs": "4", "num_kv_shared_layers": "15", "laurel_rank": "64"})
		sizes := c.listed("intermediate_size")
		bias, act := c.gemmaBias(), c.gemmaAct()
		base := c.Float(10000, "rope_local_base_freq")
		s, err := rotatedSpec(c, "gemma3n_text", func(d, maxPos int) []RopeSpec { return c.ropePair(d, maxPos, base) }, func(a *Attention, m *MLP) {
			a.Bias, a.OutBias, m.Act = bias, bias, act
		})
		if err != nil {
			return s, err
		}
		n := len(s.Layers)
		local := c.windowed(n, lastFull(5))
		s.Half, s.LogitCap, s.PartRows = half, float32(c.Float(0, "final_logit_softcapping")), c.Int(-1, "vocab_size_per_layer_input")
		if s.PartRows == s.V {
			s.PartRows = 0
		}
		alt := AltUp{N: c.Int(-1, "altup_num_inputs"), Active: c.Int(0, "altup_active_idx"), Unscaled: !c.Bool(true, "altup_correct_scale")}
		s.gemma3n(local, c.window(local), alt, c.Int(-1, "laurel_rank"), c.Int(-1, "hidden_size_per_layer_input"))
		s.gemma3nFeeds(sizes, c.sparsity(n))
		if err := s.share(c.Int(0, "num_kv_shared_layers")); err != nil {
			c.fail("num_kv_shared_layers", "%v", err)
		}
		return s, c.err
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		sizes := m.apart("feed_forward_length", 0)
		s, err := decoderGGUF(m)
		s.Arch = "gemma3n_text"
		if err != nil {
			return s, err
		}
		n := len(s.Layers)
		if f := s.mlp(); f != nil {
			f.Act = kernels.GELUTanh
		}
		local := m.windowed(n, 5)
		s.LogitCap = float32(m.Float(30, "final_logit_softcapping"))
		s.Ropes = append(s.Ropes, RopeSpec{Dim: s.rope().Dim, Base: m.Float(10000, "rope.freq_base_swa"), MaxPos: s.MaxPos})
		rank := 0
		if down := m.shapes["blk.0.laurel_l.weight"]; len(down) == 2 {
			rank = int(down[0])
		}
		s.gemma3n(local, m.Int(0, "attention.sliding_window"), AltUp{N: m.Int(-1, "altup.num_inputs"), Active: m.Int(0, "altup.active_idx")}, rank, m.Int(-1, "embedding_length_per_layer_input"))
		cuts, _ := m.kv["gemma3n.activation_sparsity_scale"].([]float32)
		if sizes != nil && len(sizes) != n || cuts != nil && len(cuts) != n {
			m.fail("feed_forward_length", "has %d entries, activation_sparsity_scale %d, for %d layers", len(sizes), len(cuts), n)
			return s, m.err
		}
		s.gemma3nFeeds(sizes, cuts)
		if err := s.share(m.Int(0, "attention.shared_kv_layers")); err != nil {
			m.fail("attention.shared_kv_layers", "%v", err)
		}
		return s, m.err
	},
	Rules: func(s *Spec) []Rule {
		return gemmaRules(s, gemmaNames.with(map[Role][2]string{PostPartNorm: {"post_per_layer_input_norm", "post_norm"}, AltNorm: {"altup.router_norm", "altup_router_norm"}, LaurelNorm: {"laurel.post_laurel_norm", "laurel_post_norm"}}))
	},
	KV: gemma3nKV,
	NoGGUF: func(s *Spec) string {
		switch {
		case s.PartRows > 0:
			return fmt.Sprintf("a table of the layers' own inputs for %d of %d tokens", s.PartRows, s.V)
		case s.LogitCap == 0:
			return "final_logit_softcapping: null"
		case s.Ropes[0].Type != "" || s.Ropes[1].Type != "":
			return "rope scaling"
		}
		return ""
	},
	Config: gemma3nConfig,
	Read: func(s *Source) error { // Transformers cuts these weights off before it uses them
		c, err := parseConfig(s.Reader.Config())
		if err != nil {
			return err
		}
		c = c.text()
		limit, set := get[float64](c, "altup_coef_clip")
		if _, has := c.raw["altup_coef_clip"]; !has {
			limit, set = 120, true
		}
		for i := range s.Spec.Layers {
			t := s.At(i, AltCorrect)
			if !set || t == nil {
				break
			}
			m, _, err := s.Read(t)
			if err != nil || m.Data == nil {
				return err
			}
			x := make([]float32, t.Len())
			if err := decodeStored(x, m); err != nil {
				return err
			}
			for _, v := range x {
				if !(math.Abs(float64(v)) <= limit) {
					return fmt.Errorf("%s has %g, beyond altup_coef_clip, which is %g", t.Name, v, limit)
				}
			}
		}
		return c.err
	},
}

// listed reads a key that states one number or one for each layer, and leaves the
// first in its place for who asks for one number; nil where it states one.
func (c *Config) listed(key string) []int {
	list, ok := []int(nil), false
	if raw := c.raw[key]; len(raw) > 0 && raw[0] == '[' {
		list, ok = get[[]int](c, key)
	}
	if !ok {
		return nil
	}
	if n := c.Int(-1, "num_hidden_layers"); len(list) != n || n == 0 {
		c.fail(key, "has %d entries for %d layers", len(list), n)
		return nil
	}
	c.raw[key] = fmt.Append(nil, list[0])
	return list
}

// sparsity reads what part of the gates is shut, for each of n layers, as the number
// of standard deviations above the mean beyond which one is open; -Inf: all are.
func (c *Config) sparsity(n int) []float32 {
	list, ok := get[[]float64](c, "activation_sparsity_pattern")
	switch {
	case !ok: // the class's default
		list = make([]float64, n)
		for i := range list[:min(10, n)] {
			if n > 10 {
				list[i] = 0.95
			}
		}
	case len(list) != n:
		c.fail("activation_sparsity_pattern", "has %d entries for %d layers", len(list), n)
		return nil
	}
	out := make([]float32, n)
	for i, p := range list {
		switch {
		case !(p >= 0 && p < 1):
			c.fail("activation_sparsity_pattern", "layer %d has %g, want 0 to below 1", i, p)
		case p == 0:
			out[i] = float32(math.Inf(-1))
		default:
			out[i] = float32(math.Erfinv(float64(2*float32(p)-1))) * math.Sqrt2
		}
	}
	return out
}

// gemma3n makes layers of equal ones: those that local names have a window.
func (s *Spec) gemma3n(local []bool, window int, alt AltUp, rank, part int) {
	s.EmbedScale, s.Part, s.Streams = float32(math.Sqrt(float64(s.C))), part, alt.N
	for _, l := range s.Layers {
		if l.AltUp != nil { // one for all
			break
		}
		l.AltUp = &alt
		mlp, _ := bodyOf[*MLP](l)
		a, _ := bodyOf[*Attention](l)
		a.QKNorm, a.VNorm, a.Scale = PerHead, true, 1
		l.Sublayers = []Sublayer{
			{Pre: AttnNorm, Body: &Beside{[]Body{&Normed{None, a, PostAttnNorm}, &Laurel{rank}}}},
			{Pre: MLPNorm, Body: mlp, Post: PostMLPNorm},
			{Body: &Part{part, mlp.Act}, Post: PostPartNorm},
		}
	}
	s.vary(local, func(a *Attention) { a.Window, a.Rope = window, 1 })
}

// gemma3nFeeds gives the feed-forward parts of layers sizes and cuts of their own;
// nil: they have none.
func (s *Spec) gemma3nFeeds(sizes []int, cuts []float32) {
	if sizes != nil {
		s.widen(func(i, _ int) int { return sizes[i] })
	}
	for i, cut := range cuts {
		if math.IsInf(float64(cut), -1) {
			continue
		}
		s.rebuild(func(j int) bool { return i == j }, func(old Body) Body {
			m, ok := old.(*MLP)
			if !ok {
				return old
			}
			own := *m
			own.Sparse, own.Cut = true, cut
			return &own
		})
	}
}

// cuts are what activation_sparsity_scale says of each layer.
func (s *Spec) cuts() []float32 {
	out := make([]float32, len(s.Layers))
	for i, l := range s.Layers {
		out[i] = float32(math.Inf(-1))
		if m, ok := bodyOf[*MLP](l); ok && m.Sparse {
			out[i] = m.Cut
		}
	}
	return out
}

// gemma3nKV are the keys that llama.cpp's converter writes.
func gemma3nKV(s *Spec) []formats.KV {
	local, window := s.windows()
	a := s.Attention()
	var kv []formats.KV
	put := func(key string, v any) { kv = append(kv, formats.KV{Key: "gemma3n." + key, Value: v}) }
	u := func(key string, v int) { put(key, uint32(v)) }
	u("block_count", len(s.Layers))
	u("context_length", s.MaxPos)
	u("embedding_length", s.C)
	put("feed_forward_length", s.feeds())
	u("attention.head_count", a.H)
	u("attention.head_count_kv", a.K)
	put("rope.freq_base", float32(s.rope().Base))
	put("rope.freq_base_swa", float32(s.Ropes[1].Base))
	put("attention.layer_norm_rms_epsilon", s.Norm.Eps)
	u("attention.key_length", a.D)
	u("attention.value_length", a.D)
	put("final_logit_softcapping", s.LogitCap)
	u("attention.sliding_window", window)
	u("altup.active_idx", s.Layers[0].AltUp.Active)
	u("altup.num_inputs", s.Streams)
	u("embedding_length_per_layer_input", s.Part)
	u("attention.shared_kv_layers", s.shared())
	put("activation_sparsity_scale", s.cuts())
	put("attention.sliding_window_pattern", local)
	return kv
}

// gemma3nConfig is config.json of the half that reads text.
func gemma3nConfig(s *Spec) []formats.KV {
	a, alt := s.Attention(), s.Layers[0].AltUp
	_, act := s.feed()
	sparse := make([]float64, len(s.Layers))
	for i, cut := range s.cuts() {
		if !math.IsInf(float64(cut), -1) {
			sparse[i] = shortFloat(float32(0.5 * math.Erfc(-float64(cut)/math.Sqrt2)))
		}
	}
	laurel, _ := bodyOf[*Laurel](s.Layers[0])
	kv := []formats.KV{
		{Key: "architectures", Value: []string{"Gemma3nForCausalLM"}}, {Key: "model_type", Value: "gemma3n_text"},
		{Key: "hidden_size", Value: s.C}, {Key: "intermediate_size", Value: s.feeds()}, {Key: "num_hidden_layers", Value: len(s.Layers)},
		{Key: "num_attention_heads", Value: a.H}, {Key: "num_key_value_heads", Value: a.K}, {Key: "head_dim", Value: a.D}, {Key: "attention_bias", Value: a.Bias},
		{Key: "hidden_activation", Value: actNames[act]}, {Key: "max_position_embeddings", Value: s.MaxPos}, {Key: "rms_norm_eps", Value: shortFloat(s.Norm.Eps)},
		{Key: "rope_theta", Value: s.rope().Base}, {Key: "rope_local_base_freq", Value: s.Ropes[1].Base}, {Key: "tie_word_embeddings", Value: s.Tied}, {Key: "vocab_size", Value: s.V},
		{Key: "vocab_size_per_layer_input", Value: cmp.Or(s.PartRows, s.V)}, {Key: "hidden_size_per_layer_input", Value: s.Part},
		{Key: "altup_num_inputs", Value: alt.N}, {Key: "altup_active_idx", Value: alt.Active}, {Key: "altup_correct_scale", Value: !alt.Unscaled}, {Key: "laurel_rank", Value: laurel.R},
		{Key: "num_kv_shared_layers", Value: s.shared()}, {Key: "activation_sparsity_pattern", Value: sparse}, {Key: "final_logit_softcapping", Value: nil},
	}
	if s.LogitCap != 0 {
		kv[len(kv)-1].Value = s.LogitCap
	}
	return append(kv, s.windowConfig()...)
}
