package cli

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/lora"
)

func verifyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "read an artifact whole; exit 3 and what is wrong with it", ArgsUsage: "PATH",
		Description: examples("tune verify runs/support/merged"),
		Action: func(c *ucli.Context) error {
			if err := args(c, "PATH", 1); err != nil {
				return err
			}
			path, err := resolvePath(c.Args().First())
			if err != nil {
				return err
			}
			if err := formats.Verify(path); err != nil {
				return err
			}
			if err := loads(path); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, "ok")
			return nil
		},
	}
}

// loads refuses what would be refused when the artifact is used: a model whose
// config and tensors do not belong together, an adapter that cannot be read.
func loads(path string) error {
	r, err := formats.Open(path)
	if err != nil {
		return err
	}
	if _, adapter := r.File("adapter_config.json"); adapter && r.Config() == nil {
		r.Close()
		_, err := lora.ReadFolder(path)
		return err
	}
	if !isModel(r) {
		return r.Close()
	}
	src, err := arch.FromReader(r)
	if err != nil {
		r.Close()
		return err
	}
	return src.Close()
}

// isModel reports whether r says that it is a model: it may be other tensors, or
// the importance matrix of a GGUF.
func isModel(r formats.Reader) bool {
	if r.Format() != "gguf" {
		return r.Config() != nil
	}
	kind := "model"
	for _, kv := range r.KV() {
		if s, ok := kv.Value.(string); ok && kv.Key == "general.type" {
			kind = s
		}
	}
	return kind == "model" && len(r.Tensors()) > 0
}
