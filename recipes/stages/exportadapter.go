package stages

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/report"
)

// adapterTypes are the types that the matrices of an adapter in a GGUF can have.
var adapterTypes = []string{"F32", "F16", "BF16", "Q8_0"}

// ParseAdapterType reads the type of an adapter in a GGUF.
func ParseAdapterType(name string) (dtype.Type, error) {
	switch strings.ToUpper(name) {
	case "F32":
		return dtype.Of(dtype.F32), nil
	case "F16":
		return dtype.Of(dtype.F16), nil
	case "BF16":
		return dtype.Of(dtype.BF16), nil
	case "Q8_0":
		return dtype.Of(dtype.Q8_0), nil
	}
	return dtype.Type{}, fail.Usagef("type", strings.Join(adapterTypes, ", "), "an adapter cannot be %q", name)
}

// ExportAdapter writes an adapter of the model at base in another form: a PEFT folder
// or a GGUF of type typ, by out's ending. Without a base it is what the adapter's
// configuration names. Of the base only the header is read.
func ExportAdapter(base, adapter, out, name string, typ dtype.Type) (*lora.Folder, error) {
	if base == "" {
		if lora.IsGGUF(adapter) {
			return nil, fail.Usagef("", "name the base with --model", "an adapter in a GGUF does not say where its base is")
		}
		f, err := lora.ReadFolder(adapter)
		if err != nil {
			return nil, err
		}
		if base = f.Base; base == "" {
			return nil, fail.Usagef(adapter, "name the base with --model", "adapter_config.json names no base")
		}
	}
	src, err := OpenSource(base)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f, err := lora.Read(adapter, src)
	if err != nil {
		return nil, err
	}
	if lora.IsGGUF(out) {
		return f, f.WriteGGUF(out, src, name, typ)
	}
	files := map[string][]byte{}
	if !lora.IsGGUF(adapter) {
		raw, err := formats.SideFile(filepath.Join(adapter, templateFile))
		if err != nil {
			return nil, err
		}
		if raw != nil {
			files[templateFile] = raw
		}
	}
	if f.Base == src.Reader.Path() {
		f.Base = base
	}
	return f, f.Write(out, "From "+filepath.Base(adapter)+".", files)
}

// resolveAdapter checks the options of an export of an adapter.
func (o *Export) resolveAdapter(bad recipes.Bad) {
	for _, t := range o.Type {
		if _, err := ParseAdapterType(t); err != nil {
			bad("type", fail.Hint(err), "%v", err)
		}
	}
	if o.Format != "gguf" {
		bad("format", "format: gguf", "an adapter is a safetensors folder already")
	}
	for key, given := range map[string]bool{"imatrix": o.Imatrix != "", "tensor_type": len(o.TensorType) > 0, "token_embedding_type": o.TokenEmbeddingType != "",
		"output_tensor_type": o.OutputTensorType != "", "pure": o.Pure, "for": slices.Contains(o.For, "ollama")} {
		if given {
			bad(key, "leave it out", "%s belongs to models, not to an adapter", key)
		}
	}
}

// adapterInputs are the adapter and the base it belongs to: what is given, what a
// train stage trained it on, or base_model.
func (o *Export) adapterInputs(v *recipes.Resolver) ([]recipes.Input, error) {
	ad, err := v.Given(recipes.AdapterRef, "adapter", o.Adapter)
	if err != nil {
		return nil, err
	}
	base, _ := v.Base()
	if t := v.Find(ad.Stage); o.Model == "" && t != nil {
		base, _ = t.In("model")
		base.Why = "what " + ad.Stage + " was trained on"
	} else if o.Model != "" {
		if base, err = v.Given(recipes.ModelRef, "model", o.Model); err != nil {
			return nil, err
		}
	}
	if base.Path == "" && base.Stage == "" {
		return nil, v.Usagef("model", "add base_model to the recipe", "no base for the adapter")
	}
	return []recipes.Input{{Name: "adapter", Ref: ad}, {Name: "model", Ref: base}}, nil
}

func runExportAdapter(_ context.Context, x *recipes.Env, j *recipes.Job, res *recipes.Result) error {
	o := j.Options.(*Export)
	base, _ := j.In("model")
	ad, _ := j.In("adapter")
	if err := atomic.MkdirAll(x.Dir(j)); err != nil {
		return fail.Limitf(x.Dir(j), "", "%w", err)
	}
	left := &ExportResult{}
	res.Left = left
	for _, name := range o.Type {
		typ, err := ParseAdapterType(name)
		if err != nil {
			return err
		}
		out := exportPath(x.Dir(j), x.Name(), o, name)
		if err := atomic.RemoveAll(out); err != nil { // finished, but killed before it was recorded
			return err
		}
		if _, err := ExportAdapter(x.Path(base), x.Path(ad), out, x.Name(), typ); err != nil {
			return err
		}
		left.Files = append(left.Files, ExportedFile{Type: name, Path: filepath.Base(out)})
	}
	return nil
}

// planExportAdapter: small files.
func planExportAdapter(p *recipes.Planner, j *recipes.Job, s *recipes.StagePlan) error {
	o := j.Options.(*Export)
	baseRef, _ := j.In("model")
	base, err := p.Source(baseRef)
	if err != nil {
		return err
	}
	m, err := dryModelAs(dry.New(dry.Options{}), base, model.Options{Stream: true})
	if err != nil {
		return err
	}
	defer m.Close()
	ad, _ := j.In("adapter")
	a, err := attachRef(p, ad, base, m)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.CheckGGUF(); err != nil {
		return err
	}
	for _, name := range o.Type {
		typ, err := ParseAdapterType(name)
		if err != nil {
			return err
		}
		s.Disk += a.Trainable()*int64(dtype.Size(typ, 1, 1024))/1024 + 1<<14
	}
	s.Does = "adapter as GGUF, " + strings.Join(o.Type, ", ")
	countHost(s, 12*a.Trainable()) // as read, in the order of the file, as written
	return nil
}

// viewExportAdapter says how the adapter is served.
func viewExportAdapter(x *recipes.Env, j *recipes.Job, s *report.Section) {
	o := j.Options.(*Export)
	for _, t := range o.Type {
		path := exportPath(x.Dir(j), x.Name(), o, t)
		s.Facts = append(s.Facts, fmt.Sprintf("%s/%s: adapter %s", j.ID, t, path))
		s.Next = append(s.Next, report.Command{For: "llama.cpp", Line: fmt.Sprintf("llama-server -m BASE.gguf --lora %s", report.Shell(path))})
	}
}
