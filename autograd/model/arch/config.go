package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Config reads config.json. The first missing or mistyped key sticks as err.
type Config struct {
	raw   map[string]json.RawMessage
	err   error
	whole *Config // of which this is a part
	notes []string
}

func parseConfig(data []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(formats.FiniteJSON(data), &c.raw); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

func (c *Config) fail(key, format string, args ...any) {
	c.set(describe(key, format, args))
}

func describe(key, format string, args []any) error {
	return fmt.Errorf("config.json: %s: %s", key, fmt.Sprintf(format, args...))
}

// within is a part of c's file, whose errors are c's.
func (c *Config) within(raw map[string]json.RawMessage) *Config { return &Config{raw: raw, whole: c} }

// set keeps the first error, of a part of a config also in the whole.
func (c *Config) set(err error) {
	for ; c != nil; c = c.whole {
		c.err = cmp.Or(c.err, err)
	}
}

// lack is fail for something valid that the program does not do.
func (c *Config) lack(key, format string, args ...any) {
	c.set(lack{describe(key, format, args)})
}

// lack is an error about a model that there is nothing wrong with.
type lack struct{ error }

// Is makes it one of ErrUnknown.
func (lack) Is(target error) bool { return target == ErrUnknown }

// get decodes the first of keys that is present and not null.
func get[T any](c *Config, keys ...string) (v T, ok bool) {
	for _, k := range keys {
		raw, has := c.raw[k]
		if !has || string(raw) == "null" {
			continue
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			c.fail(k, "found %.40s, expected %s", raw, fail.Expected(reflect.TypeFor[T]()))
		}
		return v, true
	}
	return v, false
}

// assume gives keys that are absent the values that the class of a family has
// for them in Transformers. An explicit null stays one.
func (c *Config) assume(defaults map[string]string) {
	for key, value := range defaults {
		if _, has := c.raw[key]; !has {
			c.raw[key] = json.RawMessage(value)
		}
	}
}

// assumeRule is assume for the rule of rotation, in whose place null is none, too.
func (c *Config) assumeRule(rule string) {
	if !c.has("rope_parameters") && !c.has("rope_scaling") {
		c.raw["rope_parameters"] = json.RawMessage(rule)
	}
}

// rename gives a key that is absent the value of another name of it.
func (c *Config) rename(old, key string) {
	if raw, has := c.raw[old]; has && c.raw[key] == nil {
		c.raw[key] = raw
	}
}

// factorKeys are those of factors. A Spec says by 0 that there is none, so that 0 itself,
// with which nothing would be left, is refused.
var factorKeys = strings.Fields(`attention_in_multiplier attention_multiplier attention_out_multiplier attn_logit_softcapping embedding_multiplier final_logit_softcapping key_multiplier
	lm_head_multiplier logit_scale logits_scaling residual_multiplier route_scale routed_scaling_factor router_scaling_factor scale_depth scale_emb ssm_in_multiplier ssm_out_multiplier`)

// noZeroFactors refuses factors of 0.
func (c *Config) noZeroFactors() error {
	for _, key := range factorKeys {
		if v, ok := get[any](c, key); ok && v == 0.0 {
			c.lack(key, "is 0, with which nothing would be left")
		}
	}
	return c.err
}

// clip is where queries, keys and values are cut off, 0 where they are not.
func (c *Config) clip() float32 {
	v := c.Float(0, "clip_qkv")
	if c.has("clip_qkv") && !(v > 0) {
		c.lack("clip_qkv", "is %g, with which nothing would be left", v)
	}
	return float32(v)
}

// aliases are by model_type further names of keys, as Transformers sets one by the other.
var aliases = map[string]map[string]string{
	"dbrx":              {"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers", "max_position_embeddings": "max_seq_len"},
	"deepseek_v2":       {"num_experts": "n_routed_experts"},
	"deepseek_v3":       {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
	"deepseek_v32":      {"num_local_experts": "n_routed_experts"},
	"deepseek_v4":       {"num_local_experts": "n_routed_experts", "intermediate_size": "moe_intermediate_size"},
	"dots1":             {"num_local_experts": "n_routed_experts"},
	"ernie4_5_moe":      {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
	"glm4_moe":          {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
	"glm4_moe_lite":     {"num_local_experts": "n_routed_experts"},
	"glm_moe_dsa":       {"num_local_experts": "n_routed_experts"},
	"gpt2":              {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
	"gpt_bigcode":       {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
	"gpt_oss":           {"num_experts": "num_local_experts"},
	"gptj":              {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
	"granitemoehybrid":  {"layers_block_type": "layer_types"},
	"hunyuan_v1_moe":    {"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"},
	"hy_v3":             {"num_local_experts": "num_experts"},
	"internlm3":         {"qkv_bias": "attention_bias", "bias": "mlp_bias"},
	"jamba":             {"num_local_experts": "num_experts"},
	"kimi_linear":       {"max_position_embeddings": "model_max_length", "norm_topk_prob": "moe_renormalize", "n_group": "num_expert_group", "num_local_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token", "n_shared_experts": "num_shared_experts"},
	"minimax_m2":        {"num_experts": "num_local_experts"},
	"mistral4":          {"num_local_experts": "n_routed_experts"},
	"mixtral":           {"num_experts": "num_local_experts"},
	"mpt":               {"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"},
	"mt5":               {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
	"nemotron_h":        {"num_local_experts": "n_routed_experts"},
	"olmoe":             {"num_local_experts": "num_experts"},
	"qwen3_moe":         {"num_experts": "num_local_experts"},
	"qwen3_vl_moe_text": {"num_local_experts": "num_experts"},
	"solar_open":        {"num_local_experts": "n_routed_experts"},
	"umt5":              {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
	"t5":                {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv"},
}

// resolve gives keys that are absent the values of their further names, and refuses
// two that differ.
func (c *Config) resolve() error {
	names := aliases[c.String("", "model_type")]
	for _, alias := range slices.Sorted(maps.Keys(names)) {
		key := names[alias]
		if c.has(alias) && c.has(key) && !sameJSON(c.raw[alias], c.raw[key]) {
			c.fail(alias, "is %s, but %s, which it is another name of, is %s; remove one", c.raw[alias], key, c.raw[key])
		} else if c.has(alias) {
			c.raw[key] = c.raw[alias]
		}
	}
	return c.err
}

// text is what is said about the half of a larger model that reads text, or c
// where the model is that half alone. Whether it is tied is said of the whole.
func (c *Config) text() *Config {
	inner, ok := get[map[string]json.RawMessage](c, "text_config")
	if !ok {
		return c
	}
	t := &Config{raw: map[string]json.RawMessage{}, err: c.err}
	maps.Copy(t.raw, inner)
	if tied, has := c.raw["tie_word_embeddings"]; has {
		t.raw["tie_word_embeddings"] = tied
	}
	return t
}

// windowed says which of n layers attend to a window: those that layer_types
// calls sliding, or where it is absent those for which local says so.
func (c *Config) windowed(n int, local func(layer int) bool) []bool {
	if n < 0 || n > maxLayers { // as decoderSpec reports
		return nil
	}
	types, ok := get[[]string](c, "layer_types")
	if ok && len(types) != n {
		c.fail("layer_types", "has %d layers, the model %d", len(types), n)
		return nil
	}
	out := make([]bool, n)
	for i := range out {
		switch {
		case !ok:
			out[i] = local(i)
		case types[i] == "sliding_attention":
			out[i] = true
		case types[i] != "full_attention":
			c.lack("layer_types", "layer %d is %q; known: full_attention, sliding_attention", i, types[i])
		}
	}
	return out
}

// lastFull are layers of which the last of every n sees everything, the others
// a window; n below 1: all see everything.
func lastFull(n int) func(layer int) bool {
	return func(layer int) bool { return n > 0 && (layer+1)%n != 0 }
}

// window is the size of the windows that layers have; 0 where none has one.
func (c *Config) window(local []bool) int {
	if !slices.Contains(local, true) {
		return 0
	}
	n := c.Int(0, "sliding_window")
	if n < 1 {
		c.fail("sliding_window", "is %d or missing, but some layers attend to a window", n)
	}
	return n
}

// slide is the window of all layers, 0 where sliding_window is missing or null. Stated
// as 0 it is no window: the masks of Transformers then hide every token.
func (c *Config) slide() int {
	n := c.Int(0, "sliding_window")
	if c.has("sliding_window") && n < 1 {
		c.fail("sliding_window", "is %d, a window in which there is nothing; null is none", n)
	}
	return n
}

// Int returns an integer key, or d when it is absent; d < 0 makes it required.
func (c *Config) Int(d int, keys ...string) int {
	v, ok := get[float64](c, keys...)
	if !ok {
		if d < 0 {
			c.fail(keys[0], "missing")
		}
		return d
	}
	if v != math.Trunc(v) || math.Abs(v) > 1<<40 {
		c.fail(keys[0], "found %g, want an integer", v)
	}
	return int(v)
}

// pythonFloat is a number that may be infinite: {"__float__": "Infinity"}.
type pythonFloat float64

// UnmarshalJSON reads a number or the object that stands for one.
func (f *pythonFloat) UnmarshalJSON(b []byte) error {
	var x struct {
		Float string `json:"__float__"`
	}
	if err := json.Unmarshal(b, (*float64)(f)); err == nil {
		return nil
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(x.Float, 64)
	*f = pythonFloat(v)
	return err
}

// Float returns a number, or d when it is absent.
func (c *Config) Float(d float64, keys ...string) float64 {
	if v, ok := get[float64](c, keys...); ok {
		return v
	}
	return d
}

// Bool returns a flag, or d when it is absent. Null is no, as where Python asks.
func (c *Config) Bool(d bool, keys ...string) bool {
	if v, ok := get[bool](c, keys...); ok {
		return v
	}
	return d && !slices.ContainsFunc(keys, c.stated)
}

// String returns a string, or d when it is absent.
func (c *Config) String(d string, keys ...string) string {
	if v, ok := get[string](c, keys...); ok {
		return v
	}
	return d
}

// Act returns the feed-forward activation.
func (c *Config) Act(keys ...string) kernels.ActKind {
	return c.act(c.String("silu", keys...), keys[0])
}

// act is the activation that key calls name.
func (c *Config) act(name, key string) kernels.ActKind {
	switch name {
	case "silu", "swish":
		return kernels.SiLU
	case "gelu":
		return kernels.GELU
	case "gelu_pytorch_tanh", "gelu_new", "gelu_fast":
		return kernels.GELUTanh
	case "relu":
		return kernels.ReLU
	case "relu2":
		return kernels.ReLU2
	default:
		c.lack(key, "activation %q is not supported; known: silu, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, relu, relu2", name)
	}
	return kernels.SiLU
}

// Metadata reads GGUF keys below an architecture's prefix.
type Metadata struct {
	prefix string
	kv     map[string]any
	shapes map[string][]int64 // tensors present, by GGUF name
	freqs  []float64          // rope_freqs.weight
	// rope_factors_short.weight, rope_factors_long.weight
	short, long []float64
	asked       map[string]bool // keys that were read
	err         error
}

func newMetadata(prefix string, kvs []formats.KV) *Metadata {
	m := &Metadata{prefix: prefix, kv: map[string]any{}, shapes: map[string][]int64{}, asked: map[string]bool{}}
	for _, kv := range kvs {
		m.kv[kv.Key] = kv.Value
	}
	return m
}

func number(v any) (float64, bool) {
	switch x := v.(type) {
	case uint8:
		return float64(x), true
	case int8:
		return float64(x), true
	case uint16:
		return float64(x), true
	case int16:
		return float64(x), true
	case uint32:
		return float64(x), true
	case int32:
		return float64(x), true
	case uint64:
		return float64(x), true
	case int64:
		return float64(x), true
	case float32:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}

// Float returns a numeric key below the prefix; d when absent.
func (m *Metadata) Float(d float64, key string) float64 {
	m.asked[key] = true
	v, ok := m.kv[m.prefix+"."+key]
	if !ok {
		return d
	}
	f, ok := number(v)
	if !ok && m.err == nil {
		m.err = fmt.Errorf("%s.%s: found %T, want a number", m.prefix, key, v)
	}
	return f
}

// eps is the epsilon of the norms, which every architecture of GGUF must give.
func (m *Metadata) eps() float32 {
	const rms, mean = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
	key := rms
	if _, ok := m.kv[m.prefix+"."+rms]; !ok {
		key = mean
	}
	_, ok := m.kv[m.prefix+"."+key]
	v := m.Float(0, key)
	switch {
	case m.err != nil:
	case !ok:
		m.err = fmt.Errorf("%s.%s (or %s, of norms that take the mean away): missing", m.prefix, rms, mean)
	case !(v >= 0 && v < 1):
		m.err = fmt.Errorf("%s.%s is %v, want a number from 0 to below 1", m.prefix, key, v)
	}
	return float32(v)
}

// Int is Float for integers; d < 0 makes the key required.
func (m *Metadata) Int(d int, key string) int {
	f := m.Float(math.NaN(), key)
	if math.IsNaN(f) {
		if d < 0 && m.err == nil {
			m.err = fmt.Errorf("%s.%s: missing", m.prefix, key)
		}
		return d
	}
	if math.Abs(f) > 1<<40 {
		return -1
	}
	return int(f)
}

// ints is a list of whole numbers in a GGUF.
func ints(v any) ([]int, bool) {
	switch x := v.(type) {
	case []int8:
		return whole(x), true
	case []uint8:
		return whole(x), true
	case []int16:
		return whole(x), true
	case []uint16:
		return whole(x), true
	case []int32:
		return whole(x), true
	case []uint32:
		return whole(x), true
	case []int64:
		return whole(x), true
	case []uint64:
		return whole(x), true
	}
	return nil, false
}

func whole[T int8 | uint8 | int16 | uint16 | int32 | uint32 | int64 | uint64](x []T) []int {
	out := make([]int, len(x))
	for i, v := range x {
		out[i] = int(v)
	}
	return out
}

// perLayer reads a key that states one number, or one for each of n layers; d
// when absent, d < 0 makes it required.
func (m *Metadata) perLayer(d, n int, key string) []int {
	list, ok := ints(m.kv[m.prefix+"."+key])
	m.asked[key] = true
	if ok && len(list) != n {
		m.fail(key, "has %d entries for %d layers", len(list), n)
	}
	if ok {
		return append(list, make([]int, n)...)[:n]
	}
	return slices.Repeat([]int{m.Int(d, key)}, n)
}

// apart reads a key that may state a number for each layer, and leaves that of one
// layer (-1: the last) in its place for who asks for one number; nil where it states
// one.
func (m *Metadata) apart(key string, layer int) []int {
	list, ok := ints(m.kv[m.prefix+"."+key])
	if !ok || len(list) == 0 {
		return nil
	}
	if layer < 0 {
		layer += len(list)
	}
	m.kv[m.prefix+"."+key] = int64(list[layer])
	return list
}

// String returns a string key below the prefix; d when absent.
func (m *Metadata) String(d, key string) string {
	if s, ok := m.kv[m.prefix+"."+key].(string); ok {
		return s
	}
	return d
}

// Bool returns a flag below the prefix; d when absent.
func (m *Metadata) Bool(d bool, key string) bool {
	m.asked[key] = true
	v, ok := m.kv[m.prefix+"."+key]
	if !ok {
		return d
	}
	b, ok := v.(bool)
	if !ok && m.err == nil {
		m.err = fmt.Errorf("%s.%s: found %T, want a flag", m.prefix, key, v)
	}
	return b
}

// windowed says which of n layers attend to a window: as the list or the period
// in attention.sliding_window_pattern says, whose last layer sees everything, or
// where it is absent as period does.
func (m *Metadata) windowed(n, period int) []bool {
	if n < 0 || n > maxLayers {
		return nil
	}
	const key = "attention.sliding_window_pattern"
	m.asked[key] = true
	list, ok := m.kv[m.prefix+"."+key].([]bool)
	if ok && len(list) != n {
		m.fail(key, "has %d layers, the model %d", len(list), n)
		return nil
	}
	if ok {
		return list
	}
	out, local := make([]bool, n), lastFull(m.Int(period, key))
	for i := range out {
		out[i] = local(i)
	}
	return out
}

// Has reports whether the file holds the tensor.
func (m *Metadata) Has(tensor string) bool { _, ok := m.shapes[tensor]; return ok }
