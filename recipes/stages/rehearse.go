package stages

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

// trial is one way to run a train stage: its options and the length of its
// rows.
type trial struct {
	j         *recipes.Job
	config    train.Config
	rows      *rowsPlan
	maxLength int
	limit     int64 // 0: none
}

// rehearsal is what a trial needs.
type rehearsal struct {
	*train.Rehearsal
	work   dry.Work // of the largest micro-batch
	params int64
}

// rehearse runs the stage's own step on a backend that only counts.
func (t trial) rehearse(p *recipes.Planner) (*rehearsal, error) {
	dev := dry.New(dryAs(p.Env.Device().Info(), t.limit))
	ref, _ := t.j.In("model")
	src, err := p.Source(ref)
	if err != nil {
		return nil, err
	}
	mo := model.Options{Trainable: t.config.Adapter == "none", Reward: t.config.Reward()}
	if t.config.Adapter == "qlora" && !quantized(src) {
		if err := checkNF4(src); err != nil {
			return nil, err
		}
		hold := dtype.NF4Double
		mo.Hold = &hold
	}
	held, err := shapesOf(src)
	if err == nil && mo.Reward {
		held, err = rewardShapes(src)
	}
	if err != nil {
		return nil, err
	}
	m, err := model.Load(dev, held, mo)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	job := train.Job{Config: t.config, Model: m, MaxLength: t.maxLength}
	switch {
	case t.config.DType == "fp16":
	case bf16(p, &t.config):
		job.Config.DType = "bf16"
	default:
		job.Config.DType = "f32"
	}
	job.AsItBegan = t.j.Options.(*Train).Reference != "" // counted as a pass of its own
	if teacher, ok := t.j.In("teacher"); ok && t.config.LossTopK == 0 {
		its, err := p.Source(teacher)
		if err != nil {
			return nil, err
		}
		if job.Teacher, err = dryModel(dev, its); err != nil {
			return nil, err
		}
		defer job.Teacher.Close()
	}
	t.fill(p, &job)
	out := &rehearsal{params: src.Spec.Params()}
	if t.config.Adapter != "none" {
		if job.Adapter, err = t.adapter(p, m); err != nil {
			return nil, err
		}
		defer job.Adapter.Close()
	}
	before := dev.Work()
	if out.Rehearsal, err = train.Rehearse(p.Context, job); err != nil {
		return nil, err
	}
	out.work = less(dev.Work(), before)
	return out, nil
}

// fill gives a job the rows of the ingest, or rows like them: one micro-batch
// of full length.
func (t *trial) fill(p *recipes.Planner, job *train.Job) {
	longest := InTable(&job.Model.Spec, t.maxLength)
	if t.config.Asks() {
		job.Packing, job.MaxLength = "none", t.maxLength+t.config.MaxCompletionLength
		if job.Train = t.rows.examples; job.Train.Len() == 0 {
			room := job.Model.Spec.MaxPos - t.config.MaxCompletionLength // prompts that are not known leave it to answers
			job.Train = data.InMemory(zeroRows(1, max(1, min(t.maxLength, room)))...)
		}
		return
	}
	job.Packing = t.rows.packing
	if t.config.Writes() { // answers of full length
		job.Packing, job.MaxLength = "none", t.maxLength
		job.Train = data.InMemory(zeroRows(job.Config.MicroBatchSize, longest)...)
		return
	}
	if t.rows.dataset != nil && t.maxLength == t.rows.maxLength {
		job.Train, job.MaxLength = t.rows.dataset.Train, t.rows.dataset.MaxLength
		job.Shuffle = t.rows.shuffle
		return
	}
	if job.Packing == "none" {
		per := longest
		if t.rows.longest > 0 {
			per = min(per, t.rows.longest)
		}
		job.Config.MicroBatchSize *= max(1, t.config.Samples()) // each a row here
		job.Train = data.InMemory(zeroRows(job.Config.MicroBatchSize, per)...)
		return
	}
	mean := longest
	if t.rows.unknown == "" {
		mean = min(longest, t.rows.mean())
	}
	tokens := t.config.MicroBatchSize * t.maxLength
	rows := zeroRows(max(1, tokens/mean), mean)
	if rest := tokens - len(rows)*mean; rest > 1 {
		rows = append(rows, zeroRows(1, rest)...)
	}
	job.Train = data.InMemory(rows...)
	job.Packing, job.Config.MicroBatchSize = "none", len(rows)
}

