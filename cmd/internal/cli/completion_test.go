package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{ // want: all that is listed
		{"tune", "val", "validate"}, {"tune", "quant gp", "gptq"}, {"quant", "gp", "gptq"}, {"quant", "comp", "completion"},
		{"tune", "eval --unsure ", "pass fail"}, {"tune", "eval --stri", "--stride"}, {"tune", "run r.yaml --log", "--log-every"},
		{"quant", "gguf --type Q4_K_", "Q4_K_S Q4_K_M"}, {"tune", "quant rtn --scheme W8A8", "W8A8"}, {"tune", "eval --tasks per", "perplexity"},
		{"tune", "init --for v", "vllm"}, {"quant", "gptq --for t", "transformers tgi"}, {"tune", "ingest --type t", "text tokens"},
		{"tune", "help recipe.train.l", "recipe.train.lora recipe.train.lora.eva_config recipe.train.lora.corda_config recipe.train.lora.lora_ga_config recipe.train.lora.loftq_config recipe.train.loha recipe.train.lokr"}, {"tune", "help gpt", "gptq"}, {"tune", "graph att", "attention"},
		{"tune", "run quickstart --only ad", "adapter"}, {"tune", "run x --set train.lora.alp", "train.lora.alpha= train.lora.alpha_pattern="},
		{"tune", "run quickstart --set adapter.lora.alp", "adapter.lora.alpha= adapter.lora.alpha_pattern="}, {"tune", "run quickstart --set train.lora.alp", ""},
		{"tune", "run quickstart --set adapter.adapter=l", "adapter.adapter=lora adapter.adapter=loha adapter.adapter=lokr"},
		{"tune", "run x --set train.use_weighting=", "train.use_weighting=true train.use_weighting=false"}, {"tune", "run x --set train.learning_rate=", ""},
		{"tune", "run quickstart --set check.data=d", "@files check.data=data"}, {"tune", "run x --set device=c", "device=cpu device=cuda:0"},
		{"tune", "run quickstart --only=ad", "--only=adapter"}, {"tune", "eval --tasks perplexity,t", "perplexity,top1"}, {"tune", "export --imatrix=x", "@files"},
		{"tune", "run qui", "quickstart @files"}, {"tune", "inspect x", "@files"}, {"tune", "export --imatrix x", "@files"}, {"tune", "--ver", "--version"},
		{"tune", "completion z", "zsh"}, {"tune", "export --format s", "safetensors"}, {"tune", "generate -m ", "@files"},
	} {
		if got := strings.Join(complete(c.name, strings.Split(c.line, " ")), " "); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.name, c.line, got, c.want)
		}
	}
	// Every command has its flags, and every word of a table that a flag takes.
	for _, name := range []string{"tune", "quant"} {
		for _, words := range CommandNames(name) {
			if words[len(words)-1] == "quant" {
				continue
			}
			if got := complete(name, append(slices.Clone(words), "--")); !slices.Contains(got, "--help") {
				t.Errorf("%s %v: %v", name, words, got)
			}
		}
	}
}
