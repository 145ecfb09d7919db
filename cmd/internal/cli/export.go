package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

func exportCommand() *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "a model as GGUF or as a plain safetensors folder",
		Description: examples("tune export --model merged --format gguf --type Q4_K_M --output M-Q4_K_M.gguf",
			"tune export --model M-Q4_K_M.gguf --format safetensors --type BF16 --output M-bf16"),
		Flags: modelFlags(append(optionFlags(&stages.Export{}, "format"), modelFlag(), nameOutputFlag(), forceFlag(),
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, F16, … (gguf; default Q4_K_M) or BF16, F16, F32 (safetensors; default BF16)"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix"})...),
		Action: func(c *ucli.Context) error {
			if err := required(c, "model", "output"); err != nil {
				return err
			}
			var o stages.Export
			if err := readOptions(c, &o, "format"); err != nil {
				return err
			}
			if typ := c.String("type"); typ != "" {
				o.Type = schema.Names{typ}
			}
			o.Fill()
			if o.Format == "gguf" {
				return ggufJob(c, gguf.Options{Type: o.Type[0], AllowRequantize: true, Force: c.Bool("force")})
			}
			path, err := resolvePath(c.String("model"))
			if err != nil {
				return err
			}
			progress, clear := bar(c, "export", "tensors")
			defer clear()
			return writeOutput(c, outputOf(c, path), func() error {
				return stages.ExportSafetensors(c.Context, path, outputOf(c, path), o.Type[0], progress)
			})
		},
	}
}
