package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// tokenRows are rows of an embedding or a head that are trained whole (trainable_token_indices).
// They lie over a float32 copy of the table, which a tied head reads, too.
type tokenRows struct {
	ps    []Param // [rows, C]
	rows  []int   // of the table
	table *autograd.Param
	undo  func()
}

// tokenDelta is the name of the rows in PEFT's files. They are values, not differences.
const tokenDelta = ".token_adapter.trainable_tokens_delta"

// tokenRowsOf is what trainable_token_indices says of the table at path, an embedding
// or the head; main: it is the embedding of tokens, which a list alone means.
func (c Config) tokenRowsOf(path string, main bool) []int {
	for _, name := range slices.Sorted(maps.Keys(c.TrainableTokenIndices)) {
		if names(name, path, main) {
			return c.TrainableTokenIndices[name]
		}
	}
	return nil
}

// HasRows reports whether c trains rows of the table at path by name (trainable_token_indices).
func (c Config) HasRows(path string) bool { return c.tokenRowsOf(path, false) != nil }

// names reports whether a name in trainable_token_indices is that of the table at path.
func names(name, path string, main bool) bool {
	return path == name || name != "" && strings.HasSuffix(path, "."+name) || name == "" && main
}

// partsTables reports whether the head has rows of its own, which makes two of a head and an embedding
// that are tied. As in PEFT, it follows where both have the same ones.
func (c Config) partsTables(embed, head string) bool {
	rows := c.tokenRowsOf(head, false)
	return rows != nil && !slices.Equal(rows, c.tokenRowsOf(embed, true))
}

// takeTokens trains the rows of trainable_token_indices.
func (ad *Adapter) takeTokens(ports []nn.Port) error {
	const key = "lora.trainable_token_indices"
	m, c, head := &maker{ad: ad, from: ad.from}, ad.Config, ad.model.Head
	embed := ad.model.Embed
	if e := ad.model.Encoder; e != nil && e.Embed != nil && c.TrainableTokenIndices[""] != nil {
		return fail.Usagef(key, fmt.Sprintf("name the tables: {%s: [...], %s: [...]}", e.Embed.Path, embed.Path), "the encoder and the decoder have an embedding each, and a list alone does not say of which it is")
	}
	tied, apart := head.W == embed.W, c.partsTables(embed.Path, head.Path)
	found := map[string]bool{}
	for _, s := range ports {
		if s.Embed == nil && !s.Head {
			continue
		}
		for name := range c.TrainableTokenIndices {
			found[name] = found[name] || names(name, s.Path, s.Embed == embed)
		}
		rows := slices.Clone(c.tokenRowsOf(s.Path, s.Embed == embed))
		if rows == nil || s.Head && tied && !apart {
			continue
		}
		table := rowTable{path: s.Path, w: &head.W, adapted: len(head.Adapters) > 0}
		if s.Embed != nil {
			table.w, table.adapted = &s.Embed.W, len(s.Embed.Adapters) > 0
			if s.Embed == embed && tied && !apart {
				table.tied = &head.W
			}
		} else if head.Bias != nil {
			return fail.Usagef(key, "name it in modules_to_save", "%s has a bias, which PEFT leaves out where a head has rows of tokens", s.Path)
		}
		if err := ad.takeRows(m, table, rows); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.TrainableTokenIndices)) {
		if !found[name] {
			return fail.Usagef(key, "embeddings and the head alone have rows of tokens", "trainable_token_indices: %q is no embedding or head of the model", name)
		}
	}
	return nil
}

// rowTable is an embedding, or the head.
type rowTable struct {
	path    string
	w       **autograd.Param // its weight
	tied    **autograd.Param // the place that follows; nil: none
	adapted bool             // LoRA is on it
}

func (ad *Adapter) takeRows(m *maker, at rowTable, rows []int) error {
	const key = "lora.trainable_token_indices"
	base := *at.w
	v, c := base.Rows, base.Cols
	seen := map[int]bool{}
	for _, r := range rows {
		if r < 0 || r >= v || seen[r] {
			return fail.Usagef(key, "each row once", "token %d is twice there, or none of the %d rows of %s", r, v, at.path)
		}
		seen[r] = true
	}
	if len(rows) == 0 || at.adapted || strings.HasPrefix(base.Name, prefix) {
		return fail.Usagef(key, "leave it out of modules_to_save and target_modules", "%s: no tokens are given, or it is trained whole or adapted already", at.path)
	}
	w, err := ad.model.Decode(base)
	if err != nil {
		return err
	}
	if f := ad.from; f != nil { // PEFT keeps the table of a base with new tokens beside
		if name := at.path + ".token_adapter.base_layer.weight"; f.tensors[name] != nil {
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
	p, err := m.param(at.path, strings.TrimPrefix(tokenDelta, "."), []int{len(rows), c}, func(stream, int) []float32 {
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
	if t.table, err = m.hold(at.path+".table", v, c, slices.Clone(w)); err != nil {
		return err
	}
	set := func(p *autograd.Param) {
		if *at.w = p; at.tied != nil {
			*at.tied = p
		}
	}
	set(t.table)
	t.undo = func() { set(base) }
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
	main := m.src.At(-1, arch.Embed).Path()
	if t := m.src.At(-1, arch.EncoderEmbed); t != nil { // what get_input_embeddings gives
		main = t.Path()
	}
	for _, mod := range mods {
		rows := f.Config.tokenRowsOf(mod.Path, mod.Path == main)
		if rows == nil || mod.Kind != EmbeddingModule && (!mod.Head || m.src.Spec.Tied) { // a tied head follows
			continue
		}
		t := m.src.Named(mod.Path + ".weight")
		if t == nil {
			return f.missing(mod.Path + ".weight")
		}
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
	return nil
}
