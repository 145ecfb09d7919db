package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// tensors reads a safetensors file by name.
func tensors(t *testing.T, path string) map[string]formats.NamedTensor {
	t.Helper()
	list, _, err := formats.ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]formats.NamedTensor{}
	for _, x := range list {
		out[x.Name] = x
	}
	return out
}

func values(t formats.NamedTensor) []float64 {
	out := make([]float64, len(t.Data)/4)
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:])))
	}
	return out
}

// TestLogits: the command's logits and hidden states are those of Transformers
// within ten times the float64 noise that each case states, from safetensors
// and from GGUF, and with padding on either side.
func TestLogits(t *testing.T) {
	root := testdir.Shared(t, "golden/arch")
	for _, name := range archtest.Cases {
		noise, err := archtest.Noise([]byte(read(t, filepath.Join(root, name, "golden.json"))))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := tensors(t, filepath.Join(root, name, "golden.safetensors"))
		dir := t.TempDir()
		ids := []formats.NamedTensor{want["input_ids"]}
		if own, ok := want["decoder_input_ids"]; ok {
			ids = append(ids, own)
		}
		if err := formats.WriteSafetensors(filepath.Join(dir, "ids.safetensors"), ids, nil); err != nil {
			t.Fatal(err)
		}
		models := []string{filepath.Join(root, name)}
		if gguf := filepath.Join(root, name, "model-f32.gguf"); name == "llama" {
			models = append(models, gguf)
		}
		for _, m := range models {
			tune(t, dir, "logits", "--model", m, "--input", "ids.safetensors", "--output", "out.safetensors", "--hidden")
			got := tensors(t, filepath.Join(dir, "out.safetensors"))
			n := 0
			for _, key := range slices.Sorted(maps.Keys(want)) {
				if key != "logits" && !hidden(key) {
					continue
				}
				n++
				x := values(want[key])
				if s := want[key].Shape; len(s) == 4 && s[0] != want["input_ids"].Shape[0] { // streams before tokens
					x = tokensFirst(x, int(s[0]), int(s[3]))
				}
				allowed := 10 * noise // of logits; a residual stream may be much larger
				if hidden(key) {
					allowed = max(allowed, 2e-6*max(slices.Max(x), -slices.Min(x)))
				}
				if d := apart(values(got[key]), x); !(d <= allowed) {
					t.Errorf("%s: %s is %g apart, noise is %g", m, key, d, noise)
				}
			}
			if len(got) != n {
				t.Errorf("%s: %d tensors, want %d", m, len(got), n)
			}
		}
	}
}

// hidden reports whether a case calls hidden states so.
func hidden(key string) bool {
	return strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(key, "encoder."), "decoder."), "hidden")
}

// tokensFirst are n streams of tokens with c values each as tokens with n streams.
func tokensFirst(x []float64, n, c int) []float64 {
	out := make([]float64, 0, len(x))
	for at := 0; at < len(x)/n; at += c {
		for stream := range n {
			out = append(out, x[stream*len(x)/n+at:][:c]...)
		}
	}
	return out
}

// apart is the largest difference, +Inf where the lengths differ.
func apart(a, b []float64) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return math.Inf(1)
	}
	d := 0.0
	for i := range a {
		if e := math.Abs(a[i] - b[i]); !(e <= d) { // also NaN
			d = e
		}
	}
	return d
}

// TestQuantGGUF: quant gguf writes the file of llama-quantize, byte for byte,
// and inspect --hash shows each tensor's hash.
func TestQuantGGUF(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/wholefile")
	var g struct {
		Runs []struct {
			FType   string
			Imatrix *string
			Tied    bool
			SHA     string `json:"file_sha256"`
			Tensors []struct{ Name, SHA256 string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "runs.json"))), &g); err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, r := range g.Runs {
		if r.Tied || !(r.FType == "Q8_0" && r.Imatrix == nil || r.FType == "Q4_K_M") {
			continue
		}
		done++
		tmp := t.TempDir()
		args := []string{"gguf", "--model", filepath.Join(dir, "source.gguf"), "--type", r.FType, "--output", "out.gguf"}
		if r.Imatrix != nil {
			args = append(args, "--imatrix", filepath.Join(dir, filepath.Base(*r.Imatrix)))
		}
		cmd := exec.Command("quant", args...)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var have struct {
			Tensors []struct{ Name, SHA256 string }
		}
		if err := json.Unmarshal([]byte(tune(t, tmp, "inspect", "out.gguf", "--json", "--hash")), &have); err != nil {
			t.Fatal(err)
		}
		by := map[string]string{}
		for _, x := range have.Tensors {
			by[x.Name] = x.SHA256
		}
		for _, x := range r.Tensors {
			if by[x.Name] != x.SHA256 {
				t.Errorf("%s: %s differs", r.FType, x.Name)
			}
		}
		if len(by) != len(r.Tensors) {
			t.Errorf("%s: %d tensors, want %d", r.FType, len(by), len(r.Tensors))
		}
	}
	if done < 3 {
		t.Errorf("only %d runs found", done)
	}
}

