package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// saveEvery is how often a run with save_steps: auto saves after its first step.
const saveEvery = 10 * time.Minute

// run is a training in progress.
type run struct {
	Job
	dev       kernels.Backend
	objective Objective
	opt       *optimizer
	sched     *Schedule
	loader    *data.Loader
	val       *data.Loader // nil: no validation
	metrics   *metricsLog  // of rank 0; nil: writes nothing
	unlock    func()       // of rank 0
	identity  string
	bf16      bool
	scaler    *scaler // nil but with dtype: fp16
	aside     *spill  // of activations; nil: they stay in memory
	linked    bool    // with the devices of the other ranks
	apart     bool    // from them, after an error
	// Where the model learns from its own answers: those in work, some of all for
	// readers, and whether any had no reward at all.
	rollout    *rollout
	answersLog *metricsLog
	unrated    bool

	total, evalEvery, saveSteps int
	perEpoch                    float64 // steps

	step    int // optimizer steps done
	tokens  int64
	loss    float64
	values  Values    // what else the objective measured in the last step
	eval    *bestStep // the last validation, nil before the first
	best    *bestStep // by the metric
	saved   int       // step of the newest checkpoint, -1: none
	savedAt time.Time
	resumed int
	speed   speed
	writing time.Duration // of the step so far, what answers took

	taskState
	spikes         spikes
	spiked         bool          // the last step was one
	rows           string        // some of the last step
	suspects       []data.RowRef // whose values were not finite
	baseline       baseline
	seen, seenNext running // of baselines that go on: after step, and after the one in work

	entropyNow, entropyNext entropyControl       // likewise, with use_adaptive_entropy
	refs                    map[string][]float32 // with sync_ref_model, what the reference says of the step in work
}

// Run trains j's adapter, or its whole model, to the end and leaves the result
// in their parameters; a checkpoint of the last step stays in j.Dir, so that a
// later Run returns at once. When ctx ends it drops the step in work, saves the
// last finished one and returns an error of kind fail.Interrupted. A loss or
// gradient that is not finite is fail.Numeric; the checkpoint before is kept.
func Run(ctx context.Context, j Job) (*Result, error) {
	if j.Comm == nil {
		j.Comm = alone{}
	}
	r, err := open(ctx, j)
	if r != nil {
		defer r.end()
	}
	if err := agree(j.Comm, err); err != nil {
		return nil, err
	}
	if err := r.join(); err != nil {
		return nil, err
	}
	if err := r.loop(ctx); err != nil {
		return nil, err
	}
	if r.stopped() {
		r.log("stopped early after step %d of %d: %d validations were no better than that of step %d (%s)", r.step, r.total, r.waited, r.best.Step, r.describe(r.best))
	}
	if err := r.keepBest(); err != nil {
		return nil, err
	}
	if r.opt.averages() { // what was validated is what stays
		if err := r.opt.showAverages(); err != nil {
			return nil, err
		}
		if err := r.refresh(); err != nil {
			return nil, err
		}
	}
	if err := agree(r.Comm, r.unlink()); err != nil {
		return nil, err
	}
	return r.result(), nil
}

