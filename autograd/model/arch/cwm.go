package arch

// cwm is Code World Model: Llama whose layers, but for the first of every four, attend to
// a window.
var cwm = Arch{
	Name: "cwm", HF: []string{"CwmForCausalLM"},
	Spec: func(c *Config) (Spec, error) {
		c.assume(map[string]string{"max_position_embeddings": "131072", "num_key_value_heads": "8", "head_dim": "128", "rms_norm_eps": "1e-5", "sliding_window": "8192", "default_theta": "1e6"})
		c.assumeRule(`{"rope_type": "llama3", "rope_theta": 1000000.0, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}`)
		local := c.windowed(c.Int(0, "num_hidden_layers"), func(layer int) bool { return layer%4 != 0 })
		size, mlp := c.window(local), c.Bool(false, "mlp_bias")
		s, err := decoderSpec(c, "cwm", func(_ *Attention, m *MLP) { m.Bias = mlp })
		s.narrow(local, size)
		return s, err
	},
	Rules: func(s *Spec) []Rule { return decoderRules(s, true) },
}
