package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

func exportCommand() *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "a model as GGUF or as a plain safetensors folder",
		Description: examples("tune export --model merged --format gguf --type Q4_K_M --output M-Q4_K_M.gguf",
			"tune export --model M-Q4_K_M.gguf --format safetensors --type BF16 --output M-bf16",
			"tune export --model models/M --adapter runs/support/adapter --output support.gguf"),
		Flags: modelFlags(append(append(optionFlags(&stages.Export{}, "format"), batchFlags(" and {type}")...),
			&ucli.StringFlag{Name: "type", Usage: "Q4_K_M, Q8_0, F16, … (gguf; default Q4_K_M) or BF16, F16, F32 (safetensors; default BF16)"},
			&ucli.StringFlag{Name: "adapter", Usage: "it alone, as a GGUF (type F32, F16, BF16 or Q8_0; default F32) or, of a GGUF, as a PEFT folder; --model is its base (default: what it names)"},
			&ucli.StringFlag{Name: "imatrix", Usage: "importance matrix"})...),
		Action: func(c *ucli.Context) error {
			if c.IsSet("adapter") {
				return exportAdapter(c)
			}
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
			if out := c.String("output"); lora.IsGGUF(out) {
				return usagef(c, "--output %s: the name of a folder (--format safetensors) does not end in .gguf", out)
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

// exportAdapter writes an adapter alone.
func exportAdapter(c *ucli.Context) error {
	if err := required(c, "output"); err != nil {
		return err
	}
	for _, flag := range []string{"imatrix", "shard", "summary"} {
		if c.IsSet(flag) {
			return usagef(c, "--%s belongs to models, not to an adapter", flag)
		}
	}
	base, out, name := "", c.String("output"), "F32"
	switch models := c.StringSlice("model"); {
	case len(models) > 1:
		return usagef(c, "an adapter has one base, found %d", len(models))
	case len(models) == 1:
		base = models[0]
	}
	if c.IsSet("type") {
		name = c.String("type")
	}
	typ, err := stages.ParseAdapterType(name)
	if err != nil {
		return err
	}
	folder := c.IsSet("format") && c.String("format") == "safetensors"
	if folder == lora.IsGGUF(out) {
		return usagef(c, "--output %s: the name of a GGUF ends in .gguf, that of a folder (--format safetensors) does not", out)
	}
	if folder && c.IsSet("type") {
		return usagef(c, "--type belongs to a GGUF: a PEFT folder is written in F32")
	}
	if !folder {
		if err := fileName(out); err != nil {
			return err
		}
	}
	var f *lora.Folder
	err = writeOutput(c, out, func() (err error) {
		f, err = stages.ExportAdapter(base, c.String("adapter"), out, nameOf(out), typ)
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(c, struct {
		Output string `json:"output"`
		Layers int    `json:"layers"`
		R      int    `json:"r"`
	}{out, f.Layers(), f.Config.R})
}
