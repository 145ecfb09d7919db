package stages

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

var exportKind = recipes.Kind{
	Name: "export", Doc: "GGUF or safetensors",
	New: func() any { return new(Export) }, Left: func() any { return new(ExportResult) },
	Gives: []recipes.RefKind{recipes.ModelRef, recipes.AdapterRef}, Reforms: true, Keeps: true, // replaces files one by one
	Resolve: resolveExport, Inputs: exportInputs,
	Address: func(_ *recipes.Addresser, opts any) any {
		o := *opts.(*Export)
		o.Model, o.Adapter, o.Imatrix = "", fmt.Sprint(o.Adapter != ""), fmt.Sprint(o.Imatrix != "")
		return o
	},
	Makes: func(o any) (out []recipes.Made) {
		for _, t := range o.(*Export).Type {
			out = append(out, recipes.Made{Member: t, Adapter: o.(*Export).Adapter != ""})
		}
		return out
	},
	Path: exportPath,
	Held: func(_ *recipes.Planner, j *recipes.Job, from *arch.Source, member string) (map[string]recipes.Held, error) {
		types, err := exportedTypes(j.Options.(*Export), from, member)
		return typed(types), err
	},
	Plan: planExport, Run: runExport, View: viewExport,
}

// Export writes GGUF or safetensors.
type Export struct {
	Model              string            `yaml:"model" doc:"stage or path" unset:"the last dense model above"`
	Adapter            string            `yaml:"adapter" doc:"train stage or PEFT folder: it alone, as a GGUF of type F32, F16, BF16 or Q8_0; model is its base"`
	Format             string            `yaml:"format" doc:"file format" enum:"gguf|safetensors" default:"gguf"`
	Type               schema.Names      `yaml:"type" doc:"one type or a list, one file each" unset:"Q4_K_M, of an adapter F32"`
	Imatrix            string            `yaml:"imatrix" doc:"imatrix file, ingest stage or text file"`
	Samples            int               `yaml:"samples" doc:"samples for the imatrix" default:"64" range:"[1,1000000]"`
	TensorType         map[string]string `yaml:"tensor_type" doc:"regex on the GGUF name to type"`
	TokenEmbeddingType string            `yaml:"token_embedding_type" doc:"type of the embedding"`
	OutputTensorType   string            `yaml:"output_tensor_type" doc:"type of the head"`
	Pure               bool              `yaml:"pure" doc:"one type for all matrices"`
	AllowRequantize    bool              `yaml:"allow_requantize" doc:"accept a model that is quantized already"`
	For                schema.Names      `yaml:"for" doc:"ollama writes a Modelfile: the first file, the chat template in Ollama's syntax, stop tokens" unset:"[]"`
}

// ExportResult is what an export stage leaves for the report.
type ExportResult struct {
	Files []ExportedFile `json:"files"`
}

// ExportedFile is one file of an export.
type ExportedFile struct {
	Type      string        `json:"type"`
	Path      string        `json:"path"`
	Bits      float64       `json:"bits_per_weight"`
	Fallbacks int           `json:"fallbacks"`
	Tensors   []gguf.Tensor `json:"tensors,omitempty"`
}

// Fill sets what is not given.
func (o *Export) Fill() {
	schema.Fill(o)
	if o.Type == nil {
		o.Type = schema.Names{"Q4_K_M"}
		if o.Format == "safetensors" {
			o.Type = schema.Names{"BF16"}
		}
		if o.Adapter != "" {
			o.Type = schema.Names{"F32"}
		}
	}
}

// servers are who an export can be for.
var servers = []string{"ollama", "llama.cpp"}

func resolveExport(opts any, _ recipes.Setting, bad recipes.Bad) {
	o := opts.(*Export)
	o.Fill()
	if o.Adapter != "" {
		o.resolveAdapter(bad)
		return
	}
	for _, t := range o.Type {
		var err error
		if o.Format == "safetensors" {
			_, err = floatType(t)
		} else {
			_, err = gguf.ParseFileType(t)
		}
		if err != nil {
			bad("type", fail.Hint(err), "%v", err)
		}
	}
	if o.Format != "safetensors" {
		if _, err := o.gguf(""); err != nil {
			bad("tensor_type", fail.Hint(err), "%v", err)
		}
		for key, name := range map[string]string{"token_embedding_type": o.TokenEmbeddingType, "output_tensor_type": o.OutputTensorType} {
			if _, err := gguf.ParseTensorKind(key, name); name != "" && err != nil {
				bad(key, fail.Hint(err), "%v", err)
			}
		}
	}
	for _, who := range o.For {
		if !slices.Contains(servers, who) {
			bad("for", "known: "+strings.Join(servers, ", "), "found %q", who)
		}
	}
}

