package lora

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
)

// twoLayers is a model of two layers, an embedding and a head.
func twoLayers() []Module {
	var out []Module
	add := func(m Module) {
		m.index = len(out)
		out = append(out, m)
	}
	for i := range 2 {
		for _, p := range []string{"self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"} {
			add(Module{Path: fmt.Sprintf("model.layers.%d.%s", i, p)})
		}
	}
	add(Module{Path: "model.embed_tokens", Kind: EmbeddingModule})
	add(Module{Path: "lm_head", Head: true})
	return out
}

// parse reads a lora section as a recipe has it.
func parse(t *testing.T, text string) Config {
	t.Helper()
	var c Config
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// TestMatch: which modules get an adapter. The cases follow PEFT's
// check_target_module_exists; chosen modules are written 0.q for
// model.layers.0.self_attn.q_proj.
func TestMatch(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"{}", "0.q 0.v 0.d 1.q 1.v 1.d"},
		{"{target_modules: all-linear}", "0.q 0.v 0.d 1.q 1.v 1.d"},
		{"{target_modules: ALL-LINEAR}", "0.q 0.v 0.d 1.q 1.v 1.d"},
		{"{target_modules: [q_proj]}", "0.q 1.q"},
		{"{target_modules: [self_attn.q_proj, down_proj]}", "0.q 0.d 1.q 1.d"},
		{"{target_modules: [q_proj, lm_head]}", "0.q 1.q lm_head"},
		{"{target_modules: [model.layers.1.mlp.down_proj]}", "1.d"},
		{`{target_modules: '.*\.[qv]_proj'}`, "0.q 0.v 1.q 1.v"},
		{`{target_modules: 'model\.layers\.1\..*'}`, "1.q 1.v 1.d"},
		{`{target_modules: '.*(?<!v)_proj'}`, "0.q 0.d 1.q 1.d"},
		{"{exclude_modules: [v_proj]}", "0.q 0.d 1.q 1.d"},
		{`{exclude_modules: '.*layers\.0.*'}`, "1.q 1.v 1.d"},
		{"{target_modules: [q_proj, v_proj], layers_to_transform: [1]}", "1.q 1.v"},
		{"{target_modules: [q_proj], layers_to_transform: 0, layers_pattern: layers}", "0.q"},
		// A whole path is taken whatever the layers say (PEFT).
		{"{target_modules: [q_proj, model.layers.0.mlp.down_proj], layers_to_transform: [1]}", "0.d 1.q"},
		{"{layers_to_transform: [0]}", "0.q 0.v 0.d"},
	} {
		conf, err := parse(t, c.config).Resolve()
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
			continue
		}
		got, err := Match(conf, twoLayers())
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
			continue
		}
		var names []string
		for _, m := range got {
			short := m.Path
			if parts := strings.Split(m.Path, "."); len(parts) == 5 {
				short = parts[2] + "." + parts[4][:1]
			}
			names = append(names, short)
		}
		if s := strings.Join(names, " "); s != c.want {
			t.Errorf("%s: chose %s, want %s", c.config, s, c.want)
		}
	}
}

