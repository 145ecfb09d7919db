package arch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Out is one tensor of a model to be written.
type Out struct {
	*Tensor
	Type dtype.Type // as written
	Act  dtype.Type // what inputs of the product with it are rounded to, as written; the zero Type: not at all
	Why  string     // shown in plans: what chose the type
}

// Sink writes a model's tensors, given in Hugging Face orientation, into a
// folder or a GGUF. Nothing is visible at the destination before Commit.
type Sink struct {
	w     formats.Writer
	gguf  bool
	apart map[string]bool     // names of tensors that are stored as Rule.Other says
	slabs map[string][][]byte // parts of tensors of the file, until they are whole
}

// Plan lists every tensor of the model, and of what is carried along with it,
// with the type that pick chooses.
func (s *Source) Plan(pick func(t *Tensor) (dtype.Type, string)) []Out {
	var out []Out
	for _, t := range append(s.tensors[:len(s.tensors):len(s.tensors)], s.carried...) {
		typ, why := t.Type, "whole numbers, carried along unchanged"
		if decoded(t.Type) {
			typ, why = pick(t)
		}
		out = append(out, Out{Tensor: t, Type: typ, Why: why})
	}
	return out
}

// FileTensor is a tensor as a file of some kind will hold it: a piece of one in
// memory.
type FileTensor struct {
	Name  string
	Shape []int64
	Type  dtype.Type // what ReadAs returns
	Of    *Tensor

	piece *Piece
}

// AsGGUF lists a tensor as a GGUF holds it.
func (t *Tensor) AsGGUF() []FileTensor { return t.as(t.GGUF) }

// AsStored lists a tensor as the open file holds it.
func (t *Tensor) AsStored() []FileTensor { return t.as(t.pieces) }

// Columns puts numbers that belong to the columns of the tensor into the order of
// the file's columns.
func (f FileTensor) Columns(x []float32) []float32 { return f.piece.order(x) }

// Take returns the piece of m, which is the whole tensor in memory or something
// of its shape. The result may share m's bytes.
func (f FileTensor) Take(m block.Raw) (block.Raw, error) { return f.piece.scatter(f.Of.Rule, m) }

// Matrices is the number of matrices that the file's tensor is made of, whose columns
// are those of the tensor in memory; 0 where they are not, because it is transposed.
func (f FileTensor) Matrices() int {
	if f.piece.Transpose {
		return 0
	}
	n := 1
	for _, d := range f.Shape[:max(len(f.Shape)-2, 0)] {
		n *= int(d)
	}
	return n
}

func (t *Tensor) as(pieces []Piece) []FileTensor {
	var out []FileTensor
	for i := range pieces {
		p := &pieces[i]
		if p.Slab.At > 0 { // the first is the tensor
			continue
		}
		f := FileTensor{Name: p.Name, Shape: p.fileShape(t.Rule), Type: t.Type, Of: t, piece: p}
		if p.changesValues() {
			f.Type = dtype.Of(dtype.F32)
		}
		out = append(out, f)
	}
	return out
}

// ReadAs reads a tensor's piece as its file will hold it. The bytes may be those
// of the mapped file, which end with Close.
func (s *Source) ReadAs(f FileTensor) (block.Raw, error) {
	if len(f.piece.Slab.All) == 0 {
		return s.readAs(f)
	}
	var all block.Raw
	for _, name := range f.piece.Slab.All {
		one := f
		one.Of = s.Named(name)
		m, err := s.readAs(one)
		if err != nil {
			return m, err
		}
		all.Type, all.Rows, all.Cols, all.Data = m.Type, all.Rows+m.Rows, m.Cols, append(all.Data, m.Data...)
	}
	return all, nil
}

// Numbers are those of the rows of f as its file will hold them: what of says of the stored tensor
// that a row comes from.
func (s *Source) Numbers(f FileTensor, of func(*formats.Tensor) (float32, error)) ([]float32, error) {
	tensors := []*Tensor{f.Of}
	if len(f.piece.Slab.All) > 0 {
		tensors = nil
		for _, name := range f.piece.Slab.All {
			tensors = append(tensors, s.Named(name))
		}
	}
	var out []float32
	for _, t := range tensors {
		rows, _ := t.units()
		mem := make([]float32, rows)
		for i := range t.stored {
			v, err := of(t.stored[i])
			if err != nil {
				return nil, err
			}
			for k := range t.pieces[i].size(rows) {
				mem[t.pieces[i].row(k, rows)] = v
			}
		}
		for k := range f.piece.size(rows) {
			out = append(out, mem[f.piece.row(k, rows)])
		}
	}
	return out, nil
}

