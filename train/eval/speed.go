package eval

import (
	"context"
	"slices"
	"time"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/kernels"
)

// The workload of Speed.
const (
	speedPrompt = 512
	speedNew    = 64
)

// Pace is what one prompt and its answer took.
type Pace struct {
	Prompt, New int           // tokens
	PromptTime  time.Duration // of all of the prompt
	Each        []float32     // milliseconds of each new token after the first, ascending
}

// PromptRate is the prompt's tokens a second.
func (p *Pace) PromptRate() float64 { return float64(p.Prompt) / p.PromptTime.Seconds() }

// DecodeRate is the new tokens a second.
func (p *Pace) DecodeRate() float64 {
	var ms float64
	for _, v := range p.Each {
		ms += float64(v)
	}
	return 1000 * float64(len(p.Each)) / ms
}

// Latency is the q-th quantile of a new token's milliseconds.
func (p *Pace) Latency(q float64) float64 { return quantile(p.Each, q) }

// Measure times a prompt and its greedy answer of fresh tokens, a token at a
// time. Text is cut or repeated to the prompt; both are shortened where the
// model's context is.
func Measure(ctx context.Context, m *model.Model, text []int32, prompt, fresh int) (*Pace, error) {
	p := &Pace{Prompt: min(prompt, m.Spec.MaxPos/2)}
	p.New = min(fresh, m.Spec.MaxPos-p.Prompt)
	var ids []int32
	for len(ids) < p.Prompt {
		ids = append(ids, text[:min(len(text), p.Prompt-len(ids))]...)
	}
	cache, err := m.NewCache(1, p.Prompt+p.New)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	if m.Spec.Encoder > 0 {
		cache.Source(0, ids)
		ids = []int32{m.Spec.Start}
	}
	greedy := []*kernels.SampleRow{{}}
	t := time.Now()
	next, err := m.Choose(cache, []model.Piece{{Tokens: ids}}, greedy)
	p.PromptTime = time.Since(t)
	for range p.New - 1 {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		t := time.Now()
		next, err = m.Choose(cache, []model.Piece{{Tokens: next}}, greedy)
		p.Each = append(p.Each, float32(time.Since(t).Seconds()*1000))
	}
	slices.Sort(p.Each)
	return p, err
}

// Speed times one prompt and an answer on text that is cut or repeated to 512
// tokens: prompt and decode tokens a second, and the latency of a token.
func Speed(ctx context.Context, m *model.Model, text []int32) ([]Metric, error) {
	p, err := Measure(ctx, m, text, speedPrompt, speedNew)
	if err != nil {
		return nil, err
	}
	n := len(p.Each)
	return []Metric{
		{Task: "speed", Metric: "prompt_tokens_per_second", Value: p.PromptRate(), N: p.Prompt},
		{Task: "speed", Metric: "decode_tokens_per_second", Value: p.DecodeRate(), N: n},
		{Task: "speed", Metric: "latency_ms_p50", Value: p.Latency(0.5), N: n},
		{Task: "speed", Metric: "latency_ms_p95", Value: p.Latency(0.95), N: n},
	}, nil
}
