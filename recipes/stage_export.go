package recipes

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant/gguf"
)

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

// exportPath is the file a member of an export stage lies in.
func (x *run) exportPath(s *Stage, member string) string {
	dir := x.stageDir(s.ID)
	if s.Export.Format == "safetensors" {
		if len(s.Export.Type) == 1 {
			return dir
		}
		return filepath.Join(dir, x.Name+"-"+member)
	}
	return filepath.Join(dir, x.Name+"-"+member+".gguf")
}

func runExport(ctx context.Context, x *run, j *Job, res *Result) error {
	o := j.Stage.Export
	ref, _ := j.In("model")
	src, err := resolvePath(x.pathOf(ref))
	if err != nil {
		return err
	}
	res.Export = &ExportResult{}
	if dir := x.stageDir(j.Stage.ID); x.exportPath(j.Stage, o.Type[0]) != dir { // else the folder is the artifact
		if err := atomic.MkdirAll(dir); err != nil {
			return fail.Limitf(dir, "", "%w", err)
		}
	}
	im, err := x.importance(ctx, j)
	if err != nil {
		return err
	}
	for _, typ := range o.Type {
		out := x.exportPath(j.Stage, typ)
		f := ExportedFile{Type: typ, Path: filepath.Base(out)}
		if o.Format == "safetensors" {
			err = ExportSafetensors(ctx, src, out, typ, x.progress("bytes"))
		} else {
			f, err = x.exportGGUF(ctx, o, src, out, typ, im)
		}
		if err != nil {
			return err
		}
		if err := x.failOn(j, "fallback", int64(f.Fallbacks)); err != nil {
			return err
		}
		if f.Fallbacks > 0 {
			res.Notes = append(res.Notes, fmt.Sprintf("%s: %d matrices fall back to another type", typ, f.Fallbacks))
		}
		res.Export.Files = append(res.Export.Files, f)
	}
	if slices.Contains(o.For, "ollama") {
		return x.modelfile(j, res)
	}
	return nil
}

func (x *run) exportGGUF(ctx context.Context, o *Export, src, out, typ string, im *gguf.Imatrix) (ExportedFile, error) {
	g := gguf.Options{Type: typ, Imatrix: im, Pure: o.Pure, OutputType: o.OutputTensorType, EmbeddingType: o.TokenEmbeddingType,
		AllowRequantize: o.AllowRequantize, Name: x.Name, Force: true}
	for _, pattern := range sortedKeys(o.TensorType) {
		k, err := gguf.ParseTensorKind("tensor_type", o.TensorType[pattern])
		if err != nil {
			return ExportedFile{}, err
		}
		g.Tensors = append(g.Tensors, gguf.TensorType{Pattern: pattern, Type: k})
	}
	rep, err := gguf.Write(ctx, src, out, g, x.progress("weights"))
	if err != nil {
		return ExportedFile{}, err
	}
	return ExportedFile{Type: typ, Path: filepath.Base(out), Bits: rep.BitsPerWeight(), Fallbacks: rep.Fallbacks, Tensors: rep.Tensors}, nil
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// ExportSafetensors writes a model as a plain Hugging Face folder whose
// matrices are f32, f16 or bf16; quantized ones are decoded.
func ExportSafetensors(ctx context.Context, model, out, typ string, progress func(done, total int64)) error {
	kind, ok := map[string]dtype.Kind{"f32": dtype.F32, "f16": dtype.F16, "bf16": dtype.BF16}[strings.ToLower(typ)]
	if !ok {
		return fail.Usagef("type", "F32, F16 or BF16", "a safetensors export cannot be %q", typ)
	}
	src, err := arch.Open(model)
	if err != nil {
		return err
	}
	defer src.Close()
	files, err := modelFiles(src)
	if err != nil {
		return err
	}
	name := map[dtype.Kind]string{dtype.F32: "float32", dtype.F16: "float16", dtype.BF16: "bfloat16"}[kind]
	config, err := src.ConfigJSON(map[string]any{"torch_dtype": name, "dtype": nil, "quantization_config": nil})
	if err != nil {
		return err
	}
	plan := src.Plan(func(*arch.Tensor) (dtype.Type, string) { return dtype.Of(kind), "" })
	k, err := arch.CreateFolder(out, &src.Spec, plan, arch.FolderOptions{Config: config, Files: files})
	if err != nil {
		return err
	}
	defer k.Abort()
	for i, p := range plan {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !k.Has(p.Tensor) {
			if err := copyAs(src, k, p); err != nil {
				return err
			}
		}
		if progress != nil {
			progress(int64(i+1), int64(len(plan)))
		}
	}
	return k.Commit()
}

// copyAs converts one tensor.
func copyAs(src *arch.Source, k *arch.Sink, p arch.Out) error {
	from, _, err := src.Read(p.Tensor)
	if err != nil {
		return err
	}
	if from.Type == p.Type {
		return k.Write(p.Tensor, from)
	}
	rows, cols := from.Rows, from.Cols
	to := block.New(p.Type, rows, cols)
	step := max(1, (1<<18)/max(cols, 1))
	x := make([]float32, min(step, rows)*cols)
	for r := 0; r < rows; r += step {
		n := min(step, rows-r)
		for i := range n {
			block.Decode(x[i*cols:(i+1)*cols], from, r+i, 0, cols)
		}
		if err := block.EncodeRows(to, r, n, x[:n*cols], nil); err != nil {
			return fail.Inputf(p.Name, "choose bf16 or f32", "%w", err)
		}
	}
	return k.Write(p.Tensor, to)
}

// modelfile writes an Ollama Modelfile beside the first file. Ollama reads the
// chat template from the GGUF itself.
func (x *run) modelfile(j *Job, res *Result) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "FROM ./%s\n", res.Export.Files[0].Path)
	ref, _ := j.In("model")
	tok, err := TokenizerOf(x.pathOf(ref))
	if err != nil {
		return err
	}
	for _, id := range tok.EOSIDs() {
		fmt.Fprintf(&b, "PARAMETER stop %q\n", tok.Token(id))
	}
	return atomic.WriteFile(filepath.Join(x.stageDir(j.Stage.ID), "Modelfile"), b.Bytes())
}
