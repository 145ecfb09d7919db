package stages

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/train"
)

var trainKind = recipes.Kind{
	Name: "train", Doc: "LoRA, QLoRA, other adapters or full training",
	New: func() any { return new(Train) }, Left: func() any { return new(TrainResult) },
	Gives:   []recipes.RefKind{recipes.ModelRef, recipes.AdapterRef},
	Resolve: resolveTrain, Inputs: trainInputs, Address: addressTrain,
	Ranks: func(o any) int { return o.(*Train).Ranks },
	Makes: func(o any) []recipes.Made {
		full, reward := o.(*Train).Adapter == "none", o.(*Train).Reward()
		return []recipes.Made{{Dense: full && !reward, Adapter: !full, Reward: reward}}
	},
	Held: func(_ *recipes.Planner, _ *recipes.Job, from *arch.Source, _ string) (map[string]recipes.Held, error) {
		return typed(typesOf(from, arch.Dense{Path: "x"})), nil
	},
	Plan: planTrain, Run: runTrain, View: viewTrain,
}

// Train updates weights or adapters.
type Train struct {
	Model        string `yaml:"model" doc:"stage or path to train on" unset:"the last dense model above"`
	Data         string `yaml:"data" doc:"ingest stage, folder that tune ingest wrote, or file of rows" unset:"the only ingest stage"`
	Reference    string `yaml:"reference,omitempty" doc:"preferences: stage or path of the model that answers are held against; start: as it began, with the adapter it goes on from" unset:"the model without its adapter; full training: as it began"`
	Teacher      string `yaml:"teacher,omitempty" doc:"distill: stage or path to learn from; base: what model was made from, or holds as NF4" unset:"required by distill"`
	train.Config `yaml:",inline"`
}

// referenceStart is the word for the model in training as it is before the first step.
const referenceStart = "start"

// TrainResult is what a train stage leaves for the report.
type TrainResult struct {
	Steps     int      `json:"steps"`
	Loss      *float64 `json:"loss,omitempty"` // of the last step, where it had one
	ValLoss   *float64 `json:"val_loss,omitempty"`
	Trainable int64    `json:"trainable"`
	Params    int64    `json:"params"`
	Tokens    int64    `json:"tokens"`
	Skipped   int      `json:"skipped,omitempty"` // steps whose gradients overflowed
	Adapter   string   `json:"adapter,omitempty"` // what it is and where, in words
}

func resolveTrain(opts any, s recipes.Setting, bad recipes.Bad) {
	o := opts.(*Train)
	c, err := o.Config.Resolve(int64(s.Seed))
	if err != nil {
		bad("", fail.Hint(err), "%v", err)
	}
	if err == nil && o.Reference != "" && (!c.ReadsReference() || c.Asks()) {
		bad("reference", "leave it out", "objective: %s compares with no reference", c.Objective)
	}
	if err == nil && o.Reference != "" && o.Reference != referenceStart && c.SyncRefModel {
		bad("reference", "leave it out", "with sync_ref_model the reference is a copy of the model in training, not %s", o.Reference)
	}
	switch {
	case c.Distills() && o.Teacher == "":
		bad("teacher", "teacher: a model of the same tokens, or base", "objective: %s learns from a teacher, and none is given", c.Objective)
	case !c.Distills() && o.Teacher != "":
		bad("teacher", "leave it out", "teacher belongs to objective: distill, not %s", c.Objective)
	}
	if (c.Adapter == "lora" || c.Adapter == "qlora") && c.LoRA.InitFrom == "" { // else there is none, or it comes from the folder
		c.LoRA, _ = c.LoRA.Resolve() // checked with the rest
	}
	o.Config = c
}

func trainInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Train)
	model, err := v.Model("model", o.Model)
	if err != nil {
		return nil, err
	}
	rows, err := v.Data("data", o.Data)
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "model", Ref: model}, {Name: "data", Ref: rows}}
	if name, key := o.Init(); *name != "" {
		from, err := v.Given(recipes.AdapterRef, key, *name)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "init_from", Ref: from})
	}
	if o.Teacher != "" {
		from := original(v, model)
		if o.Teacher != "base" {
			if from, err = v.Given(recipes.ModelRef, "teacher", o.Teacher); err != nil {
				return nil, err
			}
		} else if from == model && o.Adapter != "qlora" {
			return nil, v.Usagef("teacher", "teacher: PATH names another model; adapter: qlora makes the model less than its base", "teacher: base is the model itself, which has nothing to learn from it")
		}
		in = append(in, recipes.Input{Name: "teacher", Ref: from})
	}
	if o.Reference != "" && o.Reference != referenceStart {
		ref, err := v.Given(recipes.ModelRef, "reference", o.Reference)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "reference", Ref: ref})
	}
	return in, nil
}

// addressTrain leaves out the rhythm of checkpoints and where memory lies, which
// change no result.
func addressTrain(a *recipes.Addresser, opts any) any {
	o := *opts.(*Train)
	if exists(o.Data) { // rows of a file, which a template may write with the date
		a.Env["clock"] = fmt.Sprint(clock().Unix())
	}
	o.Model, o.Data, o.Teacher = "", "", ""
	if o.Reference != referenceStart {
		o.Reference = ""
	}
	o.setInit("")
	o.SaveSteps, o.SaveTotalLimit, o.Tracking, o.DDPTimeout = train.Every{}, 0, train.Tracking{}, 0
	o.OffloadOptimizer, o.ActivationOffloading = "", ""
	if o.Ranks == 1 { // as where it is not given
		o.Ranks = 0
	}
	return o
}

// setInit names the folder that the adapter starts from.
func (o *Train) setInit(dir string) {
	from, _ := o.Init()
	*from = dir
}

