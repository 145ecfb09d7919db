package formats

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// maxHeader is the header limit of the reference implementation.
const maxHeader = 100_000_000

// stBits is the width of every element type of safetensors.
var stBits = map[string]int64{
	"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
	"C64": 64, "F64": 64, "I64": 64, "U64": 64,
}

// array is one entry of a safetensors header, or a tensor of PyTorch's; off is from
// the start of the file.
type array struct {
	name   string
	dtype  string
	shape  []int64
	off    int64
	size   int64
	stride []int64 // in values, nil where they lie in row-major order
	src    *source
}

// part describes the whole array.
func (a *array) part() Part {
	return Part{Name: a.name, DType: a.dtype, Shape: a.shape, File: a.src.name, Off: a.off, Len: a.size, stride: a.stride, src: a.src}
}

// read returns the array's bytes.
func (a *array) read() ([]byte, error) { p := a.part(); return p.read() }

// tensor makes a plain logical tensor of the array.
func (a *array) tensor() Tensor {
	t := Tensor{Name: a.name, Shape: a.shape, Parts: []Part{a.part()}}
	k, ok := dtype.FromSafetensors(a.dtype)
	if !ok {
		t.Unsupported = a.dtype
	}
	t.Type = dtype.Of(k)
	return t
}

// safetensors reads the header of s: its arrays by offset and its metadata.
func safetensors(s *source) ([]array, []KV, error) {
	header, base, err := stHeader(s)
	if err != nil {
		return nil, nil, err
	}
	p := &jsonParser{where: s.path, s: string(header)}
	out := make([]array, 0, bytes.Count(header, []byte(`"data_offsets"`)))
	var meta []KV
	err = p.object(func(key string) error {
		if key == "__metadata__" {
			return p.object(func(k string) error {
				v, err := p.str()
				meta = append(meta, KV{k, v})
				return err
			})
		}
		a, err := p.array1(key, base, s)
		out = append(out, a)
		return err
	})
	if err == nil {
		err = p.end()
	}
	if err == nil {
		err = contiguous(out, base, s)
	}
	return out, meta, err
}

// stHeader returns the JSON text and where the data begins.
func stHeader(s *source) ([]byte, int64, error) {
	n, err := stLength(s)
	if err != nil {
		return nil, 0, err
	}
	header, err := s.read(8, n)
	return header, 8 + n, err
}

// stLength is the length of the JSON text.
func stLength(s *source) (int64, error) {
	if s.size < 8 {
		return 0, corrupt(s.path, "safetensors header: %d bytes are too few for its length field of 8", s.size)
	}
	b, err := s.read(0, 8)
	if err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint64(b)
	switch {
	case n > uint64(s.size-8):
		if magic := foreignMagic(b); magic != "" {
			return 0, unsupported(s.path, "convert it to safetensors first", "this is %s, not safetensors", magic)
		}
		return 0, corrupt(s.path, "safetensors header length @0: %d, but only %d bytes follow", n, s.size-8)
	case n > maxHeader:
		return 0, tooBig(s.path, "safetensors header length @0: %d, allowed are %d", n, maxHeader)
	case n < 2:
		return 0, corrupt(s.path, "safetensors header length @0: %d is too few for {}", n)
	}
	return int64(n), nil
}

// foreignMagic names formats that users rename to .safetensors.
func foreignMagic(b []byte) string {
	for _, f := range []struct{ magic, what string }{
		{"PK\x03\x04", "a zip archive (PyTorch writes such: call it .bin)"},
		{"\x80\x02", "a pickle"}, {"\x80\x03", "a pickle"}, {"\x80\x04", "a pickle"}, {"\x80\x05", "a pickle"},
		{"\x89HDF", "an HDF5 file"}, {"GGUF", "a GGUF file"}, {"PAR1", "a Parquet file"}, {"\x1f\x8b", "gzip data"},
		{"version ", "a Git LFS pointer, not the file itself"},
	} {
		if bytes.HasPrefix(b, []byte(f.magic)) {
			return f.what
		}
	}
	return ""
}

