package arch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Source reads a model's tensors in Hugging Face orientation, whatever file they
// lie in.
type Source struct {
	Spec   Spec
	Reader formats.Reader

	arch    *Arch
	rules   []Rule
	tensors []*Tensor
	at      map[place]*Tensor
	named   map[string]*Tensor
	untied  bool // the config says otherwise
}

// Tensor is a tensor of an open model.
type Tensor struct {
	*Rule
	// Type is how it is held in memory: as stored, or F32 where it is put
	// together from pieces whose types differ or cannot be joined.
	Type dtype.Type
	// Act is what the inputs of the product with it are rounded to; the zero Type:
	// not at all.
	Act dtype.Type

	pieces []Piece // as in the open file
	stored []*formats.Tensor
}

// place is what identifies a tensor within a model.
type place struct {
	layer int
	role  Role
	bias  bool
}

// Open opens a model: a Hugging Face folder (plain or quantized) or a GGUF.
// No tensor data is read. The caller closes it.
func Open(path string) (*Source, error) {
	r, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := FromReader(r)
	if err != nil {
		r.Close()
		return nil, err
	}
	return s, nil
}

// FromReader is Open for a file that is already open; it takes r over.
func FromReader(r formats.Reader) (*Source, error) {
	s := &Source{Reader: r, at: map[place]*Tensor{}, named: map[string]*Tensor{}}
	var err error
	if r.Format() == "gguf" {
		err = s.readGGUF()
	} else {
		err = s.readConfig()
	}
	if err == nil {
		err = s.Spec.check()
	}
	if errors.Is(err, ErrUnknown) {
		return nil, fail.Inputf(r.Path(), "", "%w", err)
	}
	if errors.Is(err, errAdapter) {
		return nil, fail.Inputf(r.Path(), "give its base as the model, and this as the adapter (--adapter)", "%w", err)
	}
	if err != nil {
		return nil, fail.Inputf(r.Path(), "", "%w", wrapCorrupt(err))
	}
	s.rules = s.arch.Rules(&s.Spec)
	return s, s.bind()
}

// wrapCorrupt marks err as the file's fault unless it already says more.
func wrapCorrupt(err error) error { return fmt.Errorf("%w: %w", formats.ErrCorrupt, err) }

var errAdapter = errors.New("this is an adapter, not a model")

func (s *Source) readConfig() error {
	data := s.Reader.Config()
	if data == nil {
		if raw, err := s.Reader.File("adapter_config.json"); err == nil && raw != nil {
			return errAdapter
		}
		return fmt.Errorf("no config.json beside the weights")
	}
	c, err := parseConfig(data)
	if err != nil {
		return err
	}
	classes, _ := get[[]string](c, "architectures")
	class := ""
	if len(classes) > 0 {
		class = classes[0]
	}
	model := c.String("", "model_type")
	s.arch = byHF(class, model)
	if s.arch != nil && !s.arch.goesWith(class, model) {
		return fmt.Errorf("config.json: architectures names %s, model_type %q another architecture: one of them is wrong", class, model)
	}
	if s.arch == nil {
		return unknown(cmp.Or(class, model), fmt.Sprintf("config.json: architecture %q (model_type %q)", class, model),
			func(a *Arch) []string { return append([]string{a.Name}, a.HF...) })
	}
	if s.Spec, err = s.arch.Spec(c); err != nil {
		return err
	}
	return nil
}

func (s *Source) readGGUF() error {
	kvs := s.Reader.KV()
	name := ""
	for _, kv := range kvs {
		if kv.Key == "general.architecture" {
			name, _ = kv.Value.(string)
		}
	}
	m := newMetadata(name, kvs)
	if s.arch = byGGUF(name, m); s.arch == nil {
		return unknown(name, fmt.Sprintf("general.architecture %q", name), func(a *Arch) []string { return []string{a.GGUF} })
	}
	tensors := s.Reader.Tensors()
	for i := range tensors {
		t := &tensors[i]
		m.shapes[t.Name] = t.Shape
		if t.Name == ropeFreqs {
			f, err := floats(s.Reader, t)
			if err != nil {
				return err
			}
			m.freqs = f
		}
	}
	var err error
	if s.Spec, err = s.arch.GGUFSpec(m); err != nil {
		return err
	}
	return m.refuse(s.Spec.Attention())
}

func floats(r formats.Reader, t *formats.Tensor) ([]float64, error) {
	if t.Type != dtype.Of(dtype.F32) || len(t.Shape) != 1 {
		return nil, fmt.Errorf("%s: found %v %v, want an F32 vector", t.Name, t.Type, t.Shape)
	}
	raw, err := r.Read(t)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(raw)/4)
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	return out, nil
}

