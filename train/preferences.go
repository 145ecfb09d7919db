package train

import (
	"math"

	"github.com/tunekit/tunekit/lora"
)

// Preferences are the options of the objectives that learn from answers which
// are wanted and answers which are not. Keys and meanings are TRL's. Each
// belongs to some objectives (the table in objective.go) and is refused with others.
type Preferences struct {
	LossType    lora.Strings `yaml:"loss_type,omitempty" doc:"form of the loss, see objectives.md; dpo adds up several" unset:"sft nll, grpo dapo, dpo sigmoid, cpo sigmoid, simpo simpo, kto kto"`
	LossWeights []float64    `yaml:"loss_weights,omitempty" doc:"dpo: of each of loss_type" unset:"1 each"`

	Beta           *float64 `yaml:"beta,omitempty" doc:"how strongly the reference holds, or the scale of rewards" unset:"distill 0.5, grpo 0, rloo 0.05, dpo 0.1, cpo 0.1, orpo 0.1, kto 0.1, bco 0.1, simpo 2" range:"[0,1000]"`
	LabelSmoothing *float64 `yaml:"label_smoothing,omitempty" doc:"share of pairs taken to be the wrong way round" unset:"dpo 0, cpo 0, simpo 0" range:"[0,1]"`

	LDAlpha              *float64 `yaml:"ld_alpha,omitempty" doc:"weight of tokens beyond the length of the other answer" unset:"1" range:"[0,1]"`
	FDivergenceType      string   `yaml:"f_divergence_type,omitempty" doc:"dpo: divergence from the reference" unset:"dpo reverse_kl" enum:"reverse_kl|forward_kl|js_divergence|alpha_divergence"`
	FAlphaDivergenceCoef *float64 `yaml:"f_alpha_divergence_coef,omitempty" doc:"α of alpha_divergence" unset:"dpo 0.5" range:"[-100,100]"`
	UseWeighting         bool     `yaml:"use_weighting,omitempty" doc:"dpo: pairs that the model would write itself count more" default:"false"`
	DiscoPOPTau          *float64 `yaml:"discopop_tau,omitempty" doc:"temperature of loss_type: discopop" unset:"dpo 0.05" range:"(0,1000]"`

	CPOAlpha   *float64 `yaml:"cpo_alpha,omitempty" doc:"weight of the chosen answers' own loss" unset:"cpo 1, simpo 0" range:"[0,1000]"`
	SimPOGamma *float64 `yaml:"simpo_gamma,omitempty" doc:"margin of rewards that simpo aims at" unset:"cpo 0.5, simpo 0.5" range:"[0,1000]"`
	Alpha      *float64 `yaml:"alpha,omitempty" doc:"AlphaPO's form of the reward (1-p^-α)/α; 0 is log p" unset:"cpo 0, simpo 0" range:"[-100,100]"`

	DesirableWeight   *float64 `yaml:"desirable_weight,omitempty" doc:"kto: of answers that are wanted" unset:"kto 1" range:"[0,1000]"`
	UndesirableWeight *float64 `yaml:"undesirable_weight,omitempty" doc:"kto: of answers that are not" unset:"kto 1" range:"[0,1000]"`

	CenterRewards *float64 `yaml:"center_rewards_coefficient,omitempty" doc:"reward: how strongly rewards are drawn to mean 0, e.g. 0.01" unset:"not at all" range:"[0,1000]"`
}

// noDefault marks an option without which its objective works as if it were not
// there.
var noDefault = math.NaN()

// The functions that preference losses are made of.

// sigmoid is 1/(1+e⁻ˣ).
func sigmoid(x float64) float64 {
	if x < 0 {
		e := math.Exp(x)
		return e / (1 + e)
	}
	return 1 / (1 + math.Exp(-x))
}

// softplus is log(1+eˣ), which is -log σ(-x).
func softplus(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

// b2f is 1 or 0.
func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