// adapter attaches the stage's adapter. What it starts from does not change
// what it needs.
func (t *trial) adapter(p *recipes.Planner, m *model.Model) (*lora.Adapter, error) {
	o := Train{Config: t.config}
	if from, ok := t.j.In("init_from"); ok {
		dir := p.Env.Path(from)
		if !exists(dir) {
			o.Config = p.Env.Job(from.Stage).Options.(*Train).Config
			o.Seed, dir = t.config.Seed, ""
		}
		o.setInit(dir)
	}
	_, n := o.LoRA.Reads() // rows like those that it looks at
	return o.Start(m, data.InMemory(zeroRows(n, max(InTable(&m.Spec, t.maxLength), 2))...))
}

func bf16(p *recipes.Planner, c *train.Config) bool {
	return c.DType == "bf16" || c.DType == "auto" && p.Env.Device().Info().FastBF16
}

// planTrain: optimizer steps.
func planTrain(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	o := j.Options.(*Train).Config
	from, _ := j.In("data")
	to, _ := j.In("model")
	rows, err := rowsFor(p, from, to)
	if err != nil {
		return err
	}
	if err := o.CheckSamples(rows.examples); err != nil {
		return err
	}
	if key := o.Validates(); key != "" && rows.dataset != nil && rows.dataset.Val.Len() == 0 {
		return fail.Usagef("train."+key, "set ingest.val_set_size", "%s needs validation rows, there are none", key)
	}
	err = checkVocabulary(p, j, "reference")
	if err == nil && !o.UseULD {
		err = checkVocabulary(p, j, "teacher")
	}
	if err != nil {
		return err
	}
	src, err := p.Source(to)
	if err != nil {
		return err
	}
	if o, err = learnNew(o, p.Env, j, src, firstPlanned(p)); err != nil {
		return err
	}
	t := trial{j: j, config: o, rows: rows, maxLength: rows.maxLength, limit: p.Limit}
	r, err := t.rehearse(p)
	if errors.Is(err, kernels.ErrOutOfMemory) {
		if p.Quick && rows.unknown != "" { // rows of max_length do not fit: those that there are may be shorter
			return planTrain(p.Looking(), j, s)
		}
		if p.Trying {
			return p.Refusal(s, "needs")
		}
		return t.refuse(p, s)
	}
	if err != nil {
		return err
	}
	s.CountMemory(r.PeakTotal, r.Memory)
	steps := t.steps(p, r)
	s.Temp = r.StateBytes*int64(o.SaveTotalLimit+1) + r.Spilled
	s.Disk = 4*r.Trainable + 8<<10
	if o.LossTopK > 0 { // an id and a log-probability each
		s.Temp += 8 * int64(o.LossTopK) * rows.tokens
	}
	if j.Options.(*Train).Reference != "" || o.NeedsReference() { // a value a token
		s.Temp += 4 * rows.tokens
	}
	if o.Adapter == "none" {
		made, err := p.Source(recipes.Ref{Kind: recipes.ModelRef, Stage: s.Stage})
		if err != nil {
			return err
		}
		s.Disk = heldBytes(made)
	}
	s.Does = trainWords(&o)
	if o.LearningRate != nil {
		s.Does += fmt.Sprintf(" lr %s", report.Short(*o.LearningRate))
	}
	if steps > 0 {
		s.Does += fmt.Sprintf(", %s steps × %s tokens", humanize.Comma(int64(steps)), count(float64(t.stepTokens(r))))
	}
	t.time(p, r, s, steps)
	s.Note("%s of %s trainable (%s %%)", humanize.Comma(r.Trainable), humanize.Comma(r.params), report.Sig(100*float64(r.Trainable)/float64(r.params), 3))
	if r.Recompute > 0 {
		s.Note("gradient checkpointing of %d blocks", r.Recompute)
	} else if o.ActivationOffloading == "disk" || o.ActivationOffloading == "cpu" {
		s.Note("%s", idleOffloading)
	}
	if r.Spilled > 0 {
		s.Note("%s in mapped files", humanize.IBytes(uint64(r.Spilled)))
	}
	t.warn(p, s, steps, r.params)
	return nil
}

