package cli

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/device"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// openDevice opens the device that the common flags ask for.
func openDevice(c *ucli.Context) (kernels.Backend, error) {
	limit, err := memoryLimit(c)
	if err != nil {
		return nil, err
	}
	n, err := threads(c)
	if err != nil {
		return nil, err
	}
	dev, err := device.Open(c.String("device"), device.Options{Threads: n, MemoryLimit: limit})
	if name := c.String("dtype"); err == nil && name != "" && name != "auto" {
		if _, err = stages.ParseBF16(dev, name); err != nil { // also where no model is run
			dev.Close()
			return nil, err
		}
	}
	return dev, err
}

// openModel loads --model with its --adapter folders; the caller closes it and
// then its device. auto is what --dtype auto means for this command: exact
// arithmetic for measurements.
func openModel(c *ucli.Context, path, auto string) (*stages.Loaded, error) {
	dev, err := openDevice(c)
	if err != nil {
		return nil, err
	}
	m, err := openModelOn(c, dev, path, auto)
	if err != nil {
		dev.Close()
	}
	return m, err
}

func openModelOn(c *ucli.Context, dev kernels.Backend, path, auto string) (*stages.Loaded, error) {
	name := c.String("dtype")
	if name == "" || name == "auto" {
		name = auto
	}
	bf16, err := stages.ParseBF16(dev, name)
	if err != nil {
		return nil, err
	}
	m, err := stages.LoadModel(dev, path, stages.ModelOptions{Adapters: c.StringSlice("adapter"), BF16: bf16, Note: noteOn(c)})
	if err == nil {
		m.Fast = name != "f32"
	}
	return m, err
}

// noteOn tells the user what a command found out.
func noteOn(c *ucli.Context) func(string) {
	return func(s string) { fmt.Fprintln(c.App.ErrWriter, "note: "+harmless(s)) }
}

// resolvePath maps hf://… to the local cache; other paths stay.
func resolvePath(path string) (string, error) { return recipes.ResolvePath(path) }
