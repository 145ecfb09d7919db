package train

import (
	"maps"
	"slices"

	"github.com/tunekit/tunekit/kernels"
)

// optimizers lists what `optimizer` can be. The update rules are the waist's
// (torch.optim.AdamW and SGD, single tensor).
var optimizers = map[OptimizerName]struct {
	kind  kernels.OptimKind
	m, v  func(c Config) bool    // which moments are kept
	beta1 func(c Config) float64 // decay of the first one
}{
	"adamw": {kernels.AdamW, always, always, func(c Config) float64 { return *c.AdamBeta1 }},
	"sgd":   {kernels.SGD, func(c Config) bool { return c.Momentum > 0 }, never, func(c Config) float64 { return c.Momentum }},
}

// OptimizerName is an optimizer of the table.
type OptimizerName string

// Enum lists the optimizers.
func (OptimizerName) Enum() []string { return names(optimizers) }

// names are the keys of a table in order, as words of an option.
func names[K ~string, V any](table map[K]V) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(table)) {
		out = append(out, string(k))
	}
	return out
}

func always(Config) bool { return true }
func never(Config) bool  { return false }
