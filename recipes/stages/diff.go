package stages

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/recipes"
)

// Difference is what two artifacts differ in.
type Difference struct {
	A         string       `json:"a"`
	B         string       `json:"b"`
	Equal     bool         `json:"equal"`
	Config    []string     `json:"config,omitempty"`
	Tokenizer []string     `json:"tokenizer,omitempty"`
	Same      int          `json:"equal_tensors"`
	Tensors   []TensorDiff `json:"tensors,omitempty"` // those that differ, in order

	anyType bool // types do not matter
}

// TensorDiff is a tensor that differs. Of equal shapes the values are compared as
// float32: the largest difference, and ‖a-b‖/‖a‖.
type TensorDiff struct {
	Name     string   `json:"name"`
	Only     string   `json:"only,omitempty"` // a or b, where the other has none
	ShapeA   []int64  `json:"shape_a,omitempty"`
	ShapeB   []int64  `json:"shape_b,omitempty"`
	TypeA    string   `json:"type_a,omitempty"`
	TypeB    string   `json:"type_b,omitempty"`
	Values   int64    `json:"values_differing"`
	Finite   int64    `json:"not_finite,omitempty"` // differences that are no numbers
	Max      float64  `json:"max_difference"`
	Relative *float64 `json:"relative,omitempty"` // absent where a is 0
}

// within reports whether a tensor counts as equal for a tolerance above 0: then types
// do not matter, and values by their relative difference.
func (d *TensorDiff) within(tolerance float64) bool {
	return tolerance > 0 && d.Only == "" && slices.Equal(d.ShapeA, d.ShapeB) && d.Finite == 0 && (d.Values == 0 || d.Relative != nil && *d.Relative <= tolerance)
}

// Diff compares two models in any format, or two adapters or files of tensors. Models
// are compared as they lie in memory: the same weights in a folder and in a GGUF are
// equal. Tensors count as equal up to a relative difference of tolerance.
func Diff(ctx context.Context, a, b string, tolerance float64, progress func(done, total int64)) (*Difference, error) {
	x, err := openSide(a)
	if err != nil {
		return nil, err
	}
	defer x.r.Close()
	y, err := openSide(b)
	if err != nil {
		return nil, err
	}
	defer y.r.Close()
	if (x.src == nil) != (y.src == nil) {
		one := a
		if x.src != nil {
			one = b
		}
		return nil, fail.Usagef(one, "give two models, or two adapters", "is no model, but the other is one")
	}
	d := &Difference{A: a, B: b, anyType: tolerance > 0}
	if err := d.settings(x, y); err != nil {
		return nil, err
	}
	names := slices.Clone(x.names)
	for _, n := range y.names {
		if _, ok := x.tensors[n]; !ok {
			names = append(names, n)
		}
	}
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := diffTensor(x, y, name)
		if err != nil {
			return nil, err
		}
		if t == nil || t.within(tolerance) {
			d.Same++
		} else {
			d.Tensors = append(d.Tensors, *t)
		}
		progress(int64(i+1), int64(len(names)))
	}
	d.Equal = len(d.Config)+len(d.Tokenizer)+len(d.Tensors) == 0
	return d, nil
}

// side is one of two artifacts: a model, or a file of tensors where src is nil.
type side struct {
	path    string
	r       formats.Reader
	src     *arch.Source
	names   []string
	tensors map[string]sideTensor
}

// sideTensor is a tensor of an artifact.
type sideTensor struct {
	shape  []int64
	typ    string
	read   func() (block.Raw, error)
	forget func()
	raw    bool // its values are not decoded: bytes are compared
}

