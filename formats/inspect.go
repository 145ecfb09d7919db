package formats

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
)

// Report is what `tune inspect` prints; it marshals to JSON.
type Report struct {
	Path     string          `json:"path"`
	Format   string          `json:"format"`
	Bytes    int64           `json:"bytes"` // of the files with tensors
	Metadata map[string]any  `json:"metadata,omitempty"`
	Config   json.RawMessage `json:"config,omitempty"`
	Tensors  []TensorReport  `json:"tensors"`
	Warnings []string        `json:"warnings,omitempty"`

	Parameters int64        `json:"parameters"`      // values of the tensors, as they are decoded
	Bits       float64      `json:"bits_per_weight"` // of all of them, scales included
	Types      []TypeReport `json:"types"`           // the largest share first
}

// TypeReport is what a Report has of one type.
type TypeReport struct {
	DType   string `json:"dtype"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"bytes"`
}

// sum fills in what the tensors are together.
func (r *Report) sum(tensors []Tensor) {
	at := map[string]int{}
	var stored int64
	for i := range tensors {
		t := &tensors[i]
		name := r.Tensors[i].DType
		j, ok := at[name]
		if !ok {
			j = len(r.Types)
			at[name], r.Types = j, append(r.Types, TypeReport{DType: name})
		}
		r.Types[j].Tensors++
		r.Types[j].Bytes += t.Stored()
		if t.Unsupported == "" {
			stored += t.Stored()
			r.Parameters += t.Elements()
		}
	}
	if r.Parameters > 0 {
		r.Bits = 8 * float64(stored) / float64(r.Parameters)
	}
	slices.SortStableFunc(r.Types, func(a, b TypeReport) int { return cmp.Compare(b.Bytes, a.Bytes) })
}

// TensorReport is one tensor of a Report. SHA256 is over the stored bytes of
// its parts, one after another, present when asked for.
type TensorReport struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Bytes  int64   `json:"bytes"`
	SHA256 string  `json:"sha256,omitempty"`
}

// ArrayReport stands for a long array of metadata in a Report.
type ArrayReport struct {
	Array  string `json:"array"` // its element type
	Length int    `json:"length"`
}

// Inspect describes an artifact from its headers; with hash it also reads every
// tensor.
func Inspect(path string, hash bool) (Report, error) {
	a, err := open(path)
	if err != nil {
		return Report{}, err
	}
	defer a.Close()
	r := Report{Path: path, Format: a.format, Config: a.config, Warnings: a.warnings, Tensors: make([]TensorReport, len(a.tensors))}
	for _, s := range a.sources {
		r.Bytes += s.size
	}
	if len(a.kv) > 0 {
		r.Metadata = map[string]any{}
	}
	for _, e := range a.kv {
		r.Metadata[e.Key] = shortened(e.Value)
	}
	errs := make([]error, len(a.tensors))
	one := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			r.Tensors[i], errs[i] = describe(&a.tensors[i], hash)
		}
	}
	if hash {
		par.For(len(a.tensors), 1, one)
	} else {
		one(0, len(a.tensors))
	}
	r.sum(a.tensors)
	return r, errors.Join(errs...)
}

// shortened replaces arrays of more than 16 elements.
func shortened(v any) any {
	if x := reflect.ValueOf(v); x.Kind() == reflect.Slice && (x.Len() > 16 || x.Type().Elem().Kind() == reflect.Uint8) {
		return ArrayReport{x.Type().Elem().String(), x.Len()}
	}
	return v
}

func describe(t *Tensor, withHash bool) (TensorReport, error) {
	r := TensorReport{Name: t.Name, DType: storedType(t), Shape: t.Shape, Bytes: t.Stored()}
	if r.Shape == nil {
		r.Shape = []int64{}
	}
	if !withHash {
		return r, nil
	}
	h := sha256.New()
	for _, p := range t.Parts {
		if err := p.hash(h); err != nil {
			return r, err
		}
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return r, nil
}

// storedType is how a report calls a tensor's type. Weights that are decoded on
// reading are called by what is stored.
func storedType(t *Tensor) string {
	switch {
	case t.Unsupported != "":
		return t.Unsupported
	case strings.HasSuffix(t.Parts[0].Name, exl2Weight):
		return "EXL2"
	case t.load != nil && !t.Type.Quantized():
		return t.Parts[0].DType + " scaled"
	}
	return t.Type.String()
}

func (p *Part) hash(h hash.Hash) error {
	if p.stride != nil {
		b, err := p.read()
		h.Write(b)
		return err
	}
	if err := p.src.absent(); err != nil {
		return err
	}
	n, err := io.Copy(h, io.NewSectionReader(p.src.r, p.Off, p.Len))
	if err == nil && n != p.Len {
		err = corrupt(p.src.path, "it became shorter while it was read")
	}
	var done *fail.Error
	if err != nil && !errors.As(err, &done) {
		err = fail.Inputf(p.src.path, "", "reading %d bytes at %d: %w", p.Len, p.Off, err)
	}
	return err
}
