package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunekit/tunekit/formats"
)

// whole has every kind of stage.
const whole = `version: 1
base_model: fix/model
stages:
  - ingest: {datasets: [{path: train.parquet}], max_length: 256, val_set_size: 6}
  - train: {adapter: qlora, lora: {r: 4, dropout: 0.1}, max_steps: 24, micro_batch_size: 1, gradient_accumulation_steps: 2, learning_rate: 1e-2, eval_steps: 5, save_steps: 2}
  - merge: {max_kl: 1}
  - id: gptq
    quantize: {method: gptq, samples: 6, max_length: 128}
  - id: awq
    quantize: {method: awq, samples: 6, max_length: 128}
  - id: nf4
    quantize: {method: nf4}
  - id: gguf
    export: {type: [Q8_0, Q4_0], imatrix: ingest, samples: 4}
  - id: plain
    export: {format: safetensors, type: F16}
  - eval: {tasks: [perplexity, kl, exact_match], max_new_tokens: 4}
`

// workplace is a folder with the recipe above and what it reads.
func workplace(t *testing.T) string {
	t.Helper()
	dir, fix := t.TempDir(), fixtures(t)
	err := copyTree(filepath.Join(fix, "work"), dir)
	if err == nil {
		err = os.Symlink(fix, filepath.Join(dir, "fix"))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "r.yaml"), []byte(whole), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tune runs the program in dir and returns what it printed.
func tune(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("tune", args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("tune %q: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// One thread or several, left alone or killed at any moment and resumed: the
// same recipe leaves the same artifacts, bit for bit, by the hashes in its
// manifest and by hashing the tensors again.
func TestSameBits(t *testing.T) {
	dir := workplace(t)
	began := time.Now()
	tune(t, dir, "run", "r.yaml", "--threads", "2", "--run-dir", "two", "--quiet")
	took := time.Since(began)
	want := read(t, filepath.Join(dir, "two/r/manifest.json"))
	tune(t, dir, "run", "r.yaml", "--threads", "1", "--run-dir", "one", "--quiet")
	if got := read(t, filepath.Join(dir, "one/r/manifest.json")); got != want {
		t.Errorf("one thread and two differ:\n%s\n%s", got, want)
	}
	for _, a := range []string{"merge", "gptq", "awq", "nf4", "gguf/r-Q8_0.gguf", "gguf/r-Q4_0.gguf"} {
		x := tune(t, filepath.Join(dir, "one/r"), "inspect", a, "--json", "--hash")
		if y := tune(t, filepath.Join(dir, "two/r"), "inspect", a, "--json", "--hash"); x != y {
			t.Errorf("%s differs", a)
		}
	}
	folders, kills := 5, 4
	if testing.Short() {
		folders, kills = 1, 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, a whole run takes %v", seed, took)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range folders + 1 {
		runs := fmt.Sprintf("killed%d", i)
		for range kills {
			after := time.Duration(rng.Int64N(int64(took)))
			if i < folders {
				kill(t, dir, runs, func() bool { time.Sleep(after); return true })
			}
			complete(t, filepath.Join(dir, runs, "r"))
		}
		if i == folders { // as soon as a path appears
			for _, name := range moments {
				kill(t, dir, runs, func() bool { _, err := os.Stat(filepath.Join(dir, runs, "r", name)); return err == nil })
				complete(t, filepath.Join(dir, runs, "r"))
			}
		}
		tune(t, dir, "run", "r.yaml", "--run-dir", runs, "--quiet", "--threads", fmt.Sprint(1+i%2))
		if got := read(t, filepath.Join(dir, runs, "r/manifest.json")); got != want {
			t.Errorf("%s: killed and resumed differs:\n%s\n%s", runs, got, want)
		}
		a, b := timeless(read(t, filepath.Join(dir, runs, "r/train/metrics.jsonl"))), timeless(read(t, filepath.Join(dir, "two/r/train/metrics.jsonl")))
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: steps differ:\n%v\n%v", runs, a, b)
		}
		if left := litter(filepath.Join(dir, runs)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// sums is a recipe that merges two models.
const sums = `version: 1
name: r
stages:
  - merge_models:
      config: {merge_method: linear, parameters: {weight: 0.7, normalize: false}, models: [{model: fix/model}, {model: twin}]}
      max_shard_size: 20KB
`

// A merge of models that is killed goes on, and ends in the same bits.
func TestKilledMergeModels(t *testing.T) {
	dir := workplace(t)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "r.yaml"), []byte(sums), 0o644), copyTree(filepath.Join(dir, "fix", "model"), filepath.Join(dir, "twin"))); err != nil {
		t.Fatal(err)
	}
	tune(t, dir, "run", "r.yaml", "--run-dir", "alone", "--quiet")
	want := read(t, filepath.Join(dir, "alone/r/manifest.json"))
	for i, at := range []string{".state/merge_models.json", "merge_models.part", "merge_models.part/data/model-00004-of-*", "merge_models", "manifest.json"} {
		runs := fmt.Sprintf("killed%d", i)
		kill(t, dir, runs, func() bool { found, _ := filepath.Glob(filepath.Join(dir, runs, "r", at)); return len(found) > 0 })
		tune(t, dir, "run", "r.yaml", "--run-dir", runs, "--quiet")
		if got := read(t, filepath.Join(dir, runs, "r/manifest.json")); got != want {
			t.Errorf("killed at %s and resumed differs:\n%s\n%s", at, got, want)
		}
		if left := litter(filepath.Join(dir, runs)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// moments are paths between whose appearing and being recorded a kill is worst.
var moments = []string{
	"ingest", ".work/train/metrics.jsonl", "train", "train/metrics.jsonl", ".state/merge.json", "merge", "gptq", "gptq/quantization.json", "awq/quantization.json",
	"nf4", "gguf/r-Q8_0.gguf", "gguf/r-Q4_0.gguf", "plain", "eval", "manifest.json",
}

// kill starts the recipe and kills it when due, unless it ends before.
func kill(t *testing.T, dir, runs string, due func() bool) {
	t.Helper()
	cmd := exec.Command("tune", "run", "r.yaml", "--run-dir", runs, "--quiet")
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	for done := false; !done; {
		select {
		case err = <-ended:
			done = true
		default:
			if due() {
				_ = cmd.Process.Kill() // it may have ended by itself
				err = <-ended
				done = true
			}
		}
	}
	if err != nil && cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("before it was killed: %v\n%s", err, errs.String())
	}
}

// complete checks that what lies under a final name is whole.
func complete(t *testing.T, run string) {
	t.Helper()
	for _, name := range []string{"train", "merge", "gptq", "awq", "nf4", "gguf/r-Q8_0.gguf", "gguf/r-Q4_0.gguf", "plain"} {
		path := filepath.Join(run, name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if name == "train" {
			path = filepath.Join(path, "adapter_model.safetensors")
		}
		if err := formats.Verify(path); err != nil {
			t.Errorf("after a kill: %v", err)
		}
	}
}