// readAs is ReadAs of one matrix.
func (s *Source) readAs(f FileTensor) (block.Raw, error) {
	m, _, err := s.Read(f.Of)
	if err != nil {
		return m, err
	}
	if m.Type != f.Type {
		x := make([]float32, m.Rows*m.Cols)
		block.DecodeAll(x, m)
		if m, err = encodeAs(f.Type, m.Rows, m.Cols, x); err != nil {
			return m, fail.Inputf(s.Reader.Path(), "", "%s: %w", f.Of.Name, err)
		}
	}
	if m, err = f.Take(m); err != nil {
		return m, fail.Inputf(s.Reader.Path(), "", "%w", err)
	}
	return m, nil
}

// FolderOptions say how a Hugging Face folder is written.
type FolderOptions struct {
	Config   []byte // config.json; ConfigJSON makes one
	Files    map[string][]byte
	MaxShard int64
	Layout   string // as formats.FolderOptions.Layout
	// Quantization is merged over the quantization_config that the layout
	// makes, as a JSON object; nil adds nothing.
	Quantization []byte
}

// CreateFolder starts a Hugging Face folder.
func CreateFolder(dir string, s *Spec, plan []Out, o FolderOptions) (*Sink, error) {
	list, err := s.Rules()
	if err != nil {
		return nil, err
	}
	k := &Sink{apart: map[string]bool{}}
	for _, o := range plan { // what quantizes has a name for every matrix
		k.apart[o.Name] = o.Type.Quantized() && len(o.Other) >= o.Experts && len(o.HF) < o.Experts
	}
	tp, err := k.files(dir, plan)
	if err != nil {
		return nil, err
	}
	fo := formats.FolderOptions{Config: o.Config, Files: o.Files, Plan: tp, MaxShard: o.MaxShard, Layout: o.Layout, Quantization: o.Quantization, Head: headPath(list)}
	if fo.Head != "" && fo.Head != UsualHead { // Transformers' name of the module, and not the file's, is the usual one
		fo.HeadToo = UsualHead
	}
	k.w, err = formats.CreateFolder(dir, fo)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// files are the tensors of the file that k writes.
func (k *Sink) files(where string, plan []Out) ([]formats.TensorPlan, error) {
	var out []formats.TensorPlan
	for _, o := range plan {
		pieces := k.pieces(o.Tensor, o.Type)
		if err := canStore(o.Rule, pieces, o.Type); err != nil {
			return nil, fail.Usagef(where, "", "%w", err)
		}
		for _, f := range o.Tensor.as(pieces) {
			p := formats.TensorPlan{Name: f.Name, Shape: f.Shape, Type: o.Type, Act: o.Act, Why: o.Why, Linear: o.AsLinear()}
			if o.Role == Carried {
				p.Part = o.layerPath
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// pieces are those of t, written as typ.
func (k *Sink) pieces(t *Tensor, typ dtype.Type) []Piece {
	switch {
	case k.gguf:
		return t.GGUF
	case k.apart[t.Name]:
		return t.Other
	}
	return storedAs(t.Rule, t.HF, typ)
}

// CreateGGUF starts a GGUF file. kv is complete metadata (see GGUFKeys); plan
// is in file order.
func CreateGGUF(path string, s *Spec, kv []formats.KV, plan []Out) (*Sink, error) {
	k := &Sink{gguf: true}
	tp, err := k.files(path, plan)
	if err != nil {
		return nil, err
	}
	tables, values := s.GGUFTables()
	if k.w, err = formats.CreateGGUF(path, kv, append(slices.Clone(tables), tp...)); err != nil {
		return nil, err
	}
	for _, t := range tables {
		if k.w.Has(t.Name) {
			continue
		}
		if err := k.w.Write(t.Name, values(t.Name)); err != nil {
			k.w.Abort()
			return nil, err
		}
	}
	return k, nil
}

// GGUFTables are the tensors of a GGUF file that follow from s and stand before all others, and their values
// by name.
func (s *Spec) GGUFTables() ([]formats.TensorPlan, func(name string) []byte) {
	var plan []formats.TensorPlan
	raw := map[string][]byte{}
	for _, t := range s.rope().tables() {
		plan = append(plan, formats.TensorPlan{Name: t.name, Shape: []int64{int64(len(t.values))}})
		for _, f := range t.values {
			raw[t.name] = binary.LittleEndian.AppendUint32(raw[t.name], math.Float32bits(f))
		}
	}
	return plan, func(name string) []byte { return raw[name] }
}

// What a GGUF calls divisors of rotary frequencies: of every text, of short and
// of long ones.
const (
	ropeFreqs = "rope_freqs.weight"
	ropeShort = "rope_factors_short.weight"
	ropeLong  = "rope_factors_long.weight"
)

// Has reports whether an earlier, interrupted write already finished t.
func (k *Sink) Has(t *Tensor) bool {
	return !slices.ContainsFunc(k.pieces(t, t.Type), func(p Piece) bool { return !k.w.Has(p.Name) })
}

// Write stores a tensor of its planned type, in Hugging Face orientation. The
// bytes are not kept.
func (k *Sink) Write(t *Tensor, m block.Raw) error {
	pieces := k.pieces(t, m.Type)
	for i := range pieces {
		p := &pieces[i]
		if k.w.Has(p.Name) {
			continue
		}
		f, err := p.scatter(t.Rule, m)
		if err == nil && len(p.Slab.All) > 0 {
			f.Data = k.slab(p, f.Data)
		}
		if err == nil && f.Data != nil {
			err = k.w.Write(p.Name, f.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// slab keeps a part of a tensor of the file, and returns the tensor when it is whole.
func (k *Sink) slab(p *Piece, data []byte) []byte {
	if k.slabs == nil {
		k.slabs = map[string][][]byte{}
	}
	if k.slabs[p.Name] == nil {
		k.slabs[p.Name] = make([][]byte, len(p.Slab.All))
	}
	k.slabs[p.Name][p.Slab.At] = bytes.Clone(data)
	if slices.ContainsFunc(k.slabs[p.Name], func(part []byte) bool { return part == nil }) {
		return nil
	}
	defer delete(k.slabs, p.Name)
	return slices.Concat(k.slabs[p.Name]...)
}

// Read returns a finished tensor as it was given to Write, of type typ.
func (k *Sink) Read(t *Tensor, typ dtype.Type) (block.Raw, error) {
	pieces := k.pieces(t, typ)
	m := block.Raw{Type: typ, Rows: t.Rows, Cols: t.Cols}
	if len(pieces) == 1 && pieces[0].whole() {
		var err error
		m.Data, err = k.w.Read(pieces[0].Name)
		return m, err
	}
	m = block.New(typ, t.Rows, t.Cols)
	for i := range pieces {
		data, err := k.w.Read(pieces[i].Name)
		if err == nil {
			err = pieces[i].gather(t.Rule, m, block.Raw{Type: typ, Data: pieces[i].Slab.of(data)})
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// Commit publishes the artifact.
func (k *Sink) Commit() error { return k.w.Commit() }

// Suspend keeps the unfinished artifact for a restart with the same plan.
func (k *Sink) Suspend() error { return k.w.Suspend() }

// Abort removes the unfinished artifact. After Commit or Suspend it does
// nothing, so it may be deferred.
func (k *Sink) Abort() { k.w.Abort() }

// GGUFKeys is the metadata of a GGUF of this model: general.*, the
// architecture's keys, then tok (the tokenizer's). fileType is llama.cpp's
// general.file_type.
func GGUFKeys(s *Spec, name string, fileType uint32, tok []formats.KV) ([]formats.KV, error) {
	i := slices.IndexFunc(archs, func(a *Arch) bool { return a.Name == s.Arch })
	if i < 0 {
		return nil, fmt.Errorf("arch: no architecture %q", s.Arch)
	}
	if err := archs[i].checkGGUF(s, name); err != nil {
		return nil, err
	}
	kv := []formats.KV{
		{Key: "general.architecture", Value: archs[i].GGUF},
		{Key: "general.type", Value: "model"},
		{Key: "general.name", Value: name},
		{Key: "general.size_label", Value: s.sizeLabel()},
		{Key: "general.file_type", Value: fileType},
	}
	kv = append(kv, archs[i].KV(s)...)
	if what := archs[i].lost(s, kv); what != "" && !archs[i].Folds {
		return nil, fail.Inputf(name, "choose format: safetensors", "a GGUF of architecture %s cannot state this model: it would be read with %s", archs[i].GGUF, what)
	}
	kv = append(kv, formats.KV{Key: "general.quantization_version", Value: uint32(2)})
	return append(kv, tok...), nil
}

// checkGGUF refuses a model called name that a GGUF cannot hold.
func (a *Arch) checkGGUF(s *Spec, name string) error {
	const hint = "choose format: safetensors"
	if a.GGUF == "" {
		return fail.Inputf(name, hint, "a model of architecture %s cannot be written to GGUF: no conversion to it is known here", a.Name)
	}
	if a.Experts && s.moe() == nil {
		return fail.Inputf(name, hint, "a model of architecture %s without a layer of experts cannot be written to GGUF", a.Name)
	}
	if s.Reward {
		return fail.Inputf(name, hint, "a reward model is not written to GGUF")
	}
	if a.NoGGUF != nil {
		if what := a.NoGGUF(s); what != "" {
			return fail.Inputf(name, hint, "%s cannot be written to GGUF: llama.cpp has no key for it", what)
		}
	}
	for _, r := range s.Ropes {
		if a.Untruncated && r.Type == "yarn" {
			if !r.NoTruncate {
				return fail.Inputf(name, hint, "yarn rope scaling with truncate: true cannot be written to GGUF: of this architecture it says false")
			}
			r.NoTruncate = false
		}
		if err := r.checkGGUF(name); err != nil {
			return err
		}
	}
	return nil
}

// lost says in what a model that is read from a GGUF with the keys kv differs from
// s; "" where it does not.
func (a *Arch) lost(s *Spec, kv []formats.KV) string {
	m := newMetadata(a.GGUF, kv)
	list := a.Rules(s)
	for i := range list {
		for j := range list[i].GGUF {
			if p := &list[i].GGUF[j]; !list[i].Tied {
				m.shapes[p.Name] = p.fileShape(&list[i])
			}
		}
	}
	for _, t := range s.rope().tables() {
		f := make([]float64, len(t.values))
		for i, v := range t.values {
			f[i] = float64(v)
		}
		*m.table(t.name) = f
	}
	back, err := a.GGUFSpec(m)
	if err != nil {
		return err.Error()
	}
	if a.Folds {
		back.Layers = s.Layers
	}
	return s.otherThan(&back)
}

// unsaid says in what a model that is read from a config.json of these keys differs from
// s; "" where it does not.
func (a *Arch) unsaid(s *Spec, keys map[string]json.RawMessage) string {
	c := &Config{raw: maps.Clone(keys)}
	if err := c.noZeroFactors(); err != nil {
		return err.Error()
	}
	if class, _ := get[[]string](c, "architectures"); len(class) > 0 { // which may be that of the half that reads text
		a = cmp.Or(byHF(class[0], ""), a)
	}
	back, err := a.Spec(c)
	if err != nil {
		return err.Error()
	}
	if a.Read != nil || a.Fit != nil { // what they complete layers with lies in tensors
		back.Layers = s.Layers
	}
	return s.otherThan(&back)
}

// otherThan says in what b computes something else than s; "" where it does not.
func (s *Spec) otherThan(b *Spec) string {
	for _, part := range []struct {
		name string
		a, b any
	}{
		{"norms", s.Norm, b.Norm}, {"temperature", s.Temperature, b.Temperature}, {"layers", s.Layers, b.Layers}, {"factor on the embedding", cmp.Or(s.EmbedScale, 1), cmp.Or(b.EmbedScale, 1)},
		{"factor on the logits", cmp.Or(s.LogitScale, 1), cmp.Or(b.LogitScale, 1)}, {"cap on the logits", s.LogitCap, b.LogitCap},
		{"positions", s.Positions, b.Positions}, {"first position", s.PosOffset, b.PosOffset}, {"distances", s.Distances, b.Distances}, {"slopes", s.Slopes, b.Slopes},
		{"encoder", s.Encoder, b.Encoder}, {"start", s.Start, b.Start},
	} {
		if what := difference(reflect.ValueOf(part.a), reflect.ValueOf(part.b), part.name); what != "" {
			return what
		}
	}
	for i, r := range s.Ropes {
		if s.rotates(i) && (i >= len(b.Ropes) || !r.same(b.Ropes[i])) {
			return fmt.Sprintf("other angles in rotary table %d", i)
		}
	}
	return ""
}

// rotates tells whether layers rotate by a table.
func (s *Spec) rotates(rope int) bool {
	if s.mla() != nil || first[*Compressed](s) != nil {
		return true
	}
	return slices.ContainsFunc(s.attentions(), func(a *Attention) bool { return a != nil && a.Rope == rope })
}

// specKeys are what config.json calls fields of a Spec, and of its parts where kinds of them call one
// otherwise; others are named by their words.
var specKeys = map[string]string{"Act": "hidden_act", "Window": "sliding_window", "Chunk": "attention_chunk_size", "Renorm": "norm_topk_prob", "Eps": "eps of norms",
	"Attention.H": "num_attention_heads", "Attention.K": "num_key_value_heads", "Attention.D": "head_dim", "Attention.Bias": "attention_bias", "Attention.Rope": "table of rotation (-1: none)",
	"MLP.F": "intermediate_size", "MLP.Bias": "mlp_bias", "MoE.E": "number of experts", "MoE.K": "num_experts_per_tok", "MoE.F": "moe_intermediate_size", "MoE.Shared": "size of the shared expert",
	"Sublayer.Pre": "norm before a part", "Sublayer.Post": "norm behind a part", "Sublayer.Body": "", "LayerSpec.Sublayers": "", "Beside.Bodies": "", "Normed.Body": "", "Route": "", "ActParams": "", "AltUp": "",
	"Attention.Scale": "factor on scores", "Attention.Clip": "clip_qkv", "NormedStream": "apply_residual_connection_post_layernorm", "AltUp.Unscaled": "altup_correct_scale: false", "MoE.Average": "average of the shared expert and the others (shared_expert_combination_strategy)"}

// fieldWords is what a user knows a field of a Spec's part by; "" for what only holds others.
func fieldWords(part, field string) string {
	for _, name := range []string{part + "." + field, field} {
		if key, ok := specKeys[name]; ok {
			return key
		}
	}
	var out strings.Builder
	for i, r := range field {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte(' ')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// within is the name of a part of what is called path; either may be "".
func within(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + ": " + name
}

// difference names the first part at path in which b differs from a, in words of
// config.json. Kinds of GELU are one to GGUF: llama.cpp computes all of them by the
// approximation with tanh.
func difference(a, b reflect.Value, path string) string {
	switch {
	case reflect.DeepEqual(a.Interface(), b.Interface()):
		return ""
	case a.CanFloat() && b.CanFloat() && math.Abs(a.Float()-b.Float()) <= 1e-6*math.Abs(a.Float()): // stated in other terms
		return ""
	case a.Type() == b.Type() && a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			if what := difference(a.Field(i), b.Field(i), within(path, fieldWords(a.Type().Name(), a.Type().Field(i).Name))); what != "" {
				return what
			}
		}
		return ""
	case a.Type() == b.Type() && a.Kind() == reflect.Slice && a.Len() == b.Len():
		for i := range a.Len() {
			at := path
			switch a.Type().Elem() {
			case reflect.TypeFor[*LayerSpec]():
				at = fmt.Sprint("layer ", i)
			case reflect.TypeFor[Sublayer](), reflect.TypeFor[Body]():
			default:
				at = fmt.Sprintf("%s[%d]", path, i)
			}
			if what := difference(a.Index(i), b.Index(i), at); what != "" {
				return what
			}
		}
		return ""
	case isGELU(a.Interface()) && isGELU(b.Interface()):
		return ""
	case (a.Kind() == reflect.Pointer || a.Kind() == reflect.Interface) && a.Type() == b.Type() && !a.IsNil() && !b.IsNil():
		return difference(a.Elem(), b.Elem(), path)
	}
	return fmt.Sprintf("%s %v instead of %v", path, named(b.Interface()), named(a.Interface()))
}

func isGELU(v any) bool { return v == kernels.GELU || v == kernels.GELUTanh }

// named is the name of what has one in config.json, else v.
func named(v any) any {
	switch v := v.(type) {
	case kernels.ActKind:
		return actNames[v]
	case Body:
		return partName(v)
	}
	return v
}

// partName is what a kind of part is called.
func partName(b Body) string {
	switch b.(type) {
	case *Attention, *MLA, *Compressed, *Cross:
		return "attention"
	case *MLP:
		return "a feed-forward part"
	case *MoE:
		return "experts"
	}
	return "another kind of part"
}

// sizeLabel is the number of weights as GGUF files state it: of experts, their
// number and what a model with one of them would have.
func (s *Spec) sizeLabel() string {
	m := s.moe()
	if m == nil {
		return humanCount(s.Params())
	}
	list, err := s.Rules()
	if err != nil {
		panic(err)
	}
	n := s.Params()
	for i := range list {
		if r := &list[i]; r.Experts > 0 { // biases of experts count as they are
			n -= int64(r.Len()) / int64(m.E) * int64(m.E-1)
		}
	}
	return fmt.Sprintf("%dx%s", m.E, humanCount(n))
}

func humanCount(n int64) string {
	switch f := float64(n); {
	case f >= 1e9:
		return fmt.Sprintf("%.1fB", f/1e9)
	case f >= 1e6:
		return fmt.Sprintf("%.0fM", f/1e6)
	default:
		return fmt.Sprintf("%.0fK", f/1e3)
	}
}

// ConfigJSON is config.json for a folder with this model: the source's own
// with set applied, or one made from the Spec when the source is a GGUF. Keys
// of set with a nil value are removed.
func (s *Source) ConfigJSON(set map[string]any) ([]byte, error) {
	var keys []string
	vals := map[string]json.RawMessage{}
	put := func(k string, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, ok := vals[k]; !ok {
			keys = append(keys, k)
		}
		vals[k] = raw
		return nil
	}
	if data := s.Reader.Config(); data != nil {
		c, err := parseConfig(data)
		if err != nil {
			return nil, err
		}
		vals, keys = c.raw, slices.Sorted(maps.Keys(c.raw))
		if s.untied {
			if err := put("tie_word_embeddings", false); err != nil {
				return nil, err
			}
		}
		if s.bare != "" { // written with a head
			if err := put("architectures", []string{bareClass(s.bare, c.String("", "model_type"))}); err != nil {
				return nil, err
			}
		}
		if s.grown {
			if err := s.putVocab(c, put); err != nil {
				return nil, err
			}
		}
	} else {
		if s.arch.Config == nil {
			return nil, fail.Inputf(s.Reader.Path(), "write a GGUF instead", "config.json of a model of architecture %s cannot be made of what a GGUF says", s.arch.Name)
		}
		if len(s.Spec.Ropes) > 0 {
			if err := s.Spec.rope().checkConfig(s.Reader.Path(), s.Spec.rotatable(), s.arch.PartRotates); err != nil {
				return nil, err
			}
		}
		for _, kv := range s.arch.Config(&s.Spec) {
			if err := put(kv.Key, kv.Value); err != nil {
				return nil, err
			}
		}
		if what := s.arch.unsaid(&s.Spec, vals); what != "" {
			return nil, fail.Inputf(s.Reader.Path(), "write a GGUF instead", "config.json of a model of architecture %s cannot state this model: it would be read with %s", s.arch.Name, what)
		}
	}
	if s.Spec.Reward {
		own, err := s.rewardConfig()
		if err != nil {
			return nil, err
		}
		maps.Copy(own, set)
		set = own
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if set[k] == nil {
			delete(vals, k)
			keys = slices.DeleteFunc(keys, func(x string) bool { return x == k })
		} else if err := put(k, set[k]); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	b.WriteString("{")
	for i, k := range keys {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n  %q: ", k)
		if err := json.Indent(&b, vals[k], "  ", "  "); err != nil {
			return nil, err
		}
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}

// putVocab states the number of tokens where c does: of a larger model in what it says of
// the half that reads text, and beside it where that is said twice.
func (s *Source) putVocab(c *Config, put func(string, any) error) error {
	const key, inner = "vocab_size", "text_config"
	text, ok := get[map[string]json.RawMessage](c, inner)
	if ok {
		text[key] = json.RawMessage(strconv.Itoa(s.Spec.V))
		if err := put(inner, text); err != nil || !c.has(key) {
			return err
		}
	}
	return put(key, s.Spec.V)
}
