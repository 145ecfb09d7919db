package eval

import (
	"context"
	"regexp"
	"slices"
	"strconv"
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

// Filter finds the part of an answer that counts. The zero value takes all of it.
type Filter struct{ re *regexp.Regexp }

// NewFilter takes the first match of a pattern, of which the first group where it
// has some; "" takes the whole answer.
func NewFilter(pattern string) (f Filter, err error) {
	if pattern != "" {
		f.re, err = regexp.Compile(pattern)
	}
	return f, err
}

// Of is the part of a text that counts, without the space around it; false where
// nothing matches.
func (f Filter) Of(text string) (string, bool) {
	if f.re == nil {
		return strings.TrimSpace(text), true
	}
	m := f.re.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return strings.TrimSpace(m[min(1, len(m)-1)]), true
}

// Same reports whether an answer says what was wanted. What a pattern has found
// is compared as numbers where it is some: 1,000 and 1000. are one.
func (f Filter) Same(got, want string) bool {
	g, ok := f.Of(got)
	w, ok2 := f.Of(want)
	if !ok || !ok2 {
		return false
	}
	if f.re != nil {
		a, err := number(g)
		b, err2 := number(w)
		if err == nil && err2 == nil {
			return a == b
		}
	}
	return g == w
}

func number(s string) (float64, error) {
	return strconv.ParseFloat(strings.TrimSuffix(strings.ReplaceAll(strings.TrimPrefix(s, "$"), ",", ""), "."), 64)
}

// Answers is what a model answered.
type Answers struct {
	Text   []string
	Tokens []int     // of each
	Right  []float64 // 1 where the answer is what was wanted
}

// AnswerOptions say how questions are answered.
type AnswerOptions struct {
	MaxNew   int               // tokens of an answer
	Sampling kernels.SampleRow // question i has stream i
	Filter   Filter            // what counts of an answer
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
	a := &Answers{Text: make([]string, len(qs)), Right: make([]float64, len(qs)), Tokens: make([]int, len(qs))}
	for i, g := range got {
		a.Text[i], a.Tokens[i] = tok.Decode(g.IDs, true), len(g.IDs)
		if o.Filter.Same(a.Text[i], qs[i].Want) {
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
