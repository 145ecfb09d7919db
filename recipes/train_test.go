package recipes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// TestBaseOfAdapter: training that goes on from an adapter says where the base
// is another one, or where nobody can tell.
func TestBaseOfAdapter(t *testing.T) {
	dir := tinyModel(t)
	train := func(name, from string) []string {
		t.Helper()
		lora := "lora: {r: 4}"
		if from != "" {
			lora = "lora: {init_from: " + from + "}"
		}
		r, err := stages.All.Parse("tiny.yaml", fmt.Appendf(nil, `version: 1
name: %[2]s
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192, val_set_size: 0}
  - train: {adapter: lora, max_steps: 1, micro_batch_size: 1, dtype: f32, %[3]s}
`, dir, name, lora), nil)
		must(t, err)
		s, err := r.Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
		must(t, err)
		return s.Stages[1].Notes
	}
	train("first", "")
	adapter := filepath.Join(dir, "runs", "first", "train")
	if notes := train("second", adapter); len(notes) > 0 {
		t.Errorf("the same base: %q", notes)
	}
	must(t, os.Remove(filepath.Join(adapter, "tunekit.json")))
	if notes := fmt.Sprint(train("third", adapter)); !strings.Contains(notes, "base not verifiable") {
		t.Errorf("an adapter of another program: %s", notes)
	}
	must(t, os.WriteFile(filepath.Join(dir, "model", "NOTICE"), []byte("other"), 0o644))
	if notes := fmt.Sprint(train("fourth", filepath.Join(dir, "runs", "second", "train"))); !strings.Contains(notes, "base of other content") {
		t.Errorf("another base: %s", notes)
	}
}
