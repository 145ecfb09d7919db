package stages

import (
	"context"
	"slices"
	"time"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/train/eval"
)

// Speed is how fast a model reads a prompt and answers it, over some rounds.
// Rates are of the best round.
type Speed struct {
	Prompt       int     `json:"prompt_tokens"`
	New          int     `json:"new_tokens"`
	PromptRate   float64 `json:"prompt_tokens_per_second"`
	PromptMedian float64 `json:"prompt_tokens_per_second_median"`
	DecodeRate   float64 `json:"decode_tokens_per_second"`
	DecodeMedian float64 `json:"decode_tokens_per_second_median"`
	P50          float64 `json:"latency_ms_p50"` // of a token, over all rounds
	P95          float64 `json:"latency_ms_p95"`
}

// MeasureSpeed times prompts of a number of tokens and as many greedy tokens
// after them as decode says, a round after the other; both are shortened where
// the model's context is.
func MeasureSpeed(ctx context.Context, m *Loaded, prompt, decode, rounds int, progress func(done, total int64)) (*Speed, error) {
	text := make([]int32, prompt) // any tokens take the same time
	for i := range text {
		text[i] = int32(i * 7919 % m.Spec.V)
	}
	s := &Speed{}
	var read, made []float64
	var each []float32
	for i := range rounds {
		progress(int64(i), int64(rounds))
		p, err := eval.Measure(ctx, m.Model, text, prompt, decode)
		if err != nil {
			return nil, err
		}
		s.Prompt, s.New = p.Prompt, p.New
		read, made, each = append(read, p.PromptRate()), append(made, p.DecodeRate()), append(each, p.Each...)
	}
	slices.Sort(read)
	slices.Sort(made)
	slices.Sort(each)
	all := eval.Pace{Each: each}
	s.PromptRate, s.PromptMedian = read[rounds-1], read[rounds/2]
	s.DecodeRate, s.DecodeMedian = made[rounds-1], made[rounds/2]
	s.P50, s.P95 = all.Latency(0.5), all.Latency(0.95)
	return s, nil
}

// AnswerSpeed is how fast a model answers prompts side by side, over some rounds. The
// rate is of the best round: tokens made a second, in the time that prompts took, too.
type AnswerSpeed struct {
	Answers int     `json:"answers"`
	Prompt  int     `json:"prompt_tokens"` // of each
	New     int     `json:"new_tokens"`    // of each
	Rate    float64 `json:"tokens_per_second"`
	Median  float64 `json:"tokens_per_second_median"`
}

// MeasureAnswers times answers, drawn at temperature 1, to different prompts of a number
// of tokens, engine.Together at a time, a round after the other. None ends before it has as many
// tokens as fresh says; prompt and fresh are shortened where the model's context is.
func MeasureAnswers(ctx context.Context, m *Loaded, answers, prompt, fresh, rounds int, progress func(done, total int64)) (*AnswerSpeed, error) {
	s := &AnswerSpeed{Answers: answers, Prompt: prompt, New: fresh}
	if most := m.Spec.Context(); most > 0 {
		s.Prompt = min(prompt, most/2)
		s.New = min(fresh, most-s.Prompt)
	}
	requests := make([]engine.Request, answers)
	for i := range requests {
		ids := make([]int32, s.Prompt)
		for j := range ids {
			ids[j] = int32((i + j*7919) % m.Spec.V) // any tokens take the same time
		}
		requests[i] = engine.Request{Prompt: ids, MaxNew: s.New, Sampling: kernels.SampleRow{Temperature: 1, Seed: 42, Stream: uint64(i)}}
	}
	var rates []float64
	for i := range rounds {
		progress(int64(i), int64(rounds))
		began := time.Now()
		if _, err := engine.Run(ctx, m.Model, requests, nil); err != nil {
			return nil, err
		}
		rates = append(rates, float64(answers*s.New)/time.Since(began).Seconds())
	}
	slices.Sort(rates)
	s.Rate, s.Median = rates[rounds-1], rates[rounds/2]
	return s, nil
}
