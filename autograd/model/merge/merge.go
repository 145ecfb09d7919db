package merge

import (
	"context"
	"errors"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Options say how a merge is run.
type Options struct {
	Path     string            // of the new folder
	Files    map[string][]byte // go there beside the weights
	MaxShard int64             // bytes of a safetensors file; 0: 5 GB
	Seed     uint64            // of random masks
	Vocab    *Vocabulary       // tokens of the result; nil: those that all models have, row by row
	Progress func(done, total int64)
	Note     func(string) // is told what was decided; may be nil
}

// Report says what was written.
type Report struct {
	Tensors int   `json:"tensors"`
	Layers  int   `json:"layers"`
	Bytes   int64 `json:"bytes"`
}

// Planned is what a merge would take and write.
type Planned struct {
	Report
	Memory int64 // bytes of the host
	Notes  []string

	config  []byte
	tensors []formats.Tensor // as in memory
}

// Model is the result in shapes and types alone, as if it lay at path. The caller
// closes it.
func (p *Planned) Model(path string) (*arch.Source, error) {
	return arch.FromTensors(path, p.config, p.tensors)
}

// Plan decides what Write would do, with its errors. It reads headers only; of models
// that are not there yet, shapes are enough. Like Write it brings c into the form of its
// models, and unties their heads: neither is to be used for anything else.
func Plan(c *Config, models map[Model]*arch.Source, vocab *Vocabulary) (*Planned, error) {
	p := newPlan(c, models, Options{Vocab: vocab})
	if err := p.make(); err != nil {
		return nil, err
	}
	return &Planned{Report: p.report(), Memory: p.memory(), Notes: p.notes, config: p.config, tensors: p.whole}, nil
}

func newPlan(c *Config, models map[Model]*arch.Source, o Options) *plan {
	return &plan{cfg: c, method: methodOf(c.Method), models: models, order: c.References(), vocab: o.Vocab, seed: o.Seed}
}

// report counts what is written.
func (p *plan) report() (r Report) {
	for _, t := range p.tensors {
		r.Tensors++
		r.Bytes += int64(t.Size())
	}
	for _, s := range p.cfg.Slices {
		r.Layers += s.Sources[0].Layers[1] - s.Sources[0].Layers[0]
	}
	return r
}

// Write merges models as c says, by the paths that c has them under, into a plain
// Hugging Face folder. Tensors are made one at a time; dev counts their memory. When
// ctx ends, the unfinished folder is kept, and the same call goes on with it.
func Write(ctx context.Context, dev kernels.Backend, c *Config, models map[Model]*arch.Source, o Options) (*Report, error) {
	p := newPlan(c, models, o)
	if err := p.make(); err != nil {
		return nil, err
	}
	if o.Note != nil {
		for _, n := range p.notes {
			o.Note(n)
		}
	}
	release, err := dev.Host(p.memory())
	if err != nil {
		return nil, err
	}
	defer release()
	fo := formats.FolderOptions{Config: p.config, Files: o.Files, MaxShard: o.MaxShard}
	r := p.report()
	for _, t := range p.tensors {
		fo.Plan = append(fo.Plan, t.TensorPlan)
	}
	w, err := formats.CreateFolder(o.Path, fo)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	err = p.write(ctx, w, o.Progress, r.Bytes)
	switch {
	case err == nil:
		return &r, w.Commit()
	case ctx.Err() != nil:
		return nil, errors.Join(fail.Interruptedf(o.Path, "run the same command again to go on", "writing the model was interrupted"), w.Suspend())
	}
	return nil, err
}

func (p *plan) write(ctx context.Context, w formats.Writer, progress func(done, total int64), total int64) error {
	var done int64
	for i := range p.tensors {
		t := &p.tensors[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if !w.Has(t.Name) {
			data, err := p.tensor(t)
			if err == nil {
				err = w.Write(t.Name, data)
			}
			if err != nil {
				return err
			}
		}
		if done += int64(t.Size()); progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// tensor makes one tensor of the result as it is stored.
func (p *plan) tensor(t *planned) ([]byte, error) {
	x := tensor{name: t.Name, rows: t.Rows(), cols: t.Cols(), seed: p.seed, all: t.all}
	var tables [][]float32 // by input, where the result has tokens of its own
	for _, in := range t.in {
		v, err := in.read(t.read)
		if err != nil {
			return nil, err
		}
		tables = append(tables, v)
	}
	if t.table {
		tables = p.tables(t, tables)
	}
	for i, in := range t.in {
		if i == t.base {
			x.base = tables[i]
			continue
		}
		x.in = append(x.in, part{model: string(in.model), index: in.index, w: tables[i], each: in.each})
	}
	v, err := p.method.merge(&x)
	if err != nil {
		return nil, err
	}
	if err := formats.CheckFinite(t.Name, v, 0, x.cols); err != nil {
		return nil, x.failf("is one of the models damaged? tune verify lists what is wrong with a model", "%v", err)
	}
	out := block.New(t.Type, t.Rows(), t.Cols())
	if err := block.Encode(out, v, nil); err != nil {
		return nil, err
	}
	return out.Data, nil
}

// tables gives every model's table the rows of the result.
func (p *plan) tables(t *planned, in [][]float32) [][]float32 {
	cols := t.Cols()
	if p.vocab != nil {
		var models []int
		for _, x := range t.in {
			models = append(models, x.index)
		}
		return p.vocab.tables(models, in, cols, t.named)
	}
	for i := range in {
		in[i] = in[i][:t.Rows()*cols]
	}
	return in
}

// read returns the values of a model's tensor, rounded to a type first.
func (in *input) read(as dtype.Type) ([]float32, error) {
	m, err := in.src.ReadPiece(in.file)
	if err != nil {
		return nil, err
	}
	v := make([]float32, m.Rows*m.Cols)
	block.DecodeAll(v, m)
	in.src.Forget(in.file.Of)
	if as.Kind == 0 || as == dtype.Of(dtype.F32) {
		return v, nil
	}
	r := block.New(as, m.Rows, m.Cols)
	if err := block.Encode(r, v, nil); err != nil {
		return nil, err
	}
	block.DecodeAll(v, r)
	return v, nil
}

// memory is what the largest tensor takes: every model's values, those of the file
// where they are put together, marks and orders, the result.
func (p *plan) memory() int64 {
	most := int64(0)
	for i := range p.tensors {
		t := &p.tensors[i]
		n := int64(t.Rows()) * int64(t.Cols())
		for _, in := range t.in {
			size := int64(1)
			for _, d := range in.file.Shape {
				size *= d
			}
			n = max(n, size)
		}
		most = max(most, n*(4*int64(len(t.in))+16))
	}
	return most
}
