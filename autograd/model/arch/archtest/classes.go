package archtest

import (
	"encoding/json"
	"hash/fnv"
	"os"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
)

// Class is what Transformers and PEFT compute of a tiny model whose weights follow from
// their names, of a class without a folder in golden/arch (testdata/classes.py of package arch).
type Class struct {
	Config  json.RawMessage
	Tensors map[string][]int64 // of the folder, with one of each other part of a larger model
	Source  []int32            // what an encoder reads
	Logits  []float32          // behind the last token, every sixteenth
	Greedy  []int32
	Grads   map[string][]float32 // by name in memory: root of the sum of squares, first two elements
	Lora    struct {
		Modules []string // with an adapter of rank 2 and alpha 4
		Logits  []float32
		Grads   [][]float32 // of each module's A, then its B: root of the sum of squares, first two elements
	}
}

// ClassIDs are the tokens of each, of a model with an encoder those of its decoder.
var ClassIDs = []int32{1, 40, 3, 3, 100, 17, 99, 5, 60, 61, 62}

// Classes reads classes.json.
func Classes(path string) (out map[string]*Class, err error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, err
}

// Stored are the tensors of its folder, beside which Config lies.
func (f *Class) Stored() (tensors []formats.NamedTensor) {
	for name, shape := range f.Tensors {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		tensors = append(tensors, formats.NamedTensor{Name: name, DType: "F32", Shape: shape, Data: kernels.Bytes(f.Value(name, n))})
	}
	return tensors
}

// Value is element after element of a tensor of the class: FromName, but queries of T5 are
// small, as in its own first values, since nothing divides its scores.
func (*Class) Value(name string, n int64) []float32 {
	v := FromName(name, n)
	if strings.HasSuffix(name, "Attention.q.weight") {
		for i := range v {
			v[i] /= 4
		}
	}
	return v
}

// FromName is element after element of a tensor as testdata/variants.py of package arch
// makes it of its name.
func FromName(name string, n int64) []float32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	shift := 0.0
	if strings.Contains(name, "norm") && strings.HasSuffix(name, ".weight") {
		shift = 1
	}
	v := make([]float32, n)
	for i := range v {
		x := uint32(i)*0x9E3779B9 + h.Sum32()
		x = (x ^ x>>16) * 0x85EBCA6B
		x = (x ^ x>>13) * 0xC2B2AE35
		x ^= x >> 16
		v[i] = float32(float64(0.9*(float64(x)/(1<<32)-0.5)) + shift)
	}
	return v
}