// open sets a run up and, on rank 0, takes the folder and goes on from what
// lies there.
func open(ctx context.Context, j Job) (*run, error) {
	if err := cmp.Or(j.Config.CheckSamples(j.Train), j.Config.CheckSamples(j.Val)); err != nil {
		return nil, err
	}
	if j.needsOwn() && j.Comm.Rank() > 0 && j.Dir == "" {
		return nil, fail.Usagef("train.reference", "name the model in training: reference: MODEL", "objective: %s against the model as it began needs a folder of rank %d to keep that in", j.Config.Objective, j.Comm.Rank())
	}
	if j.Config.LRScheduler.reacts() && j.Val.Len() == 0 {
		return nil, fail.Usagef("train.lr_scheduler", "set ingest.val_set_size", "lr_scheduler: %s follows validations, there are no rows for them", j.Config.LRScheduler)
	}
	if j.Comm.Rank() > 0 {
		if err := j.ownReference(ctx); err != nil {
			return nil, err
		}
		return begin(j)
	}
	unlock, err := lockDir(j.Dir)
	if err != nil {
		return nil, err
	}
	var r *run
	if err = j.ownReference(ctx); err == nil {
		r, err = begin(j)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	r.unlock = unlock
	if err := r.restore(); err != nil {
		return r, err
	}
	if r.metrics, err = openMetrics(j.Dir, MetricsFile, r.step, r.evaluated()); err == nil {
		var steps []Metrics
		if steps, _, err = ReadMetrics(r.metrics.path); err == nil {
			r.recall(steps)
		}
	}
	if err == nil && j.Config.Answers() {
		last := r.step
		if !r.asks() { // answers of validations
			last = r.evaluated()
		}
		r.answersLog, err = openMetrics(j.Dir, AnswersFile, last, 0)
	}
	return r, err
}

// needsOwn reports whether j's answers are held against the model as it is before the
// first step.
func (j *Job) needsOwn() bool {
	return j.Reference == nil && !j.Config.SyncRefModel && (j.Config.NeedsReference() || j.AsItBegan && j.Config.ReadsReference())
}

// ownReference computes what j's answers are held against where that is the model as
// it is before the first step, in j.Dir.
func (j *Job) ownReference(ctx context.Context) (err error) {
	if !j.needsOwn() {
		return nil
	}
	if j.Adapter != nil {
		if err := j.Adapter.Refresh(); err != nil {
			return err
		}
	}
	j.Reference, err = MakeReference(ctx, j.Dir, j.Identity+" as it began", j.Model, *j)
	return err
}

// begin sets everything up for step 0.
func begin(j Job) (*run, error) {
	if j.Comm == nil {
		j.Comm = alone{}
	}
	c := j.Config
	r := &run{Job: j, dev: j.Model.Dev, objective: objectives[c.Objective].make(c), saved: -1}
	if c.Reward() != j.Model.Spec.Reward {
		return nil, fail.Usagef("train.objective", "objective: reward trains reward models, and them alone", "objective: %s does not go with this model", c.Objective)
	}
	if objectives[c.Objective].targets != nil && j.Model.Spec.Encoder > 0 {
		return nil, fail.Usagef("train.objective", "cpo with cpo_alpha learns from pairs and their chosen answers", "objective: %s learns prompts, too, which this model's encoder only reads", c.Objective)
	}
	if err := cmp.Or(r.checkReference(), r.checkAnswering(), r.checkTeacher()); err != nil {
		return nil, err
	}
	if err := j.checkExperts(); err != nil {
		return nil, err
	}
	if f := objectives[c.Objective].baseline; f != nil {
		r.baseline = f(c)
	}
	if c.UseAdaptiveEntropy {
		r.entropyNow.Coef = *c.EntropyCoef
	}
	if err := c.checkOffload(r.dev); err != nil {
		return nil, err
	}
	if offloads(c.ActivationOffloading) {
		r.aside = newSpill(r.dev, r.beside("activations"))
		r.aside.host = c.ActivationOffloading == inHost
	}
	r.bf16 = c.usesBF16(r.dev)
	if c.DType == fp16 {
		r.scaler = newScaler(c.GradScaler)
	}
	if c.GradientCheckpointing == "true" {
		j.Model.GradientCheckpointing = true
	}
	if c.GradientCheckpointing == "auto" && c.Adapter == "qlora" {
		n, err := blocksOver(&j, r.bf16, qloraActivations)
		if err != nil {
			return nil, err
		}
		j.Model.RecomputeBlocks = max(j.Model.RecomputeBlocks, n)
	}
	var err error
	o := data.LoaderOptions{MicroBatch: c.MicroBatchSize, Accum: c.GradientAccumulationSteps * j.Comm.Size(), MaxLength: j.MaxLength, Packing: j.Packing, Shuffle: j.Shuffle, Seed: uint64(*c.Seed),
		Beside: r.beside("samples")}
	if r.asks() { // of prompts, one a step
		o.MicroBatch, o.Accum, o.Packing = 1, 1, "none"
	}
	if r.loader, err = data.NewLoader(j.Train, o); err != nil {
		return nil, err
	}
	r.perEpoch, r.total = float64(r.loader.StepsPerEpoch()), c.Total(r.loader.StepsPerEpoch())
	if r.asks() {
		r.perEpoch, r.total = c.promptSteps(j.Train.Len()), c.Steps(j.Train.Len())
	}
	if w := c.Rising(r.total); w != "" && j.Log != nil {
		j.Log(w)
	}
	if r.sched, err = newSchedule(c, r.total); err != nil {
		return nil, err
	}
	if j.Val.Len() > 0 && !c.EvalSteps.Never() {
		r.evalEvery = c.EvalSteps.Of(r.total)
		o.Shuffle = false
		if r.baseline != mismatched { // which is an estimate over a whole step
			o.Accum = 1
		}
		if r.val, err = data.NewLoader(j.Val, o); err != nil {
			return nil, err
		}
	} else if key := c.Validates(); key != "" && j.Dir != "" {
		return nil, fail.Usagef("train."+key, "set ingest.val_set_size", "%s needs validation rows, there are none", key)
	}
	if err := r.askQuestions(); err != nil {
		return nil, err
	}
	r.saveSteps = c.SaveSteps.Of(r.total)
	ps, err := j.params()
	if err != nil {
		return nil, err
	}
	if r.identity, err = j.identity(ps, r.bf16, r.total); err != nil {
		return nil, err
	}
	if r.opt, err = newOptimizer(r.dev, c, r.sched, ps, r.beside("optimizer")); err != nil {
		return nil, memory(err)
	}
	if err := r.refresh(); err != nil {
		r.opt.release()
		return nil, memory(err)
	}
	return r, nil
}

// beside is a path for files without a name.
func (r *run) beside(what string) string { return filepath.Join(cmp.Or(r.Dir, os.TempDir()), what) }

// end frees what the run allocated.
func (r *run) end() {
	r.opt.release()
	if r.aside != nil {
		r.aside.close()
	}
	if r.Adapter != nil {
		r.Adapter.Freeze()
	}
	r.metrics.close()
	r.answersLog.close()
	if r.unlock != nil {
		r.unlock()
	}
}

// memory turns a refusal of memory into an error of kind Limit.
func memory(err error) error {
	if err == nil || !errors.Is(err, kernels.ErrOutOfMemory) || fail.Code(err) == int(fail.Limit) {
		return err
	}
	if pinned(err) {
		return fail.Limitf("train", "offload_optimizer: none, an optimizer that is not paged, or activation_offloading: none keeps it in the GPU's memory; of memory_limit, and without one of the memory that is available, half may be pinned", "%w", err)
	}
	return fail.Limitf("train", "a smaller micro_batch_size with more gradient_accumulation_steps gives the same result up to rounding; a smaller max_length or gradient_checkpointing: true also helps", "%w", err)
}

// pinned reports whether what was short is the host's memory that a device with its own
// may pin: no block that goes makes room there.
func pinned(err error) bool {
	var short *kernels.MemoryError
	return errors.As(err, &short) && short.Pinned()
}

// loop runs the steps that are left.
func (r *run) loop(ctx context.Context) error {
	r.report(0, false)
	if r.resumed > 0 && r.evalDue() && r.evaluated() != r.step { // stopped between step and validation
		if err := agree(r.Comm, r.after(ctx)); err != nil {
			return r.stop(err)
		}
	}
	for r.step < r.total && !r.stopped() {
		start := time.Now()
		m, err := r.next(ctx)
		if err == nil {
			m.StepSeconds = time.Since(start).Seconds()
			m.TokensPerSecond = float64(m.Tokens) / m.StepSeconds
			r.speed.add(m.Tokens, m.StepSeconds)
			err = r.done(m)
		}
		if r.apart {
			return err
		}
		if err = agree(r.Comm, err); err == nil {
			err = agree(r.Comm, r.after(ctx))
		}
		if err != nil {
			return r.stop(err)
		}
		r.report(0, false)
	}
	return nil
}

// next computes one optimizer step and applies it.
func (r *run) next(ctx context.Context) (Metrics, error) {
	r.writing = 0
	s, total, err := r.read(ctx)
	if err = agree(r.Comm, err); err != nil {
		return Metrics{}, err
	}
	r.opt.focus(r.step + 1)
	m, err := r.fitting(ctx, s, total)
	if err != nil {
		return m, memory(err)
	}
	m.LearningRate = r.sched.LR(r.step)
	if !r.overflowed(&m) {
		if err := r.checkFinite(s, m); err != nil {
			return m, err
		}
		if err := r.opt.step(r.updates(r.step)+1, m.LearningRate); err != nil {
			return m, err
		}
	}
	if err := r.refresh(); err != nil {
		return m, err
	}
	r.step++
	r.rows, r.suspects = rowsOf(s.Micro), nil
	r.seen, r.entropyNow = r.seenNext, r.entropyNext
	if err := r.follow(); err != nil {
		return m, err
	}
	m.Step, m.Epoch, m.AnswerSeconds = r.step, float64(r.step)/r.perEpoch, r.writing.Seconds()
	if r.asks() {
		m.Objective = slices.Concat(r.rollout.Values, m.Objective)
	}
	m.MemoryBytes = r.dev.Info().PeakTotal
	return m, nil
}

// read returns the step to come, for all ranks, and the number of its units.
func (r *run) read(ctx context.Context) (data.Step, int64, error) {
	var s data.Step
	var err error
	if r.asks() {
		s, err = r.answerStep(ctx)
	} else {
		s, err = r.loader.Step(r.step)
		if err == nil && r.Config.Writes() {
			s, err = r.writtenAnswers(ctx, s)
		}
	}
	if err != nil {
		return s, 0, memory(err)
	}
	total := r.count(s.Micro)
	if r.asks() {
		total = max(total, 1) // every answer may be masked
	}
	if total == 0 {
		return s, 0, fail.Inputf("train", "look at the ingest report: which part of a row is supervised?", "step %d has no %s", r.step+1, r.objective.Unit())
	}
	return s, total, nil
}

// fitting is gradients; where memory is short on any rank and the choice is
// ours, with gradient checkpointing of as many more blocks as it takes, an
// eighth of the model at a time.
func (r *run) fitting(ctx context.Context, s data.Step, total int64) (Metrics, error) {
	for {
		m, err := r.gradients(ctx, s, total)
		n := len(r.Model.Blocks)
		if !errors.Is(err, kernels.ErrOutOfMemory) || pinned(err) {
			return m, err
		}
		if r.Config.GradientCheckpointing != "auto" || r.recomputed() == n {
			if r.Config.GradientCheckpointing == "false" || !r.Model.Evict() {
				return m, err
			}
			r.log("memory is short: fewer blocks stay in memory from step %d (same result, slower)", r.step+1)
			continue
		}
		r.Model.RecomputeBlocks = min(n, r.Model.RecomputeBlocks+(n+7)/8)
		r.log("memory is short: gradient checkpointing of %d of %d blocks from step %d (same result, slower)", r.Model.RecomputeBlocks, n, r.step+1)
	}
}

// qloraActivations is the memory QLoRA keeps for activations before blocks are
// recomputed: weights are held in four bits where memory is short.
const qloraActivations = 1 << 30

// blocksOver is how many blocks must be recomputed so that the activations of
// a full micro-batch stay within budget bytes: a recomputed block keeps its
// input alone.
func blocksOver(j *Job, bf16 bool, budget int64) (int, error) {
	rows := j.Config.MicroBatchSize
	if j.Packing == "none" { // a row is a sample, or all that learn together
		rows *= max(1, j.Config.Samples())
	}
	kept, err := j.Model.Kept(bf16, rows, j.MaxLength)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, n := range kept {
		sum += n
	}
	input := int64(4 * rows * j.MaxLength * j.Model.Spec.C)
	for n := range kept {
		if sum <= budget {
			return n, nil
		}
		sum += input - kept[n]
	}
	return len(kept), nil
}

// recomputed is the number of blocks with gradient checkpointing.
func (r *run) recomputed() int {
	if r.Model.GradientCheckpointing {
		return len(r.Model.Blocks)
	}
	return r.Model.RecomputeBlocks
}

// refresh tells the adapter that its values changed.
func (r *run) refresh() error {
	if r.Adapter == nil {
		return nil
	}
	return r.Adapter.Refresh()
}

// gradients leaves the gradients of s, a step of total units, on every rank.
func (r *run) gradients(ctx context.Context, s data.Step, total int64) (Metrics, error) {
	m := Metrics{Supervised: s.Supervised}
	w := whole{units: total, tokens: r.countTokens(s.Micro)}
	var err error
	if w.baseline, r.seenNext, err = r.baselineOf(ctx, s.Micro); err != nil {
		return m, err
	}
	own := share(s.Micro, r.Comm)
	err = r.askReference(ctx, own)
	if err = agree(r.Comm, err); err != nil {
		return m, err
	}
	sum, err := r.accumulate(ctx, own, w)
	if err = agree(r.Comm, err); err != nil {
		return m, err
	}
	if err := totals(r.Comm, &sum, r.parted()); err != nil {
		return m, err
	}
	if err := r.sumGradients(); err != nil {
		return m, err
	}
	for _, b := range s.Micro {
		m.Tokens += int64(len(b.IDs))
	}
	mean := sum.mean(total, w.tokens)
	m.Loss, m.Objective, m.Sources = mean.Loss, mean.Values, r.lossesOf(sum.parts)
	if r.Config.UseAdaptiveEntropy {
		r.entropyNext = r.controlEntropy(sum.entropy)
		m.Objective = append(m.Objective, Value{"entropy_coef", r.entropyNext.Coef})
	}
	if err := r.unscale(); err != nil {
		return m, err
	}
	m.GradNorm, err = r.opt.norm()
	return m, err
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// checkFinite stops the run at the first loss or gradient that is not a number.
func (r *run) checkFinite(s data.Step, m Metrics) error {
	if finite(m.Loss) && finite(m.GradNorm) {
		return nil
	}
	what := fmt.Sprintf("loss %v, gradient norm %v", m.Loss, m.GradNorm)
	if name := r.opt.bad(); name != "" {
		what += ", first in " + name
	}
	kept := "nothing was saved yet"
	if r.saved >= 0 {
		kept = fmt.Sprintf("the state of step %d is kept", r.saved)
	}
	rows := "rows " + rowsOf(s.Micro)
	if len(r.suspects) > 0 {
		rows = "not finite in rows " + nameRows(r.suspects)
	}
	return fail.Numericf(r.Dir, "look at the rows; a lower learning_rate, a longer warm-up, dtype: f32; "+kept, "step %d: %s (%s)", r.step+1, what, rows)
}

// done records a finished step.
func (r *run) done(m Metrics) error {
	r.mark(&m)
	r.loss, r.values, r.tokens = m.Loss, m.Objective, r.tokens+m.Tokens
	if what := r.metrics.repeated(m); what != "" {
		r.log("%s", what)
	}
	if !finite(m.Loss) {
		return r.metrics.write(m.Line())
	}
	return r.metrics.write(m)
}

// after validates and saves where it is time to.
func (r *run) after(ctx context.Context) error {
	improved := false
	if r.evalDue() {
		var err error
		if improved, err = r.validate(ctx); err != nil {
			return err
		}
	}
	if r.due() || improved && r.Config.LoadsBest() {
		return r.save()
	}
	return nil
}

// evalDue reports whether a validation follows this step.
func (r *run) evalDue() bool {
	return r.val != nil && (r.step == r.total || r.evalEvery > 0 && r.step%r.evalEvery == 0)
}

// due reports whether a checkpoint is wanted after this step.
func (r *run) due() bool {
	switch {
	case r.step == r.total || r.stopped():
		return true
	case r.Config.SaveSteps.Auto:
		return r.saved < 0 || time.Since(r.savedAt) >= saveEvery
	}
	return r.saveSteps > 0 && r.step%r.saveSteps == 0
}

// stop ends the loop early on all ranks: a cancelled context becomes
// Interrupted after the last finished step was saved, running out of memory
// keeps the state too.
func (r *run) stop(err error) error {
	g := gravityOf(err)
	if g == failed {
		return err
	}
	if r.step > 0 && r.saved != r.step {
		if err2 := r.save(); err2 != nil {
			return errors.Join(err2, err)
		}
	}
	if g == memoryShort {
		return err
	}
	return fail.Interruptedf(r.Dir, "run the same command again to go on", "stopped after step %d of %d, state saved", r.step, r.total)
}
