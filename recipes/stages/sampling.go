package stages

import (
	"encoding/json"
	"path/filepath"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// generation is what a generation_config.json says of sampling, in Transformers'
// terms.
type generation struct {
	DoSample          *bool    `json:"do_sample"`
	Temperature       *float64 `json:"temperature"`
	TopK              *int     `json:"top_k"`
	TopP              *float64 `json:"top_p"`
	MinP              *float64 `json:"min_p"`
	RepetitionPenalty *float64 `json:"repetition_penalty"`
}

// Sampling is how the makers of the model want its tokens chosen, as their
// generation_config.json says; false where it says nothing of it.
func (l *Loaded) Sampling() (s kernels.SampleRow, given bool, err error) {
	const name = "generation_config.json"
	raw, err := l.Src.Reader.File(name)
	if err != nil || raw == nil {
		return s, false, err
	}
	var g generation
	if err := json.Unmarshal(raw, &g); err != nil {
		return s, false, fail.Inputf(filepath.Join(l.Path, name), "", "%w", err)
	}
	given = g.DoSample != nil || g.Temperature != nil || g.TopK != nil || g.TopP != nil || g.MinP != nil || g.RepetitionPenalty != nil
	if g.RepetitionPenalty != nil {
		s.RepetitionPenalty = *g.RepetitionPenalty
	}
	if g.DoSample != nil && !*g.DoSample {
		return s, given, nil // greedy
	}
	s.Temperature = 1 // Transformers' defaults
	if g.Temperature != nil {
		s.Temperature = *g.Temperature
	}
	if s.TopK = 50; g.TopK != nil {
		s.TopK = *g.TopK
	}
	if g.TopP != nil {
		s.TopP = *g.TopP
	}
	if g.MinP != nil {
		s.MinP = *g.MinP
	}
	return s, given, nil
}