// checkVocabulary refuses a reference or teacher whose tokens are not the model's.
func checkVocabulary(p *recipes.Planner, j *recipes.Job, key string) error {
	ref, ok := j.In(key)
	if !ok {
		return nil
	}
	other, err := p.Source(ref)
	if err != nil {
		return err
	}
	to, _ := j.In("model")
	own, err := p.Source(to)
	if err != nil {
		return err
	}
	if other.Spec.V != own.Spec.V {
		return fail.Usagef("train."+key, "name a model of the same family; for a teacher of other tokens use_uld_loss: true", "%s has %d tokens, the model in training %d: their log-probabilities are of different texts", ref, other.Spec.V, own.Spec.V)
	}
	return nil
}

func trainWords(o *train.Config) string {
	if o.Adapter == "none" {
		if len(o.UnfrozenParameters) > 0 {
			return "some weights,"
		}
		return "all weights,"
	}
	kind := lora.KindWord(string(o.Adapter))
	if from, _ := o.Init(); *from != "" { // which has its own rank and scale
		return kind + " from " + *from
	}
	if k, err := o.Kinds.Of(string(o.Adapter)); k != nil && err == nil {
		return kind + " " + lora.Words(k)
	}
	return fmt.Sprintf("%s r%d α%s", kind, o.LoRA.R, report.Sig(o.LoRA.Alpha, 2))
}

// steps is the number of optimizer steps; 0 when the rows are not known.
func (t *trial) steps(p *recipes.Planner, r *rehearsal) int {
	if t.rows.dataset != nil && !t.config.Writes() {
		return r.Steps
	}
	if t.config.MaxSteps > 0 {
		return t.config.MaxSteps
	}
	if t.rows.unknown != "" {
		return 0
	}
	if t.config.Asks() {
		return t.config.Steps(int(t.rows.train))
	}
	n := t.rows.bins
	if t.rows.packing == "none" || t.config.Writes() {
		n = t.rows.train / int64(max(1, t.config.Samples()))
	}
	perStep := int64(t.config.MicroBatchSize * t.config.GradientAccumulationSteps * max(1, t.config.Ranks))
	return t.config.Total(int(max(1, (n+perStep-1)/perStep)))
}

// stepTokens is the tokens of a whole step.
func (t *trial) stepTokens(r *rehearsal) int64 {
	if t.rows.dataset != nil || t.config.Asks() {
		return r.StepTokens
	}
	full := int64(r.MicroTokens) * int64(t.config.GradientAccumulationSteps*max(1, t.config.Ranks))
	if t.rows.unknown == "" && t.rows.trainTokens > 0 {
		full = min(full, t.rows.trainTokens)
	}
	return full
}

