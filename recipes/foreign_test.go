package recipes_test

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/recipes/stages"
)

// TestForeignFile: a configuration of another program is called what it is, and
// each of its keys is answered in one line, without what a recipe would lack.
func TestForeignFile(t *testing.T) {
	for _, c := range []struct {
		text, what string
		lines      []string
	}{
		{"base_model: a\nload_in_4bit: true\nsequence_len: 4096\nwandb_project:\nlora_r: 32\nseed: 3\nlearning_rate: 1e-4\nsomething: 1\nfsdp_config: {a: 1}\n" +
			"datasets:\n- {path: a/b, type: alpaca, field_messages: m, shards: 3, train_on_eos: turn}\n- {path: c}\n", "axolotl", []string{
			"f.yaml:1:1: base_model: the same, a key of the recipe itself",
			"f.yaml:2:1: load_in_4bit: here it is adapter: qlora, a key of train",
			"f.yaml:3:1: sequence_len: here it is max_length, a key of ingest, quantize",
			"f.yaml:5:1: lora_r: here it is lora: {r: …}, a key of train",
			"f.yaml:6:1: seed: the same, a key of the recipe itself, train",
			"f.yaml:7:1: learning_rate: the same, a key of train",
			"f.yaml:8:1: something: not supported",
			"f.yaml:9:1: fsdp_config: leave it out: one process trains",
			"f.yaml:11:4: datasets.path: the same, a key of ingest.datasets",
			"f.yaml:11:15: datasets.type: the same, a key of ingest.datasets",
			"f.yaml:11:29: datasets.field_messages: here it is columns: {messages: …}, a key of ingest.datasets",
			"f.yaml:11:48: datasets.shards: not supported",
			"f.yaml:11:59: datasets.train_on_eos: the same, a key of ingest",
		}},
		{"model_name_or_path: a\nstage: dpo\nfinetuning_type: lora\npref_beta: 0.1\n", "LLaMA-Factory", []string{
			"f.yaml:1:1: model_name_or_path: here it is base_model, a key of the recipe itself",
			"f.yaml:2:1: stage: here it is objective: sft, dpo, kto, reward …, a key of train",
			"f.yaml:3:1: finetuning_type: here it is adapter: lora, qlora or none, a key of train",
			"f.yaml:4:1: pref_beta: here it is beta, a key of train",
		}},
		{"model_name_or_path: a\ndataset_name: b\nbeta: 0.1\n", "TRL", []string{
			"f.yaml:1:1: model_name_or_path: here it is base_model, a key of the recipe itself",
			"f.yaml:2:1: dataset_name: here it is datasets: [{path: …}], a key of ingest",
			"f.yaml:3:1: beta: the same, a key of train",
		}},
		{"model: a\ntraining: {max_seq_length: 2048}\nlora: {lora_r: 64}\n", "unsloth", []string{
			"f.yaml:1:1: model: here it is base_model, a key of the recipe itself",
			"f.yaml:2:12: training.max_seq_length: here it is max_length, a key of ingest, quantize",
			"f.yaml:3:8: lora.lora_r: here it is lora: {r: …}, a key of train",
		}},
		{"checkpointer: {checkpoint_dir: a}\noptimizer: {lr: 3e-4, fused: true}\n", "torchtune", []string{
			"f.yaml:1:1: checkpointer: here it is base_model, a key of the recipe itself",
			"f.yaml:2:13: optimizer.lr: here it is learning_rate, a key of train",
			"f.yaml:2:23: optimizer.fused: not supported",
		}},
		{"merge_method: ties\nmodels: []\n", "mergekit", nil},
		{"quant_stage: {quant_modifiers: {}}\n", "llm-compressor", nil},
		{"architectures: [LlamaForCausalLM]\n", "config.json of a model", nil},
		{"peft_type: LORA\n", "PEFT adapter", nil},
	} {
		_, err := stages.All.Parse("f.yaml", []byte(c.text), nil)
		if err == nil {
			t.Fatalf("%s is a recipe", c.what)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) < 2 || !strings.Contains(lines[0], "this is ") || !strings.Contains(lines[0], c.what) || !strings.HasPrefix(lines[1], "hint: ") {
			t.Errorf("%s: %q", c.what, lines)
			continue
		}
		if got, want := strings.Join(lines[2:], "\n"), strings.Join(c.lines, "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, got, want)
		}
	}
	for _, text := range []string{"version: 1\nsequence_len: 3\n", "stages: []\nlora_r: 3\n", "sequenze_len: 3\n"} { // recipes with mistakes
		if _, err := stages.All.Parse("f.yaml", []byte(text), nil); err == nil || strings.Contains(err.Error(), "this is ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
