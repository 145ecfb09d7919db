package recipes_test

import (
	"testing"

	"github.com/tunekit/tunekit/recipes/stages"
)

// TestSetHash: what a --set says is text up to its end; in YAML a comment would begin
// at #, and the key would quietly keep its default.
func TestSetHash(t *testing.T) {
	const recipe = "version: 1\nbase_model: base\nstages:\n  - eval: {tasks: [exact_match], data: rows.jsonl}\n"
	for val, want := range map[string]string{
		"#### (-?[0-9]+)": "#### (-?[0-9]+)", " # (.*)": "# (.*)", "answer #(.*)": "answer #(.*)", "'a #b'": "a #b", "a#b": "a#b",
	} {
		r, err := stages.All.Parse("r.yaml", []byte(recipe), []string{"eval.filter=" + val})
		must(t, err)
		jobs, err := r.Resolve()
		must(t, err)
		if got := jobs[0].Options.(*stages.Eval).Filter; got != want {
			t.Errorf("--set eval.filter=%s gives %q, want %q", val, got, want)
		}
	}
}
