package arch

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Dense says where a model goes whose matrices are plain, and how it is stored.
type Dense struct {
	Path      string            // a new folder, or a file whose name ends in .gguf
	Type      *dtype.Type       // F32, F16 or BF16; nil: every plain tensor as in the source, quantized ones as BF16
	MaxShard  int64             // bytes in one safetensors file; 0: 5 GB
	Name      string            // of the model, for GGUF
	Files     map[string][]byte // go into a folder beside the weights: tokenizer, generation config
	Tokenizer []formats.KV      // a GGUF's tokenizer keys
	Progress  func(done, total int64)
}

func (d *Dense) gguf() bool { return strings.EqualFold(filepath.Ext(d.Path), ".gguf") }

// TypeOf is the type a tensor is written as, and why.
func (d *Dense) TypeOf(t *Tensor) (dtype.Type, string) {
	switch now := t.Type; {
	case t.Role == Carried && isDense(now):
		return now, "carried along unchanged"
	case t.Exact() && d.gguf():
		return dtype.Of(dtype.F32), "F32 in every GGUF"
	case d.Type != nil && (!t.Vector || now.Kind.IsFloat()):
		return *d.Type, "asked for"
	case isDense(now):
		return now, "as in the base"
	}
	return dtype.Of(dtype.BF16), "the base holds " + t.Type.String()
}

// isDense reports whether t is one of the types a dense model is stored in.
func isDense(t dtype.Type) bool {
	return t == dtype.Of(dtype.F32) || t == dtype.Of(dtype.F16) || t == dtype.Of(dtype.BF16)
}

// Plan lists what writing src's tensors to d will make. It reads no weights.
func (d *Dense) Plan(src *Source) []Out {
	plan := src.Plan(d.TypeOf)
	if d.gguf() { // which has no place for other parts
		plan = slices.DeleteFunc(plan, func(o Out) bool { return o.Role == Carried })
	}
	return plan
}

// Write copies src to d tensor by tensor, as Copy does with dev and e. A write that ctx
// ends goes on where it was at the next call; any other error removes it.
func (d *Dense) Write(ctx context.Context, dev kernels.Backend, src *Source, e Edit) error {
	plan := d.Plan(src)
	sink, err := d.create(src, plan)
	if err != nil {
		return err
	}
	defer sink.Abort()
	err = Copy(ctx, dev, src, sink, plan, e, d.Progress)
	switch {
	case err == nil:
		return sink.Commit()
	case ctx.Err() != nil:
		return errors.Join(fail.Interruptedf(d.Path, "run the same command again to go on", "writing the model was interrupted"), sink.Suspend())
	}
	return err
}

// create opens the sink for d.
func (d *Dense) create(src *Source, plan []Out) (*Sink, error) {
	if d.Type != nil && !isDense(*d.Type) {
		return nil, fail.Usagef("dtype", "quantize the result in a stage of its own", "dtype %v is not one of f32, f16, bf16", *d.Type)
	}
	main := mainType(plan)
	if d.gguf() {
		kv, err := GGUFKeys(&src.Spec, d.Name, ggufFileTypes[main], d.Tokenizer)
		if err != nil {
			return nil, err
		}
		return CreateGGUF(d.Path, &src.Spec, kv, plan)
	}
	conf, err := src.ConfigAs(main)
	if err != nil {
		return nil, err
	}
	return CreateFolder(d.Path, &src.Spec, plan, FolderOptions{Config: conf, Files: d.Files, MaxShard: d.MaxShard})
}

// mainType is the type of the first linear map of the blocks, which stands for
// the model's.
func mainType(plan []Out) dtype.Kind {
	for _, p := range plan {
		if p.IsLinear() {
			return p.Type.Kind
		}
	}
	return plan[0].Type.Kind
}

// ggufFileTypes are llama.cpp's general.file_type of dense models.
var ggufFileTypes = map[dtype.Kind]uint32{dtype.F32: 0, dtype.F16: 1, dtype.BF16: 32}

// ConfigAs is config.json of the model with its unquantized weights stored as
// kind (F32, F16 or BF16) and no quantization.
func (s *Source) ConfigAs(kind dtype.Kind) ([]byte, error) { return s.ConfigJSON(StoredAs(kind)) }

// StoredAs are the keys of config.json, as ConfigJSON takes them, of a model without
// quantization whose weights are stored as kind (F32, F16 or BF16). The key is
// torch_dtype, the one that every release of Transformers reads; dtype is known to new
// ones alone.
func StoredAs(kind dtype.Kind) map[string]any {
	name := map[dtype.Kind]string{dtype.F32: "float32", dtype.F16: "float16", dtype.BF16: "bfloat16"}[kind]
	return map[string]any{"quantization_config": nil, "dtype": nil, "torch_dtype": name}
}
