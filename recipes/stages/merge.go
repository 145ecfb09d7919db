package stages

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/train/eval"
)

var mergeKind = recipes.Kind{
	Name: "merge", Doc: "adapter into weights",
	New: func() any { return new(Merge) }, Left: func() any { return new(MergeResult) },
	Gives:   []recipes.RefKind{recipes.ModelRef},
	Resolve: func(o any, _ recipes.Setting, _ recipes.Bad) { schema.Fill(o) }, Inputs: mergeInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*Merge)
		o.Adapter, o.Data = "", ""
		return o
	},
	Makes: func(any) []recipes.Made { return []recipes.Made{{Dense: true}} },
	Path:  func(dir, run string, o any, _ string) string { return mergedPath(dir, run, o.(*Merge)) },
	Types: mergeTypes, Plan: planMerge, Run: runMerge, View: viewMerge,
}

// Merge adds an adapter to the weights.
type Merge struct {
	Adapter      string      `yaml:"adapter" doc:"train stage or PEFT folder" unset:"the last train stage"`
	Base         string      `yaml:"base" doc:"weights as released, or as held in training" enum:"original|trained" default:"original"`
	MaxKL        *float64    `yaml:"max_kl" doc:"largest mean KL between base+adapter and merged" default:"1e-3" range:"[0,100]"`
	Data         string      `yaml:"data" doc:"text the KL is measured on" unset:"the validation part"`
	DType        string      `yaml:"dtype" doc:"stored type" enum:"auto|bf16|f16|f32" default:"auto" unset:"that of the base (quantized base: bf16)"`
	MaxShardSize schema.Size `yaml:"max_shard_size" doc:"bytes a file" default:"5GB"`
	Format       string      `yaml:"format" doc:"file format" enum:"safetensors|gguf" default:"safetensors"`
}

// mergeInputs finds the adapter, and through it the base it was trained on:
// "original" goes back through quantize stages to what they were made from.
func mergeInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Merge)
	ad, err := v.Adapter("adapter", o.Adapter)
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "adapter", Ref: ad}}
	base := recipes.Ref{Kind: recipes.ModelRef, Path: v.BaseModel(), Why: "base_model"}
	if t := v.Find(ad.Stage); t != nil {
		base, _ = t.In("model")
		base.Why = "what " + ad.Stage + " was trained on"
		in = append(in, recipes.Input{Name: "trained", Ref: base})
		for o.Base == "original" {
			q := v.Find(base.Stage)
			if q == nil || q.Kind != &quantizeKind {
				break
			}
			base, _ = q.In("model")
			base.Why = "what " + q.ID + " was made from"
		}
	}
	if base.Path == "" && base.Stage == "" {
		return nil, v.Usagef("base", "add base_model to the recipe", "no base for the adapter")
	}
	in = append(in, recipes.Input{Name: "model", Ref: base})
	rows, err := v.Data("data", o.Data)
	if t := v.Find(ad.Stage); err != nil && o.Data == "" && t != nil {
		rows, _ = t.In("data")
		rows.Why, err = "what "+ad.Stage+" was trained on", nil
	}
	switch {
	case err == nil:
		in = append(in, recipes.Input{Name: "data", Ref: rows})
	case o.Data != "":
		return nil, err
	}
	return in, nil
}

func mergeTypes(p *recipes.Planner, j *recipes.Job, from *arch.Source, _ string) (map[string]dtype.Type, error) {
	t, err := storageType(j.Options.(*Merge).DType)
	if err != nil {
		return nil, err
	}
	return typesOf(from, arch.Dense{Path: mergePath(p.Env, j), Type: t}), nil
}

// MergeResult is what a merge stage leaves for the report.
type MergeResult struct {
	KL      *eval.Divergence  `json:"kl,omitempty"`      // base+adapter against merged
	Trained *eval.Divergence  `json:"trained,omitempty"` // the model as trained against merged
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
	Note      func(string) // is told what was decided; may be nil
}

