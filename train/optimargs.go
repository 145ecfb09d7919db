package train

import (
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// OptimArgs are what single optimizers can be told, by the names that their
// packages have. One that the optimizer does not read is an error.
type OptimArgs struct {
	AMSGrad     *bool    `yaml:"amsgrad,omitempty" doc:"adamw, adam: the second moment never falls" unset:"false"`
	Min8BitSize *int     `yaml:"min_8bit_size,omitempty" doc:"*_8bit: parameters with fewer values have a state of 32 bits" unset:"4096" range:"[0,1000000000]"`
	Nesterov    *bool    `yaml:"nesterov,omitempty" doc:"sgd, muon: look ahead" unset:"false; muon true"`
	Dampening   *float64 `yaml:"dampening,omitempty" doc:"sgd: what momentum leaves out of the gradient" unset:"0" range:"[0,1]"`

	Alpha       *float64 `yaml:"alpha,omitempty" doc:"rmsprop: decay of squares; ademamix: weight of the slow average" unset:"0.99; ademamix 5" range:"[0,1000]"`
	Centered    *bool    `yaml:"centered,omitempty" doc:"rmsprop: take the mean off the gradient" unset:"false"`
	LRDecay     *float64 `yaml:"lr_decay,omitempty" doc:"adagrad: the rate is divided by 1 + steps·lr_decay" unset:"0" range:"[0,1000]"`
	Accumulator *float64 `yaml:"initial_accumulator_value,omitempty" doc:"adagrad: the sum of squares begins here" unset:"0" range:"[0,1e30]"`

	Beta3  *float64 `yaml:"beta3,omitempty" doc:"third decay: ademamix (slow average), adan (squares), came (residual), prodigy (estimate)" unset:"0.9999; adan 0.99; prodigy √adam_beta2" range:"[0,1)"`
	TAlpha *int     `yaml:"t_alpha,omitempty" doc:"ademamix: alpha rises over so many steps" unset:"at once" range:"[1,1000000000]"`
	TBeta3 *int     `yaml:"t_beta3,omitempty" doc:"ademamix: beta3 rises over so many steps" unset:"at once" range:"[1,1000000000]"`

	ScaleParameter *bool    `yaml:"scale_parameter,omitempty" doc:"adafactor: rates are relative to the size of a parameter" unset:"false"`
	RelativeStep   *bool    `yaml:"relative_step,omitempty" doc:"adafactor: min(0.01, 1/√step) instead of learning_rate and lr_scheduler" unset:"false"`
	WarmupInit     *bool    `yaml:"warmup_init,omitempty" doc:"adafactor, with relative_step: begin with 1e-6·step" unset:"false"`
	ClipThreshold  *float64 `yaml:"clip_threshold,omitempty" doc:"adafactor, came: largest RMS of an update" unset:"1" range:"(0,1e30]"`
	DecayRate      *float64 `yaml:"decay_rate,omitempty" doc:"adafactor: the second moment's decay is 1 - step^decay_rate" unset:"-0.8" range:"[-10,0]"`
	Beta1          *float64 `yaml:"beta1,omitempty" doc:"adafactor: first moment" unset:"none" range:"[0,1)"`
	Eps1           *float64 `yaml:"eps1,omitempty" doc:"adafactor, came: added to squares" unset:"1e-30; adafactor_torch 1.19e-7" range:"[0,1]"`
	Eps2           *float64 `yaml:"eps2,omitempty" doc:"adafactor: least size of a parameter; came: added to squares of the residual" unset:"1e-3; came 1e-16" range:"[0,1]"`

	Rank          *int     `yaml:"rank,omitempty" doc:"galore, apollo: of the projection" unset:"128; apollo_mini 1" range:"[1,65536]"`
	UpdateProjGap *int     `yaml:"update_proj_gap,omitempty" doc:"galore, apollo: a new projection every so many steps" unset:"200" range:"[1,1000000000]"`
	Scale         *float64 `yaml:"scale,omitempty" doc:"galore: of the update; apollo: its square" unset:"0.25; apollo 1; apollo_mini 128" range:"(0,1e6]"`
	ProjType      string   `yaml:"proj_type,omitempty" doc:"galore, apollo: which side: the shorter one, the longer one, or one of the two" unset:"that of the shorter side" enum:"std|reverse_std|left|right"`
	Proj          string   `yaml:"proj,omitempty" doc:"apollo: random numbers or singular vectors" unset:"random numbers" enum:"random|svd"`
	ScaleType     string   `yaml:"scale_type,omitempty" doc:"apollo: one factor a channel or a tensor" unset:"channel; apollo_mini tensor" enum:"channel|tensor"`
	ScaleFront    *bool    `yaml:"scale_front,omitempty" doc:"apollo: scale before growth is limited" unset:"false"`
	DisableNL     *bool    `yaml:"disable_nl,omitempty" doc:"apollo: do not limit the growth of updates" unset:"false"`

	NSSteps    *int   `yaml:"ns_steps,omitempty" doc:"muon: steps of Newton and Schulz" unset:"5" range:"[1,99]"`
	AdjustLRFn string `yaml:"adjust_lr_fn,omitempty" doc:"muon: factor of the rate: √(rows/columns) where that is above 1, or 0.2·√(longer side), which suits the rates of AdamW" unset:"by rows and columns" enum:"original|match_rms_adamw"`

	D0                *float64 `yaml:"d0,omitempty" doc:"prodigy: first estimate of the distance" unset:"1e-6" range:"(0,1e6]"`
	DCoef             *float64 `yaml:"d_coef,omitempty" doc:"prodigy: factor of the estimate" unset:"1" range:"(0,1e6]"`
	GrowthRate        *float64 `yaml:"growth_rate,omitempty" doc:"prodigy: largest growth of the estimate a step" unset:"any" range:"[1,1e30]"`
	SafeguardWarmup   *bool    `yaml:"safeguard_warmup,omitempty" doc:"prodigy: leave the rate out of the estimate, for long warm-ups" unset:"false"`
	UseBiasCorrection *bool    `yaml:"use_bias_correction,omitempty" doc:"prodigy: Adam's" unset:"false"`
	Decouple          *bool    `yaml:"decouple,omitempty" doc:"prodigy, adopt: weight decay as AdamW has it, not in the gradient" unset:"true; adopt false"`
	SliceP            *int     `yaml:"slice_p,omitempty" doc:"prodigy: estimate from every so many values" unset:"1" range:"[1,1000000]"`

	PreconditionFrequency *int     `yaml:"precondition_frequency,omitempty" doc:"soap: new bases every so many steps" unset:"10" range:"[1,1000000000]"`
	MaxPreconditionDim    *int     `yaml:"max_precondition_dim,omitempty" doc:"soap: longer sides have no basis" unset:"10000" range:"[1,1000000]"`
	ShampooBeta           *float64 `yaml:"shampoo_beta,omitempty" doc:"soap: decay of the Gram matrices" unset:"adam_beta2" range:"[0,1)"`
	NormalizeGradient     *bool    `yaml:"normalize_gradient,omitempty" doc:"soap: updates of RMS 1" unset:"false"`

	R             *float64 `yaml:"r,omitempty" doc:"schedule_free: later steps weigh step^r in the average" unset:"0" range:"[0,1000]"`
	WeightLRPower *float64 `yaml:"weight_lr_power,omitempty" doc:"schedule_free: steps weigh rate^this in the average" unset:"2" range:"[0,1000]"`
}

// value is what p points to, or the default.
func value[T any](p *T, missing T) T {
	if p == nil {
		return missing
	}
	return *p
}

// word is s, or the default.
func word(s, missing string) string {
	if s == "" {
		return missing
	}
	return s
}

// given lists the keys of a that have a value.
func (a *OptimArgs) given() []string {
	v := reflect.ValueOf(a).Elem()
	var out []string
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			out = append(out, name)
		}
	}
	return out
}

