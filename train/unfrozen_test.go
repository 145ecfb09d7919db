package train

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestUnfrozen: only the chosen weights move, by what they would with the others held
// still in the first step: the gradients of one step are those of full training.
func TestUnfrozen(t *testing.T) {
	begun := func(patterns ...string) (Job, map[string][]float32) {
		j, _, _ := goldenJob(t, variant{name: "full", full: true})
		j.Config.UnfrozenParameters, j.Config.MaxSteps = patterns, 2 // the first step has a rate of 0
		before := map[string][]float32{}
		for _, p := range j.Model.Params() {
			before[p.Name] = values(t, device(t), p.Buffer)
		}
		return j, before
	}
	trained := func(patterns ...string) (moved map[string]bool, norm float64) {
		j, before := begun(patterns...)
		if _, err := Run(context.Background(), j); err != nil {
			t.Fatal(err)
		}
		moved = map[string]bool{}
		for _, p := range j.Model.Params() {
			moved[p.Name] = !slices.Equal(values(t, device(t), p.Buffer), before[p.Name])
		}
		steps, _, err := ReadMetrics(filepath.Join(j.Dir, MetricsFile))
		if err != nil {
			t.Fatal(err)
		}
		return moved, steps[0].GradNorm
	}
	moved, norm := trained(`model\.layers\.[23]\.mlp`, `lm_head`)
	for name, did := range moved {
		want := strings.HasPrefix(name, "model.layers.2.mlp") || strings.HasPrefix(name, "model.layers.3.mlp") || strings.HasPrefix(name, "lm_head")
		if did != want {
			t.Errorf("%s moved: %v", name, did)
		}
	}
	if _, all := trained(); !(norm > 0 && norm < all) {
		t.Errorf("gradient norm %g of a part, %g of all", norm, all)
	}
	for pattern, what := range map[string]string{"layers": "no parameter", "(": "regular expression", `lm_head\.weight[:100]`: "rows of a parameter"} {
		j, _ := begun(pattern)
		if _, err := Run(context.Background(), j); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), what) {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
