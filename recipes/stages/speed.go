package stages

import (
	"context"
	"slices"

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
