package recipes

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/recipes/report"
)

// runWith writes a run folder with the given files.
func runWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const cardManifest = `{"stages":[{"stage":"ingest","kind":"ingest","inputs":{"datasets[0]":{"ref":"data/support.jsonl","why":"given"},"tokenizer":{"ref":"hf://meta-llama/Llama-3.2-1B@main","why":"base_model"}}},
{"stage":"train","kind":"train","inputs":{"model":{"ref":"hf://meta-llama/Llama-3.2-1B@main","why":"base_model"}}},
{"stage":"gptq","kind":"quantize","inputs":{"model":{"ref":"merged"}}},{"stage":"other","kind":"merge_models","inputs":{}}]}`

// TestCard: what the card of a model of a run says, as the hub reads it.
func TestCard(t *testing.T) {
	summary, _ := json.Marshal(report.Summary{Dir: "runs/x", Tables: []report.Table{{Rows: []*report.Row{
		{Model: "gptq", Path: "runs/x/gptq", PPL: &report.Measured{Value: 7.123456, N: 9}, Exact: &report.Measured{Value: 0.9}}}}}})
	dir := runWith(t, map[string]string{"manifest.json": cardManifest, "summary.json": string(summary), "gptq/config.json": `{"quantization_config": {}}`,
		"train/adapter_config.json": `{"peft_type": "LORA", "base_model_name_or_path": "hf://meta-llama/Llama-3.2-1B@main"}`})
	card, err := CardOf(filepath.Join(dir, "gptq"), CardOptions{Name: "me/support", License: "llama3.2", Datasets: []string{"me/rows"}})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(card.Text), "---\n")
	front, body, ok := strings.Cut(rest, "---\n")
	var got map[string]any
	if err := yaml.Unmarshal([]byte(front), &got); err != nil || !ok {
		t.Fatal(err, string(card.Text))
	}
	index := got["model-index"].([]any)[0].(map[string]any)
	result := index["results"].([]any)[0].(map[string]any)
	metric := result["metrics"].([]any)[0].(map[string]any)
	for what, v := range map[string][2]any{
		"license": {got["license"], "llama3.2"}, "base_model": {got["base_model"], "meta-llama/Llama-3.2-1B"}, "relation": {got["base_model_relation"], "finetune"},
		"library": {got["library_name"], "transformers"}, "dataset": {got["datasets"].([]any)[0], "me/rows"}, "name": {index["name"], "support"},
		"task": {result["task"].(map[string]any)["type"], "text-generation"}, "rows": {result["dataset"].(map[string]any)["type"], "me/rows"},
		"metric": {metric["type"], "perplexity"}, "value": {metric["value"], 7.1235},
	} {
		if v[0] != v[1] {
			t.Errorf("%s: %v, want %v", what, v[0], v[1])
		}
	}
	if !strings.Contains(body, "`support.jsonl`") || !strings.Contains(body, "| Exact match | 0.9 |") {
		t.Errorf("%s", body)
	}
	if len(card.Notes) != 2 || !strings.Contains(card.Notes[0], `begins with "Llama"`) || !strings.Contains(card.Notes[1], "Built with Llama") {
		t.Errorf("notes %q", card.Notes)
	}

	card, err = CardOf(filepath.Join(dir, "train"), CardOptions{Name: "me/Llama-support"})
	if err != nil {
		t.Fatal(err)
	}
	if s := string(card.Text); !strings.Contains(s, "base_model_relation: adapter") || !strings.Contains(s, "library_name: peft") {
		t.Error(s)
	}
	if s := string(card.Replace["adapter_config.json"]); s != `{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.2-1B"}` {
		t.Errorf("adapter_config.json: %s", s)
	}
	if !slices.ContainsFunc(card.Notes, func(n string) bool { return strings.Contains(n, "states no licence") }) {
		t.Errorf("notes %q", card.Notes)
	}
}

// TestCardOfRewardAndCalibration: a reward model gives scores, not texts, and rows that calibrate are no
// training data.
func TestCardOfRewardAndCalibration(t *testing.T) {
	dir := runWith(t, map[string]string{
		"manifest.json":   `{"stages":[{"stage":"ingest","kind":"ingest","inputs":{"datasets[0]":{"ref":"data/c.jsonl"}}},{"stage":"awq","kind":"quantize","inputs":{}}]}`,
		"awq/config.json": `{"architectures":["LlamaForCausalLM"],"quantization_config":{}}`,
	})
	score := runWith(t, map[string]string{"m/config.json": `{"architectures":["LlamaForSequenceClassification"]}`, "a/adapter_config.json": `{"task_type": "SEQ_CLS"}`})
	for path, want := range map[string]string{
		filepath.Join(dir, "awq"): "pipeline_tag: text-generation", filepath.Join(score, "m"): "pipeline_tag: text-classification", filepath.Join(score, "a"): "pipeline_tag: text-classification",
	} {
		card, err := CardOf(path, CardOptions{Name: "me/x"})
		if err != nil {
			t.Fatal(err)
		}
		if text := string(card.Text); !strings.Contains(text, want) || strings.Contains(text, "Trained on") {
			t.Errorf("%s: %s, want %s", path, text, want)
		}
	}
}

// TestTerms: what licences ask of a name and of who publishes.
func TestTerms(t *testing.T) {
	for _, c := range []struct {
		licence, name string
		want          []string
	}{
		{"llama3", "support", []string{"Llama 3", "Built with"}}, {"llama3", "Llama-3-support", []string{"Built with"}}, {"llama3", "Llama-support", []string{"Llama 3", "Built with"}},
		{"llama3.1", "Llama-support", []string{"Built with"}}, {"llama4", "x", []string{`"Llama"`, "Built with"}}, {"llama2", "x", []string{"llama2"}},
		{"gemma", "x", []string{"Terms of Use"}}, {"cc-by-nc-4.0", "x", []string{"no commercial"}}, {"qwen-research", "x", []string{"no commercial"}},
		{"creativeml-openrail-m", "x", []string{"OpenRAIL"}}, {"apache-2.0", "x", nil}, {"mit", "x", nil}, {"", "x", nil}, {"cc-by-4.0", "x", nil},
	} {
		got := terms(c.licence, c.name)
		ok := len(got) == len(c.want)
		for i := range c.want {
			ok = ok && strings.Contains(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s for %s: %q, want %q", c.licence, c.name, got, c.want)
		}
	}
}

// TestOwnCard: a card of the user's is told from the one that training writes.
func TestOwnCard(t *testing.T) {
	made := "---\nbase_model: /m/x\nbase_model_relation: adapter\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n# LoRA adapter\n\nr 8. Base: /m/x.\n"
	for text, want := range map[string]bool{made: false, made + "More of mine.\n": true, "# mine\n": true, "---\nbase_model: models/a/b\n---\n": true} {
		own, note := OwnCard(runWith(t, map[string]string{"README.md": text}))
		if own != want || (note != "") != strings.Contains(text, "models/a/b") && want && !strings.Contains(text, "More") {
			t.Errorf("%q: own %v, note %q", text, own, note)
		}
	}
	if own, _ := OwnCard(t.TempDir()); own {
		t.Error("a card where there is none")
	}
}