// trainSource opens the model a train stage works on, with the head and the tokens that
// it is trained with.
func trainSource(x *recipes.Env, j *recipes.Job, o *train.Config) (*arch.Source, error) {
	ref, _ := j.In("model")
	src, err := OpenSource(x.Path(ref))
	if err != nil {
		return nil, err
	}
	if o.Reward() {
		err = src.Reward(lora.RewardHead(uint64(*o.Seed)))
	}
	if from, ok := j.In("init_from"); ok && err == nil {
		var ads []lora.Weighted
		if ads, err = readAdapters(src, []string{x.Path(from)}, nil); err == nil {
			err = growFor(src, ads)
		}
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// trainModel loads the model a train stage works on.
func trainModel(x *recipes.Env, j *recipes.Job, o *train.Config) (*arch.Source, *model.Model, error) {
	src, err := trainSource(x, j, o)
	if err != nil {
		return nil, nil, err
	}
	mo := model.Options{Trainable: o.Adapter == "none", Reward: o.Reward()}
	if o.Adapter == "qlora" && !quantized(src) {
		t := dtype.NF4Double
		mo.Hold = &t
	}
	m, err := model.Load(x.Device(), src, mo)
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return src, m, nil
}

// quantized reports whether the linear layers of a model are already held in
// a packed type, other than floats of 8 bits; QLoRA then trains straight over that.
func quantized(src *arch.Source) bool {
	t := src.LinearType()
	return t.Quantized() && !t.ScaledFloat8()
}

func runTrain(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Train).Config
	ref, _ := j.In("data")
	mref, _ := j.In("model")
	if err := atomic.MkdirAll(x.WorkDir(j)); err != nil {
		return fail.Limitf(x.WorkDir(j), "", "%w", err)
	}
	ds, err := dataset(ctx, x, ref, mref, filepath.Join(x.WorkDir(j), "rows"))
	if err != nil {
		return err
	}
	defer ds.Close()
	if o.Distills() {
		err := checkTeacher(x, j)
		if err == nil && o.LossTopK > 0 {
			err = keepTaught(ctx, x, j, ds.Dataset)
		}
		if err != nil {
			return err
		}
	}
	if o.Asks() {
		ds.MaxLength, ds.Packing = ds.MaxLength+o.MaxCompletionLength, "none"
	}
	if o.Writes() { // whose answers may be longer
		ds.Packing = "none"
	}
	job := train.Job{
		Config: o, Train: ds.Train, Val: ds.Val, MaxLength: ds.MaxLength,
		Packing: ds.Packing, Shuffle: ds.Shuffle,
		Dir: x.WorkDir(j), Identity: string(res.Address),
		Log: x.Note,
	}
	if t := x.Team(); t != nil {
		job.Comm = train.Pipes(t.Rank, t.Size, t.Peers, o.Patience())
	}
	first := job.Comm == nil || job.Comm.Rank() == 0
	if first {
		watched := &live{x: x, j: j, path: filepath.Join(job.Dir, train.MetricsFile), every: liveEvery}
		job.Progress = func(p train.Progress) { showTraining(x, p); watched.update(p.Step) }
	}
	job.AsItBegan = j.Options.(*Train).Reference == referenceStart
	if job.Reference, err = heldAgainst(ctx, x, j, job); err != nil {
		return err
	}
	src, m, err := trainModel(x, j, &o)
	if err != nil {
		return err
	}
	defer src.Close()
	defer m.Close()
	job.Model = m
	if o, err = learnNew(o, x, j, src, func(added *recipes.Job) (int, error) { return firstAdded(x, added) }); err != nil {
		return err
	}
	job.Config = o
	if job.Answering, err = answers(x, j); err != nil {
		return err
	}
	if g := origins(x, ref); g != nil {
		job.Sources, job.Source = g.Names, g.Of
	}
	if len(o.EvalTasks) > 0 {
		if job.Tokenizer, err = rowsTokenizer(x, ref, mref); err != nil {
			return err
		}
	}
	if o.Distills() && o.LossTopK == 0 {
		var t teaching
		defer t.close()
		if err := t.open(x, j); err != nil {
			return err
		}
		job.Teacher = t.model
		if o.UseULD {
			if job.Reader, err = teacherReader(x, j, ref, mref); err != nil {
				return err
			}
		}
	}
	left := &TrainResult{Params: src.Spec.Params()}
	res.Left = left
	if o.Adapter != "none" {
		if job.Adapter, err = startAdapter(x, j, o, m, ds.Train, res); err != nil {
			return err
		}
		defer job.Adapter.Close()
		left.Adapter = job.Adapter.Words()
	}
	out, err := train.Run(ctx, job)
	if err != nil {
		return blame(x, err)
	}
	if !first { // what there is to keep, rank 0 keeps
		return nil
	}
	left.Steps, left.Trainable, left.Tokens, left.Skipped = out.Steps, out.Trainable, out.Tokens, out.Skipped
	if !math.IsNaN(out.Loss) && !math.IsInf(out.Loss, 0) {
		left.Loss = &out.Loss
	}
	if out.Recompute == 0 && (o.ActivationOffloading == "disk" || o.ActivationOffloading == "cpu") {
		res.Notes = append(res.Notes, idleOffloading)
	}
	if out.Stopped {
		res.Notes = append(res.Notes, fmt.Sprintf("stopped early after step %d", out.Steps))
	}
	if o.LoadsBest() && out.BestStep != out.Steps {
		res.Notes = append(res.Notes, fmt.Sprintf("the weights are those of step %d, the best validation", out.BestStep))
	}
	if out.Steps < fewSteps && !out.Stopped {
		if err := x.FailOn(j, "low_steps", int64(out.Steps)); err != nil {
			return err
		}
	}
	if !math.IsNaN(out.ValLoss) && !o.Asks() {
		left.ValLoss = &out.ValLoss
	}
	if err := saveTrained(ctx, x, j, src, m, job.Adapter, out.Steps); err != nil {
		return err
	}
	return keepMetrics(x, j, job.Dir)
}

// blame is err, or what the rank that err is about says of its own end.
func blame(x *recipes.Env, err error) error {
	var gone *train.Gone
	if t := x.Team(); t != nil && errors.As(err, &gone) {
		own := t.Failure(gone.Rank)
		if late := new(train.Late); errors.As(err, &late) {
			return fail.Limitf("train", "run the same command again to go on from the last checkpoint; train.ddp_timeout is the seconds that one rank waits for another", "%s: %w", t.Who(gone.Rank), late)
		}
		if own != nil {
			return own
		}
	}
	return err
}

// answers is what a training on the model's own answers needs beside prompts.
func answers(x *recipes.Env, j *recipes.Job) (a train.Answering, err error) {
	o := j.Options.(*Train)
	if !o.Asks() && !o.Writes() {
		return a, nil
	}
	for i, r := range o.Rewards {
		f, err := r.New(fmt.Sprintf("train.rewards[%d]", i))
		if err != nil {
			return a, err
		}
		a.Rewards = append(a.Rewards, f)
	}
	ref, _ := j.In("model")
	tok, err := TokenizerOf(x.Path(ref))
	if err != nil {
		return a, err
	}
	a.Stop, a.Text = tok.EOSIDs(), func(ids []int32) string { return tok.Decode(ids, true) }
	return a, nil
}

// heldAgainst computes what the answers of job are held against, before the model in
// training is loaded; nil where the recipe names no reference.
func heldAgainst(ctx context.Context, x *recipes.Env, j *recipes.Job, job train.Job) (*train.Reference, error) {
	ref, ok := j.In("reference")
	if !ok {
		return nil, nil
	}
	hash, err := x.ContentHash(ref)
	if err != nil {
		return nil, err
	}
	src, err := OpenSource(x.Path(ref))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	m, err := model.Load(x.Device(), src, model.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return train.MakeReference(ctx, job.Dir, string(hash), m, job)
}

// startAdapter attaches the adapter that j trains as c says, new or from a folder.
func startAdapter(x *recipes.Env, j *recipes.Job, c train.Config, m *model.Model, rows data.Examples, res *recipes.Result) (*lora.Adapter, error) {
	o := Train{Config: c}
	if from, ok := j.In("init_from"); ok {
		o.setInit(x.Path(from))
		note, err := baseNote(x, j, x.Path(from))
		if err != nil {
			return nil, err
		}
		if note != "" {
			res.Notes = append(res.Notes, note)
		}
	}
	return o.Start(m, rows)
}

// idleOffloading is said where activation_offloading has nothing to do.
const idleOffloading = "activation_offloading keeps nothing: memory is enough without gradient checkpointing (gradient_checkpointing: true recomputes all blocks)"

func showTraining(x *recipes.Env, p train.Progress) {
	numbers := map[string]float64{}
	text := "first step"
	if p.Step > 0 { // left out for its loss
		text = "no loss"
	}
	if !math.IsNaN(p.Loss) && !math.IsInf(p.Loss, 0) {
		numbers["loss"] = p.Loss
		text = fmt.Sprintf("loss %.4f", p.Loss)
	}
	switch {
	case p.Reward != nil:
		numbers["reward"] = *p.Reward
		text += fmt.Sprintf("  reward %.3f", *p.Reward)
		if !math.IsNaN(p.Val) {
			numbers["val_reward"] = -p.Val
			text += fmt.Sprintf(" (val %.3f)", -p.Val)
		}
	case !math.IsNaN(p.Val):
		numbers["val_loss"] = p.Val
		text += fmt.Sprintf(" (val %.4f)", p.Val)
	}
	for _, v := range p.Objective {
		numbers[v.Name] = v.V
		if v.Name == "rewards/margins" || v.Name == "margin" {
			text += "  margin " + report.Sig(v.V, 3)
		}
	}
	if p.PerSecond > 0 {
		numbers["tokens_per_second"] = p.PerSecond
		text += fmt.Sprintf("  %.0f tok/s", p.PerSecond)
	}
	if p.Evaluating {
		text += "  validating"
	} else if p.Answering {
		text += "  writing answers"
	}
	x.Event(recipes.Event{What: "progress", Done: int64(p.Step), Total: int64(p.Total), Unit: "steps", Text: text, Memory: p.Memory, Numbers: numbers})
}

// saveTrained writes the adapter as a PEFT folder, or the trained weights as a
// Hugging Face folder in the base's type.
func saveTrained(ctx context.Context, x *recipes.Env, j *recipes.Job, src *arch.Source, m *model.Model, ad *lora.Adapter, steps int) error {
	dir := x.Dir(j)
	ref, _ := j.In("model")
	tmpl, err := trainedTemplate(x, j, src)
	if err != nil {
		return err
	}
	if ad != nil {
		base, err := x.ContentHash(ref)
		if err != nil {
			return err
		}
		if err := ad.Save(dir, lora.SaveOptions{Base: ref.String(), Notes: lora.Notes{BaseHash: string(base), Steps: steps}}); err != nil {
			return err
		}
		return keepTemplate(dir, tmpl)
	}
	files, err := trainedFiles(src, tmpl)
	if err != nil {
		return err
	}
	return lora.SaveModel(ctx, m, src, arch.Dense{Path: dir, Files: files, Progress: x.Progress("bytes")})
}

// baseNote tells where the adapter in dir may belong to another base than the
// one j trains it on: shapes are always compared, content where it is known.
func baseNote(x *recipes.Env, j *recipes.Job, dir string) (string, error) {
	f, err := lora.ReadFolder(dir)
	if err != nil {
		return "", err
	}
	ref, _ := j.In("model")
	base, err := x.ContentHash(ref)
	switch {
	case err != nil:
		return "", err
	case f.Notes.BaseHash == "":
		return fmt.Sprintf("%s: base not verifiable, it names %q; only shapes are compared", dir, f.Base), nil
	case f.Notes.BaseHash != string(base):
		return fmt.Sprintf("%s was trained on a base of other content (%q): its shapes fit", dir, f.Base), nil
	}
	return "", nil
}

// keepMetrics copies what a reader wants of the training state into the stage's
// folder.
func keepMetrics(x *recipes.Env, j *recipes.Job, work string) error {
	names := []string{train.MetricsFile}
	if j.Options.(*Train).Answers() {
		names = append(names, train.AnswersFile)
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(work, name))
		if err == nil {
			err = atomic.WriteFile(filepath.Join(x.Dir(j), name), raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// viewTrain draws the curves of a train stage, of one that was interrupted
// too.
func viewTrain(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res != nil {
		viewTrained(x, j, s)
	}
	path := metricsPath(x, j)
	steps, evals, err := train.ReadMetrics(path)
	if err != nil || len(steps) == 0 {
		return
	}
	v := &report.Curves{}
	if j.Options.(*Train).Asks() { // the loss says nothing of how good answers are
		own := slices.DeleteFunc(trainCharts(steps, nil), func(c report.Chart) bool { return c.Title == "reward" }) // which has a wide one
		v.Charts = append(rewardCharts(steps, evals), own...)
		s.Learned = answersOver(filepath.Join(filepath.Dir(path), train.AnswersFile))
	} else {
		v.Charts = trainCharts(steps, evals)
		s.Learned = answeredOver(filepath.Join(filepath.Dir(path), train.AnswersFile))
	}
	s.Curves, s.Files = v, trackerFiles(x, j, path, res != nil, steps, evals)
	last := steps[len(steps)-1]
	v.Line = humanize.Comma(int64(last.Step)) + " steps, " + lastWords(j.Options.(*Train), last, evals)
	if res != nil {
		t := res.Left.(*TrainResult)
		v.Line += fmt.Sprintf(" · %s of %s values trained (%s %%) · %s tokens", humanize.Comma(t.Trainable), humanize.Comma(t.Params),
			report.Sig(100*float64(t.Trainable)/float64(max(t.Params, 1)), 3), humanize.Comma(t.Tokens))
		if t.Skipped > 0 {
			v.Line += fmt.Sprintf(" · %s steps left out, their gradients overflowed", humanize.Comma(int64(t.Skipped)))
		}
		if t.Adapter != "" {
			v.Line += " · " + t.Adapter
		}
	}
}

// lastWords are how good a training was at its end.
func lastWords(o *Train, last train.Metrics, evals []train.EvalMetrics) string {
	n := len(evals)
	if o.Asks() { // whose loss has no level
		reward, _ := last.Objective.Get("reward")
		s := "last reward " + report.Sig(reward, 3)
		if n == 0 {
			return s
		}
		if reward, ok := evals[n-1].Objective.Get("reward"); ok {
			s += ", of prompts held back " + report.Sig(reward, 3)
		}
		return s
	}
	s := "last loss " + report.Sig(last.Loss, 4)
	if n > 0 {
		s += ", validation loss " + report.Sig(evals[n-1].Loss, 4)
	}
	return s
}

func trainCharts(steps []train.Metrics, evals []train.EvalMetrics) []report.Chart {
	x := make([]float64, len(steps))
	col := func(f func(*train.Metrics) float64) []float64 {
		out := make([]float64, len(steps))
		for i := range steps {
			out[i] = f(&steps[i])
		}
		return out
	}
	for i := range steps {
		x[i] = float64(steps[i].Step)
	}
	loss := col(func(m *train.Metrics) float64 { return m.Loss })
	curves := []report.Series{{Name: "loss", X: x, Y: loss, Class: "s1"}}
	if len(loss) >= 100 {
		curves = []report.Series{{Name: "loss of each step", X: x, Y: loss, Class: "s1", Faint: true}, {Name: "loss (mean around)", X: x, Y: report.Smooth(loss), Class: "s1"}}
	}
	if s := spikesOf(steps, "loss"); len(s.X) > 0 {
		curves = append(curves, s)
	}
	if len(evals) > 0 {
		v := report.Series{Name: "validation loss", Class: "s2", Marks: true}
		for _, e := range evals {
			v.X, v.Y = append(v.X, float64(e.Step)), append(v.Y, e.Loss)
		}
		curves = append(curves, v)
	}
	one := func(title string, zero bool, format report.Format, f func(*train.Metrics) float64) report.Chart {
		return report.Chart{Title: title, X: "step", Zero: zero, Format: format, Series: []report.Series{{Name: strings.ToLower(title), X: x, Y: col(f), Class: "s1"}}}
	}
	most := int64(0)
	for i := range steps {
		most = max(most, steps[i].MemoryBytes)
	}
	unit, by := "MiB", float64(1<<20)
	if most >= 4<<30 {
		unit, by = "GiB", 1<<30
	}
	charts := []report.Chart{{Title: "Loss", X: "step", Series: curves, Wide: true}}
	charts = append(charts, sourceCharts(steps, evals)...)
	charts = append(charts, validationCharts(steps, evals)...)
	charts = append(charts, objectiveCharts(steps, evals)...)
	norm := one("Gradient norm before clipping", true, report.ThreeDigits, func(m *train.Metrics) float64 { return m.GradNorm })
	if s := spikesOf(steps, "grad_norm"); len(s.X) > 0 {
		norm.Series = append(norm.Series, s)
	}
	return append(charts,
		one("Learning rate", true, report.TwoDigits, func(m *train.Metrics) float64 { return m.LearningRate }),
		norm,
		one("Tokens a second", true, report.Thousands, func(m *train.Metrics) float64 { return m.TokensPerSecond }),
		one("Largest memory so far, "+unit, true, report.ThreeDigits, func(m *train.Metrics) float64 { return float64(m.MemoryBytes) / by }))
}

// objectiveCharts draw the objective's own values, each over the steps that have it, and
// over the validations.
func objectiveCharts(steps []train.Metrics, evals []train.EvalMetrics) []report.Chart {
	var charts []report.Chart
	at := map[string]int{}
	for i := range steps {
		for _, v := range steps[i].Objective {
			k, ok := at[v.Name]
			if !ok {
				k = len(charts)
				at[v.Name] = k
				charts = append(charts, report.Chart{Title: v.Name, X: "step", Format: report.ThreeDigits, Series: []report.Series{{Name: v.Name, Class: "s1"}}})
			}
			s := &charts[k].Series[0]
			s.X, s.Y = append(s.X, float64(steps[i].Step)), append(s.Y, v.V)
		}
	}
	own := func(e *train.EvalMetrics) train.Values { return e.Objective }
	for _, name := range namesOf(evals, own) {
		k, ok := at[name]
		if !ok {
			k = len(charts)
			charts = append(charts, report.Chart{Title: name, X: "step", Format: report.ThreeDigits})
		} else {
			charts[k].Series[0].Name = "training"
		}
		s := valuesOver(name, evals, own)
		s.Class = "s2"
		charts[k].Series = append(charts[k].Series, s)
	}
	return charts
}

// viewTrained says what there is of a finished training, and how to serve it.
func viewTrained(x *recipes.Env, j *recipes.Job, s *report.Section) {
	o := j.Options.(*Train)
	ref, _ := j.In("model")
	dir, base := x.Dir(j), x.Path(ref)
	if o.Adapter != "none" && !o.Reward() {
		s.Try, s.TryOn = dir, base
	}
	s.Models = append(s.Models, report.Row{Model: j.ID, Path: dir, Adapter: o.Adapter != "none"})
	if line := vllmAdapter(base, x.Name(), dir); o.Adapter != "none" && line != "" {
		s.Next = append(s.Next, report.Command{For: "vLLM", Line: line})
	}
}

// vllmRanks are the ranks that vLLM makes room for.
var vllmRanks = []int{8, 16, 32, 64, 128, 256, 320, 512}

// vllmRank is the smallest of them that an adapter fits into, 0 for none.
func vllmRank(r int) int {
	if i, _ := slices.BinarySearch(vllmRanks, r); i < len(vllmRanks) {
		return vllmRanks[i]
	}
	return 0
}

// vllmAdapter is the line that serves an adapter over its base with vLLM, "" where
// vLLM refuses or misreads one of the two: it knows plain LoRA with one rank and
// one alpha, and no files of the program.
func vllmAdapter(base, name, dir string) string {
	if base == "" || filepath.Ext(base) == ".gguf" || recipes.IsEmbedded(base) {
		return ""
	}
	f, err := lora.ReadFolder(dir)
	if err != nil {
		return ""
	}
	c := f.Config
	if f.Kind != "" || c.UseDoRA || len(c.ModulesToSave) > 0 || c.Bias != "none" || c.LoRABias || len(c.RankPattern) > 0 || len(c.AlphaPattern) > 0 || len(c.TargetParameters)+len(c.TrainableTokenIndices) > 0 {
		return ""
	}
	rank := vllmRank(c.R)
	if rank == 0 {
		return ""
	}
	line := "vllm serve " + report.Shell(base)
	if repo, ok := strings.CutPrefix(base, "hf://"); ok {
		repo, revision, pinned := strings.Cut(repo, "@")
		line = "vllm serve " + report.Shell(repo)
		if pinned {
			line += " --revision " + report.Shell(revision)
		}
	}
	line += fmt.Sprintf(" --enable-lora --max-lora-rank %d --lora-modules %s", rank, report.Shell(name+"="+dir))
	if file := filepath.Join(dir, templateFile); exists(file) { // else vLLM takes the base's
		line += " --chat-template " + report.Shell(file)
	}
	return line
}

// metricsPath is where the log of a training lies, finished or not.
func metricsPath(x *recipes.Env, j *recipes.Job) string {
	path := filepath.Join(x.Dir(j), train.MetricsFile)
	if !exists(path) {
		path = filepath.Join(x.WorkDir(j), train.MetricsFile)
	}
	return path
}
