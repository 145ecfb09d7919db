package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

// How files state a RopeSpec: config.json of both generations of Transformers,
// and the keys of GGUF as llama.cpp understands them.

// Rope reads rope_parameters (Transformers 5) or rope_theta and rope_scaling,
// for heads of which dim elements rotate.
func (c *Config) Rope(dim, maxPos int) RopeSpec {
	c.wholeHeads()
	if s := c.ropeRule(); s != nil {
		s.wholeHeads()
		if s.err != nil && c.err == nil {
			c.err = s.err
		}
	}
	return c.rope(dim, maxPos)
}

// partRope is Rope for heads of d elements of which the share that
// partial_rotary_factor states rotates, beside the rule or in it; share where it
// is absent.
func (c *Config) partRope(d, maxPos int, share float64) RopeSpec {
	const key = "partial_rotary_factor"
	beside := c.has(key)
	share = c.Float(share, key)
	if s := c.ropeRule(); s != nil && s.has(key) {
		in := s.Float(share, key)
		if beside && in != share {
			c.fail(key, "is %g, but %g in the scaling rule; remove one", share, in)
		}
		share = in
		if s.err != nil && c.err == nil {
			c.err = s.err
		}
	}
	if !(share > 0 && share <= 1) {
		c.fail(key, "is %g, allowed 0 to 1", share)
		return RopeSpec{}
	}
	return c.rope(int(float64(d)*share), maxPos)
}

// ropePair reads the tables of layers that see everything and of those with a
// window: rope_parameters with a rule for each, or one rule for the former and
// local for the base of the latter, which then rotate plainly. d is the head size.
func (c *Config) ropePair(d, maxPos int, local float64) []RopeSpec {
	kinds, _ := get[map[string]json.RawMessage](c, "rope_parameters")
	if kinds["full_attention"] == nil && kinds["sliding_attention"] == nil {
		if len(kinds) > 0 {
			c.fail("rope_parameters", "has no rule for full_attention or sliding_attention, without which Transformers takes none of it; give each kind of layer its own")
		}
		return []RopeSpec{c.Rope(d, maxPos), {Dim: d, Base: local, MaxPos: maxPos}}
	}
	for _, key := range []string{"rope_scaling", "rope_local_base_freq"} {
		if c.has(key) {
			c.fail(key, "stands beside rope_parameters with a rule for each kind of layer; keep the one that the model was trained with")
		}
	}
	one := func(kind, base string) RopeSpec {
		k := c.within(map[string]json.RawMessage{"default_theta": json.RawMessage(base)})
		if rule := kinds[kind]; rule != nil {
			k.raw["rope_parameters"] = rule
		}
		r := k.Rope(d, maxPos)
		if r.NoTruncate {
			k.lack("rope_parameters", "%s has truncate: false, which Transformers does not read there; remove it", kind)
		}
		return r
	}
	base := c.Float(10000, "default_theta")
	full := one("full_attention", fmt.Sprint(base))
	if c.has("rope_theta") && full.Base != c.Float(0, "rope_theta") {
		c.fail("rope_theta", "is %s, but %g in rope_parameters; remove one", c.raw["rope_theta"], full.Base)
	}
	return []RopeSpec{full, one("sliding_attention", fmt.Sprint(local))}
}