// TestTokenize: the vectors of the Hugging Face tokenizers, there and back.
func TestTokenize(t *testing.T) {
	for _, name := range []string{"llama2", "llama3"} {
		model, vectors := testdir.Shared(t, "tokenizer-json/"+name), testdir.Shared(t, "tokenizer-vectors/"+name+".jsonl")
		for _, args := range [][]string{{"ids_special"}, {"ids", "--no-special-tokens"}} {
			want := lines(t, read(t, vectors))
			got := lines(t, tune(t, ".", append([]string{"tokenize", "--model", model, "--input", vectors}, args[1:]...)...))
			for i := range want {
				if g, w := string(got[i]["ids"]), string(want[i][args[0]]); g != w {
					t.Errorf("%s: %s %s is %s, want %s", name, want[i]["text"], args[0], g, w)
				}
			}
		}
		got := lines(t, tune(t, ".", "tokenize", "--model", model, "--input", vectors, "--decode"))
		for i, want := range lines(t, read(t, vectors)) {
			var a, b string
			if json.Unmarshal(got[i]["text"], &a) != nil || json.Unmarshal(want["decoded"], &b) != nil || a != b {
				t.Errorf("%s: %s decodes to %q, want %q", name, want["ids"], a, b)
			}
		}
	}
}

// lines reads one JSON object a line.
func lines(t *testing.T, text string) []map[string]json.RawMessage {
	t.Helper()
	var out []map[string]json.RawMessage
	for line := range strings.Lines(text) {
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %.100s", err, line)
		}
		out = append(out, m)
	}
	return out
}

// TestRender: renderings and refusals recorded from @huggingface/jinja.
func TestRender(t *testing.T) {
	dir := testdir.Shared(t, "chat-templates")
	for _, name := range []string{"Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407"} {
		var in bytes.Buffer
		var want []map[string]json.RawMessage
		for line := range strings.Lines(read(t, filepath.Join(dir, "renderings.jsonl"))) {
			if m := lines(t, line)[0]; string(m["template"]) == fmt.Sprintf("%q", name+".jinja") {
				in.WriteString(line)
				want = append(want, m)
			}
		}
		tmp := t.TempDir()
		if err := os.WriteFile(filepath.Join(tmp, "in.jsonl"), in.Bytes(), 0o644); err != nil || len(want) == 0 {
			t.Fatal(err, len(want))
		}
		var bos, eos string
		if json.Unmarshal(want[0]["bos_token"], &bos) != nil || json.Unmarshal(want[0]["eos_token"], &eos) != nil {
			t.Fatal("tokens")
		}
		got := lines(t, tune(t, tmp, "render", "--chat-template", filepath.Join(dir, name+".jinja"), "--bos-token", bos, "--eos-token", eos,
			"--now", "2024-07-26T00:00:00Z", "--input", "in.jsonl"))
		for i, w := range want {
			var a, b string
			if w["rendered"] == nil {
				if got[i]["error"] == nil {
					t.Errorf("%s: row %d renders, want %s", name, i, w["error"])
				}
			} else if json.Unmarshal(got[i]["text"], &a) != nil || json.Unmarshal(w["rendered"], &b) != nil || a != b {
				t.Errorf("%s: row %d is\n%q, want\n%q %s", name, i, a, b, got[i]["error"])
			}
		}
	}
}

// metricKeys are the keys of a step in metrics.jsonl that scripts rely on.
var metricKeys = []string{"epoch", "grad_norm", "learning_rate", "loss", "memory_bytes", "step", "step_seconds", "supervised_tokens", "tokens", "tokens_per_second"}

