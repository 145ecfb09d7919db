package formats

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// NamedTensor is one array for WriteSafetensors, and of ReadSafetensors.
type NamedTensor struct {
	Name  string
	DType string // safetensors' name: "F32", "BF16", "I64", …
	Shape []int64
	Data  []byte
}

// ReadSafetensors reads all arrays of one file, in file order, and its
// __metadata__.
func ReadSafetensors(path string) ([]NamedTensor, map[string]string, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	arrays, kv, err := safetensors(s)
	if err != nil {
		return nil, nil, err
	}
	out := make([]NamedTensor, len(arrays))
	for i := range arrays {
		a := &arrays[i]
		out[i] = NamedTensor{Name: a.name, DType: a.dtype, Shape: a.shape}
		if out[i].Data, err = a.read(); err != nil {
			return nil, nil, err
		}
	}
	meta := map[string]string{}
	for _, e := range kv {
		meta[e.Key] = e.Value.(string)
	}
	return out, meta, nil
}

// WriteSafetensors writes one file atomically. The order of tensors in the file
// is the reference library's: larger elements first, then by name.
func WriteSafetensors(path string, tensors []NamedTensor, meta map[string]string) error {
	slots := make([]slot, len(tensors))
	data := map[string][]byte{}
	for i, t := range tensors {
		slots[i] = slot{name: t.Name, dtype: t.DType, shape: t.Shape}
		n, err := slots[i].bytes()
		if err != nil {
			return fail.Inputf(path, "", "tensor %s: %w", quote(t.Name), err)
		}
		if n != int64(len(t.Data)) {
			return fail.Inputf(path, "", "tensor %s: shape %v of %s takes %d bytes, got %d", quote(t.Name), t.Shape, t.DType, n, len(t.Data))
		}
		slots[i].size = n
		if _, dup := data[t.Name]; dup {
			return fail.Inputf(path, "", "tensor %s is given twice", quote(t.Name))
		}
		data[t.Name] = t.Data
	}
	header, size, err := stLayout(slots, meta)
	if err != nil {
		return fail.Inputf(path, "", "%w", err)
	}
	w, err := atomic.CreateSized(path, size)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, s := range slots {
		if _, err := w.Write(data[s.name]); err != nil {
			return err
		}
	}
	return w.Commit()
}

// slot is one array to be stored.
type slot struct {
	role  string // of its weight, see parts
	name  string
	dtype string
	shape []int64
	size  int64
	file  int   // of the writer's plan
	off   int64 // in the file
}

// bytes is the size shape and dtype ask for.
func (s *slot) bytes() (int64, error) {
	width, ok := stBits[s.dtype]
	n, ok2 := product(s.shape)
	if !ok || !ok2 || n > 1<<58 || n*width%8 != 0 {
		return 0, fmt.Errorf("shape %v of %s cannot be stored", s.shape, quote(s.dtype))
	}
	return n * width / 8, nil
}

// stOrder is the reference library's order of dtypes: by alignment.
var stOrder = []string{"BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
	"I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"}

// stLayout orders slots as they will lie in a file, sets their offsets, and
// returns the file's beginning and size.
func stLayout(slots []slot, meta map[string]string) ([]byte, int64, error) {
	slices.SortFunc(slots, func(a, b slot) int {
		return cmp.Or(cmp.Compare(slices.Index(stOrder, b.dtype), slices.Index(stOrder, a.dtype)), strings.Compare(a.name, b.name))
	})
	o := object{}
	if len(meta) > 0 {
		m := object{}
		for _, k := range slices.Sorted(maps.Keys(meta)) {
			m = append(m, member{k, meta[k]})
		}
		o = append(o, member{"__metadata__", m})
	}
	at := int64(0)
	for _, s := range slots {
		shape := s.shape
		if shape == nil {
			shape = []int64{}
		}
		o = append(o, member{s.name, object{{"dtype", s.dtype}, {"shape", shape}, {"data_offsets", []int64{at, at + s.size}}}})
		at += s.size
	}
	text, err := o.MarshalJSON()
	if err != nil {
		return nil, 0, err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	if len(text) > maxHeader {
		return nil, 0, fmt.Errorf("the header takes %d bytes, the format allows %d", len(text), maxHeader)
	}
	header := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	off := int64(len(header))
	for i := range slots {
		slots[i].off = off
		off += slots[i].size
	}
	return header, off, nil
}
