package gguf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Imatrix is an importance matrix: for each weight the sums of the squares of
// its input columns over a calibration text.
type Imatrix struct {
	File      string         // base name of the file it came from
	Datasets  []string       // names of the calibration texts
	Chunks    int            // passes over a context
	ChunkSize int            // tokens in one; 0 when the file does not say
	Entries   []ImatrixEntry // by name

	legacy bool // counts are of passes
}

// ImatrixEntry is one weight's share. A matrix of several experts has one count
// for each.
type ImatrixEntry struct {
	Name   string    // GGUF name of the weight
	Sums   []float32 // [experts·cols]
	Counts []float32 // [experts] rows that were summed; in the old format one for all
}

// Values is the mean square of each column, [experts·cols]. An expert that saw
// nothing has ones.
func (e *ImatrixEntry) Values() []float32 {
	out := make([]float32, len(e.Sums))
	if len(e.Counts) == 0 {
		return out
	}
	n := len(e.Sums) / len(e.Counts)
	for i, s := range e.Sums {
		switch c := e.Counts[i/n]; {
		case c > 0:
			out[i] = s / c
		default:
			out[i] = 1
		}
	}
	return out
}

// Check sorts the entries by name and refuses values that cannot weigh anything.
func (m *Imatrix) Check() error {
	slices.SortFunc(m.Entries, func(a, b ImatrixEntry) int { return cmp.Compare(a.Name, b.Name) })
	for i, e := range m.Entries {
		if i > 0 && m.Entries[i-1].Name == e.Name {
			return fmt.Errorf("%s occurs twice", e.Name)
		}
		if len(e.Counts) == 0 || len(e.Sums)%len(e.Counts) != 0 {
			return fmt.Errorf("%s: %d sums for %d counts", e.Name, len(e.Sums), len(e.Counts))
		}
		for j, v := range e.Sums {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("%s: value %d is %v", e.Name, j, v)
			}
		}
		for j, v := range e.Counts {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("%s: count %d is %v", e.Name, j, v)
			}
		}
	}
	return nil
}

