package arch

import (
	"cmp"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// granitemoeshared is granitemoe with a feed-forward part for every token beside the
// experts.
var granitemoeshared = Arch{
	Name: "granitemoeshared", HF: []string{"GraniteMoeSharedForCausalLM"}, GGUF: "granitemoe",
	IsGGUF: func(m *Metadata) bool { return m.Int(0, "expert_shared_feed_forward_length") > 0 },
	Spec: func(c *Config) (Spec, error) {
		s, err := granitemoe.Spec(c)
		s.Arch = "granitemoeshared"
		s.besideShared(c.Int(0, "shared_intermediate_size"))
		return s, cmp.Or(err, c.err)
	},
	GGUFSpec: func(m *Metadata) (Spec, error) {
		s, err := granitemoe.GGUFSpec(m)
		s.Arch = "granitemoeshared"
		if e := s.moe(); e != nil {
			e.Shared = 0 // stands by itself
		}
		s.besideShared(m.Int(-1, "expert_shared_feed_forward_length"))
		return s, cmp.Or(err, m.err)
	},
	Rules: graniteRules,
	KV: func(s *Spec) []formats.KV {
		kv := granitemoe.KV(s)
		if f := s.mlp(); f != nil {
			kv = append(kv, formats.KV{Key: "granitemoe.expert_shared_feed_forward_length", Value: uint32(f.F)})
		}
		return kv
	},
	Config: func(s *Spec) []formats.KV {
		kv := granitemoe.Config(s)
		for i := range kv {
			switch kv[i].Key {
			case "architectures":
				kv[i].Value = []string{"GraniteMoeSharedForCausalLM"}
			case "model_type":
				kv[i].Value = "granitemoeshared"
			}
		}
		f := 0
		if m := s.mlp(); m != nil {
			f = m.F
		}
		return append(kv, formats.KV{Key: "shared_intermediate_size", Value: f})
	},
}

// besideShared puts a feed-forward part of f beside the experts of every layer; 0: none.
func (s *Spec) besideShared(f int) {
	if f == 0 {
		return
	}
	s.rebuild(func(int) bool { return true }, func(old Body) Body {
		e, ok := old.(*MoE)
		if !ok {
			return old
		}
		own := *e
		return besideExperts(&own, &MLP{F: f, Act: cmp.Or(e.Act, kernels.SiLU), Fused: true})
	})
}

// graniteRules lists the tensors of Granites with such a part, which may stand alone.
func graniteRules(s *Spec) []Rule {
	names := usualNames
	names.experts = granitemoeNames
	var gguf []string
	if s.moe() != nil {
		gguf = []string{"ffn_up.", "ffn_up_shexp.", "ffn_down.", "ffn_down_shexp."}
	}
	list := respell(namedRules(s, true, names), []string{".mlp.gate_up_proj", ".shared_mlp.input_linear", ".mlp.down_proj", ".shared_mlp.output_linear"}, nil, gguf)
	for i := range list {
		if r := &list[i]; r.Role == GateUp {
			r.splitGate()
		}
	}
	return list
}
