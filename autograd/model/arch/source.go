package arch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
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
	carried []*Tensor       // of parts that are not run
	scales  []string        // of a cache of keys and values: left out
	tables  map[int][]int32 // by layer: see Table
	at      map[place]*Tensor
	named   map[string]*Tensor
	untied  bool   // the config says otherwise
	bare    string // the class without a head that the config names
	pad     *int32 // of a reward model
	grown   bool   // Grow added tokens
	notes   []string
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
	// Grid is on what Act rounds, the same for all its rows; the zero Grid: on each row's own.
	Grid kernels.Grid
	// Unrounded says why inputs that its file wants rounded stay exact, as formats.Tensor does; "" elsewhere.
	Unrounded string

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
	s.rules = s.arch.rulesOf(&s.Spec)
	if err := s.bind(); err != nil || s.arch.Read == nil || r.Format() == "gguf" {
		return s, err
	}
	return s, s.arch.Read(s)
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
		return fmt.Errorf("no config.json beside the weights; take it from where the model was published")
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
	class, reward := wordClass(class)
	if with := bareClass(class, model); with != "" {
		class, s.bare = with, class
	}
	if w := wholeOf(class, model); w != nil {
		if class != "" && model != "" && model != w.name && !slices.Contains(strings.Fields(w.types), model) {
			return fmt.Errorf("config.json: architectures names %s, model_type is %q, which is of another architecture or of none: one of them is wrong", class, model)
		}
		return s.half(w, c)
	}
	s.arch = byHF(class, model)
	if s.arch != nil && !s.arch.goesWith(class, model, c.raw["auto_map"] != nil) {
		return fmt.Errorf("config.json: architectures names %s, model_type is %q, which is of another architecture or of none: one of them is wrong", class, model)
	}
	if s.arch == nil && class == "" && model == "" {
		return fmt.Errorf("config.json: neither architectures nor model_type says what model this is; take the file from where the model was published")
	}
	if s.arch == nil {
		what := fmt.Sprintf("config.json: architecture %q (model_type %q)", class, model)
		if c.has("auto_map") {
			what += ", whose code comes with it (auto_map) and is not run here,"
		}
		return unknown(cmp.Or(class, model), what, hubNames(class != ""))
	}
	for _, part := range []*Config{c, c.text()} {
		if err := part.noZeroFactors(); err != nil {
			return err
		}
	}
	if err := c.resolve(); err != nil { // none of those families is the half of a larger model
		return err
	}
	if s.Spec, err = s.arch.Spec(c); err != nil {
		return err
	}
	s.Spec.RouterLoss = c.Bool(false, "output_router_logits")
	if c.err != nil {
		return c.err
	}
	if s.arch.Fit != nil {
		tensors := s.Reader.Tensors()
		s.arch.Fit(&s.Spec, func(name string) bool {
			return slices.ContainsFunc(tensors, func(t formats.Tensor) bool { return t.Name == name })
		})
	}
	s.notes = c.notes
	if reward {
		if err := checkLabels(c); err != nil {
			return err
		}
		s.Spec.Reward, s.Spec.Tied, s.Spec.HeadBias = true, false, false
	}
	if own := slices.IndexFunc(archs, func(a *Arch) bool { return a.Name == s.Spec.Arch }); own >= 0 { // a class may stand for several
		s.arch = archs[own]
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
		if kv.Key == "general.type" && kv.Value == "adapter" {
			return errAdapter
		}
	}
	m := newMetadata(name, kvs)
	tensors := s.Reader.Tensors()
	for i := range tensors {
		m.shapes[tensors[i].Name] = tensors[i].Shape
	}
	if s.arch = byGGUF(name, m); s.arch == nil {
		var names []string
		for _, a := range archs {
			names = append(names, a.GGUF)
		}
		return unknown(name, fmt.Sprintf("general.architecture %q", name), names)
	}
	for i := range tensors {
		t := &tensors[i]
		if to := m.table(t.Name); to != nil {
			f, err := floats(s.Reader, t)
			if err != nil {
				return err
			}
			*to = f
		}
	}
	var err error
	if s.Spec, err = s.arch.GGUFSpec(m); err != nil {
		return err
	}
	return m.refuse(s.Spec.Attention())
}

