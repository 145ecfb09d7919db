package train

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Config is the train stage of a recipe, less what names its inputs. Keys and
// meanings are Transformers' (TrainingArguments) and, in LoRA, PEFT's. The zero
// value of a field means "not given": Resolve fills in the default.
type Config struct {
	Objective   ObjectiveName `yaml:"objective,omitempty" doc:"what is learned: objectives.md" default:"sft"`
	Preferences `yaml:",inline"`
	Following   `yaml:",inline"`
	Temperature *float64 `yaml:"temperature,omitempty" doc:"grpo, rloo: of answers, and of log-probabilities; distill: of both models, and of answers that are written" unset:"grpo 1, rloo 1, distill 1" range:"(0,100]"`
	LossTopK    int      `yaml:"loss_top_k,omitempty" doc:"distill: keep so many of the teacher's most likely tokens, and let it go before training" unset:"all, and the teacher stays" range:"[1,1000000]"`

	OnPolicy `yaml:",inline"`
	ULD      `yaml:",inline"`

	LabelSmoothingFactor float64 `yaml:"label_smoothing_factor,omitempty" doc:"sft: share of the loss that is spread over the vocabulary" default:"0" range:"[0,1)"`

	Adapter    AdapterName `yaml:"adapter" doc:"none is full training; qlora is LoRA over the base held as NF4 in memory; the others each have a section of that name" default:"lora"`
	DType      string      `yaml:"dtype" doc:"arithmetic; auto is the faster of f32 and bf16 on this machine; fp16 rounds to half precision and scales the loss" default:"auto" enum:"auto|f32|bf16|fp16"`
	GradScaler GradScaler  `yaml:"grad_scaler,omitempty" doc:"dtype: fp16: how the loss is scaled, by torch.amp.GradScaler's names"`

	MicroBatchSize            int     `yaml:"micro_batch_size" doc:"rows of max_length (packed) or samples" default:"1" range:"[1,65536]"`
	GradientAccumulationSteps int     `yaml:"gradient_accumulation_steps" doc:"micro batches a step, of each rank" default:"16" range:"[1,65536]"`
	Ranks                     int     `yaml:"ranks,omitempty" doc:"processes that train together, each with micro batches of its own: device: cuda:0 and ranks: 2 take cuda:0 and cuda:1; on the CPU they share it" unset:"1" range:"[1,64]"`
	DDPTimeout                int     `yaml:"ddp_timeout,omitempty" doc:"ranks: seconds that one waits for another" unset:"1800" range:"[1,31536000]"`
	NumEpochs                 float64 `yaml:"num_epochs" doc:"passes over the data" default:"3" range:"(0,100000]"`
	MaxSteps                  int     `yaml:"max_steps" doc:"optimizer steps; wins over num_epochs" range:"[1,1000000000]"`

	LearningRate *float64          `yaml:"learning_rate" doc:"peak rate" unset:"2e-4; ia3 3e-3; vera 4e-3; full 2e-5; grpo 1e-5; preferences 1e-5, full 1e-6; continued adapter half" range:"(0,100]"`
	LRPattern    lora.Pattern      `yaml:"lr_pattern,omitempty" type:"mapping" doc:"module (regex) to its own peak rate"`
	LRScheduler  ScheduleName      `yaml:"lr_scheduler" doc:"by Transformers' names and formulas" default:"cosine"`
	LRArgs       map[string]Scalar `yaml:"lr_scheduler_kwargs" doc:"the schedule's own settings"`
	WarmupRatio  *float64          `yaml:"warmup_ratio" doc:"share of the steps" default:"0.03" range:"[0,1]"`
	WarmupSteps  *int              `yaml:"warmup_steps" doc:"steps, instead of warmup_ratio" range:"[0,1000000000]"`

	Optimizer        OptimizerName `yaml:"optimizer" doc:"update rule" default:"adamw"`
	AdamBeta1        *float64      `yaml:"adam_beta1" doc:"first moment" unset:"0.9; adan 0.98; soap 0.95" range:"[0,1)"`
	AdamBeta2        *float64      `yaml:"adam_beta2" doc:"second moment" unset:"0.999; lion 0.99; adan 0.92; adopt 0.9999; soap 0.95" range:"[0,1)"`
	AdamEpsilon      *float64      `yaml:"adam_epsilon" doc:"added to the root" unset:"1e-8; lamb, adopt 1e-6; adagrad 1e-10" range:"[0,1]"`
	Momentum         *float64      `yaml:"momentum" doc:"of sgd, rmsprop, schedule_free_sgd and muon" unset:"0; schedule_free_sgd 0.9; muon 0.95" range:"[0,1)"`
	OptimArgs        OptimArgs     `yaml:"optim_args,omitempty" doc:"the optimizer's own settings"`
	WeightDecay      float64       `yaml:"weight_decay" doc:"decoupled, not on norms and biases" default:"0" range:"[0,10]"`
	OffloadOptimizer string        `yaml:"offload_optimizer,omitempty" doc:"where the optimizer's state lies: in memory, in the host's (cpu: of a GPU), or in a file in the run folder that is mapped and has no name" default:"none" enum:"none|cpu|disk"`
	MaxGradNorm      *float64      `yaml:"max_grad_norm" doc:"clip to this norm; 0 does not clip" default:"1.0" range:"[0,1e30]"`

	UnfrozenParameters []string `yaml:"unfrozen_parameters,omitempty" doc:"of adapter: none: regular expressions for the beginnings of names, as in axolotl; the other weights stay as they are" unset:"all"`
	LISA               `yaml:",inline"`

	RouterAuxLossCoef *float64 `yaml:"router_aux_loss_coef,omitempty" doc:"of models with experts: weight of the loss that spreads tokens over them, added once a micro batch" unset:"0" range:"[0,1000]"`
	RouterZLossCoef   *float64 `yaml:"router_z_loss_coef,omitempty" doc:"of models with experts: weight of the loss that keeps the routers' logits small, added once a micro batch" unset:"0" range:"[0,1000]"`

	OptimTargetModules lora.Targets `yaml:"optim_target_modules,omitempty" type:"text or list" doc:"muon, galore, apollo, soap: the maps they update; the rest has AdamW (galore_adafactor: Adafactor)" unset:"all-linear"`
	NEFTuneNoiseAlpha  *float64     `yaml:"neftune_noise_alpha,omitempty" doc:"noise on embedded tokens in training: uniform within ± alpha/√(length·width)" unset:"none" range:"(0,1000]"`
	EMADecay           *float64     `yaml:"ema_decay,omitempty" doc:"validate and keep a moving average of the weights that decays so every step" unset:"none" range:"[0,1)"`

	GradientCheckpointing Auto   `yaml:"gradient_checkpointing" doc:"recompute activations; auto: as many blocks as it takes to fit, and with qlora to keep activations under 1 GiB" default:"auto" enum:"auto|true|false"`
	ActivationOffloading  string `yaml:"activation_offloading,omitempty" doc:"where the inputs of blocks with gradient checkpointing wait for the backward pass: in memory, in the host's (cpu: of a GPU), or in a mapped file" default:"none" enum:"none|cpu|disk"`
	EvalSteps             Every  `yaml:"eval_steps" type:"auto, steps or share" doc:"validation loss every so many steps (or share of all)" default:"10 %"`
	SaveSteps             Every  `yaml:"save_steps" type:"auto, steps or share" doc:"checkpoint every so many steps" default:"auto" unset:"step 1, then every 10 min"`
	SaveTotalLimit        int    `yaml:"save_total_limit" doc:"checkpoints kept" default:"2" range:"[1,1000]"`
	Evaluating            `yaml:",inline"`
	Tracking              `yaml:",inline"`
	Seed                  *int64 `yaml:"seed" doc:"seed of this stage" unset:"the recipe's"`

	LoRA       lora.Config `yaml:"lora" doc:"adapter shape, PEFT's keys"`
	lora.Kinds `yaml:",inline"`

	GRPO `yaml:",inline"`
}

