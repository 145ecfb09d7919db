package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/recipes/schema"
)

// modelFlags are common to every command that runs a model.
func modelFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "device", Value: "auto", Usage: "auto, cpu or cuda:0", EnvVars: []string{"TUNE_DEVICE"}},
		&cli.IntFlag{Name: "threads", Usage: "worker threads (default: all cores); never changes a result", EnvVars: []string{"TUNE_THREADS"}},
		&cli.StringFlag{Name: "memory-limit", Usage: "refuse what would need more, e.g. 8GiB (default: 0.9 of the available memory)", EnvVars: []string{"TUNE_MEMORY_LIMIT"}},
		&cli.StringFlag{Name: "dtype", Value: "auto", Usage: "arithmetic: auto, f32 or bf16; auto rounds what quantized weights are multiplied with to 8 bits where answers are made, as llama.cpp does, f32 does not"},
		&cli.BoolFlag{Name: "json", Usage: "one JSON object a line on standard output"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"},
	}, more...)
}

func modelFlag() cli.Flag {
	return &cli.StringFlag{Name: "model", Aliases: []string{"m"}, Usage: "Hugging Face folder, .gguf, quantized folder or hf://org/name@revision"}
}

func adapterFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "adapter", Usage: "PEFT adapter folder or LoRA GGUF (may repeat)"}
}

// threads reads --threads; 0 when it is not given.
func threads(c *cli.Context) (int, error) {
	n := c.Int("threads")
	if n < 0 {
		return 0, usagef(c, "--threads %d: want at least 1, or 0 for all cores", n)
	}
	return n, nil
}

// memoryLimit reads --memory-limit; 0 when it is not given.
func memoryLimit(c *cli.Context) (int64, error) {
	s := c.String("memory-limit")
	if s == "" {
		return 0, nil
	}
	n, err := schema.ParseSize(s)
	if err != nil {
		return 0, usagef(c, "--memory-limit: %v", err)
	}
	return int64(n), nil
}
