package recipes_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// everyStage is a recipe with each stage that holds a model or a part of one.
func everyStage(t *testing.T, dir string) *recipes.Recipe {
	t.Helper()
	r, err := stages.All.Parse("every.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 64, overflow: drop, val_set_size: 6}
  - train: {adapter: qlora, max_steps: 3, micro_batch_size: 1, gradient_accumulation_steps: 2, dtype: f32, lora: {r: 4}}
  - merge: {}
  - id: gptq
    quantize: {method: gptq, samples: 8, max_length: 64}
  - id: awq
    quantize: {method: awq, samples: 8, max_length: 64}
  - id: both
    quantize: {method: gptq, search: awq, samples: 8, max_length: 64, actorder: group, for: [transformers]}
  - id: nf4
    quantize: {method: nf4}
  - id: gguf
    export: {type: [Q8_0, F16], imatrix: ingest, samples: 2}
  - id: dense
    export: {format: safetensors, type: F32}
  - eval: {models: [merge, gptq, awq, both, nf4, gguf/Q8_0], tasks: [perplexity, kl], context: 64}
`, dir), nil)
	must(t, err)
	return r
}

// A limit that keeps most of the model out of memory changes no bit of any
// artifact or measurement, and is kept.
func TestLimitChangesNothing(t *testing.T) {
	const limit = 1900 << 10 // beside the program's own
	const slack = 512 << 10  // a backend's own scratch, which is no small part of so little
	dir := tinyModelOf(t, 8)
	run := func(name string, limit int64) (manifest string, peak map[string]int64) {
		opt := recipes.RunOptions{Dir: filepath.Join(dir, name), MemoryLimit: limit}
		p, err := everyStage(t, dir).Plan(t.Context(), opt)
		must(t, err)
		s, err := everyStage(t, dir).Run(t.Context(), opt)
		must(t, err)
		raw, err := os.ReadFile(filepath.Join(s.Dir, "manifest.json"))
		must(t, err)
		peak = map[string]int64{}
		for i, st := range s.Stages {
			peak[st.Stage] = st.Peak
			if want := p.Stages[i].Peak; math.Abs(float64(st.Peak-want)) > 0.1*float64(want)+slack {
				t.Errorf("limit %d: %s took %d bytes, the plan said %d", limit, st.Stage, st.Peak, want)
			}
		}
		return string(raw), peak
	}
	want, all := run("all", device.NoLimit)
	got, few := run("few", cpu.Program+limit)
	if got != want {
		t.Errorf("manifests differ:\n%s\n%s", want, got)
	}
	for stage, n := range few {
		if n > limit {
			t.Errorf("%s took %d bytes", stage, n)
		}
	}
	if few["train"] >= all["train"] || few["gptq"] >= all["gptq"] {
		t.Errorf("the limit made no difference: %v, without %v", few, all)
	}
}
