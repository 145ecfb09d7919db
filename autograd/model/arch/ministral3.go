package arch

import (
	"cmp"
	"fmt"
	"maps"

	"github.com/tunekit/tunekit/formats"
)

// ministral3 is Mistral whose queries grow with their position.
var ministral3 = Arch{
	Name: "ministral3", HF: []string{"Ministral3ForCausalLM"}, GGUF: "mistral3",
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "262144", "num_key_value_heads": "8", "head_dim": "128", "rms_norm_eps": "1e-5"})
		c.assumeRule(`{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384,
				"beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}`)
		window := c.Int(0, "sliding_window")
		s, err := decoderSpec(c, "ministral3", func(a *Attention, _ *MLP) { a.Window = window })
		if rule := c.ropeRule(); rule != nil && len(s.Ropes) > 0 {
			s.growing(rule.Float(0, "llama_4_scaling_beta"), s.Ropes[0].OrigMax)
			err = cmp.Or(err, rule.err)
		}
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := decoderGGUF(m)
		s.Arch = "ministral3"
		if a := s.Attention(); a != nil { // one for all layers
			a.Window = m.Int(0, "attention.sliding_window")
		}
		if all := m.Float(0, "rope.scaling.yarn_log_multiplier"); all != 0 && len(s.Ropes) > 0 {
			s.Ropes[0].MScale, s.Ropes[0].MScaleAll = 1, all
		}
		if len(s.Ropes) > 0 {
			s.growing(m.Float(0, "attention.temperature_scale"), s.Ropes[0].OrigMax)
		}
		return s, cmp.Or(err, m.err)
	},
	Rules:  func(s *Spec) []Rule { return decoderRules(s, true) },
	KV:     ministral3KV,
	NoGGUF: noOtherYarn,
	Config: func(s *Spec) []formats.KV {
		kv := decoderConfig(s, "Ministral3ForCausalLM", "ministral3")
		rule := ropeScaling(s.rope())
		if rule == nil {
			rule = map[string]any{"rope_type": "default"}
		}
		rule["rope_theta"], rule["llama_4_scaling_beta"], rule["original_max_position_embeddings"] = s.rope().Base, shortFloat(s.Temperature.Beta), s.rope().OrigMax
		for i := range kv {
			if kv[i].Key == "rope_scaling" || kv[i].Key == "rope_theta" {
				kv[i] = formats.KV{Key: "rope_parameters", Value: rule}
			}
		}
		if n := s.Attention().Window; n > 0 {
			kv = append(kv, formats.KV{Key: "sliding_window", Value: n})
		}
		return kv
	},
}

// mistral3 is a larger model that sees images, too, around a Mistral or a
// Ministral 3. A GGUF holds the latter alone, and is read as one.
var mistral3 = Arch{
	Name: "mistral3", HF: []string{"Mistral3ForConditionalGeneration"}, GGUF: ministral3.GGUF,
	IsGGUF: func(*Metadata) bool { return false },
	Spec: func(c *Config) (Spec, error) {
		t, half := c.text(), &ministral3
		switch kind := t.String("mistral", "model_type"); kind {
		case "ministral3":
		case "mistral":
			half = &mistral
		default:
			t.lack("text_config", "model_type %q is not supported; known: mistral, ministral3", kind)
		}
		s, err := half.Spec(t)
		s.Arch = "mistral3"
		return s, err
	},
	GGUFSpec: ministral3.GGUFSpec,
	Rules: func(s *Spec) []Rule {
		list := namedRules(s, true, wrappedNames(usualNames))
		rename(list, "model.language_model.", "language_model.model.")
		rename(list, "lm_head", "language_model.lm_head")
		return list
	},
	KV:      ministral3KV,
	NoGGUF:  noOtherYarn,
	Config:  ministral3.Config,
	Carried: []string{"vision_tower.", "multi_modal_projector."},
}

// noOtherYarn: the key that makes up for yarn's factor says mscale_all_dim, to an
// mscale of 1.
func noOtherYarn(s *Spec) string {
	if r := s.rope(); r.MScaleAll != 0 && r.MScale != 1 && r.AttnFactor == 0 {
		return fmt.Sprintf("yarn rope scaling with mscale %g and mscale_all_dim %g", r.MScale, r.MScaleAll)
	}
	return ""
}

func ministral3KV(s *Spec) []formats.KV {
	plain := *s // llama.cpp makes up for yarn's factor by the key below
	r := s.rope()
	all := r.MScaleAll
	if r.MScale != 0 && all != 0 {
		r.MScale, r.MScaleAll = 0, 0
		plain.Ropes = []RopeSpec{r}
	}
	kv := decoderKV(&plain, "mistral3")
	if all != 0 {
		kv = append(kv, formats.KV{Key: "mistral3.rope.scaling.yarn_log_multiplier", Value: float32(all)})
	}
	if s.Attention().Temperature {
		kv = append(kv, formats.KV{Key: "mistral3.attention.temperature_scale", Value: s.Temperature.Beta})
	}
	if n := s.Attention().Window; n > 0 {
		kv = append(kv, formats.KV{Key: "mistral3.attention.sliding_window", Value: uint32(n)})
	}
	return kv
}

// growing lets the queries of all layers, which share their attention, grow by
// beta every so many positions.
func (s *Spec) growing(beta float64, every int) {
	if a := s.Attention(); a != nil && beta != 0 {
		s.Temperature, a.Temperature = Temperature{Beta: float32(beta), Every: every}, true
	}
}

// wrappedNames are n as Transformers names the half of a larger model that reads
// text, in memory.
func wrappedNames(n layerNames) layerNames {
	n.layers = "model.language_model.layers.%d."
	n.modules = maps.Clone(n.modules)
	if n.modules == nil {
		n.modules = map[Role][2]string{}
	}
	n.modules[Embed] = [2]string{"model.language_model.embed_tokens", "token_embd"}
	n.modules[FinalNorm] = [2]string{"model.language_model.norm", "output_norm"}
	return n
}
