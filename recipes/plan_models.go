package recipes

import (
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/lora"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/quant/gguf"
)

// ghost is a model that does not exist yet, or a held form of one that does:
// names, shapes and types without values. A stage's own code runs over it on
// kernels/dry.
type ghost struct {
	path    string
	config  []byte
	tensors []formats.Tensor
	mapped  map[string]bool
	zeros   []byte // shared by all tensors; never written, so the system keeps no page of it
}

func (g *ghost) Path() string               { return g.path }
func (g *ghost) Format() string             { return arch.InMemory }
func (g *ghost) Config() []byte             { return g.config }
func (g *ghost) KV() []formats.KV           { return nil }
func (g *ghost) File(string) ([]byte, bool) { return nil, false }
func (g *ghost) Tensors() []formats.Tensor  { return g.tensors }
func (g *ghost) Warnings() []string         { return nil }
func (g *ghost) Close() error               { return nil }

func (g *ghost) Read(t *formats.Tensor) ([]byte, error) {
	return g.take(dtype.Size(t.Type, t.Rows(), t.Cols())), nil
}

func (g *ghost) ReadRows(t *formats.Tensor, _, rows int) ([]byte, error) {
	return g.take(dtype.Size(t.Type, rows, t.Cols())), nil
}

func (g *ghost) Map(t *formats.Tensor) ([]byte, bool) {
	if !g.mapped[t.Name] {
		return nil, false
	}
	return g.take(dtype.Size(t.Type, t.Rows(), t.Cols())), true
}

func (g *ghost) take(n int) []byte {
	if n > len(g.zeros) {
		g.zeros = make([]byte, n)
	}
	return g.zeros[:n]
}

// held is one tensor of a ghost.
type held struct {
	typ    dtype.Type
	mapped bool // used where the file is mapped, not copied into memory
}

// newGhost is src with other types. src may be closed afterwards.
func newGhost(src *arch.Source, path string, pick func(t *arch.Tensor) held) (*arch.Source, error) {
	config, err := src.ConfigJSON(map[string]any{"quantization_config": nil})
	if err != nil {
		return nil, err
	}
	g := &ghost{path: path, config: config, mapped: map[string]bool{}}
	for _, t := range src.Tensors() {
		h := pick(t)
		g.tensors = append(g.tensors, formats.Tensor{Name: t.Name, Shape: t.Shape(), Type: h.typ})
		g.mapped[t.Name] = h.mapped
	}
	return arch.FromReader(g)
}

// mappable reports whether a type lies in files as it lies in memory.
func mappable(t dtype.Type) bool { return !t.HasPlanes() }

// source opens the model a reference stands for: its file where it exists, a
// ghost where a stage has yet to make it.
func (p *planner) source(ref Ref) (*arch.Source, error) {
	key := ref.String()
	if ref.Stage == "" {
		key = "path:" + ref.Path
	}
	if s, ok := p.models[key]; ok {
		return s, nil
	}
	s, err := p.open(ref)
	if err == nil {
		p.models[key] = s
	}
	return s, err
}

func (p *planner) open(ref Ref) (*arch.Source, error) {
	x := p.x
	if ref.Stage == "" || x.done[ref.Stage] != nil {
		path, err := resolvePath(x.pathOf(ref))
		if err != nil {
			return nil, err
		}
		if path, err = OnlyModelIn(path); err != nil {
			return nil, err
		}
		return arch.Open(path)
	}
	for _, j := range x.jobs {
		if j.Stage.ID != ref.Stage {
			continue
		}
		in, _ := j.In("model")
		from, err := p.source(in)
		if err != nil {
			return nil, err
		}
		types, err := p.made(j, from, ref.Member)
		if err != nil {
			return nil, err
		}
		return newGhost(from, ref.String(), func(t *arch.Tensor) held {
			return held{types[t.Name], mappable(types[t.Name])}
		})
	}
	return nil, fail.Usagef(x.path, "", "no stage %s", ref.Stage)
}

// made lists the types of the tensors that a stage will write.
func (p *planner) made(j *Job, from *arch.Source, member string) (map[string]dtype.Type, error) {
	out := map[string]dtype.Type{}
	lay := func(plan []arch.Out) {
		for _, o := range plan {
			out[o.Name] = o.Type
		}
	}
	s := j.Stage
	switch {
	case s.Train != nil:
		o := lora.Output{Path: "x"}
		lay(o.Plan(from))
	case s.Merge != nil:
		t, err := storageType(s.Merge.DType)
		if err != nil {
			return nil, err
		}
		o := lora.Output{Path: p.x.mergePath(s), Type: t}
		lay(o.Plan(from))
	case s.Quantize != nil:
		plan, err := quant.PlanFolder(from, p.x.folderJob(s))
		if err != nil {
			return nil, err
		}
		o := lora.Output{Path: "x"}
		lay(o.Plan(from))
		for _, l := range plan.Layers {
			out[l+".weight"] = plan.Type
		}
	case s.Export != nil:
		return p.exported(s.Export, from, member)
	}
	return out, nil
}