// array1 reads the value of one tensor.
func (p *jsonParser) array1(name string, base int64, s *source) (array, error) {
	a := array{name: name, src: s}
	var begin, end int64
	var have [3]bool
	err := p.object(func(key string) (err error) {
		switch key {
		case "dtype":
			have[0] = true
			a.dtype, err = p.str()
		case "shape":
			have[1] = true
			a.shape, err = p.sizes(32)
		case "data_offsets":
			have[2] = true
			var o []int64
			o, err = p.sizes(2)
			if err == nil && len(o) != 2 {
				err = p.errorf("tensor %s: data_offsets has %d items, not 2", quote(name), len(o))
			} else if err == nil {
				begin, end = o[0], o[1]
			}
		default:
			err = p.skip()
		}
		return err
	})
	if err != nil {
		return a, err
	}
	if have != [3]bool{true, true, true} {
		return a, p.errorf("tensor %s needs dtype, shape and data_offsets", quote(name))
	}
	if begin > end || !inside(begin, end-begin, s.size-base) {
		return a, corrupt(s.path, "tensor %s: data_offsets [%d, %d] lie outside the %d bytes of data", quote(name), begin, end, s.size-base)
	}
	a.off, a.size = base+begin, end-begin
	return a, a.checkSize()
}

// sizes reads an array of at most limit sizes.
func (p *jsonParser) sizes(limit int) ([]int64, error) {
	out := []int64{}
	err := p.array(func(i int) error {
		if i >= limit {
			return p.errorf("more than %d items", limit)
		}
		v, err := p.size()
		out = append(out, v)
		return err
	})
	return out, err
}

// checkSize compares shape and dtype with the stored size.
func (a *array) checkSize() error {
	width, ok := stBits[a.dtype]
	if !ok {
		return unsupported(a.src.path, "safetensors has F32, F16, BF16, F64, F8_*, I8…I64, U8…U64, BOOL and a few more",
			"tensor %s: unknown dtype %s", quote(a.name), quote(a.dtype))
	}
	n, ok := product(a.shape)
	if !ok {
		return corrupt(a.src.path, "tensor %s: the product of shape %v overflows", quote(a.name), a.shape)
	}
	hi, lo := bits.Mul64(uint64(n), uint64(width))
	if hi != 0 || lo%8 != 0 || lo/8 != uint64(a.size) {
		return corrupt(a.src.path, "tensor %s: shape %v of %s does not take the %d bytes of its data_offsets", quote(a.name), a.shape, a.dtype, a.size)
	}
	return nil
}

// product multiplies dimensions; false when that exceeds 2^63-1, zeros left
// out: no part of a shape may overflow, even where the whole is empty.
func product(shape []int64) (int64, bool) {
	n, empty := uint64(1), false
	for _, d := range shape {
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if d < 0 || hi != 0 || lo > 1<<63-1 {
			return 0, false
		}
		n = lo
	}
	if empty {
		n = 0
	}
	return int64(n), true
}

// contiguous sorts arrays by offset and refuses holes, overlaps and bytes
// behind the last one: a safetensors file holds nothing else.
func contiguous(arrays []array, base int64, s *source) error {
	slices.SortStableFunc(arrays, func(a, b array) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size)) })
	at := base
	for i := range arrays {
		a := &arrays[i]
		if a.off != at {
			what := "a hole"
			if a.off < at {
				what = "an overlap"
			}
			return corrupt(s.path, "tensor %s: data_offsets begin at %d where %d is expected (%s)", quote(a.name), a.off-base, at-base, what)
		}
		at += a.size
	}
	if at != s.size {
		return corrupt(s.path, "%d bytes follow the last tensor", s.size-at)
	}
	return nil
}
