package model

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// memory is a checkpoint that exists in memory only.
type memory struct {
	formats.Reader
	config  []byte
	tensors []formats.Tensor
	data    map[string][]byte
}

func (m *memory) Path() string                           { return "memory" }
func (m *memory) Format() string                         { return "hf" }
func (m *memory) Config() []byte                         { return m.config }
func (m *memory) KV() []formats.KV                       { return nil }
func (m *memory) Tensors() []formats.Tensor              { return m.tensors }
func (m *memory) Read(t *formats.Tensor) ([]byte, error) { return m.data[t.Name], nil }
func (m *memory) Map(t *formats.Tensor) ([]byte, bool)   { return m.data[t.Name], true }
func (m *memory) Close() error                           { return nil }

// dims are the sizes of a made-up Llama.
type dims struct {
	c, v, layers, h, k, d, f int
	tied                     bool
}

var tiny = dims{c: 32, v: 50, layers: 2, h: 4, k: 2, d: 8, f: 40}

// sample is a checkpoint of the given sizes; weights come from fill.
func sample(t testing.TB, s dims, fill func(n int) []float32) *arch.Source {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": s.c, "vocab_size": s.v,
		"num_hidden_layers": s.layers, "num_attention_heads": s.h, "num_key_value_heads": s.k, "head_dim": s.d,
		"intermediate_size": s.f, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu",
		"rope_theta": 10000.0, "tie_word_embeddings": s.tied,
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{config: config, data: map[string][]byte{}}
	add := func(name string, shape ...int64) {
		n := 1
		for _, d := range shape {
			n *= int(d)
		}
		m.tensors = append(m.tensors, formats.Tensor{Name: name, Shape: shape, Type: dtype.Of(dtype.F32)})
		m.data[name] = bytesOf(fill(n))
	}
	c, q, kv, f := int64(s.c), int64(s.h*s.d), int64(s.k*s.d), int64(s.f)
	add("model.embed_tokens.weight", int64(s.v), c)
	for i := range s.layers {
		p := "model.layers." + string(rune('0'+i/10)) + string(rune('0'+i%10)) + "."
		if i < 10 {
			p = "model.layers." + string(rune('0'+i)) + "."
		}
		add(p+"input_layernorm.weight", c)
		add(p+"self_attn.q_proj.weight", q, c)
		add(p+"self_attn.k_proj.weight", kv, c)
		add(p+"self_attn.v_proj.weight", kv, c)
		add(p+"self_attn.o_proj.weight", c, q)
		add(p+"post_attention_layernorm.weight", c)
		add(p+"mlp.gate_proj.weight", f, c)
		add(p+"mlp.up_proj.weight", f, c)
		add(p+"mlp.down_proj.weight", c, f)
	}
	add("model.norm.weight", c)
	if !s.tied {
		add("lm_head.weight", int64(s.v), c)
	}
	src, err := arch.FromReader(m)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// random fills weights so that activations stay of order one.
func random(seed uint64) func(n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(0.2 * r.NormFloat64())
		}
		return v
	}
}

// loadSample loads a made-up model on a fresh CPU backend.
func loadSample(t testing.TB, s dims, o Options) *Model {
	t.Helper()
	m, err := Load(cpu.New(cpu.Options{}), sample(t, s, random(7)), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// tokens draws n token ids.
func tokens(seed uint64, n, v int) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(v))
	}
	return ids
}
