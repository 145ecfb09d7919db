package lora

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Config is the `lora` part of a train stage. Keys and meanings are PEFT's
// (LoraConfig of 0.21), without the lora_ prefix. The zero value of a field
// means "not given": Resolve fills in the default.
type Config struct {
	R               int     `yaml:"r" doc:"rank" default:"16" range:"[1,65536]"`
	Alpha           float64 `yaml:"alpha" doc:"scale is alpha/r" default:"32" range:"(0,1e9]"`
	Dropout         float64 `yaml:"dropout" doc:"on the adapter's input" default:"0" range:"[0,1)"`
	TargetModules   Targets `yaml:"target_modules" type:"text or list" doc:"all-linear, names, or one regex" default:"all-linear"`
	ExcludeModules  Targets `yaml:"exclude_modules" type:"text or list" doc:"names or one regex"`
	RankPattern     Pattern `yaml:"rank_pattern" type:"mapping" doc:"module (regex) to rank"`
	AlphaPattern    Pattern `yaml:"alpha_pattern" type:"mapping" doc:"module (regex) to alpha"`
	Layers          Ints    `yaml:"layers_to_transform" doc:"layer numbers only"`
	LayersPattern   Strings `yaml:"layers_pattern" doc:"name before the layer number" unset:"any"`
	ModulesToSave   Strings `yaml:"modules_to_save" doc:"modules trained whole"`
	Bias            string  `yaml:"bias" doc:"which biases are trained" default:"none" enum:"none|all|lora_only"`
	LoRABias        bool    `yaml:"lora_bias,omitempty" doc:"a bias of each B, too; merged where the layer has one" default:"false"`
	UseRSLoRA       bool    `yaml:"use_rslora" doc:"scale is alpha/√r" default:"false"`
	UseDoRA         bool    `yaml:"use_dora" doc:"weight-decomposed adapter" default:"false"`
	InitWeights     Init    `yaml:"init_lora_weights" doc:"true (Kaiming A, zero B), false (both random), gaussian, orthogonal, pissa (pissa_niter_N: at most N rounds of subspace iteration), olora, eva, corda, lora_ga; loftq with adapter: qlora" default:"true"`
	InitSamples     int     `yaml:"init_samples,omitempty" doc:"training samples that eva, corda and lora_ga look at" unset:"64" range:"[1,100000]"`
	EVA             *EVA    `yaml:"eva_config,omitempty" doc:"of init_lora_weights: eva"`
	CorDA           *CorDA  `yaml:"corda_config,omitempty" doc:"of init_lora_weights: corda"`
	LoRAGA          *LoRAGA `yaml:"lora_ga_config,omitempty" doc:"of init_lora_weights: lora_ga"`
	LoftQ           *LoftQ  `yaml:"loftq_config,omitempty" doc:"of init_lora_weights: loftq"`
	LoRAPlusLRRatio float64 `yaml:"loraplus_lr_ratio" doc:"rate of B, biases and magnitudes over rate of A" range:"(0,1e6]"`

	LoRAPlusLREmbedding float64 `yaml:"loraplus_lr_embedding,omitempty" doc:"rate of adapters on embeddings, with loraplus_lr_ratio; PEFT's default is 1e-6" unset:"as other layers" range:"(0,1e6]"`

	TargetParameters      Strings      `yaml:"target_parameters" doc:"parameters of experts and routers: mlp.experts.gate_up_proj …"`
	TrainableTokenIndices TokenIndices `yaml:"trainable_token_indices" type:"list or mapping" doc:"rows of the embedding, or of embeddings and the head by name, that are trained whole; a tied head without rows of its own follows"`

	InitFrom string `yaml:"init_from" doc:"start from this PEFT adapter folder"`
}

// The initialisations of init_lora_weights.
const (
	InitKaiming    Init = "true"       // A uniform in ±1/√in, B zero: PEFT's default
	InitNonZero    Init = "false"      // A and B uniform: the adapter starts as noise (PEFT's test mode)
	InitOrthogonal Init = "orthogonal" // A and B normal over halves of an orthonormal basis, so that B·A is zero
	InitGaussian   Init = "gaussian"   // A normal with deviation 1/r, B zero
	InitPiSSA      Init = "pissa"      // the singular vectors of W; trains on the residual
	InitOLoRA      Init = "olora"      // QR of W; trains on the residual
	InitLoftQ      Init = "loftq"      // the singular vectors of what quantization lost, in turns
	InitEVA        Init = "eva"        // the principal components of a layer's inputs, B zero
	InitCorDA      Init = "corda"      // the singular vectors of W times the inputs' covariance; trains on the residual
)

// InitLoRAGA is the singular vectors of the gradient of W; trains on the residual.
const InitLoRAGA Init = "lora_ga"

// initMiCA is what an adapter of a folder may have begun with: B of the last singular vectors of W
// (arXiv:2604.01694), which stays as it is, and a zero A. Used and merged it is LoRA.
const initMiCA Init = "mica"