// ignorable tensors carry no weights of their own.
func ignorable(name string) bool {
	return strings.HasSuffix(name, "rotary_emb.inv_freq") || name == ropeFreqs ||
		strings.HasSuffix(name, ".attention.masked_bias")
}

// InMemory is the Format of a Reader whose tensors are named and shaped as in
// memory: a model that exists in a plan only. Where it has no bytes, Read gives
// none: that is enough for a backend that only counts.
const InMemory = "memory"

// pieces says where the file keeps a tensor.
func (s *Source) pieces(r *Rule) []Piece {
	switch s.Reader.Format() {
	case "gguf":
		return r.GGUF
	case InMemory:
		return []Piece{{Name: r.Name}}
	}
	return r.HF
}

// bind pairs rules with tensors: everything the rules ask for must be there
// with its shape, and every tensor of the file must be asked for.
func (s *Source) bind() error {
	files := map[string]*formats.Tensor{}
	tensors := s.Reader.Tensors()
	for i := range tensors {
		files[tensors[i].Name] = &tensors[i]
	}
	if err := s.readTie(files); err != nil {
		return err
	}
	for i := range s.rules {
		t, err := s.find(&s.rules[i], files)
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		for i, f := range t.stored {
			delete(files, f.Name)
			delete(files, t.pieces[i].Name) // under which another may stand for it
			if !decoded(f.Type) {           // of each piece: together they may be held as another type
				return fail.Inputf(s.Reader.Path(), "store the model in F32, F16 or BF16", "tensor %s is %v, a type whose values are not read as weights", f.Name, f.Type)
			}
		}
		if t.Tied { // a copy
			continue
		}
		s.add(t)
	}
	if left := smallest(files); left != "" {
		return fail.Inputf(s.Reader.Path(), "this checkpoint has parts that its architecture does not know; converting it would lose them", "tensor %s has no place in %s", left, s.arch.Name)
	}
	return nil
}

// decoded tells whether values of a type can be read as weights.
func decoded(t dtype.Type) bool {
	switch t.Kind {
	case dtype.F64, dtype.I8, dtype.I16, dtype.I32, dtype.I64, dtype.U8, dtype.Bool:
		return t.Grouped() || t.Flat()
	}
	return true
}

// find collects the pieces of a tensor; nil when it is absent and may be.
func (s *Source) find(r *Rule, files map[string]*formats.Tensor) (*Tensor, error) {
	t := &Tensor{Rule: r, pieces: s.pieces(r)}
	var types []dtype.Type
	for i := range t.pieces {
		p := &t.pieces[i]
		f, ok := files[p.Name]
		if !ok && s.Reader.Format() != "gguf" {
			f, ok = files[strings.TrimPrefix(p.Name, "model.")] // saved without the head
		}
		if !ok && (r.Optional || r.Tied) {
			return nil, nil
		}
		if !ok && r.Role == Head {
			return nil, s.headless(p.Name)
		}
		if !ok {
			return nil, fail.Inputf(s.Reader.Path(), "the file is incomplete or its config belongs to another model", "%w", wrapCorrupt(fmt.Errorf("tensor %s is missing", p.Name)))
		}
		if err := p.checkShape(r, f); err != nil {
			return nil, fail.Inputf(s.Reader.Path(), "the config does not describe these weights", "%w", wrapCorrupt(err))
		}
		if len(t.stored) > 0 && f.Act != t.Act {
			return nil, fail.Inputf(s.Reader.Path(), "", "%s: its pieces round their inputs to %v and %v: one product has one", r.Name, t.Act, f.Act)
		}
		t.Act = f.Act
		t.stored = append(t.stored, f)
		types = append(types, f.Type)
	}
	t.Type = memoryType(r, t.pieces, types)
	return t, nil
}

// smallest makes the error independent of map order.
func smallest(m map[string]*formats.Tensor) string {
	out := ""
	for name := range m {
		if !ignorable(name) && (out == "" || name < out) {
			out = name
		}
	}
	return out
}

// Tensors lists the tensors present, in the order of the architecture's rules.
// The slice is shared.
func (s *Source) Tensors() []*Tensor { return s.tensors }

// At is the weight with a role in a layer (-1: outside the blocks), nil when
// the model has none.
func (s *Source) At(layer int, role Role) *Tensor { return s.at[place{layer, role, false}] }

