package tokenizer

import (
	"math"

	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats"
)

// samplingKeys are the settings of generation_config.json that say how to choose
// tokens and that GGUF has keys for, as llama.cpp's converter writes and reads them.
var samplingKeys = []struct {
	hf, gguf string
	whole    bool // an int32, else a float32
}{
	{"top_k", "general.sampling.top_k", true},
	{"top_p", "general.sampling.top_p", false},
	{"min_p", "general.sampling.min_p", false},
	{"temperature", "general.sampling.temp", false},
	{"repetition_penalty", "general.sampling.penalty_repeat", false},
}

// samplingFromConfig reads them from generation_config.json.
func (t *Tokenizer) samplingFromConfig() error {
	d, err := t.dict("generation_config.json")
	if err != nil || d == nil {
		return err
	}
	for _, k := range samplingKeys {
		v, _ := d.Get(k.hf)
		t.addSampling(k.gguf, k.whole, v)
	}
	return nil
}

// samplingFromGGUF reads them from metadata.
func (t *Tokenizer) samplingFromGGUF(kv map[string]any) {
	for _, k := range samplingKeys {
		t.addSampling(k.gguf, k.whole, kv[k.gguf])
	}
}

// addSampling keeps a setting in GGUF's type; what is no plain number is left out.
func (t *Tokenizer) addSampling(key string, whole bool, v any) {
	var f float64
	switch v := v.(type) {
	case int64:
		f = float64(v)
	case int32:
		f = float64(v)
	case uint32:
		f = float64(v)
	case float32:
		f = float64(v)
	case float64:
		f = v
	default:
		return
	}
	if !(math.Abs(f) <= 1<<30) {
		return
	}
	if whole {
		t.sampling = append(t.sampling, formats.KV{Key: key, Value: int32(f)})
	} else {
		t.sampling = append(t.sampling, formats.KV{Key: key, Value: float32(f)})
	}
}

// hfSampling writes them to generation_config.json, where they count with do_sample.
func (t *Tokenizer) hfSampling(d *jinja.Dict) {
	for _, e := range t.sampling {
		for _, k := range samplingKeys {
			if k.gguf == e.Key {
				d.Set(k.hf, e.Value)
				d.Set("do_sample", true)
			}
		}
	}
}