// AdapterName is what `adapter` can be.
type AdapterName string

// Enum lists LoRA, with and without a quantized base, the other kinds, and none.
func (AdapterName) Enum() []string {
	return append([]string{"lora", "qlora", "none"}, lora.KindNames()...)
}

// Init is where the folder is named that the adapter starts from.
func (c *Config) Init() (from *string, key string) {
	if o, err := c.Kinds.Of(string(c.Adapter)); o != nil && err == nil {
		return lora.InitOf(o), string(c.Adapter) + ".init_from"
	}
	return &c.LoRA.InitFrom, "lora.init_from"
}

// Start attaches c's adapter to m, new or from a folder; a new one may look at the
// first of the samples that it is trained on. c is resolved.
func (c *Config) Start(m *model.Model, ex data.Examples) (*lora.Adapter, error) {
	o, err := c.Kinds.Of(string(c.Adapter))
	if err != nil {
		return nil, err
	}
	if o != nil {
		return lora.Begin(m, string(c.Adapter), o, uint64(*c.Seed))
	}
	var samples []lora.Sample
	if reads, n := c.LoRA.Reads(); reads {
		list, err := ex.Read(n)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			s := lora.Sample{IDs: e.IDs, Learn: make([]bool, len(e.IDs))}
			for _, r := range e.Loss {
				for i := r[0]; i < r[1]; i++ {
					s.Learn[i] = true
				}
			}
			samples = append(samples, s)
		}
	}
	return lora.Start(m, c.LoRA, uint64(*c.Seed), samples...)
}

