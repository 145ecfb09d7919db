package lora

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Output says where a dense model goes and how it is stored.
type Output struct {
	Path     string      // a new folder, or a file whose name ends in .gguf
	Type     *dtype.Type // F32, F16 or BF16; nil: every plain tensor as in the base, quantized ones as BF16
	MaxShard int64       // bytes in one safetensors file; 0: 5 GB
	Name     string      // of the model, for GGUF
	// Files go into a folder beside the weights, over those of the base (its
	// tokenizer, chat template, generation config).
	Files map[string][]byte
	// Tokenizer are a GGUF's tokenizer keys.
	Tokenizer []formats.KV
	Progress  func(done, total int64) // bytes written
}

func (o *Output) gguf() bool { return strings.EqualFold(filepath.Ext(o.Path), ".gguf") }

// smallFiles are copied from the base's folder.
var smallFiles = []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
	"vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "LICENSE", "LICENSE.txt"}

// store is the type a tensor is written as, and why.
func (o *Output) store(t *arch.Tensor) (dtype.Type, string) {
	switch now := t.Type; {
	case t.Vector && o.gguf():
		return dtype.Of(dtype.F32), "vectors of a GGUF are F32"
	case o.Type != nil && (!t.Vector || now.Kind.IsFloat()):
		return *o.Type, "asked for"
	case plain(now):
		return now, "as in the base"
	}
	return dtype.Of(dtype.BF16), "the base holds " + t.Type.String()
}

// plain reports whether t is one of the types a dense model is stored in.
func plain(t dtype.Type) bool {
	return t == dtype.Of(dtype.F32) || t == dtype.Of(dtype.F16) || t == dtype.Of(dtype.BF16)
}

// Plan lists what writing src's tensors to o will make. It reads no weights.
func (o *Output) Plan(src *arch.Source) []arch.Out {
	return src.Plan(o.store)
}

// create opens the sink for o.
func (o *Output) create(src *arch.Source) (*arch.Sink, []arch.Out, error) {
	if o.Type != nil && !plain(*o.Type) {
		return nil, nil, fail.Usagef("merge.dtype", "quantize the result in a stage of its own", "dtype %v is not one of f32, f16, bf16", *o.Type)
	}
	plan := o.Plan(src)
	if o.gguf() {
		kv, err := arch.GGUFKeys(&src.Spec, o.Name, fileType(plan), o.Tokenizer)
		if err != nil {
			return nil, nil, err
		}
		sink, err := arch.CreateGGUF(o.Path, &src.Spec, kv, plan)
		return sink, plan, err
	}
	conf, err := src.ConfigJSON(o.config(src, plan))
	if err != nil {
		return nil, nil, err
	}
	files := map[string][]byte{}
	for _, name := range smallFiles {
		if b, ok := src.Reader.File(name); ok {
			files[name] = b
		}
	}
	for name, b := range o.Files {
		files[name] = b
	}
	sink, err := arch.CreateFolder(o.Path, &src.Spec, plan, arch.FolderOptions{Config: conf, Files: files, MaxShard: o.MaxShard})
	return sink, plan, err
}

// config is what changes in config.json: the type, and no quantization.
func (o *Output) config(src *arch.Source, plan []arch.Out) map[string]any {
	set := map[string]any{"quantization_config": nil}
	name := map[dtype.Kind]string{dtype.F32: "float32", dtype.F16: "float16", dtype.BF16: "bfloat16"}[mainType(plan)]
	key := "torch_dtype"
	if strings.Contains(string(src.Reader.Config()), `"dtype"`) {
		key = "dtype"
	}
	set[key] = name
	return set
}

// mainType is the type of the first linear map of the blocks, which stands for
// the model's.
func mainType(plan []arch.Out) dtype.Kind {
	for _, p := range plan {
		if p.IsLinear() {
			return p.Type.Kind
		}
	}
	return plan[0].Type.Kind
}

// fileType is llama.cpp's general.file_type of a dense model.
func fileType(plan []arch.Out) uint32 {
	switch mainType(plan) {
	case dtype.F16:
		return 1
	case dtype.BF16:
		return 32
	}
	return 0
}

// edit changes tensors on their way from the base to the output.
type edit interface {
	// touches reports whether apply changes the tensor.
	touches(t *arch.Tensor) bool
	// apply changes w, the rows from row0 on of the tensor as float32.
	apply(t *arch.Tensor, row0 int, w []float32) error
}

// write copies src to o tensor by tensor, each changed by e in float32 and
// rounded once. Tensors that keep their type and value are copied as bytes. A
// write that ctx ends goes on where it was at the next call.
func write(ctx context.Context, src *arch.Source, o *Output, e edit) error {
	sink, plan, err := o.create(src)
	if err != nil {
		return err
	}
	defer sink.Abort()
	var done, total int64
	for _, p := range plan {
		total += size(p)
	}
	for _, p := range plan {
		if err := ctx.Err(); err != nil {
			return errors.Join(fail.Interruptedf(o.Path, "run the same command again to go on", "stopped at %s", p.Name), sink.Suspend())
		}
		if err := writeOne(src, sink, p, e); err != nil {
			return err
		}
		done += size(p)
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	return sink.Commit()
}

func size(p arch.Out) int64 { return int64(dtype.Size(p.Type, p.Rows, p.Cols)) }

func writeOne(src *arch.Source, sink *arch.Sink, p arch.Out, e edit) error {
	if sink.Has(p.Tensor) && !e.touches(p.Tensor) {
		return nil
	}
	m, _, err := src.Read(p.Tensor)
	if err != nil {
		return err
	}
	if e.touches(p.Tensor) || m.Type != p.Type {
		if m, err = convert(p, m, e); err != nil {
			return err
		}
	}
	if sink.Has(p.Tensor) {
		return nil
	}
	defer src.Forget(p.Tensor)
	return sink.Write(p.Tensor, m)
}

// chunkRows is how many rows of a matrix are in memory as float32 at once.
func chunkRows(cols int) int { return max(1, 1<<20/max(cols, 1)) }

// convert decodes in, applies e and encodes as p's type, some rows at a time.
func convert(p arch.Out, in block.Raw, e edit) (block.Raw, error) {
	out := block.New(p.Type, in.Rows, in.Cols)
	step := chunkRows(in.Cols)
	w := make([]float32, min(step, in.Rows)*in.Cols)
	for r := 0; r < in.Rows; r += step {
		n := min(step, in.Rows-r)
		w := w[:n*in.Cols]
		block.DecodeRows(w, in, r)
		if e.touches(p.Tensor) {
			if err := e.apply(p.Tensor, r, w); err != nil {
				return out, err
			}
		}
		if err := fits(p, r*in.Cols, w); err != nil {
			return out, err
		}
		if err := block.EncodeRows(out, r, n, w, nil); err != nil {
			return out, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return out, nil
}

// largestF16 is the largest value that rounds to a finite half.
const largestF16 = 65504

// fits refuses values that p's type cannot hold.
func fits(p arch.Out, at int, w []float32) error {
	for i, v := range w {
		a := math.Abs(float64(v))
		if math.IsNaN(a) || math.IsInf(a, 0) {
			return fail.Numericf(p.Name, "is the base or the adapter damaged?", "value %d is %v", at+i, v)
		}
		if a > largestF16 && p.Type.Kind == dtype.F16 {
			return fail.Limitf(p.Name, "dtype: bf16", "value %d is %g, the largest of f16 is 65504", at+i, v)
		}
	}
	return nil
}
