package train

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
)

// Objective is what a training minimizes: a loss that is a mean over units
// (supervised tokens, answers, or pairs of answers) and depends on the
// log-probabilities of a batch's targets, and on what LogProbs says of the whole
// step. It keeps no state.
type Objective interface {
	// Reads says which log-probabilities Weigh and Score look at.
	Reads() Reads
	// Samples is how many samples learn together: 1, or 2 for pairs, the chosen
	// answer first; 0 for answers that are marked, or in pairs. A batch holds their
	// groups one after another.
	Samples() int
	// Unit names one of what the loss is a mean over: unitToken, "pair".
	Unit() string
	// Count is the number of units in b.
	Count(b *data.Batch) int64
	// Weigh returns how much each token's -log p counts in the gradient of a
	// step's loss [N]: the loss of a step of total units, derived by -log p of
	// the token; 0 where b has no target.
	Weigh(b *data.Batch, p LogProbs, total int64) []float32
	// Score adds up the loss over b's units, and what else is worth a curve.
	Score(b *data.Batch, p LogProbs) Score
}

// unitToken is the unit of losses whose exponential is a perplexity.
const unitToken = "supervised token"

// Reads is what an objective needs to know before it can weigh tokens. Each
// value includes those before it; less is faster.
type Reads int

const (
	// ReadsTargets: weights follow from the targets; the loss and its gradient
	// are then one pass over the head. Weigh gets no log-probabilities.
	ReadsTargets Reads = iota
	// ReadsPolicy: Weigh needs the log-probabilities of the model in training,
	// so that the head's work is done twice.
	ReadsPolicy
	// ReadsReference: also those of the reference: the model without its adapter,
	// from a pass of its own, or Job.Reference.
	ReadsReference
)

// LogProbs are log-probabilities of a batch's targets [N], 0 where a token has
// none, and what is known of the step that the batch is a part of. Reference is
// nil unless the objective reads it.
type LogProbs struct {
	Policy, Reference []float32
	Mean              []float32 // [N] of log p over the vocabulary; nil without label smoothing
	Sharp             []float32 // [N] as Policy, at half the temperature; nil unless the objective is sharp
	Baseline          float64   // the objective's baseline, 0 without one
	Tokens            int64     // as the objective's tokens counts them in the whole step

	Divergence []float32 // [N] from the teacher, where there is one, else nil

	Entropy     []float32 // [N] of the distributions the targets are of; nil unless the objective is entropic
	EntropyCoef float64   // how much entropy is rewarded in the step
	Answers     *Answers  // where the samples are the model's own answers
}

// Answers is what is known of the samples of a batch that the model in training
// wrote itself.
type Answers struct {
	Advantage []float64 // [S] over the other answers to the prompt
	Old       []float32 // [N] log-probabilities when it wrote them; nil: as they are now
	Sampler   []float32 // [N] as they were rounded then; nil: no correction
}

// entropic is an objective that looks at how undecided the model is.
type entropic interface {
	Objective
	// EntropyFirst reports whether EntropyWeights looks at entropies where they are
	// rewarded by coef, which are then computed twice.
	EntropyFirst(coef float64) bool
	// EntropyWeights is how much the entropy of each token's distribution counts in
	// the loss of a step of total units [N]; nil: it is only looked at. entropy [N] is
	// known only with EntropyFirst.
	EntropyWeights(b *data.Batch, entropy []float32, coef float64, total int64) []float32
}

// sharp is an objective that also looks at log-probabilities at half the temperature,
// where sharpened says so.
type sharp interface {
	Objective
	sharpened() bool
}

