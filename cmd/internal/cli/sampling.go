package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/kernels"
)

func samplingFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.IntFlag{Name: "max-new-tokens", Value: 256, Usage: "tokens of an answer"},
		&ucli.Float64Flag{Name: "temperature", Usage: "0 is greedy"},
		&ucli.IntFlag{Name: "top-k", Usage: "0: off"},
		&ucli.Float64Flag{Name: "top-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "min-p", Usage: "0: off"},
		&ucli.Float64Flag{Name: "repetition-penalty", Usage: "0: off"},
		&ucli.Uint64Flag{Name: "seed", Value: 42},
	}
}

// requestOf is a request without a prompt, as the sampling flags say.
func requestOf(c *ucli.Context) (engine.Request, error) {
	r := engine.Request{MaxNew: c.Int("max-new-tokens"), Sampling: kernels.SampleRow{
		Temperature: c.Float64("temperature"), TopK: c.Int("top-k"), TopP: c.Float64("top-p"), MinP: c.Float64("min-p"),
		RepetitionPenalty: c.Float64("repetition-penalty"), Seed: c.Uint64("seed"),
	}}
	s := &r.Sampling
	if r.MaxNew < 1 || s.Temperature < 0 || s.TopK < 0 || s.TopP < 0 || s.TopP > 1 || s.MinP < 0 || s.MinP > 1 || s.RepetitionPenalty < 0 {
		return r, usagef(c, "a sampling value is out of range")
	}
	return r, nil
}