// TestConfigErrors: every impossible setting is refused by the name of its key.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct{ config, key, text string }{
		{"{target_modules: [q_proj, z_proj]}", "lora.target_modules", `"z_proj"`},
		{"{target_modules: 'nothing'}", "lora.target_modules", "nothing"},
		{"{target_modules: '*'}", "lora.target_modules", "regular expression"},
		{"{exclude_modules: [z_proj]}", "lora.exclude_modules", `"z_proj"`},
		{"{exclude_modules: all-linear}", "lora.exclude_modules", "all-linear"},
		{"{exclude_modules: '.*'}", "lora.target_modules", "matches no module"},
		{"{target_modules: [q_proj], layers_to_transform: [0, 7]}", "lora.layers_to_transform", "layer 7"},
		{"{rank_pattern: {z_proj: 4}}", "lora.rank_pattern", `"z_proj"`},
		{"{rank_pattern: {q_proj: 0}}", "lora.rank_pattern", "0"},
		{"{rank_pattern: {q_proj: 1.5}}", "lora.rank_pattern", "1.5"},
		{"{alpha_pattern: {z_proj: 4}}", "lora.alpha_pattern", `"z_proj"`},
		{"{alpha_pattern: {q_proj: -1}}", "lora.alpha_pattern", "-1"},
		// The second entry never counts: the first takes all it could match.
		{"{rank_pattern: {q_proj: 4, 'layers.0.self_attn.q_proj': 2}}", "lora.rank_pattern", `"layers.0.self_attn.q_proj"`},
		{"{r: -1}", "lora.r", "-1"},
		{"{alpha: -2}", "lora.alpha", "-2"},
		{"{dropout: 1}", "lora.dropout", "1"},
		{"{bias: some}", "lora.bias", `"some"`},
		{"{use_dora: true, dropout: 0.1}", "lora.use_dora", "dropout"},
		{"{init_lora_weights: pissa_niter_many}", "lora.init_lora_weights", "pissa"},
		{"{target_parameters: [mlp.experts.down_proj]}", "lora.target_parameters", "target_parameters"},
	} {
		conf, err := parse(t, c.config).Resolve()
		if err == nil {
			_, err = Match(conf, twoLayers())
		}
		var e *fail.Error
		if fail.Code(err) != int(fail.Usage) || !strings.HasPrefix(err.Error(), c.key+":") || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error %v (%T), want one of %s about %s", c.config, err, e, c.key, c.text)
		}
	}
}

// TestRankAlpha: the first matching entry counts, by the end of the path.
func TestRankAlpha(t *testing.T) {
	c, err := parse(t, `{r: 8, alpha: 16, rank_pattern: {'layers.1.mlp.down_proj': 2, down_proj: 6, '.*q_proj': 4}, alpha_pattern: {v_proj: 32}}`).Resolve()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"model.layers.0.self_attn.q_proj":      "4 16",
		"model.layers.0.self_attn.v_proj":      "8 32",
		"model.layers.1.mlp.down_proj":         "2 16",
		"model.layers.0.mlp.down_proj":         "6 16",
		"model.layers.0.mlp.not_the_down_proj": "8 16",
	} {
		r, alpha, err := c.rankAlpha(path)
		if got := fmt.Sprint(r, alpha); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", path, got, err, want)
		}
	}
	c.UseRSLoRA = true
	if got := c.scale(16, 8); got != 2 {
		t.Errorf("rsLoRA scale %v", got)
	}
}

// TestInitial: values depend on seed and name alone and have the stated spread.
func TestInitial(t *testing.T) {
	a, b := initial(InitKaiming, 1, "x", 8, 0, 64, 32)
	again, _ := initial(InitKaiming, 1, "x", 8, 0, 64, 32)
	other, _ := initial(InitKaiming, 1, "y", 8, 0, 64, 32)
	seeded, _ := initial(InitKaiming, 2, "x", 8, 0, 64, 32)
	same := func(x, y []float32) int {
		n := 0
		for i := range x {
			if x[i] == y[i] {
				n++
			}
		}
		return n
	}
	if same(a, again) != len(a) || same(a, other) > 2 || same(a, seeded) > 2 {
		t.Error("values are no function of seed and name")
	}
	var sum, sq, most float64
	for _, v := range a {
		sum, sq, most = sum+float64(v), sq+float64(v)*float64(v), max(most, float64(v), -float64(v))
	}
	n := float64(len(a))
	if most > 0.125 || most < 0.12 || sum/n > 0.01 || sum/n < -0.01 || sq/n < 0.0045 || sq/n > 0.006 {
		t.Errorf("uniform in ±1/8: largest %g, mean %g, mean square %g (want 1/192)", most, sum/n, sq/n)
	}
	for _, v := range b {
		if v != 0 {
			t.Fatal("B is not zero")
		}
	}
	g, _ := initial(InitGaussian, 1, "x", 4, 0, 4096, 32)
	sum, sq = 0, 0
	for _, v := range g {
		sum, sq = sum+float64(v), sq+float64(v)*float64(v)
	}
	n = float64(len(g))
	if m, d := sum/n, sq/n; m > 0.01 || m < -0.01 || d < 0.06 || d > 0.065 {
		t.Errorf("normal of deviation 1/4: mean %g, mean square %g", m, d)
	}
	_, b = initial(InitNonZero, 1, "x", 8, 0, 64, 32)
	if b[0] == 0 && b[1] == 0 {
		t.Error("init_lora_weights false leaves B zero")
	}
}
