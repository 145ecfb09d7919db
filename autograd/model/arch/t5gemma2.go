package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// t5gemma2 is an encoder and a decoder of Gemma 3's layers: the encoder's tokens see
// each other on both sides, and the decoder's attention has the encoder's keys beside
// its own. Of the encoder's half that sees images nothing is run.
var t5gemma2 = Arch{
	Name: "t5gemma2", HF: []string{"T5Gemma2ForConditionalGeneration"},
	Carried: []string{"model.encoder.vision_tower.", "model.encoder.multi_modal_projector."},
	Spec: func(c *Config) (Spec, error) {
		encoder, err := c.gemmaStack("encoder")
		decoder, other := c.gemmaStack("decoder")
		if err = cmp.Or(err, other, c.err); err != nil {
			return decoder, err
		}
		s := decoder
		if encoder.C != s.C || encoder.V != s.V || encoder.Norm != s.Norm {
			return s, fmt.Errorf("config.json: the encoder has width %d and %d tokens, the decoder %d and %d: they share an embedding", encoder.C, encoder.V, s.C, s.V)
		}
		s.Arch, s.Encoder, s.MaxPos = "t5gemma2", len(encoder.Layers), min(encoder.MaxPos, s.MaxPos)
		s.Tied = c.Bool(true, "tie_word_embeddings")
		reads, writes := c.part("encoder"), c.part("decoder")
		s.Start = int32(c.Int(writes.Int(2, "bos_token_id"), "decoder_start_token_id"))
		s.Apart = []int32{int32(reads.Int(c.Int(256000, "eoi_token_index"), "eoi_token_index"))}
		c.err = cmp.Or(c.err, reads.err, writes.err)
		every := func(int) bool { return true }
		encoder.rebuild(every, func(old Body) Body {
			a, ok := old.(*Attention)
			if !ok {
				return old
			}
			own := *a
			if own.Full = own.Window != 1; own.Window > 0 { // 1: a token sees itself
				own.Window, own.Ahead = (a.Window+1)/2, a.Window/2
			}
			return &own
		})
		tables := len(encoder.Ropes)
		s.rebuild(every, func(old Body) Body {
			a, ok := old.(*Attention)
			if !ok {
				return old
			}
			own := *a
			own.Memory, own.Rope = true, a.Rope+tables
			return &own
		})
		s.Layers, s.Ropes = append(encoder.Layers, s.Layers...), append(encoder.Ropes, s.Ropes...)
		return s, c.err
	},
	Rules: func(s *Spec) []Rule {
		const encoder, decoder = "model.encoder.text_model.", "model.decoder."
		b := &rules{layer: -1, addOne: true, names: gemmaNames}
		b.matrix(Embed, encoder+"embed_tokens", "token_embd", s.V, s.C)
		b.vector(ApartEmbed, encoder+"embed_tokens.eoi_embedding", "eoi_embd", s.C)
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
		rename(b.list, encoder, "model.encoder.")
		return b.list
	},
}

var t5gemmaNorms = map[Role]string{
	AttnNorm: "pre_self_attn_layernorm", PostAttnNorm: "post_self_attn_layernorm", MLPNorm: "pre_feedforward_layernorm", PostMLPNorm: "post_feedforward_layernorm",
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

// gemmaStack reads the layers of an encoder or a decoder as Gemma 3's.
func (c *Config) gemmaStack(key string) (Spec, error) {
	p := c.part(key)
	if p.has("text_config") {
		p = p.part("text_config")
	}
	if c.err != nil {
		return Spec{}, c.err
	}
	if p.has("attn_logit_softcapping") {
		p.lack("attn_logit_softcapping", "scores that are cut off are not supported in %s", key)
		return Spec{}, p.err
	}
	s, err := gemma3.Spec(p)
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return s, err
}
