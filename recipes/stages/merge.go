package stages

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
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
	Gives: []recipes.RefKind{recipes.ModelRef},
	Resolve: func(o any, _ recipes.Setting, bad recipes.Bad) {
		schema.Fill(o)
		if err := o.(*Merge).Check(); err != nil {
			bad("method", fail.Hint(err), "%v", err)
		}
	}, Inputs: mergeInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*Merge)
		weights := o.weights()
		o.Adapter, o.Data = nil, "" // inputs, but for their weights
		if slices.ContainsFunc(weights, func(w float64) bool { return w != 1 }) {
			for i := range weights {
				o.Adapter = append(o.Adapter, MergeAdapter{Weight: &weights[i]})
			}
		}
		return o
	},
	Makes: func(o any) []recipes.Made {
		reward := o.(*Merge).reward
		return []recipes.Made{{Dense: !reward, Reward: reward}}
	},
	Path: func(dir, run string, o any, _ string) string { return mergedPath(dir, run, o.(*Merge)) },
	Held: mergeHeld, Plan: planMerge, Run: runMerge, View: viewMerge,
}

// Merge adds adapters to the weights.
type Merge struct {
	Adapter          []MergeAdapter `yaml:"adapter" type:"name, or list of {adapter, weight}" doc:"train stages, PEFT folders or adapters in GGUF files" unset:"the last train stage"`
	lora.Combination `yaml:",inline"`
	Base             string      `yaml:"base" doc:"weights as released, or as held in training" enum:"original|trained" default:"original"`
	MaxKL            *float64    `yaml:"max_kl" doc:"largest mean KL between base+adapter and merged" default:"1e-3" range:"[0,100]"`
	Data             string      `yaml:"data" doc:"text the KL is measured on" unset:"the validation part"`
	DType            string      `yaml:"dtype" doc:"stored type" enum:"auto|bf16|f16|f32" default:"auto" unset:"that of the base (quantized base: bf16)"`
	MaxShardSize     schema.Size `yaml:"max_shard_size" doc:"bytes a file" default:"5GB"`
	Format           string      `yaml:"format" doc:"file format" enum:"safetensors|gguf" default:"safetensors"`

	reward bool // it makes a reward model, of the adapter of a stage: Inputs finds out
}

// MergeAdapter is one of the adapters of a merge.
type MergeAdapter struct {
	Adapter string   `yaml:"adapter" doc:"train stage, PEFT folder or GGUF"`
	Weight  *float64 `yaml:"weight" doc:"factor of its change" unset:"1" range:"[-1000,1000]"`
}

// SetYAML reads a name, or a mapping.
func (m *MergeAdapter) SetYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		m.Adapter = n.Value
		return nil
	}
	type plain MergeAdapter
	if err := schema.DecodeNode(n, (*plain)(m)); err != nil {
		return err
	}
	if m.Adapter == "" {
		return fmt.Errorf("an entry needs adapter: a train stage, a PEFT folder or a GGUF")
	}
	return nil
}

// adapterInputs are the adapters of a merge: one that is not given, or alone, is called
// adapter.
func adapterInputs(v *recipes.Resolver, list []MergeAdapter) ([]recipes.Input, error) {
	if len(list) == 0 {
		ad, err := v.Adapter("adapter", "")
		return []recipes.Input{{Name: "adapter", Ref: ad}}, err
	}
	var in []recipes.Input
	for i, a := range list {
		ref, err := v.Given(recipes.AdapterRef, "adapter", a.Adapter)
		if err != nil {
			return nil, err
		}
		name := "adapter"
		if len(list) > 1 {
			name = fmt.Sprintf("adapters[%d]", i)
		}
		in = append(in, recipes.Input{Name: name, Ref: ref})
	}
	return in, nil
}

// adapterRefs are a merge's adapters, in order.
func adapterRefs(j *recipes.Job) []recipes.Ref {
	var out []recipes.Ref
	for _, in := range j.Inputs {
		if in.Name == "adapter" || strings.HasPrefix(in.Name, "adapters[") {
			out = append(out, in.Ref)
		}
	}
	return out
}

// weights are the factors of a merge's adapters.
func (o *Merge) weights() []float64 {
	var out []float64
	for _, a := range o.Adapter {
		w := 1.0
		if a.Weight != nil {
			w = *a.Weight
		}
		out = append(out, w)
	}
	return out
}