// PruneNote says in what the layers of a GGUF with the keys kv and tensors of these shapes differ from those that
// it has with the keys pruned, without the blocks gone, whose numbers later ones take: where the kind
// of a layer follows from its number. "" for nothing, and of architectures that are not known.
func PruneNote(kv, pruned []formats.KV, shapes, left map[string][]int64, gone []int) string {
	read := func(kv []formats.KV, shapes map[string][]int64) *Spec {
		name := ""
		for _, e := range kv {
			if e.Key == "general.architecture" {
				name, _ = e.Value.(string)
			}
		}
		m := newMetadata(name, kv)
		m.shapes = shapes
		a := byGGUF(name, m)
		if a == nil {
			return nil
		}
		s, err := a.GGUFSpec(m)
		if err != nil { // what is needed beside keys and shapes says nothing of kinds of layers
			return nil
		}
		return &s
	}
	before, after := read(kv, shapes), read(pruned, left)
	if before == nil || after == nil {
		return ""
	}
	var layers []*LayerSpec
	for i, l := range before.Layers {
		if !slices.Contains(gone, i) {
			layers = append(layers, l)
		}
	}
	return difference(reflect.ValueOf(layers), reflect.ValueOf(after.Layers), "layers")
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
func ignorable(t *formats.Tensor) bool {
	mask := len(t.Shape) == 4 && (strings.HasSuffix(t.Name, ".attention.bias") || strings.HasSuffix(t.Name, ".attn.bias")) // which keys a token sees
	return mask || t.Name == ropeFreqs || t.Name == ropeShort || t.Name == ropeLong || strings.HasSuffix(t.Name, "rotary_emb.inv_freq") ||
		strings.HasSuffix(t.Name, ".attention.masked_bias") || strings.HasSuffix(t.Name, ".attn.masked_bias")
}

// withoutHead is the name of a tensor in a checkpoint that was saved without the
// head, where the rest stands by itself.
func withoutHead(name string) string {
	for _, base := range []string{"model.", "transformer.", "gpt_neox.", "backbone."} {
		if rest, ok := strings.CutPrefix(name, base); ok {
			return rest
		}
	}
	return name
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
		if !slices.Contains(tensors[i].Shape, 0) { // maps of no expert carry nothing
			files[tensors[i].Name] = &tensors[i]
		}
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
			if !t.pieces[i].Slab.last() {
				continue
			}
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
	s.carry(files)
	s.dropSpare(files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if s.Reader.Format() == "hf" && cacheScale.MatchString(name) {
			s.scales = append(s.scales, name)
			delete(files, name)
		}
	}
	maps.DeleteFunc(files, func(name string, _ *formats.Tensor) bool {
		return s.Reader.Format() == "hf" && slices.ContainsFunc(s.arch.Drops, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
	if left := smallest(files); left != "" {
		return fail.Inputf(s.Reader.Path(), "this checkpoint has parts that its architecture does not know; converting it would lose them", "tensor %s has no place in %s", left, s.arch.Name)
	}
	return nil
}

// carry takes the tensors of parts that are not run out of files.
func (s *Source) carry(files map[string]*formats.Tensor) {
	if s.Reader.Format() == "gguf" {
		return
	}
	others := slices.Clone(s.arch.Carried)
	for i := range s.Spec.Predict {
		others = append(others, fmt.Sprintf("model.layers.%d.", len(s.Spec.Layers)+i))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		part := slices.IndexFunc(others, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if path, ok := s.Spec.Whole.other(name); ok {
			others, part = append(others, path), len(others)
		}
		numbers := s.arch.Tables != "" && strings.HasSuffix(name, s.arch.Tables)
		if (part < 0 || !decoded(f.Type)) && !numbers || f.Unsupported != "" {
			continue
		}
		as, path := name, ""
		if part >= 0 {
			path = others[part]
		} else { // a table, which a folder may have under a longer name
			as = strings.TrimPrefix(name, "model.")
			path = as
		}
		delete(files, name)
		r := &Rule{Role: Carried, Layer: -1, Name: as, Rows: f.Rows(), Cols: f.Cols(), Vector: len(f.Shape) < 2,
			HF: []Piece{{Name: as, Shape: slices.Clone(f.Shape)}}, layerPath: strings.TrimSuffix(path, ".")}
		s.carried = append(s.carried, &Tensor{Rule: r, Type: f.Type, Act: f.Act, pieces: r.HF, stored: []*formats.Tensor{f}})
	}
}

// Carried lists tensors of a larger model's other parts: Plan has them, Tensors
// does not.
func (s *Source) Carried() []*Tensor { return s.carried }

// CarriedNote says what becomes of the other parts of a larger model where it is
// written, to a GGUF or to a folder, and that scales of a cache are left out; "" where
// it has none.
func (s *Source) CarriedNote(gguf bool) string {
	var notes []string
	if n := len(s.carried); n > 0 && gguf {
		notes = append(notes, fmt.Sprintf("%d tensors of other parts (%s …) are left out: a GGUF holds the part that reads text", n, s.carried[0].layerPath))
	} else if n > 0 {
		notes = append(notes, fmt.Sprintf("%d tensors of other parts (%s …) are taken along unchanged", n, s.carried[0].layerPath))
	}
	if n := len(s.scales); n > 0 {
		notes = append(notes, fmt.Sprintf("%d scales of a cache of keys and values (%s …) are left out", n, s.scales[0]))
	}
	return strings.Join(notes, "; ")
}

// ConfigNote says what other programs are known to read in config.json otherwise; "" for
// nothing.
func (s *Source) ConfigNote() string {
	if len(s.notes) == 0 {
		return ""
	}
	return s.Reader.Path() + ": " + strings.Join(s.notes, "; ")
}

// CacheNote says that programs that serve a folder round what it has scales for and
// that is not rounded here; "" where it has none.
func (s *Source) CacheNote() string {
	if len(s.scales) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: programs that serve it round their cache of keys and values (%d scales, %s …); here it stays exact", s.Reader.Path(), len(s.scales), s.scales[0])
}

// Rounds reports whether the file wants the inputs of the product with t rounded.
func (t *Tensor) Rounds() bool { return t.Act != (dtype.Type{}) || t.Unrounded != "" }

// DecodedNote says which matrices of small floats (FP8, MXFP4, NVFP4), and which whose inputs
// are rounded, are decoded where the model is written as something else, and what goes with
// them; "" where it has none.
func (s *Source) DecodedNote() string {
	n, inputs, types := 0, 0, []string(nil)
	for _, t := range s.Tensors() {
		if !t.Type.ScaledFloat() && t.Type.Kind != dtype.MXFP4 && t.Type.Kind != dtype.NVFP4 && !t.Rounds() {
			continue
		}
		if n++; !slices.Contains(types, t.Type.String()) {
			types = append(types, t.Type.String())
		}
		if t.Rounds() {
			inputs++
		}
	}
	if n == 0 {
		return ""
	}
	note := fmt.Sprintf("%s: %d matrices are stored as %s and are decoded: what is written is made of their values", s.Reader.Path(), n, strings.Join(types, ", "))
	if inputs > 0 {
		note += fmt.Sprintf(", and does not say that the inputs of %d are rounded", inputs)
	}
	return note
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
	t := &Tensor{Rule: r, pieces: s.form(r, files)}
	if s.Reader.Format() == "hf" && len(r.Other) > 0 && files[r.HF[0].Name] == nil && files[r.Other[0].Name] != nil {
		t.pieces = r.Other
	}
	var types []dtype.Type
	for i := range t.pieces {
		p := &t.pieces[i]
		f, ok := s.file(files, p.Name)
		if !ok && (r.Optional || r.Tied) {
			return nil, nil
		}
		if !ok && r.Role == Head && !r.Bias {
			return nil, s.headless(p.Name)
		}
		if !ok {
			return nil, fail.Inputf(s.Reader.Path(), "the file is incomplete or its config belongs to another model", "%w", wrapCorrupt(fmt.Errorf("tensor %s is missing", p.Name)))
		}
		if len(t.pieces) == 1 {
			t.pieces = storedAs(r, t.pieces, f.Type)
			p = &t.pieces[0]
		}
		if err := p.checkShape(r, f); err != nil {
			return nil, fail.Inputf(s.Reader.Path(), "the config does not describe these weights", "%w", wrapCorrupt(err))
		}
		var grid kernels.Grid
		var left string
		var err error
		if grid.Scale, grid.Zero, left, err = f.InputGrid(); err != nil {
			return nil, err
		}
		if left = cmp.Or(f.Unrounded, left); left == "" && f.Act.Group == dtype.AllRows && r.Experts > 0 {
			left = fmt.Sprintf("%v, of the tokens of each expert", f.Act)
		}
		switch { // experts are parts of one product
		case left != "":
			t.Unrounded = left
		case t.Unrounded != "" || len(t.stored) == 0:
		case f.Act != t.Act:
			t.Unrounded = fmt.Sprintf("%v and %v, for each part of a matrix its own", exactOr(t.Act), exactOr(f.Act))
		case grid != t.Grid:
			t.Unrounded = "scales measured beforehand, for each part of a matrix its own"
		}
		t.Act, t.Grid = f.Act, grid
		t.stored = append(t.stored, f)
		types = append(types, f.Type)
	}
	if t.Unrounded != "" {
		t.Act, t.Grid = dtype.Type{}, kernels.Grid{}
	}
	if t.Type = dtype.Of(dtype.F32); len(types) > 0 {
		t.Type = memoryType(r, t.pieces, types)
	}
	return t, nil
}

// exactOr names what inputs are rounded to.
func exactOr(act dtype.Type) string {
	if act == (dtype.Type{}) {
		return "exact"
	}
	return act.String()
}

// file is the tensor that a file has under a name.
func (s *Source) file(files map[string]*formats.Tensor, name string) (*formats.Tensor, bool) {
	f, ok := files[name]
	if !ok && s.Reader.Format() != "gguf" {
		f, ok = files[withoutHead(name)]
	}
	return f, ok
}

// form is where the file keeps a tensor: of several forms the first that is
// there whole, else the usual one.
func (s *Source) form(r *Rule, files map[string]*formats.Tensor) []Piece {
	usual := s.pieces(r)
	if s.Reader.Format() != "hf" {
		return usual
	}
	for _, form := range append([][]Piece{usual}, r.Also...) {
		missing := slices.ContainsFunc(form, func(p Piece) bool {
			f, ok := s.file(files, p.Name)
			return !ok || p.checkShape(r, f) != nil
		})
		if !missing {
			return form
		}
	}
	return usual
}

// smallest makes the error independent of map order.
func smallest(m map[string]*formats.Tensor) string {
	out := ""
	for name, t := range m {
		if !ignorable(t) && (out == "" || name < out) {
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
	s.rules = s.arch.rulesOf(&s.Spec)
	for i := range s.rules {
		if r := &s.rules[i]; r.Role == Head && !r.Bias {
			t := &Tensor{Rule: r, Type: embed.Type, Act: embed.Act, Grid: embed.Grid, Unrounded: embed.Unrounded, pieces: embed.pieces, stored: embed.stored}
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
	switch {
	case len(t.pieces) == 0:
		m, err = encodeAs(t.Type, t.Rows, t.Cols, t.Values)
	case len(t.pieces) == 1 && t.pieces[0].whole():
		m.Data, borrow, err = s.bytes(t.stored[0])
	default:
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
		if err := t.pieces[i].gather(t.Rule, m, block.Raw{Type: t.stored[i].Type, Data: t.pieces[i].Slab.of(data)}); err != nil {
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

// cacheScale matches names of what a cache of keys and values is rounded with, at the
// projections (ModelOpt, compressed-tensors) or at the attention itself: no weights,
// but what programs that serve the folder read.
var cacheScale = regexp.MustCompile(`\.(k_proj\.k_(scale|bias)|v_proj\.v_(scale|bias)|qkv_proj\.[kv]_scale|([kv]|qkv)_proj\.output_(scale|zero_point)|(self_attn|attn|attention)\.([qkv]|kv)_(scale|zero_point|global_scale))$`)