// MergeModel writes base + adapters at o.Output.
func MergeModel(ctx context.Context, dev kernels.Backend, o MergeOptions) (*lora.MergeReport, error) {
	src, err := OpenSource(o.Model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	ads, err := readAdapters(o.Adapters, o.Weights)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(ads, func(w lora.Weighted) bool { return w.Folder.Reward() }) {
		if err := src.Reward(func(n int) []float32 { return make([]float32, n) }); err != nil { // the adapter's own takes their place
			return nil, err
		}
	}
	out := arch.Dense{Path: o.Output, MaxShard: o.MaxShard, Name: o.Name, Progress: o.Progress}
	if out.Type, err = storageType(o.Storage); err != nil {
		return nil, err
	}
	note := noteTo(o.Note)
	if err := otherBase(o.Model, ads, true, note); err != nil {
		return nil, err
	}
	release, err := dev.Host(tokenizer.Memory(src.Reader))
	if err != nil {
		return nil, err
	}
	defer release()
	gguf := filepath.Ext(o.Output) == ".gguf"
	if text := src.CarriedNote(gguf); text != "" {
		note(text)
	}
	var tok *tokenizer.Tokenizer // of a GGUF always: without one no program can use it
	if gguf || hasTokenizer(src) {
		if tok, err = servedTokenizer(src, o.Adapters, note); err != nil {
			return nil, err
		}
	}
	if gguf {
		out.Tokenizer, err = tok.GGUFKeysFor(src.Spec.V)
	} else {
		out.Files, err = servedFiles(src, tok)
	}
	if err != nil {
		return nil, err
	}
	return lora.Merge(ctx, dev, src, ads, lora.MergeOptions{Dense: out, TrainedAs: o.TrainedAs, Trained: o.Trained})
}

// klTokens is how much text a merge is checked on when there is much of it.
const klTokens = 16384

// KLSamples are what the models of a merge are compared on: the supervised
// tokens of rows, or all where none is.
func KLSamples(ex data.Examples) ([]eval.Sample, error) {
	rows, err := ex.ReadTokens(klTokens)
	if err != nil {
		return nil, err
	}
	if s := eval.Examples(rows, math.MaxInt); len(s) > 0 {
		return s, nil
	}
	return eval.Whole(rows), nil
}

// CompareMerged measures base with o's adapters, unmerged, against the model
// that MergeModel wrote at o.Output. With nf4 the base is held as in QLoRA.
func CompareMerged(ctx context.Context, dev kernels.Backend, base string, nf4 bool, o MergeOptions, samples []eval.Sample) (*eval.Divergence, error) {
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
	d, err := eval.Diverge(ctx, m.Model, ref.Model, samples)
	return &d, err
}

// trainedNF4 reports whether an adapter of this recipe was trained over NF4
// weights that only training held (adapter: qlora).
func trainedNF4(x *recipes.Env, j *recipes.Job) bool {
	ad, _ := j.In("adapter")
	return ad.Stage != "" && x.Job(ad.Stage).Options.(*Train).Adapter == "qlora"
}

func runMerge(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Merge)
	base, _ := j.In("model")
	ad, _ := j.In("adapter")
	mo := MergeOptions{
		Model: x.Path(base), Adapters: []string{x.Path(ad)}, Output: mergePath(x, j), Storage: o.DType, Trained: o.Base == "trained",
		MaxShard: int64(o.MaxShardSize), Name: x.Name(), Progress: x.Progress("bytes"),
		Note: func(s string) { res.Notes = append(res.Notes, s) },
	}
	if trainedNF4(x, j) {
		t := dtype.NF4Double
		mo.TrainedAs = &t
	}
	if o.Format == "gguf" { // else the folder is the artifact
		if err := atomic.MkdirAll(x.Dir(j)); err != nil {
			return fail.Limitf(x.Dir(j), "", "%w", err)
		}
	}
	rep, err := MergeModel(ctx, x.Device(), mo)
	if err != nil {
		return err
	}
	left := &MergeResult{Report: rep}
	res.Left = left
	if rep.Reward {
		res.Notes = append(res.Notes, "a reward model writes no text: the KL of its merge is not measured")
		return nil
	}
	rows, err := klRows(ctx, x, j)
	if err != nil || rows.Len() == 0 {
		res.Notes = append(res.Notes, "no data to measure the KL of the merge on")
		return err
	}
	samples, err := KLSamples(rows)
	if err != nil {
		return err
	}
	unmerged := mo.Trained && mo.TrainedAs != nil
	if left.KL, err = CompareMerged(ctx, x.Device(), mo.Model, unmerged, mo, samples); err != nil {
		return err
	}
	if trained, ok := j.In("trained"); ok && (mo.TrainedAs != nil || x.Path(trained) != mo.Model) {
		if left.Trained, err = CompareMerged(ctx, x.Device(), x.Path(trained), mo.TrainedAs != nil, mo, samples); err != nil {
			return err
		}
	}
	return left.KL.CheckMerge(x.Where(j), *o.MaxKL)
}

// mergePath is the folder of the stage, or the GGUF in it.
func mergePath(x *recipes.Env, j *recipes.Job) string {
	return mergedPath(x.Dir(j), x.Name(), j.Options.(*Merge))
}

func mergedPath(dir, run string, o *Merge) string {
	if o.Format == "gguf" {
		return filepath.Join(dir, run+".gguf")
	}
	return dir
}

