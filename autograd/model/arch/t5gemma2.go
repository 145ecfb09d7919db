package arch

import (
	"cmp"
	"fmt"
)

// t5gemma2 is an encoder and a decoder of Gemma 3's layers: the encoder's tokens see
// each other on both sides, and the decoder's attention has the encoder's keys beside
// its own. Of the encoder's half that sees images nothing is run.
var t5gemma2 = Arch{
	Name: "t5gemma2", HF: []string{"T5Gemma2ForConditionalGeneration"},
	Carried: []string{"model.encoder.vision_tower.", "model.encoder.multi_modal_projector."},
	Spec: func(c *Config) (Spec, error) {
		encoder, err := c.gemmaStack("encoder", &gemma3)
		decoder, other := c.gemmaStack("decoder", &gemma3)
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
		encoder.attend(func(a *Attention) {
			if a.Full = a.Window != 1; a.Window > 0 { // 1: a token sees itself
				a.Window, a.Ahead = (a.Window+1)/2, a.Window/2
			}
		})
		s.attend(func(a *Attention) { a.Memory, a.Rope = true, a.Rope+len(encoder.Ropes) })
		s.Layers, s.Ropes = append(encoder.Layers, s.Layers...), append(encoder.Ropes, s.Ropes...)
		return s, c.err
	},
	Rules: func(s *Spec) []Rule {
		const encoder, decoder = "model.encoder.text_model.", "model.decoder."
		b := &rules{layer: -1, addOne: true, names: gemmaNames}
		b.matrix(Embed, encoder+"embed_tokens", "token_embd", s.V, s.C)
		b.vector(ApartEmbed, encoder+"embed_tokens.eoi_embedding", "eoi_embd", s.C)
		b.gemmaStacks(s, encoder, decoder)
		rename(b.list, encoder, "model.encoder.")
		return b.list
	},
}