// time estimates the steps, and the validations at a third of their work.
func (t trial) time(p *recipes.Planner, r *rehearsal, s *recipes.StagePlan, steps int) {
	if steps == 0 || r.MicroTokens == 0 || p.Rates.F32 == 0 {
		return
	}
	work := r.work
	if r.Recompute > 0 { // attempts that did not fit were counted too
		free := t
		free.limit = 0
		if plain, err := free.rehearse(p); err == nil {
			work = times(plain.work, 1+0.35*float64(r.Recompute-plain.Recompute)/float64(max(1, t.blocks(p))))
		}
	}
	if t.config.Asks() {
		s.Seconds = t.answerSeconds(p) * float64(steps)
	}
	if every := t.config.EvalSteps.Of(steps); len(t.config.EvalTasks) > 0 && every > 0 {
		s.Seconds += float64(steps/every) * t.questionSeconds(p)
	}
	perToken := p.Rates.Seconds(work, bf16(p, &t.config)) / float64(r.MicroTokens)
	if n := t.config.Ranks; n > 1 && p.Env.Device().Info().Copies { // each with a device of its own
		perToken /= float64(n)
	}
	s.Seconds += float64(steps) * float64(t.stepTokens(r)) * perToken
	if every := t.config.EvalSteps.Of(steps); every > 0 && !t.config.EvalSteps.Never() && !t.config.Asks() {
		s.Seconds += float64(steps/every) * float64(t.rows.valTokens) * perToken / 3
	}
}

// answerSeconds is writing a step's answers, each of full length, a few side by side.
func (t *trial) answerSeconds(p *recipes.Planner) float64 {
	const together = 16
	ref, _ := t.j.In("model")
	src, err := p.Source(ref)
	if err != nil {
		return 0
	}
	c := &t.config
	answers := float64(c.MicroBatchSize*c.GradientAccumulationSteps) / float64(c.NumIterations)
	return stepSeconds(p, src, together) * float64(c.MaxCompletionLength) * math.Ceil(answers/together)
}

// questionSeconds is answering the questions of a validation, with answers of the rows'
// mean length.
func (t *trial) questionSeconds(p *recipes.Planner) float64 {
	const together = 16
	ref, _ := t.j.In("model")
	src, err := p.Source(ref)
	if err != nil {
		return 0
	}
	n, each := int64(t.config.EvalSamples), float64(t.config.EvalMaxNewTokens)
	if r := t.rows; r.unknown == "" {
		n = min(n, r.val)
		if rows := r.train + r.val; rows > 0 && r.supervised > 0 {
			each = min(each, float64(r.supervised)/float64(rows))
		}
	}
	return stepSeconds(p, src, together) * each * math.Ceil(float64(n)/together)
}

func (t *trial) blocks(p *recipes.Planner) int {
	ref, _ := t.j.In("model")
	if src, err := p.Source(ref); err == nil {
		return len(src.Spec.Layers)
	}
	return 1
}

// smallModel is the number of parameters below which a model takes steps
// several times as large as those usual for language models.
const smallModel = 50_000_000

// fewSteps is the number of optimizer steps below which a training is taken for
// a mistake: plans warn of it, and low_steps of fail_on refuses it.
const fewSteps = 100

// warn says what is unusual for a model of params parameters.
func (t *trial) warn(p *recipes.Planner, s *recipes.StagePlan, steps int, params int64) {
	o := &t.config
	usual := o.UsualRate()
	if params < smallModel && usual < 0.1 {
		usual *= 10
	}
	if lr := o.LearningRate; lr != nil && (*lr < usual/10 || *lr > usual*10) {
		s.Note("learning_rate %s is far from the usual %s", report.Short(*lr), report.Short(usual))
	}
	if steps > 0 && steps < fewSteps && o.MaxSteps == 0 {
		s.Note("only %d optimizer steps: fewer gradient_accumulation_steps or more epochs give more", steps)
	}
	if w := o.Rising(steps); w != "" {
		s.Note("%s", w)
	}
	if t.rows.dataset == nil && t.rows.unknown != "" && !p.Quick {
		ref, _ := t.j.In("data")
		if ref.Stage == "" { // whose tokenizer comes from the model
			ref, _ = t.j.In("model")
		}
		s.Note("steps and time are known once %s has run", ref.Stage)
	}
}