// klRows are the rows held back, or the training rows where none are.
func klRows(ctx context.Context, x *recipes.Env, j *recipes.Job) (data.Examples, error) {
	ref, ok := j.In("data")
	if !ok {
		return data.Examples{}, nil
	}
	base, _ := j.In("model")
	ds, err := dataset(ctx, x, ref, base, "")
	if err != nil {
		return data.Examples{}, err
	}
	if ds.Val.Len() > 0 {
		return ds.Val, nil
	}
	return ds.Train, nil
}

// planMerge: adapter into weights, and the check of the result.
func planMerge(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	baseRef, _ := j.In("model")
	base, err := p.Source(baseRef)
	if err != nil {
		return err
	}
	merged, err := p.Source(recipes.Ref{Kind: recipes.ModelRef, Stage: j.ID})
	if err != nil {
		return err
	}
	s.Disk = heldBytes(merged)
	s.Does = fmt.Sprintf("→ %s %s", strings.ToLower(merged.LinearType().String()), j.Options.(*Merge).Format)
	t := mergedTrial(p, j)
	if t != nil && t.config.LoRA.InitWeights == lora.InitLoftQ && j.Options.(*Merge).Base != "trained" {
		return fail.Usagef(j.ID+".base", "base: trained", "init_lora_weights: loftq trains for the base quantized to NF4, and %s merges into the original", j.ID)
	}
	if err := mergeMemory(p, j, s, base, t); err != nil {
		return err
	}
	s.Seconds = float64(s.Disk)/3e8 + float64(merged.Spec.Params())/3e8
	in, ok := j.In("data")
	if !ok {
		s.Note("no data to measure the KL of the merge on")
		return nil
	}
	rows, err := rowsFor(p, in, baseRef)
	if err != nil || p.Quick && rows.unknown != "" { // nothing is refused on a guess
		return err
	}
	tokens := int64(klTokens)
	if rows.unknown == "" {
		if tokens = rows.valTokens; rows.val == 0 {
			tokens = rows.trainTokens
		}
	}
	tokens = min(tokens, klTokens)
	refs := []model.Options{{}}
	if trainedNF4(p.Env, j) && !quantized(base) {
		if err := checkNF4(base); err != nil {
			return err
		}
		nf4 := dtype.NF4Double
		refs = append(refs, model.Options{Hold: &nf4})
		if j.Options.(*Merge).Base == "trained" {
			refs = refs[1:]
		}
	}
	for _, ref := range refs {
		if err := compared(p, j, s, base, ref, t, merged, tokens); err != nil {
			return err
		}
	}
	return nil
}

// mergedTrial is the training of a merge's adapter, nil where the recipe has none.
func mergedTrial(p *recipes.Planner, j *recipes.Job) *trial {
	ad, _ := j.In("adapter")
	if ad.Stage == "" {
		return nil
	}
	of := p.Env.Job(ad.Stage)
	return &trial{j: of, config: of.Options.(*Train).Config}
}

// adapted attaches the adapter of a merge to m: the one that t is to train, or
// those of files.
func adapted(p *recipes.Planner, j *recipes.Job, t *trial, m *model.Model) (values int64, close func(), err error) {
	if t != nil {
		a, err := t.adapter(p, m)
		if err != nil {
			return 0, nil, err
		}
		return a.Trainable(), a.Close, nil
	}
	ad, _ := j.In("adapter")
	var list []*lora.Adapter
	close = func() {
		for _, a := range list {
			a.Close()
		}
	}
	ads, err := readAdapters([]string{ad.Path}, nil)
	for _, w := range ads {
		a, err := w.Attach(m)
		if err != nil {
			close()
			return 0, nil, err
		}
		list, values = append(list, a), values+a.Trainable()
	}
	if err != nil {
		return 0, nil, err
	}
	return values, close, nil
}

// mergeMemory counts what writing the merged weights takes.
func mergeMemory(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, base *arch.Source, t *trial) error {
	m, err := dryModelAs(dry.New(dry.Options{}), base, model.Options{Stream: true})
	if err != nil {
		return err
	}
	defer m.Close()
	values, close, err := adapted(p, j, t, m)
	if err != nil {
		return err
	}
	defer close()
	o := lora.MergeOptions{Dense: arch.Dense{Path: mergePath(p.Env, j)}}
	if o.Type, err = storageType(j.Options.(*Merge).DType); err != nil {
		return err
	}
	if trainedNF4(p.Env, j) {
		nf4 := dtype.NF4Double
		o.TrainedAs = &nf4
	}
	countHost(s, lora.MergeMemory(base, o, values)+tokenizer.Memory(base.Reader))
	return nil
}

