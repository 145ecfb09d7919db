package gguf

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// openInput opens a GGUF of any architecture, or a folder of one that
// package arch knows.
func openInput(path string, o *Options) (*input, error) {
	r, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	var in *input
	if r.Format() == "gguf" {
		in, err = openGGUF(r)
	} else {
		in, err = openFolder(r, o)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	in.close, in.tokenizer = r.Close, tokenizer.Memory(r)
	return in, nil
}

func openGGUF(r formats.Reader) (*input, error) {
	in := &input{kv: r.KV(), stored: map[string]dtype.Type{}, packed: map[string]packed{}, model: factsOf(r.KV())}
	byName := map[string]*formats.Tensor{}
	tensors := r.Tensors()
	for i := range tensors {
		t := &tensors[i]
		if t.Unsupported != "" {
			return nil, fail.Inputf(r.Path(), "start from the float model", "tensor %s is %s, which cannot be read", t.Name, t.Unsupported)
		}
		byName[t.Name] = t
		if apart := t.Apart(); apart != nil {
			in.packed[t.Name] = packed{dtype.NVFP4, func() ([]byte, error) { return bytesOf(r, &apart[0]) }}
			for i := range apart {
				in.addStored(r, &apart[i], t.Name)
				if i > 0 {
					byName[apart[i].Name] = &apart[i]
				}
			}
			continue
		}
		in.addStored(r, t, "")
	}
	in.read = func(name string) ([]byte, dtype.Type, error) {
		t := byName[name]
		if t.Type.ScaledFloat() {
			b, err := floatsOf(r, t)
			return b, asFloats(t.Type), err
		}
		b, err := bytesOf(r, t)
		return b, t.Type, err
	}
	return in, nil
}

// addStored makes t, as it lies in a GGUF, a tensor of the input. It is a number beside weight where
// that is another tensor's name.
func (in *input) addStored(r formats.Reader, t *formats.Tensor, weight string) {
	m := MixTensor{Name: t.Name, Shape: t.Shape, Type: t.Type}
	if weight != t.Name {
		m.beside = weight
	}
	if _, first, _, ok := formats.SplitOf(r.Path()); ok && first == 0 {
		_, m.part, _, _ = formats.SplitOf(t.Parts[0].File)
	}
	in.stored[t.Name] = t.Type
	in.tensors = append(in.tensors, m)
}

// bytesOf are those of t, mapped where that is possible.
func bytesOf(r formats.Reader, t *formats.Tensor) ([]byte, error) {
	if b, ok := r.Map(t); ok {
		return b, nil
	}
	return r.Read(t)
}

// factsOf reads what the mix asks for from the metadata of a GGUF.
func factsOf(kv []formats.KV) MixModel {
	var m MixModel
	for _, e := range kv {
		if e.Key == "general.architecture" {
			m.Arch, _ = e.Value.(string)
		}
	}
	m.KVHeads = -1
	for _, e := range kv {
		switch strings.TrimPrefix(e.Key, m.Arch+".") {
		case "block_count":
			m.Layers = intOf(e.Value)
		case "attention.head_count":
			m.Heads = intOf(e.Value)
		case "attention.head_count_kv":
			m.KVHeads = intOf(e.Value)
		case "expert_count":
			m.Experts = intOf(e.Value)
		}
	}
	if m.KVHeads < 0 {
		m.KVHeads = m.Heads
	}
	return m
}

// openFolder presents a Hugging Face model as the GGUF that a conversion makes
// of it.
func openFolder(r formats.Reader, o *Options) (*input, error) {
	s, err := arch.FromReader(r)
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.Open(r)
	if err != nil {
		return nil, err
	}
	keys, err := tok.GGUFKeysFor(s.Spec.V)
	if err != nil {
		return nil, err
	}
	f, err := ParseFileType(o.Type)
	if err != nil {
		return nil, err
	}
	name := o.Name
	if name == "" {
		name = baseName(r.Path())
	}
	in := &input{folder: true, stored: map[string]dtype.Type{}, small: map[string]dtype.Type{}, smallNote: s.DecodedNote(), packed: map[string]packed{}, leftOut: strings.Join(slices.DeleteFunc([]string{s.ConfigNote(), s.CarriedNote(true), tok.GGUFNote(), s.LlamaCppNote()}, func(s string) bool { return s == "" }), "; ")}
	if in.kv, err = arch.GGUFKeys(&s.Spec, name, 0, keys); err != nil {
		return nil, err
	}
	in.model = factsOf(in.kv)
	pieces, numbers := map[string]arch.FileTensor{}, map[string][]byte{}
	in.tensors = mixTensors(s, f)
	for _, t := range s.Tensors() {
		for _, f := range t.AsGGUF() {
			if err := in.pack(s, f, numbers); err != nil {
				return nil, err
			}
			if f.Type.ScaledFloat() || t.Rounds() {
				in.small[f.Name] = f.Type
			}
			f.Type = asFloats(f.Type)
			in.stored[f.Name] = f.Type
			if n := len(f.Shape); n > 1 && !arch.Movable(f.Type, int(f.Shape[n-1])) { // its rows may have another order in a GGUF
				f.Type = dtype.Of(dtype.F32)
			}
			pieces[f.Name] = f
		}
	}
	in.read = func(n string) ([]byte, dtype.Type, error) {
		if b, ok := numbers[n]; ok {
			return b, dtype.Of(dtype.F32), nil
		}
		m, err := s.ReadAs(pieces[n])
		return m.Data, m.Type, err
	}
	in.first, in.values = s.Spec.GGUFTables()
	return in, nil
}

// asFloats is t, of small floats with scales, which no GGUF has, what holds their values.
func asFloats(t dtype.Type) dtype.Type {
	if t.ScaledFloat() {
		return dtype.Of(dtype.F32)
	}
	return t
}

// floatsOf are the values of t as F32.
func floatsOf(r formats.Reader, t *formats.Tensor) ([]byte, error) {
	b, err := r.Read(t)
	if err != nil {
		return nil, err
	}
	x := make([]float32, t.Elements())
	block.DecodeAll(x, block.Raw{Type: t.Type, Rows: t.Rows(), Cols: t.Cols(), Data: b})
	return kernels.Bytes(x), nil
}

// mixTensors are the tensors of a model as a conversion to GGUF gives them that is to
// become a file of type f: those that every file has in F32, and everything else as
// it is or, where f is a float type, of that one.
func mixTensors(src *arch.Source, f FileType) []MixTensor {
	var out []MixTensor
	for _, t := range src.Tensors() {
		for _, x := range t.AsGGUF() {
			m := MixTensor{Name: x.Name, Shape: x.Shape, Type: asFloats(x.Type), exact: t.Exact()}
			if k, ok := packedAs(x); ok && f.Name == "COPY" {
				m.Type = dtype.Of(k)
			}
			switch {
			case m.exact: // of a folder with quantized routers, too
				m.Type = dtype.Of(dtype.F32)
			case m.Type.Quantized():
			case f.float():
				m.Type = dtype.Of(f.Default)
			}
			out = append(out, m)
		}
	}
	return out
}