func exportInputs(v *recipes.Resolver, opts any) ([]recipes.Input, error) {
	o := opts.(*Export)
	if o.Adapter != "" {
		return o.adapterInputs(v)
	}
	model, err := v.Writer("model", o.Model)
	if err != nil {
		return nil, err
	}
	in := []recipes.Input{{Name: "model", Ref: model}}
	if o.Imatrix != "" {
		text, err := v.Given(recipes.DataRef, "imatrix", o.Imatrix)
		if err != nil {
			return nil, err
		}
		in = append(in, recipes.Input{Name: "imatrix", Ref: text})
	}
	return in, nil
}

// exportPath is the file or folder that a member lies in.
func exportPath(dir, run string, opts any, member string) string {
	o := opts.(*Export)
	switch {
	case o.Format != "safetensors":
		return filepath.Join(dir, run+"-"+member+".gguf")
	case len(o.Type) == 1:
		return dir
	}
	return filepath.Join(dir, run+"-"+member)
}

func runExport(ctx context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Export)
	if o.Adapter != "" {
		return runExportAdapter(ctx, x, j, res)
	}
	ref, _ := j.In("model")
	src, err := recipes.ResolvePath(x.Path(ref))
	if err != nil {
		return err
	}
	left := &ExportResult{}
	res.Left = left
	if dir := x.Dir(j); exportPath(dir, x.Name(), o, o.Type[0]) != dir { // else the folder is the artifact
		if err := atomic.MkdirAll(dir); err != nil {
			return fail.Limitf(dir, "", "%w", err)
		}
	}
	im, err := importance(ctx, x, j)
	if err != nil {
		return err
	}
	for _, typ := range o.Type {
		out := exportPath(x.Dir(j), x.Name(), o, typ)
		f := ExportedFile{Type: typ, Path: filepath.Base(out)}
		var notes []string
		if o.Format == "safetensors" {
			if err := atomic.RemoveAll(out); err != nil { // finished, but killed before it was recorded
				return err
			}
			err = ExportSafetensors(ctx, x.Device(), src, out, typ, x.Progress("bytes"), func(text string) { notes = append(notes, text) })
		} else {
			f, notes, err = exportGGUF(ctx, x, o, src, out, typ, im)
		}
		if err != nil {
			return err
		}
		if err := x.FailOn(j, "fallback", int64(f.Fallbacks)); err != nil {
			return err
		}
		if f.Fallbacks > 0 {
			res.Notes = append(res.Notes, fmt.Sprintf("%s: %d matrices fall back to another type", typ, f.Fallbacks))
		}
		res.Notes = append(res.Notes, notes...)
		left.Files = append(left.Files, f)
	}
	if slices.Contains(o.For, "ollama") {
		note, err := writeModelfile(x, j, left)
		if note != "" {
			res.Notes = append(res.Notes, note)
		}
		return err
	}
	return nil
}

func exportGGUF(ctx context.Context, x *recipes.Env, o *Export, src, out, typ string, im *gguf.Imatrix) (ExportedFile, []string, error) {
	g, err := o.gguf(typ)
	if err != nil {
		return ExportedFile{}, nil, err
	}
	g.Imatrix, g.Name, g.Force = im, x.Name(), true
	rep, err := gguf.Write(ctx, x.Device(), src, out, *g, x.Progress("weights"))
	if err != nil {
		return ExportedFile{}, nil, err
	}
	return ExportedFile{Type: typ, Path: filepath.Base(out), Bits: rep.BitsPerWeight(), Fallbacks: rep.Fallbacks, Tensors: rep.Tensors}, rep.Notes(), nil
}

// gguf are the options of the file of a type.
func (o *Export) gguf(typ string) (*gguf.Options, error) {
	g := &gguf.Options{Type: typ, Pure: o.Pure, OutputType: o.OutputTensorType, EmbeddingType: o.TokenEmbeddingType, AllowRequantize: o.AllowRequantize}
	for _, pattern := range slices.Sorted(maps.Keys(o.TensorType)) {
		k, err := gguf.ParseTensorKind("tensor_type", o.TensorType[pattern])
		if err != nil {
			return nil, err
		}
		g.Tensors = append(g.Tensors, gguf.TensorType{Pattern: pattern, Type: k})
	}
	return g, nil
}

