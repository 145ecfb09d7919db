package train

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// optimizerKind is an optimizer: a rule of the waist, or one for matrices that is
// made of the waist's products, and what it can be told.
type optimizerKind struct {
	kind              kernels.OptimKind
	beta1, beta2, eps float64 // defaults of adam_beta1, adam_beta2, adam_epsilon; 0: it has no such key
	momentum          float64 // default of momentum; 0: it has no such key; off: it begins without
	args              string  // keys of optim_args
	rate              float64 // usual learning rate; 0: that of the kind of training
	bits8, paged      bool
	late              bool                          // AdamW as Transformers had it: epsilon and decay come later
	matrix            func(o *optimizer) matrixRule // nil: every parameter is updated by kind
	paper             string                        // of matrix
}

// papers say where the rules of the waist come from.
var papers = map[kernels.OptimKind]string{
	kernels.AdamW: "arXiv:1711.05101", kernels.SGD: "torch.optim.SGD", kernels.RMSprop: "torch.optim.RMSprop", kernels.Adagrad: "JMLR 12 (2011)",
	kernels.Lion: "arXiv:2302.06675", kernels.AdEMAMix: "arXiv:2409.03137", kernels.ADOPT: "arXiv:2411.02853", kernels.Adan: "arXiv:2208.06677",
	kernels.FreeAdamW: "arXiv:2405.15682", kernels.FreeSGD: "arXiv:2405.15682", kernels.StableAdamW: "arXiv:2304.13013", kernels.LAMB: "arXiv:1904.00962",
	kernels.AdamMini: "arXiv:2406.16793", kernels.Adafactor: "arXiv:1804.04235", kernels.TorchAdafactor: "torch.optim.Adafactor", kernels.CAME: "arXiv:2307.02047",
	kernels.Prodigy: "arXiv:2306.06101",
}

// OptimizerInfo describes an optimizer for the documentation.
type OptimizerInfo struct {
	Name, Paper    string
	Defaults, Args string  // of the keys that optimizers share, and the names of its optim_args
	State          float64 // bytes it remembers for each value of a matrix of a thousand columns and rows
}

// Optimizers describes all optimizers. dev is a device to measure their memory on.
func Optimizers(dev kernels.Backend) ([]OptimizerInfo, error) {
	const side = 1024
	var out []OptimizerInfo
	for _, name := range names(optimizers) {
		k := optimizers[OptimizerName(name)]
		c, err := Config{Optimizer: OptimizerName(name)}.Resolve(1)
		if err != nil {
			return nil, err
		}
		b, err := dev.Alloc(kernels.Weights, dtype.Of(dtype.F32), side*side)
		if err != nil {
			return nil, err
		}
		p := param{Param: &autograd.Param{Mat: kernels.Mat{Buffer: b, Rows: side, Cols: side, Of: side}}, matrix: true, block: side}
		o, err := newOptimizer(dev, c, &Schedule{}, []param{p}, "")
		if err != nil {
			return nil, err
		}
		info := OptimizerInfo{Name: name, Paper: papers[k.kind], Args: strings.ReplaceAll(k.args, " ", ", "), State: float64(dev.Info().Mem.Now[kernels.Optimizer]+dev.Info().Mem.Now[kernels.Host]) / (side * side)}
		if k.matrix != nil {
			info.Paper = k.paper
		}
		if name == "adam" {
			info.Paper = "arXiv:1412.6980"
		}
		if k.bits8 {
			info.Paper += ", 2110.02861"
		}
		var defaults []string
		for _, d := range []struct {
			key string
			v   *float64
		}{{"adam_beta1", c.AdamBeta1}, {"adam_beta2", c.AdamBeta2}, {"adam_epsilon", c.AdamEpsilon}, {"momentum", c.Momentum}} {
			if d.v != nil {
				defaults = append(defaults, fmt.Sprintf("%s %g", d.key, *d.v))
			}
		}
		info.Defaults = strings.Join(defaults, ", ")
		out = append(out, info)
		o.release()
		dev.Free(b)
	}
	return out, nil
}

