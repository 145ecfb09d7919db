package recipes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
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

// TestFailOn: low_steps refuses a training that hardly trains, and unpinned a
// model of the hub that can change.
func TestFailOn(t *testing.T) {
	dir := tinyModel(t)
	r := tinyRecipe(t, dir, "fail_on=[low_steps]", "train.max_steps=1")
	_, err := r.Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs"), Only: []string{"ingest", "train"}})
	if fail.Code(err) != 3 || !strings.Contains(err.Error(), "1 low_steps") {
		t.Errorf("error %v", err)
	}
	for ref, code := range map[string]int{"hf://a/b": 2, "hf://a/b@main": 2, "hf://a/b@" + strings.Repeat("0", 40): 0} {
		_, err := tinyRecipe(t, dir, "fail_on=[unpinned]", "base_model="+ref).Resolve()
		if err == nil != (code == 0) || err != nil && (fail.Code(err) != code || !strings.Contains(err.Error(), "unpinned")) {
			t.Errorf("%s: error %v", ref, err)
		}
	}
}

// TestMergeGGUF: a merge stage writes the file that it says, and later stages
// read it.
func TestMergeGGUF(t *testing.T) {
	dir := tinyModel(t)
	r := tinyRecipe(t, dir, "merge.format=gguf", "merge.max_kl=1", "train.max_steps=2")
	_, err := r.Run(t.Context(), recipes.RunOptions{Dir: filepath.Join(dir, "runs")})
	must(t, err)
	if !exists(filepath.Join(dir, "runs", "tiny", "merge", "tiny.gguf")) {
		t.Error("no merge/tiny.gguf")
	}
}

// TestMergeOfFolder: a merge of an adapter that lies in a folder is planned, and
// takes what the plan says.
func TestMergeOfFolder(t *testing.T) {
	dir := tinyModel(t)
	opt := recipes.RunOptions{Dir: filepath.Join(dir, "runs")}
	first := opt
	first.Only = []string{"ingest", "train"}
	_, err := tinyRecipe(t, dir, "train.max_steps=1").Run(t.Context(), first)
	must(t, err)
	r, err := stages.All.Parse("merge.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - ingest: {datasets: [{path: %[1]s/train.jsonl}], max_length: 192, val_set_size: 20}
  - merge: {adapter: %[1]s/runs/tiny/train}
`, dir), nil)
	must(t, err)
	p, err := r.Plan(t.Context(), opt)
	must(t, err)
	s, err := r.Run(t.Context(), opt)
	must(t, err)
	if want, got := p.Stages[1].Peak, s.Stages[1].Peak; want == 0 || got > want+512<<10 || want > got+512<<10 {
		t.Errorf("the plan said %d bytes, the merge took %d", want, got)
	}
}