// mergeInputs finds the adapter, and through it the base it was trained on:
// "original" goes back through quantize stages to what they were made from.
func mergeInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Merge)
	in, err := adapterInputs(v, o.Adapter)
	if err != nil {
		return nil, err
	}
	ad := in[0].Ref
	o.reward = v.MakesReward(ad)
	for _, other := range in[1:] {
		if !sameBase(v, ad, other.Ref) {
			return nil, v.Usagef("adapter", "merge adapters of one base", "%s was not trained on what %s was", other.Ref, ad)
		}
	}
	base, _ := v.Base()
	if t := v.Find(ad.Stage); t != nil {
		base, _ = t.In("model") // of an export, too
		base.Why = "what " + ad.Stage + " was trained on"
		in = append(in, recipes.Input{Name: "trained", Ref: base})
		if o.Base == "original" {
			base = original(v, base)
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

// sameBase reports whether two adapters that stages make were trained on one base;
// of a folder nothing is known here.
func sameBase(v *recipes.Resolver, a, b recipes.Ref) bool {
	s, t := v.Find(a.Stage), v.Find(b.Stage)
	if s == nil || t == nil {
		return true
	}
	x, _ := s.In("model")
	y, _ := t.In("model")
	return x.String() == y.String()
}

// original goes back through quantize stages to what a model was made from.
func original(v *recipes.Resolver, ref recipes.Ref) recipes.Ref {
	for {
		q := v.Find(ref.Stage)
		if q == nil || q.Kind != &quantizeKind {
			return ref
		}
		ref, _ = q.In("model")
		ref.Why = "what " + q.ID + " was made from"
	}
}

func mergeHeld(p *recipes.Planner, j *recipes.Job, from *arch.Source, _ string) (map[string]recipes.Held, error) {
	t, err := storageType(j.Options.(*Merge).DType)
	if err != nil {
		return nil, err
	}
	return typed(typesOf(from, arch.Dense{Path: mergePath(p.Env, j), Type: t})), nil
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
	Adapters  []string  // PEFT folders, or adapters in GGUF files
	Weights   []float64 // factor of each adapter; 1 where there is none
	Combine   lora.Combination
	Seed      uint64 // of the random masks of a combination
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
	ads, err := readAdapters(src, o.Adapters, o.Weights)
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
	if err := cmp.Or(otherBase(o.Model, ads, true, note), growFor(src, ads)); err != nil {
		return nil, err
	}
	release, err := dev.Host(tokenizer.Memory(src.Reader))
	if err != nil {
		return nil, err
	}
	defer release()
	if slices.ContainsFunc(src.Reader.Tensors(), func(t formats.Tensor) bool { return t.Act != dtype.Type{} || t.Unrounded != "" }) {
		note(o.Model + " has the inputs of its layers rounded, which the merged model has not: the KL is that of exact inputs")
	}
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
		if out.Tokenizer, err = tok.GGUFKeysFor(src.Spec.V); err == nil && tok.GGUFNote() != "" {
			note(tok.GGUFNote())
		}
		if text := src.LlamaCppNote(); text != "" {
			note(text)
		}
	} else {
		out.Files, err = servedFiles(src, tok)
	}
	if err != nil {
		return nil, err
	}
	if ads, err = combined(dev, ads, o.Combine, o.Seed); err != nil {
		return nil, err
	}
	return lora.Merge(ctx, dev, src, ads, lora.MergeOptions{Dense: out, TrainedAs: o.TrainedAs, Trained: o.Trained})
}

// Room refuses a merge that memory has no room for, or the check of one on samples, before
// it begins. held says for each check whether the base is held as in QLoRA.
func (o *MergeOptions) Room(ctx context.Context, dev kernels.Backend, held []bool, samples []eval.Sample) error {
	return room(dev, o.Model, func(dev *dry.Dry) error {
		src, err := OpenSource(o.Model)
		if err != nil {
			return err
		}
		defer src.Close()
		ads, err := readAdapters(src, o.Adapters, o.Weights)
		if err != nil {
			return err
		}
		if !o.Combine.Sums() { // what they are combined to takes about as much as one
			ads = ads[:1]
		}
		reward := slices.ContainsFunc(ads, func(w lora.Weighted) bool { return w.Folder.Reward() })
		if reward {
			err = src.Reward(func(n int) []float32 { return make([]float32, n) })
		}
		if err := cmp.Or(err, growFor(src, ads)); err != nil {
			return err
		}
		m := lora.MergeOptions{Dense: arch.Dense{Path: o.Output, MaxShard: o.MaxShard}, TrainedAs: o.TrainedAs}
		if m.Type, err = storageType(o.Storage); err != nil {
			return err
		}
		if err := o.rehearseWrite(src, ads, m, dev); err != nil || reward {
			return err
		}
		types := typesOf(src, m.Dense)
		merged, err := recipes.NewGhost(src, o.Output, func(t *arch.Tensor) recipes.Held {
			return recipes.Held{Type: types[t.Name], Mapped: recipes.Mappable(types[t.Name])}
		})
		if err != nil {
			return err
		}
		defer merged.Close()
		for _, nf4 := range held {
			if err := o.rehearseCheck(ctx, dev, nf4, ads, merged, samples); err != nil {
				return err
			}
		}
		return nil
	})
}

// rehearseWrite counts what writing the merged weights takes.
func (o *MergeOptions) rehearseWrite(src *arch.Source, ads []lora.Weighted, m lora.MergeOptions, dev *dry.Dry) error {
	base, err := dryModelAs(dry.New(dry.Options{}), src, model.Options{Stream: true})
	if err != nil {
		return err
	}
	defer base.Close()
	var values int64
	for _, w := range ads {
		a, err := w.Attach(base)
		if err != nil {
			return err
		}
		values += a.Trainable()
		a.Close()
	}
	return hosts(dev, lora.MergeMemory(src, m, values)+tokenizer.Memory(src.Reader))
}

// rehearseCheck counts what comparing a merged model with its base and adapters takes.
func (o *MergeOptions) rehearseCheck(ctx context.Context, dev *dry.Dry, nf4 bool, ads []lora.Weighted, merged *arch.Source, samples []eval.Sample) error {
	ref, err := LoadModel(dev, o.Model, ModelOptions{Adapters: o.Adapters[:len(ads)], Weights: o.Weights, NF4: nf4, Exact: true})
	if err != nil {
		return err
	}
	defer ref.Close()
	m, err := model.Load(dev, merged, model.Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	for _, pass := range eval.Largest(samples) {
		if _, err := eval.Diverge(ctx, m, ref.Model, pass); err != nil {
			return err
		}
	}
	return nil
}

// CombineAdapters makes one adapter of o's, a PEFT folder at o.Output with the chat
// template of the last one that has some. It works on folders alone: no base is read.
func CombineAdapters(dev kernels.Backend, o MergeOptions) (*lora.Folder, error) {
	files := map[string][]byte{}
	var parts []string
	for i, dir := range o.Adapters {
		if lora.IsGGUF(dir) {
			return nil, fail.Usagef(dir, "tune export --adapter A.gguf --model BASE --format safetensors makes a folder of it", "adapters in GGUF files are combined with their base only")
		}
		raw, err := formats.SideFile(filepath.Join(dir, templateFile))
		if err != nil {
			return nil, err
		}
		if raw != nil {
			files[templateFile] = raw
		}
		w := 1.0
		if i < len(o.Weights) {
			w = o.Weights[i]
		}
		parts = append(parts, fmt.Sprintf("%g × %s", w, dir))
	}
	ads, err := readAdapters(nil, o.Adapters, o.Weights)
	if err != nil {
		return nil, err
	}
	f, err := lora.Combine(dev, ads, o.Combine, o.Seed)
	if err != nil {
		return nil, err
	}
	return f, f.Write(o.Output, fmt.Sprintf("%s of %s.", o.Combine.Method, strings.Join(parts, " + ")), files)
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
// that MergeModel wrote at o.Output. With nf4 the base is held as in QLoRA. Inputs of
// layers stay exact, since a merge is about weights.
func CompareMerged(ctx context.Context, dev kernels.Backend, base string, nf4 bool, o MergeOptions, samples []eval.Sample) (*eval.Divergence, error) {
	ref, err := LoadModel(dev, base, ModelOptions{Adapters: o.Adapters, Weights: o.Weights, Combine: o.Combine, Seed: o.Seed, NF4: nf4, Exact: true})
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
// weights of base that only training held (adapter: qlora).
func trainedNF4(x *recipes.Env, j *recipes.Job, base *arch.Source) bool {
	return !quantized(base) && slices.ContainsFunc(adapterRefs(j), func(ad recipes.Ref) bool {
		if ad.Stage == "" {
			return false
		}
		t, ok := x.Job(ad.Stage).Options.(*Train)
		return ok && t.Adapter == "qlora"
	})
}

// rewardMerge is said where a merge makes a reward model.
const rewardMerge = "a reward model writes no text: the KL of its merge is not measured"

func runMerge(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Merge)
	base, _ := j.In("model")
	var paths []string
	for _, ad := range adapterRefs(j) {
		paths = append(paths, x.Path(ad))
	}
	mo := MergeOptions{
		Model: x.Path(base), Adapters: paths, Weights: o.weights(), Combine: o.Combination, Seed: x.Seed(), Output: mergePath(x, j), Storage: o.DType, Trained: o.Base == "trained",
		MaxShard: int64(o.MaxShardSize), Name: x.Name(), Progress: x.Progress("bytes"),
		Note: func(s string) { res.Notes = append(res.Notes, s) },
	}
	src, err := OpenSource(mo.Model)
	if err != nil {
		return err
	}
	if trainedNF4(x, j, src) {
		t := dtype.NF4Double
		mo.TrainedAs = &t
	}
	src.Close()
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
		res.Notes = append(res.Notes, rewardMerge)
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
	if m.Report.Reward { // which is no one to talk to
		return
	}
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
