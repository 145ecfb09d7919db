package recipes

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
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/train"
)

// trial is one way to run a train stage: its options and the length of its
// rows.
type trial struct {
	j         *Job
	config    train.Config
	rows      *rowsPlan
	maxLength int
	limit     int64 // 0: none
}

// rehearsal is what a trial needs.
type rehearsal struct {
	*train.Rehearsal
	work    dry.Work // of the largest micro-batch
	params  int64
	summary string
}

// rehearse runs the stage's own step on a backend that only counts.
func (p *planner) rehearse(t trial) (*rehearsal, error) {
	dev := dry.New(dry.Options{MemoryLimit: t.limit, Label: p.x.dev.Info().Name})
	ref, _ := t.j.In("model")
	src, err := p.source(ref)
	if err != nil {
		return nil, err
	}
	held := src
	mo := model.Options{Trainable: t.config.Adapter == "none"}
	switch {
	case mo.Trainable:
		held, err = asF32(src)
	case t.config.Adapter == "qlora" && !quantized(src):
		held, err = asNF4(src)
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
	job.Config.DType = "f32"
	if p.bf16(&t.config) {
		job.Config.DType = "bf16"
	}
	job.Config.LoadBestModelAtEnd = false
	t.fill(p, &job)
	out := &rehearsal{params: src.Spec.Params(), summary: "all weights"}
	if t.config.Adapter != "none" {
		if job.Adapter, err = p.adapter(t, m); err != nil {
			return nil, err
		}
		defer job.Adapter.Close()
		out.summary = job.Adapter.Summary()
	}
	before := dev.Work()
	if out.Rehearsal, err = train.Rehearse(p.ctx, job); err != nil {
		return nil, err
	}
	out.work = less(dev.Work(), before)
	return out, nil
}

// fill gives a job the rows of the ingest, or rows like them: one micro-batch
// of full length.
func (t *trial) fill(p *planner, job *train.Job) {
	data0, _ := t.j.In("data")
	ingest := p.x.stage(data0.Stage).Ingest
	job.Packing = ingest.Packing
	if t.rows.dataset != nil && t.maxLength == t.rows.maxLength {
		job.Train, job.MaxLength = t.rows.dataset.Train, t.rows.dataset.MaxLength
		job.Shuffle = ingest.Shuffle == nil || *ingest.Shuffle
		return
	}
	per := t.maxLength
	if job.Packing == "none" {
		if t.rows.longest > 0 {
			per = min(per, t.rows.longest)
		}
		job.Train = data.InMemory(zeroRows(t.config.MicroBatchSize, per)...)
		return
	}
	mean := per
	if t.rows.unknown == "" {
		mean = min(per, t.rows.mean())
	}
	tokens := t.config.MicroBatchSize * per
	rows := zeroRows(max(1, tokens/mean), mean)
	if rest := tokens - len(rows)*mean; rest > 1 {
		rows = append(rows, zeroRows(1, rest)...)
	}
	job.Train = data.InMemory(rows...)
	job.Packing, job.Config.MicroBatchSize = "none", len(rows)
}

// adapter attaches the stage's adapter. What it starts from does not change
// what it needs.
func (p *planner) adapter(t trial, m *model.Model) (*lora.Adapter, error) {
	lc := t.config.LoRA
	if from, ok := t.j.In("init_from"); ok {
		if lc.InitFrom = p.x.pathOf(from); !exists(lc.InitFrom) {
			lc = p.x.stage(from.Stage).Train.LoRA
			lc.InitFrom = ""
		}
	}
	if lc.InitWeights == lora.InitPiSSA || lc.InitWeights == lora.InitOLoRA {
		lc.InitWeights = lora.InitKaiming
	}
	return lora.Start(m, lc, uint64(*t.config.Seed))
}

func (p *planner) bf16(c *train.Config) bool {
	return c.DType == "bf16" || c.DType == "auto" && p.x.dev.Info().FastBF16
}

// planTrain: optimizer steps.
func planTrain(p *planner, j *Job, s *StagePlan) error {
	o := j.Stage.Train.Config
	ref, _ := j.In("data")
	if ref.Stage == "" {
		return fail.Usagef(p.x.path+": "+s.Stage+".data", "add an ingest stage and name it", "%s is a file; training reads the rows of an ingest stage", ref.Path)
	}
	rows, err := p.rowsOf(ref.Stage)
	if err != nil {
		return err
	}
	t := trial{j: j, config: o, rows: rows, maxLength: rows.maxLength, limit: p.plan.Limit}
	r, err := p.rehearse(t)
	if errors.Is(err, kernels.ErrOutOfMemory) {
		return p.refuseTrain(t, s)
	}
	if err != nil {
		return err
	}
	s.memory(r.PeakTotal, r.Memory)
	steps := p.steps(t, r)
	s.Temp = r.StateBytes * int64(o.SaveTotalLimit+1)
	s.Disk = 4*r.Trainable + 8<<10
	if o.Adapter == "none" {
		made, err := p.source(Ref{Kind: ModelRef, Stage: s.Stage})
		if err != nil {
			return err
		}
		s.Disk = heldBytes(made)
	}
	s.Does = trainWords(&o) + fmt.Sprintf(" lr %s", sig(*o.LearningRate, 2))
	if steps > 0 {
		s.Does += fmt.Sprintf(", %s steps × %s tokens", humanize.Comma(int64(steps)), count(float64(p.stepTokens(t, r))))
	}
	p.trainTime(t, r, s, steps)
	s.note("%s of %s trainable (%s %%)", humanize.Comma(r.Trainable), humanize.Comma(r.params), sig(100*float64(r.Trainable)/float64(r.params), 3))
	if r.Recompute > 0 {
		s.note("gradient checkpointing of %d blocks", r.Recompute)
	}
	p.trainWarnings(t, s, steps, r.params)
	return nil
}

func trainWords(o *train.Config) string {
	if o.Adapter == "none" {
		return "all weights,"
	}
	return fmt.Sprintf("%s r%d α%s", map[string]string{"lora": "LoRA", "qlora": "QLoRA"}[o.Adapter], o.LoRA.R, sig(o.LoRA.Alpha, 2))
}

// steps is the number of optimizer steps; 0 when the rows are not known.
func (p *planner) steps(t trial, r *rehearsal) int {
	if t.rows.dataset != nil {
		return r.Steps
	}
	if t.config.MaxSteps > 0 {
		return t.config.MaxSteps
	}
	if t.rows.unknown != "" {
		return 0
	}
	ref, _ := t.j.In("data")
	n := t.rows.bins
	if p.x.stage(ref.Stage).Ingest.Packing == "none" {
		n = t.rows.train
	}
	perStep := int64(t.config.MicroBatchSize * t.config.GradientAccumulationSteps)
	return t.config.Total(int(max(1, (n+perStep-1)/perStep)))
}

// stepTokens is the tokens of a whole step.
func (p *planner) stepTokens(t trial, r *rehearsal) int64 {
	if t.rows.dataset != nil {
		return r.StepTokens
	}
	full := int64(r.MicroTokens) * int64(t.config.GradientAccumulationSteps)
	if t.rows.unknown == "" && t.rows.trainTokens > 0 {
		full = min(full, t.rows.trainTokens)
	}
	return full
}

// trainTime estimates the steps, and the validations at a third of their work.
func (p *planner) trainTime(t trial, r *rehearsal, s *StagePlan, steps int) {
	if steps == 0 || r.MicroTokens == 0 || p.rates.f32 == 0 {
		return
	}
	work := r.work
	if r.Recompute > 0 { // attempts that did not fit were counted too
		free := t
		free.limit = 0
		if plain, err := p.rehearse(free); err == nil {
			work = times(plain.work, 1+0.35*float64(r.Recompute-plain.Recompute)/float64(max(1, p.blocks(t))))
		}
	}
	perToken := p.rates.seconds(work, p.bf16(&t.config)) / float64(r.MicroTokens)
	s.Seconds = float64(steps) * float64(p.stepTokens(t, r)) * perToken
	if every := t.config.EvalSteps.Of(steps); every > 0 && !t.config.EvalSteps.Never() {
		s.Seconds += float64(steps/every) * float64(t.rows.valTokens) * perToken / 3
	}
}

func (p *planner) blocks(t trial) int {
	ref, _ := t.j.In("model")
	if src, err := p.source(ref); err == nil {
		return src.Spec.Layers
	}
	return 1
}

// smallModel is the number of parameters below which a model takes steps
// several times as large as those usual for language models.
const smallModel = 50_000_000

// trainWarnings say what is unusual for a model of params parameters.
func (p *planner) trainWarnings(t trial, s *StagePlan, steps int, params int64) {
	o := &t.config
	usual := 2e-4
	if o.Adapter == "none" {
		usual = 2e-5
	}
	if params < smallModel {
		usual *= 10
	}
	if lr := *o.LearningRate; lr < usual/10 || lr > usual*10 {
		s.note("learning_rate %s is far from the usual %s", sig(lr, 2), sig(usual, 2))
	}
	if steps > 0 && steps < 100 && o.MaxSteps == 0 {
		s.note("only %d optimizer steps: fewer gradient_accumulation_steps or more epochs give more", steps)
	}
	if t.rows.dataset == nil && t.rows.unknown != "" && !p.quick {
		s.note("steps and time are known once %s has run", dataOf(t.j))
	}
}

func dataOf(j *Job) string {
	ref, _ := j.In("data")
	return ref.Stage
}

// refuseTrain says what the step would need with everything recomputed, and
// which changes would make it fit.
func (p *planner) refuseTrain(t trial, s *StagePlan) error {
	free := t
	free.limit = 0
	free.config.GradientCheckpointing = "true"
	r, err := p.rehearse(free)
	if err != nil {
		return err
	}
	s.memory(r.PeakTotal, r.Memory)
	words := "needs"
	if t.config.GradientCheckpointing != "false" {
		words = "needs, with checkpointing,"
	} else {
		free.config.GradientCheckpointing = "false"
		if r, err = p.rehearse(free); err != nil {
			return err
		}
		s.memory(r.PeakTotal, r.Memory)
	}
	s.Does = trainWords(&t.config)
	e := p.refusal(s, words)
	e.Hint = strings.Join(p.waysOut(t), "\n")
	if e.Hint == "" {
		e.Hint = "no smaller batch or length fits: use a smaller base, or more memory"
	}
	return e
}

// waysOut tries smaller settings and lists those that fit, as lines to paste.
func (p *planner) waysOut(t trial) []string {
	var out []string
	fits := func(t trial) (string, bool) {
		r, err := p.rehearse(t)
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
		if need, ok := fits(v); ok {
			out = append(out, fmt.Sprintf("micro_batch_size: %d, gradient_accumulation_steps: %d → %s, same result up to rounding", mb, v.config.GradientAccumulationSteps, need))
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
		if src, err := p.source(ref); err == nil && !quantized(src) {
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
