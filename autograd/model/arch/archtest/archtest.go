// Package archtest lists the reference checkpoints of architectures, and makes
// checkpoints of any size that exist in memory only, for tests and benchmarks.
package archtest

import (
	"encoding/json"
	"fmt"
	"unsafe"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Cases are the folders of golden/arch whose architectures are known: tiny
// checkpoints with what Transformers, PEFT and llama.cpp's converter make of
// them. Each is run, generated from, trained, adapted, merged, quantized and
// converted by the golden tests of autograd/model, autograd/model/arch, lora,
// quant and cmd/tune. A new architecture adds its cases here.
var Cases = []string{
	"llama", "llama-llama3", "llama-linear", "llama-dynamic", "llama-yarn", "llama-bias", "internlm3",
	"qwen2", "qwen2-yarn", "qwen3", "qwen3-moe", "qwen2-moe", "mixtral", "olmo2", "cohere", "gemma2",
	"olmoe", "granite-moe", "gpt-oss", "phimoe", "glm4-moe", "solar-open", "dots1", "exaone-moe", "ernie4-5-moe", "minimax-m2", "hy-v3", "afmoe", "cohere2-moe", "hunyuan-moe", "minicpm3", "mistral4", "dbrx", "llama4", "deepseek32", "glm-moe-dsa", "deepseek4",
	"deepseek2", "deepseek2-lite", "deepseek3", "glm4-moe-lite",
	"starcoder2", "phi", "stablelm", "nemotron", "arcee", "apertus",
	"gpt-neox", "falcon", "falcon-new", "falcon-alibi", "gptj", "mpt", "bloom", "gpt-bigcode", "gpt2", "opt",
	"mistral", "mistral-nemo", "ministral", "ministral3", "mistral3", "seed-oss", "smollm3", "hunyuan-dense", "granite",
	"gemma", "gemma3", "vaultgemma", "gemma3n", "gemma4-cond", "gemma4", "gemma4-moe", "cohere-qknorm", "cohere2", "exaone4", "glm4", "phi3", "phi3-longrope", "olmo", "olmo3", "ernie4-5", "qwen2-vl",
	"lfm2", "lfm2-moe", "qwen3-next", "qwen3-5", "qwen3-5-cond", "qwen3-5-moe", "olmo-hybrid", "kimi-linear", "mamba2", "jamba", "falcon-h1", "nemotron-h", "nemotron-h-moe", "granite-hybrid-dense", "granite-hybrid",
	"t5", "flan-t5", "mt5", "t5gemma2",
}

// Noise is the largest difference of a case's logits between float32 and float64, as
// its golden.json states it: all of the model in float64, or where that could not be
// run all but the casts of the library.
func Noise(golden []byte) (float64, error) {
	var g map[string]any
	if err := json.Unmarshal(golden, &g); err != nil {
		return 0, err
	}
	for _, key := range []string{"noise_float64_throughout", "noise_float64_library"} {
		if v, ok := g[key].(float64); ok && v > 0 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("golden.json states no noise")
}

// Dims are the sizes of a made-up Llama.
type Dims struct {
	C, V, Layers, H, K, D, F int
	Tied                     bool // the head is the embedding
}

// SmolLM2 are the sizes of SmolLM2-135M.
var SmolLM2 = Dims{C: 576, V: 49152, Layers: 30, H: 9, K: 3, D: 64, F: 1536, Tied: true}

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

// add stores the values of fill under a name.
func (m *memory) add(name string, fill func(n int) []float32, shape ...int64) {
	n := 1
	for _, d := range shape {
		n *= int(d)
	}
	v := fill(n)
	m.tensors = append(m.tensors, formats.Tensor{Name: name, Shape: shape, Type: dtype.Of(dtype.F32)})
	m.data[name] = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*n)
}

// Llama is a checkpoint of the given sizes in float32; fill makes the n values
// of a tensor, in the order of a model's parameters.
func Llama(s Dims, fill func(n int) []float32) (*arch.Source, error) {
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": s.C, "vocab_size": s.V,
		"num_hidden_layers": s.Layers, "num_attention_heads": s.H, "num_key_value_heads": s.K, "head_dim": s.D,
		"intermediate_size": s.F, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu",
		"rope_theta": 10000.0, "tie_word_embeddings": s.Tied,
	})
	if err != nil {
		return nil, err
	}
	m := &memory{config: config, data: map[string][]byte{}}
	c, q, kv, f := int64(s.C), int64(s.H*s.D), int64(s.K*s.D), int64(s.F)
	m.add("model.embed_tokens.weight", fill, int64(s.V), c)
	for i := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		m.add(p+"input_layernorm.weight", fill, c)
		m.add(p+"self_attn.q_proj.weight", fill, q, c)
		m.add(p+"self_attn.k_proj.weight", fill, kv, c)
		m.add(p+"self_attn.v_proj.weight", fill, kv, c)
		m.add(p+"self_attn.o_proj.weight", fill, c, q)
		m.add(p+"post_attention_layernorm.weight", fill, c)
		m.add(p+"mlp.gate_proj.weight", fill, f, c)
		m.add(p+"mlp.up_proj.weight", fill, f, c)
		m.add(p+"mlp.down_proj.weight", fill, c, f)
	}
	m.add("model.norm.weight", fill, c)
	if !s.Tied {
		m.add("lm_head.weight", fill, int64(s.V), c)
	}
	return arch.FromReader(m)
}
