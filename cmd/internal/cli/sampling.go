package cli

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// samplingFlags say how answers are made; usual tells what --temperature is when
// it is not given.
func samplingFlags(usual string) []ucli.Flag {
	return []ucli.Flag{
		&ucli.IntFlag{Name: "max-new-tokens", Value: 256, Usage: "tokens of an answer"},
		&ucli.Float64Flag{Name: "temperature", Usage: "0 is greedy" + usual},
		&ucli.IntFlag{Name: "top-k", Usage: "0: off"},
		&ucli.Float64Flag{Name: "top-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "min-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "repetition-penalty", Usage: "0: off"},
		&ucli.Uint64Flag{Name: "seed", Value: 42, Usage: "of the random numbers"},
		&ucli.StringSliceFlag{Name: "stop", Usage: "text that ends an answer and is no part of it (may repeat)"},
	}
}

// setting is one number that says how an answer is made: a flag, and with
// underscores a field of a row.
type setting struct {
	flag   string
	lo, hi float64
	whole  bool
	set    func(r *engine.Request, v float64)
}

var settings = []setting{
	{"max-new-tokens", 1, 1e9, true, func(r *engine.Request, v float64) { r.MaxNew = int(v) }},
	{"temperature", 0, 100, false, func(r *engine.Request, v float64) { r.Sampling.Temperature = v }},
	{"top-k", 0, 1e9, true, func(r *engine.Request, v float64) { r.Sampling.TopK = int(v) }},
	{"top-p", 0, 1, false, func(r *engine.Request, v float64) { r.Sampling.TopP = v }},
	{"min-p", 0, 1, false, func(r *engine.Request, v float64) { r.Sampling.MinP = v }},
	{"repetition-penalty", 0, 100, false, func(r *engine.Request, v float64) { r.Sampling.RepetitionPenalty = v }},
	{"seed", 0, 1 << 53, true, func(r *engine.Request, v float64) { r.Sampling.Seed = uint64(v) }},
}

// apply checks a value and takes it over; name is how it was given.
func (s *setting) apply(r *engine.Request, name string, v float64) error {
	if !(v >= s.lo && v <= s.hi) || s.whole && v != float64(int64(v)) {
		kind := "a number"
		if s.whole {
			kind = "a whole number"
		}
		return fail.Usagef("", "", "%s %v: want %s from %v to %.0f", name, v, kind, s.lo, s.hi)
	}
	s.set(r, v)
	return nil
}

// requestOf is a request without a prompt, as the sampling flags say; what they do
// not say is base's.
func requestOf(c *ucli.Context, base kernels.SampleRow) (engine.Request, error) {
	r := engine.Request{MaxNew: c.Int("max-new-tokens"), Sampling: base, StopTexts: c.StringSlice("stop")}
	r.Sampling.Seed = c.Uint64("seed")
	for i := range settings {
		s := &settings[i]
		if !c.IsSet(s.flag) || s.flag == "seed" {
			continue
		}
		v := c.Float64(s.flag)
		if s.whole {
			v = float64(c.Int(s.flag))
		}
		if err := s.apply(&r, "--"+s.flag, v); err != nil {
			return r, err
		}
	}
	for _, t := range r.StopTexts {
		if t == "" {
			return r, usagef(c, "--stop: the text is empty")
		}
	}
	return r, greedyOnly(&r.Sampling, func(flag string) (string, bool) { return "--" + flag, c.IsSet(flag) })
}

// greedyOnly refuses settings that choose among tokens where the best is always
// taken; what the model's defaults say of it is dropped. given is how one was
// spelled, if it was.
func greedyOnly(s *kernels.SampleRow, given func(flag string) (name string, ok bool)) error {
	if s.Temperature > 0 {
		return nil
	}
	for _, x := range []struct {
		flag string
		acts bool
	}{{"top-k", s.TopK > 1}, {"top-p", s.TopP > 0 && s.TopP < 1}, {"min-p", s.MinP > 0}} {
		if name, ok := given(x.flag); ok && x.acts {
			return fail.Usagef("", "give a temperature, too, such as 0.8, or leave it out", "%s does nothing with temperature 0, which always takes the likeliest token", name)
		}
	}
	s.TopK, s.TopP, s.MinP = 0, 0, 0
	return nil
}

// rowRequest is a request with the settings that a row gives itself, and the
// row's other fields.
func rowRequest(d *jinja.Dict, r engine.Request) (engine.Request, *jinja.Dict, error) {
	rest := jinja.NewDict()
	for i := range d.Len() {
		k, v := d.At(i)
		name := fmt.Sprint(k)
		s := settingOf(name)
		switch {
		case s != nil:
			var f float64
			switch v := v.(type) {
			case int64:
				f = float64(v)
			case float64:
				f = v
			default:
				return r, nil, fail.Usagef("", "a number", "%s: found %s", name, jsonText(v))
			}
			if err := s.apply(&r, name, f); err != nil {
				return r, nil, err
			}
		case name == "stop":
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			r.StopTexts = nil
			for _, t := range list {
				text, ok := t.(string)
				if !ok || text == "" {
					return r, nil, fail.Usagef("", "a text or a list of texts", "stop: found %s", jsonText(v))
				}
				r.StopTexts = append(r.StopTexts, text)
			}
		default:
			rest.Set(name, v)
		}
	}
	return r, rest, greedyOnly(&r.Sampling, func(flag string) (string, bool) {
		_, ok := d.Get(field(flag))
		return field(flag), ok
	})
}

// field is a flag as rows spell it.
func field(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

func settingOf(name string) *setting {
	for i := range settings {
		if field(settings[i].flag) == name {
			return &settings[i]
		}
	}
	return nil
}