// objectives lists what `objective` can be.
var objectives = map[ObjectiveName]struct {
	make func(c Config) Objective
	// rate and full are the learning rates of adapters and of full training; 0: the
	// usual ones.
	rate, full float64
	// options are the keys of Config that the objective has and others have not, with
	// their defaults, noDefault where it works without. only names those that a part
	// of the losses reads.
	options map[string]float64
	losses  []string // what loss_type can be, the default first; nil: it has none
	many    bool     // loss_type may be several
	only    map[string][]string

	// Of some objectives, else nil. check refuses options that do not go together (given is
	// c before defaults), tokens counts what a part of the loss is a mean
	// over, targets are those of b's tokens [N] that log-probabilities are wanted of
	// where these are more than b's own, and baseline is what rewards are held against.
	check    func(c, given Config) error
	tokens   func(b *data.Batch) int64
	targets  func(b *data.Batch) []int32
	baseline func(c Config) baseline
	teacher  bool            // the model learns from another's distributions
	asks     bool            // the model learns from its own answers
	fill     func(c *Config) // gives options of its own their defaults
	penalty  bool            // rewards know of the reference
	reward   bool            // it trains a reward model, and reads rewards instead of log-probabilities
}{
	"sft": {make: newSFT, losses: []string{"nll", "dft"}, check: Config.checkSFT},
	"dpo": {make: newDPO, rate: 1e-5, full: 1e-6, options: dpoOptions, losses: dpoLosses, many: true, only: dpoOnly, check: Config.checkDPO, tokens: chosenTokens},
	"cpo": {make: newCPO, rate: 1e-5, full: 1e-6, losses: cpoLosses, only: cpoOnly, check: Config.checkCPO, tokens: chosenTokens,
		options: map[string]float64{"beta": 0.1, "cpo_alpha": 1, "simpo_gamma": 0.5, "alpha": 0, "label_smoothing": 0}},
	"simpo": {make: newCPO, rate: 1e-5, full: 1e-6, losses: []string{"simpo"}, tokens: chosenTokens,
		options: map[string]float64{"beta": 2, "cpo_alpha": 0, "simpo_gamma": 0.5, "alpha": 0, "label_smoothing": 0}},
	"orpo": {make: newORPO, rate: 1e-5, full: 1e-6, options: map[string]float64{"beta": 0.1}, tokens: readTokens, targets: readTargets},
	"kto": {make: newKTO, rate: 1e-5, full: 1e-6, losses: []string{"kto", "apo_zero_unpaired"}, baseline: ktoBaseline,
		options: map[string]float64{"beta": 0.1, "desirable_weight": 1, "undesirable_weight": 1}},
	"bco":     {make: newBCO, rate: 1e-5, full: 5e-7, options: map[string]float64{"beta": 0.1}, baseline: func(Config) baseline { return runningReward }},
	"grpo":    {make: newGRPO, rate: 1e-5, full: 1e-6, options: map[string]float64{"beta": 0, "temperature": 1}, losses: grpoLosses, fill: (*Config).fillGRPO, check: Config.checkGRPO, asks: true},
	"rloo":    {make: newRLOO, rate: 1e-5, full: 1e-6, options: map[string]float64{"beta": 0.05, "temperature": 1}, fill: (*Config).fillRLOO, check: Config.checkRLOO, asks: true, penalty: true},
	"distill": {make: newDistill, options: map[string]float64{"beta": 0.5, "temperature": 1, "lmbda": 0}, check: Config.checkDistill, teacher: true},
	"reward":  {make: newReward, rate: 1e-4, full: 1e-5, options: map[string]float64{"center_rewards_coefficient": noDefault}, reward: true},
}

// ObjectiveName is an objective of the table.
type ObjectiveName string

// Enum lists the objectives.
func (ObjectiveName) Enum() []string { return names(objectives) }

// Reward reports whether c trains a reward model.
func (c Config) Reward() bool { return objectives[c.Objective].reward }

// Asks tells whether c's objective learns from the model's own answers to rows
// that are prompts alone.
func (c Config) Asks() bool { return objectives[c.Objective].asks }

// Samples is how many samples of a data set c's objective learns from together;
// 0: from one, or two that are a pair.
func (c Config) Samples() int { return objectives[c.Objective].make(c).Samples() }

