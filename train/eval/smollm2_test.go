package eval

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// What lm-eval 0.4.13 and Transformers 5.23 (torch 2.15, float32) measure of the
// weights of SmolLM2-135M-Instruct's Q4_1 file is in golden/train/eval. A few cases of
// each are looked at; TUNEKIT_ALL=1 looks at all.

// smolLM2 loads the model that the reference measured.
func smolLM2(t *testing.T) (*model.Model, *tokenizer.Tokenizer, *arch.Source) {
	t.Helper()
	path := testdir.SmolLM2()
	if path == "" {
		t.Skip("needs SmolLM2: make smollm2 fetches it")
	}
	src, err := arch.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(cpu.New(cpu.Options{}), src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, tok, src
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(testdir.ReadFile(t, filepath.Join(testdir.Shared(t, "golden/train/eval"), name)), v); err != nil {
		t.Fatal(name, err)
	}
}

// some are the first n of a list, or all where all are asked for.
func some[T any](list []T, n int) []T {
	if os.Getenv("TUNEKIT_ALL") == "1" {
		return list
	}
	return list[:min(n, len(list))]
}

// lmEval is what tasks of lm-eval asked and got.
type lmEval struct{ Samples map[string][]lmSample }

type lmSample struct {
	Doc           int `json:"doc_id"`
	Target        any // the number of the right continuation, or a text
	Resps         []any
	Raw           [][]any
	Context       string
	Continuations []string
	Arguments     [][]any
	Acc           float64
}

// TestLMEvalChoices: log-likelihoods of continuations, and which of them is the
// likeliest.
func TestLMEvalChoices(t *testing.T) {
	m, tok, _ := smolLM2(t)
	for file, docs := range map[string]int{"lm_eval_mmlu.json": 1, "lm_eval_mmlu5.json": 1, "lm_eval_truthfulqa.json": 1} {
		var g lmEval
		golden(t, file, &g)
		for task, all := range g.Samples {
			for _, s := range some(all, docs) {
				var samples []Sample
				n := int32(len(tok.Encode(s.Context, true)))
				for _, c := range s.Continuations { // tokenized together, the context's length taken off
					ids := tok.Encode(s.Context+c, true)
					samples = append(samples, Sample{IDs: ids, At: [][2]int32{{n - 1, int32(len(ids)) - 1}}})
				}
				scores, err := Run(t.Context(), m, nil, samples, ScoreOptions{})
				if err != nil {
					t.Fatal(err)
				}
				best, second := -1, math.Inf(1)
				for i, sc := range scores {
					want := s.Resps[i].([]any)[0].(float64)
					if math.Abs(sc.NLL+want) > 1e-3 {
						t.Errorf("%s %d: %q has %.5f, lm-eval %.5f", task, s.Doc, s.Continuations[i], -sc.NLL, want)
					}
					if best < 0 || sc.NLL < scores[best].NLL {
						best = i
					}
				}
				for i, sc := range scores {
					if i != best {
						second = min(second, sc.NLL-scores[best].NLL)
					}
				}
				target, single := s.Target.(float64)
				if right := single && best == int(target); single && task != "tqa_mc2" && right != (s.Acc == 1) && second > 2e-3 {
					t.Errorf("%s %d: right is %v, lm-eval has acc %g", task, s.Doc, right, s.Acc)
				}
			}
		}
	}
}

// TestLMEvalRolling: the log-likelihood of a page in windows of 512 tokens that each
// begin at the last token of the one before, the first at the beginning token.
func TestLMEvalRolling(t *testing.T) {
	m, tok, _ := smolLM2(t)
	const window = 512
	var g lmEval
	golden(t, "lm_eval_wikitext.json", &g)
	pages := g.Samples["wiki_local"]
	slices.SortFunc(pages, func(a, b lmSample) int { return len(a.Target.(string)) - len(b.Target.(string)) })
	for _, p := range some(pages, 1) {
		ids := append([]int32{tok.BOS()}, tok.Encode(p.Target.(string), false)...)
		var samples []Sample
		for at := 1; at < len(ids); at += window {
			end := min(at+window, len(ids))
			from := max(end-window-1, 0)
			samples = append(samples, Sample{IDs: ids[from:end], At: [][2]int32{{int32(at - 1 - from), int32(end - 1 - from)}}})
		}
		scores, err := Run(t.Context(), m, nil, samples, ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		nll, n := 0.0, 0
		for _, s := range scores {
			nll, n = nll+s.NLL, n+s.Targets
		}
		if want := p.Resps[0].(float64); n != len(ids)-1 || math.Abs(nll+want) > 1e-5*-want {
			t.Errorf("page %d: %.4f of %d tokens, lm-eval %.4f", p.Doc, -nll, n, want)
		}
	}
}

// TestLMEvalAnswers: greedy answers to five-shot questions, as text.
func TestLMEvalAnswers(t *testing.T) {
	m, tok, _ := smolLM2(t)
	var g lmEval
	golden(t, "lm_eval_gsm8k.json", &g)
	done := map[int]bool{}
	for _, s := range some(g.Samples["gsm8k_local"], 1) {
		if done[s.Doc] {
			continue
		}
		done[s.Doc] = true
		args := s.Arguments[0]
		until := []string{}
		for _, u := range args[1].(map[string]any)["until"].([]any) {
			until = append(until, u.(string))
		}
		got, err := engine.Run(t.Context(), m, []engine.Request{{Prompt: tok.Encode(args[0].(string), true), MaxNew: 128, Stop: tok.EOSIDs(), StopTexts: until, Text: tok.Stream(true)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := s.Raw[0][0].(string); got[0].Text != want {
			t.Errorf("question %d: %q, lm-eval %q", s.Doc, got[0].Text, want)
		}
	}
}

// TestGreedyGolden: greedy answers of Transformers' generate, token by token, up to
// the first choice that was nearly a tie.
func TestGreedyGolden(t *testing.T) {
	m, tok, _ := smolLM2(t)
	var g struct {
		Rows []struct {
			Prompt []int32   `json:"prompt_ids"`
			New    []int32   `json:"new_ids"`
			Gap    []float64 `json:"top2_gap"`
			Text   string    `json:"text_skip_special"`
		}
	}
	golden(t, "greedy.json", &g)
	for i, r := range some(g.Rows, 3) {
		got, err := engine.Run(t.Context(), m, []engine.Request{{Prompt: r.Prompt, MaxNew: len(r.New)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range r.New {
			if r.Gap[k] < 1e-3 {
				break
			}
			if k >= len(got[0].IDs) || got[0].IDs[k] != want {
				t.Errorf("row %d: token %d of %v is not %d", i, k, got[0].IDs, want)
				break
			}
		}
		if text := tok.Decode(r.New, true); text != r.Text {
			t.Errorf("row %d: %q, Transformers has %q", i, text, r.Text)
		}
	}
}

// TestPerplexityGolden: the log-likelihood of each token of the first window.
func TestPerplexityGolden(t *testing.T) {
	m, _, _ := smolLM2(t)
	var g struct {
		Tokens []int32
		First  []float64 `json:"token_nll_first_window"`
		A      struct {
			Windows []struct {
				NLL float64 `json:"mean_nll"`
			}
			PPL float64 `json:"ppl_true_count"`
		} `json:"strided_512"`
	}
	golden(t, "perplexity.json", &g)
	w, err := Windows(g.Tokens, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	w = some(w, 1)
	scores, err := Run(t.Context(), m, nil, w, ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range scores {
		if d := s.NLL/float64(s.Targets) - g.A.Windows[i].NLL; math.Abs(d) > 2e-6 {
			t.Errorf("window %d: off by %g", i, d)
		}
	}
	if len(w) == len(g.A.Windows) {
		if p := Perplexity(scores); math.Abs(p.Value-g.A.PPL) > 1e-4 {
			t.Errorf("perplexity %v, want %v", p.Value, g.A.PPL)
		}
	}
	each := make([]Sample, 0, 8)
	for k := range 8 {
		each = append(each, Sample{IDs: g.Tokens[:k+2], At: [][2]int32{{int32(k), int32(k + 1)}}})
	}
	if scores, err = Run(t.Context(), m, nil, each, ScoreOptions{}); err != nil {
		t.Fatal(err)
	}
	for k, s := range scores {
		if math.Abs(s.NLL-g.First[k]) > 1e-4 {
			t.Errorf("token %d: %v, want %v", k, s.NLL, g.First[k])
		}
	}
}

// TestKLGolden: what rounding all weights to bfloat16 does, chunk by chunk.
func TestKLGolden(t *testing.T) {
	m, _, src := smolLM2(t)
	var g struct {
		Tokens []int32
		Chunk  int
		Mean   float64 `json:"mean_kl"`
		Same   float64 `json:"top1_agreement"`
		KL     []float64
		Top    []int `json:"same_top"`
	}
	golden(t, "kl_bf16.json", &g)
	bf16 := dtype.Of(dtype.BF16)
	out := filepath.Join(t.TempDir(), "bf16")
	d := arch.Dense{Path: out, Type: &bf16}
	if err := d.Write(t.Context(), m.Dev, src, nil); err != nil {
		t.Fatal(err)
	}
	rounded, err := arch.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer rounded.Close()
	q, err := model.Load(m.Dev, rounded, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var chunks []Sample
	for at := 0; at < len(g.Tokens); at += g.Chunk {
		chunks = append(chunks, Sample{IDs: g.Tokens[at : at+g.Chunk], At: [][2]int32{{0, int32(g.Chunk)}}})
	}
	chunks = some(chunks, 1)
	scores, err := Run(t.Context(), q, m, chunks, ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	worst, other, at := 0.0, 0.0, 0
	for _, s := range scores {
		same := 0
		for k, kl := range s.KLs {
			worst = max(worst, math.Abs(float64(kl)-g.KL[at+k])/(g.KL[at+k]+1e-5))
			same += g.Top[at+k]
		}
		other += math.Abs(s.Same - float64(same))
		at += len(s.KLs)
	}
	t.Logf("%d positions: KL within %.2g of itself, %g other tokens on top", at, worst, other)
	if worst > 0.05 || other > 1 {
		t.Errorf("KL off by %g of itself, %g other tokens on top", worst, other)
	}
}