// compared adds the cost of measuring the KL between two models: base with the
// adapter, loaded as o says, and m.
func compared(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan, base *arch.Source, o model.Options, t *trial, m *arch.Source, tokens int64) error {
	n := int(min(tokens, 2048))
	var work dry.Work
	err := counted(p, s, func(dev *dry.Dry) error {
		a, err := dryModelAs(dev, base, o)
		if err != nil {
			return err
		}
		defer a.Close()
		_, close, err := adapted(p, j, t, a)
		if err != nil {
			return err
		}
		defer close()
		b, err := dryModel(dev, m)
		if err != nil {
			return err
		}
		defer b.Close()
		_, err = eval.Diverge(p.Context, b, a, eval.Examples(zeroRows(max(1, n/256), min(n, 256)), n))
		work = dev.Work()
		return err
	})
	s.Seconds += p.Rates.Seconds(times(work, float64(tokens)/float64(max(n, 1))), false)
	return err
}

func viewMerge(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	o, m := j.Options.(*Merge), res.Left.(*MergeResult)
	row := report.Row{Model: j.ID, Path: mergePath(x, j)}
	if m.KL != nil {
		row.MergeKL = &report.Measured{Value: m.KL.KL, N: int(m.KL.Tokens)}
		s.Failed = m.KL.CheckMerge("", *o.MaxKL) != nil
	}
	s.Models = append(s.Models, row)
	if t := m.Trained; t != nil {
		s.Facts = append(s.Facts, fmt.Sprintf("%s: KL %s to the model as it was trained, over a quantized base (same top-1 %.1f %%)", j.ID, report.Sig(t.KL, 3), 100*t.Top1))
	}
	s.Layers = mergeLayers(j.ID, m)
	if dir := x.Dir(j); o.Format == "gguf" {
		s.Try = row.Path
		s.Next = append(s.Next, llamaServer(row.Path))
	} else {
		s.Next = append(s.Next, report.Command{For: "vLLM", Line: fmt.Sprintf("vllm serve %s --served-model-name %s", report.Shell(dir), report.Shell(x.Name()))})
		s.Try = dir
	}
}

// mergeLayers compares what quantization of the base moved with what training
// moved.
func mergeLayers(stage string, m *MergeResult) []report.Layers {
	if m.Report == nil || len(m.Report.Layers) == 0 {
		return nil
	}
	v := report.Layers{Title: "Merge: " + stage, WorstTitle: "Largest share of rounding", Head: []string{"layer", "delta/W", "rounding/delta"}}
	quantized, rounded := false, false
	for _, l := range m.Report.Layers {
		quantized, rounded = quantized || l.Quant > 0, rounded || l.Rounding > 0
	}
	for _, l := range m.Report.Layers {
		delta := max(l.Delta, 1e-300)
		val := report.Layer{Name: l.Name, Value: l.Rounding / delta, Cells: []string{report.Sig(l.Delta/max(l.Weight, 1e-300), 3), report.Sig(l.Rounding/delta, 3)}}
		if quantized {
			val.Value = l.QuantOverDelta()
			val.Cells = append(val.Cells, report.Sig(val.Value, 3))
		}
		v.Values = append(v.Values, val)
	}
	v.ChartTitle = "‖rounding‖/‖delta‖ by layer"
	if quantized {
		v.ChartTitle, v.WorstTitle = "‖quantization‖/‖delta‖ by layer", "Largest ‖quantization‖/‖delta‖"
		v.Head = append(v.Head, "quant./delta")
		v.Line = "The base was quantized while the adapter learned. Above 1, that quantization moved a layer further than training did. "
	}
	if !quantized && !rounded { // a merge in f32
		v.ChartTitle, v.WorstTitle = "‖delta‖/‖W‖ by layer", "Largest ‖delta‖/‖W‖"
		v.Line = "Nothing was rounded. "
		for i, l := range m.Report.Layers {
			v.Values[i].Value = l.Delta / max(l.Weight, 1e-300)
		}
	}
	if m.KL != nil {
		v.Line += fmt.Sprintf("KL of base + adapter to merged: %s over %s tokens (largest %s, same top-1 %.1f %%). ",
			report.Sig(m.KL.KL, 3), humanize.Comma(m.KL.Tokens), report.Sig(m.KL.Max, 2), 100*m.KL.Top1)
	}
	if m.Trained != nil {
		v.Line += fmt.Sprintf("KL of the model as it was trained to merged: %s (same top-1 %.1f %%).", report.Sig(m.Trained.KL, 3), 100*m.Trained.Top1)
	}
	return []report.Layers{v}
}