// CheckSamples holds a data set to c's objective: its samples stand alone or in
// groups, marked or not, as the objective learns from them.
func (c Config) CheckSamples(ex data.Examples) error {
	want, name := c.Samples(), c.Objective
	asks, err := ex.Asks()
	switch {
	case err != nil || ex.Len() == 0:
		return err
	case asks && !c.Asks():
		return fail.Usagef("train.objective", "objective: grpo answers them; type: prompt_completion or instruct reads prompts with answers", "objective: %s learns from answers, and the rows are prompts alone", name)
	case !asks && c.Asks():
		return fail.Usagef("train.data", "datasets: [{path: …, type: prompt}] keeps the columns that rewards look at", "objective: %s answers prompts itself: it needs rows of type prompt", name)
	}
	for lo := 0; lo < ex.Len(); {
		_, group := ex.Size(lo)
		hi := lo + 1
		for ; group != 0 && hi < ex.Len(); hi++ {
			if _, g := ex.Size(hi); g != group {
				break
			}
		}
		marked := hi-lo == 1 && ex.Mark(lo) != 0
		if hi-lo == want && !marked || want == 0 && (marked || hi-lo == 2) {
			lo = hi
			continue
		}
		e, err := ex.At(lo)
		if err != nil {
			return err
		}
		const plain = "an objective of preferences learns from both; type: prompt_completion with columns: {completion: chosen} makes the chosen answers a data set of their own"
		switch {
		case want == 0:
			return fail.Usagef("train.objective", "ingest rows of type preference: columns prompt, completion and label, or chosen and rejected",
				"objective: %s learns from answers that are wanted or not, and %s does not say which it is", name, e.From)
		case marked && want == 1:
			return fail.Usagef("train.objective", "kto and bco learn from both; type: prompt_completion leaves the label out", "objective: %s would learn unwanted answers too: %s has a label", name, e.From)
		case marked:
			return fail.Usagef("train.objective", "kto and bco learn from rows with a label", "objective: %s learns from %d answers to a prompt, and %s is one with a label", name, want, e.From)
		case want == 1:
			return fail.Usagef("train.objective", plain, "objective: %s would learn the rejected answers too: %s is one of %d answers to a prompt", name, e.From, hi-lo)
		}
		return fail.Usagef("train.objective", "ingest rows of type preference: columns chosen and rejected, and prompt", "objective: %s learns from %d answers to a prompt, and %s is %d", name, want, e.From, hi-lo)
	}
	return nil
}

// checkReference refuses adapters that change the model beneath them: what
// they were trained from is then not the model without its adapter.
func (r *run) checkReference() error {
	if !r.Config.ReadsReference() || r.Adapter == nil || r.Reference != nil || r.AsItBegan || r.Config.SyncRefModel {
		return nil
	}
	for _, p := range r.Adapter.Params() {
		if p.Group == "whole" || p.Group == "bias" {
			return fail.Usagef("train.lora", "leave out modules_to_save and bias, or name the model it begins as: reference: MODEL",
				"objective: %s compares with the model without its adapter, but %s is trained in its place", r.Config.Objective, p.Name)
		}
	}
	return nil
}

// chosenTokens counts the supervised tokens of the chosen answers of b's pairs.
func chosenTokens(b *data.Batch) (n int64) {
	for s := 0; s+2 < len(b.Seq); s += 2 {
		n += int64(targetsOf(b, s))
	}
	return n
}

// targetsOf counts the targets of sample s of b.
func targetsOf(b *data.Batch, s int) int {
	n := 0
	for _, t := range b.Target[b.Seq[s]:b.Seq[s+1]] {
		if t >= 0 {
			n++
		}
	}
	return n
}

// sumOf adds up the log-probabilities of the targets of sample s of b.
func sumOf(b *data.Batch, logp []float32, s int) float64 {
	sum := 0.0
	for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
		if b.Target[i] >= 0 {
			sum += float64(logp[i])
		}
	}
	return sum
}

// weighTargets adds w to the weights of the targets of sample s of b.
func weighTargets(b *data.Batch, out []float32, s int, w float64) {
	for i := b.Seq[s]; i < b.Seq[s+1]; i++ {
		if b.Target[i] >= 0 {
			out[i] += float32(w)
		}
	}
}

// objectiveKeys are the keys of c that only some objectives have; nil where one
// was not given.
func (c *Config) objectiveKeys() map[string]**float64 {
	return map[string]**float64{
		"beta": &c.Beta, "label_smoothing": &c.LabelSmoothing, "ld_alpha": &c.LDAlpha, "f_alpha_divergence_coef": &c.FAlphaDivergenceCoef,
		"discopop_tau": &c.DiscoPOPTau, "cpo_alpha": &c.CPOAlpha, "simpo_gamma": &c.SimPOGamma, "alpha": &c.Alpha,
		"desirable_weight": &c.DesirableWeight, "undesirable_weight": &c.UndesirableWeight,
		"center_rewards_coefficient": &c.CenterRewards, "temperature": &c.Temperature, "lmbda": &c.Lmbda,
	}
}

// fillOptions gives the options of c's objective their defaults.
func (c *Config) fillOptions() {
	kind := objectives[c.Objective]
	for key, p := range c.objectiveKeys() {
		if v, ok := kind.options[key]; ok && v == v {
			defp(p, v)
		}
	}
	if len(c.LossType) == 0 && len(kind.losses) > 0 {
		c.LossType = kind.losses[:1:1]
	}
	if kind.fill != nil {
		kind.fill(c)
	}
}