// Resolve returns c with every default filled in, or the first impossible
// value as an error. seed is the recipe's.
func (c Config) Resolve(seed int64) (Config, error) {
	given := c
	schema.Fill(&c)
	c.fillOptions()
	if c.Writes() {
		deft(&c.MaxCompletionLength, 256)
	}
	if _, err := c.Kinds.Of(string(c.Adapter)); err != nil { // fills in its defaults, too
		return c, err
	}
	c.fillOptimizer(given)
	defp(&c.Seed, seed)
	c.Evaluating.fill()
	c.Following.fill()
	if given.WarmupSteps != nil {
		c.WarmupRatio = given.WarmupRatio
	}
	return c, c.check(given)
}

// usesBF16 reports whether products are computed in bf16 on dev.
func (c Config) usesBF16(dev kernels.Backend) bool {
	return c.DType == "bf16" || c.DType == "auto" && dev.Info().FastBF16
}

// UsualRate is the learning rate for c's objective and kind of training; an
// adapter that goes on from another one takes half of it.
func (c Config) UsualRate() float64 {
	kind := objectives[c.Objective]
	switch {
	case optimizers[c.Optimizer].rate > 0:
		return optimizers[c.Optimizer].rate
	case c.Adapter == "none":
		return cmp.Or(kind.full, 2e-5)
	case kind.rate > 0:
		return kind.rate
	case lora.Rate(string(c.Adapter)) > 0:
		return lora.Rate(string(c.Adapter))
	}
	return 2e-4
}

func defp[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// check refuses impossible values; given is the configuration before defaults.
func (c Config) check(given Config) error {
	if err := schema.Check("train", &c); err != nil {
		return err
	}
	if given.WarmupRatio != nil && given.WarmupSteps != nil {
		return fail.Usagef("train.warmup_steps", "give one of them", "warmup_ratio and warmup_steps are both given")
	}
	if err := cmp.Or(c.checkObjective(given), c.checkRanks()); err != nil {
		return err
	}
	if c.Adapter != "lora" && c.Adapter != "qlora" && !sameLoRA(c.LoRA) {
		return fail.Usagef("train.lora", "use adapter: lora, or leave lora out", "lora is given with adapter: %s", c.Adapter)
	}
	if len(c.UnfrozenParameters) > 0 && c.Adapter != "none" {
		return fail.Usagef("train.unfrozen_parameters", "target_modules chooses what an adapter is put on", "unfrozen_parameters belongs to adapter: none, not %s", c.Adapter)
	}
	if err := c.Kinds.Only(string(c.Adapter)); err != nil {
		return err
	}
	if err := schema.Check("train.grad_scaler", &c.GradScaler); err != nil {
		return err
	}
	if offloads(c.ActivationOffloading) && c.GradientCheckpointing == "false" {
		return fail.Usagef("train.activation_offloading", "gradient_checkpointing: true, or leave activation_offloading out", "activation_offloading: "+c.ActivationOffloading+" keeps the inputs of blocks with gradient checkpointing, and gradient_checkpointing: false has none")
	}
	if err := cmp.Or(c.checkOptimizer(given), c.checkScaler(given), c.checkLISA(), c.checkFollowing()); err != nil {
		return err
	}
	if err := cmp.Or(c.Tracking.check(), c.checkEvaluating(given)); err != nil {
		return err
	}
	if _, err := newSchedule(c, 100); err != nil {
		return err
	}
	if c.Adapter != "lora" && c.Adapter != "qlora" || c.LoRA.InitFrom != "" {
		return nil
	}
	if c.LoRA.InitWeights == lora.InitLoftQ && c.Adapter != "qlora" {
		return fail.Usagef("train.lora.init_lora_weights", "use adapter: qlora", "init_lora_weights: loftq makes up for what holding the base as NF4 loses, and adapter: %s holds it as it is", c.Adapter)
	}
	_, err := c.LoRA.Resolve()
	return err
}

// Patience is how long a rank waits for another.
func (c Config) Patience() time.Duration {
	return time.Duration(cmp.Or(c.DDPTimeout, 1800)) * time.Second
}

// checkRanks refuses keys of several ranks where there is one.
func (c Config) checkRanks() error {
	if c.Ranks <= 1 && c.DDPTimeout > 0 {
		return fail.Usagef("train.ddp_timeout", "leave it out, or give ranks", "ddp_timeout is how long ranks wait for each other, and there is one")
	}
	return nil
}

// sameLoRA reports whether nothing in c is set.
func sameLoRA(c lora.Config) bool {
	b, err := yaml.Marshal(c)
	z, err2 := yaml.Marshal(lora.Config{})
	return err == nil && err2 == nil && string(b) == string(z)
}

// Scalar is a number or a word in lr_scheduler_kwargs.
type Scalar string

// UnmarshalYAML accepts any scalar.
func (s *Scalar) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want a number or a word")
	}
	*s = Scalar(n.Value)
	return nil
}