// BiasAt is the bias of the weight At returns, nil when it has none.
func (s *Source) BiasAt(layer int, role Role) *Tensor { return s.at[place{layer, role, true}] }

// Named is the tensor with a name in memory, nil when there is none. Names come
// from outside: from adapters and users.
func (s *Source) Named(name string) *Tensor { return s.named[name] }

// LinearType is how the first linear map of the blocks is stored, which stands
// for the model.
func (s *Source) LinearType() dtype.Type {
	for _, t := range s.tensors {
		if t.IsLinear() {
			return t.Type
		}
	}
	return dtype.Type{}
}

// LayerPath is the module path of a layer, "" where there is none.
func (s *Source) LayerPath(layer int) string {
	for i := range s.rules {
		if s.rules[i].Layer == layer {
			return s.rules[i].layerPath
		}
	}
	return ""
}

// Untie gives a tied head a matrix of its own: the embedding's, read again. A
// model written from s is untied; on one that is, it does nothing.
func (s *Source) Untie() {
	if !s.Spec.Tied {
		return
	}
	embed := s.At(-1, Embed)
	s.Spec.Tied, s.untied = false, true
	s.rules = s.arch.Rules(&s.Spec)
	for i := range s.rules {
		if r := &s.rules[i]; r.Role == Head {
			t := &Tensor{Rule: r, Type: embed.Type, Act: embed.Act, pieces: embed.pieces, stored: embed.stored}
			s.add(t)
		}
	}
}

// add makes t one of the tensors.
func (s *Source) add(t *Tensor) {
	s.tensors = append(s.tensors, t)
	s.at[place{t.Layer, t.Role, t.Bias}] = t
	s.named[t.Name] = t
}

// HeadPath is the module path of the output layer, tied or not.
func (s *Source) HeadPath() string { return headPath(s.rules) }

func headPath(list []Rule) string {
	for i := range list {
		if list[i].Role == Head {
			return list[i].Path()
		}
	}
	return ""
}

// Read returns a tensor in the layout of dtype.Planes and in Hugging Face
// orientation. borrow says that its bytes are part of the mapped file: valid
// until Close, and not to be written to.
func (s *Source) Read(t *Tensor) (m block.Raw, borrow bool, err error) {
	m = block.Raw{Type: t.Type, Rows: t.Rows, Cols: t.Cols}
	if len(t.pieces) == 1 && t.pieces[0].whole() {
		m.Data, borrow, err = s.bytes(t.stored[0])
	} else {
		m, err = s.join(t)
	}
	if err != nil {
		return m, false, err
	}
	if m.Data == nil && s.Reader.Format() == InMemory {
		return m, borrow, nil
	}
	if err = m.Check(); err != nil {
		return m, false, fail.Inputf(s.Reader.Path(), "", "%s: %w", t.Name, err)
	}
	return m, borrow, nil
}

// Mapped reports whether Read borrows a tensor's bytes from the mapped file.
func (s *Source) Mapped(t *Tensor) bool {
	if len(t.pieces) != 1 || !t.pieces[0].whole() {
		return false
	}
	_, ok := s.Reader.Map(t.stored[0])
	return ok
}

// bytes are a stored tensor's, where it is mapped if that is possible.
func (s *Source) bytes(f *formats.Tensor) (data []byte, borrow bool, err error) {
	if data, ok := s.Reader.Map(f); ok {
		return data, true, nil
	}
	data, err = s.Reader.Read(f)
	return data, false, err
}

// join puts a tensor together from its pieces.
func (s *Source) join(t *Tensor) (block.Raw, error) {
	m := block.New(t.Type, t.Rows, t.Cols)
	for i := range t.pieces {
		data, _, err := s.bytes(t.stored[i])
		if err != nil {
			return m, err
		}
		if err := t.pieces[i].gather(t.Rule, m, block.Raw{Type: t.stored[i].Type, Data: data}); err != nil {
			return m, fail.Inputf(s.Reader.Path(), "", "%s: %w", t.stored[i].Name, err)
		}
	}
	return m, nil
}

// Forget lets go of the memory that holds a tensor's mapped bytes, which stay
// valid; see formats.
func (s *Source) Forget(t *Tensor) {
	if r, ok := s.Reader.(interface{ Forget(*formats.Tensor) }); ok {
		for _, f := range t.stored {
			r.Forget(f)
		}
	}
}

// Architecture is the name of the table entry, e.g. "llama".
func (s *Source) Architecture() string { return s.arch.Name }

// Close releases the file; borrowed bytes become invalid.
func (s *Source) Close() error { return s.Reader.Close() }