// ExportSafetensors writes a model as a plain Hugging Face folder whose
// matrices are f32, f16 or bf16; quantized ones are decoded.
func ExportSafetensors(ctx context.Context, dev kernels.Backend, model, out, typ string, progress func(done, total int64), note func(string)) error {
	t, err := floatType(typ)
	if err != nil {
		return err
	}
	src, err := arch.Open(model)
	if err != nil {
		return err
	}
	defer src.Close()
	writtenNotes(src, noteTo(note))
	d := arch.Dense{Path: out, Type: &t, Progress: progress}
	if err := room(dev, model, func(dev *dry.Dry) error {
		return hosts(dev, arch.CopyMemory(src, d.Plan(src), nil)+tokenizer.Memory(src.Reader))
	}); err != nil {
		return err
	}
	release, err := dev.Host(tokenizer.Memory(src.Reader))
	if err != nil {
		return err
	}
	defer release()
	if d.Files, err = modelFiles(src); err != nil {
		return err
	}
	return d.Write(ctx, dev, src, nil)
}

// floatType is the type of a safetensors export.
func floatType(name string) (dtype.Type, error) {
	if k, ok := floatTypes[strings.ToLower(name)]; ok {
		return dtype.Of(k), nil
	}
	return dtype.Type{}, fail.Usagef("type", "F32, F16 or BF16", "a safetensors export cannot be %q", name)
}

// planExport: GGUF files or plain folders.
func planExport(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	if j.Options.(*Export).Adapter != "" {
		return planExportAdapter(p, j, s)
	}
	ref, _ := j.In("model")
	src, err := p.Source(ref)
	if err != nil {
		return err
	}
	o := j.Options.(*Export)
	params := src.Spec.Params()
	var does []string
	for _, typ := range o.Type {
		types, err := exportedTypes(o, src, typ)
		if err != nil {
			return err
		}
		bytes := sizeAs(src, types)
		s.Disk += bytes + 2<<20
		does = append(does, fmt.Sprintf("%s %.2f", typ, 8*float64(bytes)/float64(params)))
		if !p.Quick {
			s.Seconds += encodeSeconds(src, types) + float64(bytes)/1e9
		}
		planFallbacks(o, src, typ, s)
	}
	s.Does = strings.Join(does, ", ") + " bits a weight"
	for _, typ := range o.Type {
		n, err := exportMemory(o, src, typ)
		if err != nil {
			return err
		}
		countHost(s, n+tokenizer.Memory(src.Reader))
	}
	if in, ok := j.In("imatrix"); ok && in.Path == "" {
		text, err := planCalibration(p, in, s, src, calibrationPlan{o.Samples, min(imatrixLength, src.Spec.MaxPos), quant.ImatrixWork})
		if err != nil || text == nil {
			return err
		}
		if src, err = shapesOf(src); err != nil {
			return err
		}
		return counted(p, s, func(dev *dry.Dry) error {
			_, err := quant.CollectImatrix(p.Context, dev, src, text, quant.ImatrixOptions{})
			return err
		})
	}
	return nil
}

// exportMemory is what one file of an export takes.
func exportMemory(o *Export, src *arch.Source, typ string) (int64, error) {
	if o.Format == "safetensors" {
		t, err := floatType(typ)
		if err != nil {
			return 0, err
		}
		d := arch.Dense{Path: "x", Type: &t}
		return arch.CopyMemory(src, d.Plan(src), nil), nil
	}
	choices, err := chooseMix(o, src, typ)
	return gguf.Memory(choices), err
}

// planFallbacks counts the matrices that cannot have the type that was meant for
// them.
func planFallbacks(o *Export, src *arch.Source, typ string, s *recipes.StagePlan) {
	if o.Format == "safetensors" {
		return
	}
	choices, err := chooseMix(o, src, typ)
	if err != nil {
		return // reported already
	}
	fallen, all, why := 0, 0, ""
	for _, c := range choices {
		if len(c.Shape) > 1 {
			all++
		}
		if c.Fallback {
			fallen++
			why = c.Why
		}
	}
	if fallen > 0 {
		s.Note("%s: %d of %d matrices fall back (%s)", typ, fallen, all, why)
	}
}

// encodeSeconds is how long encoding takes, by the rate of each type.
func encodeSeconds(src *arch.Source, types map[string]dtype.Type) (sec float64) {
	perType := map[dtype.Type]float64{}
	for _, t := range src.Tensors() {
		perType[types[t.Name]] += float64(t.Len())
	}
	for t, n := range perType {
		if r := encodeRate(t); r > 0 {
			sec += n / r
		}
	}
	return sec
}

// exportedTypes lists the types of one file of an export stage.
func exportedTypes(o *Export, from *arch.Source, typ string) (map[string]dtype.Type, error) {
	out := map[string]dtype.Type{}
	if o.Format == "safetensors" {
		t, err := floatType(typ)
		if err != nil {
			return nil, err
		}
		for _, x := range from.Tensors() {
			out[x.Name] = t
		}
		return out, nil
	}
	choices, err := chooseMix(o, from, typ)
	if err != nil {
		return nil, err
	}
	to := map[string]dtype.Type{}
	for _, c := range choices {
		to[c.Name] = c.To
	}
	for _, t := range from.Tensors() {
		out[t.Name] = t.Type // a number among the keys
		if files := t.AsGGUF(); len(files) > 0 {
			out[t.Name] = to[files[0].Name]
		}
	}
	return out, nil
}

