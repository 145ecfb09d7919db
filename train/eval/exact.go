package eval

import (
	"context"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/kernels"
)

// Question is a prompt with the answer it should get.
type Question struct {
	Prompt []int32
	Want   string
}

// Questions takes the last supervised turn of each row as the answer, and
// what stands before it as the prompt. Rows without a prompt are left out.
func Questions(ex []data.Example, tok *tokenizer.Tokenizer) []Question {
	stop := tok.EOSIDs()
	var out []Question
	for i := range ex {
		prompt, answer := ex[i].Answer()
		if len(prompt) == 0 {
			continue
		}
		for len(answer) > 0 && slices.Contains(stop, answer[len(answer)-1]) {
			answer = answer[:len(answer)-1]
		}
		out = append(out, Question{prompt, tok.Decode(answer, true)})
	}
	return out
}

// Answers is what a model answered.
type Answers struct {
	Text  []string
	Right []float64 // 1 where the answer equals what was wanted, surrounding space aside
}

// AnswerOptions say how questions are answered.
type AnswerOptions struct {
	MaxNew   int               // tokens of an answer
	Sampling kernels.SampleRow // question i has stream i
	Progress func(done, total int64)
}

// ExactMatch answers every question.
func ExactMatch(ctx context.Context, m *model.Model, tok *tokenizer.Tokenizer, qs []Question, o AnswerOptions) (*Answers, error) {
	requests := make([]engine.Request, len(qs))
	for i, q := range qs {
		requests[i] = engine.Request{Prompt: q.Prompt, MaxNew: o.MaxNew, Sampling: o.Sampling, Stop: tok.EOSIDs()}
		requests[i].Sampling.Stream = uint64(i)
	}
	got, err := engine.Run(ctx, m, requests, o.Progress)
	if err != nil {
		return nil, err
	}
	a := &Answers{Text: make([]string, len(qs)), Right: make([]float64, len(qs))}
	for i, g := range got {
		a.Text[i] = tok.Decode(g.IDs, true)
		if strings.TrimSpace(a.Text[i]) == strings.TrimSpace(qs[i].Want) {
			a.Right[i] = 1
		}
	}
	return a, nil
}

// Metric is the share of right answers.
func (a *Answers) Metric() Metric {
	s := a.Series()
	mean, se := interval(s.Sum, s.Weight)
	return Metric{Task: "exact_match", Metric: "exact_match", Value: mean, StdErr: se, N: len(a.Right)}
}

// Series is the answers for a gate.
func (a *Answers) Series() Series {
	w := make([]float64, len(a.Right))
	for i := range w {
		w[i] = 1
	}
	return Series{Sum: a.Right, Weight: w}
}

// SeriesOf is a metric of scores by sample, for gates: perplexity, kl or top1.
func SeriesOf(scores []Score, metric string) Series {
	s := Series{Log: metric == "perplexity"}
	for _, x := range scores {
		a, w := x.NLL, float64(x.Targets)
		switch metric {
		case "kl":
			a, w = x.KL, float64(x.Pos)
		case "top1":
			a, w = x.Same, float64(x.Pos)
		}
		s.Sum, s.Weight = append(s.Sum, a), append(s.Weight, w)
	}
	return s
}
