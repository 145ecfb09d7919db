package formats

import (
	"strings"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// Configurations of ModelOpt.

// modelopt reports whether a folder is ModelOpt's.
func (g *grouper) modelopt() bool {
	m, _ := g.config.get("quant_method").(string)
	return strings.HasPrefix(m, "modelopt")
}

// modeloptConfig is what a configuration of ModelOpt says: itself, or what stands under
// "quantization", as in its own file.
func modeloptConfig(o object) object {
	own, ok := o.get("quantization").(object)
	if m := o.get("quant_method"); ok && m != nil {
		own = own.set("quant_method", m)
	}
	if ok {
		return own
	}
	return o
}

// modeloptInputs is the inputs of a module by ModelOpt's own words, which it and servers go by where
// there are groups, too: an algorithm for all modules, or for each.
func (g *grouper) modeloptInputs(module string) (t dtype.Type, grid inputGrid, left string) {
	algo, _ := g.config.get("quant_algo").(string)
	layers, _ := g.config.get("quantized_layers").(object)
	if own, ok := layers.get(module).(object); ok {
		algo, _ = own.get("quant_algo").(string)
	}
	algo = strings.ToUpper(algo)
	switch scale := module + ".input_scale"; {
	case algo == "":
		return t, grid, "not said: quant_algo is missing"
	case algo == "FP8_PB_WO" || strings.HasPrefix(algo, "W4A16") || strings.HasPrefix(algo, "W8A16"):
		return t, grid, ""
	case algo == "FP8" && g.single(scale):
		return ActFP8, inputGrid{scale}, ""
	case algo == "FP8_PER_CHANNEL_PER_TOKEN":
		return ActFP8, grid, ""
	}
	return t, grid, "as ModelOpt's " + quote(algo) + " has it"
}
