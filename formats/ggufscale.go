package formats

import (
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// What llama.cpp's converter writes beside an NVFP4 weight of ModelOpt or compressed-tensors:
// the number of the tensor, or of each expert, that multiplies its values, and the one
// that inputs were measured with, by which its CPU does not compute.
const (
	ggufScale      = ".scale"
	ggufInputScale = ".input_scale"
)

// withScales joins NVFP4 weights of a GGUF with the numbers beside them. Scales of other
// types stay what they are, for architectures that know such a tensor.
func withScales(path string, tensors []Tensor) ([]Tensor, error) {
	by := make(map[string]*Tensor, len(tensors))
	for i := range tensors {
		by[tensors[i].Name] = &tensors[i]
	}
	gone := map[*Tensor]bool{}
	for i := range tensors {
		t := &tensors[i]
		base, ok := strings.CutSuffix(t.Name, ".weight")
		if !ok || t.Type != dtype.Of(dtype.NVFP4) {
			continue
		}
		whole := *t
		if in := by[base+ggufInputScale]; in != nil {
			gone[in] = true
			t.apart = []Tensor{whole, *in}
			t.Unrounded = "NVFP4 (" + in.Name + ")"
		}
		s := by[base+ggufScale]
		if s == nil {
			continue
		}
		if n := s.Elements(); s.Type != dtype.Of(dtype.F32) || n == 0 || n != 1 && (len(t.Shape) < 3 || n != t.Shape[0]) {
			return nil, corrupt(path, "tensor %s: %v of shape %v, expected one F32, or one for each expert of %s %v", quote(s.Name), s.Type, s.Shape, quote(t.Name), t.Shape)
		}
		gone[s] = true
		t.apart = append([]Tensor{whole, *s}, t.apart[min(1, len(t.apart)):]...)
		t.Type = dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested}
		t.Parts = append(t.Parts, s.Parts...)
		t.load = loadScaled
	}
	if len(gone) == 0 {
		return tensors, nil
	}
	out := make([]Tensor, 0, len(tensors)-len(gone))
	for i := range tensors {
		if !gone[&tensors[i]] {
			out = append(out, tensors[i])
		}
	}
	return out, nil
}

// loadScaled moves the codes and scales of NVFP4 blocks to planes of their own.
func loadScaled(t *Tensor) ([]byte, error) {
	b, err := t.Parts[0].read()
	if err != nil {
		return nil, err
	}
	scale, err := t.Parts[1].read()
	if err != nil {
		return nil, err
	}
	m := block.New(t.Type, t.Rows(), t.Cols())
	codes, scales, rows := m.Plane(dtype.Codes), m.Plane(dtype.Scales), m.Plane(dtype.NestedScales)
	for i := range len(b) / 36 {
		block.SplitNVFP4(codes[32*i:32*i+32], scales[4*i:4*i+4], b[36*i:])
	}
	per := m.Rows / (len(scale) / 4) // rows of one expert
	for r := range m.Rows {
		copy(rows[4*r:4*r+4], scale[4*(r/max(per, 1)):])
	}
	return m.Data, nil
}

// Apart are the tensors that an NVFP4 weight of a GGUF was joined from, as the file has them: the
// blocks, and numbers beside them. nil: nothing was joined.
func (t *Tensor) Apart() []Tensor { return t.apart }

// Numbers are the number by which all values of an NVFP4 weight of a folder are multiplied, and
// the one that its inputs were measured with, both as ModelOpt and GGUF have them; 1 where there
// is none. They are not finite, or of another type, only in broken files.
func (t *Tensor) Numbers() (scale, input float32, err error) {
	scale, input = 1, 1
	for _, p := range t.Parts {
		of, inverse := &scale, false
		switch {
		case strings.HasSuffix(p.Name, scale2), strings.HasSuffix(p.Name, "_per_tensor_scale"):
		case strings.HasSuffix(p.Name, globalScale):
			inverse = true
		case strings.HasSuffix(p.Name, ggufInputScale):
			of = &input
		case strings.HasSuffix(p.Name, inputGlobal):
			of, inverse = &input, true
		default:
			continue
		}
		b, err := p.read()
		if err != nil {
			return 0, 0, err
		}
		v, ok := oneNumber(p.DType, b)
		if inverse {
			v = 1 / v
		}
		if !ok || v-v != 0 {
			return 0, 0, corrupt(p.src.path, "tensor %s: %s of shape %v, which is no finite number to multiply by", quote(p.Name), p.DType, p.Shape)
		}
		*of = v
	}
	return scale, input, nil
}