// TestReplay trains PEFT's reference through a recipe: the same batches from a
// tokens dataset, the same initial adapter, the same 30 losses.
func TestReplay(t *testing.T) {
	ref := testdir.Shared(t, "golden/train/lora")
	var b struct {
		Micro []struct {
			IDs    [][]int32 `json:"input_ids"`
			Labels [][]int32 `json:"labels"`
			Mask   [][]int32 `json:"attention_mask"`
		} `json:"micro_batches"`
	}
	var c struct {
		Curve []struct {
			Loss     float64
			GradNorm float64 `json:"grad_norm"`
			LR       float64
			Items    int64 `json:"num_items"`
		}
	}
	for name, v := range map[string]any{"batches.json": &b, "lora/curve.json": &c} {
		if err := json.Unmarshal([]byte(read(t, filepath.Join(ref, name))), v); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	var rows bytes.Buffer
	e := json.NewEncoder(&rows)
	for _, m := range b.Micro {
		for i := range m.IDs {
			if err := e.Encode(map[string]any{"input_ids": m.IDs[i], "labels": m.Labels[i], "attention_mask": m.Mask[i]}); err != nil {
				t.Fatal(err)
			}
		}
	}
	recipe := fmt.Sprintf(`version: 1
base_model: %q
stages:
  - ingest: {datasets: [{path: rows.jsonl, type: tokens}], shuffle: false, packing: none, val_set_size: 0}
  - train:
      {adapter: lora, dtype: f32, micro_batch_size: 3, gradient_accumulation_steps: 2, max_steps: 30, learning_rate: 3e-3, lr_scheduler: cosine,
       warmup_steps: 3, weight_decay: 0.01, max_grad_norm: 1.0, adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, lora: {init_from: %q}}
`, filepath.Join(ref, "base-llama"), filepath.Join(ref, "lora/adapter-init"))
	for name, raw := range map[string][]byte{"rows.jsonl": rows.Bytes(), "r.yaml": []byte(recipe)} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tune(t, dir, "run", "r.yaml", "--quiet")
	got := lines(t, read(t, filepath.Join(dir, "runs/r/train/metrics.jsonl")))
	if len(got) != len(c.Curve) {
		t.Fatalf("%d steps, want %d", len(got), len(c.Curve))
	}
	for i, want := range c.Curve {
		if keys := slices.Sorted(maps.Keys(got[i])); !slices.Equal(keys, metricKeys) {
			t.Fatalf("keys %v, want %v", keys, metricKeys)
		}
		num := func(key string) (v float64) {
			if err := json.Unmarshal(got[i][key], &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
		if d := math.Abs(num("loss") - want.Loss); !(d <= 1e-5) {
			t.Errorf("step %d: loss %g, want %g", i+1, num("loss"), want.Loss)
		}
		if d := math.Abs(num("grad_norm")/want.GradNorm - 1); !(d <= 5e-4) {
			t.Errorf("step %d: grad_norm %g, want %g", i+1, num("grad_norm"), want.GradNorm)
		}
		if d := math.Abs(num("learning_rate") - want.LR); !(d <= 1e-9) || num("supervised_tokens") != float64(want.Items) || num("step") != float64(i+1) {
			t.Errorf("step %d: %s, want rate %g and %d tokens", i+1, got[i], want.LR, want.Items)
		}
	}
	// The adapter is PEFT's within what its float64 run differs by.
	have, want := tensors(t, filepath.Join(dir, "runs/r/train/adapter_model.safetensors")), tensors(t, filepath.Join(ref, "lora/adapter/adapter_model.safetensors"))
	if len(have) != len(want) {
		t.Errorf("%d tensors, want %d", len(have), len(want))
	}
	sum, n := 0.0, 0
	for name := range want {
		a, b := values(have[name]), values(want[name])
		if len(a) != len(b) {
			t.Fatalf("%s: %d values, want %d", name, len(a), len(b))
		}
		for i := range b {
			sum, n = sum+(a[i]-b[i])*(a[i]-b[i]), n+1
		}
	}
	if rms := math.Sqrt(sum / float64(n)); !(rms <= 2e-5) {
		t.Errorf("the adapter is %g apart", rms)
	}
}