// ReadImatrix reads llama-imatrix's files, the GGUF format and the older .dat,
// told apart by content.
func ReadImatrix(path string) (*Imatrix, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fail.Inputf(path, "an importance matrix is made by quant imatrix or llama-imatrix", "%w", err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, _ := f.ReadAt(magic, 0)
	var m *Imatrix
	if bytes.Equal(magic[:n], []byte("GGUF")) {
		m, err = readImatrixGGUF(path)
	} else {
		m, err = readImatrixDat(path)
	}
	if err == nil {
		m.File = filepath.Base(path)
		err = m.Check()
	}
	if err != nil {
		return nil, fail.Inputf(path, "an importance matrix is made by quant imatrix or llama-imatrix", "importance matrix: %w", fmt.Errorf("%w: %w", formats.ErrCorrupt, err))
	}
	return m, nil
}

func readImatrixGGUF(path string) (*Imatrix, error) {
	r, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m := &Imatrix{}
	for _, kv := range r.KV() {
		switch kv.Key {
		case "imatrix.datasets":
			m.Datasets, _ = kv.Value.([]string)
		case "imatrix.chunk_count":
			m.Chunks = intOf(kv.Value)
		case "imatrix.chunk_size":
			m.ChunkSize = intOf(kv.Value)
		}
	}
	at := map[string]int{}
	tensors := r.Tensors()
	for i := range tensors {
		t := &tensors[i]
		name, sums := strings.CutSuffix(t.Name, ".in_sum2")
		if !sums {
			var ok bool
			if name, ok = strings.CutSuffix(t.Name, ".counts"); !ok {
				continue
			}
		}
		if t.Type != dtype.Of(dtype.F32) || t.Unsupported != "" {
			return nil, fmt.Errorf("%s is %v, expected F32", t.Name, t.Type)
		}
		raw, err := r.Read(t)
		if err != nil {
			return nil, err
		}
		k, ok := at[name]
		if !ok {
			k = len(m.Entries)
			at[name] = k
			m.Entries = append(m.Entries, ImatrixEntry{Name: name})
		}
		v := make([]float32, len(raw)/4)
		block.GetF32(v, raw)
		if sums {
			m.Entries[k].Sums = v
		} else {
			m.Entries[k].Counts = v
		}
	}
	if len(m.Entries) == 0 {
		return nil, fmt.Errorf("no tensor is named *.in_sum2")
	}
	return m, nil
}

// intOf reads any integer of GGUF metadata, 0 for anything else.
func intOf(v any) int {
	switch n := v.(type) {
	case uint8:
		return int(n)
	case int8:
		return int(n)
	case uint16:
		return int(n)
	case int16:
		return int(n)
	case uint32:
		return int(n)
	case int32:
		return int(n)
	case uint64:
		return int(n)
	case int64:
		return int(n)
	case []uint32:
		return first(n)
	case []int32:
		return first(n)
	case []uint64:
		return first(n)
	case []int64:
		return first(n)
	}
	return 0
}

func first[T ~int32 | ~int64 | ~uint32 | ~uint64](v []T) int {
	if len(v) == 0 {
		return 0
	}
	return int(v[0])
}

func readImatrixDat(path string) (*Imatrix, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := parseImatrixDat(b)
	if err == nil {
		m.legacy = true
	}
	return m, err
}

// parseImatrixDat reads llama.cpp's older format: int32 entries; of each the
// name (int32 length), int32 calls, int32 values, float32 sums; then int32
// chunks and the name of the text (int32 length), which old files lack.
func parseImatrixDat(b []byte) (*Imatrix, error) {
	d := datReader{b: b}
	n := d.count("number of entries", 12)
	m := &Imatrix{}
	for i := 0; i < n && d.err == nil; i++ {
		name := string(d.bytes(d.count("length of a name", 1)))
		calls := d.int()
		sums := make([]float32, d.count("number of values of "+name, 4))
		block.GetF32(sums, d.bytes(4*len(sums)))
		if calls <= 0 { // as they are
			calls = 1
		}
		m.Entries = append(m.Entries, ImatrixEntry{name, sums, []float32{float32(calls)}})
	}
	if d.err == nil && len(d.b) > 0 {
		m.Chunks = max(d.int(), 0)
		m.Datasets = []string{string(d.bytes(d.count("length of the text's name", 1)))}
	}
	if d.err == nil && n == 0 {
		d.err = fmt.Errorf("no entries")
	}
	return m, d.err
}

type datReader struct {
	b   []byte
	err error
}

func (d *datReader) bytes(n int) []byte {
	if d.err != nil {
		return make([]byte, n)
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *datReader) int() int {
	if len(d.b) < 4 && d.err == nil {
		d.err = fmt.Errorf("the file ends too early")
	}
	if d.err != nil {
		return 0
	}
	return int(int32(binary.LittleEndian.Uint32(d.bytes(4))))
}

// count reads a count of things of at least size bytes each and checks that the
// file can hold them.
func (d *datReader) count(what string, size int) int {
	n := d.int()
	if d.err == nil && (n < 0 || n > len(d.b)/size) {
		d.err = fmt.Errorf("%s is %d with %d bytes left", what, n, len(d.b))
	}
	if d.err != nil {
		return 0
	}
	return n
}

// WriteImatrix writes m in llama.cpp's GGUF format, entries by name, or in its older one where the path ends in .dat.
func WriteImatrix(path string, m *Imatrix) error {
	if err := m.Check(); err != nil {
		return err
	}
	if isDat(path) {
		return writeImatrixDat(path, m)
	}
	if m.legacy {
		var err error
		if m, err = MergeImatrix([]*Imatrix{m}); err != nil {
			return err
		}
	}
	kv := []formats.KV{
		{Key: "general.type", Value: "imatrix"},
		{Key: "imatrix.datasets", Value: m.Datasets},
		{Key: "imatrix.chunk_count", Value: uint32(m.Chunks)},
		{Key: "imatrix.chunk_size", Value: uint32(m.ChunkSize)},
	}
	var plan []formats.TensorPlan
	data := map[string][]float32{}
	for _, e := range m.Entries {
		n := int64(len(e.Counts))
		plan = append(plan,
			formats.TensorPlan{Name: e.Name + ".in_sum2", Shape: matShape(n, int64(len(e.Sums))/n)},
			formats.TensorPlan{Name: e.Name + ".counts", Shape: matShape(n, 1)})
		data[e.Name+".in_sum2"], data[e.Name+".counts"] = e.Sums, e.Counts
	}
	w, err := formats.CreateGGUF(path, kv, plan)
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, p := range plan {
		b := make([]byte, 4*len(data[p.Name]))
		block.PutF32(b, data[p.Name])
		if err := w.Write(p.Name, b); err != nil {
			return err
		}
	}
	return w.Commit()
}

// matShape leaves out a first dimension of one, as ggml writes it.
func matShape(n, cols int64) []int64 {
	if n == 1 {
		return []int64{cols}
	}
	return []int64{n, cols}
}
