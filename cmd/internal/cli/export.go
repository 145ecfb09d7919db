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
		Flags: modelFlags(append(append(optionFlags(&stages.Export{}, "format"), batchFlags(" and {type}")...),
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
				return ggufJobs(c, gguf.Options{Type: o.Type[0], AllowRequantize: true, Force: c.Bool("force")})
			}
			if c.IsSet("imatrix") {
				return usagef(c, "--imatrix: a safetensors folder of type %s is not quantized", o.Type[0])
			}
			list, many, err := tasks(c, map[string]string{"type": o.Type[0]})
			if err != nil {
				return err
			}
			return batch(c, list, many, remembering(c, many, func(t task) (*outcome, error) {
				path, err := resolvePath(t.Model)
				if err != nil {
					return nil, err
				}
				dev, err := openDevice(c)
				if err != nil {
					return nil, err
				}
				defer dev.Close()
				progress, clear := bar(c, "export", "tensors")
				defer clear()
				err = writeOutput(c, t.Output, func() error {
					return stages.ExportSafetensors(c.Context, dev, path, t.Output, o.Type[0], progress, noteOn(c))
				})
				return &outcome{json: t, how: o.Type[0]}, err
			}))
		},
	}
}