func openSide(path string) (*side, error) {
	local, err := recipes.ResolvePath(path)
	if err != nil {
		return nil, err
	}
	r, err := formats.Open(local)
	if err != nil {
		return nil, err
	}
	s := &side{path: path, r: r, tensors: map[string]sideTensor{}}
	model := r.Config() != nil
	for _, kv := range r.KV() {
		model = model || kv.Key == "general.type" && kv.Value == "model" || kv.Key == "general.architecture"
	}
	for _, kv := range r.KV() {
		model = model && !(kv.Key == "general.type" && kv.Value != "model")
	}
	if !model {
		list := r.Tensors()
		for i := range list {
			t := &list[i]
			s.add(t.Name, sideTensor{shape: t.Shape, typ: fmt.Sprint(t.Type), raw: t.Unsupported != "" || !t.Type.Kind.IsFloat() && !t.Type.Quantized(), forget: func() {},
				read: func() (block.Raw, error) {
					data, err := r.Read(t)
					return block.Raw{Type: t.Type, Rows: t.Rows(), Cols: t.Cols(), Data: data}, err
				}})
		}
		return s, nil
	}
	if s.src, err = arch.FromReader(r); err != nil {
		r.Close()
		return nil, err
	}
	for _, t := range append(slices.Clone(s.src.Tensors()), s.src.Carried()...) {
		s.add(t.Name, sideTensor{shape: t.Shape(), typ: fmt.Sprint(t.Type), forget: func() { s.src.Forget(t) },
			read: func() (block.Raw, error) {
				m, _, err := s.src.Read(t)
				return m, err
			}})
	}
	return s, nil
}

func (s *side) add(name string, t sideTensor) {
	s.names = append(s.names, name)
	s.tensors[name] = t
}

// settings compares what is beside the weights.
func (d *Difference) settings(x, y *side) error {
	if x.src == nil {
		return d.files(x, y, "adapter_config.json")
	}
	if a, b := x.src.Architecture(), y.src.Architecture(); a != b {
		d.Config = append(d.Config, fmt.Sprintf("architecture: %s and %s", a, b))
	} else if what := x.src.Differs(y.src); what != "" {
		d.Config = append(d.Config, "computed otherwise: "+what)
	}
	if x.r.Config() != nil && y.r.Config() != nil {
		if err := d.keys(x, y, x.r.Config(), y.r.Config(), "config.json"); err != nil {
			return err
		}
	}
	if err := d.files(x, y, "generation_config.json"); err != nil {
		return err
	}
	return d.tokenizers(x, y)
}

// files compares a JSON file that both may have.
func (d *Difference) files(x, y *side, name string) error {
	a, err := x.r.File(name)
	if err != nil {
		return err
	}
	b, err := y.r.File(name)
	if err != nil || a == nil && b == nil || x.r.Format() != y.r.Format() {
		return err
	}
	if a == nil || b == nil {
		has := d.A
		if a == nil {
			has = d.B
		}
		d.Config = append(d.Config, fmt.Sprintf("%s: only in %s", name, has))
		return nil
	}
	return d.keys(x, y, a, b, name)
}

// idle are keys that say who wrote a file.
var idle = []string{"_name_or_path", "transformers_version", "peft_version"}

func (d *Difference) keys(x, y *side, a, b []byte, name string) error {
	var p, q map[string]any
	if err := json.Unmarshal(formats.FiniteJSON(a), &p); err != nil {
		return fail.Inputf(x.path, "", "%s: %w", name, err)
	}
	if err := json.Unmarshal(formats.FiniteJSON(b), &q); err != nil {
		return fail.Inputf(y.path, "", "%s: %w", name, err)
	}
	all := maps.Clone(p)
	maps.Copy(all, q)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		typed := d.anyType && (k == "dtype" || k == "torch_dtype")
		if v, w := jsonOf(p[k]), jsonOf(q[k]); v != w && !typed && !slices.Contains(idle, k) {
			d.Config = append(d.Config, fmt.Sprintf("%s: %s: %s and %s", name, k, short(v), short(w)))
		}
	}
	return nil
}

func jsonOf(v any) string {
	if v == nil {
		return "nothing"
	}
	b, _ := json.Marshal(v) // it came from JSON
	return string(b)
}