// chooseMix chooses the types of a GGUF as the export will.
func chooseMix(o *Export, from *arch.Source, typ string) ([]gguf.Choice, error) {
	g, err := o.gguf(typ)
	if err != nil {
		return nil, err
	}
	return gguf.MixOf(from, g, o.Imatrix != "")
}

func viewExport(x *recipes.Env, j *recipes.Job, res *recipes.Result, s *report.Section) {
	if res == nil {
		return
	}
	o, left := j.Options.(*Export), res.Left.(*ExportResult)
	if o.Adapter != "" {
		viewExportAdapter(x, j, s)
		return
	}
	path := func(typ string) string { return exportPath(x.Dir(j), x.Name(), o, typ) }
	for _, t := range o.Type {
		s.Models = append(s.Models, report.Row{Model: j.ID + "/" + t, Path: path(t)})
	}
	for _, f := range left.Files {
		if f.Fallbacks > 0 {
			s.Facts = append(s.Facts, fmt.Sprintf("%s/%s: %d of %d matrices fall back to another type", j.ID, f.Type, f.Fallbacks, matrices(f)))
		}
	}
	s.Types = storageTypes(j.ID, left)
	if o.Format != "gguf" {
		return
	}
	s.Try = path(o.Type[0])
	serve := llamaServer(s.Try)
	serve.Asked = slices.Contains(o.For, "llama.cpp")
	s.Next = append(s.Next, serve)
	if file := filepath.Join(x.Dir(j), "Modelfile"); exists(file) {
		name := report.Shell(x.Name())
		s.Next = append(s.Next, report.Command{For: "Ollama", Asked: true, Line: fmt.Sprintf("ollama create %s -f %s && ollama run %s", name, report.Shell(file), name)})
	}
}

// llamaServer serves a GGUF.
func llamaServer(path string) report.Command {
	return report.Command{For: "llama.cpp", Line: fmt.Sprintf("llama-server -m %s --jinja -c %d", report.Shell(path), contextOf(path))}
}

// contextOf is the context length to serve a model with.
func contextOf(path string) int {
	src, err := arch.Open(path)
	if err != nil {
		return 4096
	}
	defer src.Close()
	return min(src.Spec.MaxPos, 8192)
}

func matrices(f ExportedFile) int {
	n := 0
	for _, t := range f.Tensors {
		if len(t.Shape) > 1 {
			n++
		}
	}
	return n
}

// storageTypes says which types a GGUF's tensors got, and why.
func storageTypes(stage string, left *ExportResult) []report.Types {
	var out []report.Types
	for _, f := range left.Files {
		if len(f.Tensors) == 0 {
			continue
		}
		v := report.Types{Title: fmt.Sprintf("%s/%s: %.2f bits a weight", stage, f.Type, f.Bits)}
		at := map[[2]string]int{}
		var bytes []int64
		for _, t := range f.Tensors {
			k := [2]string{t.To, t.Why}
			i, ok := at[k]
			if !ok {
				i = len(v.Rows)
				at[k] = i
				v.Rows, bytes = append(v.Rows, report.TypeRow{Type: t.To, Why: t.Why}), append(bytes, 0)
			}
			v.Rows[i].Count++
			bytes[i] += t.Bytes
		}
		for i := range v.Rows {
			v.Rows[i].Size = report.Size(bytes[i])
		}
		out = append(out, v)
	}
	return out
}

// encodeRate is how many values a second are quantized to t.
func encodeRate(t dtype.Type) float64 {
	const rows, cols = 64, 1024
	if !dtype.Fits(t, cols) {
		return 0
	}
	if t == dtype.Of(dtype.F32) || t == dtype.Of(dtype.F16) || t == dtype.Of(dtype.BF16) {
		return 4e8
	}
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(i%977)/977 - 0.5
	}
	var w []float32
	if block.NeedsImportance(t.Kind) {
		w = slices.Repeat([]float32{1}, cols)
	}
	m := block.New(t, rows, cols)
	if block.EncodeRows(m, 0, 1, x[:cols], w) != nil { // makes what the first row of all needs
		return 0
	}
	began := time.Now()
	if block.Encode(m, x, w) != nil {
		return 0
	}
	return rows * cols / max(time.Since(began).Seconds(), 1e-9)
}
