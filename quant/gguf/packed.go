package gguf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// packed is a weight that a GGUF type holds as it is.
type packed struct {
	kind dtype.Kind
	read func() ([]byte, error) // its blocks
}

// keeps reports whether the tensor of c goes into the output without being decoded, though its
// source stores it as no GGUF does, or with numbers beside it.
func (in *input) keeps(c *Choice) bool {
	p, ok := in.packed[c.in()]
	return ok && c.To == dtype.Of(p.kind)
}

// decoded says which small floats with scales, and which matrices with rounded inputs, are
// decoded for choices; "" for none.
func (in *input) decoded(choices []Choice) string {
	n, types := 0, []string(nil)
	for i := range choices {
		t, ok := in.small[choices[i].in()]
		if !ok || in.keeps(&choices[i]) {
			continue
		}
		if n++; !slices.Contains(types, t.String()) {
			types = append(types, t.String())
		}
	}
	switch n {
	case 0:
		return ""
	case len(in.small):
		return in.smallNote
	}
	return fmt.Sprintf("%d matrices are stored as %s and are decoded: what is written is made of their values", n, strings.Join(types, ", "))
}

// bytes are the tensor of c in the source, and their type.
func (in *input) bytes(c *Choice) ([]byte, dtype.Type, error) {
	if in.keeps(c) {
		b, err := in.packed[c.in()].read()
		return b, c.To, err
	}
	return in.read(c.in())
}

// withNumbers leaves out numbers beside weights that are decoded: they are multiplied by.
func (in *input) withNumbers(choices []Choice) []Choice {
	kept := map[string]bool{}
	for i := range choices {
		if in.keeps(&choices[i]) {
			kept[choices[i].in()] = true
		}
	}
	return slices.DeleteFunc(choices, func(c Choice) bool { return c.beside != "" && !kept[c.beside] })
}

// packedAs is the GGUF type that has the codes and the scales of f's type.
func packedAs(f arch.FileTensor) (dtype.Kind, bool) {
	t, cols := f.Type, f.Shape[max(len(f.Shape)-1, 0):]
	switch {
	case len(f.Shape) < 2 || t.Kind != dtype.F4E2M1:
	case t.Group == 16 && t.Scale == dtype.F8E4M3:
		return dtype.NVFP4, cols[0]%64 == 0
	case t.Group == 32 && t.Scale == dtype.F8E8M0 && t.Flags == 0:
		return dtype.MXFP4, cols[0]%32 == 0
	}
	return 0, false
}

// pack notes that f can be written as it is, and the numbers beside it: the one that multiplies
// values, of each expert its own, and the one that inputs were measured with, where they are not 1.
// Matrices of parts with numbers of their own have none for all rows; they are decoded.
func (in *input) pack(s *arch.Source, f arch.FileTensor, numbers map[string][]byte) error {
	kind, ok := packedAs(f)
	if !ok {
		return nil
	}
	at := slices.IndexFunc(in.tensors, func(m MixTensor) bool { return m.Name == f.Name })
	if kind == dtype.NVFP4 {
		scale, err := perMatrix(s, f, func(t *formats.Tensor) (float32, error) { v, _, err := t.Numbers(); return v, err })
		if err != nil {
			return err
		}
		if scale == nil {
			if in.tensors[at].Type == dtype.Of(kind) { // copied
				in.tensors[at].Type = dtype.Of(dtype.F32)
			}
			return nil
		}
		input, err := perMatrix(s, f, func(t *formats.Tensor) (float32, error) { _, v, err := t.Numbers(); return v, err })
		if err != nil {
			return err
		}
		in.number(f.Name, ".scale", scale, numbers)
		in.number(f.Name, ".input_scale", input, numbers)
	}
	in.packed[f.Name] = packed{kind, func() ([]byte, error) {
		m, err := s.ReadAs(f)
		if err != nil {
			return nil, err
		}
		b, ok := blocks(kind, m)
		if !ok {
			return nil, fail.Inputf(f.Name, "check the model with tune verify", "a scale of the weight is not a number")
		}
		return b, nil
	}}
	return nil
}

// number adds a tensor with the numbers of a weight, where they are not all 1.
func (in *input) number(weight, suffix string, x []float32, numbers map[string][]byte) {
	if !slices.ContainsFunc(x, func(v float32) bool { return v != 1 }) {
		return
	}
	name := strings.TrimSuffix(weight, ".weight") + suffix
	in.tensors = append(in.tensors, MixTensor{Name: name, Shape: []int64{int64(len(x))}, Type: dtype.Of(dtype.F32), beside: weight})
	in.stored[name], numbers[name] = dtype.Of(dtype.F32), kernels.Bytes(x)
}

// perMatrix is the number of each matrix of f; nil where rows of one have several.
func perMatrix(s *arch.Source, f arch.FileTensor, of func(*formats.Tensor) (float32, error)) ([]float32, error) {
	rows, err := s.Numbers(f, of)
	if err != nil {
		return nil, err
	}
	var out []float32
	for m := range slices.Chunk(rows, max(len(rows)/max(f.Matrices(), 1), 1)) {
		if slices.ContainsFunc(m, func(v float32) bool { return v != m[0] }) {
			return nil, nil
		}
		out = append(out, m[0])
	}
	return out, nil
}

// blocks are the codes and scales of m in blocks of a GGUF type, which has no others; false: a scale is no number.
func blocks(kind dtype.Kind, m block.Raw) ([]byte, bool) {
	codes, scales := m.Plane(dtype.Codes), m.Plane(dtype.Scales)
	in := kind.Info()
	out := make([]byte, dtype.Size(dtype.Of(kind), m.Rows, m.Cols))
	ok := true
	for i := range len(out) / in.Bytes {
		if b := out[i*in.Bytes:][:in.Bytes]; kind == dtype.NVFP4 {
			ok = block.JoinNVFP4(b, codes[32*i:32*i+32], scales[4*i:4*i+4]) && ok
		} else {
			ok = block.JoinMXFP4(b, codes[16*i:16*i+16], scales[i]) && ok
		}
	}
	return out, ok
}
