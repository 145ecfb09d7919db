package model

import (
	"encoding/binary"
	"encoding/json"
	"os"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/dtype"
)

func readST(path string) ([]formats.NamedTensor, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(b)
	var h map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &h); err != nil {
		return nil, err
	}
	var out []formats.NamedTensor
	for k, v := range h {
		if k == "__metadata__" {
			continue
		}
		var e struct {
			DType   string  `json:"dtype"`
			Shape   []int64 `json:"shape"`
			Offsets []int   `json:"data_offsets"`
		}
		if err := json.Unmarshal(v, &e); err != nil {
			return nil, err
		}
		out = append(out, formats.NamedTensor{Name: k, DType: e.DType, Shape: e.Shape, Data: b[8+int(n)+e.Offsets[0] : 8+int(n)+e.Offsets[1]]})
	}
	return out, nil
}

type memReader struct {
	config  []byte
	tensors []formats.Tensor
	data    map[string][]byte
}

func newReader(dir string) (*memReader, error) {
	l, err := readST(dir + "/model.safetensors")
	r := &memReader{data: map[string][]byte{}}
	for _, a := range l {
		k, _ := dtype.FromSafetensors(a.DType)
		r.tensors = append(r.tensors, formats.Tensor{Name: a.Name, Shape: a.Shape, Type: dtype.Of(k)})
		r.data[a.Name] = a.Data
	}
	return r, err
}
func (r *memReader) Path() string                                               { return "mem" }
func (r *memReader) Format() string                                             { return "hf" }
func (r *memReader) Config() []byte                                             { return r.config }
func (r *memReader) KV() []formats.KV                                           { return nil }
func (r *memReader) File(string) ([]byte, bool)                                 { return nil, false }
func (r *memReader) Tensors() []formats.Tensor                                  { return r.tensors }
func (r *memReader) Read(t *formats.Tensor) ([]byte, error)                     { return r.data[t.Name], nil }
func (r *memReader) ReadRows(t *formats.Tensor, row0, rows int) ([]byte, error) { panic(1) }
func (r *memReader) Map(t *formats.Tensor) ([]byte, bool)                       { return nil, false }
func (r *memReader) Warnings() []string                                         { return nil }
func (r *memReader) Close() error                                               { return nil }
