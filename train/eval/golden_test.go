package eval

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
)

// Transformers' logits processors on fixed logits (golden/train/eval/sampling.json).
func TestSamplingGolden(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train/eval"), "sampling.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		PromptIDs []int32     `json:"prompt_ids"`
		Logits    [][]float32 `json:"logits"`
		Cases     []struct {
			Params map[string]float64 `json:"params"`
			Vector int                `json:"vector"`
			Kept   int                `json:"kept"`
			Probs  []float64          `json:"probs"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"temperature": true, "top_k": true, "top_p": true, "min_p": true, "repetition_penalty": true}
	ran := 0
	for i, c := range g.Cases {
		skip := false
		for k := range c.Params {
			skip = skip || !known[k]
		}
		if skip {
			continue
		}
		ran++
		s := Sampling{Temperature: c.Params["temperature"], TopK: int(c.Params["top_k"]), TopP: c.Params["top_p"], MinP: c.Params["min_p"], RepetitionPenalty: c.Params["repetition_penalty"]}
		kept := 0
		// Which of several equal logits survives is arbitrary in torch, so tied
		// tokens are compared as a set: within runs of one logit value.
		got, want := s.Probs(g.Logits[c.Vector], g.PromptIDs), c.Probs
		untie(got, g.Logits[c.Vector])
		untie(want, g.Logits[c.Vector])
		for j, p := range got {
			if p > 0 {
				kept++
			}
			if math.Abs(p-want[j]) > 2e-6*want[j]+1e-9 {
				t.Errorf("case %d %v: token %d has %g, want %g", i, c.Params, j, p, want[j])
			}
		}
		if kept != c.Kept {
			t.Errorf("case %d %v: %d tokens kept, want %d", i, c.Params, kept, c.Kept)
		}
	}
	if ran < 10 {
		t.Errorf("only %d of %d cases ran", ran, len(g.Cases))
	}
}

// untie sorts the probabilities of tokens that have the same logit.
func untie(p []float64, logits []float32) {
	at := map[float32][]int{}
	for i, v := range logits {
		at[v] = append(at[v], i)
	}
	for _, idx := range at {
		var v []float64
		for _, i := range idx {
			v = append(v, p[i])
		}
		slices.Sort(v)
		for k, i := range idx {
			p[i] = v[k]
		}
	}
}

// The windows of Transformers' strided recipe (perplexity.json).
func TestWindowsGolden(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testdir.Shared(t, "golden/train/eval"), "perplexity.json"))
	if err != nil {
		t.Fatal(err)
	}
	type recipe struct {
		Window, Stride int
		Windows        []struct {
			Begin, End int
			Scored     int `json:"really_scored"`
		}
	}
	var g struct {
		Tokens []int32
		A      recipe `json:"strided_512"`
		B      recipe `json:"strided_256"`
	}
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	for _, r := range []recipe{g.A, g.B} {
		w, err := Windows(g.Tokens, r.Window, r.Stride)
		if err != nil || len(w) != len(r.Windows) {
			t.Fatalf("window %d stride %d: %d windows, %v; want %d", r.Window, r.Stride, len(w), err, len(r.Windows))
		}
		for i, s := range w {
			if s.Targets() != r.Windows[i].Scored || len(s.IDs) != r.Windows[i].End-r.Windows[i].Begin {
				t.Errorf("window %d: %d targets of %d tokens, want %+v", i, s.Targets(), len(s.IDs), r.Windows[i])
			}
		}
	}
}