// exported lists the types of one file of an export stage.
func (p *planner) exported(o *Export, from *arch.Source, typ string) (map[string]dtype.Type, error) {
	out := map[string]dtype.Type{}
	if o.Format == "safetensors" {
		t, err := storageType(strings.ToLower(typ))
		if err != nil {
			return nil, err
		}
		for _, x := range from.Tensors() {
			out[x.Name] = *t
		}
		return out, nil
	}
	choices, err := p.mix(o, from, typ)
	if err != nil {
		return nil, err
	}
	to := map[string]dtype.Type{}
	for _, c := range choices {
		to[c.Name] = c.To
	}
	for _, t := range from.Tensors() {
		out[t.Name] = to[t.AsGGUF()[0].Name]
	}
	return out, nil
}

// mix chooses the types of a GGUF as the export will.
func (p *planner) mix(o *Export, from *arch.Source, typ string) ([]gguf.Choice, error) {
	ft, err := gguf.ParseFileType(typ)
	if err != nil {
		return nil, err
	}
	mo := gguf.MixOptions{FileType: ft, Importance: o.Imatrix != "", Pure: o.Pure}
	for _, name := range []struct {
		key, val string
		to       **dtype.Kind
	}{{"output_tensor_type", o.OutputTensorType, &mo.Output}, {"token_embedding_type", o.TokenEmbeddingType, &mo.Embedding}} {
		if name.val == "" {
			continue
		}
		k, err := gguf.ParseTensorKind(name.key, name.val)
		if err != nil {
			return nil, err
		}
		*name.to = &k
	}
	for _, pattern := range sortedKeys(o.TensorType) {
		k, err := gguf.ParseTensorKind("tensor_type", o.TensorType[pattern])
		if err != nil {
			return nil, err
		}
		mo.Tensors = append(mo.Tensors, gguf.TensorType{Pattern: pattern, Type: k})
	}
	for _, t := range from.Tensors() {
		if t.Type.Quantized() && !t.Vector && !o.AllowRequantize {
			return nil, fail.Inputf("export", "start from the float model, or set allow_requantize and accept the loss", "%s is already %v", t.Name, t.Type)
		}
	}
	s := from.Spec
	return gguf.Mix(gguf.MixModel{Arch: from.Architecture(), Layers: s.Layers, Heads: s.H, KVHeads: s.K}, gguf.MixTensors(from), mo)
}

// sizeAs is the number of bytes of a model's tensors in the given types.
func sizeAs(src *arch.Source, types map[string]dtype.Type) (bytes int64) {
	for _, t := range src.Tensors() {
		bytes += int64(dtype.Size(types[t.Name], t.Rows, t.Cols))
	}
	return bytes
}

// heldBytes is the size of a model's tensors as it stores them.
func heldBytes(src *arch.Source) (bytes int64) {
	for _, t := range src.Tensors() {
		bytes += int64(dtype.Size(t.Type, t.Rows, t.Cols))
	}
	return bytes
}

// largest is the number of values of a model's largest tensor.
func largest(src *arch.Source) (n int64) {
	for _, t := range src.Tensors() {
		n = max(n, int64(t.Len()))
	}
	return n
}

// asNF4 is src as qlora holds it: linear weights NF4 in memory, the rest where
// the file is.
func asNF4(src *arch.Source) (*arch.Source, error) {
	if err := fitsNF4(src); err != nil {
		return nil, err
	}
	return newGhost(src, src.Reader.Path(), func(t *arch.Tensor) held {
		if t.IsLinear() {
			return held{dtype.NF4Double, false}
		}
		return held{t.Type, mappable(t.Type)}
	})
}

func fitsNF4(src *arch.Source) error {
	for _, t := range src.Tensors() {
		if t.IsLinear() && !dtype.Fits(dtype.NF4Double, t.Cols) {
			return fail.Usagef("train.adapter", "adapter: lora", "rows of %d values (%s) cannot be held as NF4", t.Cols, t.Name)
		}
	}
	return nil
}

// asF32 is src as full training holds it.
func asF32(src *arch.Source) (*arch.Source, error) {
	return newGhost(src, src.Reader.Path(), func(*arch.Tensor) held { return held{dtype.Of(dtype.F32), true} })
}

func bitsOf(bytes, params int64) string {
	return fmt.Sprintf("%.2f bits a weight", 8*float64(bytes)/float64(max(params, 1)))
}