// JSONSchema says so.
func (Scalar) JSONSchema() map[string]any {
	return map[string]any{"type": []string{"number", "string", "boolean"}}
}

// Auto is auto, true or false.
type Auto string

// JSONSchema lists the three, quoted or not.
func (Auto) JSONSchema() map[string]any {
	return map[string]any{"enum": []any{"auto", true, false, "true", "false"}}
}

// UnmarshalYAML accepts auto or a bool.
func (a *Auto) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || !slices.Contains([]string{"auto", "true", "false"}, n.Value) {
		return fmt.Errorf("found %q, want auto, true or false", n.Value)
	}
	*a = Auto(n.Value)
	return nil
}

// Every says how often something happens: every Steps steps, every Share of the
// whole run, by the clock (Auto), or never (Steps 0 given as 0).
type Every struct {
	Steps int
	Share float64
	Auto  bool
	Off   bool
}

// JSONSchema lists the forms of Every.
func (Every) JSONSchema() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"const": "auto"}, map[string]any{"type": "number", "minimum": 0}, map[string]any{"type": "string", "pattern": `^[0-9.]+ ?%$`}}}
}

// Never reports whether it was switched off.
func (e Every) Never() bool { return e.Off }

// Of returns the interval in steps for a run of total steps; 0: never or by the clock.
func (e Every) Of(total int) int {
	if e.Share > 0 {
		return max(1, int(math.Round(e.Share*float64(total))))
	}
	return e.Steps
}

// UnmarshalYAML accepts auto, a whole number of steps, or a share of the run
// (a number below 1, or a percentage).
func (e *Every) UnmarshalYAML(n *yaml.Node) error {
	var err error
	*e, err = parseEvery(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("found %q, want auto, a number of steps or a share of the run (0.1, 10%%)", n.Value)
	}
	return nil
}

// MarshalYAML writes the form parseEvery reads.
func (e Every) MarshalYAML() (any, error) {
	switch {
	case e.Auto:
		return "auto", nil
	case e.Share > 0:
		return e.Share, nil
	}
	return e.Steps, nil
}

// parseEvery reads the text form of Every.
func parseEvery(s string) (Every, error) {
	if s == "auto" {
		return Every{Auto: true}, nil
	}
	if p, ok := strings.CutSuffix(s, "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(v > 0 && v <= 100) {
			return Every{}, fmt.Errorf("bad share %q", s)
		}
		return Every{Share: v / 100}, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v):
		return Every{}, fmt.Errorf("bad interval %q", s)
	case v == 0:
		return Every{Off: true}, nil
	case v < 1:
		return Every{Share: v}, nil
	case v != math.Trunc(v) || v > 1<<31:
		return Every{}, fmt.Errorf("bad interval %q", s)
	}
	return Every{Steps: int(v)}, nil
}