// Summary is the shape of an adapter in one line.
func (c Config) Summary() string {
	scale := "α"
	if c.UseRSLoRA {
		scale = "rsLoRA α"
	}
	out := fmt.Sprintf("r%d %s%g on %s", c.R, scale, c.Alpha, c.TargetModules)
	if c.UseDoRA {
		out += ", DoRA"
	}
	if len(c.RankPattern)+len(c.AlphaPattern) > 0 {
		out += ", with patterns"
	}
	if len(c.TargetParameters) > 0 {
		out += ", parameters " + strings.Join(c.TargetParameters, ", ")
	}
	if len(c.TrainableTokenIndices) > 0 {
		out += ", rows of tokens"
	}
	if len(c.ModulesToSave) > 0 {
		out += ", whole " + strings.Join(c.ModulesToSave, ", ")
	}
	return out
}

// Resolve returns c with every default filled in, or every impossible value as
// one error. Values that come from init_from are not checked here: see Load.
func (c Config) Resolve() (Config, error) {
	if c.TargetModules.Empty() {
		c.TargetModules = Targets{} // an empty list is none given
	}
	schema.Fill(&c)
	if c.InitWeights == InitEVA {
		c.EVA = filled(c.EVA)
	}
	if c.InitWeights == InitCorDA {
		c.CorDA = filled(c.CorDA)
	}
	if c.InitWeights == InitLoftQ {
		c.LoftQ = filled(c.LoftQ)
	}
	if c.InitWeights == InitLoRAGA {
		c.LoRAGA = filled(c.LoRAGA)
	}
	return c, cmp.Or(c.check(), c.trainable("dropout: 0"))
}

// trainable refuses what an adapter may have been trained with elsewhere, and is not here.
func (c Config) trainable(hint string) error {
	if c.UseDoRA && c.Dropout > 0 {
		return fail.Usagef("lora.use_dora", hint, "training use_dora with dropout is not supported: dropout is %v", c.Dropout)
	}
	return nil
}

// filled is a copy of the options at o, or of none, with every default filled in.
func filled[T any](o *T) *T {
	var out T
	if o != nil {
		out = *o
	}
	schema.Fill(&out)
	return &out
}

// check refuses values no model could make sense of.
func (c Config) check() error {
	if err := schema.Check("lora", &c); err != nil {
		return err
	}
	if c.CorDA != nil {
		if err := schema.Check("lora.corda_config", c.CorDA); err != nil {
			return err
		}
	}
	if c.LoRAGA != nil {
		if err := schema.Check("lora.lora_ga_config", c.LoRAGA); err != nil {
			return err
		}
	}
	if c.LoftQ != nil {
		if err := schema.Check("lora.loftq_config", c.LoftQ); err != nil {
			return err
		}
	}
	if c.ExcludeModules.All {
		return fail.Usagef("lora.exclude_modules", "give names or a regular expression", "exclude_modules cannot be all-linear")
	}
	if err := c.checkPatterns(); err != nil {
		return err
	}
	return c.supported()
}

// checkPatterns refuses ranks and alphas that no layer could have.
func (c Config) checkPatterns() error {
	for _, e := range c.RankPattern {
		if e.Value < 1 || e.Value != math.Trunc(e.Value) {
			return fail.Usagef("lora.rank_pattern", "", "rank of %q is %g, it must be a whole number above 0", e.Key, e.Value)
		}
	}
	for _, e := range c.AlphaPattern {
		if !(e.Value > 0) {
			return fail.Usagef("lora.alpha_pattern", "", "alpha of %q is %g, it must be above 0", e.Key, e.Value)
		}
	}
	return nil
}

