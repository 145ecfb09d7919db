package train

import "github.com/tunekit/tunekit/kernels"

// optimizers lists what `optimizer` can be. The update rules are the waist's
// (torch.optim.AdamW and SGD, single tensor).
var optimizers = map[string]struct {
	kind kernels.OptimKind
	m, v func(c Config) bool // which moments are kept
}{
	"adamw": {kernels.AdamW, always, always},
	"sgd":   {kernels.SGD, func(c Config) bool { return c.Momentum > 0 }, never},
}

func always(Config) bool { return true }
func never(Config) bool  { return false }
