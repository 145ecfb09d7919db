package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// t5gemma is an encoder and a decoder of Gemma 2's layers, each with its own embedding:
// the encoder's tokens see each other on both sides, and the decoder has attention to
// what the encoder made as T5's, grouped and with a cap on its scores.
var t5gemma = Arch{
	Name: "t5gemma", HF: []string{"T5GemmaForConditionalGeneration"},
	Spec: func(c *Config) (Spec, error) {
		encoder, err := c.gemmaStack("encoder", &gemma2)
		s, other := c.gemmaStack("decoder", &gemma2)
		if err = cmp.Or(err, other, c.err); err != nil {
			return s, err
		}
		if encoder.C != s.C || encoder.V != s.V || encoder.Norm != s.Norm {
			c.lack("encoder", "is of width %d with %d tokens and epsilon %g, the decoder %d with %d and %g: stacks that differ in these are not supported", encoder.C, encoder.V, encoder.Norm.Eps, s.C, s.V, s.Norm.Eps)
		}
		s.Arch, s.Encoder, s.EncoderEmbed, s.MaxPos = "t5gemma", len(encoder.Layers), true, min(encoder.MaxPos, s.MaxPos)
		s.Tied = c.Bool(true, "tie_word_embeddings")
		writes := c.part("decoder")
		s.Start = int32(c.Int(writes.Int(2, "bos_token_id"), "decoder_start_token_id"))
		if n := writes.Int(encoder.C, "cross_attention_hidden_size"); n != encoder.C {
			writes.fail("cross_attention_hidden_size", "is %d, the encoder's hidden_size %d", n, encoder.C)
		}
		encoder.attend(func(a *Attention) {
			if a.Full = true; a.Window > 0 {
				a.Window, a.Ahead = a.Window+1, a.Window
			}
		})
		s.attend(func(a *Attention) { a.Rope += len(encoder.Ropes) })
		for i, l := range s.Layers {
			a := s.attentions()[i]
			cross := Sublayer{Pre: CrossNorm, Body: &Cross{H: a.H, K: a.K, D: a.D, Scale: a.scale(), SoftCap: a.SoftCap, Bias: a.Bias}, Post: PostCrossNorm}
			s.Layers[i] = &LayerSpec{Sublayers: []Sublayer{l.Sublayers[0], cross, l.Sublayers[1]}}
		}
		s.Layers, s.Ropes = append(encoder.Layers, s.Layers...), append(encoder.Ropes, s.Ropes...)
		return s, c.err
	},
	Rules: func(s *Spec) []Rule {
		const encoder, decoder = "model.encoder.", "model.decoder."
		b := &rules{layer: -1, addOne: true, names: gemmaNames}
		b.matrix(EncoderEmbed, encoder+"embed_tokens", "enc.token_embd", s.V, s.C)
		b.matrix(Embed, decoder+"embed_tokens", "token_embd", s.V, s.C)
		b.gemmaStacks(s, encoder, decoder)
		return b.list
	},
}

// attend lets change each layer's attention.
func (s *Spec) attend(change func(a *Attention)) {
	s.rebuild(func(int) bool { return true }, func(old Body) Body {
		a, ok := old.(*Attention)
		if !ok {
			return old
		}
		own := *a
		change(&own)
		return &own
	})
}

// gemmaStacks adds the layers of an encoder and a decoder, the norms behind them and the
// head; encoder and decoder are what their names begin with.
func (b *rules) gemmaStacks(s *Spec, encoder, decoder string) {
	for i, l := range s.Layers {
		hf, gguf := fmt.Sprintf("%slayers.%d.", encoder, i), fmt.Sprintf("enc.blk.%d.", i)
		if i >= s.Encoder {
			hf, gguf = fmt.Sprintf("%slayers.%d.", decoder, i-s.Encoder), fmt.Sprintf("dec.blk.%d.", i-s.Encoder)
		}
		b.enter(i, hf, gguf)
		for _, sub := range l.Sublayers {
			pre, post := gemmaNames.norms[sub.Pre][1], gemmaNames.norms[sub.Post][1]
			b.norm(sub.Pre, t5gemmaNorms[sub.Pre], pre, s.C)
			switch m := sub.Body.(type) {
			case *Attention:
				b.attention(m, s.C, false)
			case *Cross:
				b.linear(CrossQ, "cross_attn.q_proj", "cross_attn_q", m.H*m.D, s.C, m.Bias, 0)
				b.linear(CrossK, "cross_attn.k_proj", "cross_attn_k", m.K*m.D, s.C, m.Bias, 0)
				b.linear(CrossV, "cross_attn.v_proj", "cross_attn_v", m.K*m.D, s.C, m.Bias, 0)
				b.linear(CrossO, "cross_attn.o_proj", "cross_attn_o", s.C, m.H*m.D, m.Bias, 0)
			case *MLP:
				b.mlp(m, s.C)
			}
			b.norm(sub.Post, t5gemmaNorms[sub.Post], post, s.C)
		}
		if i == s.Encoder-1 {
			b.enter(-1, "", "")
			b.norm(EncoderNorm, encoder+"norm", "enc.output_norm", s.C)
		}
	}
	b.enter(-1, "", "")
	b.norm(FinalNorm, decoder+"norm", "dec.output_norm", s.C)
	b.matrix(Head, "lm_head.out_proj", "output", s.V, s.C).Tied = s.Tied
}

var t5gemmaNorms = map[Role]string{
	AttnNorm: "pre_self_attn_layernorm", PostAttnNorm: "post_self_attn_layernorm", CrossNorm: "pre_cross_attn_layernorm", PostCrossNorm: "post_cross_attn_layernorm", MLPNorm: "pre_feedforward_layernorm", PostMLPNorm: "post_feedforward_layernorm",
}

// part is what is said about a part of a model, or about its half that reads text.
func (c *Config) part(key string) *Config {
	inner, ok := get[map[string]json.RawMessage](c, key)
	if !ok || inner == nil {
		c.fail(key, "missing")
		inner = map[string]json.RawMessage{}
	}
	return c.within(inner)
}

// gemmaStack reads the layers of an encoder or a decoder as those of a family.
func (c *Config) gemmaStack(key string, family *Arch) (Spec, error) {
	p := c.part(key)
	if p.has("text_config") {
		p = p.part("text_config")
	}
	if c.err != nil {
		return Spec{}, c.err
	}
	if family == &gemma3 && p.has("attn_logit_softcapping") {
		p.lack("attn_logit_softcapping", "scores that are cut off are not supported in %s", key)
		return Spec{}, p.err
	}
	s, err := family.Spec(p)
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return s, err
}
