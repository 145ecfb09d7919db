package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/train/eval"
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

func samplingOf(c *ucli.Context) (eval.GenerateOptions, error) {
	o := eval.GenerateOptions{MaxNew: c.Int("max-new-tokens"), Sampling: eval.Sampling{
		Temperature: c.Float64("temperature"), TopK: c.Int("top-k"), TopP: c.Float64("top-p"), MinP: c.Float64("min-p"),
		RepetitionPenalty: c.Float64("repetition-penalty"), Seed: c.Uint64("seed"),
	}}
	if o.MaxNew < 1 || o.Temperature < 0 || o.TopK < 0 || o.TopP < 0 || o.TopP > 1 || o.MinP < 0 || o.MinP > 1 || o.RepetitionPenalty < 0 {
		return o, usagef(c, "a sampling value is out of range")
	}
	return o, nil
}