// ObjectiveFor is what samples of preferences are usually learned by: dpo where two
// answers stand together, kto where a label stands beside one; "" for all others.
func ObjectiveFor(ex data.Examples) ObjectiveName {
	if ex.Len() == 0 {
		return ""
	}
	if _, group := ex.Size(0); group != 0 {
		return "dpo"
	}
	if m := ex.Mark(0); m == data.Wanted || m == data.Unwanted {
		return "kto"
	}
	return ""
}

// checkObjective refuses what an objective cannot go with; given is c before
// defaults.
func (c Config) checkObjective(given Config) error {
	kind := objectives[c.Objective]
	if err := c.checkLosses(); err != nil {
		return err
	}
	options := given.objectiveKeys()
	for _, key := range slices.Sorted(maps.Keys(options)) {
		p := *options[key]
		def, ok := kind.options[key]
		if p == nil || ok && *p == def {
			continue
		}
		if !ok {
			return fail.Usagef("train."+key, "leave it out", "%s belongs to objective: %s, not %s", key, c.with(key), c.Objective)
		}
		if only := kind.only[key]; only != nil && !slices.ContainsFunc(c.LossType, func(l string) bool { return slices.Contains(only, l) }) {
			return fail.Usagef("train."+key, "leave it out", "%s belongs to loss_type: %s, not %s", key, strings.Join(only, ", "), strings.Join(c.LossType, ", "))
		}
	}
	if c.Reward() && !slices.Contains([]string{"lora", "qlora", "none"}, string(c.Adapter)) {
		return fail.Usagef("train.adapter", "use lora, qlora or none", "objective: reward trains a head beside its adapter, which adapter: %s has no place for", c.Adapter)
	}
	if c.LabelSmoothingFactor > 0 && c.Objective != "sft" {
		return fail.Usagef("train.label_smoothing_factor", "label_smoothing is that of preferences", "label_smoothing_factor belongs to objective: sft, not %s", c.Objective)
	}
	if c.Objective != "dpo" && (given.FDivergenceType != "" || given.LossWeights != nil) {
		key := "f_divergence_type"
		if given.LossWeights != nil {
			key = "loss_weights"
		}
		return fail.Usagef("train."+key, "leave it out", "%s belongs to objective: dpo, not %s", key, c.Objective)
	}
	if c.UseWeighting && c.Objective != "dpo" {
		return fail.Usagef("train.use_weighting", "leave it out", "use_weighting belongs to objective: dpo, not %s", c.Objective)
	}
	if c.LossTopK != 0 && !kind.teacher {
		return fail.Usagef("train.loss_top_k", "leave it out", "loss_top_k belongs to objective: distill, not %s", c.Objective)
	}
	if err := cmp.Or(c.checkOnPolicy(given), c.checkULD(given)); err != nil {
		return err
	}
	if !c.Asks() {
		for key := range given.GRPO.keys() {
			if key == "max_completion_length" && c.Distills() {
				continue
			}
			owner := ObjectiveName("grpo")
			if slices.Contains(rlooOnly, key) {
				owner = "rloo"
			}
			return fail.Usagef("train."+key, "leave it out", "%s belongs to objective: %s, not %s", key, owner, c.Objective)
		}
	}
	if kind.check != nil {
		return kind.check(c, given)
	}
	return nil
}

// with lists the objectives that have an option.
func (Config) with(key string) string {
	var have []string
	for name, kind := range objectives {
		if _, ok := kind.options[key]; ok {
			have = append(have, string(name))
		}
	}
	slices.Sort(have)
	return strings.Join(have, ", ")
}

// checkLosses checks loss_type against c's objective.
func (c Config) checkLosses() error {
	kind := objectives[c.Objective]
	for _, l := range c.LossType {
		if len(kind.losses) == 0 {
			return fail.Usagef("train.loss_type", "leave it out", "objective: %s has one loss, loss_type is %q", c.Objective, l)
		}
		if !slices.Contains(kind.losses, l) {
			return fail.Usagef("train.loss_type", "known: "+strings.Join(kind.losses, ", "), "objective: %s has no loss_type %q", c.Objective, l)
		}
	}
	if len(c.LossType) > 1 && !kind.many {
		return fail.Usagef("train.loss_type", "choose one", "objective: %s has one loss_type at a time, %d are given", c.Objective, len(c.LossType))
	}
	return nil
}
