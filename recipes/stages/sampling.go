package stages

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

const generationConfig = "generation_config.json"

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

// otherwise are keys of Transformers that choose tokens in ways that are not here, with
// the values that change nothing, besides null and what is empty.
var otherwise = map[string]float64{
	"bad_words_ids": 0, "begin_suppress_tokens": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
	"exponential_decay_length_penalty": 0, "forced_bos_token_id": -1, "forced_eos_token_id": -1, "guidance_scale": 1, "min_length": 0, "min_new_tokens": 0,
	"no_repeat_ngram_size": 0, "num_beams": 1, "penalty_alpha": 0, "sequence_bias": 0, "stop_strings": 0, "suppress_tokens": 0, "top_h": 0, "typical_p": 1, "watermarking_config": 0,
}

// Sampling is how the makers of the model want its tokens chosen, as their
// generation_config.json says; false where it says nothing of it. Unused are its keys
// that choose tokens in ways that are not here. A value that no sampling could have is an
// error of kind fail.Input.
func (l *Loaded) Sampling() (s kernels.SampleRow, given bool, unused []string, err error) {
	return sampling(l.Src, l.Path)
}

// sampling is Sampling of a model that is not loaded; path is for errors.
func sampling(src *arch.Source, path string) (s kernels.SampleRow, given bool, unused []string, err error) {
	raw, err := src.Reader.File(generationConfig)
	if err != nil || raw == nil {
		return s, false, nil, err
	}
	var g generation
	where := filepath.Join(path, generationConfig)
	if err := json.Unmarshal(raw, &g); err != nil {
		return s, false, nil, fail.Inputf(where, "", "%w", err)
	}
	if err := g.check(where); err != nil {
		return s, false, nil, err
	}
	if unused, err = unusedIn(raw); err != nil {
		return s, false, nil, fail.Inputf(where, "", "%w", err)
	}
	given = g.DoSample != nil || g.Temperature != nil || g.TopK != nil || g.TopP != nil || g.MinP != nil || g.RepetitionPenalty != nil
	if g.RepetitionPenalty != nil {
		s.RepetitionPenalty = *g.RepetitionPenalty
	}
	if g.DoSample != nil && !*g.DoSample { // Transformers is greedy without the key, too; vLLM and llama.cpp use what is written
		return s, given, unused, nil // greedy
	}
	s.Temperature = 1 // Transformers' defaults
	if g.Temperature != nil {
		s.Temperature = *g.Temperature
	}
	if s.TopK = 50; g.TopK != nil {
		s.TopK = max(*g.TopK, 0)
	}
	if g.TopP != nil {
		if s.TopP = *g.TopP; s.TopP == 0 {
			s.TopK = 1 // the best token is always left
		}
	}
	if g.MinP != nil {
		s.MinP = *g.MinP
	}
	return s, given, unused, nil
}

// check refuses what Transformers refuses. A temperature of 0 is greedy and top_k of -1
// none, as vLLM has it.
func (g *generation) check(where string) error {
	for _, v := range []struct {
		key    string
		v      *float64
		lo, hi float64
		text   string
	}{
		{"temperature", g.Temperature, 0, 1e30, "a number from 0"},
		{"top_p", g.TopP, 0, 1, "a number from 0 to 1"},
		{"min_p", g.MinP, 0, 1, "a number from 0 to 1"},
		{"repetition_penalty", g.RepetitionPenalty, 1e-30, 1e30, "a number above 0"},
	} {
		if v.v != nil && !(*v.v >= v.lo && *v.v <= v.hi) {
			return fail.Inputf(where, "correct it, or remove the key", "%s is %g, expected %s", v.key, *v.v, v.text)
		}
	}
	if g.TopK != nil && *g.TopK < -1 {
		return fail.Inputf(where, "correct it, or remove the key", "top_k is %d, expected a whole number from 0", *g.TopK)
	}
	return nil
}

// unusedIn names the keys of a generation_config.json that say something otherwise lists.
func unusedIn(raw []byte) (unused []string, err error) {
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(otherwise)) {
		used := true
		switch v := all[key].(type) {
		case nil:
			used = false
		case float64:
			used = v != otherwise[key]
		case []any:
			used = len(v) > 0
		case map[string]any:
			used = len(v) > 0
		}
		if used {
			unused = append(unused, key)
		}
	}
	return unused, nil
}
