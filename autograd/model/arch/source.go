package arch

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Source reads a model's tensors by their Hugging Face names and in Hugging
// Face orientation, whatever file they lie in.
type Source struct {
	Spec   Spec
	Reader formats.Reader

	arch  *Arch
	rules []TensorRule
	at    map[string]entry
}

type entry struct {
	rule   *TensorRule
	tensor *formats.Tensor
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
	s := &Source{Reader: r, at: map[string]entry{}}
	var err error
	if r.Format() == "gguf" {
		err = s.readGGUF()
	} else {
		err = s.readConfig()
	}
	if err == nil {
		err = s.Spec.check()
	}
	if err != nil {
		return nil, fail.Inputf(r.Path(), "", "%w", wrapCorrupt(err))
	}
	s.rules = s.arch.Rules(&s.Spec)
	return s, s.bind()
}

// wrapCorrupt marks err as the file's fault unless it already says more.
func wrapCorrupt(err error) error { return fmt.Errorf("%w: %w", formats.ErrCorrupt, err) }

func (s *Source) readConfig() error {
	data := s.Reader.Config()
	if data == nil {
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
	if s.arch = byHF(class, model); s.arch == nil {
		return fmt.Errorf("config.json: architecture %q (model_type %q) is not supported; known: %s", class, model, known())
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
	if s.arch = byGGUF(name); s.arch == nil {
		return fmt.Errorf("general.architecture %q is not supported; known: %s", name, known())
	}
	m := newMetadata(name, kvs)
	tensors := s.Reader.Tensors()
	for i := range tensors {
		t := &tensors[i]
		m.shapes[t.Name] = t.Shape
		if t.Name == "rope_freqs.weight" {
			f, err := floats(s.Reader, t)
			if err != nil {
				return err
			}
			m.freqs = f
		}
	}
	var err error
	s.Spec, err = s.arch.GGUFSpec(m)
	return err
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
	return strings.HasSuffix(name, "rotary_emb.inv_freq") || name == "rope_freqs.weight" ||
		strings.HasSuffix(name, ".attention.masked_bias")
}

// bind pairs rules with tensors: everything the rules ask for must be there
// with its shape, and every tensor of the file must be asked for.
func (s *Source) bind() error {
	gguf := s.Reader.Format() == "gguf"
	files := map[string]*formats.Tensor{}
	tensors := s.Reader.Tensors()
	for i := range tensors {
		files[tensors[i].Name] = &tensors[i]
	}
	where := s.Reader.Path()
	for i := range s.rules {
		r := &s.rules[i]
		name := r.HF
		if gguf {
			name = r.GGUF
		}
		t, ok := files[name]
		if !ok && !gguf {
			t, ok = files[strings.TrimPrefix(name, "model.")] // saved without the head
		}
		if !ok {
			if r.Optional {
				continue
			}
			return fail.Inputf(where, "the file is incomplete or its config belongs to another model", "%w", wrapCorrupt(fmt.Errorf("tensor %s is missing", name)))
		}
		if err := r.matches(t); err != nil {
			return fail.Inputf(where, "the config does not describe these weights", "%w", wrapCorrupt(err))
		}
		s.at[r.HF] = entry{r, t}
		delete(files, t.Name)
	}
	if t, ok := files["lm_head.weight"]; ok && s.Spec.Tied { // a copy of the embedding
		if !slices.Equal(t.Shape, []int64{int64(s.Spec.V), int64(s.Spec.C)}) {
			return fail.Inputf(where, "", "%w", wrapCorrupt(fmt.Errorf("lm_head.weight is %v beside a tied embedding", t.Shape)))
		}
		delete(files, "lm_head.weight")
	}
	for name := range files {
		if !ignorable(name) {
			return fail.Inputf(where, "this checkpoint has parts that its architecture does not know; converting it would lose them", "tensor %s has no place in %s", smallest(files), s.arch.Name)
		}
	}
	return nil
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

func (r *TensorRule) shape() []int64 {
	if r.Cols == 0 {
		return []int64{int64(r.Rows)}
	}
	return []int64{int64(r.Rows), int64(r.Cols)}
}

func (r *TensorRule) matches(t *formats.Tensor) error {
	if !slices.Equal(t.Shape, r.shape()) {
		return fmt.Errorf("tensor %s is %v, want %v", t.Name, t.Shape, r.shape())
	}
	return nil
}

// Names lists the tensors present, in the order of the architecture's rules.
func (s *Source) Names() []string {
	var out []string
	for _, r := range s.rules {
		if s.Has(r.HF) {
			out = append(out, r.HF)
		}
	}
	return out
}

// Has reports whether the model has the tensor.
func (s *Source) Has(name string) bool { _, ok := s.at[name]; return ok }

// Shape is [rows, cols], or [n] for a vector; nil when there is no such tensor.
func (s *Source) Shape(name string) []int {
	e, ok := s.at[name]
	if !ok {
		return nil
	}
	if e.rule.Cols == 0 {
		return []int{e.rule.Rows}
	}
	return []int{e.rule.Rows, e.rule.Cols}
}

// Type is the storage type of a tensor that is present.
func (s *Source) Type(name string) dtype.Type { return s.at[name].tensor.Type }

// Read returns a tensor's bytes in the layout of dtype.Planes and in Hugging
// Face orientation. borrow says that they are part of the mapped file: valid
// until Close, and not to be written to.
func (s *Source) Read(name string) (data []byte, borrow bool, err error) {
	e, ok := s.at[name]
	if !ok {
		return nil, false, fail.Inputf(s.Reader.Path(), "", "tensor %s is missing", name)
	}
	if data, ok = s.Reader.Map(e.tensor); ok {
		borrow = true
	} else if data, err = s.Reader.Read(e.tensor); err != nil {
		return nil, false, err
	}
	if e.rule.Op == PermuteRope && s.Reader.Format() == "gguf" {
		data, err = permuteRows(data, e.tensor.Type, e.rule, false)
		return data, false, err
	}
	return data, borrow, nil
}

// Forget lets go of the memory that holds a tensor's mapped bytes, which stay
// valid; see formats.
func (s *Source) Forget(name string) {
	r, ok := s.Reader.(interface{ Forget(*formats.Tensor) })
	if e, has := s.at[name]; ok && has {
		r.Forget(e.tensor)
	}
}

// Architecture is the name of the table entry, e.g. "llama".
func (s *Source) Architecture() string { return s.arch.Name }

// Close releases the file; borrowed bytes become invalid.
func (s *Source) Close() error { return s.Reader.Close() }

// permuteRows reorders the rows of each head between Hugging Face order (first
// half, second half) and GGUF order (pairs adjacent). The result is a copy.
func permuteRows(data []byte, t dtype.Type, r *TensorRule, toGGUF bool) ([]byte, error) {
	cols := max(r.Cols, 1)
	for i, p := range dtype.Planes(t, r.Rows, cols) {
		if i != dtype.Codes && p.Len > 0 {
			return nil, fmt.Errorf("%s: rows of %v cannot be reordered", r.HF, t)
		}
	}
	rowBytes := len(data) / r.Rows
	d := r.Rows / r.Heads
	out := make([]byte, len(data))
	for h := range r.Heads {
		for i := range d / 2 {
			for half := range 2 {
				hf, gg := h*d+half*(d/2)+i, h*d+2*i+half
				from, to := gg, hf
				if toGGUF {
					from, to = hf, gg
				}
				copy(out[to*rowBytes:(to+1)*rowBytes], data[from*rowBytes:])
			}
		}
	}
	return out, nil
}
