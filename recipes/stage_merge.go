package recipes

import (
	"context"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
)

// MergeResult is what a merge stage leaves for the report.
type MergeResult struct {
	KL      *lora.Divergence  `json:"kl,omitempty"`      // base+adapter against merged
	Trained *lora.Divergence  `json:"trained,omitempty"` // the model as trained against merged
	Report  *lora.MergeReport `json:"layers"`
}

// MergeOptions are what `tune merge` and a merge stage share.
type MergeOptions struct {
	Model     string    // base as released
	Adapters  []string  // PEFT folders
	Weights   []float64 // factor of each adapter; 1 where there is none
	Output    string
	Storage   string      // auto, bf16, f16, f32
	TrainedAs *dtype.Type // how linear weights were held in training; nil: as in the file
	Trained   bool        // merge into those
	MaxShard  int64
	Name      string
	Progress  func(done, total int64)
}

// MergeModel writes base + adapters at o.Output.
func MergeModel(ctx context.Context, dev kernels.Backend, o MergeOptions) (*lora.MergeReport, error) {
	path, err := resolvePath(o.Model)
	if err != nil {
		return nil, err
	}
	src, err := arch.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	ads, err := readAdapters(o.Adapters, o.Weights)
	if err != nil {
		return nil, err
	}
	out := lora.Output{Path: o.Output, MaxShard: o.MaxShard, Name: o.Name, Progress: o.Progress}
	if out.Type, err = storageType(o.Storage); err != nil {
		return nil, err
	}
	if filepath.Ext(o.Output) == ".gguf" {
		out.Tokenizer, err = tokenizerKeys(src)
	} else {
		out.Files, err = modelFiles(src)
	}
	if err != nil {
		return nil, err
	}
	return lora.Merge(ctx, dev, src, ads, lora.MergeOptions{Output: out, TrainedAs: o.TrainedAs, Trained: o.Trained})
}

// tokenizerKeys are a model's tokenizer as GGUF metadata.
func tokenizerKeys(src *arch.Source) ([]formats.KV, error) {
	if !hasTokenizer(src) {
		return nil, nil
	}
	tok, err := tokenizer.Open(src.Reader)
	if err != nil {
		return nil, err
	}
	return tok.GGUFKeys()
}

// storageType reads a dtype option; auto is nil.
func storageType(name string) (*dtype.Type, error) {
	if name == "" || name == "auto" {
		return nil, nil
	}
	k, ok := map[string]dtype.Kind{"bf16": dtype.BF16, "f16": dtype.F16, "f32": dtype.F32}[name]
	if !ok {
		return nil, fail.Usagef("", "auto, bf16, f16 or f32", "storage type %q", name)
	}
	t := dtype.Of(k)
	return &t, nil
}

// klTokens is how much text a merge is checked on when there is much of it.
const klTokens = 16384

// KLBatches packs rows for a comparison of models.
func KLBatches(ex data.Examples) ([]data.Batch, error) {
	rows, err := ex.ReadTokens(klTokens)
	if err != nil {
		return nil, err
	}
	var out []data.Batch
	var part []data.Example
	n := 0
	for _, e := range rows {
		if n > 0 && n+len(e.IDs) > 2048 {
			out = append(out, data.NewBatch(part))
			part, n = nil, 0
		}
		part = append(part, e)
		n += len(e.IDs)
	}
	if n > 0 {
		out = append(out, data.NewBatch(part))
	}
	return out, nil
}

// CompareMerged measures base with o's adapters, unmerged, against the model
// that MergeModel wrote at o.Output. With nf4 the base is held as in QLoRA.
func CompareMerged(ctx context.Context, dev kernels.Backend, base string, nf4 bool, o MergeOptions, batches []data.Batch) (*lora.Divergence, error) {
	ref, err := LoadModel(dev, base, ModelOptions{Adapters: o.Adapters, Weights: o.Weights, NF4: nf4})
	if err != nil {
		return nil, err
	}
	defer ref.Close()
	m, err := LoadModel(dev, o.Output, ModelOptions{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	d, err := lora.Compare(ctx, ref.Model, m.Model, batches)
	return &d, err
}

// trainedNF4 reports whether an adapter of this recipe was trained over NF4
// weights that only training held (adapter: qlora).
func (x *run) trainedNF4(j *Job) bool {
	ad, _ := j.In("adapter")
	s := x.stage(ad.Stage)
	return s != nil && s.Train.Adapter == "qlora"
}

func runMerge(ctx context.Context, x *run, j *Job, res *Result) error {
	o := j.Stage.Merge
	base, _ := j.In("model")
	ad, _ := j.In("adapter")
	mo := MergeOptions{
		Model: x.pathOf(base), Adapters: []string{x.pathOf(ad)}, Output: x.mergePath(j.Stage), Storage: o.DType, Trained: o.Base == "trained",
		MaxShard: int64(o.MaxShardSize), Name: x.Name, Progress: x.progress("bytes"),
	}
	if x.trainedNF4(j) {
		t := dtype.NF4Double
		mo.TrainedAs = &t
	}
	rep, err := MergeModel(ctx, x.dev, mo)
	if err != nil {
		return err
	}
	res.Merge = &MergeResult{Report: rep}
	rows, err := x.klRows(ctx, j)
	if err != nil || rows.Len() == 0 {
		res.Notes = append(res.Notes, "no data to measure the KL of the merge on")
		return err
	}
	batches, err := KLBatches(rows)
	if err != nil {
		return err
	}
	unmerged := mo.Trained && mo.TrainedAs != nil
	if res.Merge.KL, err = CompareMerged(ctx, x.dev, mo.Model, unmerged, mo, batches); err != nil {
		return err
	}
	if trained, ok := j.In("trained"); ok && (mo.TrainedAs != nil || x.pathOf(trained) != mo.Model) {
		if res.Merge.Trained, err = CompareMerged(ctx, x.dev, x.pathOf(trained), mo.TrainedAs != nil, mo, batches); err != nil {
			return err
		}
	}
	return res.Merge.KL.CheckKL(x.path+": "+j.Stage.ID, o.MaxKL)
}

// mergePath is the folder of the stage, or the GGUF in it.
func (x *run) mergePath(s *Stage) string {
	dir := x.stageDir(s.ID)
	if s.Merge.Format == "gguf" {
		return filepath.Join(dir, x.Name+".gguf")
	}
	return dir
}

// klRows are the rows held back, or the training rows where none are.
func (x *run) klRows(ctx context.Context, j *Job) (data.Examples, error) {
	ref, ok := j.In("data")
	if !ok {
		return data.Examples{}, nil
	}
	base, _ := j.In("model")
	ds, err := x.dataset(ctx, ref, base)
	if err != nil {
		return data.Examples{}, err
	}
	if ds.Val.Len() > 0 {
		return ds.Val, nil
	}
	return ds.Train, nil
}