// off is a momentum of 0 that may be given.
const off = -1

// The options of families of optimizers.
const (
	projections = "rank update_proj_gap scale proj_type"
	apollos     = projections + " proj scale_type scale_front disable_nl"
	factors     = "scale_parameter relative_step warmup_init clip_threshold decay_rate beta1 eps1 eps2"
	averages    = "r weight_lr_power"
)

// optimizers lists what `optimizer` can be, by Transformers' names where it has one.
var optimizers = map[OptimizerName]optimizerKind{
	"adamw":                {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "amsgrad"},
	"adamw_torch":          {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "amsgrad"},
	"adamw_torch_fused":    {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "amsgrad"},
	"adam":                 {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "amsgrad"},
	"paged_adamw_32bit":    {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, paged: true},
	"adamw_8bit":           {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "min_8bit_size", bits8: true},
	"adamw_bnb_8bit":       {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "min_8bit_size", bits8: true},
	"paged_adamw_8bit":     {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "min_8bit_size", bits8: true, paged: true},
	"sgd":                  {kind: kernels.SGD, momentum: off, args: "nesterov dampening"},
	"rmsprop":              {kind: kernels.RMSprop, eps: 1e-8, momentum: off, args: "alpha centered"},
	"rmsprop_bnb":          {kind: kernels.RMSprop, eps: 1e-8, args: "alpha"},
	"rmsprop_bnb_32bit":    {kind: kernels.RMSprop, eps: 1e-8, args: "alpha"},
	"rmsprop_bnb_8bit":     {kind: kernels.RMSprop, eps: 1e-8, args: "alpha min_8bit_size", bits8: true},
	"adagrad":              {kind: kernels.Adagrad, eps: 1e-10, args: "lr_decay initial_accumulator_value"},
	"lion":                 {kind: kernels.Lion, beta1: 0.9, beta2: 0.99},
	"lion_32bit":           {kind: kernels.Lion, beta1: 0.9, beta2: 0.999},
	"lion_8bit":            {kind: kernels.Lion, beta1: 0.9, beta2: 0.999, args: "min_8bit_size", bits8: true},
	"paged_lion_32bit":     {kind: kernels.Lion, beta1: 0.9, beta2: 0.999, paged: true},
	"paged_lion_8bit":      {kind: kernels.Lion, beta1: 0.9, beta2: 0.999, args: "min_8bit_size", bits8: true, paged: true},
	"ademamix":             {kind: kernels.AdEMAMix, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "alpha beta3 t_alpha t_beta3"},
	"ademamix_8bit":        {kind: kernels.AdEMAMix, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "alpha beta3 t_alpha t_beta3 min_8bit_size", bits8: true},
	"paged_ademamix_32bit": {kind: kernels.AdEMAMix, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "alpha beta3 t_alpha t_beta3", paged: true},
	"paged_ademamix_8bit":  {kind: kernels.AdEMAMix, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: "alpha beta3 t_alpha t_beta3 min_8bit_size", bits8: true, paged: true},
	"adopt":                {kind: kernels.ADOPT, beta1: 0.9, beta2: 0.9999, eps: 1e-6, args: "decouple"},
	"adan":                 {kind: kernels.Adan, beta1: 0.98, beta2: 0.92, eps: 1e-8, args: "beta3"},
	"schedule_free_adamw":  {kind: kernels.FreeAdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: averages},
	"schedule_free_sgd":    {kind: kernels.FreeSGD, momentum: 0.9, args: averages},
	"stable_adamw":         {kind: kernels.StableAdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8},
	"lamb":                 {kind: kernels.LAMB, beta1: 0.9, beta2: 0.999, eps: 1e-6},
	"adam_mini":            {kind: kernels.AdamMini, beta1: 0.9, beta2: 0.999, eps: 1e-8},
	"adafactor":            {kind: kernels.Adafactor, args: factors},
	"adafactor_torch":      {kind: kernels.TorchAdafactor, args: "clip_threshold decay_rate eps1 eps2"},
	"came":                 {kind: kernels.CAME, beta1: 0.9, beta2: 0.999, args: "beta3 clip_threshold eps1 eps2"},
	"prodigy":              {kind: kernels.Prodigy, beta1: 0.9, beta2: 0.999, eps: 1e-8, rate: 1, args: "beta3 d0 d_coef growth_rate safeguard_warmup use_bias_correction decouple slice_p"},
	"muon":                 {kind: kernels.AdamW, beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum: 0.95, args: "nesterov ns_steps adjust_lr_fn", matrix: newMuon, paper: "kellerjordan.github.io/posts/muon (2024), arXiv:2502.16982"},
	"galore_adamw":         {kind: kernels.AdamW, late: true, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: projections, matrix: newGaLore, paper: "arXiv:2403.03507"},
	"galore_adamw_8bit":    {kind: kernels.AdamW, late: true, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: projections + " min_8bit_size", bits8: true, matrix: newGaLore, paper: "arXiv:2403.03507"},
	"galore_adafactor":     {kind: kernels.Adafactor, args: projections + " clip_threshold decay_rate beta1 eps1", matrix: newGaLore, paper: "arXiv:2403.03507"},
	"apollo_adamw":         {kind: kernels.AdamW, late: true, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: apollos, matrix: newAPOLLO, paper: "arXiv:2412.05270"},
	"apollo_mini":          {kind: kernels.AdamW, late: true, beta1: 0.9, beta2: 0.999, eps: 1e-8, args: apollos, matrix: newAPOLLO, paper: "arXiv:2412.05270"},
	"soap":                 {kind: kernels.AdamW, beta1: 0.95, beta2: 0.95, eps: 1e-8, args: "precondition_frequency max_precondition_dim shampoo_beta normalize_gradient", matrix: newSOAP, paper: "arXiv:2409.11321"},
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

// has reports whether the optimizer reads a key.
func (k optimizerKind) has(key string) bool {
	switch key {
	case "adam_beta1":
		return k.beta1 > 0
	case "adam_beta2":
		return k.beta2 > 0
	case "adam_epsilon":
		return k.eps > 0
	case "momentum":
		return k.momentum != 0
	case "optim_target_modules":
		return k.matrix != nil
	}
	return slices.Contains(strings.Fields(k.args), key)
}

// free reports whether the optimizer averages its points instead of lowering its
// rate.
func (k optimizerKind) free() bool { return k.kind == kernels.FreeAdamW || k.kind == kernels.FreeSGD }

// fillOptimizer gives the keys that the optimizer has their defaults, and takes away
// the schedule of one that makes its own rates.
func (c *Config) fillOptimizer(given Config) {
	k := optimizers[c.Optimizer]
	if k.has("adam_beta1") {
		defp(&c.AdamBeta1, k.beta1)
	}
	if k.has("adam_beta2") {
		defp(&c.AdamBeta2, k.beta2)
	}
	if k.has("adam_epsilon") {
		defp(&c.AdamEpsilon, k.eps)
	}
	if k.has("momentum") {
		defp(&c.Momentum, max(k.momentum, 0))
	}
	if k.free() || c.relative() {
		c.LRScheduler = "constant"
	}
	if c.unwarmed() {
		c.WarmupRatio = given.WarmupRatio
	}
	if !c.relative() {
		rate := c.UsualRate()
		if from, _ := c.Init(); *from != "" && c.Adapter != "none" {
			rate /= 2
		}
		defp(&c.LearningRate, rate)
	}
}

// relative reports whether rates follow from the step alone.
func (c *Config) relative() bool { return value(c.OptimArgs.RelativeStep, false) }

// relativeRate is the rate of a step, from 0, of Adafactor's relative steps.
func (c *Config) relativeRate(step int) float64 {
	t, top := float64(step+1), 1e-2
	if value(c.OptimArgs.WarmupInit, false) {
		top = 1e-6 * t
	}
	return min(top, 1/math.Sqrt(t))
}

// rule is the optimizer's rule with the numbers that stay the same.
func (c Config) rule() kernels.OptimRule {
	k, a := optimizers[c.Optimizer], &c.OptimArgs
	r := kernels.OptimRule{
		Kind: k.kind, Beta1: value(c.AdamBeta1, 0), Beta2: value(c.AdamBeta2, 0), Eps: value(c.AdamEpsilon, 0),
		AMSGrad: value(a.AMSGrad, false), L2: c.Optimizer == "adam",
		Late:  k.late,
		Bits8: k.bits8, MinBits8: value(a.Min8BitSize, 4096),
	}
	switch k.kind {
	case kernels.SGD:
		r.Beta1, r.Nesterov, r.Dampening = *c.Momentum, value(a.Nesterov, false), value(a.Dampening, 0)
	case kernels.FreeSGD:
		r.Beta1 = *c.Momentum
	case kernels.RMSprop:
		r.Beta1, r.Beta2, r.Centered = value(c.Momentum, 0), value(a.Alpha, 0.99), value(a.Centered, false)
	case kernels.Adagrad:
		r.Eps2 = value(a.Accumulator, 0)
	case kernels.ADOPT:
		r.L2 = !value(a.Decouple, false)
	case kernels.Adan:
		r.Beta3 = value(a.Beta3, 0.99)
	case kernels.Adafactor:
		r.Beta1, r.Eps, r.Eps2 = value(a.Beta1, 0), value(a.Eps1, 1e-30), value(a.Eps2, 1e-3)
		r.MaxRMS, r.ScaleParameter = value(a.ClipThreshold, 1), value(a.ScaleParameter, false)
	case kernels.TorchAdafactor:
		r.Beta1, r.Eps, r.Eps2, r.MaxRMS = 0, value(a.Eps1, 1.1920928955078125e-07), value(a.Eps2, 1e-3), value(a.ClipThreshold, 1)
	case kernels.CAME:
		r.Beta3, r.Eps, r.Eps2, r.MaxRMS = value(a.Beta3, 0.9999), value(a.Eps1, 1e-30), value(a.Eps2, 1e-16), value(a.ClipThreshold, 1)
	case kernels.Prodigy:
		r.Beta3, r.D0, r.DCoef, r.Growth = value(a.Beta3, math.Sqrt(r.Beta2)), value(a.D0, 1e-6), value(a.DCoef, 1), value(a.GrowthRate, 0)
		r.Safeguard, r.BiasCorrection, r.L2, r.Slice = value(a.SafeguardWarmup, false), value(a.UseBiasCorrection, false), !value(a.Decouple, true), value(a.SliceP, 1)
	}
	return r
}

// at sets what changes from step to step (from 1) in r and returns the rate; rate
// is the schedule's.
func (c Config) at(r *kernels.OptimRule, step int, rate float64) float64 {
	a := &c.OptimArgs
	t := float64(step)
	switch r.Kind {
	case kernels.AdamW:
		if r.Late { // GaLore and APOLLO add epsilon before the bias is corrected
			r.Eps = *c.AdamEpsilon / math.Sqrt(1-math.Pow(r.Beta2, t))
		}
	case kernels.AdEMAMix:
		r.Alpha, r.Beta3 = value(a.Alpha, 5), value(a.Beta3, 0.9999)
		if a.TAlpha != nil {
			r.Alpha *= min(1, t/float64(*a.TAlpha))
		}
		if a.TBeta3 != nil {
			r.Beta3 = slower(r.Beta1, r.Beta3, t/float64(*a.TBeta3))
		}
	case kernels.Adagrad:
		rate /= 1 + (t-1)*value(a.LRDecay, 0)
	case kernels.Adafactor, kernels.TorchAdafactor:
		r.Beta2 = 1 - math.Pow(t, value(a.DecayRate, -0.8))
	}
	return rate
}

// slower is a decay on the way from one to another so that its half-life grows
// evenly; done is the share of the way.
func slower(from, to, done float64) float64 {
	if done >= 1 || from == 0 {
		return to
	}
	f, l := math.Log(from), math.Log(to)
	return min(math.Exp(f*l/((1-done)*l+done*f)), to)
}