func short(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// tokenizers compares tokens and templates.
func (d *Difference) tokenizers(x, y *side) error {
	note := func(format string, args ...any) { d.Tokenizer = append(d.Tokenizer, fmt.Sprintf(format, args...)) }
	hasA, hasB := hasTokenizer(x.src), hasTokenizer(y.src)
	if !hasA || !hasB {
		if hasA != hasB {
			note("only one of the two has one")
		}
		return nil
	}
	a, err := tokenizer.Open(x.r)
	if err != nil {
		return err
	}
	b, err := tokenizer.Open(y.r)
	if err != nil {
		return err
	}
	if a.Size() != b.Size() {
		note("%d and %d tokens", a.Size(), b.Size())
	}
	n, first := 0, ""
	for id := range int32(min(a.Size(), b.Size())) {
		if v, w := a.Token(id), b.Token(id); v != w {
			if n++; n == 1 {
				first = fmt.Sprintf("%d is %q and %q", id, v, w)
			}
		}
	}
	if n > 0 {
		note("%d tokens are others: %s", n, first)
	}
	const text = "Ünïcode tokens, 12345 numbers\n\tand  spaces: don't! 東京"
	idsA, errA := a.EncodePlain(text)
	idsB, errB := b.EncodePlain(text)
	if !slices.Equal(idsA, idsB) || (errA == nil) != (errB == nil) {
		note("a text becomes other tokens")
	}
	for what, pair := range map[string][2]int32{"beginning": {a.BOS(), b.BOS()}, "end": {a.EOS(), b.EOS()}} {
		if pair[0] != pair[1] {
			note("token of the %s: %d and %d", what, pair[0], pair[1])
		}
	}
	slices.Sort(d.Tokenizer)
	if a.AddsBOS() != b.AddsBOS() || a.AddsEOS() != b.AddsEOS() {
		note("around a text: beginning %v and %v, end %v and %v", a.AddsBOS(), b.AddsBOS(), a.AddsEOS(), b.AddsEOS())
	}
	if !slices.Equal(a.ChatTemplates(), b.ChatTemplates()) {
		note("chat templates are others")
	}
	return nil
}

// diffTensor compares one tensor; nil: it is equal.
func diffTensor(x, y *side, name string) (*TensorDiff, error) {
	a, hasA := x.tensors[name]
	b, hasB := y.tensors[name]
	d := &TensorDiff{Name: name, ShapeA: a.shape, ShapeB: b.shape, TypeA: a.typ, TypeB: b.typ}
	switch {
	case !hasB:
		d.Only = "a"
		return d, nil
	case !hasA:
		d.Only = "b"
		return d, nil
	case !slices.Equal(a.shape, b.shape):
		return d, nil
	}
	defer a.forget()
	defer b.forget()
	m, err := a.read()
	if err != nil {
		return nil, err
	}
	n, err := b.read()
	if err != nil {
		return nil, err
	}
	if m.Type == n.Type && bytes.Equal(m.Data, n.Data) {
		return nil, nil
	}
	if a.raw || b.raw {
		return d, nil
	}
	d.values(m, n)
	if d.Values == 0 && a.typ == b.typ {
		return nil, nil
	}
	return d, nil
}

// values compares two matrices of one shape, some rows at a time.
func (d *TensorDiff) values(m, n block.Raw) {
	step := arch.ChunkRows(m.Cols)
	size := min(step, m.Rows) * m.Cols
	v, w := make([]float32, size), make([]float32, size)
	diff, all := 0.0, 0.0
	for r := 0; r < m.Rows; r += step {
		k := min(step, m.Rows-r) * m.Cols
		block.DecodeRows(v[:k], m, r)
		block.DecodeRows(w[:k], n, r)
		for i := range k {
			p, q := float64(v[i]), float64(w[i])
			if math.Float32bits(v[i]) == math.Float32bits(w[i]) || p == q {
				if !math.IsInf(p, 0) {
					all += float64(p * p)
				}
				continue
			}
			d.Values++
			if x := p - q; math.IsNaN(x) || math.IsInf(x, 0) {
				d.Finite++
			} else {
				d.Max = max(d.Max, math.Abs(x))
				diff += float64(x * x)
				all += float64(p * p)
			}
		}
	}
	if rel := math.Sqrt(diff / all); all > 0 && d.Finite == 0 {
		d.Relative = &rel
	}
}
