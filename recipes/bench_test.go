package recipes_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// TestBenchStage: the table of speeds stands in every form of the report, the
// times are no part of the run's hash, and a prompt over the context is refused
// before work.
func TestBenchStage(t *testing.T) {
	dir := tinyModel(t)
	run := func(name, prompt string) (*recipes.Recipe, recipes.RunOptions) {
		r, err := stages.All.Parse("speed.yaml", fmt.Appendf(nil, `version: 1
base_model: %[1]s/model
stages:
  - export: {type: [Q8_0, F16]}
  - bench: {prompt: %[2]s, decode: 4, rounds: 2, dtype: f32}
`, dir, prompt), nil)
		must(t, err)
		return r, recipes.RunOptions{Dir: filepath.Join(dir, name)}
	}
	r, opt := run("a", "[8, 16]")
	s, err := r.Run(t.Context(), opt)
	must(t, err)
	if len(s.Grids) != 1 || len(s.Grids[0].Rows) != 6 || s.Grids[0].Rows[5][0] != "export/F16" || s.Grids[0].Rows[5][1] != "16" {
		t.Fatalf("grids %+v", s.Grids)
	}
	page, err := os.ReadFile(filepath.Join(s.Dir, "report.html"))
	must(t, err)
	wellFormed(t, page)
	var screen bytes.Buffer
	s.Print(&screen)
	for _, text := range []string{string(page), screen.String(), s.Markdown()} {
		if !strings.Contains(text, "Speed: bench") || !strings.Contains(text, "export/Q8_0") {
			t.Errorf("no table in\n%.400s", text)
		}
	}
	r, opt = run("b", "[8, 16]")
	again, err := r.Run(t.Context(), opt)
	must(t, err)
	if s.Hash != again.Hash {
		t.Error("times are part of the hash")
	}
	if again, err = r.Run(t.Context(), opt); err != nil || again.Stages[1].State != "unchanged" || len(again.Grids) != 1 {
		t.Errorf("second run: %+v, error %v", again.Stages, err)
	}
	r, opt = run("c", "253")
	if _, err := r.Plan(t.Context(), opt); fail.Code(err) != 2 || !strings.Contains(err.Error(), "bench.prompt: 253 + 4 tokens") {
		t.Errorf("error %v", err)
	}
}
