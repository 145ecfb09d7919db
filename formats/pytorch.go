package formats

import (
	"errors"
	"fmt"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/torch"
)

// stOfTorch is safetensors' name of torch's types. One that is not here can be
// listed, and not read.
var stOfTorch = map[string]string{
	"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
	"uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
	"float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}

// pytorch reads the header of a checkpoint of PyTorch: its arrays in the order of
// the dictionary, and the entries that are no tensors.
func pytorch(s *source) ([]array, []string, error) {
	if err := s.absent(); err != nil {
		return nil, nil, err
	}
	tensors, skipped, err := torch.Read(s.r, s.size)
	if err != nil {
		var no *torch.Unsupported
		var done *fail.Error
		switch {
		case errors.As(err, &no):
			return nil, nil, unsupported(s.path, no.Hint, "%w", err)
		case errors.As(err, &done):
			return nil, nil, err
		}
		return nil, nil, corrupt(s.path, "%v", err)
	}
	out := make([]array, len(tensors))
	for i := range tensors {
		t := &tensors[i]
		a := array{name: t.Name, dtype: stOfTorch[t.DType], shape: t.Shape, off: t.Off, size: t.Elements() * t.Width, src: s}
		if a.dtype == "" {
			a.dtype = t.DType
		}
		if !t.Contiguous() {
			a.stride = t.Stride
		}
		out[i] = a
	}
	for i, name := range skipped {
		skipped[i] = fmt.Sprintf("%s: %s is no tensor and is left out", s.name, quote(name))
	}
	return out, skipped, nil
}

// readPickle reads all tensors of one checkpoint.
func readPickle(path string) ([]NamedTensor, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer s.close()
	arrays, _, err := pytorch(s)
	if err != nil {
		return nil, err
	}
	out := make([]NamedTensor, len(arrays))
	for i := range arrays {
		a := &arrays[i]
		out[i] = NamedTensor{Name: a.name, DType: a.dtype, Shape: a.shape}
		if out[i].Data, err = a.read(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// read returns the values of a stored array, one after another.
func (p *Part) read() ([]byte, error) {
	if p.stride == nil {
		return p.src.read(p.Off, p.Len)
	}
	t := Tensor{Shape: p.Shape}
	return p.gather(0, t.Rows())
}

// gather reads rows of an array whose values do not lie in row-major order: a
// transpose, or a part of something larger. torch.Read has checked that they lie
// in the file.
func (p *Part) gather(row0, rows int) (out []byte, err error) {
	defer CatchFaults(&err)()
	t := Tensor{Shape: p.Shape}
	cols, last := t.Cols(), len(p.Shape)-1
	out = make([]byte, 0, int64(rows)*(p.Len/max(int64(t.Rows()), 1)))
	if p.Len == 0 || rows == 0 {
		return out, nil
	}
	width := p.Len / t.Elements()
	step := p.stride[last] * width
	for r := row0; r < row0+rows; r++ {
		off := p.Off
		for i, rest := last-1, int64(r); i >= 0; i-- {
			off += rest % p.Shape[i] * p.stride[i] * width
			rest /= p.Shape[i]
		}
		span := int64(cols-1)*step + width
		from, ok := p.src.bytes(off, span)
		if !ok {
			if from, err = p.src.read(off, span); err != nil {
				return nil, err
			}
		}
		for c := range int64(cols) {
			out = append(out, from[c*step:c*step+width]...)
		}
	}
	return out, nil
}

// storageBytes are the bytes that arrays take in their files, shared ones once.
func storageBytes(arrays []array) int64 {
	type place struct {
		src *source
		off int64
	}
	most := map[place]int64{}
	var n int64
	for i := range arrays {
		a := &arrays[i]
		at := place{a.src, a.off}
		if had := most[at]; a.size > had {
			n, most[at] = n+a.size-had, a.size
		}
	}
	return n
}
