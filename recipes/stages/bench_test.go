package stages

import (
	"testing"

	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
)

// TestBenchView: a row a model and length, without a hole.
func TestBenchView(t *testing.T) {
	left := &BenchResult{DType: "bf16", Rows: []BenchRow{
		{Model: "base", Speed: Speed{Prompt: 8, New: 4, PromptRate: 1234.5, DecodeRate: 56.78}},
		{Model: "merge", Speed: Speed{Prompt: 16, New: 4, PromptRate: 900}},
	}}
	var s report.Section
	viewBench(nil, &recipes.Job{Stage: &recipes.Stage{ID: "speed", Options: &Bench{Rounds: 3}}}, &recipes.Result{Left: left}, &s)
	if len(s.Grids) != 1 || len(s.Grids[0].Rows) != 2 {
		t.Fatalf("section %+v", s)
	}
	g := s.Grids[0]
	for _, r := range g.Rows {
		if len(r) != len(g.Head) {
			t.Errorf("%d cells below %d heads", len(r), len(g.Head))
		}
	}
	if g.Rows[0][0] != "base" || g.Rows[0][3] != "0" && g.Rows[0][3] != "0.000" || g.Rows[1][1] != "16" {
		t.Errorf("rows %v", g.Rows)
	}
}