// rope is Rope for dim elements.
func (c *Config) rope(dim, maxPos int) RopeSpec {
	r := RopeSpec{Dim: dim, Base: c.Float(c.Float(10000, "default_theta"), "rope_theta"), MaxPos: maxPos}
	s := c.ropeRule()
	if s == nil {
		return r
	}
	r.Base = s.Float(r.Base, "rope_theta")
	if c.has("rope_theta") && r.Base != c.Float(0, "rope_theta") {
		c.fail("rope_theta", "is %s, but %g beside the scaling rule; remove one", c.raw["rope_theta"], r.Base)
	}
	if r.Type = s.String("default", "rope_type", "type"); r.Type != s.String(r.Type, "type") {
		c.fail("rope_type", "is %q, but type is %s; remove one", r.Type, s.raw["type"])
	}
	if r.Type == "default" {
		r.Type = ""
	}
	byLength := r.Type == "yarn" || r.Type == "longrope" || r.Type == "su"
	const orig = "original_max_position_embeddings"
	if r.OrigMax = s.Int(c.Int(maxPos, orig), orig); byLength || r.Type == "llama3" { // the one beside the rule goes first, as in Transformers
		r.OrigMax = c.Int(r.OrigMax, orig)
	}
	r.Factor = s.Float(0, "factor")
	if !s.has("factor") && byLength && r.OrigMax > 0 {
		r.Factor = float64(maxPos) / float64(r.OrigMax)
	}
	r.LowFreq, r.HighFreq = s.Float(0, "low_freq_factor"), s.Float(0, "high_freq_factor")
	if byLength {
		r.AttnFactor = s.Float(0, "attention_factor")
	}
	r.Short, _ = get[[]float64](s, "short_factor")
	r.Long, _ = get[[]float64](s, "long_factor")
	r.BetaFast, r.BetaSlow = s.Float(0, "beta_fast"), s.Float(0, "beta_slow")
	r.MScale, r.MScaleAll = s.Float(0, "mscale"), s.Float(0, "mscale_all_dim")
	r.NoTruncate = !s.Bool(true, "truncate")
	if s.err != nil && c.err == nil {
		c.err = s.err
	}
	return r
}

// ropeRule is the object that states the scaling, nil where there is none. Like
// Transformers it goes by the one that is not empty; two that differ are refused.
func (c *Config) ropeRule() *Config {
	old, _ := get[map[string]json.RawMessage](c, "rope_scaling")
	rule, _ := get[map[string]json.RawMessage](c, "rope_parameters")
	if len(old) > 0 && len(rule) > 0 && !maps.EqualFunc(plainRule(old), plainRule(rule), sameJSON) {
		c.fail("rope_scaling", "differs from rope_parameters; keep the one that the model was trained with")
	}
	if len(rule) == 0 {
		rule = old
	}
	if len(rule) == 0 {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(rule)) {
		if text := bytes.TrimSpace(rule[key]); len(text) > 0 && text[0] == '{' {
			c.lack("rope_parameters", "%s is %.40s, which rope of this architecture does not have", key, text)
		}
	}
	return c.within(rule)
}

