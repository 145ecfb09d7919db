package lora

import (
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// tokenRows are rows of an embedding that are trained whole (trainable_token_indices).
// They lie over a float32 copy of the table, which a tied head reads, too.
type tokenRows struct {
	ps    []Param // [rows, C]
	rows  []int   // of the table
	table *autograd.Param
	undo  func()
}

// tokenDelta is the name of the rows in PEFT's files. They are values, not differences.
const tokenDelta = ".token_adapter.trainable_tokens_delta"

// takeTokens trains the rows of trainable_token_indices.
func (ad *Adapter) takeTokens(ports []nn.Port) error {
	m := &maker{ad: ad, from: ad.from}
	for _, name := range slices.Sorted(maps.Keys(ad.Config.TrainableTokenIndices)) {
		rows := slices.Clone(ad.Config.TrainableTokenIndices[name])
		found := false
		for _, s := range ports {
			if s.Embed == nil || s.Path != name && !strings.HasSuffix(s.Path, "."+name) && !(name == "" && s.Embed == ad.model.Embed) {
				continue
			}
			found = true
			if err := ad.takeRows(m, s.Embed, rows); err != nil {
				return err
			}
		}
		if !found {
			return fail.Usagef("lora.trainable_token_indices", "embeddings alone have rows of tokens", "trainable_token_indices: %q is no embedding of the model", name)
		}
	}
	return nil
}

func (ad *Adapter) takeRows(m *maker, e *nn.Embedding, rows []int) error {
	const key = "lora.trainable_token_indices"
	v, c := e.W.Rows, e.W.Cols
	seen := map[int]bool{}
	for _, r := range rows {
		if r < 0 || r >= v || seen[r] {
			return fail.Usagef(key, "each row once", "token %d is twice there, or none of the %d rows of %s", r, v, e.Path)
		}
		seen[r] = true
	}
	if len(rows) == 0 || len(e.Adapters) > 0 || strings.HasPrefix(e.W.Name, prefix) {
		return fail.Usagef(key, "leave it out of modules_to_save and target_modules", "%s: no tokens are given, or the whole embedding is trained or adapted already", e.Path)
	}
	w, err := ad.model.Decode(e.W)
	if err != nil {
		return err
	}
	if f := ad.from; f != nil { // PEFT keeps the table of a base with new tokens beside
		if name := e.Path + ".token_adapter.base_layer.weight"; f.tensors[name] != nil {
			if w, err = f.takeWhole(name, true, int64(v), int64(c)); err != nil {
				return err
			}
			p, err := m.hold(name, v, c, w)
			if err != nil {
				return err
			}
			ad.shared = append(ad.shared, Param{Param: p, Shape: []int{v, c}})
		}
	}
	t := &tokenRows{rows: rows}
	p, err := m.param(e.Path, strings.TrimPrefix(tokenDelta, "."), []int{len(rows), c}, func(stream, int) []float32 {
		var out []float32
		for _, r := range rows {
			out = append(out, w[r*c:(r+1)*c]...)
		}
		return out
	})
	if err != nil {
		return err
	}
	p.Group = "whole"
	t.ps = []Param{p}
	if t.table, err = m.hold(e.Path+".table", v, c, slices.Clone(w)); err != nil {
		return err
	}
	base, head := e.W, ad.model.Head
	e.W = t.table
	tied := head.W == base
	if tied {
		head.W = t.table
	}
	t.undo = func() {
		if e.W = base; tied {
			head.W = base
		}
	}
	ad.variants = append(ad.variants, t)
	return ad.dev.Run(func() error { return t.refresh(ad.dev) })
}

func (t *tokenRows) params() []Param { return t.ps }

func (t *tokenRows) derived() []*autograd.Param { return []*autograd.Param{t.table} }

func (t *tokenRows) detach() { t.undo() }

// each copies between row i of the parameter and its row of a table.
func (t *tokenRows) each(f func(own, row int)) {
	c := t.table.Cols
	for i, r := range t.rows {
		f(i*c, r*c)
	}
}

func (t *tokenRows) refresh(dev kernels.Backend) error {
	c := t.table.Cols
	t.each(func(own, row int) {
		dev.Copy2D(kernels.To(dev.Slice(t.table.Buffer, row, c)), &kernels.Copy2DArgs{Rows: 1, Cols: c, X: dev.Slice(t.ps[0].Buffer, own, c), XStride: c, YStride: c})
	})
	return nil
}

func (t *tokenRows) finish(dev kernels.Backend) error {
	if t.ps[0].Grad == nil {
		return nil
	}
	c := t.table.Cols
	t.each(func(own, row int) {
		dev.Copy2D(kernels.Into(dev.Slice(t.ps[0].Grad, own, c)), &kernels.Copy2DArgs{Rows: 1, Cols: c, X: dev.Slice(t.table.Grad, row, c), XStride: c, YStride: c})
	})
	return nil
}

// takeTokens puts the trained rows of a folder into the table that they belong to.
func (m *merger) takeTokens(w Weighted, mods []Module) error {
	f := w.Folder
	for _, name := range slices.Sorted(maps.Keys(f.Config.TrainableTokenIndices)) {
		for _, mod := range mods {
			if mod.Kind != EmbeddingModule || mod.Path != name && !strings.HasSuffix(mod.Path, "."+name) && !(name == "" && mod.Path == m.src.At(-1, arch.Embed).Path()) {
				continue
			}
			t := m.src.Named(mod.Path + ".weight")
			if t == nil {
				return f.missing(mod.Path + ".weight")
			}
			rows := f.Config.TrainableTokenIndices[name]
			v, err := f.take(mod.Path+tokenDelta, int64(len(rows)), int64(t.Cols))
			if err != nil {
				return err
			}
			if whole := mod.Path + ".token_adapter.base_layer.weight"; f.tensors[whole] != nil {
				if err := m.takeWhole(w, whole); err != nil {
					return err
				}
			}
			if by := m.from[t.Name]; m.edits[t.Name].rows != nil || m.layers[t.Name] != nil || by != nil && by != f || w.Weight != 1 {
				return fail.Inputf(f.Dir, "merge this adapter alone, with weight 1", "rows of %s are stored whole and cannot be combined", mod.Path)
			}
			m.edits[t.Name] = edit{rows: func(row0 int, w []float32) {
				for i, r := range rows {
					if at := (r - row0) * t.Cols; at >= 0 && at < len(w) {
						copy(w[at:at+t.Cols], v[i*t.Cols:(i+1)*t.Cols])
					}
				}
			}}
		}
	}
	return nil
}
