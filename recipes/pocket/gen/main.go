// Command gen writes what the embedded base "pocket" is pretrained from: a
// tokenizer learned from the generated corpus, an untrained Llama with that
// vocabulary, and the corpus as JSON lines. Everything is a function of the
// seed; `make pocket` runs it and then recipes/pocket.yaml.
//
//	go run ./recipes/pocket/gen -out build/pocket
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"log"
	"math"
	"math/rand/v2"
	"path/filepath"

	"github.com/tunekit/tunekit/data/corpus"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
)

// The shape of pocket: every row length is a multiple of 256, so that all
// block formats fit.
const (
	vocab, hidden, ffn, layers, heads, kvHeads, headDim = 2048, 256, 768, 6, 4, 2, 64
	context                                             = 1024
	seed                                                = 7
)

// Special tokens, in order of their ids.
var special = []string{"<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}

const template = `{% for message in messages %}{{ '<|' + message['role'] + '|>
' + message['content'] + '<|end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% endif %}`

func main() {
	out := flag.String("out", "build/pocket", "folder to write")
	docs := flag.Int("docs", 240_000, "documents of the corpus")
	flag.Parse()
	if err := run(*out, *docs); err != nil {
		log.Fatal(err)
	}
}

func run(out string, docs int) error {
	base := filepath.Join(out, "init")
	if err := atomic.MkdirAll(base); err != nil {
		return err
	}
	if err := writeTokenizer(base); err != nil {
		return err
	}
	if err := writeConfig(base); err != nil {
		return err
	}
	if err := writeWeights(base); err != nil {
		return err
	}
	if err := writeCorpus(filepath.Join(out, "corpus.jsonl"), docs); err != nil {
		return err
	}
	if err := writeTask(filepath.Join(out, "train.parquet"), corpus.Train, 8000); err != nil {
		return err
	}
	return writeTask(filepath.Join(out, "heldout.parquet"), corpus.HeldOut, 160)
}

// writeTask writes rows of the instruction task that the quickstart learns.
func writeTask(path string, part corpus.Split, rows int) error {
	var b bytes.Buffer
	if err := corpus.WriteParquet(&b, corpus.Task(seed, rows, part)); err != nil {
		return err
	}
	return atomic.WriteFile(path, b.Bytes())
}

func texts(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(corpus.Text(seed, i)) {
				return
			}
		}
	}
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomic.WriteFile(path, append(raw, '\n'))
}

func writeTokenizer(dir string) error {
	raw, err := tokenizer.TrainBPE(texts(20_000), vocab, special)
	if err != nil {
		return err
	}
	if err := atomic.WriteFile(filepath.Join(dir, "tokenizer.json"), raw); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "tokenizer_config.json"), map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>",
		"chat_template": template, "model_max_length": context, "clean_up_tokenization_spaces": false,
	})
}

func writeConfig(dir string) error {
	if err := writeJSON(filepath.Join(dir, "generation_config.json"), map[string]any{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "config.json"), map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn,
		"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kvHeads, "head_dim": headDim,
		"hidden_act": "silu", "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"tie_word_embeddings": true, "vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
		"torch_dtype": "bfloat16", "attention_bias": false, "mlp_bias": false,
	})
}

// writeWeights draws every matrix from a normal distribution of deviation
// 0.02, those that write into the residual stream smaller by √(2·layers)
// (GPT-2's rule); norms are one.
func writeWeights(dir string) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	var ts []formats.NamedTensor
	matrix := func(name string, rows, cols int, std float64) {
		raw := make([]byte, 0, 4*rows*cols)
		for range rows * cols {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(std*rng.NormFloat64())))
		}
		ts = append(ts, formats.NamedTensor{Name: name, DType: "F32", Shape: []int64{int64(rows), int64(cols)}, Data: raw})
	}
	ones := func(name string) {
		raw := make([]byte, 0, 4*hidden)
		for range hidden {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(1))
		}
		ts = append(ts, formats.NamedTensor{Name: name, DType: "F32", Shape: []int64{hidden}, Data: raw})
	}
	const std = 0.02
	matrix("model.embed_tokens.weight", vocab, hidden, std)
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		small := std / math.Sqrt(2*layers)
		ones(p + "input_layernorm.weight")
		matrix(p+"self_attn.q_proj.weight", heads*headDim, hidden, std)
		matrix(p+"self_attn.k_proj.weight", kvHeads*headDim, hidden, std)
		matrix(p+"self_attn.v_proj.weight", kvHeads*headDim, hidden, std)
		matrix(p+"self_attn.o_proj.weight", hidden, heads*headDim, small)
		ones(p + "post_attention_layernorm.weight")
		matrix(p+"mlp.gate_proj.weight", ffn, hidden, std)
		matrix(p+"mlp.up_proj.weight", ffn, hidden, std)
		matrix(p+"mlp.down_proj.weight", hidden, ffn, small)
	}
	ones("model.norm.weight")
	return formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), ts, map[string]string{"format": "pt"})
}

func writeCorpus(path string, docs int) error {
	w, err := atomic.Create(path)
	if err != nil {
		return err
	}
	defer w.Abort()
	b := bufio.NewWriter(w)
	for text := range texts(docs) {
		line, err := json.Marshal(map[string]string{"text": text})
		if err != nil {
			return err
		}
		if _, err := b.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return w.Commit()
}
