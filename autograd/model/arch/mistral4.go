package arch

import (
	"cmp"
	"encoding/json"

	"github.com/tunekit/tunekit/kernels"
)

// mistral4 is Mistral Small 4: the latent attention of DeepSeek with queries that
// grow with their position, and experts by a softmax over all of them. Its files
// have the experts of a layer in one tensor.
var mistral4 = Arch{
	Name: "mistral4", HF: []string{"Mistral4ForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "1048576", "kv_lora_rank": "256", "q_lora_rank": "1024", "qk_nope_head_dim": "64", "qk_rope_head_dim": "64", "v_head_dim": "128",
			"intermediate_size": "12288", "n_routed_experts": "128", "num_experts_per_tok": "4", "n_shared_experts": "1"})
		c.assumeRule(`{"rope_type": "yarn", "rope_theta": 10000, "factor": 128, "original_max_position_embeddings": 8192, "beta_fast": 32, "beta_slow": 1, "mscale_all_dim": 1, "mscale": 1, "llama_4_scaling_beta": 0.1}`)
		c.rotatedShare()
		pairs := kernels.Adjacent
		if !c.Bool(true, "rope_interleave") {
			pairs = kernels.HalfSplit
		}
		s, err := latentSpec(c, "mistral4", pairs)
		if err != nil {
			return s, err
		}
		if rule := c.ropeRule(); rule != nil {
			if beta := rule.Float(0, "llama_4_scaling_beta"); beta != 0 {
				s.Temperature, s.mla().Temperature = Temperature{Beta: float32(beta), Every: s.rope().OrigMax}, true
			}
		}
		s.withExperts(c.latentExperts(kernels.RouteArgs{Best2: true, Eps: biasedSigmoid.Eps}), c.sparseLayers(0))
		return s, cmp.Or(err, c.err)
	},
	Rules: func(s *Spec) []Rule {
		names := usualNames
		names.experts.gate, names.experts.up, names.experts.down = "mlp.experts.gate_up_proj", "", "mlp.experts.down_proj"
		return namedRules(s, false, names)
	},
}

// rotatedShare takes partial_rotary_factor out of the rule of latent attention, of
// whose heads as much rotates as their sizes say.
func (c *Config) rotatedShare() {
	const key = "partial_rotary_factor"
	rule, _ := get[map[string]json.RawMessage](c, "rope_parameters")
	if rule[key] == nil {
		return
	}
	rot, nope := c.Int(-1, "qk_rope_head_dim"), c.Int(-1, "qk_nope_head_dim")
	f := c.within(rule).Float(0, key)
	if n := int(float64(rot+nope) * f); n != rot {
		c.fail(key, "is %g, of heads of which %d of %d elements rotate", f, rot, rot+nope)
	}
	delete(rule, key)
	if raw, err := json.Marshal(rule); err == nil {
		c.raw["rope_parameters"] = raw
	}
}