// supported names the keys of PEFT that this version has no code for.
func (c Config) supported() error {
	switch {
	case len(c.TargetParameters) > 0 && (c.Dropout > 0 || c.UseDoRA || c.Bias != "none"):
		return fail.Usagef("lora.target_parameters", "dropout: 0, use_dora: false, bias: none", "PEFT has no dropout, DoRA or biases with target_parameters and would not read the adapter")
	case c.LoRABias && (c.UseDoRA || len(c.TargetParameters) > 0):
		return fail.Usagef("lora.lora_bias", "lora_bias: false", "PEFT has no lora_bias with use_dora or target_parameters and would not read the adapter")
	case c.LoRABias && c.InitWeights != InitKaiming && c.InitWeights != InitNonZero:
		return fail.Usagef("lora.lora_bias", "init_lora_weights: true", "PEFT has no lora_bias with init_lora_weights: %s and would not read the adapter", string(c.InitWeights))
	}
	if c.UseDoRA && (c.InitWeights.reads() || c.InitWeights.onResidual() || c.InitWeights == InitLoftQ) {
		return fail.Usagef("lora.use_dora", "init_lora_weights: true", "use_dora with init_lora_weights: %s is not supported", string(c.InitWeights))
	}
	switch {
	case c.LoRAPlusLREmbedding > 0 && c.LoRAPlusLRRatio == 0:
		return fail.Usagef("lora.loraplus_lr_embedding", "lr_pattern gives modules rates of their own", "loraplus_lr_embedding belongs to LoRA+, and no loraplus_lr_ratio is given")
	case c.EVA != nil && c.InitWeights != InitEVA:
		return fail.Usagef("lora.eva_config", "use init_lora_weights: eva", "eva_config belongs to init_lora_weights: eva, not %s", string(c.InitWeights))
	case c.CorDA != nil && c.InitWeights != InitCorDA:
		return fail.Usagef("lora.corda_config", "use init_lora_weights: corda", "corda_config belongs to init_lora_weights: corda, not %s", string(c.InitWeights))
	case c.LoRAGA != nil && c.InitWeights != InitLoRAGA:
		return fail.Usagef("lora.lora_ga_config", "use init_lora_weights: lora_ga", "lora_ga_config belongs to init_lora_weights: lora_ga, not %s", string(c.InitWeights))
	case c.LoftQ != nil && c.InitWeights != InitLoftQ:
		return fail.Usagef("lora.loftq_config", "use init_lora_weights: loftq", "loftq_config belongs to init_lora_weights: loftq, not %s", string(c.InitWeights))
	case c.InitSamples != 0 && !c.InitWeights.reads():
		return fail.Usagef("lora.init_samples", "use init_lora_weights: eva, corda or lora_ga", "init_samples belongs to init_lora_weights: eva, corda and lora_ga, not %s", string(c.InitWeights))
	case c.InitWeights == InitEVA && *c.EVA.Rho > 1 && len(c.RankPattern)+len(c.AlphaPattern) > 0:
		return fail.Usagef("lora.eva_config", "rho: 1", "rho %g deals the ranks, and rank_pattern or alpha_pattern is given", *c.EVA.Rho)
	case c.InitWeights == InitEVA && len(c.RankPattern) > 0:
		return fail.Usagef("lora.rank_pattern", "leave it out", "rank_pattern with init_lora_weights: eva is not supported")
	}
	known := []Init{InitKaiming, InitNonZero, InitGaussian, InitOrthogonal, InitPiSSA, InitOLoRA, InitLoftQ, InitEVA, InitCorDA, InitLoRAGA}
	if !slices.Contains(known, c.InitWeights) && c.InitWeights.rounds() == svdSteps {
		return fail.Usagef("lora.init_lora_weights", "known are true, gaussian, false, orthogonal, pissa, pissa_niter_N with N below 300, olora, eva, corda, lora_ga, loftq", "init_lora_weights %q is not supported", string(c.InitWeights))
	}
	return nil
}

// Rank and alpha of one module, by PEFT's patterns.
func (c Config) rankAlpha(path string) (r int, alpha float64, err error) {
	r, alpha = c.R, c.Alpha
	if v, ok, err := c.RankPattern.Get(path); err != nil {
		return 0, 0, err
	} else if ok {
		r = int(v)
	}
	v, ok, err := c.AlphaPattern.Get(path)
	if ok {
		alpha = v
	}
	return r, alpha, err
}

// scale is the factor of the low-rank product.
func (c Config) scale(r int, alpha float64) float32 {
	if c.UseRSLoRA {
		return float32(alpha / math.Sqrt(float64(r)))
	}
	return float32(alpha / float64(r))
}

// Targets chooses modules: every linear layer but the head, names (whole or as
// the last parts of a path), or a regular expression that must match the whole
// path. At most one is set.
type Targets struct {
	All   bool
	Names []string
	Regex string
}

// Empty reports whether nothing is chosen.
func (t Targets) Empty() bool { return !t.All && len(t.Names) == 0 && t.Regex == "" }

func (t Targets) String() string {
	switch {
	case t.All:
		return "all-linear"
	case t.Regex != "":
		return t.Regex
	}
	return strings.Join(t.Names, ", ")
}

// parseTargets reads PEFT's string form: all-linear or a regular expression.
func parseTargets(s string) Targets {
	if strings.EqualFold(s, "all-linear") {
		return Targets{All: true}
	}
	return Targets{Regex: s}
}

// JSONSchema is a name, a pattern or a list of names.
func (Targets) JSONSchema() map[string]any { return oneOrMoreSchema("string") }

// UnmarshalYAML accepts a string or a list of names.
func (t *Targets) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode(&t.Names)
	}
	var s string
	if err := n.Decode(&s); err != nil {
		return err
	}
	*t = parseTargets(s)
	return nil
}

// MarshalYAML writes the form it was given in.
func (t Targets) MarshalYAML() (any, error) {
	if t.All || t.Regex != "" {
		return t.String(), nil
	}
	return t.Names, nil
}