// checkOptimizer refuses what c's optimizer does not read; given is the
// configuration before defaults.
func (c Config) checkOptimizer(given Config) error {
	if err := schema.Check("train.optim_args", &c.OptimArgs); err != nil {
		return err
	}
	var keys []string
	for key, set := range map[string]bool{
		"adam_beta1": given.AdamBeta1 != nil, "adam_beta2": given.AdamBeta2 != nil, "adam_epsilon": given.AdamEpsilon != nil,
		"momentum": given.Momentum != nil, "optim_target_modules": !given.OptimTargetModules.Empty(),
	} {
		if set {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range append(keys, given.OptimArgs.given()...) {
		if optimizers[c.Optimizer].has(key) {
			continue
		}
		var have []string
		for _, name := range names(optimizers) {
			if optimizers[OptimizerName(name)].has(key) {
				have = append(have, name)
			}
		}
		return fail.Usagef("train."+optimPath(key), "leave it out", "%s belongs to optimizer: %s, not %s", key, strings.Join(have, ", "), c.Optimizer)
	}
	return c.checkTogether(given)
}

// optimPath is a key's path below train.
func optimPath(key string) string {
	if strings.HasPrefix(key, "adam_") || key == "momentum" || key == "optim_target_modules" {
		return key
	}
	return "optim_args." + key
}

// checkTogether refuses settings of optimizers that do not go with others.
func (c Config) checkTogether(given Config) error {
	a := &c.OptimArgs
	own := value(a.RelativeStep, false) || optimizers[c.Optimizer].free()
	switch {
	case value(a.WarmupInit, false) && !value(a.RelativeStep, false):
		return fail.Usagef("train.optim_args.warmup_init", "set relative_step: true", "warmup_init is of relative_step's rates")
	case value(a.RelativeStep, false) && given.LearningRate != nil:
		return fail.Usagef("train.learning_rate", "leave one out", "relative_step makes its own rates, learning_rate would not be read")
	case own && given.LRScheduler != "" && given.LRScheduler != "constant":
		return fail.Usagef("train.lr_scheduler", "leave it out", "optimizer: %s needs no schedule, %s would not be read", c.Optimizer, given.LRScheduler)
	case c.unwarmed() && (given.WarmupRatio != nil || given.WarmupSteps != nil):
		return fail.Usagef("train.warmup_steps", "leave it out, or use constant_with_warmup", "a warm-up would not be read: these rates have none (lr_scheduler: %s)", c.LRScheduler)
	case c.LRScheduler.reacts() && c.EvalSteps.Never():
		return fail.Usagef("train.lr_scheduler", "set eval_steps", "lr_scheduler: %s follows validations, eval_steps is 0", c.LRScheduler)
	case value(a.Nesterov, false) && c.Optimizer == "sgd" && (value(c.Momentum, 0) == 0 || value(a.Dampening, 0) != 0):
		return fail.Usagef("train.optim_args.nesterov", "set momentum", "nesterov needs a momentum and no dampening")
	case a.Dampening != nil && value(c.Momentum, 0) == 0:
		return fail.Usagef("train.optim_args.dampening", "set momentum", "dampening is of momentum, which is 0")
	case optimizers[c.Optimizer].free() && c.firstBeta() == 0:
		return fail.Usagef("train.optimizer", "give it a value above 0", "%s divides by its momentum, which is 0", c.Optimizer)
	case optimizers[c.Optimizer].free() && c.EMADecay != nil:
		return fail.Usagef("train.ema_decay", "leave it out", "optimizer: %s keeps its own average", c.Optimizer)
	case c.Optimizer == "prodigy" && c.LoRA.LoRAPlusLRRatio > 0:
		return fail.Usagef("train.lora.loraplus_lr_ratio", "leave it out", "prodigy estimates one rate for all parameters")
	case len(c.LRPattern) > 0 && (c.Optimizer == "prodigy" || value(a.RelativeStep, false)):
		return fail.Usagef("train.lr_pattern", "leave it out", "optimizer: %s makes its own rates, lr_pattern would not be read", c.Optimizer)
	}
	return nil
}

// firstBeta is the optimizer's first decay.
func (c *Config) firstBeta() float64 {
	if optimizers[c.Optimizer].has("momentum") {
		return *c.Momentum
	}
	return *c.AdamBeta1
}