// plainRule is a rule in the newer spelling, without the base, which may stand
// beside it.
func plainRule(rule map[string]json.RawMessage) map[string]json.RawMessage {
	rule = maps.Clone(rule)
	if _, ok := rule["rope_type"]; !ok {
		rule["rope_type"] = rule["type"]
	}
	delete(rule, "type")
	delete(rule, "rope_theta")
	return rule
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// has reports a key that is there and not null.
func (c *Config) has(key string) bool {
	raw, ok := c.raw[key]
	return ok && string(raw) != "null"
}

// wholeHeads refuses heads of which only a part rotates.
func (c *Config) wholeHeads() {
	if f := c.Float(1, "partial_rotary_factor"); f != 1 {
		c.lack("partial_rotary_factor", "is %g; heads of this architecture rotate as a whole", f)
	}
}

// Rope reads <prefix>.rope.* and the rope_freqs tensor; heads have d elements.
// As in llama.cpp a factor without a type is linear, and attn_factor multiplies
// what the type has.
func (m *Metadata) Rope(d, maxPos int) RopeSpec {
	r := RopeSpec{Dim: m.Int(d, "rope.dimension_count"), Base: m.Float(10000, "rope.freq_base"), MaxPos: maxPos, Factors: m.freqs}
	r.Factor = def(m.Float(m.Float(1, "rope.scale_linear"), "rope.scaling.factor"), 1)
	switch t := m.String("linear", "rope.scaling.type"); {
	case t == "none" || t == "linear" && r.Factor == 1:
		r.Factor = 1
	case t == "linear" || t == "yarn":
		r.Type = t
	default:
		m.lack("rope.scaling.type", "%q is not supported; known: none, linear, yarn", t)
	}
	r.OrigMax = m.Int(maxPos, "rope.scaling.original_context_length")
	if m.long != nil || m.short != nil {
		r.Type, r.Long, r.Short, r.Factor = "longrope", m.long, m.short, float64(maxPos)/float64(max(r.OrigMax, 1))
	}
	if a := m.Float(1, "rope.scaling.attn_factor"); !(a > 0) {
		m.fail("rope.scaling.attn_factor", "is %g, want more than 0", a)
	} else if a != 1 || r.Type == "longrope" {
		r.AttnFactor = a * r.typeScale()
	}
	r.BetaFast, r.BetaSlow = m.Float(0, "rope.scaling.yarn_beta_fast"), m.Float(0, "rope.scaling.yarn_beta_slow")
	if r.Factors != nil && len(r.Factors) != r.Dim/2 && m.err == nil {
		m.err = fmt.Errorf("rope_freqs.weight has %d elements, want %d", len(r.Factors), r.Dim/2)
	}
	return r
}

// table is where the divisors of a GGUF's tensor go; nil: it has none.
func (m *Metadata) table(tensor string) *[]float64 {
	return map[string]*[]float64{ropeFreqs: &m.freqs, ropeShort: &m.short, ropeLong: &m.long}[tensor]
}

// typeScale is the factor on cosines and sines that llama.cpp has for a type.
func (r RopeSpec) typeScale() float64 {
	if r.Type == "yarn" {
		return mscale(r.Factor, 1)
	}
	return 1
}

// ggufScaling are the keys of the rule below prefix p; see checkGGUF.
func (r RopeSpec) ggufScaling(p string) (kv []formats.KV) {
	put := func(key string, v any) { kv = append(kv, formats.KV{Key: p + ".rope.scaling." + key, Value: v}) }
	if r.Type == "linear" || r.Type == "yarn" {
		put("type", r.Type)
		put("factor", float32(r.Factor))
	}
	if r.Type == "yarn" || r.Type == "longrope" {
		put("original_context_length", uint32(r.OrigMax))
	}
	if r.Type == "yarn" {
		if r.BetaFast != 0 {
			put("yarn_beta_fast", float32(r.BetaFast))
		}
		if r.BetaSlow != 0 {
			put("yarn_beta_slow", float32(r.BetaSlow))
		}
	}
	if r.Dim > 0 {
		if _, scale := r.Angles(0); float32(scale/r.typeScale()) != 1 || r.Type == "longrope" {
			put("attn_factor", float32(scale/r.typeScale()))
		}
	}
	return kv
}

// checkGGUF refuses a rule that llama.cpp has no keys for, or has but does not
// read for the Llama family; name is the model's.
func (r RopeSpec) checkGGUF(name string) error {
	const hint = "llama.cpp has no such rule; choose format: safetensors"
	plain := def(r.BetaFast, 32) == 32 && def(r.BetaSlow, 1) == 1
	switch {
	case r.Type == "dynamic":
		return fail.Inputf(name, hint, "dynamic rope scaling cannot be written to GGUF")
	case r.Type == "yarn" && !plain:
		return fail.Inputf(name, hint, "yarn rope scaling with beta_fast %g and beta_slow %g cannot be written to GGUF: llama.cpp computes with 32 and 1", def(r.BetaFast, 32), def(r.BetaSlow, 1))
	case r.Type == "yarn" && r.NoTruncate:
		return fail.Inputf(name, hint, "yarn rope scaling with truncate: false cannot be written to GGUF")
	}
	return nil
}

// checkConfig refuses a rule that config.json cannot state, of heads of d elements;
// part says that it can state how many of them rotate.
func (r RopeSpec) checkConfig(path string, d int, part bool) error {
	const hint = "write a GGUF instead"
	switch {
	case r.Dim != d && !part:
		return fail.Inputf(path, hint, "%d of %d elements of a head rotate, which config.json cannot state for this architecture", r.Dim, d)
	case r.Factors != nil && part && r.proportional():
		return nil
	case r.Factors != nil && (r.Type != "" || llama3FromFactors(r).Type != "llama3"):
		return fail.Inputf(path, hint, "rope_freqs.weight follows no rule that config.json can state")
	case r.Type != "yarn" && r.Type != "longrope" && r.AttnFactor != 0:
		return fail.Inputf(path, hint, "rope.scaling.attn_factor without yarn is nothing that config.json can state")
	}
	return nil
}

// ropeScaling is the rope_scaling object of config.json, nil for plain rotation.
func ropeScaling(r RopeSpec) map[string]any {
	if r.Factors != nil {
		r = llama3FromFactors(r)
	}
	switch r.Type {
	case "linear", "dynamic":
		return map[string]any{"rope_type": r.Type, "factor": r.Factor}
	case "yarn":
		m := map[string]any{"rope_type": r.Type, "factor": r.Factor, "original_max_position_embeddings": r.OrigMax}
		for key, v := range map[string]float64{"attention_factor": r.AttnFactor, "beta_fast": r.BetaFast, "beta_slow": r.BetaSlow, "mscale": r.MScale, "mscale_all_dim": r.MScaleAll} {
			if v != 0 {
				m[key] = v
			}
		}
		if r.NoTruncate {
			m["truncate"] = false
		}
		return m
	case "longrope":
		return r.longScaling()
	case "llama3":
		return map[string]any{"rope_type": r.Type, "factor": r.Factor, "low_freq_factor": r.LowFreq,
			"high_freq_factor": r.HighFreq, "original_max_position_embeddings": r.OrigMax}
	}
	return nil
}

// statePlain adds to config.json of a class that has a rule of its own where none is stated
// that there is none, if so.
func (s *Spec) statePlain(kv []formats.KV) []formats.KV {
	if ropeScaling(s.rope()) != nil {
		return kv
	}
	return append(kv, formats.KV{Key: "rope_parameters", Value: map[string]any{"rope_type": "default", "rope_theta": s.rope().Base}})
}

// longScaling is rope_scaling of a longrope rule; the factor on cosines and sines
// only where it is not what the lengths say.
func (r RopeSpec) longScaling() map[string]any {
	m := map[string]any{"type": "longrope", "long_factor": shortFloats(r.Long), "short_factor": shortFloats(r.Short), "original_max_position_embeddings": r.OrigMax}
	plain := r
	plain.AttnFactor = 0
	_, scale := r.Angles(0)
	if _, usual := plain.Angles(0); float32(scale) != float32(usual) {
		m["attention_factor"] = shortFloat(float32(scale))
	}
	return m
}

func shortFloats(v []float64) []float64 {
	out := make([]float64, len(v))
	for i, f := range v {
		out[i] = shortFloat(float32(f))
	}
	return out
}

// neutral are keys below a prefix that change what models of some families
// compute, and the values with which they do not.
var neutral = map[string][]float64{
	"attention.scale": {0}, "attention.clamp_kqv": {0}, "attention.max_alibi_bias": {0}, "attention.sliding_window": {0}, "attention.causal": {1},
	"attn_logit_softcapping": {0}, "final_logit_softcapping": {0}, "embedding_scale": {0, 1}, "logit_scale": {0, 1}, "residual_scale": {0, 1},
	"expert_gating_func": {0, 1}, "expert_group_count": {0, 1}, "expert_shared_count": {0}, "expert_weights_scale": {0, 1}, "leading_dense_block_count": {0}, "nextn_predict_layers": {0},
	"rope.scaling.yarn_attn_factor": {1}, "rope.scaling.yarn_ext_factor": {-1, 1}, "rope.scaling.yarn_log_multiplier": {0},
	"use_parallel_residual": {0},
}

// refuse is the error about a key that says what the model does not compute: one
// that its family has not read, with a value that matters. a may be nil.
func (m *Metadata) refuse(a *Attention) error {
	for _, key := range slices.Sorted(maps.Keys(neutral)) {
		v, ok := m.kv[m.prefix+"."+key]
		if m.asked[key] {
			continue
		}
		if b, is := v.(bool); is {
			v = map[bool]uint8{true: 1}[b]
		}
		if f, is := number(v); ok && (!is || !slices.Contains(neutral[key], f)) {
			m.lack(key, "is %v, which a model of architecture %s does not have", m.kv[m.prefix+"."+key], m.prefix)
		}
	}
	if a == nil {
		return m.err
	}
	if m.asked["attention.value_length"] {
		return m.err
	}
	if n := m.Int(a.D, "attention.value_length"); n != a.D {
		m.lack("attention.value_length", "is %d, with keys of %d elements; they must be equal", n, a.D)
	}
	if n := m.Int(a.D, "rope.dimension_count"); n != a.D && m.prefix == "llama" {
		m.lack("rope.dimension_count", "is %d, but heads have %d elements; in this architecture they rotate as a whole", n, a.D)
	}
	return m.err
}

// lack is fail for something valid that the program does not do.
func (m *Metadata) lack(key, format string, args ...any) {
	if m.err == nil {
		m.fail(key, format, args...)
		m.err = lack{m.err}
	}
}

func (m *Metadata) fail(key, format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf("%s.%s %s", m.prefix, key, fmt.Sprintf(format, args...))
	}
}