// refuse says what the step would need with everything recomputed, and
// which changes would make it fit.
func (t trial) refuse(p *recipes.Planner, s *recipes.StagePlan) error {
	free := t
	free.limit = 0
	free.config.GradientCheckpointing = "true"
	r, err := free.rehearse(p)
	if err != nil {
		return err
	}
	s.CountMemory(r.PeakTotal, r.Memory)
	words := "needs"
	if t.config.GradientCheckpointing != "false" {
		words = "needs, with checkpointing,"
	} else {
		free.config.GradientCheckpointing = "false"
		if r, err = free.rehearse(p); err != nil {
			return err
		}
		s.CountMemory(r.PeakTotal, r.Memory)
	}
	s.Does = trainWords(&t.config)
	e := p.Refusal(s, words)
	e.Hint = strings.Join(t.waysOut(p), "\n")
	if e.Hint == "" {
		e.Hint = "no smaller batch or length fits: use a smaller base, or more memory"
	}
	return e
}

// waysOut tries smaller settings and lists those that fit, as lines to paste.
func (t trial) waysOut(p *recipes.Planner) []string {
	var out []string
	fits := func(t trial) (string, bool) {
		r, err := t.rehearse(p)
		if err != nil {
			return "", false
		}
		return humanize.IBytes(uint64(r.PeakTotal)), true
	}
	if t.config.GradientCheckpointing == "false" {
		v := t
		v.config.GradientCheckpointing = "auto"
		if need, ok := fits(v); ok {
			out = append(out, "gradient_checkpointing: auto → "+need+", same result, slower")
		}
	}
	for mb := t.config.MicroBatchSize / 2; mb >= 1; mb /= 2 {
		v := t
		v.config.MicroBatchSize = mb
		v.config.GradientAccumulationSteps = int(math.Ceil(float64(t.config.GradientAccumulationSteps*t.config.MicroBatchSize) / float64(mb)))
		words := ""
		if t.config.Asks() {
			v.config.StepsPerGeneration = t.config.StepsPerGeneration / t.config.GradientAccumulationSteps * v.config.GradientAccumulationSteps
			words = fmt.Sprintf(", steps_per_generation: %d", v.config.StepsPerGeneration)
		}
		if need, ok := fits(v); ok {
			out = append(out, fmt.Sprintf("micro_batch_size: %d, gradient_accumulation_steps: %d%s → %s, same result up to rounding", mb, v.config.GradientAccumulationSteps, words, need))
			break
		}
	}
	for n := t.maxLength / 2; n >= 64; n /= 2 {
		v := t
		v.maxLength, v.rows = n, t.rows.shorter()
		if need, ok := fits(v); ok {
			out = append(out, fmt.Sprintf("max_length: %d → %s%s", n, need, t.rows.overWords(n)))
			break
		}
	}
	if ref, _ := t.j.In("model"); t.config.Adapter == "lora" {
		if src, err := p.Source(ref); err == nil && !quantized(src) {
			v := t
			v.config.Adapter = "qlora"
			if need, ok := fits(v); ok {
				out = append(out, "adapter: qlora → "+need)
			}
		}
	}
	if t.config.Adapter == "none" {
		v := t
		v.config.Adapter = "lora"
		if need, ok := fits(v); ok {
			out = append(out, "adapter: lora → "+need)
		}
	}
	return out
}

// shorter is the same rows without their tokens, for another max_length.
func (r *rowsPlan) shorter() *rowsPlan {
	c := *r
	c.dataset = nil
	return &c
}

// overWords counts the rows over a shorter max_length.
func (r *rowsPlan) overWords(n int) string {
	over := 0
	for i := range r.examples.Len() {
		if tokens, _ := r.examples.Size(i); tokens > n {
			over++
		}
	}
	switch {
	case r.examples.Len() == 0:
		return ""
	case r.sampled > 0 && int64(r.sampled) < r.rows:
		return fmt.Sprintf(", about %s rows over", humanize.Comma(int64(float64(over)*float64(r.rows)/float64(r.examples.Len()))))
	}
	return fmt.Sprintf(", %s rows over", humanize.Comma(int64(over)))
}
