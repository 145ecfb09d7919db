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
func (g *ghost) Format() string             { return "hf" }
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
func newGhost(src *arch.Source, path string, pick func(name string, shape []int, now dtype.Type) held) (*arch.Source, error) {
	config, err := src.ConfigJSON(map[string]any{"quantization_config": nil})
	if err != nil {
		return nil, err
	}
	g := &ghost{path: path, config: config, mapped: map[string]bool{}}
	for _, name := range src.Names() {
		sh := src.Shape(name)
		h := pick(name, sh, src.Type(name))
		t := formats.Tensor{Name: name, Type: h.typ}
		for _, d := range sh {
			t.Shape = append(t.Shape, int64(d))
		}
		g.tensors = append(g.tensors, t)
		g.mapped[name] = h.mapped
	}
	return arch.FromReader(g)
}

// mappable reports whether a type lies in files as it lies in memory.
func mappable(t dtype.Type) bool { return !t.HasPlanes() }

// linearWeight reports whether a tensor is the matrix of a linear map in a
// block: what qlora and the quantizers work on.
func linearWeight(name string) bool {
	return strings.Contains(name, ".layers.") && strings.HasSuffix(name, "_proj.weight")
}

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
		return newGhost(from, ref.String(), func(name string, _ []int, _ dtype.Type) held {
			return held{types[name], mappable(types[name])}
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
		for _, name := range from.Names() {
			out[name] = *t
		}
		return out, nil
	}
	choices, err := p.mix(o, from, typ)
	if err != nil {
		return nil, err
	}
	for _, c := range choices {
		out[from.HFName(c.Name)] = c.To
	}
	return out, nil
}

// mix chooses the types of a GGUF as the export will.
func (p *planner) mix(o *Export, from *arch.Source, typ string) ([]quant.Choice, error) {
	ft, err := quant.ParseFileType(typ)
	if err != nil {
		return nil, err
	}
	mo := quant.MixOptions{FileType: ft, Importance: o.Imatrix != "", Pure: o.Pure}
	for _, name := range []struct {
		key, val string
		to       **dtype.Kind
	}{{"output_tensor_type", o.OutputTensorType, &mo.Output}, {"token_embedding_type", o.TokenEmbeddingType, &mo.Embedding}} {
		if name.val == "" {
			continue
		}
		k, err := quant.ParseTensorKind(name.key, name.val)
		if err != nil {
			return nil, err
		}
		*name.to = &k
	}
	for _, pattern := range sortedKeys(o.TensorType) {
		k, err := quant.ParseTensorKind("tensor_type", o.TensorType[pattern])
		if err != nil {
			return nil, err
		}
		mo.Tensors = append(mo.Tensors, quant.TensorType{Pattern: pattern, Type: k})
	}
	var tensors []quant.MixTensor
	for _, name := range from.Names() {
		t := quant.MixTensor{Name: from.GGUFName(name), Type: from.Type(name)}
		for _, d := range from.Shape(name) {
			t.Shape = append(t.Shape, int64(d))
		}
		if len(t.Shape) == 1 {
			t.Type = dtype.Of(dtype.F32)
		}
		if t.Type.Quantized() && len(t.Shape) > 1 && !o.AllowRequantize {
			return nil, fail.Inputf("export", "start from the float model, or set allow_requantize and accept the loss", "%s is already %v", name, t.Type)
		}
		tensors = append(tensors, t)
	}
	s := from.Spec
	return quant.Mix(quant.MixModel{Arch: from.Architecture(), Layers: s.Layers, Heads: s.H, KVHeads: s.K}, tensors, mo)
}

// sizeAs is the number of bytes of a model's tensors in the given types.
func sizeAs(src *arch.Source, types map[string]dtype.Type) (bytes int64) {
	for _, name := range src.Names() {
		rows, cols := dims(src, name)
		bytes += int64(dtype.Size(types[name], rows, cols))
	}
	return bytes
}

// heldBytes is the size of a model's tensors as it stores them.
func heldBytes(src *arch.Source) (bytes int64) {
	for _, name := range src.Names() {
		rows, cols := dims(src, name)
		bytes += int64(dtype.Size(src.Type(name), rows, cols))
	}
	return bytes
}

func dims(src *arch.Source, name string) (rows, cols int) {
	sh := src.Shape(name)
	if len(sh) == 1 {
		return 1, sh[0]
	}
	return sh[0], sh[1]
}

// largest is the number of values of a model's largest tensor.
func largest(src *arch.Source) (n int64) {
	for _, name := range src.Names() {
		rows, cols := dims(src, name)
		n = max(n, int64(rows)*int64(cols))
	}
	return n
}

// asNF4 is src as qlora holds it: linear weights NF4 in memory, the rest where
// the file is.
func asNF4(src *arch.Source) (*arch.Source, error) {
	if err := fitsNF4(src); err != nil {
		return nil, err
	}
	return newGhost(src, src.Reader.Path(), func(name string, _ []int, now dtype.Type) held {
		if linearWeight(name) {
			return held{dtype.NF4Double, false}
		}
		return held{now, mappable(now)}
	})
}

func fitsNF4(src *arch.Source) error {
	for _, name := range src.Names() {
		if _, cols := dims(src, name); linearWeight(name) && !dtype.Fits(dtype.NF4Double, cols) {
			return fail.Usagef("train.adapter", "adapter: lora", "rows of %d values (%s) cannot be held as NF4", cols, name)
		}
	}
	return nil
}

// asF32 is src as full training holds it.
func asF32(src *arch.Source) (*arch.Source, error) {
	return newGhost(src, src.Reader.Path(), func(string, []int, dtype.Type) held { return held{dtype.Of(dtype.F32), true} })
}

func bitsOf(bytes, params int64) string {
	return fmt.Sprintf("%.2f bits a weight", 8*float64(bytes)/float64(max(params, 1)))
}
