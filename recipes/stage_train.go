package recipes

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/train"
)

// TrainResult is what a train stage leaves for the report.
type TrainResult struct {
	Steps     int                 `json:"steps"`
	Loss      float64             `json:"loss"`
	ValLoss   *float64            `json:"val_loss,omitempty"`
	Trainable int64               `json:"trainable"`
	Params    int64               `json:"params"`
	Tokens    int64               `json:"tokens"`
	Adapter   string              `json:"adapter,omitempty"` // one line about it
	Metrics   []train.Metrics     `json:"-"`
	Evals     []train.EvalMetrics `json:"-"`
}

// workDir holds the state of an unfinished training.
func (x *run) workDir(id string) string { return filepath.Join(x.dir, ".work", id) }

// trainModel loads the model a train stage works on.
func (x *run) trainModel(j *Job, o *train.Config) (*arch.Source, *model.Model, error) {
	ref, _ := j.In("model")
	path, err := resolvePath(x.pathOf(ref))
	if err != nil {
		return nil, nil, err
	}
	src, err := arch.Open(path)
	if err != nil {
		return nil, nil, err
	}
	mo := model.Options{Trainable: o.Adapter == "none"}
	if o.Adapter == "qlora" && !quantized(src) {
		t := dtype.NF4Double
		mo.Hold = &t
	}
	m, err := model.Load(x.dev, src, mo)
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return src, m, nil
}

// quantized reports whether the linear layers of a model are already held in
// a packed type; QLoRA then trains straight over that.
func quantized(src *arch.Source) bool {
	return src.LinearType().Quantized()
}

func runTrain(ctx context.Context, x *run, j *Job, res *Result) error {
	o := j.Stage.Train.Config
	ref, _ := j.In("data")
	mref, _ := j.In("model")
	ds, err := x.dataset(ctx, ref, mref)
	if err != nil {
		return err
	}
	src, m, err := x.trainModel(j, &o)
	if err != nil {
		return err
	}
	defer src.Close()
	defer m.Close()
	job := train.Job{
		Config: o, Model: m, Train: ds.Train, Val: ds.Val, MaxLength: ds.MaxLength,
		Packing: ds.Packing, Shuffle: ds.Shuffle,
		Dir: x.workDir(j.Stage.ID), Identity: string(res.Address),
		Progress: x.trainProgress, Log: func(s string) { x.event(Event{What: "note", Text: s}) },
	}
	if err := atomic.MkdirAll(job.Dir); err != nil {
		return fail.Limitf(job.Dir, "", "%w", err)
	}
	res.Train = &TrainResult{Params: src.Spec.Params()}
	if o.Adapter != "none" {
		lc := o.LoRA
		if from, ok := j.In("init_from"); ok {
			lc.InitFrom = x.pathOf(from)
		}
		if lc.InitFrom != "" {
			note, err := x.baseNote(j, lc.InitFrom)
			if err != nil {
				return err
			}
			if note != "" {
				res.Notes = append(res.Notes, note)
			}
		}
		if job.Adapter, err = lora.Start(m, lc, uint64(*o.Seed)); err != nil {
			return err
		}
		defer job.Adapter.Close()
		res.Train.Adapter = job.Adapter.Summary()
	}
	out, err := train.Run(ctx, job)
	if err != nil {
		return err
	}
	res.Train.Steps, res.Train.Loss, res.Train.Trainable, res.Train.Tokens = out.Steps, out.Loss, out.Trainable, out.Tokens
	if !math.IsNaN(out.ValLoss) {
		res.Train.ValLoss = &out.ValLoss
	}
	if err := x.saveTrained(ctx, j, src, m, job.Adapter, out.Steps); err != nil {
		return err
	}
	return x.keepMetrics(j, job.Dir)
}

func (x *run) trainProgress(p train.Progress) {
	text := fmt.Sprintf("loss %.4f", p.Loss)
	if math.IsNaN(p.Loss) {
		text = "first step"
	}
	if !math.IsNaN(p.Val) {
		text += fmt.Sprintf(" (val %.4f)", p.Val)
	}
	text += fmt.Sprintf("  %.0f tok/s", p.PerSecond)
	if p.Evaluating {
		text += "  validating"
	}
	x.event(Event{What: "progress", Done: int64(p.Step), Total: int64(p.Total), Unit: "steps", Text: text, Memory: p.Memory})
}

// saveTrained writes the adapter as a PEFT folder, or the trained weights as a
// Hugging Face folder in the base's type.
func (x *run) saveTrained(ctx context.Context, j *Job, src *arch.Source, m *model.Model, ad *lora.Adapter, steps int) error {
	dir := x.stageDir(j.Stage.ID)
	ref, _ := j.In("model")
	if ad != nil {
		base, err := x.baseHash(j)
		if err != nil {
			return err
		}
		return ad.Save(dir, lora.SaveOptions{Base: ref.String(), Notes: lora.Notes{BaseHash: base, Steps: steps}})
	}
	files, err := modelFiles(src)
	if err != nil {
		return err
	}
	return lora.SaveModel(ctx, m, src, lora.Output{Path: dir, Files: files, Progress: x.progress("bytes")})
}

// baseHash is the hash of the content of the model that j trains.
func (x *run) baseHash(j *Job) (string, error) {
	ref, _ := j.In("model")
	path, err := resolvePath(x.pathOf(ref))
	if err != nil {
		return "", err
	}
	h, err := x.hashes.tree(path)
	return string(h), err
}

// baseNote tells where the adapter in dir may belong to another base than the
// one j trains it on: shapes are always compared, content where it is known.
func (x *run) baseNote(j *Job, dir string) (string, error) {
	f, err := lora.ReadFolder(dir)
	if err != nil {
		return "", err
	}
	base, err := x.baseHash(j)
	switch {
	case err != nil:
		return "", err
	case f.Notes.BaseHash == "":
		return fmt.Sprintf("%s: base not verifiable, it names %q; only shapes are compared", dir, f.Base), nil
	case f.Notes.BaseHash != base:
		return fmt.Sprintf("%s was trained on a base of other content (%q): its shapes fit", dir, f.Base), nil
	}
	return "", nil
}

// modelFiles are the tokenizer and generation files of a model, in the form a
// Hugging Face folder has them.
func modelFiles(src *arch.Source) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range []string{"generation_config.json"} {
		if raw, ok := src.Reader.File(name); ok {
			out[name] = raw
		}
	}
	if !hasTokenizer(src) {
		return out, nil
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	files, err := tok.HFFiles()
	if err != nil {
		return nil, err
	}
	maps.Copy(out, files)
	return out, nil
}

func hasTokenizer(src *arch.Source) bool {
	if src.Reader.Format() != "gguf" {
		_, ok := src.Reader.File("tokenizer.json")
		return ok
	}
	for _, kv := range src.Reader.KV() {
		if kv.Key == "tokenizer.ggml.tokens" {
			return true
		}
	}
	return false
}

// keepMetrics copies what a reader wants of the training state into the stage's
// folder.
func (x *run) keepMetrics(j *Job, work string) error {
	raw, err := os.ReadFile(filepath.Join(work, "metrics.jsonl"))
	if err != nil {
		return err
	}
	return atomic.WriteFile(filepath.Join(x.stageDir(j.Stage.ID), "metrics.jsonl"), raw)
}
