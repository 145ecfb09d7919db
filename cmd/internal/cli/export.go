package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes/stages"
)

func exportCommand() *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "a model as GGUF or as a plain safetensors folder",
		Description: examples("tune export --model merged --format gguf --type Q4_K_M --output M-Q4_K_M.gguf",
			"tune export --model M-Q4_K_M.gguf --format safetensors --type BF16 --output M-bf16"),
		Flags: modelFlags(modelFlag(), outputFlag(), forceFlag(),
			&ucli.StringFlag{Name: "format", Value: "gguf", Usage: "gguf or safetensors"},
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, F16, … (gguf; default Q4_K_M) or BF16, F16, F32 (safetensors; default BF16)"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix"}),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "output"); err != nil {
				return err
			}
			switch c.String("format") {
			case "gguf":
				typ := c.String("type")
				if typ == "" {
					typ = "Q4_K_M"
				}
				return ggufJob(c, gguf.Options{Type: typ, AllowRequantize: true, Force: c.Bool("force")})
			case "safetensors":
				typ := c.String("type")
				if typ == "" {
					typ = "BF16"
				}
				path, err := resolvePath(c.String("model"))
				if err != nil {
					return err
				}
				progress, clear := bar(c, "export", "tensors")
				defer clear()
				return writeOutput(c, c.String("output"), func() error {
					return stages.ExportSafetensors(c.Context, path, c.String("output"), typ, progress)
				})
			}
			return usagef(c, "--format %q: gguf or safetensors", c.String("format"))
		},
	}
}
